"""Weights in fewer bits, on NumPy: matrices stay as they are stored and are widened a tile at a time in a product.

    bfloat16      the upper half of each float32. Nothing is lost that the file still had, and memory is halved.
    weight-only   each row of a matrix in 8 bits with one scale: w ≈ row · scale / 127. Memory is quartered.
    LLM.int8()    the same rows, and the activations in 8 bits too, so that the product is one of whole numbers, except
                  for the few columns of x that hold large values ("outliers"), which are multiplied as they are.

A matrix is a leaf of the weight tree like any other (weights/quantise.py makes them); only the record's `linear` and
`embed` look into it:

    ops = quant.reading(minivl.ops.get("numpy"))

Source: Dettmers et al. 2022 (LLM.int8()), section 3, with the roundings of bitsandbytes.
Letters: C width, F another width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import cores
from ..errors import OpsError
from . import Ops, act_of
from .numpy import sliced_product

TILE = 1 << 20  # weights widened at a time: 4 MB of float32, which stay in the cache and are worth a turn
LARGEST = 127  # what one signed byte holds on both sides of zero
OUTLIER = 6.0  # an activation this large keeps its column out of the 8 bits
SHARE = 6.200124e-05  # 1/127² as bitsandbytes has it, which is 2e-5 too large: models notice what it rounds otherwise
EXACT = 1040  # products of two bytes that float32 sums without rounding: 1040 · 127² < 2^24
SMALLEST = 1e-36  # rows below this are rounded to zero: 127 divided by their largest value is no float32
FLOAT16 = 65504.0  # the largest number of float16


class BFloat16(NamedTuple):
    """A matrix whose numbers are the upper halves of float32 ones."""

    bits: np.ndarray  # (F, C) uint16

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes

    def widen(self, rows: slice, out: np.ndarray) -> np.ndarray:
        """Some rows as float32, written into `out`."""
        wide = out.view(np.uint32)
        np.copyto(wide, self.bits[rows])
        np.left_shift(wide, 16, out=wide)
        return out

    def look_up(self, ops: Ops, ids: np.ndarray) -> np.ndarray:
        """The rows ids (...) as float32.   ->   (..., C)"""
        return widened(ops.embed(ids, self.bits))


class Float16(NamedTuple):
    """A matrix of float16, all of it finite."""

    halves: np.ndarray  # (F, C) float16

    @property
    def shape(self) -> tuple[int, ...]:
        return self.halves.shape

    @property
    def nbytes(self) -> int:
        return self.halves.nbytes

    def widen(self, rows: slice, out: np.ndarray) -> np.ndarray:
        """Some rows as float32, written into `out`: four passes over a tile are six times as fast as one astype."""
        wide = out.view(np.int32)
        np.copyto(wide, self.halves[rows].view(np.int16))  # the sign is copied to the left ...
        np.left_shift(wide, 13, out=wide)
        np.bitwise_and(wide, ~0x70000000, out=wide)  # ... and stays in the topmost bit only
        np.multiply(out, np.float32(2.0**112), out=out)  # exponents count from -15 in float16, from -127 in float32
        return out

    def look_up(self, ops: Ops, ids: np.ndarray) -> np.ndarray:
        """The rows ids (...) as float32.   ->   (..., C)"""
        return ops.embed(ids, self.halves).astype(np.float32)


class Int8(NamedTuple):
    """A matrix of bytes with one scale for each row; `whole` if its products are those of LLM.int8()."""

    rows: np.ndarray  # (F, C) int8
    scale: np.ndarray  # (F,) float32, the largest magnitude of each row before it was rounded
    whole: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.scale.nbytes

    def widen(self, rows: slice, out: np.ndarray) -> np.ndarray:
        """Some rows as float32, still without their scale, written into `out`."""
        np.copyto(out, self.rows[rows])
        return out

    def look_up(self, ops: Ops, ids: np.ndarray) -> np.ndarray:
        """The rows ids (...) as float32.   ->   (..., C)"""
        scale = ops.embed(ids, self.scale) / LARGEST  # (...)
        return ops.embed(ids, self.rows) * scale[..., None]


Narrow = BFloat16 | Float16 | Int8


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16's bits as float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row in whole numbers from -127 to 127, the largest magnitude becoming 127; ties go to the even number.

        round(w · 127 / scale)          scale = max |w| of the row

    w (F, C) float32   ->   (F, C) int8, (F,) float32
    """
    scale = np.maximum(w.max(axis=1, initial=0), -w.min(axis=1, initial=0))
    factor = np.divide(np.float32(LARGEST), scale, out=np.zeros_like(scale), where=scale > SMALLEST)
    rows = w * factor[:, None]
    return np.rint(rows, out=rows).astype(np.int8), scale


