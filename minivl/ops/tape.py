"""Gradients of whole models in NumPy: arrays that remember what they were computed from, and the record of ops on them.

    w = tape.Array(weights)                    a leaf: its gradient is wanted
    loss = tape.OPS.linear(x, w).sum()         x is an ordinary array, and stays one: nothing is remembered of it
    loss.backward()
    w.grad                                     like w.value

Each step of a computation leaves an Array that knows its sources and a function back, from its own gradient to theirs.
`backward` starts at the loss with 1 and walks to the leaves, the youngest step first, so that a step's gradient is
complete, summed over everything that used it, before it is handed on. Steps are the ops, whose ways back stand in
ops/backward.py, and the arithmetic between them, whose ways back stand here; models/* contain nothing else, and so
the model functions themselves run on it, as they are:

    model.ops, model.params = tape.OPS, tree.map_leaves(tape.Array, model.params)

The idea is from Linnainmaa 1970; the way it is written, from Karpathy's micrograd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from itertools import count
from types import EllipsisType
from typing import Any

import numpy as np

from ..errors import InputError, OpsError
from . import TABLE, record
from . import numpy as fast
from .backward import BACKWARD, summed_to

AGES = count()


class Array:
    """An ndarray (`value`) that remembers where it came from. A leaf came from nowhere, and keeps its gradient."""

    __array_ufunc__ = None  # ndarray + Array is then not NumPy's business, but __radd__'s

    def __init__(self, value: Any, sources: tuple[Array, ...] = (), back: Callable[[Any], Iterable[Any]] | None = None):
        """back   from the gradient of `value` to those of the sources, in order"""
        self.value = np.asarray(value)
        self.sources, self.back = sources, back
        self.age = next(AGES)  # sources are always older
        self.grad: np.ndarray | None = None

    def backward(self) -> None:
        """Add to `grad` of every leaf how much this number, a loss, grows with it."""
        if self.value.size != 1:
            raise InputError(f"backward starts from one number, a loss, and this array has shape {self.shape}: sum it")
        found = {self.age: np.ones_like(self.value)}
        for array in _ancestors(self):
            grad = found.pop(array.age)
            if array.back is None:
                array.grad = grad if array.grad is None else array.grad + grad
                continue
            for source, part in zip(array.sources, array.back(grad), strict=True):
                found[source.age] = found[source.age] + part if source.age in found else part

    # ---- what may be asked of an array ----
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    dtype = property(lambda self: self.value.dtype)

    def __len__(self):
        return len(self.value)

    def __repr__(self):
        return f"tape.Array({self.value!r})"

    # ---- arithmetic ----
    def __add__(self, other):
        """x + y: both get all of it."""
        return _step(lambda x, y: x + y, lambda dout, x, y: (dout, dout), self, other)

    def __neg__(self):
        return _step(lambda x: -x, lambda dout, x: (-dout,), self)

    def __sub__(self, other):
        return _step(lambda x, y: x - y, lambda dout, x, y: (dout, -dout), self, other)

    def __rsub__(self, other):
        return _step(lambda x, y: x - y, lambda dout, x, y: (dout, -dout), other, self)

    def __mul__(self, other):
        """x · y: each gets the other's share."""
        return _step(lambda x, y: x * y, lambda dout, x, y: (dout * y, dout * x), self, other)

    def __truediv__(self, other):
        return _step(lambda x, y: x / y, lambda dout, x, y: (dout / y, -dout * x / (y * y)), self, other)

    def __pow__(self, exponent):
        """xⁿ for a plain number n:  n xⁿ⁻¹"""
        return _step(lambda x: x**exponent, lambda dout, x: (dout * exponent * x ** (exponent - 1),), self)

    def __rpow__(self, base):
        """aˣ for a plain number a:  aˣ ln a"""
        return _step(lambda x: base**x, lambda dout, x: (dout * base**x * np.log(base).astype(x.dtype),), self)

    def __matmul__(self, other):
        """x y:  dx = dout yᵀ, dy = xᵀ dout"""
        return _step(lambda x, y: x @ y, _matmul_backward, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rmatmul__(self, other):
        return _step(lambda x, y: x @ y, _matmul_backward, other, self)

    def clip(self, min):
        """max(x, min): where the bound was taken, nothing comes through."""
        return _step(lambda x: x.clip(min), lambda dout, x: (dout * (x >= min),), self)

    # ---- the same numbers, elsewhere ----
    def reshape(self, *shape):
        return _step(lambda x: x.reshape(*shape), lambda dout, x: (dout.reshape(x.shape),), self)

    def swapaxes(self, one, two):
        return _step(lambda x: x.swapaxes(one, two), lambda dout, x: (dout.swapaxes(one, two),), self)

    def sum(self, axis=None):
        """Every term gets what the sum gets."""

        def back(dout, x):
            return (np.broadcast_to(dout if axis is None else np.expand_dims(dout, axis), x.shape),)

        return _step(lambda x: x.sum(axis), back, self)

    def mean(self, axis=None):
        total = self.sum(axis)
        return total * (total.value.size / self.value.size)

    def __getitem__(self, where):
        """What was picked gets its gradient, the rest 0; what was picked twice, both."""

        indices = where if isinstance(where, tuple) else (where,)
        once = all(isinstance(i, int | slice | None | EllipsisType) for i in indices)

        def back(dout, x):
            dx = np.zeros_like(x)
            if once:
                dx[where] = dout
            else:
                np.add.at(dx, where, dout)
            return (dx,)

        return _step(lambda x: x[where], back, self)


def _step(forward, backward, *args):
    """forward(*args), remembered if an Array is among them.   backward(dout, *args) -> a gradient for each of them

    A gradient may come in a shape that its array was broadcast to, and is then summed.
    """
    values = [x.value if isinstance(x, Array) else x for x in args]
    out = forward(*values)
    traced = [i for i, x in enumerate(args) if isinstance(x, Array)]
    if not traced:
        return out

    def back(dout):
        grads = backward(dout, *values)
        return [summed_to(grads[i], values[i].shape) for i in traced]

    return Array(out, tuple(args[i] for i in traced), back)


def _matmul_backward(dout, x, y):
    return dout @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ dout


def _ancestors(array: Array) -> list[Array]:
    """The array and everything that it was computed from, the youngest first."""
    found, waiting = {array.age: array}, [array]
    while waiting:
        for source in waiting.pop().sources:
            if source.age not in found:
                found[source.age] = source
                waiting.append(source)
    return [found[age] for age in sorted(found, reverse=True)]


# ---- the record ----------------------------------------------------------------------------------
def _remembered(name: str) -> Callable:
    """The op of this name on Arrays: forward by numpy.py, back by backward.py."""
    if not TABLE[name].gradient:
        return _refused(name)
    forward, backward = getattr(fast.OPS, name), BACKWARD[name]
    signature = inspect.signature(backward)  # dout, and then the op's own arguments
    places = TABLE[name].floats

    def op(*args, **named):
        call = signature.bind(None, *args, **named)
        call.apply_defaults()

        def ahead(*arrays):
            call.arguments.update(zip(places, arrays, strict=True))
            return forward(*call.args[1:], **call.kwargs)

        def back(dout, *arrays):
            call.arguments.update(zip(places, arrays, strict=True), dout=dout)
            grads = backward(*call.args, **call.kwargs)
            return grads if isinstance(grads, tuple) else (grads,)

        return _step(ahead, back, *(call.arguments[place] for place in places))

    return op


def _refused(name: str) -> Callable:
    def op(*args, **named):
        raise OpsError(f"{name} has no gradient: train with weights that are not rounded to 8 bits")

    return op


def concat(arrays, axis=0):
    """Each array gets its part back."""
    ends = np.cumsum([x.shape[axis] for x in arrays])[:-1]
    return _step(lambda *xs: np.concatenate(xs, axis), lambda dout, *xs: np.split(dout, ends, axis), *arrays)


def broadcast_to(x, shape):
    return _step(lambda x: np.broadcast_to(x, shape), lambda dout, x: (dout,), x)


def from_numpy(x):
    return x if isinstance(x, Array) else np.asarray(x)


def to_numpy(x):
    return x.value if isinstance(x, Array) else np.asarray(x)


PLUMBING: dict[str, Any] = dict(concat=concat, broadcast_to=broadcast_to, from_numpy=from_numpy, to_numpy=to_numpy)
OPS = record("tape", {name: _remembered(name) for name in TABLE} | PLUMBING)
