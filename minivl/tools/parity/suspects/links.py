"""BridgeTower's links, LN(x + y) of a tower's tokens and a cross-modal layer's: their factors and token types.

x holds the tower's tokens with their token type added, already times the link's factor:

    scaled_add       x = scale · tower          y = cross-modal
    interpolate      x = (1 - beta) · tower     y = beta · cross-modal
"""

from __future__ import annotations

from collections.abc import Iterator

from ....tracing import Call
from ..float64 import double
from ..flow import Parting
from .around import Try


def link_summands(parting: Parting, call: Call) -> Iterator[Try]:
    """The sum x + y with one thing changed, before its norm."""
    x, y, path = call.given["x"], call.given["y"], call.path.rpartition(".")[0]
    link, types = parting.judge.weight(path), parting.judge.weight("token_types")
    if types is None or not isinstance(link, dict):
        return
    types, tower = double(types), 1.0
    if "scale" in link:
        tower = float(link["scale"])
        yield "factor of the link missing", x / tower + y
        yield "factor of the link on the other summand", x / tower + y * tower
    if "beta" in link:
        beta = float(link["beta"])
        tower = 1 - beta
        yield "weights of the link exchanged", x / tower * beta + y / beta * tower
        yield "weights of the link missing", x / tower + y / beta
    for name in ("scale", "beta"):
        theirs = parting.side_b.weight(f"{path}.{name}")
        if name in link and theirs is not None and float(theirs) != float(link[name]):
            value = float(theirs)
            changed = x / tower * value + y if name == "scale" else x / tower * (1 - value) + y / beta * value
            yield f"{name} of the link {value:.4g} for {float(link[name]):.4g}", changed
    own = 1 if "image" in path else 0
    yield "token type missing", x - tower * types[own] + y
    yield "the other token type", x + tower * (types[1 - own] - types[own]) + y
