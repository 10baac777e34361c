"""`tcl-export`: write the encoder of a run for use elsewhere.

N: images; S: side of an image.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train import __version__
from tcl_train.errors import RequestError, TrainingError
from tcl_train.models.elsewhere import lines_to_load
from tcl_train.models.encoder import Encoder
from tcl_train.restore import load_encoder
from tcl_train.run.directory import RunDir
from tcl_train.runtime.files import check_output, make_folder, write_atomically, write_json

log = logging.getLogger(__name__)

ENDINGS = {
    "torchvision": "-torchvision.pth",
    "timm": "-timm.pth",
    "safetensors": ".safetensors",
    "torchscript": "-torchscript.pt",
    "onnx": ".onnx",
}
METADATA = "tcl_train"  # the name in a file's metadata of what FILE.json holds
TOLERANCE = 1e-4  # of outputs, as a share of the largest: the order of sums may differ
TRACED, TRIED = 2, 3  # images; the number must not become a part of what is written

About = dict[str, Any]


def export(
    run: str | Path,
    format: str,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust: Sequence[str] = (),
) -> Path:
    """Writes the encoder in one of the formats, and FILE.json beside it; gives the file.

    Raises:
        RequestError: there is no run, the format does not suit its encoder, a file is there
            already, or a library is not installed.
        TrainingError: what was written computes something else.
    """
    run_dir = RunDir(run)
    encoder = load_encoder(run, trust=trust)
    path = Path(out or run_dir.path / "exports" / f"encoder{ENDINGS[format]}").expanduser()
    about = describe(encoder, run_dir.read_config(trust), format, path.name)
    if out is None:
        make_folder("run", path.parent)
    beside = Path(f"{path}.json")
    check_output("out", path, beside, overwrite=overwrite)
    with quiet():
        write_atomically(path, lambda temporary: WRITERS[format](temporary, encoder, about))
    write_json(beside, about)
    log.info(
        "the encoder of %s (images of %d x %d, %d features) is in %s; how to load it stands in %s",
        run_dir,
        encoder.image_size,
        encoder.image_size,
        encoder.feature_dim,
        path,
        beside,
    )
    return path


def describe(encoder: Encoder, config: DictConfig, format: str, name: str) -> About:
    """What one needs to know to use the file of this name. Mean and standard deviation have three
    values, of grey images three times the same.

    Raises:
        RequestError: the format has no place for this encoder.
    """
    architecture = getattr(encoder, "architecture", None)
    try:
        lines = lines_to_load(format, architecture, name, ours=_made_by_us(config, encoder))
    except ValueError as error:
        raise RequestError(f"format={format}: {error}") from error
    mean, std = ([*v] * 3 if len(v) == 1 else [*v] for v in (encoder.mean, encoder.std))
    return {
        "load": lines,
        "library": None if architecture is None else architecture.package,
        "architecture": config.names.encoder if architecture is None else architecture.name,
        "stem": None if architecture is None else architecture.stem,
        "input": "(N, 3, S, S), float32, RGB: values from 0 to 1, minus mean, divided by std",
        "image_size": encoder.image_size,
        "mean": mean,
        "std": std,
        "output": "(N, feature_dim), float32",
        "feature_dim": encoder.feature_dim,
        "classes": list(encoder.classes),
        "dataset": config.names.dataset,
        "format": format,
        "tcl_train_version": __version__,
    }


def _made_by_us(config: DictConfig, encoder: Encoder) -> list[str]:
    module, _, function = config.encoder._target_.rpartition(".")
    node: Any = OmegaConf.to_container(config.encoder)
    given = {key: value for key, value in node.items() if key not in ("_target_", "weights")}
    further = "".join(f", {key}={value!r}" for key, value in given.items())
    return [
        f"from {module} import {function}",
        f"model = {function}({encoder.image_size}{further})",
    ]


# ------------------------------------------------------------------ the formats


def _write_state(path: Path, encoder: Encoder, about: About) -> None:  # noqa: ARG001
    torch.save(encoder.state_dict(), path)


def _write_safetensors(path: Path, encoder: Encoder, about: About) -> None:
    try:
        from safetensors.torch import save
    except ImportError:
        raise _not_installed("safetensors") from None
    state = {key: x.contiguous() for key, x in encoder.state_dict().items()}
    path.write_bytes(save(state, metadata={METADATA: json.dumps(about)}))


def _write_torchscript(path: Path, encoder: Encoder, about: About) -> None:
    try:
        traced = torch.jit.trace(encoder, images(encoder, TRACED))
    except Exception as error:  # of the tracer, many kinds
        raise _cannot("torchscript", error) from error
    torch.jit.save(traced, path, _extra_files={f"{METADATA}.json": json.dumps(about)})
    _check_same(encoder, torch.jit.load(path), "torchscript")


def _write_onnx(path: Path, encoder: Encoder, about: About) -> None:
    try:
        import onnx  # noqa: F401 - the exporter needs both
        import onnxscript  # noqa: F401
    except ImportError:
        raise _not_installed("onnx") from None
    try:
        program = torch.onnx.export(
            encoder,
            (images(encoder, TRACED),),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(about)
        program.save(path, external_data=False)
    except OSError:
        raise
    except Exception as error:  # of the exporter, many kinds
        raise _cannot("onnx", error) from error
    try:
        import onnxruntime
    except ImportError:
        log.info("not compared with the encoder, since onnxruntime is not installed")
        return
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(x_N3SS: torch.Tensor) -> torch.Tensor:
        (features_ND,) = session.run(None, {"images": x_N3SS.numpy()})
        return torch.from_numpy(np.asarray(features_ND))

    _check_same(encoder, run, "onnx")


WRITERS: dict[str, Callable[[Path, Encoder, About], None]] = {
    "torchvision": _write_state,
    "timm": _write_state,
    "safetensors": _write_safetensors,
    "torchscript": _write_torchscript,
    "onnx": _write_onnx,
}


def images(encoder: Encoder, count: int) -> torch.Tensor:
    """Random ones, as the encoder takes them."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, encoder.image_size, encoder.image_size, generator=g)


@torch.no_grad()
def _check_same(
    encoder: Encoder, written: Callable[[torch.Tensor], torch.Tensor], format: str
) -> None:
    x_N3SS = images(encoder, TRIED)
    features_ND = encoder(x_N3SS)
    off = (written(x_N3SS) - features_ND).abs().max() / features_ND.abs().max()
    if not off <= TOLERANCE:
        raise TrainingError(
            f"format={format}: what was exported computes other features than the encoder (off by "
            f"{off:.2g} of the largest); nothing was written, give another format"
        )


def _not_installed(name: str) -> RequestError:
    return RequestError(f"format={name}: {name} is not installed; pip install 'tcl-train[export]'")


def _cannot(format: str, error: Exception) -> RequestError:
    first = (str(error).splitlines() or [""])[0]
    return RequestError(
        f"format={format}: this encoder cannot be written so ({type(error).__name__}: {first}); "
        "give another format"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters print, log and warn of."""
    nowhere = io.StringIO()
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
