"""BridgeTower's reader: RoBERTa, a stack of post-LN layers over the words of a text.

    words + positions + one token type -> norm -> layers

Source: Liu et al. 2019 (RoBERTa); BridgeTowerTextModel in transformers.
Letters: B batch, T tokens, C width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..config.blip2 import ACTIVATIONS
from ..errors import InputError
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.bridgetower import BridgeTowerTextConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree


def positions(ids: Array, pad: int) -> Array:
    """Words are counted along the text, padding is passed over: the first word is in row pad + 1, padding in row pad.

    ids (B, T)   ->   (B, T)
    """
    word = ids != pad  # (B, T)
    return word.cumsum(-1) * word + pad


def embed(ops: Ops, p: Tree, ids: Array, config: BridgeTowerTextConfig) -> Array:
    """ids (B, T)   ->   (B, T, C)"""
    x = ops.embed(ids, p["words"]) + p["types"][0]  # (B, T, C)
    if config.position_embedding_type == "absolute":  # the relative types add theirs to the scores, in every layer
        pad = cast(int, config.pad_token_id)  # its check() refuses None
        rows, most = positions(ids, pad), len(p["positions"]) - pad - 1
        if rows.max() >= len(p["positions"]):
            raise InputError(
                f"a text is longer than the {most} tokens that the text tower has positions for: shorten it"
            )
        x = x + ops.embed(rows, p["positions"])  # (B, T, C)
    return ops.layer_norm(x, **p["ln"])


def states(ops: Ops, p: Tree, ids: Array, mask: Array, config: BridgeTowerTextConfig) -> Iterator[Array]:
    """Yield the hidden states x_0 (the normed embeddings) ... x_L, (B, T, C) each.

    ids (B, T)
    mask (B, T)   0 hides a token
    """
    act = ACTIVATIONS[config.hidden_act]
    keys = (mask != 0)[:, None, None]  # (B, 1, 1, T)
    x = embed(ops, p, ids, config)  # (B, T, C)
    yield x
    for layer in p["layers"]:
        x = blocks.post_ln_layer(ops, layer, x, config.num_attention_heads, act, mask=keys)  # (B, T, C)
        yield x
