"""Between the two matrices of an MLP: another function, none, or T5's gate used in another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....ops import ACTS
from ....tracing import Call
from ..float64 import FLOAT64
from ..flow import Parting
from .around import Try, in_words
from .linear import linear


def linear_act(parting: Parting, call: Call) -> Iterator[Try]:
    """act(x wᵀ + b): another function, then what may be wrong with the layer itself."""
    layer, act = _without_act(call)
    inner = FLOAT64.linear(**layer.given)
    yield from _other_functions(act, inner)
    yield from linear(parting, layer, getattr(FLOAT64, act))


def gated(parting: Parting, call: Call) -> Iterator[Try]:
    """act(W_gate x) · W_up x with one thing changed."""
    up: Call = call.given["up"]
    gate, act = _without_act(call.given["gate"])
    before, other, function = FLOAT64.linear(**gate.given), up.output, getattr(FLOAT64, act)
    opened = function(before)
    for change, y in _other_functions(act, before):
        yield change, y * other
    yield "gate and up exchanged", before * function(other)
    yield "gate missing", other
    yield "up missing", opened
    yield from linear(parting, gate, lambda y: function(y) * other)
    yield from linear(parting, up, lambda y: opened * y)


def _without_act(call: Call) -> tuple[Call, str]:
    """The linear layer alone, and the name of the function behind it."""
    given = dict(call.given)
    act = given.pop("act")
    return call._replace(given=given), act


def _other_functions(act: str, inner: Any) -> Iterator[Try]:
    for other in ACTS:
        if other != act:
            yield f"activation: {in_words(other)} for {in_words(act)}", getattr(FLOAT64, other)(inner)
    yield "activation missing", inner
