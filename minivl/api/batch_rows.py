"""Rows of a batch, which never meet on their way through a model: on NumPy the cores can take whole rows each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import cores
from ..ops import Ops
from ..ops.numpy import OPS

LEAST = 1 << 17  # numbers for every core: with fewer, ops are over before the threads have taken turns at Python's lock


def by_rows(ops: Ops, run: Callable[..., Any], *arrays: Any) -> Any:
    """run(*arrays), or where every core can have as many rows as any other: each core with its own rows.

    Ops that share their work have to meet after every one of them, and much of a layer they do not share at all. Only
    the plain NumPy record is treated so: a record that watches what flows would see parts of batches.

    arrays   (B, ...) each, the last one of them the largest
    run      gives arrays (B, ...), in lists and tuples of any depth
    """
    crew, batch = cores.crew(), len(arrays[-1])
    if ops is not OPS or crew == 1 or batch % crew or arrays[-1].size < crew * LEAST:
        return run(*arrays)
    each = batch // crew
    found: list[Any] = [None] * crew

    def one(i: int) -> None:
        found[i] = run(*(array[i * each : (i + 1) * each] for array in arrays))

    cores.share(one, range(crew))
    return joined(found)


def joined(trees: Sequence[Any]) -> Any:
    """Trees of the same form as one, every array's rows one after the other."""
    first = trees[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(trees)
    return type(first)(joined(branches) for branches in zip(*trees, strict=True))
