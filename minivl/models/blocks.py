"""The transformer blocks, each written once: attention and its projections, the MLP, the pre-LN and the post-LN layer.

The pre-LN layer carries ViT-g, CLIP's ViT and OPT; the post-LN layer, with its optional cross-attention, carries the
Q-Former, RoBERTa and BridgeTower's cross-modal layers. `p` is always the subtree of weights that belongs to the call,
and **p["ln"] fills in w, b and eps.

Letters: B batch, T query tokens, S key tokens, C width, M the memory's width, H heads, D head width, F MLP width.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..ops import Array, Ops
    from ..weights.tree import Tree


def last(states: Iterable[Array]) -> Array:
    """Run a generator of hidden states to its end and keep only the last: the earlier ones are freed on the way."""
    return deque(states, maxlen=1).pop()


def embed_picture(ops: Ops, p: Tree, pixels: Array, size: int) -> Array:
    """Patches become tokens: one linear layer, a class token in front, and a learned position added to each.

    pixels (B, 3, Y, X)   ->   (B, N, C)
    """
    channels = p["patch"]["w"].shape[1]
    if tuple(pixels.shape[1:]) != (channels, size, size):  # a smaller one would run, its positions silently wrong
        raise InputError(
            f"pixel_values have shape {tuple(pixels.shape)}, this model takes (batch, {channels}, {size}, {size})"
        )
    patches = ops.patch_embed(pixels, **p["patch"])  # (B, N - 1, C)
    first = ops.broadcast_to(p["class_token"], (patches.shape[0], 1, patches.shape[2]))  # (B, 1, C)
    return ops.concat([first, patches], 1) + p["positions"]


def split_heads(x: Array, heads: int) -> Array:
    """x (B, T, C) -> (B, H, T, D), a view."""
    B, T, C = x.shape
    return x.reshape(B, T, heads, C // heads).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """x (B, H, T, D) -> (B, T, H·D)"""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


def queries_keys_values(ops: Ops, p: Tree, x: Array, memory: Array, heads: int) -> tuple[Array, Array, Array]:
    """Project to q, k and v: three matrices, or one that holds all three (ViT-g's qkv, row blocks q | k | v).

    x (B, T, C)   memory (B, S, M)   ->   (B, H, T, D), (B, H, S, D), (B, H, S, D)
    """
    if "qkv" in p:
        B, T, C = x.shape
        fused = ops.linear(x, **p["qkv"])  # (B, T, 3 * C)
        parts = fused.reshape(B, T, 3, heads, C // heads)  # (B, T, 3, H, D)
        return tuple(parts[:, :, i].swapaxes(1, 2) for i in range(3))
    q = split_heads(ops.linear(x, **p["q"]), heads)  # (B, H, T, D)
    k = split_heads(ops.linear(memory, **p["k"]), heads)  # (B, H, S, D)
    v = split_heads(ops.linear(memory, **p["v"]), heads)  # (B, H, S, D)
    return q, k, v


def attend(
    ops: Ops,
    p: Tree,
    x: Array,
    heads: int,
    memory: Array | None = None,
    *,
    mask: Array | None = None,
    causal: bool = False,
    cache: KeyValueCache | None = None,
) -> Array:
    """Tokens of x gather what they need from the memory, and a last matrix mixes the heads. Self-attention is memory =
    x.

        W_out · attention(W_q x, W_k memory, W_v memory)

    x (B, T, C)   memory (B, S, M)   ->   (B, T, C)
    mask    bool, broadcastable to (B, H, T, S), True where a key may be seen
    cache   holds the keys and values of earlier calls; this call's are appended to it
    """
    q, k, v = queries_keys_values(ops, p, x, x if memory is None else memory, heads)
    if cache is not None:
        k, v = cache.append(ops, k, v)
    bias = distance_bias(ops, q, k, **p["distance"]) if "distance" in p else None
    mixed = ops.attention(q, k, v, mask=mask, bias=bias, causal=causal)  # (B, H, T, D)
    return ops.linear(merge_heads(mixed), **p["out"])  # (B, T, C)


def distance_bias(ops: Ops, q: Array, k: Array, w: Array, both: bool) -> Array:
    """What each score gains because of how far apart query and key stand (position_embedding_type relative_key).

        bias[t, s] = q[t]·e[t - s] / √D            and, if `both` (relative_key_query),  + k[s]·e[t - s] / √D

    q (B, H, T, D)   k (B, H, S, D)   w (2·max - 1, D), whose middle row is distance 0   ->   (B, H, T, S)
    Source: Shaw et al. 2018, section 3.2; Huang et al. 2020, methods 2 and 4.
    """
    T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
    distance = np.arange(T)[:, None] - np.arange(S) + w.shape[0] // 2  # (T, S)
    rows = ops.embed(ops.from_numpy(distance), w)  # (T, S, D)
    bias = (q[..., None, :] @ rows.swapaxes(1, 2))[..., 0, :]  # (B, H, T, S)
    if both:
        of_keys = (k[..., None, :] @ rows.swapaxes(0, 1).swapaxes(1, 2))[..., 0, :]  # (B, H, S, T)
        bias = bias + of_keys.swapaxes(-1, -2)
    return bias * D**-0.5


def mlp(ops: Ops, p: Tree, x: Array, act: str) -> Array:
    """Each token thinks alone:  W_down act(W_up x).   x (B, T, C) -> (B, T, C)

    act   the name of an op, "gelu" for example
    """
    hidden = ops.linear_act(x, **p["up"], act=act)  # (B, T, F)
    return ops.linear(hidden, **p["down"])


def pre_ln_layer(
    ops: Ops,
    p: Tree,
    x: Array,
    heads: int,
    act: str,
    *,
    mask: Array | None = None,
    causal: bool = False,
    cache: KeyValueCache | None = None,
) -> Array:
    """Normalise, attend, add; normalise, think, add. The sum x itself is never normalised.

        x = x + attend(LN(x));   x = x + mlp(LN(x))

    x (B, T, C)   ->   (B, T, C)
    """
    x = x + attend(ops, p["self"], ops.layer_norm(x, **p["self_ln"]), heads, mask=mask, causal=causal, cache=cache)
    return x + mlp(ops, p["mlp"], ops.layer_norm(x, **p["mlp_ln"]), act)


def post_ln_layer(
    ops: Ops,
    p: Tree,
    x: Array,
    heads: int,
    act: str,
    memory: Array | None = None,
    *,
    mask: Array | None = None,
    memory_mask: Array | None = None,
    causal: bool = False,
    cache: KeyValueCache | None = None,
) -> Array:
    """Attend, add, normalise; where the layer has cross-attention, the same towards the memory; think, add, normalise.

        x = LN(x + attend(x));   x = LN(x + attend(x, memory));   x = LN(x + mlp(x))

    x (B, T, C)   memory (B, S, M)   ->   (B, T, C)
    """
    found = attend(ops, p["self"], x, heads, mask=mask, causal=causal, cache=cache)  # (B, T, C)
    x = ops.add_layer_norm(x, found, **p["self_ln"])  # (B, T, C)
    if "cross" in p:
        found = attend(ops, p["cross"], x, heads, memory, mask=memory_mask)  # (B, T, C)
        x = ops.add_layer_norm(x, found, **p["cross_ln"])  # (B, T, C)
    return ops.add_layer_norm(x, mlp(ops, p["mlp"], x, act), **p["mlp_ln"])


class KeyValueCache:
    """One layer's keys and values, (B, H, S, D) each, growing along S.

    The buffers double when they are full, so appending one token at a time costs a constant amount on average.
    """

    def __init__(self) -> None:
        self.length = 0
        self._keys: Any = None
        self._values: Any = None

    def append(self, ops: Ops, k: Array, v: Array) -> tuple[Array, Array]:
        """Add k, v (B, H, T, D); give back all keys and values so far, (B, H, S, D) each, as views of the buffers."""
        end = self.length + k.shape[2]
        if self._keys is None or end > self._keys.shape[2]:
            self._keys = self._grown(ops, self._keys, k)
            self._values = self._grown(ops, self._values, v)
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def reorder(self, rows: Array) -> None:
        """From now on row i holds what row rows[i] held; rows may repeat, and be more or fewer than before."""
        if self._keys is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def _grown(self, ops: Ops, buffer: Array, new: Array) -> Array:
        """A buffer with room for twice what there will be; only its first `length` tokens mean anything."""
        room = ops.concat([new, new], 2)
        return (
            room if buffer is None else ops.concat([buffer[:, :, : self.length], room, buffer[:, :, : self.length]], 2)
        )
