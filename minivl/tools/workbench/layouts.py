"""Tensors that lie awkwardly in memory, with NaN all around them.

    x = lay(numbers, "padded")          # equals numbers; the gaps between its rows are full of NaN

A kernel that takes the wrong stride, or goes a step too far, then computes with NaN or with the wrong number, and
never with something that happens to be right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

LAYOUTS = {
    "plain": "contiguous",
    "padded": "every row longer than it looks",
    "heads": "the last axis but one outermost in memory, as heads of a linear layer's result lie",
    "strided": "every second number of a row",
    "transposed": "the last two axes swapped in memory",
    "offset": "from the middle of a larger array",
    "expanded": "one array seen several times along the first axis, with a stride of 0",
}


def lay(numbers: torch.Tensor, layout: str, pad: int = 3) -> torch.Tensor:
    """A tensor equal to `numbers` (for "expanded": to its first part, repeated) that lies as LAYOUTS says."""
    shape = tuple(numbers.shape)
    if not shape or layout == "plain" or len(shape) < 2 and layout in ("heads", "transposed", "expanded"):
        return numbers.clone(memory_format=torch.contiguous_format)
    if layout == "expanded":
        return numbers[:1].clone().expand(shape)
    home = _home(shape, numbers.dtype, layout, pad)
    home.copy_(numbers)
    return home


def _home(shape: tuple[int, ...], dtype: torch.dtype, layout: str, pad: int) -> torch.Tensor:
    *outer, width = shape
    if layout == "heads":
        stored = _nothing((outer[-1], *outer[:-1], width + pad), dtype)
        return torch.movedim(stored, 0, -2)[..., :width]
    if layout == "strided":
        return _nothing((*outer, 2 * width), dtype)[..., ::2]
    if layout == "transposed":
        return _nothing((*outer[:-1], width, outer[-1]), dtype).transpose(-1, -2)
    if layout == "offset":
        return _nothing((*outer, width + 2 * pad), dtype)[..., pad : pad + width]
    return _nothing((*outer, width + pad), dtype)[..., :width]


def _nothing(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Full of what ruins a result: NaN, the smallest integer, True."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype)
    return torch.full(shape, True if dtype == torch.bool else torch.iinfo(dtype).min, dtype=dtype)


def everything(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the bytes of all the memory that a tensor is a part of."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).clone()


@contextlib.contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """What torch.empty and np.empty hand out is full of NaN (integers: an extreme one), so what nobody wrote is seen.

    Without this, fresh memory often still holds the right answer of the call before.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with patch.object(np, "empty", _filled(np.empty)), patch.object(np, "empty_like", _filled(np.empty_like)):
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _filled(make: Any) -> Any:
    def empty(*args: Any, **named: Any) -> Any:
        array = make(*args, **named)
        if array.dtype.kind == "f":
            array.fill(np.nan)
        return array

    return empty
