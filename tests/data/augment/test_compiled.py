"""The static form under torch.compile: one graph, and few loops.

V: views; B: images; C: channels; S: side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from tcl_train.cli.choices import config_dir
from tcl_train.data.augment import Augment, pipeline
from tcl_train.data.augment.block import Block
from tcl_train.data.augment.pipeline import COMPILE_OPTIONS
from tcl_train.data.normalize import Normalize
from tcl_train.data.views import ViewGroup, ViewPlan


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def static_step(preset: str) -> tuple[Callable[[Tensor, list[Block]], Tensor], Tensor, list[Block]]:
    """Making two views of 16 images, the images, and their blocks."""
    config = OmegaConf.load(config_dir() / "augment" / f"{preset}.yaml")
    normalize = Normalize(size=32, mean=(0.45, 0.5, 0.4), std=(0.2, 0.25, 0.3))
    augment = Augment({name: instantiate(node) for name, node in config.items()}, normalize)
    g = torch.Generator().manual_seed(0)
    x_BCSS = torch.randint(256, (16, 3, 32, 32), generator=g, dtype=torch.uint8)
    blocks = augment.blocks(augment.draw(16, 32, 32, views=2, generator=g), 16, 32, 32, views=2)
    normalize.constants(x_BCSS.device)
    return lambda x, blocks: augment.apply_static(x, blocks, views=2), x_BCSS, blocks


@pytest.mark.parametrize("preset", ["simaug", "randaugment"])
def test_nothing_breaks_the_graph(preset: str) -> None:
    step, x_BCSS, blocks = static_step(preset)
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x_BCSS, blocks), step(x_BCSS, blocks), rtol=0, atol=1e-5)


MOST_KERNELS = {"simaug": 12, "autoaugment": 12, "randaugment": 12}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("preset", MOST_KERNELS)
def test_a_compiler_makes_few_kernels(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's own count on the CPU, where loops that it tries to put into one and then writes
    apart are counted twice. The kernels are generated and not built."""
    from torch._inductor import async_compile, config, metrics

    def nothing(*_: Any, **__: Any) -> Callable[..., None]:
        return lambda *_: None

    monkeypatch.setattr(async_compile.AsyncCompile, "cpp_pybinding", nothing)
    metrics.reset()
    step, x_BCSS, blocks = static_step(preset)
    with config.patch(fx_graph_cache=False):
        torch.compile(step, fullgraph=True, options=COMPILE_OPTIONS)(x_BCSS, blocks)
    assert 0 < metrics.generated_kernel_count <= MOST_KERNELS[preset]


def test_a_run_compiles_each_size_of_views_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    monkeypatch.setattr(pipeline, "GROUPED_ON", ())
    counter = CompileCounter()
    normalize = Normalize(size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    config = OmegaConf.load(config_dir() / "augment" / "crop_flip.yaml")
    augment = Augment({name: instantiate(node) for name, node in config.items()}, normalize)
    group = ViewGroup(augment=augment, count=2, size=lambda epoch: (12, 16)[epoch])

    def compiled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(make, backend=counter, fullgraph=True, dynamic=False)

    x_BCHW = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    found = []
    for plan in (ViewPlan([group], seed=1, compiled=compiled), ViewPlan([group], seed=1)):
        for epoch, step in ((0, 0), (0, 1), (1, 2), (1, 3)):
            given = {"batch_size": 8, "epoch": epoch, "step": step}
            found.append(plan.draw([x_BCHW], torch.arange(8), **given).of(slice(0, 8))[0])
    assert counter.frame_count == 2
    for mine, plain in zip(found[:4], found[4:], strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)
