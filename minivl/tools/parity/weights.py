"""How one tensor differs from another, where that has a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from ...ops.plain import quantise_rows
from ...ops.quantised import widened

NARROW = ("bfloat16", "float16", "int8")


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
    rows, scale = quantise_rows(np.asarray(x, np.float32).reshape(-1, x.shape[-1]))
    return (rows * (scale[:, None] / np.float64(127))).reshape(x.shape)


def how_it_differs(
    mine: np.ndarray,
    theirs: np.ndarray,
    name: str,
    path: str,
    heads: int = 0,
    known: Mapping[str, np.ndarray] | None = None,
) -> str:
    """What was done to `mine` to make `theirs`, in words, or a plain "differs"; the first words that fit.

    name    "w", "b" or a table's
    path    its place in the tree, whose last part tells what its rows are
    known   other tensors that may stand in its place, by their paths
    """
    what = {"w": "weight", "b": "bias"}.get(name, name)
    if mine.shape != theirs.shape:
        return f"{what} has another shape"
    return next(
        _words(mine, theirs, what, path, heads, known or {}),
        f"{what} differs{_share(mine, theirs)}",
    )


def _words(mine, theirs, what, path, heads, known) -> Iterator[str]:
    norm = path.endswith("ln")
    if not theirs.any():
        yield "bias missing" if what == "bias" else f"{what} of the norm missing" if norm else f"{what} is all zero"
    if norm and what == "weight" and (theirs == 1).all():
        yield "weight of the norm missing"
    for kind in NARROW:
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
    """A factor, a number added, single numbers, rows or columns."""
    wrong = mine != theirs
    if wrong.sum() == 1:
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        yield f"element {list(at)} of the {what}: {theirs[at]:.4g} for {mine[at]:.4g}"
    if scaled := _scaled(mine, theirs):
        yield f"{what} {scaled}"
    if mine.ndim == 1:
        yield from _lines(mine, theirs, "elements", what)
    if mine.ndim == 2:
        yield from _lines(mine, theirs, "rows", what)
        yield from _lines(mine.T, theirs.T, "columns", what)
    if _nearly((difference := theirs - mine).mean(), difference, difference) and mine.size > 1:
        yield f"{difference.mean():.4g} added to the {what}"


def _lines(mine, theirs, name, what) -> Iterator[str]:
    """What was done to some of a tensor's rows, or of its columns, or the numbers of a bias."""
    wrong = (mine != theirs).reshape(len(mine), -1).any(1)
    few = wrong.sum() <= max(1, len(mine) // 2)
    these = name.removesuffix("s") if wrong.sum() == 1 else name
    which = f"{these} {_span(np.flatnonzero(wrong))} of the {what}" if few else f"{name} of the {what}"
    for step in (1, -1, 2, -2):
        if len(mine) > 4 and np.array_equal(np.roll(mine, step, 0), theirs):
            yield f"{name} of the {what} permuted: shifted by {step:+d}"
    if np.array_equal(_sorted(mine), _sorted(theirs)):
        yield f"{which} permuted"
    if few and not theirs[wrong].any():
        yield f"{which} zero"
    if few and (scaled := _scaled(mine[wrong], theirs[wrong])):
        yield f"{which} {scaled}"
    if wrong.sum() <= max(1, len(mine) // 4):
        yield f"{which} differ{'s' if wrong.sum() == 1 else ''}"


def _scaled(mine, theirs) -> str:
    """The words for a factor, or "" where it is none."""
    factor = factor_of(mine, theirs)
    return (
        f"scaled by {factor:.4g}" if factor and mine.size > 1 and _nearly(mine * factor, theirs, theirs - mine) else ""
    )


def _nearly(x, y, change) -> bool:
    """Whether all but a hundredth of a change is explained: the rest is rounding, of weights kept in few bits."""
    return bool(np.linalg.norm(x - y) <= 0.01 * np.linalg.norm(change))


def _span(lines) -> str:
    """ "5, 77", "64 to 95", "1, 2, 4, 8, ..." """
    if len(lines) > 2 and lines[-1] - lines[0] == len(lines) - 1:
        return f"{lines[0]} to {lines[-1]}"
    return ", ".join(map(str, lines[:4])) + (", ..." if len(lines) > 4 else "")


def factor_of(x: Any, y: Any) -> float | None:
    """The number that times x comes nearest to y, unless that is 1."""
    size = float(np.vdot(x, x))
    factor = float(np.vdot(x, y)) / size if size else 1.0
    return None if abs(factor - 1) < 1e-9 else factor


def in_place(path: str, other: str) -> str:
    """The words for a tensor that stands in another's place."""
    stack, _, leaf = path.rpartition(".")
    other_stack, _, other_leaf = other.rpartition(".")
    if stack == other_stack and {leaf, other_leaf} <= {"q", "k", "v"}:
        return f"q/k/v order: {other_leaf} in the place of {leaf}"
    return f"weights of {other} in its place"


def _sorted(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.lexsort(matrix.reshape(len(matrix), -1).T[::-1])]


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
