"""BLIP-2's eyes: ViT-g, a stack of pre-LN layers over the patches of a picture.

    pixels -> patches, a class token in front, positions -> layers -> one last norm

Source: Blip2VisionModel in transformers; EVA-CLIP's ViT-g (Sun et al. 2023).
Letters: B batch, N patches + 1, C width, Y and X the picture's height and width.
"""

from __future__ import annotations

from ..errors import InputError
from . import blocks


def embed(ops, p, pixels, config):
    """Patches become tokens: one linear layer, a class token in front, and a learned position added to each.

    pixels (B, 3, Y, X)   ->   (B, N, C)
    """
    size = config.image_size
    if tuple(pixels.shape[1:]) != (3, size, size):  # a smaller picture would run, with its positions silently wrong
        raise InputError(f"pixel_values have shape {tuple(pixels.shape)}, this model takes (batch, 3, {size}, {size})")
    patches = ops.patch_embed(pixels, **p["patch"])  # (B, N - 1, C)
    first = ops.broadcast_to(p["class_token"], (patches.shape[0], *p["class_token"].shape[1:]))  # (B, 1, C)
    return ops.concat([first, patches], 1) + p["positions"]


def states(ops, p, pixels, config):
    """Yield the hidden states x_0 (the embedded patches) ... x_L, (B, N, C) each, without the last norm."""
    act = blocks.activation(ops, config.hidden_act)
    x = embed(ops, p, pixels, config)  # (B, N, C)
    yield x
    for layer in p["layers"]:
        x = blocks.pre_ln_layer(ops, layer, x, config.num_attention_heads, act)  # (B, N, C)
        yield x


def encode(ops, p, pixels, config):
    """pixels (B, 3, Y, X)   ->   (B, N, C), the class token first."""
    return ops.layer_norm(blocks.last(states(ops, p, pixels, config)), **p["ln"])


def pool(ops, p, encoded):
    """The class token, normed once more by the same norm, as the reference does.   encoded (B, N, C) -> (B, C)"""
    return ops.layer_norm(encoded[:, 0], **p["ln"])
