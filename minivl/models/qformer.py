"""The bridge of BLIP-2: a few learned queries ask the picture questions, and only their answers reach the language
model.

    queries -> norm -> post-LN layers, every `cross_attention_frequency`-th of them looking at the picture

Source: Li et al. 2023 (BLIP-2), section 3.1; Blip2QFormerModel in transformers.
Letters: B batch, Q queries, C width, N patches + 1, M the picture's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.blip2 import ACTIVATIONS
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.blip2 import Blip2QFormerConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def states(ops: Ops, p: Tree, queries: Array, image: Array, config: Blip2QFormerConfig) -> Iterator[Array]:
    """Yield the hidden states h_0 (the normed queries) ... h_L, (B, Q, C) each.

    queries (1, Q, C), the same for every picture   image (B, N, M), the vision tower's last state
    """
    act = ACTIVATIONS[config.hidden_act]
    x = ops.layer_norm(ops.broadcast_to(queries, (image.shape[0], *queries.shape[1:])), **p["ln"])  # (B, Q, C)
    yield x
    for layer in p["layers"]:
        x = blocks.post_ln_layer(ops, layer, x, config.num_attention_heads, act, image)  # (B, Q, C)
        yield x


def encode(ops: Ops, p: Tree, queries: Array, image: Array, config: Blip2QFormerConfig) -> Array:
    """queries (1, Q, C)   image (B, N, M)   ->   (B, Q, C)"""
    return blocks.last(states(ops, p, queries, image, config))