def by_tiles(multiply: Callable[[np.ndarray], np.ndarray], w: Narrow, rows: int) -> np.ndarray:
    """multiply(tile) of every tile of w, widened: (height, C) -> (height, rows); the cores share the tiles.

    ->   (rows, F)
    """
    y = np.empty((w.shape[0], rows), np.float32)

    def one(part: slice) -> None:
        tile = w.widen(part, np.empty((part.stop - part.start, w.shape[1]), np.float32))
        y[part] = multiply(tile)

    cores.share(one, cores.rows(w.shape, TILE))
    return np.ascontiguousarray(y.T)


def product(x: np.ndarray, w: Narrow) -> np.ndarray:
    """x wᵀ; a byte's scale is left to the caller.   x (rows, C), w (F, C) -> (rows, F)"""
    return by_tiles(lambda tile: tile_product(tile, x), w, len(x))


def tile_product(tile: np.ndarray, x: np.ndarray) -> np.ndarray:
    """tile xᵀ, without Python's lock, which matmul keeps while it multiplies by a vector.   ->   (height, rows)"""
    if len(x) == 1:
        return np.dot(tile, x.T)
    y = np.empty((len(tile), len(x)), np.float32)
    sliced_product(tile, x, y)
    return y


def int8_product(x: np.ndarray, w: Int8) -> np.ndarray:
    """x wᵀ as LLM.int8() computes it.

        x wᵀ ≈ (A Wᵀ) · scale_x scale_w / 127² + x_out w_outᵀ

    A holds x in whole numbers, row by row, without the outlier columns: those in which any |x| is 6 or more. They are
    multiplied beside it as they are. So one row's outlier changes the others a little.
    x (rows, C)   ->   (rows, F)
    """
    small, scale, outlying = split(x)
    y = whole_product(small, w)
    y *= scale[:, None] * w.scale
    y *= np.float32(SHARE)
    if outlying.any():
        columns = w.rows[:, outlying] * (w.scale / LARGEST)[:, None]  # (F, outliers)
        y += x[:, outlying] @ columns.T
    return y


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What LLM.int8() makes of activations, from their float16 form: whole numbers, each row's scale, and which columns
    hold outliers.

    An outlier does not count for its row's scale, and its column holds zeros among the whole numbers.
    x (rows, C)   ->   (rows, C) int8, (rows,) float32, (C,) bool
    """
    x = np.clip(x, -FLOAT16, FLOAT16).astype(np.float16).astype(np.float32)
    large = np.abs(x) >= OUTLIER  # (rows, C)
    outlying = large.any(axis=0)  # (C,)
    small, scale = round_rows(np.where(large, np.float32(0), x))
    small[:, outlying] = 0
    return small, scale, outlying


def whole_product(a: np.ndarray, w: Int8) -> np.ndarray:
    """The exact product of two matrices of bytes, as float32 of the nearest value.   a (rows, C) int8 -> (rows, F)

    BLAS knows no bytes, but sums of up to EXACT products are whole numbers that float32 holds exactly.
    """
    a, C = a.astype(np.float32), a.shape[1]

    def multiply(tile: np.ndarray) -> np.ndarray:
        total = np.zeros((len(tile), len(a)))
        for start in range(0, C, EXACT):
            total += tile_product(tile[:, start : start + EXACT], a[:, start : start + EXACT])
        return total

    return by_tiles(multiply, w, len(a))


def linear(x: np.ndarray, w: Narrow, b: np.ndarray | None = None) -> np.ndarray:
    """The op `linear` for a matrix of fewer bits.   x (..., C), w (F, C), b (F,) -> (..., F)"""
    flat = x.reshape(-1, x.shape[-1])
    if isinstance(w, Int8) and w.whole:
        y = int8_product(flat, w)
    else:
        y = product(flat, w)
        if isinstance(w, Int8):
            y *= w.scale / LARGEST
    if b is not None:
        y += b
    return y.reshape(*x.shape[:-1], w.shape[0])


def reading(ops: Ops) -> Ops:
    """The NumPy record with a `linear` and an `embed` that read matrices of fewer bits as well as plain ones."""

    def read_linear(x, w, b=None):
        return linear(x, w, b) if isinstance(w, Narrow) else ops.linear(x, w, b)

    def read_linear_act(x, w, b=None, *, act):
        return act_of(ops, act)(read_linear(x, w, b))

    def read_embed(ids, table):
        return table.look_up(ops, ids) if isinstance(table, Narrow) else ops.embed(ids, table)

    def plain(x):
        return in_full(x) if isinstance(x, Narrow) else ops.to_numpy(x)

    return ops._replace(linear=read_linear, linear_act=read_linear_act, embed=read_embed, to_numpy=plain)


def in_full(w: Narrow) -> np.ndarray:
    """The numbers of a matrix as float32. Raises OpsError for bytes, which only stand near the numbers that were."""
    if isinstance(w, Int8):
        raise OpsError("weights of 8 bits are rounded for good: load the model without load_in_8bit to save it")
    return w.widen(slice(None), np.empty(w.shape, np.float32))
