"""Where the time of a training step goes: `profile=true`."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

SKIPPED, WARM_UP, RECORDED = 5, 2, 5  # steps; the first ones of a run are not like the others
WHOLE_STEP = "ProfilerStep*"
PHASES = ("data", "augment", "encode", "loss", "backward", "optimizer")
OPERATIONS = 12  # in the summary


def profiler(**options: Any) -> torch.profiler.profile:
    """torch's profiler, without its library's own messages on standard error (such as an error
    where there is no GPU), unless the user has asked for them."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if "acc_events" in inspect.signature(torch.profiler.profile).parameters:
        options.setdefault("acc_events", True)  # without it some versions warn of later cycles
    return torch.profiler.profile(**options)


class Profile:
    """Records nothing; the training loop calls it when no profile is wanted."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the training loop."""
        yield

    def step(self) -> None:
        """A step is done."""


class StepProfile(Profile):
    """Records some steady steps: a trace in `folder` for TensorBoard or Perfetto, and a summary in
    the log. If the trace cannot be written, a warning says so and the run continues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._recorded = False
        self._profiler = profiler(
            schedule=torch.profiler.schedule(
                wait=SKIPPED, warmup=WARM_UP, active=RECORDED, repeat=1
            ),
            on_trace_ready=self._keep,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._profiler:
            yield
        if not self._recorded:
            log.warning(
                "no profile: it needs %d steps; give more epochs or a smaller batch_size",
                SKIPPED + WARM_UP + 1,
            )

    def step(self) -> None:
        self._profiler.step()

    def _keep(self, recorded: Any) -> None:
        self._recorded = True
        steps = max(1, recorded.step_num - SKIPPED - WARM_UP)
        log.info("%s", profile_table(recorded.key_averages(), steps))
        path = self.folder / "steps.pt.trace.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            recorded.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            for left in (path, path.with_name(f"{path.name}.tmp")):
                with suppress(OSError):
                    left.unlink()
            log.warning(
                "%s: the profile cannot be written (%s); is the disk full? The run goes on",
                path,
                str(error).splitlines()[0],
            )
        else:
            log.info("profile: %s (ui.perfetto.dev opens it)", path)


def profile_table(events: Any, steps: int) -> str:
    """Milliseconds per step on the CPU and, if there is one, the GPU: first the phases, then the
    operations with the longest self time."""
    on_gpu = any(event.self_device_time_total for event in events)
    lines = [f"{'a step of the profile, ms':<44}{'CPU':>10}{'GPU' if on_gpu else '':>10}"]
    by_name = {event.key: event for event in events}
    for name in (WHOLE_STEP, *PHASES):
        if name in by_name:
            event = by_name[name]
            said = "all of it" if name == WHOLE_STEP else name
            lines.append(_line(said, event.cpu_time_total, event.device_time_total, steps, on_gpu))
    operations = [
        event
        for event in events
        if event.key not in (WHOLE_STEP, *PHASES) and not event.key.startswith("Optimizer.")
    ]
    operations.sort(
        key=lambda e: e.self_device_time_total if on_gpu else e.self_cpu_time_total, reverse=True
    )
    lines.append("the longest operations by themselves")
    for event in operations[:OPERATIONS]:
        name = f"{event.key[:32]} x {event.count // steps}"
        times = event.self_cpu_time_total, event.self_device_time_total
        lines.append(_line(name, *times, steps, on_gpu))
    return "\n".join(lines)


def _line(name: str, cpu_us: float, gpu_us: float, steps: int, on_gpu: bool) -> str:
    gpu = f"{gpu_us / steps / 1000:10.2f}" if on_gpu else ""
    return f"  {name:<42}{cpu_us / steps / 1000:10.2f}{gpu}"
