"""The judge's arithmetic: NumPy's ops on float64, whatever kind of number the weights are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import Ops
from ...ops import numpy as numpy_ops
from ...ops.quantised import Int8, Narrow, in_full

PIECE = 1 << 24  # numbers of a matrix widened at a time


def double(value: Any) -> Any:
    """Any array of numbers, of any backend and of fewer bits, as float64; whole numbers and all else stay."""
    if isinstance(value, Int8):
        return value.rows * (value.scale[:, None] / np.float64(127))
    if isinstance(value, Narrow):
        return in_full(value).astype(np.float64)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        return np.asarray(value, np.float64)
    return value


def _linear(x, w, b=None):
    x, rows = double(x), max(1, PIECE // max(1, w.shape[1]))
    if isinstance(w, Narrow) or w.shape[0] <= rows:
        y = numpy_ops.linear(x, double(w))
    else:
        y = np.concatenate([numpy_ops.linear(x, double(w[i : i + rows])) for i in range(0, w.shape[0], rows)], -1)
    return y if b is None else y + double(b)


def _embed(ids, table):
    ids = double(ids)
    return double(table)[ids] if isinstance(table, Narrow) else double(numpy_ops.embed(ids, np.asarray(double(table))))


def _widened(function):
    return lambda *args, **how: function(*map(double, args), **{name: double(value) for name, value in how.items()})


PLAIN = (
    *("layer_norm", "add_layer_norm", "rms_norm", "attention", "attention_weights", "gelu", "gelu_tanh", "quick_gelu"),
    *("relu", "silu", "tanh", "softmax", "patch_embed", "cross_entropy", "to_numpy"),
)
FLOAT64: Ops = numpy_ops.OPS._replace(
    **{name: _widened(getattr(numpy_ops.OPS, name)) for name in PLAIN},
    linear=_linear,
    linear_act=lambda x, w, b=None, *, act: getattr(numpy_ops.OPS, act)(_linear(x, w, b)),
    embed=_embed,
    concat=lambda arrays, axis: np.concatenate([double(a) for a in arrays], axis),
    broadcast_to=lambda x, shape: np.broadcast_to(double(x), shape),
    from_numpy=double,
)
