"""How cost grows: with pictures through ViT-g, with tokens through OPT. Two layers tell as much as all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ... import ops as ops_records
from ...config.blip2 import OPTConfig
from ...models import opt, vit
from ...weights import names
from . import others, sizes, weights
from .clock import Side, measure
from .language import TheirOPT
from .rows import Plan, eyes, eyes_table
from .vision import Theirs

LAYERS = 2
PICTURES = (1, 2, 4, 8)
TOKENS = (32, 64, 128, 256, 512, 1024)


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """Pictures, then tokens; `most` is the power with which cost may grow."""
    yield _swept(plan, f"ViT-g, {LAYERS} layers: pictures", PICTURES, 1, *_pictures(plan))
    yield _swept(plan, f"OPT-2.7b, {LAYERS} layers: tokens read", TOKENS, 2, *_tokens(plan))


def _swept(plan: Plan, what: str, counts: tuple[int, ...], most: int, ours: Callable, theirs: Any) -> dict[str, Any]:
    """Each count is measured like a row; the sweep keeps each side's times by count."""
    found: dict[str, list[list[float]]] = {}
    counts = counts[: len(counts) // 2] if plan.quick else counts
    for count in counts:
        sides = [Side("minivl float32", "minivl", ours(count))]
        if theirs is not None:
            sides.insert(0, Side("transformers float32", "other", theirs(count)))
        for side in measure("sweep", what, sides, plan.rounds)["sides"]:
            found.setdefault(side["name"], []).append(side["seconds"])
    told = [{"name": name, "whose": name.split()[0], "seconds": times} for name, times in found.items()]
    for side in told:
        side["whose"] = "minivl" if side["whose"] == "minivl" else "other"
    return {"kind": "sweep", "row": "sweep", "what": what, "counts": list(counts), "most": most, "sides": told}


def _pictures(plan: Plan) -> tuple[Callable, Callable | None]:
    config = eyes(LAYERS)
    table, v, ops = eyes_table(config), config.vision_config, ops_records.get("numpy")
    tensors = weights.draw(table)
    p = weights.tree_of(table, tensors)
    shape = (3, v.image_size, v.image_size)
    pixels = np.random.default_rng(1).normal(size=(max(PICTURES), *shape)).astype(np.float32)

    def ours(count: int) -> Callable[[], np.ndarray]:
        return lambda: vit.encode(ops, p["vision"], pixels[:count], v)

    if not plan.others:
        return ours, None
    theirs = Theirs(LAYERS, config, tensors, others.kinds()["float32"])
    return ours, lambda count: theirs.look(pixels[:count])


def _tokens(plan: Plan) -> tuple[Callable, Callable | None]:
    config, ops = OPTConfig(**sizes.opt(LAYERS)), ops_records.get("numpy")
    table = list(names.opt(config))
    tensors = weights.draw(table)
    p = weights.tree_of(table, tensors)
    embeds = np.random.default_rng(1).normal(0, 0.5, (1, max(TOKENS), config.hidden_size)).astype(np.float32)

    def given(count: int) -> tuple[np.ndarray, np.ndarray]:
        return embeds[:, :count], np.ones((1, count), np.int64)

    def ours(count: int) -> Callable[[], np.ndarray]:
        x, mask = given(count)
        return lambda: opt.Reader(ops, p, x, mask, config).step(None)

    if not plan.others:
        return ours, None
    import transformers

    size = transformers.OPTConfig(**sizes.opt(LAYERS))
    theirs = TheirOPT(weights.module_of(transformers.OPTForCausalLM, size, tensors))
    return ours, lambda count: lambda: theirs.read(*given(count))[0]
