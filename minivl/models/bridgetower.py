"""BridgeTower as one flow: two towers side by side, and bridges from their upper layers into cross-modal layers.

    text_tower, image_tower         RoBERTa's and CLIP's states, layer by layer
    fuse                            the cross-modal states, pair by pair
    pool, match, fill, contrast     what the heads make of them

Source: Xu et al. 2023 (BridgeTower), figure 2; BridgeTowerModel and its heads in transformers 4.37.
Letters: B batch, T words, N patches + 1, C width, M the vision tower's width, K the contrastive width, V vocabulary.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from ..config.blip2 import ACTIVATIONS
from . import bridge, clip_vit, roberta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.bridgetower import BridgeTowerConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def text_tower(ops: Ops, p: Tree, ids: Array, mask: Array, config: BridgeTowerConfig) -> list[Array]:
    """The text tower's states, from its embeddings to its last layer.   ids, mask (B, T)   ->   list of (B, T, C)"""
    return list(roberta.states(ops, p["text"], ids, mask, config.text_config))


def image_tower(ops: Ops, p: Tree, embedded: Array, config: BridgeTowerConfig) -> list[Array]:
    """The vision tower's states, from its embeddings to the last that is bridged.

    embedded (B, N, M)   ->   list of (B, N, M)
    """
    used = bridged(config)[1] + config.num_hidden_layers
    return list(islice(clip_vit.states(ops, p["vision"], embedded, config.vision_config), used))


def bridged(config: BridgeTowerConfig) -> tuple[int, int]:
    """Which state of the text tower and which of the vision tower the first cross-modal layer starts from.

    The last text layer meets the last cross-modal layer. The vision tower goes in step with the text tower; one that is
    too short for that is bridged from its own end.
    """
    first = config.text_config.num_hidden_layers - config.num_hidden_layers + 1
    return first, min(first, config.vision_config.depth - config.num_hidden_layers + 1)


def transformed(ops: Ops, p: Tree, tower: Array, name: str, j: int, token_type: int) -> Array:
    """A tower's state in the cross-modal width, marked as text or picture.   tower (B, T, M)   ->   (B, T, C)"""
    transform = p[f"{name}_transform"]
    if isinstance(transform, list):  # each cross-modal layer has its own
        transform = transform[j]
    return ops.linear(tower, **transform) + p["token_types"][token_type]


def image_state(ops: Ops, p: Tree, state: Array, j: int, token_type: int = 1) -> Array:
    """A state of the vision tower as the bridges take it: normed first.   state (B, N, M)   ->   (B, N, C)"""
    return transformed(ops, p, ops.layer_norm(state, **p["vision"]["ln_post"]), "image", j, token_type)


def fuse(
    ops: Ops, p: Tree, texts: Array, images: Array, mask: Array, config: BridgeTowerConfig, token_type: int = 1
) -> Iterator[tuple[Array, Array]]:
    """Yield the cross-modal states, one pair (B, T, C), (B, N, C) for each pair of layers.

    texts, images   the towers' states, from `text_tower` and `image_tower`
    mask (B, T)     0 hides a word
    """
    keys = (mask != 0)[:, None, None]  # (B, 1, 1, T)
    first_text, first_image = bridged(config)
    for j in range(config.num_hidden_layers):
        tower_text = transformed(ops, p, texts[first_text + j], "text", j, 0)  # (B, T, C)
        tower_image = image_state(ops, p, images[first_image + j], j, token_type)  # (B, N, C)
        if j == 0:
            text = ops.layer_norm(tower_text, **p["text_ln"])  # (B, T, C)
            image = ops.layer_norm(tower_image, **p["image_ln"])  # (B, N, C)
        else:
            text = bridge.link(ops, link_weights(p["text_links"], j), tower_text, text)  # (B, T, C)
            image = bridge.link(ops, link_weights(p["image_links"], j), tower_image, image)  # (B, N, C)
        text, image = bridge.cross(
            ops, p["text_layers"][j], p["image_layers"][j], text, image, keys, config.text_config
        )
        yield text, image


def link_weights(links: Any, j: int) -> Tree:
    """The link in front of cross-modal layer j: one for each of them but the first, or one that all share."""
    return links[j - 1] if isinstance(links, list) else links


def pool(ops: Ops, p: Tree, text: Array, image: Array) -> Array:
    """One vector for the pair, the first word's and the class token's halves.

    text (B, T, C)   image (B, N, C)   ->   (B, 2·C)
    """
    halves = [ops.tanh(ops.linear(x[:, 0], **p[name])) for x, name in ((text, "text_pooler"), (image, "image_pooler"))]
    return ops.concat(halves, -1)


def match(ops: Ops, p: Tree, pooled: Array) -> Array:
    """Do text and picture belong together? Scores of no and yes.   pooled (B, 2·C) -> (B, 2)"""
    return ops.linear(pooled, **p["itm"])


def fill(ops: Ops, p: Tree, text: Array, config: BridgeTowerConfig) -> Array:
    """The score of every word at every place of the text.   text (B, T, C) -> (B, T, V)"""
    dense = ops.linear_act(text, **p["mlm"]["dense"], act=ACTIVATIONS[config.hidden_act])  # (B, T, C)
    hidden = ops.layer_norm(dense, **p["mlm"]["ln"])  # (B, T, C)
    table = p["mlm"]["decoder"]["w"] if "decoder" in p["mlm"] else p["text"]["words"]  # (V, C)
    return ops.linear(hidden, table, p["mlm"]["bias"])


def text_vector(ops: Ops, p: Tree, state: Array) -> Array:
    """The contrastive vector of a text, from the text tower's last state.   state (B, T, C) -> (B, K)"""
    return contrast(ops, p, state[:, 0], "text")


def image_vector(ops: Ops, p: Tree, state: Array, config: BridgeTowerConfig) -> Array:
    """The contrastive vector of a picture, from the vision tower's last state.   state (B, N, M) -> (B, K)"""
    return contrast(ops, p, image_state(ops, p, state, config.num_hidden_layers - 1)[:, 0], "image")


def contrast(ops: Ops, p: Tree, x: Array, head: str) -> Array:
    """A vector of length 1 that can be compared with those of the other heads: text, image or cross.

    x (B, C), or (B, 2·C) for the cross head   ->   (B, K)
    """
    y = ops.linear(x, **p["itc"][head])  # (B, K)
    length = (y * y).sum(-1)[:, None] ** 0.5  # (B, 1)
    return y / length.clip(min=1e-12)
