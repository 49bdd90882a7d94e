"""BridgeTower's eyes: CLIP's ViT, whose every layer is of use, because the bridges start from several of them.

    pixels -> patches, a class token in front, positions -> norm -> layers

Source: Radford et al. 2021 (CLIP), section 2.4; BridgeTowerVisionModel in transformers.
Letters: B batch, N patches + 1, C width, Y and X the picture's height and width.
"""

from __future__ import annotations

from ..config.bridgetower import HEAD_WIDTH
from . import blocks


def embed(ops, p, pixels, config):
    """pixels (B, 3, Y, X)   ->   (B, N, C), normed before the first layer, as ViT-g's are not"""
    return ops.layer_norm(blocks.embed_picture(ops, p, pixels, config.image_size), **p["ln_pre"])


def states(ops, p, x, config):
    """Yield the hidden states x_0 (the embedded picture, given) ... x_L, (B, N, C) each."""
    heads = config.hidden_size // HEAD_WIDTH
    yield x
    for layer in p["layers"]:
        x = blocks.pre_ln_layer(ops, layer, x, heads, "quick_gelu")  # (B, N, C)
        yield x
