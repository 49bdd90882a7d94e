"""BLIP-2's voice: OPT, a stack of causal layers that turns what came before into the next token.

    embeddings + positions -> layers -> norm -> logits, by the embedding table itself where the head is tied

Source: Zhang et al. 2022 (OPT); OPTForCausalLM in transformers.
Letters: B batch, T tokens of this call, S tokens so far, C width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config.blip2 import ACTIVATIONS
from ..errors import InputError
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.blip2 import OPTConfig
    from ..ops import Array, Ops
    from ..weights.tree import Tree

OFFSET = 2  # OPT's position table keeps two rows for itself: the first real token stands in row 2, hidden ones in row 1


def new_cache(p: Tree) -> list[blocks.KeyValueCache]:
    """One empty cache for each layer."""
    return [blocks.KeyValueCache() for _ in p["layers"]]


def add_positions(ops: Ops, p: Tree, x: Array, mask: Array, config: OPTConfig) -> Array:
    """Tokens are counted along the mask, so left padding does not shift what is said.

    x (B, T, C)   mask (B, S) of 0 and 1, over everything so far   ->   (B, T, C)
    """
    T, S = x.shape[1], mask.shape[1]
    if S > config.max_position_embeddings:
        raise InputError(
            f"{S} tokens (picture, prompt and answer together) are more than the language model has positions for:"
            f" {config.max_position_embeddings}; shorten the prompt or ask for fewer new tokens"
        )
    rows = mask.cumsum(-1) * mask - 1 + OFFSET  # (B, S)
    return x + ops.embed(rows[:, S - T :], p["positions"])


def states(
    ops: Ops, p: Tree, x: Array, mask: Array, config: OPTConfig, cache: list[blocks.KeyValueCache] | None = None
) -> Iterator[Array]:
    """Yield the hidden states: x_0 (embeddings + positions) ... x_L, (B, T, C) each; the last one after the last norm.

    x (B, T, C)   embedded tokens of this call
    mask (B, S)   0 hides a token, of this call and of the cached ones
    cache         from `new_cache`; holds the S - T tokens of earlier calls
    """
    act = ACTIVATIONS[config.activation_function]
    block = blocks.pre_ln_layer if config.do_layer_norm_before else blocks.post_ln_layer
    keys = (mask != 0)[:, None, None]  # (B, 1, 1, S)
    x = add_positions(ops, p, x, mask, config)  # (B, T, C)
    for i, layer in enumerate(p["layers"]):
        yield x
        memory = cache[i] if cache else None
        x = block(ops, layer, x, config.num_attention_heads, act, mask=keys, causal=True, cache=memory)  # (B, T, C)
    yield ops.layer_norm(x, **p["ln"]) if "ln" in p else x


class Reader:
    """Reads the prompt, then one more token of each row at a time, and says how likely every word is to come next.

        reader.step(None)         reads the prompt                         ->  ndarray (B, V)
        reader.step(tokens)       one more token (B,) for each row         ->  ndarray (B, V)
        reader.reorder(rows)      afterwards row i goes on where row rows[i] stood; rows may repeat, and there may be
                                  more or fewer of them than before

    This is all that minivl/generate knows of a language model.
    """

    def __init__(self, ops: Ops, p: Tree, embeds: Array, mask: Array, config: OPTConfig) -> None:
        """embeds (B, S, C)   mask (B, S)"""
        self.ops, self.p, self.config = ops, p, config
        self.embeds, self.mask = embeds, mask
        self.cache = new_cache(p)

    def step(self, tokens: np.ndarray | None) -> Array:
        """tokens (B,) or None   ->   (B, V)"""
        ops = self.ops
        if tokens is None:
            mask = ops.to_numpy(self.mask)
            end = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)  # a right-padded prompt ends before its last place
            x = self._read(self.embeds)[np.arange(len(end)), end]  # (B, C)
        else:
            self.mask = ops.concat([self.mask, self.mask[:, :1] * 0 + 1], 1)
            x = self._read(ops.embed(ops.from_numpy(tokens[:, None]), self.p["tokens"]))[:, 0]  # (B, C)
        return ops.to_numpy(logits(ops, self.p, x))

    def reorder(self, rows: np.ndarray) -> None:
        """rows (B,), numbers of rows so far"""
        rows = self.ops.from_numpy(rows)
        self.mask = self.mask[rows]
        for layer in self.cache:
            layer.reorder(rows)

    def _read(self, x: Array) -> Array:
        """x (B, T, C)   ->   (B, T, C)"""
        return blocks.last(states(self.ops, self.p, x, self.mask, self.config, self.cache))


def first_token(config: OPTConfig) -> int | None:
    """The id that every answer begins with, before any new token."""
    return config.bos_token_id


def logits(ops: Ops, p: Tree, x: Array) -> Array:
    """The score of every word as the next one.   x (..., C) -> (..., V)"""
    return ops.linear(x, p["head"]["w"] if "head" in p else p["tokens"])
