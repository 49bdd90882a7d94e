"""B's own weights, where they can be read and differ, and weights of other layers that may stand here by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ....tracing import Call
from ..float64 import double
from ..flow import Parting, Side
from ..weights import how_it_differs, in_place
from .around import Try, heads_of

TIED = {"language.head": "language.tokens", "mlm.decoder": "text.words"}
NEAREST = 80  # layers of a stack that are looked at
LEAVES = ("q", "k", "v", "out", "up", "gate", "down")
TWINS = (("self", "cross"), ("cross", "self"), ("self_ln", "mlp_ln"), ("mlp_ln", "self_ln"))


def other_weights(parting: Parting, call: Call, run: Callable[..., Any]) -> Iterator[Try]:
    """B's own weight and bias, called by how they differ; then the tensors of A's other layers.

    run(w=, b=)   makes the activation with other ones
    """
    changes: dict[str, str] = {}
    theirs: dict[str, Any] = {}
    for name in ("w", "b"):
        mine, found = call.given.get(name), weight_of(parting.side_b, call.path, name)
        if mine is None or found is None or mine.shape != found.shape or np.array_equal(found, mine):
            continue
        known = dict(_same_shape(parting, call.path, name, mine))
        changes[name] = how_it_differs(mine, found, name, call.path, heads_of(parting, call.path), known)
        theirs[name] = found
        yield changes[name], run(**{name: found})
    if len(theirs) == 2:  # with one name, if the same was done to both
        w, b = call.given["w"], call.given["b"]
        exchanged = np.array_equal(theirs["w"], b) and np.array_equal(theirs["b"], w)
        words = " and ".join(dict.fromkeys(changes.values()))
        yield "weight and bias exchanged" if exchanged else words, run(**theirs)
    for path, tensor in _same_shape(parting, call.path, "w", call.given["w"]):
        yield in_place(call.path, path), run(w=tensor, b=weight_of(parting.judge, path, "b"))


def _same_shape(parting: Parting, path: str, name: str, mine: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of A that might stand here by mistake, and their paths."""
    for place in _places_like(path):
        tensor = weight_of(parting.judge, place, name) if place != path else None
        if tensor is not None and tensor.shape == mine.shape:
            yield place, tensor


def _places_like(path: str) -> Iterator[str]:
    """The table that a head may be tied to, the other matrices of the layer, and the same part of other layers, the
    nearest first.
    """
    if path in TIED:
        yield TIED[path]
    stack, _, leaf = path.rpartition(".")
    yield from (f"{stack}.{other}" for other in LEAVES if other != leaf)
    parts = path.split(".")
    for at in (i for i, part in enumerate(parts) if part.isdigit()):
        number = int(parts[at])
        near = sorted((n for n in range(200) if n != number), key=lambda n: abs(n - number))[:NEAREST]
        yield from (".".join([*parts[:at], str(n), *parts[at + 1 :]]) for n in near)
    for one, other in TWINS:
        yield ".".join(other if part == one else part for part in parts)
    for one, other in (("text_", "image_"), ("image_", "text_")):
        if one in path:
            yield path.replace(one, other)


def weight_of(side: Side, path: str, name: str) -> Any:
    """A tensor of a side in float64, or None; a head that is a table of words is found there."""
    found = side.weight(f"{path}.{name}")
    if found is None and name == "w":
        found = side.weight(TIED.get(path, path))
    if found is None and path == "mlm.decoder":
        found = side.weight("mlm.bias")
    return None if found is None or not hasattr(found, "shape") else double(found)


def their_table(parting: Parting, path: str, bare: Any, mine: Any, row: int | None = None) -> Iterator[Try]:
    """B's own table, or a row of it, in a sum.   bare   the sum without it"""
    theirs = double(parting.side_b.weight(path))
    if theirs is None or theirs.size != mine.size:
        return
    theirs = theirs.reshape(mine.shape)
    if not np.array_equal(theirs, mine):
        change = how_it_differs(mine, theirs, f"table of {path.rpartition('.')[2].replace('_', ' ')}", path)
        yield change, np.broadcast_to(bare + (theirs if row is None else theirs[row]), parting.b.shape)
