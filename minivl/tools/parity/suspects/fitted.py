"""Changes whose size is read off the difference: a factor, a bias, a few rows, one element, an eps, a scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ....tracing import Call
from ..flow import Parting
from ..weights import factor_of
from .around import Try

WIDEST = 4096  # columns; an order of more is not sought


def in_linear(parting: Parting, call: Call) -> Iterator[Try]:
    """What may have happened to the weight or bias of a linear layer, although B's cannot be read."""
    y, found = parting.wanted, parting.b
    x, b = call.given["x"], call.given.get("b")
    for what, part in (("weight", y if b is None else y - b), ("weight and bias", y)):
        factor = factor_of(part, part + found - y)
        if factor is not None and (b is not None or what == "weight"):
            yield f"{what} scaled by {factor:.4g}", y + part * (factor - 1)
    yield from _one_element(y, found, x)
    order = _permutation(y.reshape(-1, y.shape[-1]), found.reshape(-1, y.shape[-1]))
    if order is not None:
        yield "rows of the weight permuted", y[..., order]


def _one_element(y: np.ndarray, found: np.ndarray, x: np.ndarray) -> Iterator[Try]:
    """One number of the bias or the weight: all of the difference is then in one column of the result."""
    flat, rows = (found - y).reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
    lone = int(np.abs(flat).max(0).argmax())
    bias = np.zeros(y.shape[-1])
    bias[lone] = flat[:, lone].mean()
    yield f"element {lone} of the bias", y + bias
    yield "another bias", y + flat.mean(0)
    sizes = (rows * rows).sum(0)
    step = np.divide(rows.T @ flat[:, lone], sizes, out=np.zeros(len(sizes)), where=sizes > 0)  # least squares
    column = int((step * step * sizes).argmax())
    change = np.zeros_like(flat)
    change[:, lone] = rows[:, column] * step[column]
    yield f"element [{lone}, {column}] of the weight, off by {step[column]:.3g}", y + change.reshape(y.shape)


def _permutation(y: np.ndarray, found: np.ndarray) -> np.ndarray | None:
    """Which column of y each column of `found` is, if they are y's columns in another order."""
    if y.shape[1] > WIDEST or len(y) < 3:
        return None
    apart = (found**2).sum(0)[:, None] + (y**2).sum(0)[None] - 2 * found.T @ y
    order = apart.argmin(1)
    is_one = len(set(order.tolist())) == len(order) and not np.array_equal(order, np.arange(len(order)))
    return order if is_one else None


def eps(centred: Any, found: Any, w: Any, b: Any) -> float | None:
    """The eps that would make a norm's result, if there is one: its scale is 1/√(variance + eps)."""
    shape = centred * w
    scale = ((found - (0 if b is None else b)) * shape).sum(-1) / np.maximum((shape * shape).sum(-1), 1e-300)
    fit = float(np.median(scale**-2 - (centred * centred).mean(-1)))
    return fit if np.isfinite(fit) and fit > 0 else None


def scale(run: Callable[..., Any], found: Any, usual: float) -> float | None:
    """The scale with which the scores would make B's result, sought by halving; None where none does better."""

    def left(scale: float) -> float:
        return float(np.linalg.norm(run(scale=scale).ravel() - found.ravel()))

    best = min((usual * 2.0**p for p in np.linspace(-4, 4, 17)), key=left)
    width = 2**0.5
    while width > 1 + 1e-7:
        width = width**0.5
        best = min((best / width, best, best * width), key=left)
    return None if abs(best / usual - 1) < 1e-6 else best
