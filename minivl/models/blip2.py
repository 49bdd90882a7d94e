"""BLIP-2 as one flow:  picture -> ViT -> Q-Former -> projection -> language model.

The picture reaches the language model as a few soft words, written in front of the prompt's own.

Source: Li et al. 2023 (BLIP-2), figure 3; Blip2ForConditionalGeneration in transformers 4.37.
Letters: B batch, Q queries, T prompt tokens, S = Q + T, C the language model's width.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import qformer, vit

if TYPE_CHECKING:
    from types import ModuleType

    from ..config.blip2 import Blip2Config
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def language(config: Blip2Config) -> ModuleType:
    """The module of a configuration's language model: both have `first_token` and `Reader`, which generate() uses."""
    return import_module(f".{config.text_config.model_type}", __package__)


def see(ops: Ops, p: Tree, pixels: Array, config: Blip2Config) -> Array:
    """A picture becomes Q soft words.   pixels (B, 3, Y, X) -> (B, Q, C)"""
    image = vit.encode(ops, p["vision"], pixels, config.vision_config)
    answers = qformer.encode(ops, p["qformer"], p["queries"], image, config.qformer_config)
    return ops.linear(answers, **p["projection"])


def prompt(ops: Ops, p: Tree, soft_words: Array, ids: Array, mask: Array) -> tuple[Array, Array]:
    """Soft words first, then the prompt, and one mask over both.

    soft_words (B, Q, C)   ids, mask (B, T) integer   ->   (B, S, C), (B, S)
    """
    words = ops.embed(ids, p["language"]["tokens"])  # (B, T, C)
    seen = mask[:, :1] * 0 + 1  # (B, 1)
    seen = ops.broadcast_to(seen, soft_words.shape[:2])  # (B, Q)
    return ops.concat([soft_words, words], 1), ops.concat([seen, mask], 1)
