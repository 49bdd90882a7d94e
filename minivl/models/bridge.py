"""The bridges: how each upper layer of the two towers enters the cross-modal layers.

Source: Xu et al. 2023 (BridgeTower), section 3; BridgeTowerLinkTower and BridgeTowerBertCrossLayer in transformers.
Letters: B batch, T words, N patches + 1, C width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.blip2 import ACTIVATIONS
from . import blocks

if TYPE_CHECKING:
    from ..config.bridgetower import BridgeTowerTextConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def link(ops: Ops, p: Tree, tower: Array, crossed: Array) -> Array:
    """What a tower's next layer says, added to what the cross-modal layers have made so far, and normed.

        add          LN(tower + crossed)
        scaled_add   LN(tower · s + crossed)
        interpolate  LN(tower · (1 - β) + crossed · β)

    Which it is follows from the weights that are there.   tower, crossed (B, T, C)   ->   (B, T, C)
    """
    if "scale" in p:
        tower = tower * p["scale"]  # (B, T, C)
    if "beta" in p:
        tower, crossed = tower * (1 - p["beta"]), crossed * p["beta"]  # (B, T, C), (B, T, C)
    return ops.add_layer_norm(tower, crossed, **p["ln"])


def cross(
    ops: Ops, p_text: Tree, p_image: Tree, text: Array, image: Array, mask: Array, config: BridgeTowerTextConfig
) -> tuple[Array, Array]:
    """One pair of cross-modal layers: the text looks at the picture while the picture looks at the text.

    Both read the same inputs; neither waits for the other.
    text (B, T, C)   image (B, N, C)   mask (B, 1, 1, T) bool   ->   (B, T, C), (B, N, C)
    """
    heads, act = config.num_attention_heads, ACTIVATIONS[config.hidden_act]
    return (
        blocks.post_ln_layer(ops, p_text, text, heads, act, image, mask=mask),
        blocks.post_ln_layer(ops, p_image, image, heads, act, text, memory_mask=mask),
    )
