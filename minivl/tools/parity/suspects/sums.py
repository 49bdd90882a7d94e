"""A sum with a summand left out, doubled or normed on the way: residuals, and the learned tables before a stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....tracing import Call
from ..float64 import double
from ..flow import Parting
from ..weights import factor_of
from .around import Try, behind_the_norm
from .tensors import their_table


def residual(parting: Parting, call: Call) -> Iterator[Try]:
    """x + y, what the stream held and what a layer made."""
    whole, x, y = parting.wanted, call.given["x"], call.given["y"]
    if np.size(y) == whole.size:
        y = np.reshape(y, whole.shape)
        yield "residual missing", y
        yield "what the layer makes missing", x
        yield "residual doubled", whole + x
        yield "what the layer makes doubled", whole + y
        yield "what the layer makes subtracted", x - y
        if (normed := behind_the_norm(parting, x)) is not None:
            yield "residual taken after the norm", normed + y
            yield "result of the norm added as well", whole + normed
        for name, before in _streams(parting, call, whole):
            yield f"{name} missing", whole - before
            yield f"{name} added once more", whole + before
        if (factor := factor_of(y, parting.b - x)) is not None:
            yield f"what the layer makes scaled by {factor:.4g}", x + factor * y
        if (factor := factor_of(x, parting.b - y)) is not None:
            yield f"residual scaled by {factor:.4g}", factor * x + y
    yield from scaled(parting)


def scaled(parting: Parting, what: str = "") -> Iterator[Try]:
    """The whole activation times the factor that fits best."""
    if (factor := factor_of(parting.wanted, parting.b)) is not None:
        yield f"{what}scaled by {factor:.4g}", parting.wanted * factor


def _streams(parting: Parting, call: Call, whole: Any) -> Iterator[tuple[str, Any]]:
    """What the stream held at the places before, by their names."""
    stack = call.path.split(".layers.")[0] if ".layers." in call.path else call.path.rpartition(".")[0]
    for item in reversed(parting.past):
        same_stack = item.name.split(".layers.")[0].removesuffix(".embeddings") == stack
        if item.key[1] == "in" and item.call and item.call.op in ("sum", "embeddings") and same_stack:
            if np.shape(item.array) == whole.shape:
                yield item.name, double(item.array)


# ---- what the first layer of a stack is given ----------------------------------------------------
def embeddings(parting: Parting, call: Call) -> Iterator[Try]:
    """Sums of learned tables: positions, the class token, token types, queries."""
    whole, y, stack = parting.wanted, call.given.get("y"), call.path.split(".")[0]
    yield from scaled(parting)
    if stack == "vision":
        yield from _picture(parting, whole)
    elif stack == "language" and y is not None and np.shape(y) == whole.shape:
        yield "positions missing", whole - y
        yield "positions doubled", whole + y
    elif stack in ("text_ln", "image_ln"):
        types, own = double(parting.judge.weight("token_types")), 1 if stack == "image_ln" else 0
        yield "token type missing", whole - types[own]
        yield "the other token type", whole - types[own] + types[1 - own]
        yield from their_table(parting, "token_types", whole - types[own], types, own)
    elif stack == "text":
        yield from _text(parting, whole)
    elif call.path == "qformer.ln":
        yield from their_table(parting, "queries", 0.0, double(parting.judge.weight("queries"))[0])


def _picture(parting: Parting, whole: Any) -> Iterator[Try]:
    """Patches with the class token in front, and a position added to each."""
    table = double(parting.judge.weight("vision.positions")).reshape(-1, whole.shape[-1])
    if len(table) != whole.shape[1]:
        return
    bare = whole - table
    yield "positions missing", bare
    for step in (1, -1):
        yield f"position offset {step:+d}", bare + np.roll(table, step, 0)
    yield "positions of the class token last", bare + np.concatenate([table[1:], table[:1]])
    yield "positions in columns, not in rows", bare + _columns(table)
    without = whole.copy()
    without[:, 0] = table[0]
    yield "class token missing", without
    yield from their_table(parting, "vision.positions", bare, table)
    mine, theirs = parting.judge.weight("vision.class_token"), parting.side_b.weight("vision.class_token")
    if theirs is not None and not np.array_equal(double(theirs), double(mine)):
        other = whole.copy()
        other[:, 0] += (double(theirs) - double(mine)).reshape(-1)
        yield "class token differs", other


def _columns(table: Any) -> Any:
    """The positions of a square of patches, the class token's left in front, with x and y exchanged."""
    side = int(round((len(table) - 1) ** 0.5))
    if side * side + 1 != len(table):
        return table
    return np.concatenate([table[:1], table[1:].reshape(side, side, -1).swapaxes(0, 1).reshape(side * side, -1)])


def _text(parting: Parting, whole: Any) -> Iterator[Try]:
    """RoBERTa's words, type and positions."""
    types = double(parting.judge.weight("text.types"))
    yield "token type missing", whole - types[0]
    for row in range(1, len(types)):
        yield f"token type {row} for 0", whole - types[0] + types[row]
    yield from their_table(parting, "text.types", whole - types[0], types, 0)
    made = {item.key[0]: double(item.array) for item in parting.past if item.key[0] in ("text.positions", "text.words")}
    if len(made) == 2:
        yield "positions missing", made["text.words"] + types[0]
        yield "words missing", made["text.positions"] + types[0]
