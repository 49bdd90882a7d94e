"""BLIP-2's eyes at their real size: ViT-g, the Q-Former, and both with the projection, for one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ... import ops as ops_records
from ...models import blip2, qformer, vit
from . import others, sizes, weights
from .clock import TOLERANCES, Side, measure
from .machine import product_limit
from .rows import Plan, eyes, eyes_table


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """vit, qformer, blip2."""
    config = eyes(plan.layers)
    table, v = eyes_table(config), config.vision_config
    tensors = weights.draw(table)
    p, ops = weights.tree_of(table, tensors), ops_records.get("numpy")
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(1, 3, v.image_size, v.image_size)).astype(np.float32)
    patches = (v.image_size // v.patch_size) ** 2 + 1
    image = rng.normal(size=(1, patches, v.hidden_size)).astype(np.float32)
    theirs = {}
    if plan.others:
        for kind, dtype in others.kinds().items():
            own = tensors if kind == "float32" else weights.draw(table, "BF16")
            theirs[kind] = Theirs(plan.layers, config, own, dtype)
    ours: dict[str, tuple[str, Callable[[], Any], Callable[[Any], Any]]] = {
        "vit": (
            f"ViT-g, {v.num_hidden_layers} layers, one picture",
            lambda: vit.encode(ops, p["vision"], pixels, v),
            lambda other: other.look(pixels),
        ),
        "qformer": (
            f"Q-Former, {config.qformer_config.num_hidden_layers} layers, one picture",
            lambda: qformer.encode(ops, p["qformer"], p["queries"], image, config.qformer_config),
            lambda other: other.ask(image),
        ),
        "blip2": (
            f"ViT-g ({v.num_hidden_layers} layers), Q-Former and projection, one picture",
            lambda: blip2.see(ops, p, pixels, config),
            lambda other: other.see(pixels),
        ),
    }
    for name, (what, run, other) in ours.items():
        if name in plan.rows:
            sides = [
                Side(f"transformers {kind}", "other", other(it), tolerance=TOLERANCES[kind], work=vit_work(v))
                for kind, it in theirs.items()
            ]
            sides.insert(1, Side("minivl float32", "minivl", run, work=vit_work(v)))
            if name == "vit":
                sides.append(product_limit(plan.others))
            yield measure(name, what, sides, plan.rounds, limit="products" if name == "vit" else None)


def vit_work(c: Any) -> float:
    """The operations of one picture: two for each weight and token, and the products of attention."""
    N, C, F = (c.image_size // c.patch_size) ** 2 + 1, c.hidden_size, c.intermediate_size
    layer = 2 * N * (4 * C * C + 2 * C * F) + 4 * N * N * C
    return float(c.num_hidden_layers * layer + 2 * N * C * 3 * c.patch_size**2)


class Theirs:
    """The same parts in transformers, in one dtype; each gives a function that runs."""

    def __init__(self, layers: int | None, config: Any, tensors: weights.Tensors, dtype: Any):
        import torch
        import transformers
        from transformers.models.blip_2 import modeling_blip_2 as reference

        def part(make, settings, prefix):
            return weights.module_of(make, settings, weights.within(tensors, prefix))

        v, q = (
            transformers.Blip2VisionConfig(**sizes.vit(layers)),
            transformers.Blip2QFormerConfig(**sizes.qformer(layers)),
        )
        self.vision = part(reference.Blip2VisionModel, v, "vision_model.")
        self.qformer = part(reference.Blip2QFormerModel, q, "qformer.")
        wide, narrow = config.text_config.hidden_size, config.qformer_config.hidden_size
        self.projection = part(lambda _: torch.nn.Linear(narrow, wide), None, "language_projection.")
        self.queries, self.dtype = weights.tensor_of(tensors["query_tokens"]), dtype

    def look(self, pixels: np.ndarray) -> Callable[[], Any]:
        x = self._tensor(pixels)
        return others.frozen(lambda: self.vision(x).last_hidden_state)

    def ask(self, image: np.ndarray) -> Callable[[], Any]:
        x = self._tensor(image)
        return others.frozen(lambda: self._answers(x))

    def see(self, pixels: np.ndarray) -> Callable[[], Any]:
        x = self._tensor(pixels)
        return others.frozen(lambda: self.projection(self._answers(self.vision(x).last_hidden_state)))

    def _answers(self, image: Any) -> Any:
        return self.qformer(query_embeds=self.queries, encoder_hidden_states=image).last_hidden_state

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).to(self.dtype)
