"""Weights in fewer bits: how a matrix is kept, and a record of ops that reads such matrices like any other.

    bfloat16      the upper half of each float32. Nothing is lost that the file still had, and memory is halved.
    float16       as the file has it.
    weight-only   each row of a matrix in 8 bits with one scale: w ≈ row · scale / 127. Memory is quartered.
    LLM.int8()    the same rows, and the activations in 8 bits too, so that the product is one of whole numbers, except
                  for the few columns of x that hold large values ("outliers"), which are multiplied as they are.

A matrix is a leaf of the weight tree like any other (weights/quantise.py makes them). 8-bit rows are arrays of the
backend, and its ops int8_linear and weight_only_linear multiply by them; 16-bit matrices are NumPy's, for torch has
both dtypes of its own. Only the record's linear, linear_act, gated_linear and embed look into a leaf:

    ops = quantised.reading(minivl.ops.get("numpy"))

Source: Dettmers et al. 2022 (LLM.int8()), section 3, with the roundings of bitsandbytes.
Letters: C width, F another width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import OpsError
from . import Ops, act_of, numpy_products


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
    """A matrix of bytes with a scale for each row, on any backend; `whole` if its products are those of LLM.int8()."""

    rows: Any  # (F, C) int8
    scale: Any  # (F,) float32, the largest magnitude of each row before it was rounded
    whole: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.scale.nbytes

    def look_up(self, ops: Ops, ids: Any) -> Any:
        """The rows ids (...), in the scales' dtype.   ->   (..., C)"""
        scale = ops.embed(ids, self.scale[:, None]) / 127  # (..., 1)
        return ops.embed(ids, self.rows) * scale


Sixteen = BFloat16 | Float16
Narrow = BFloat16 | Float16 | Int8


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16's bits as float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def in_full(w: Narrow) -> np.ndarray:
    """The numbers of a matrix as float32. Raises OpsError for bytes, which only stand near the numbers that were."""
    if isinstance(w, Int8):
        raise OpsError("weights of 8 bits are rounded for good: load the model without load_in_8bit to save it")
    return w.widen(slice(None), np.empty(w.shape, np.float32))


def reading(ops: Ops) -> Ops:
    """A record whose linear, linear_act, gated_linear and embed read matrices of fewer bits as well as plain ones."""

    def linear(x, w, b=None):
        if isinstance(w, Int8):
            return (ops.int8_linear if w.whole else ops.weight_only_linear)(x, w.rows, w.scale, b)
        if isinstance(w, Sixteen):
            return numpy_products.widening_linear(x, w, b) if ops.name == "numpy" else ops.linear(x, in_full(w), b)
        return ops.linear(x, w, b)

    def linear_act(x, w, b=None, *, act):
        return act_of(ops, act)(linear(x, w, b)) if isinstance(w, Narrow) else ops.linear_act(x, w, b, act=act)

    def gated_linear(x, gate, up, *, act):
        if isinstance(gate, Narrow) or isinstance(up, Narrow):
            return linear_act(x, gate, act=act) * linear(x, up)
        return ops.gated_linear(x, gate, up, act=act)

    def embed(ids, table):
        if not isinstance(table, Narrow):
            return ops.embed(ids, table)
        return ops.from_numpy(table.look_up(ops, ids))  # in the record's dtype

    def to_numpy(x):
        return in_full(x) if isinstance(x, Narrow) else ops.to_numpy(x)

    return ops._replace(linear=linear, linear_act=linear_act, gated_linear=gated_linear, embed=embed, to_numpy=to_numpy)
