"""The judge's arithmetic: the plain ops on float64, whatever kind of number the weights are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import TABLE, Ops, plain
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
    """plain.linear, a large matrix widened piece by piece."""
    x, rows = double(x), max(1, PIECE // max(1, w.shape[1]))
    if isinstance(w, Narrow) or w.shape[0] <= rows:
        y = plain.linear(x, double(w))
    else:
        y = np.concatenate([plain.linear(x, double(w[i : i + rows])) for i in range(0, w.shape[0], rows)], -1)
    return y if b is None else y + double(b)


def _linear_act(x, w, b=None, *, act):
    return getattr(plain, act)(_linear(x, w, b))


def _gated_linear(x, gate, up, *, act):
    return _linear_act(x, gate, act=act) * _linear(x, up)


def _embed(ids, table):
    ids = double(ids)
    return double(table)[ids] if isinstance(table, Narrow) else double(plain.embed(ids, np.asarray(double(table))))


def _widened(function):
    return lambda *args, **how: function(*map(double, args), **{name: double(value) for name, value in how.items()})


FLOAT64: Ops = plain.OPS._replace(
    **{name: _widened(getattr(plain.OPS, name)) for name in (*TABLE, "to_numpy")}
    | {"linear": _linear, "linear_act": _linear_act, "gated_linear": _gated_linear, "embed": _embed},
    concat=lambda arrays, axis: np.concatenate([double(a) for a in arrays], axis),
    broadcast_to=lambda x, shape: np.broadcast_to(double(x), shape),
    from_numpy=double,
)
