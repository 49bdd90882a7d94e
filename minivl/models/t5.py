"""BLIP-2's other voice: T5, an encoder that reads the soft words and the prompt, and a decoder that writes the answer.

    encoder:  x = x + attend(RMS(x));  x = x + mlp(RMS(x))                               each token sees all of them
    decoder:  x = x + attend(RMS(x));  x = x + look(RMS(x), memory);  x = x + mlp(RMS(x))    each sees those before it

Places are not in the tokens but in the scores: the distance of query and key falls into a bucket, and each head has a
number for each bucket, which is added to the score. One such table serves all layers of a stack. Scores are not divided
by √D: the weights were trained to do without. No matrix has a bias.

Source: Raffel et al. 2020 (T5), section 2.1; Chung et al. 2022 (Flan-T5); T5ForConditionalGeneration in transformers.
Letters: B batch, T tokens of this call, S tokens that may be seen, C width, H heads, D head width, F MLP width,
V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.blip2 import ACTIVATIONS
from ..errors import ConfigError
from . import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..config.blip2 import T5Config
    from ..ops import Array, Ops
    from ..weights.tree import Tree

HIDDEN = -1e30  # added to a score: no other term of the sum is felt beside it


# ---- places --------------------------------------------------------------------------------------
def bucket(distance: Array, buckets: int, farthest: int, both_ways: bool) -> Array:
    """The bucket of a distance (key's place - query's place): exact for near ones, wider and wider for far ones.

        n                                                                        for n < E
        min(E + ⌊log(n / E) / log(farthest / E) · (N - E)⌋, N - 1)                from there on

    with n how far back the key stands, N the number of buckets, E = N / 2. Where keys may stand ahead too
    (`both_ways`), half of the buckets are theirs.   distance, integers of any shape, NumPy's   ->   likewise
    """
    ahead, N = 0, buckets
    n = -np.minimum(distance, 0)
    if both_ways:
        N //= 2
        ahead, n = N * (distance > 0), np.abs(distance)
    E = N // 2
    far = np.log(np.maximum(n, E).astype(np.float32) / np.float32(E))  # in float32, as the tables were trained
    far = far / np.float32(math.log(farthest / E)) * np.float32(N - E)
    return ahead + np.where(n < E, n, np.minimum(E + far.astype(np.int64), N - 1))


def distances(queries: int, keys: int) -> Array:
    """How far each key stands behind (or ahead of) each query; the last query is the last key.   ->   (T, S)"""
    return np.arange(keys) - np.arange(keys - queries, keys)[:, None]


def places(queries: int, keys: int, config: T5Config, both_ways: bool) -> Array:
    """Which row of a stack's table each pair of query and key reads.   ->   (T, S)"""
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    return bucket(distances(queries, keys), buckets, farthest, both_ways)


def place_bias(ops: Ops, table: Array, rows: Array) -> Array:
    """What each head adds to each score.   table (N, H)   rows (..., T, S), of the table   ->   (..., H, T, S)"""
    return ops.embed(ops.from_numpy(rows), table).swapaxes(-1, -2).swapaxes(-2, -3)


# ---- layers --------------------------------------------------------------------------------------
def keys_values(ops: Ops, p: Tree, x: Array, heads: int) -> tuple[Array, Array]:
    """x (B, S, C)   ->   (B, H, S, D), (B, H, S, D)"""
    return tuple(blocks.split_heads(ops.linear(x, **p[name]), heads) for name in ("k", "v"))


def attend(ops: Ops, p: Tree, x: Array, k: Array, v: Array, **how: Any) -> Array:
    """Tokens of x gather from keys and values that are there already.

        W_out · attention(W_q x, k, v), with scores as they are

    x (B, T, C)   k, v (B, H, S, D)   ->   (B, T, C)
    """
    q = blocks.split_heads(ops.linear(x, **p["q"]), k.shape[1])  # (B, H, T, D)
    mixed = ops.attention(q, k, v, scale=1.0, **how)  # (B, H, T, D)
    return ops.linear(blocks.merge_heads(mixed), **p["out"])  # (B, T, C)


