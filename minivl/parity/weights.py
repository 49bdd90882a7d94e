"""How one tensor differs from another, where that has a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from ..quant import round_rows, widened

KINDS = ("bfloat16", "float16", "int8")


def rounded(x: Any, kind: str) -> Any:
    """The numbers of x in a narrower kind, as float64: bfloat16, float16, or bytes with a scale for each row."""
    x = np.asarray(x)
    if kind == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float64)
    if kind == "bfloat16":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
        bits += 0x7FFF + ((bits >> 16) & 1)  # to the nearest, ties to even
        return widened((bits >> 16).astype(np.uint16)).astype(np.float64)
    rows, scale = round_rows(np.asarray(x, np.float32).reshape(-1, x.shape[-1]))
    return (rows * (scale[:, None] / np.float64(127))).reshape(x.shape)


def changes(
    mine: np.ndarray, theirs: np.ndarray, name: str, path: str, heads: int, known: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What was done to `mine` to make `theirs`, in words, or a plain "differs"; only the first word that fits.

    name   "w", "b" or a table's   known   other tensors that may stand in its place, by their paths
    """
    what = {"w": "weight", "b": "bias"}.get(name, name)
    if mine.shape != theirs.shape:
        yield f"{what} has another shape"
        return
    yield next(_words(mine, theirs, what, path, heads, known), f"{what} differs{_share(mine, theirs)}")


def _words(mine, theirs, what, path, heads, known) -> Iterator[str]:
    norm = path.endswith("ln")
    if not theirs.any():
        yield "bias missing" if what == "bias" else f"{what} of the norm missing" if norm else f"{what} is all zero"
    if norm and what == "weight" and (theirs == 1).all():
        yield "weight of the norm missing"
    for kind in KINDS:
        if np.array_equal(rounded(mine, kind).astype(np.float32), theirs.astype(np.float32)):
            yield f"dtype: {what} rounded to {kind}"
        if np.array_equal(rounded(theirs, kind).astype(np.float32), mine.astype(np.float32)):
            yield f"dtype: {what} not rounded to {kind}"
    leaf = path.rpartition(".")[2]
    if leaf == "qkv":
        parts = mine.reshape(3, -1, *mine.shape[1:])
        for order in list(permutations(range(3)))[1:]:
            if np.array_equal(parts[list(order)].reshape(mine.shape), theirs):
                yield f"q/k/v order: {''.join('qkv'[i] for i in order)}"
        for i, part in enumerate("qkv"):
            if what == "bias" and np.array_equal(without_part(mine, i), theirs):
                yield f"bias of {part} missing"
    if mine.ndim == 2 and mine.shape[0] == mine.shape[1] and np.array_equal(mine.T, theirs):
        yield f"{what} transposed"
    for other, tensor in known.items():
        if np.array_equal(tensor, theirs):
            yield in_place(path, other)
    if heads and _heads_moved(mine, theirs, leaf, heads):
        yield "heads split in another order"
    yield from _numbers(mine, theirs, what)


def _numbers(mine, theirs, what) -> Iterator[str]:
    """A factor, single numbers, rows, an order."""
    wrong = mine != theirs
    if wrong.sum() == 1:
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        yield f"element {list(at)} of the {what}: {theirs[at]:.4g} for {mine[at]:.4g}"
    size = float(np.vdot(mine, mine))
    factor = float(np.vdot(mine, theirs)) / size if size else 1.0
    if mine.size > 1 and np.allclose(mine * factor, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max()):
        yield f"{what} scaled by {factor:.4g}"
    if mine.ndim == 1 and np.array_equal(np.sort(mine), np.sort(theirs)):
        yield f"{what} permuted"
    if mine.ndim == 2:
        by_rows, by_columns = (np.array_equal(_sorted(m), _sorted(t)) for m, t in ((mine, theirs), (mine.T, theirs.T)))
        if by_rows:
            yield f"rows of the {what} permuted"
        if by_columns:
            yield f"columns of the {what} permuted"
        rows, columns = np.flatnonzero(wrong.any(1)), np.flatnonzero(wrong.any(0))
        for name, lines in (("rows", rows), ("columns", columns)):
            if len(lines) <= max(1, mine.shape[name == "columns"] // 4):
                shown = ", ".join(map(str, lines[:4])) + (", ..." if len(lines) > 4 else "")
                yield f"{name} {shown} of the {what} differ"
    if (difference := theirs - mine).size > 1 and np.ptp(difference) <= 1e-6 * np.abs(difference).max():
        yield f"{difference.flat[0]:.4g} added to the {what}"


def in_place(path: str, other: str) -> str:
    """The words for a tensor that stands in another's place."""
    stack, _, leaf = path.rpartition(".")
    other_stack, _, other_leaf = other.rpartition(".")
    if stack == other_stack and {leaf, other_leaf} <= {"q", "k", "v"}:
        return f"q/k/v order: {other_leaf} in the place of {leaf}"
    return f"weights of {other} in its place"


def _sorted(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.lexsort(matrix.T[::-1])]


def without_part(bias: np.ndarray, part: int) -> np.ndarray:
    """A bias of q, k and v with one of them zero."""
    found = bias.reshape(3, -1).copy()
    found[part] = 0
    return found.reshape(-1)


def head_orders(leaf: str, n: int, heads: int) -> Iterator[np.ndarray]:
    """Rows in the orders in which other programs keep heads: (head, part, ...), or the heads innermost."""
    places = np.arange(n)
    if not heads or n % heads:
        return
    if leaf == "qkv":
        if n % (3 * heads) == 0:
            yield places.reshape(3, heads, -1).swapaxes(0, 1).ravel()
            yield places.reshape(heads, 3, -1).swapaxes(0, 1).ravel()
            yield places.reshape(3, heads, -1).swapaxes(1, 2).ravel()
            yield places.reshape(3, -1, heads).swapaxes(1, 2).ravel()
    elif leaf in ("q", "k", "v", "out"):
        yield places.reshape(heads, -1).T.ravel()
        yield places.reshape(-1, heads).T.ravel()


def _heads_moved(mine, theirs, leaf, heads) -> bool:
    if leaf == "out":
        if mine.ndim < 2:
            return False
        mine, theirs = mine.T, theirs.T
    return any(np.array_equal(mine[rows], theirs) for rows in head_orders(leaf, len(mine), heads))


def _share(mine, theirs) -> str:
    size = np.linalg.norm(mine)
    return f" (by {np.linalg.norm(theirs - mine) / size:.2g} of its size)" if size else ""
