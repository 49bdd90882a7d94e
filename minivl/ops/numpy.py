"""The ops of plain.py, fast: the default record. Each formula is told in plain.py and nowhere else.

Large products go to BLAS as 2-D matrices, element-wise work runs block by block so that it stays in the cache, and both
are shared among the cores (minivl/cores.py). What would gain nothing is plain.py's own. float64 works too, at the speed
of plain.py where a trick is for float32 only. No function writes to its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import cores
from . import Array, Ops, act_of, check_numpy_place, plain, record
from .numpy_products import int8_linear, linear, weight_only_linear  # noqa: F401
from .plain import patches

BLOCK = 1 << 18  # numbers treated together in element-wise work: a core's cache nearly holds them, and a step over
# them lasts 0.1 ms or so; much shorter ones would cost two threads more in handing over Python's lock than they gain


# ---- linear layers: see also numpy_products.py -----------------------------------------------------
def linear_act(x: Array, w: Array, b: Array | None = None, *, act: str) -> Array:
    """plain.linear_act, the activation written over the product."""
    y = linear(x, w, b)
    return act_of(OPS, act)(y, out=y)


def gated_linear(x: Array, gate: Array, up: Array, *, act: str) -> Array:
    """plain.gated_linear, one product written over the other."""
    y = linear_act(x, gate, act=act)
    y *= linear(x, up)
    return y


def patch_embed(pixels: Array, w: Array, b: Array | None = None) -> Array:
    """plain.patch_embed with the fast product."""
    return linear(patches(pixels, w.shape[-1]), w.reshape(len(w), -1), b)


# ---- normalisation -------------------------------------------------------------------------------
def layer_norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    """plain.layer_norm, its means as products (BLAS sums faster), in place after the first step."""
    width = x.shape[-1]
    average = np.full(width, 1 / width, x.dtype)
    y = x - (x @ average)[..., None]
    y -= (y @ average)[..., None]  # what rounding left of the mean matters where the mean is large, the variance small
    scale = 1 / np.sqrt(np.vecdot(y, y) / width + eps)
    y *= scale[..., None]
    y *= w
    y += b
    return y


def add_layer_norm(x: Array, y: Array, w: Array, b: Array, eps: float) -> Array:
    """plain.add_layer_norm"""
    return layer_norm(x + y, w, b, eps)


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    """plain.rms_norm"""
    scale = 1 / np.sqrt(np.vecdot(x, x) / x.shape[-1] + eps)
    y = x * scale[..., None]
    y *= w
    return y


# ---- attention -----------------------------------------------------------------------------------
def softmax(x: Array) -> Array:
    """plain.softmax"""
    return _softmax(x, np.empty_like(x))


def _softmax(x: Array, out: Array) -> Array:
    top = x.max(axis=-1, keepdims=True)
    np.subtract(x, np.where(top == -math.inf, 0, top), out=out)  # -inf minus -inf would be nan
    np.exp(out, out=out)
    total = out.sum(axis=-1, keepdims=True)
    out /= np.where(total == 0, 1, total)
    return out


def attention_weights(
    q: Array, k: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """plain.attention_weights, every step written over the scores."""
    scores = q @ k.swapaxes(-1, -2)  # (B, H, T, S)
    scores *= q.shape[-1] ** -0.5 if scale is None else scale
    if bias is not None:
        scores += bias
    if mask is not None or (causal and q.shape[-2] > 1):  # a single query is the last one, and sees every key
        np.copyto(scores, -math.inf, where=~plain.visible(mask, causal, *scores.shape[-2:]))
    return _softmax(scores, out=scores)


def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """plain.attention, some heads at a time on every core."""
    (B, H, T, _), S = q.shape, k.shape[2]
    # tokens outermost in memory: merging the heads then copies nothing
    out = np.empty((B, T, H, v.shape[-1]), q.dtype).swapaxes(1, 2)

    def some_heads(at):
        masked, biased = _portion(mask, at), _portion(bias, at)
        shares = attention_weights(q[at], k[at], mask=masked, bias=biased, causal=causal, scale=scale)
        np.matmul(shares, v[at], out=out[at])

    cores.share(some_heads, _groups_of_heads(B, H, T * S))
    return out


def _groups_of_heads(B: int, H: int, scores: int) -> list[tuple[slice, slice]]:
    """Pairs of slices (of the batch, of the heads) with about BLOCK scores each, as many for every core."""
    groups = -(-B * H * scores // BLOCK)
    if groups > 1:
        groups = -(-groups // cores.thread_count()) * cores.thread_count()
    rows = max(1, B // groups) if groups else B
    heads = -(-H // max(1, groups // B))
    return [(slice(b, b + rows), slice(h, h + heads)) for b in range(0, B, rows) for h in range(0, H, heads)]


def _portion(x: Array | None, at: tuple[slice, slice]) -> Array | None:
    """What of a mask or a bias belongs to some rows of the batch and some heads; axes of length 1 serve all."""
    if x is None:
        return None
    x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    return x[tuple(one if length > 1 else slice(None) for one, length in zip(at, x.shape[:2], strict=True))]


# ---- activation functions ------------------------------------------------------------------------
# Those with `out` may be told to write over their argument, which linear_act has just made.
def gelu(x: Array, out: Array | None = None) -> Array:
    """plain.gelu. In float32 erf(x/√2) is tanh(p(x)) with an odd polynomial p that tests/helpers/fit_gelu.py fits:
    within 6e-7 of the true value, and tanh has vector code, which erf has not.
    """
    return _in_blocks(_gelu_float64 if x.dtype == np.float64 else _gelu_float32, x, out)


# p(x) = x·(c0 + c1 x² + c2 x⁴ + ...), highest power first; printed by tests/helpers/fit_gelu.py
_GELU_POLYNOMIAL = (
    1.813933896776026e-09,
    -1.3378349919547748e-07,
    3.974075779450862e-06,
    -5.5273425524704405e-05,
    -3.302655961214775e-05,
    0.03633414889680748,
    0.7978842685131297,
)


def _gelu_float32(x: Array, out: Array) -> None:
    near = np.clip(x, -6, 6)  # a little beyond the fit, where tanh(p) has become exactly ±1 in float32
    square = near * near
    inner = square * _GELU_POLYNOMIAL[0]
    for coefficient in _GELU_POLYNOMIAL[1:-1]:
        inner += coefficient
        inner *= square
    inner += _GELU_POLYNOMIAL[-1]
    inner *= near
    _half_x_one_plus_tanh(x, inner, out)


def _gelu_float64(x: Array, out: Array) -> None:
    out[...] = plain.gelu(x)


def gelu_tanh(x: Array, out: Array | None = None) -> Array:
    """plain.gelu_tanh"""

    def block(x, out):
        inner = x * x  # y**3 would call pow, a hundred times slower than two products
        inner *= 0.044715
        inner += 1
        inner *= x
        inner *= math.sqrt(2 / math.pi)
        _half_x_one_plus_tanh(x, inner, out)

    return _in_blocks(block, x, out)


def quick_gelu(x: Array, out: Array | None = None) -> Array:
    """plain.quick_gelu"""
    return _in_blocks(lambda x, out: _half_x_one_plus_tanh(x, x * (1.702 / 2), out), x, out)


def silu(x: Array, out: Array | None = None) -> Array:
    """plain.silu"""
    return _in_blocks(lambda x, out: _half_x_one_plus_tanh(x, x * 0.5, out), x, out)


def relu(x: Array, out: Array | None = None) -> Array:
    """plain.relu"""
    return np.maximum(x, 0, out=out)


tanh = np.tanh


def _half_x_one_plus_tanh(x: Array, inner: Array, out: Array) -> None:
    """out = x/2 · (1 + tanh(inner)), the shape that all smooth activations here share. Spends `inner`."""
    np.tanh(inner, out=inner)
    inner += 1
    inner *= 0.5
    np.multiply(x, inner, out=out)


def _in_blocks(function: Callable, x, out=None):
    """function(x, y) over blocks that stay in the cache; y is like x, or it is `out`, which may be x itself."""
    flat = x.reshape(-1)
    y = np.empty_like(flat) if out is None else out.reshape(-1)
    blocks = [slice(start, start + BLOCK) for start in range(0, flat.size, BLOCK)]
    cores.share(lambda block: function(flat[block], y[block]), blocks)
    return y.reshape(x.shape)


OPS = record("numpy", vars(plain) | globals())  # an op that has no fast form here is its formula


def placed(dtype=None, device=None) -> Ops:
    """This record itself. Raises OpsError for any other place or kind of numbers than float32 on the CPU."""
    check_numpy_place("numpy", dtype, device)
    return OPS


# ---- rows of a batch, which never meet on their way through a model ------------------------------
LEAST = 1 << 17  # numbers for every core: with fewer, ops are over before the threads have taken turns at Python's lock


def by_rows(ops: Ops, run: Callable[..., Any], *arrays: Any) -> Any:
    """run(*arrays), or where every core can have as many rows as any other: each core with its own rows.

    Ops that share their work have to meet after every one of them, and much of a layer they do not share at all. Only
    the plain NumPy record is treated so: a record that watches what flows would see parts of batches.

    arrays   (B, ...) each, the last one of them the largest
    run      gives arrays (B, ...), in lists and tuples of any depth
    """
    threads, batch = cores.thread_count(), len(arrays[-1])
    if ops is not OPS or threads == 1 or batch % threads or arrays[-1].size < threads * LEAST:
        return run(*arrays)
    each = batch // threads
    found: list[Any] = [None] * threads

    def one(i: int) -> None:
        found[i] = run(*(array[i * each : (i + 1) * each] for array in arrays))

    cores.share(one, range(threads))
    return joined(found)


def joined(trees: Sequence[Any]) -> Any:
    """Trees of the same form as one, every array's rows one after the other."""
    first = trees[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(trees)
    return type(first)(joined(branches) for branches in zip(*trees, strict=True))
