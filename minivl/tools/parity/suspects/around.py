"""What is known around the layer that differs: the norm before it, how many heads it has, what the stream held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ....tracing import NORMS, Call, Item
from ..float64 import double
from ..flow import Parting
from ..weights import rounded

HALVES = ("bfloat16", "float16")
Try = tuple[str, Any]  # a change, and what the activation would be with it


def as_double(call: Call) -> Call:
    """The call with all its arrays in float64; those of the calls inside it too."""
    given = {name: as_double(value) if isinstance(value, Call) else double(value) for name, value in call.given.items()}
    return call._replace(given=given, output=double(call.output))


def rounded_results(parting: Parting) -> Iterator[Try]:
    """The result itself rounded, whatever made it."""
    for name in HALVES:
        yield f"dtype: rounded to {name}", rounded(parting.wanted, name)


def in_fewer_bits(run: Callable[..., Any], x: Any, w: Any, b: Any) -> Iterator[Try]:
    """The weight of a layer alone rounded, or all of it.   run(x, w, b)   makes the activation"""
    for name in HALVES:
        small = rounded(w, name)
        yield f"dtype: weight rounded to {name}", run(x, small, b)
        bias = None if b is None else rounded(b, name)
        yield f"dtype: computed in {name}", rounded(run(rounded(x, name), small, bias), name)
    yield "dtype: weight rounded to int8", run(x, rounded(w, "int8"), b)


def norm_that_made(parting: Parting, x: Any) -> Item | None:
    """The norm whose result is x; a post-LN layer's, with its sum inside, too."""
    made_by = (item for item in _norms(parting, (*NORMS, "add_layer_norm"), x) if _is(item.array, x))
    return next(made_by, None)


def before_the_norm(parting: Parting, x: Any) -> Any:
    """What the norm was given whose result is x, or None."""
    norm = norm_that_made(parting, x)
    if norm is None or norm.call is None:
        return None
    given = as_double(norm.call).given
    return given["x"] + given.get("y", 0)


def behind_the_norm(parting: Parting, x: Any) -> Any:
    """The norm of x, if it was made lately, or None."""
    made_of = (item for item in _norms(parting, NORMS, x) if item.call and _is(item.call.given["x"], x))
    norm = next(made_of, None)
    return None if norm is None else double(norm.array)


def _norms(parting: Parting, ops: tuple[str, ...], x: Any) -> Iterator[Item]:
    for item in reversed(parting.past):
        if item.call and item.key[1] == "out" and item.call.op in ops and np.shape(item.array) == np.shape(x):
            yield item


def _is(array: Any, x: Any) -> bool:
    return np.array_equal(double(array), x)


def heads_of(parting: Parting, path: str) -> int:
    """How many heads the attention at a path has; 0 where there is none."""
    config, first = parting.judge.model.config, path.split(".")[0]
    if first == "vision":
        c = config.vision_config
        return getattr(c, "num_attention_heads", 0) or max(1, c.hidden_size // 64)  # CLIP's has no such setting
    if first == "qformer":
        return config.qformer_config.num_attention_heads
    if first in ("language", "text", "text_layers", "image_layers"):  # BridgeTower's cross-modal layers: as the text's
        return config.text_config.num_attention_heads
    return 0


def in_words(act: str) -> str:
    """The name of an activation function, said so that the two gelus are told apart."""
    return {"gelu": "gelu (exact)", "gelu_tanh": "gelu (tanh)"}.get(act, act)
