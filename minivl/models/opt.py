"""BLIP-2's voice: OPT, a stack of causal layers that turns what came before into the next token.

    embeddings + positions -> layers -> norm -> logits, by the embedding table itself where the head is tied

Source: Zhang et al. 2022 (OPT); OPTForCausalLM in transformers.
Letters: B batch, T tokens of this call, S tokens so far, C width, V vocabulary.
"""

from __future__ import annotations

from ..errors import InputError
from . import blocks
from .cache import KeyValueCache

OFFSET = 2  # OPT's position table keeps two rows for itself: the first real token stands in row 2, hidden ones in row 1


def new_cache(p):
    """One empty cache for each layer."""
    return [KeyValueCache() for _ in p["layers"]]


def add_positions(ops, p, x, mask, config):
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


def states(ops, p, x, mask, config, cache=None):
    """Yield the hidden states: x_0 (embeddings + positions) ... x_L, (B, T, C) each; the last one after the last norm.

    x (B, T, C)   embedded tokens of this call
    mask (B, S)   0 hides a token, of this call and of the cached ones
    cache         from `new_cache`; holds the S - T tokens of earlier calls
    """
    act = blocks.activation(ops, config.activation_function)
    block = blocks.pre_ln_layer if config.do_layer_norm_before else blocks.post_ln_layer
    keys = (mask != 0)[:, None, None]  # (B, 1, 1, S)
    x = add_positions(ops, p, x, mask, config)  # (B, T, C)
    for i, layer in enumerate(p["layers"]):
        yield x
        memory = cache[i] if cache else None
        x = block(ops, layer, x, config.num_attention_heads, act, mask=keys, causal=True, cache=memory)  # (B, T, C)
    yield ops.layer_norm(x, **p["ln"]) if "ln" in p else x


def logits(ops, p, x):
    """The score of every word as the next one.   x (..., C) -> (..., V)"""
    return ops.linear(x, p["head"]["w"] if "head" in p else p["tokens"])
