"""BLIP-2's eyes: ViT-g, a stack of pre-LN layers over the patches of a picture.

    pixels -> patches, a class token in front, positions -> layers -> one last norm

Source: Blip2VisionModel in transformers; EVA-CLIP's ViT-g (Sun et al. 2023).
Letters: B batch, N patches + 1, C width, Y and X the picture's height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.blip2 import ACTIVATIONS
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.blip2 import Blip2VisionConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def states(ops: Ops, p: Tree, pixels: Array, config: Blip2VisionConfig) -> Iterator[Array]:
    """Yield the hidden states x_0 (the embedded patches) ... x_L, (B, N, C) each, without the last norm."""
    act = ACTIVATIONS[config.hidden_act]
    x = blocks.embed_picture(ops, p, pixels, config.image_size)  # (B, N, C)
    yield x
    for layer in p["layers"]:
        x = blocks.pre_ln_layer(ops, layer, x, config.num_attention_heads, act)  # (B, N, C)
        yield x


def encode(ops: Ops, p: Tree, pixels: Array, config: Blip2VisionConfig) -> Array:
    """pixels (B, 3, Y, X)   ->   (B, N, C), the class token first."""
    return ops.layer_norm(blocks.last(states(ops, p, pixels, config)), **p["ln"])


def pool(ops: Ops, p: Tree, encoded: Array) -> Array:
    """The class token, normed once more by the same norm, as the reference does.   encoded (B, N, C) -> (B, C)"""
    return ops.layer_norm(encoded[:, 0], **p["ln"])
