"""A linear layer with one thing changed, and faults just before it where B does not show what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np

from ....ops import plain
from ....tracing import Call
from ..float64 import FLOAT64
from ..flow import Parting
from ..weights import head_orders, without_part
from . import fitted
from .around import Try, as_double, before_the_norm, heads_of, in_fewer_bits, norm_that_made
from .attention import wiring
from .norms import changed_norm
from .tensors import other_weights

Run = Callable[..., Any]  # the layer with another x, w or b


def linear(parting: Parting, call: Call, then: Callable[[Any], Any] | None = None) -> Iterator[Try]:
    """x wᵀ + b with another weight, another bias or another x; `then` is what is done with it."""
    x, w, b = call.given["x"], call.given["w"], call.given.get("b")

    def run(x=x, w=w, b=b):
        y = FLOAT64.linear(x, w, b)
        return y if then is None else then(y)

    yield from other_weights(parting, call, run)
    if b is not None:
        yield "bias missing", run(b=None)
        if call.path.endswith("qkv"):
            for i, part in enumerate("qkv"):
                yield f"bias of {part} missing", run(b=without_part(b, i))
    yield from _numbers_moved(parting, call, run)
    if (before := before_the_norm(parting, x)) is not None:
        yield "norm before it missing", run(x=before)
    yield from in_fewer_bits(run, x, w, b)
    if then is None:
        yield "dtype: weight and activations rounded to int8, as LLM.int8()", _llm_int8(x, w, b)
        yield from fitted.in_linear(parting, call)
    if call.path.endswith(".out"):
        yield from _unseen_attention(parting, run)
    if then is None:
        yield from _unseen_norm(parting, x, run)


def _numbers_moved(parting: Parting, call: Call, run: Run) -> Iterator[Try]:
    """The same numbers of the matrix in another place: transposed, q, k and v or the heads in another order."""
    w, b, leaf = call.given["w"], call.given.get("b"), call.path.rpartition(".")[2]
    if w.ndim == 2 and w.shape[0] == w.shape[1]:
        yield "weight transposed", run(w=w.T)
    if leaf == "qkv":
        for order in list(permutations(range(3)))[1:]:
            name = "".join("qkv"[i] for i in order)
            rows = np.arange(len(w)).reshape(3, -1)[list(order)].ravel()
            moved = None if b is None else b[rows]
            yield f"q/k/v order: {name}", run(w=w[rows], b=moved)
            yield f"q/k/v order: {name} in the weight alone", run(w=w[rows])
            yield f"q/k/v order: {name} in the bias alone", run(b=moved)
    for places in head_orders(leaf, w.shape[-1] if leaf == "out" else len(w), heads_of(parting, call.path)):
        if leaf == "out":  # what it is given is in the order of the heads: columns
            y = run(w=w[:, places])
        else:
            y = run(w=w[places], b=None if b is None else b[places])
        yield "heads split in another order", y


def _llm_int8(x: Any, w: Any, b: Any) -> Any:
    """What load_in_8bit=True gives: float32 activations, and a weight that was float16 before it was rounded."""
    rows, scale = plain.quantise_rows(w.astype(np.float16).astype(np.float32))
    return plain.int8_linear(x.astype(np.float32), rows, scale, None if b is None else b.astype(np.float32))


def _unseen_attention(parting: Parting, run: Run) -> Iterator[Try]:
    """Where B does not show what the heads have gathered, its faults are seen behind the last matrix."""
    before = next((item for item in reversed(parting.past) if item.call and item.call.op == "attention"), None)
    if before is not None and before.call is not None and not parting.side_b.provides(before.key):
        for change, mixed in wiring(parting, as_double(before.call)):
            yield change, run(x=mixed)


def _unseen_norm(parting: Parting, x: Any, run: Run) -> Iterator[Try]:
    """What a layer is given may have been changed behind the module that made it, where no hook sees it."""
    norm = norm_that_made(parting, x)
    if norm is not None and norm.call is not None:
        for change, y in changed_norm(parting, as_double(norm.call)):
            yield f"{change}, in {norm.name}", run(x=y)
