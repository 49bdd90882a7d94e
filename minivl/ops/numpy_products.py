"""Matrix products of numpy.py: weights in float32, in 16 bits and in 8, each held to its formula in plain.py.

Weights of fewer bits are widened a tile at a time, so that they stay small in memory and the widened tile stays in the
cache. BLAS knows neither 16 nor 8 bits.

Letters: C width, F another width, M rows of x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import cores
from . import Array
from .plain import OUTLIER, PER_STEP

PART = 1 << 20  # weights that are multiplied with a few rows at a time
SLICE = 8  # rows of them that BLAS is given together
UNPACKED = 1_000_000  # multiplications up to which OpenBLAS calls a product small
FEW_ROWS = 100  # below this many rows, transposing the result of a product costs less than it gains
TILE = 1 << 20  # weights widened at a time: 4 MB of float32, which stay in the cache and are worth a turn
EXACT = 1040  # products of two bytes that float32 sums without rounding: 1040 · 127² < 2^24
SMALLEST = 1e-36  # rows below this are rounded to zero: 127 divided by their largest value is no float32
FLOAT16 = 65504.0  # the largest number of float16

Widen = Callable[[slice, np.ndarray], np.ndarray]  # (rows, out (height, C) float32) -> those rows of a matrix, in out


# ---- float32 -------------------------------------------------------------------------------------
def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """plain.linear as one 2-D product (NumPy would loop over the batch of a 3-D one), w on the left for few rows."""
    flat = x.reshape(-1, x.shape[-1])
    if 1 < len(flat) < FEW_ROWS:
        y = np.ascontiguousarray(_of_few_rows(w, flat).T)
    else:
        y = flat @ w.T
    return _finished(x, y, b)


def _of_few_rows(w: Array, x: Array) -> Array:
    """w xᵀ: BLAS is up to twice as fast with the large matrix on the left.   w (F, C), x (M, C) -> (F, M)"""
    y = np.empty((w.shape[0], len(x)), np.result_type(x, w))
    if w.size < 4 * PART:  # BLAS threads stay awake for a while after a product, and would be in the way of ours
        return np.matmul(w, x.T, out=y)
    cores.share(lambda part: sliced_product(w[part], x, y[part]), cores.rows(w.shape, PART))
    return y


def sliced_product(w: Array, x: Array, out: Array) -> None:
    """w xᵀ, w in slices so thin that OpenBLAS multiplies them as they lie: packing them first would take longer.

    w (F, C)   x (M, C)   ->   out (F, M)
    """
    slices = len(w) // SLICE if SLICE * x.size <= UNPACKED and w.flags.c_contiguous else 0
    end = slices * SLICE
    np.matmul(w[:end].reshape(slices, SLICE, w.shape[1]), x.T, out=out[:end].reshape(slices, SLICE, len(x)))
    np.matmul(w[end:], x.T, out=out[end:])


def _finished(x: Array, y: Array, b: Array | None) -> Array:
    """Bias and shape.   x (..., C), y (M, F), spent   ->   (..., F)"""
    if b is not None:
        y += b
    return y.reshape(*x.shape[:-1], y.shape[1])


# ---- 16 bits -------------------------------------------------------------------------------------
def widening_linear(x: Array, w: Any, b: Array | None = None) -> Array:
    """plain.linear for a matrix that knows how to widen some of its rows (quantised.BFloat16 and Float16)."""
    flat = x.reshape(-1, x.shape[-1])
    y = _by_tiles(lambda tile: _tile_product(tile, flat), w.widen, w.shape, len(flat))
    return _finished(x, y, b)


def _by_tiles(multiply: Callable[[Any], Any], widen: Widen, shape: tuple[int, ...], rows: int) -> Array:
    """multiply(tile) of every tile of a matrix (F, C), widened: (height, C) -> (height, rows), shared among the cores.

    ->   (rows, F)
    """
    y = np.empty((shape[0], rows), np.float32)

    def one(part: slice) -> None:
        y[part] = multiply(widen(part, np.empty((part.stop - part.start, shape[1]), np.float32)))

    cores.share(one, cores.rows(shape, TILE))
    return np.ascontiguousarray(y.T)


def _tile_product(tile: Array, x: Array) -> Array:
    """tile xᵀ, without Python's lock, which matmul keeps while it multiplies by a vector.   ->   (height, M)"""
    if len(x) == 1:
        return np.dot(tile, x.T)
    y = np.empty((len(tile), len(x)), np.float32)
    sliced_product(tile, x, y)
    return y


# ---- 8 bits --------------------------------------------------------------------------------------
def weight_only_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    """plain.weight_only_linear; the scales are applied to the product."""
    flat = x.reshape(-1, x.shape[-1])
    y = _by_tiles(lambda tile: _tile_product(tile, flat), _from_bytes(w), w.shape, len(flat))
    y *= scale / 127
    return _finished(x, y, b)


def int8_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    """plain.int8_linear, its exact product by float32's BLAS."""
    flat = x.reshape(-1, x.shape[-1])
    q, scale_x, outlying = quantise_activations(flat)
    y = exact_product(q, w)
    y *= scale_x[:, None] * scale
    y *= np.float32(PER_STEP)
    if outlying.any():
        columns = w[:, outlying] * (scale / 127)[:, None]  # (F, outliers)
        y += flat[:, outlying] @ columns.T
    return _finished(x, y, b)


def _from_bytes(w) -> Widen:
    def widen(rows: slice, out: np.ndarray) -> np.ndarray:
        np.copyto(out, w[rows])
        return out

    return widen


def exact_product(q: Array, w: Array) -> Array:
    """q wᵀ of bytes, without rounding: BLAS knows no bytes, but float32 holds sums of up to EXACT products exactly.

    q (M, C), w (F, C) int8   ->   (M, F), the nearest float32
    """
    q, C = q.astype(np.float32), q.shape[1]

    def multiply(tile):
        total = np.zeros((len(tile), len(q)))
        for start in range(0, C, EXACT):
            total += _tile_product(tile[:, start : start + EXACT], q[:, start : start + EXACT])
        return total

    return _by_tiles(multiply, _from_bytes(w), w.shape, len(q))


def quantise_activations(x: Array) -> tuple[Array, Array, Array]:
    """plain.quantise_activations.   x (M, C)   ->   (M, C), (M,), (C,)"""
    x = np.clip(x, -FLOAT16, FLOAT16).astype(np.float16).astype(np.float32)
    large = np.abs(x) >= OUTLIER  # (M, C)
    outlying = large.any(axis=0)  # (C,)
    q, scale = quantise_rows(np.where(large, np.float32(0), x))
    q[:, outlying] = 0
    return q, scale, outlying


def quantise_rows(w: Array) -> tuple[Array, Array]:
    """plain.quantise_rows with fewer passes over w.   w (F, C)   ->   (F, C), (F,)"""
    scale = np.maximum(w.max(axis=1, initial=0), -w.min(axis=1, initial=0))
    factor = np.divide(np.float32(127), scale, out=np.zeros_like(scale), where=scale > SMALLEST)
    rows = w * factor[:, None]
    return np.rint(rows, out=rows).astype(np.int8), scale