def mlp(ops: Ops, p: Tree, x: Array, act: str) -> Array:
    """W_down (act(W_gate x) · W_up x); older models have no gate:  W_down act(W_up x).   x (B, T, C) -> (B, T, C)

    Source: Shazeer 2020, equation 6.
    """
    if "gate" not in p:
        return blocks.mlp(ops, p, x, act)
    hidden = ops.gated_linear(x, p["gate"]["w"], p["up"]["w"], act=act)  # (B, T, F)
    return ops.linear(hidden, **p["down"])


def layer(
    ops: Ops,
    p: Tree,
    x: Array,
    heads: int,
    act: str,
    memory: Any = None,
    *,
    bias: Array,
    mask: Array | None = None,
    memory_mask: Array | None = None,
    causal: bool = False,
    cache: blocks.KeyValueCache | None = None,
) -> Array:
    """Look around, in the decoder also at the memory, then think; each time normalise, do, add.

    x (B, T, C)   bias, broadcastable to (B, H, T, S)   memory, a pair of keys and values   ->   (B, T, C)
    """
    normed = ops.rms_norm(x, **p["self_ln"])  # (B, T, C)
    k, v = keys_values(ops, p["self"], normed, heads)  # (B, H, T, D)
    if cache is not None:
        k, v = cache.append(ops, k, v)
    x = x + attend(ops, p["self"], normed, k, v, mask=mask, bias=bias, causal=causal)  # (B, T, C)
    if memory is not None:
        x = x + attend(ops, p["cross"], ops.rms_norm(x, **p["cross_ln"]), *memory, mask=memory_mask)  # (B, T, C)
    return x + mlp(ops, p["mlp"], ops.rms_norm(x, **p["mlp_ln"]), act)


# ---- stacks --------------------------------------------------------------------------------------
def encoder_states(ops: Ops, p: Tree, x: Array, mask: Array, config: T5Config) -> Iterator[Array]:
    """Yield the hidden states x_0 (what came in) ... x_L, (B, S, C) each; the last one after the last norm.

    x (B, S, C), soft words and prompt   mask (B, S), 0 hides a token from all others
    """
    p, act, S = p["encoder"], ACTIVATIONS[config.dense_act_fn], x.shape[1]
    rows = places(S, S, config, both_ways=True)  # (S, S)
    bias = place_bias(ops, p["places"], rows)[None]  # (1, H, S, S)
    keys = (mask != 0)[:, None, None]  # (B, 1, 1, S)
    for weights in p["layers"]:
        yield x
        x = layer(ops, weights, x, config.num_heads, act, bias=bias, mask=keys)  # (B, S, C)
    yield ops.rms_norm(x, **p["ln"])


def decoder_states(
    ops: Ops,
    p: Tree,
    x: Array,
    memory: Any,
    seen: Array,
    config: T5Config,
    mask: Array | None = None,
    cache: list[blocks.KeyValueCache] | None = None,
) -> Iterator[Array]:
    """Yield the hidden states y_0 (the embedded words) ... y_L, (B, T, C) each; the last one after the last norm.

    x (B, T, C)   embedded words of this call
    memory        what `remember` made of the encoder's last state
    seen (B, M)   the encoder's mask: 0 hides a place of the memory
    mask (B, N)   0 hides a word, of this call and of the cached ones; None: every word counts
    cache         from `new_cache`; holds the N - T words of earlier calls
    """
    p, act, T = p["decoder"], ACTIVATIONS[config.dense_act_fn], x.shape[1]
    words = T + (cache[0].length if cache else 0)
    rows = places(T, words, config, both_ways=False)  # (T, N)
    bias = place_bias(ops, p["places"], rows)[None]  # (1, H, T, N)
    if mask is not None:
        bias = masked_bias(ops, p["places"], rows, ops.to_numpy(mask))
    keys = (seen != 0)[:, None, None]  # (B, 1, 1, M)
    how = dict(bias=bias, memory_mask=keys, causal=mask is None)
    for i, weights in enumerate(p["layers"]):
        yield x
        own = cache[i] if cache else None
        x = layer(ops, weights, x, config.num_heads, act, memory[i], cache=own, **how)  # (B, T, C)
    yield ops.rms_norm(x, **p["ln"])


