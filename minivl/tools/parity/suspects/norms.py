"""A norm with one thing changed: its eps, weights, kind or place, and what is summed in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ....models import blocks
from ....ops import TABLE
from ....tracing import NORMS, Call
from ..float64 import FLOAT64, double
from ..flow import Parting
from ..weights import rounded
from . import fitted
from .around import HALVES, Try, before_the_norm, heads_of
from .links import link_summands
from .tensors import other_weights

RMS = next(name for name, op in TABLE.items() if op.kind == "norm" and "b" not in op.floats)  # the norm without a shift
EPSES = (1e-5, 1e-6, 1e-12, 1e-8, 1e-3)


class Norm(NamedTuple):
    """What a norm is given."""

    op: str
    x: Any
    w: Any
    b: Any
    eps: float

    def run(self, **changed: Any) -> Any:
        """Its result with some of that changed."""
        op, x, w, b, eps = self._replace(**changed)
        return FLOAT64.layer_norm(x, w, b, eps) if op == "layer_norm" else getattr(FLOAT64, RMS)(x, w, eps)


def _norm_of(call: Call) -> Norm:
    """The norm of a call; a post-LN layer's is that of the sum."""
    given = call.given
    op = RMS if call.op == RMS else "layer_norm"
    return Norm(op, given["x"] + given.get("y", 0), given["w"], given.get("b"), given["eps"])


def norm(parting: Parting, call: Call) -> Iterator[Try]:
    """A norm with one thing changed, and the eps that would make B's numbers."""
    yield from changed_norm(parting, call)
    n = _norm_of(call)
    centred = n.x if n.op == RMS else n.x - n.x.mean(-1, keepdims=True)
    fit = fitted.eps(centred, parting.b, n.w, n.b)
    if fit is not None and all(abs(fit - known) > 0.1 * known for known in (*EPSES, n.eps)):
        yield f"eps near {fit:.3g} for {n.eps:g}", n.run(eps=fit)


def changed_norm(parting: Parting, call: Call) -> Iterator[Try]:
    """A norm with one thing changed; it need not be the activation that differs, but one before it."""
    n = _norm_of(call)
    yield from other_weights(parting, call, n.run)
    for other in EPSES:
        if other != n.eps:
            yield f"eps {other:g} for {n.eps:g}", n.run(eps=other)
    yield "weight of the norm missing", n.run(w=np.ones_like(n.w))
    if n.b is not None:
        nothing = np.zeros_like(n.b)
        yield "bias missing", n.run(b=nothing)
        yield "weight and bias of the norm missing", n.run(w=np.ones_like(n.w), b=nothing)
    yield "1 added to the weight of the norm", n.run(w=n.w + 1)
    yield "norm missing", n.x
    yield from _other_kinds(n)
    if "y" in call.given:
        yield from _summands(parting, call, n)
    elif (before := before_the_norm(parting, n.x)) is not None:
        yield "norm before it missing", n.run(x=before)
    for name in HALVES:
        yield f"dtype: computed in {name}", rounded(n.run(x=rounded(n.x, name)), name)


def _other_kinds(n: Norm) -> Iterator[Try]:
    C = n.x.shape[-1]
    nothing = np.zeros(C)
    if n.op == RMS:
        yield "layer norm for RMS norm", n.run(op="layer_norm", b=nothing)
        return
    yield "RMS norm for layer norm", n.run(op=RMS) + n.b
    if C > 1:
        yield "variance over C - 1", n.run(b=nothing) * ((C - 1) / C) ** 0.5 + n.b


def _summands(parting: Parting, call: Call, n: Norm) -> Iterator[Try]:
    """LN(x + y): either left out, the norm in another place, and what bridges do to either."""
    x, y = call.given["x"], call.given["y"]
    yield "residual missing", n.run(x=y)
    yield "residual alone, without what the layer makes", n.run(x=x)
    yield "norm before the sum, not after it", x + n.run(x=y)
    yield "norm missing after the sum", x + y
    yield "residual doubled", n.run(x=2 * x + y)
    yield "what the layer makes doubled", n.run(x=x + 2 * y)
    yield "what the layer makes subtracted", n.run(x=x - y)
    if "links" in call.path:
        for change, total in link_summands(parting, call):
            yield change, n.run(x=total)


def after_the_sum(parting: Parting) -> Iterator[Try]:
    """A pre-LN layer that norms after its sums, seen at its first norm or at what that is given."""
    path, where, _ = parting.item.key
    layer = parting.judge.weight(path.removesuffix(".self_ln"))
    made = parting.item.call or Call("", "", {}, None)
    stream = made.given.get("x") if where == "out" else parting.item.array
    heads = heads_of(parting, path)
    if layer is None or not heads or stream is None or made.op == RMS or "coder." in path:
        return
    x = double(stream)
    is_opt = path.startswith("language.layers") and parting.judge.model.config.text_config.model_type == "opt"
    mask = _mask_behind_the_queries(parting, x.shape[1]) if is_opt else None
    summed = x + blocks.attend(FLOAT64, layer["self"], x, heads, mask=mask, causal=is_opt)
    if where == "in":
        yield "norm after the sum, not before it", summed
    elif made.op in NORMS:
        yield "norm after the sum, not before it", FLOAT64.layer_norm(**made.given | {"x": summed})


def _mask_behind_the_queries(parting: Parting, tokens: int) -> np.ndarray:
    """Which of OPT's tokens may be seen: the picture's all, then the text's by its mask.   (B, 1, 1, S)"""
    text = np.asarray(parting.inputs["attention_mask"])
    seen = np.ones((len(text), tokens - text.shape[1]), text.dtype)
    return (np.concatenate([seen, text], 1) != 0)[:, None, None]
