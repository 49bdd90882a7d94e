"""The first layer of the picture: its weights, its colours, rows and columns."""

from __future__ import annotations

from collections.abc import Iterator

from ....tracing import Call
from ..float64 import FLOAT64
from ..flow import Parting
from ..weights import factor_of
from .around import Try, in_fewer_bits
from .tensors import other_weights


def patches(parting: Parting, call: Call) -> Iterator[Try]:
    """One vector for each patch."""
    pixels, w, b = call.given["pixels"], call.given["w"], call.given.get("b")

    def run(pixels=pixels, w=w, b=b):
        return FLOAT64.patch_embed(pixels, w, b)

    yield from other_weights(parting, call, run)
    if b is not None:
        yield "bias missing", run(b=None)
    yield "colours in reverse (BGR)", run(w=w[:, ::-1])
    yield "patches transposed", run(w=w.swapaxes(-1, -2))
    yield "picture transposed", run(pixels=pixels.swapaxes(-1, -2))
    yield "patches upside down", run(w=w[:, :, ::-1])
    yield "patches mirrored", run(w=w[..., ::-1])
    y = parting.wanted  # (B, N, C)
    side = int(round(y.shape[1] ** 0.5))
    if side * side == y.shape[1]:
        columns = y.reshape(len(y), side, side, -1).swapaxes(1, 2).reshape(y.shape)
        yield "patches counted in columns, not in rows", columns
    bias = 0 if b is None else b
    if (factor := factor_of(y - bias, parting.b - bias)) is not None:
        yield f"weight or picture scaled by {factor:.4g}", run(w=w * factor)
    yield from in_fewer_bits(run, pixels, w, b)
