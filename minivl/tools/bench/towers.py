"""BridgeTower base: the trunk and each head, for one pair of text and picture and for eight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ...api import bridgetower as api
from ...config.bridgetower import BridgeTowerConfig
from . import others, sizes, weights
from .clock import TOLERANCES, Side, measure
from .rows import Plan

WORDS = 16
BATCHES = (1, 8)
FEW = (1, 2)  # with --quick


class Head(NamedTuple):
    """A class of ours, transformers' class of the same name, and the output that is compared."""

    what: str
    face: Any
    output: Callable[[Any], Any]


def _vectors(out: Any) -> Any:
    return out.cross_embeds


def _scores(out: Any) -> Any:
    return out.logits


HEADS = {
    "bridgetower": Head("", api.BridgeTowerModel, lambda out: out.pooler_output),
    "bridgetower-match": Head(", matching", api.BridgeTowerForImageAndTextRetrieval, _scores),
    "bridgetower-fill": Head(", masked words", api.BridgeTowerForMaskedLM, _scores),
    "bridgetower-contrast": Head(", contrast", api.BridgeTowerForContrastiveLearning, _vectors),
}


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The wanted heads, one after the other, so that one model is in memory at a time."""
    for name, head in HEADS.items():
        if name in plan.rows:
            yield from _head(plan, name, head)


def _head(plan: Plan, name: str, head: Head) -> Iterator[dict[str, Any]]:
    config = BridgeTowerConfig(**sizes.bridgetower(plan.layers))
    table = list(head.face.table(config))
    tensors = weights.draw(table)
    model = head.face(config, params=weights.tree_of(table, tensors))
    theirs = {}
    if plan.others:
        theirs["float32"] = _theirs(plan, head, tensors)
        theirs["bfloat16"] = _theirs(plan, head, weights.draw(table, "BF16"))
    rng = np.random.default_rng(1)
    side = config.vision_config.image_size
    for batch in BATCHES if not plan.quick else FEW[:1] if head.what else FEW:
        pixels = rng.normal(size=(batch, 3, side, side)).astype(np.float32)
        ids = rng.integers(4, config.text_config.vocab_size, (batch, WORDS))
        sides = [_their_side(kind, module, head, ids, pixels) for kind, module in theirs.items()]
        sides.insert(1, _our_side(model, head, ids, pixels))
        what = f"BridgeTower base{head.what}, {batch} pair{'s' * (batch > 1)}"
        yield measure(name, what, sides, plan.rounds)


def _our_side(model: Any, head: Head, ids: np.ndarray, pixels: np.ndarray) -> Side:
    return Side("minivl float32", "minivl", lambda: head.output(model(ids, pixel_values=pixels)))


def _theirs(plan: Plan, head: Head, tensors: weights.Tensors) -> Any:
    import transformers
    from transformers.models.bridgetower import modeling_bridgetower as reference

    config = transformers.BridgeTowerConfig(**sizes.bridgetower(plan.layers))
    return weights.module_of(getattr(reference, head.face.__name__), config, tensors)


def _their_side(kind: str, module: Any, head: Head, ids: np.ndarray, pixels: np.ndarray) -> Side:
    import torch

    x, words = torch.from_numpy(pixels).to(others.kinds()[kind]), torch.from_numpy(ids)
    run = others.frozen(lambda: head.output(module(input_ids=words, pixel_values=x)))
    return Side(f"transformers {kind}", "other", run, tolerance=TOLERANCES[kind])
