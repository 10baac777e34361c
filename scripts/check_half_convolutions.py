"""Which convolutions does this CPU compute wrongly in bfloat16? Compares outputs and gradients with
float32 for many small shapes, after filling freed memory with large numbers.

    python scripts/check_half_convolutions.py

Prints a line for each kind of shape that is off by more than 5 %, then how many shapes were tried.
With ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 it looks at the kernels without AMX.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# kernel, stride, padding
KERNELS = [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (7, 2, 3), (2, 2, 0), (4, 4, 0)]
KERNELS += [(5, 1, 2)]
SIDES = (1, 2, 3, 4, 5, 8)
TOLERANCE = 0.05


def leave_rubbish(numbers: int) -> None:
    """Freed memory that the next tensors may get."""
    rubbish = [torch.full((numbers,), 1e30) for _ in range(3)]
    del rubbish


def results(x: Tensor, w: Tensor, dy: Tensor, stride: int, padding: int) -> dict[str, Any]:
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = F.conv2d(x, w, stride=stride, padding=padding)
    y.backward(dy)
    return {"output": y.detach(), "gradient by filters": w.grad, "gradient by input": x.grad}


def main() -> None:
    torch.manual_seed(0)
    wrong: Counter[str] = Counter()
    tried = 0
    shapes = itertools.product(KERNELS, SIDES, SIDES, (3, 64, 256), (64, 256), (2, 32))
    for (kernel, stride, padding), height, width, channels, filters, images in shapes:
        if min(height, width) + 2 * padding < kernel:
            continue
        tried += 1
        leave_rubbish(filters * channels * kernel * kernel)
        leave_rubbish(images * filters * height * width)
        x, w = (
            torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)
            for shape in ((images, channels, height, width), (filters, channels, kernel, kernel))
        )
        out = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
        dy = torch.randn(images, filters, *out).bfloat16()
        exact = results(x.float(), w.float(), dy.float(), stride, padding)
        for name, value in results(x, w, dy, stride, padding).items():
            error = (value.float() - exact[name]).abs().max() / exact[name].abs().max()
            if not error < TOLERANCE:
                kind = f"kernel {kernel}, stride {stride}, padding {padding}"
                wrong[f"{name}: {kind}, width {width} -> {out[1]}"] += 1
    for kind, count in sorted(wrong.items()):
        print(f"{kind} ({count} shapes)")
    print(f"{tried} shapes tried, {sum(wrong.values())} results wrong")


if __name__ == "__main__":
    main()
