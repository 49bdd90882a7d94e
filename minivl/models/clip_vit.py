"""BridgeTower's eyes: CLIP's ViT, whose every layer is of use, because the bridges start from several of them.

    pixels -> patches, a class token in front, positions -> norm -> layers

Source: Radford et al. 2021 (CLIP), section 2.4; BridgeTowerVisionModel in transformers.
Letters: B batch, N patches + 1, C width, Y and X the picture's height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.bridgetower import HEAD_WIDTH
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.bridgetower import BridgeTowerVisionConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def embed(ops: Ops, p: Tree, pixels: Array, config: BridgeTowerVisionConfig) -> Array:
    """pixels (B, 3, Y, X)   ->   (B, N, C), normed before the first layer, as ViT-g's are not"""
    return ops.layer_norm(blocks.embed_picture(ops, p, pixels, config.image_size), **p["ln_pre"])


def states(ops: Ops, p: Tree, x: Array, config: BridgeTowerVisionConfig) -> Iterator[Array]:
    """Yield the hidden states x_0 (the embedded picture, given) ... x_L, (B, N, C) each."""
    heads = config.hidden_size // HEAD_WIDTH
    yield x
    for layer in p["layers"]:
        x = blocks.pre_ln_layer(ops, layer, x, heads, "quick_gelu")  # (B, N, C)
        yield x