def masked_bias(ops: Ops, table: Array, rows: Array, mask: Array) -> Array:
    """The bias with every later word, and every word that the mask hides, put out of sight.

    Out of sight by a number and not by leaving keys out: a word that may see nothing, which is what the first one is
    when its id is taken for padding, spreads evenly over all words in transformers, and does so here.

    table (N, H)   rows (T, S)   mask (B, S)   ->   (B, H, T, S)
    """
    keep = (distances(*rows.shape) <= 0) & (mask[:, None] != 0)  # (B, T, S)
    table = ops.concat([table, table[:1] * 0 + HIDDEN], 0)
    return place_bias(ops, table, np.where(keep, rows, len(table) - 1))


def remember(ops: Ops, p: Tree, encoded: Array, config: T5Config) -> list[tuple[Array, Array]]:
    """The keys and values of the cross-attentions, once for the whole answer: a pair for each layer of the decoder.

    encoded (B, S, C)   ->   pairs of (B, H, S, D)
    """
    return [keys_values(ops, weights["cross"], encoded, config.num_heads) for weights in p["decoder"]["layers"]]


def new_cache(p: Tree) -> list[blocks.KeyValueCache]:
    """One empty cache for each layer of the decoder."""
    return [blocks.KeyValueCache() for _ in p["decoder"]["layers"]]


def logits(ops: Ops, p: Tree, x: Array, config: T5Config) -> Array:
    """The score of every word as the next one; the table of words is the head of models that have no other.

    x (..., C) -> (..., V)
    """
    if config.scale_decoder_outputs:
        x = x * config.d_model**-0.5
    return ops.linear(x, p["head"]["w"] if "head" in p else p["tokens"])


# ---- words ---------------------------------------------------------------------------------------
def first_token(config: T5Config) -> int:
    """The id that every answer begins with, before any new token."""
    first = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    if first is None:
        raise ConfigError("text_config.decoder_start_token_id is null: generate needs it to begin an answer with")
    return first


def shift_right(labels: Array, config: T5Config) -> Array:
    """What the decoder is given to read while it is taught these labels: each word one place later, a start in front.

    labels (B, T), NumPy's, -100 where none counts   ->   (B, T)
    """
    for name in ("decoder_start_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            raise ConfigError(f"text_config.{name} is null: labels need it; or give decoder_input_ids with them")
    start = np.full_like(labels[:, :1], config.decoder_start_token_id)  # (B, 1)
    words: Array = np.where(labels == -100, config.pad_token_id, labels)  # (B, T)
    return np.concatenate([start, words[:, :-1]], 1)


class Reader:
    """What models/opt.py's Reader does: the encoder reads soft words and prompt once, the decoder word by word."""

    def __init__(self, ops: Ops, p: Tree, embeds: Array, mask: Array, config: T5Config) -> None:
        """embeds (B, S, C)   mask (B, S)"""
        self.ops, self.p, self.config = ops, p, config
        encoded = blocks.last(encoder_states(ops, p, embeds, mask, config))  # (B, S, C)
        self.memory, self.seen = remember(ops, p, encoded, config), mask
        self.pictures = np.arange(len(mask))  # which row of the memory each row of the answers belongs to
        self.cache = new_cache(p)

    def step(self, tokens: np.ndarray | None) -> Array:
        """tokens (B,) or None for the first one   ->   (B, V)"""
        ops = self.ops
        if tokens is None:
            tokens = np.full(len(self.pictures), first_token(self.config))  # (B,)
        x = ops.embed(ops.from_numpy(tokens[:, None]), self.p["tokens"])  # (B, 1, C)
        x = blocks.last(decoder_states(ops, self.p, x, self.memory, self.seen, self.config, cache=self.cache))
        return ops.to_numpy(logits(ops, self.p, x[:, 0], self.config))

    def reorder(self, rows: np.ndarray) -> None:
        """rows (B,), numbers of rows so far"""
        pictures = self.pictures[rows]
        rows = self.ops.from_numpy(rows)
        if not np.array_equal(pictures, self.pictures):  # answers to one picture changing places leave it where it is
            self.memory = [(k[rows], v[rows]) for k, v in self.memory]
            self.pictures, self.seen = pictures, self.seen[rows]
        for own in self.cache:
            own.reorder(rows)
