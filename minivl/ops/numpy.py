"""The reference: every op of the contract in NumPy, its formula in its docstring.

float64 in gives float64 out, accurate to a few ulps, so that the same functions serve as the oracle of every test.
float32 in gives float32 out, fast: large products go to BLAS as 2-D matrices, and element-wise work runs block by block
so that it stays in the cache. No function writes to its arguments.

Letters: B batch, T query tokens, S key tokens, C width, F another width, H heads, D head width, N patches, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import cores
from ..errors import OpsError
from . import Ops, act_of, check_ids, check_labels, dtype_name

BLOCK = 1 << 18  # numbers treated together in element-wise work: a core's cache nearly holds them, and a step over
# them lasts 0.1 ms or so; much shorter ones would cost two threads more in handing over Python's lock than they gain
PART = 1 << 20  # weights that meet a few rows at a time
SLICE = 8  # rows of them that BLAS is given together
UNPACKED = 1_000_000  # multiplications up to which OpenBLAS calls a product small
FEW_ROWS = 100  # below this many rows, turning the result of a product costs less than it gains


def linear(x, w, b=None):
    """Every token times a weight matrix, plus a bias.

        y = x wᵀ + b

    x (..., C)   w (F, C), the checkpoint's own layout, so loading never transposes   b (F,)   ->   (..., F)
    """
    flat = x.reshape(-1, x.shape[-1])  # one 2-D product: NumPy would loop over the batch of a 3-D one
    if 1 < len(flat) < FEW_ROWS:
        y = np.ascontiguousarray(_of_few_rows(w, flat).T)
    else:
        y = flat @ w.T
    if b is not None:
        y += b
    return y.reshape(*x.shape[:-1], w.shape[0])


def _of_few_rows(w, x):
    """w xᵀ: BLAS is up to twice as fast with the large matrix on the left.   w (F, C), x (rows, C) -> (F, rows)"""
    y = np.empty((w.shape[0], len(x)), np.result_type(x, w))
    if w.size < 4 * PART:  # BLAS threads stay awake for a while after a product, and would be in the way of ours
        return np.matmul(w, x.T, out=y)
    cores.share(lambda part: sliced_product(w[part], x, y[part]), cores.rows(w.shape, PART))
    return y


def sliced_product(w, x, out):
    """w xᵀ, w in slices so thin that OpenBLAS multiplies them as they lie: packing them first would take longer.

    w (F, C)   x (rows, C)   ->   out (F, rows)
    """
    slices = len(w) // SLICE if SLICE * x.size <= UNPACKED and w.flags.c_contiguous else 0
    end = slices * SLICE
    np.matmul(w[:end].reshape(slices, SLICE, w.shape[1]), x.T, out=out[:end].reshape(slices, SLICE, len(x)))
    np.matmul(w[end:], x.T, out=out[end:])


def linear_act(x, w, b=None, *, act):
    """A linear layer and the function behind it, given by its name in the record.

        y = act(x wᵀ + b)

    x (..., C)   w (F, C)   b (F,)   act "gelu", "relu", ...   ->   (..., F)
    """
    y = linear(x, w, b)
    return act_of(OPS, act)(y, out=y)


def layer_norm(x, w, b, eps):
    """Every token shifted to mean 0 and scaled to variance 1, then to the learned scale and shift.

        y = (x - mean) / sqrt(var + eps) · w + b          var is the biased one, the mean of (x - mean)²

    x (..., C)   w, b (C,)   ->   (..., C)
    """
    width = x.shape[-1]
    average = np.full(width, 1 / width, x.dtype)
    y = x - (x @ average)[..., None]  # the mean as a product: BLAS sums faster
    y -= (y @ average)[..., None]  # what rounding left of it matters where the mean is large and the variance small
    scale = 1 / np.sqrt(np.vecdot(y, y) / width + eps)
    y *= scale[..., None]
    y *= w
    y += b
    return y


def add_layer_norm(x, y, w, b, eps):
    """Layer norm of a sum, with which every post-LN layer and every bridge ends.

        layer_norm(x + y)

    x, y (..., C)   w, b (C,)   ->   (..., C)
    """
    return layer_norm(x + y, w, b, eps)


def rms_norm(x, w, eps):
    """Layer norm without mean and shift, as T5 has it.

        y = x / sqrt(mean(x²) + eps) · w

    x (..., C)   w (C,)   ->   (..., C)
    """
    scale = 1 / np.sqrt(np.vecdot(x, x) / x.shape[-1] + eps)
    y = x * scale[..., None]
    y *= w
    return y


def softmax(x):
    """exp(x) / Σ exp(x) over the last axis, with the maximum subtracted first so that nothing overflows.

    A row of nothing but -inf gives zeros: it has nothing to share out.
    """
    return _softmax(x, np.empty_like(x))


def _softmax(x, out):
    top = x.max(axis=-1, keepdims=True)
    np.subtract(x, np.where(top == -math.inf, 0, top), out=out)  # -inf minus -inf would be nan
    np.exp(out, out=out)
    total = out.sum(axis=-1, keepdims=True)
    out /= np.where(total == 0, 1, total)
    return out


def attention_weights(q, k, *, mask=None, bias=None, causal=False, scale=None):
    """How much each query takes from each key.

        softmax(q kᵀ · scale + bias), only over the keys that the query may see

    q (B, H, T, D)   k (B, H, S, D)   ->   (B, H, T, S); rows sum to 1, or to 0 where a query may see no key.
    mask and bias as in `attention`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.swapaxes(-1, -2)  # (B, H, T, S)
    scores *= scale
    if bias is not None:
        scores += bias
    for hidden in _hidden_keys(mask, causal, *scores.shape[-2:]):
        np.copyto(scores, -math.inf, where=hidden)
    return _softmax(scores, out=scores)


def _hidden_keys(mask, causal, queries, keys):
    """The boolean arrays, True where a key is out of sight, each broadcastable to (B, H, T, S)."""
    if mask is not None:
        yield ~mask
    if causal and queries > 1:  # a single query is the last one, and sees everything
        yield ~np.tri(queries, keys, keys - queries, dtype=bool)


def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """Each query averages the values, weighted by how well it matches their keys.

        softmax(q kᵀ · scale + bias) v          scale = 1/√D unless given (T5 gives 1)

    q (B, H, T, D)   k, v (B, H, S, D)   ->   (B, H, T, D)
    mask    bool, True keeps a key, broadcastable to (B, H, T, S)
    bias    float, added to the scores, broadcastable likewise
    causal  lines up the LAST query with the LAST key: query t sees the keys s <= t + S - T
    A query that may see no key gives zeros.   Source: Vaswani et al. 2017, section 3.2.1.
    """
    (B, H, T, _), S = q.shape, k.shape[2]
    # tokens outermost in memory: merging the heads then copies nothing
    out = np.empty((B, T, H, v.shape[-1]), q.dtype).swapaxes(1, 2)

    def some_heads(at):
        near = {"mask": _part(mask, at), "bias": _part(bias, at), "causal": causal, "scale": scale}
        np.matmul(attention_weights(q[at], k[at], **near), v[at], out=out[at])

    cores.share(some_heads, _groups_of_heads(B, H, T * S))
    return out


def _groups_of_heads(B, H, scores):
    """Pairs of slices (of the batch, of the heads) with about BLOCK scores each, as many for every core."""
    groups = -(-B * H * scores // BLOCK)
    if groups > 1:
        groups = -(-groups // cores.crew()) * cores.crew()
    rows = max(1, B // groups) if groups else B
    heads = -(-H // max(1, groups // B))
    return [(slice(b, b + rows), slice(h, h + heads)) for b in range(0, B, rows) for h in range(0, H, heads)]


def _part(x, at):
    """What of a mask or a bias belongs to some rows of the batch and some heads; axes of length 1 serve all."""
    if x is None:
        return None
    x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    return x[tuple(one if length > 1 else slice(None) for one, length in zip(at, x.shape[:2], strict=True))]


def gelu(x, out=None):
    """The exact Gaussian error linear unit: x times the share of a normal distribution that lies below x.

        y = x/2 · (1 + erf(x/√2))

    float64 sums erf's series. float32 uses erf(x/√2) = tanh(p(x)) with an odd polynomial p fitted to it
    (tests/helpers/fit_gelu.py), which is
    within 6e-7 of the true value and runs on tanh's vector code.   Source: Hendrycks & Gimpel 2016, equation 1.
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


def _gelu_float32(x, out):
    near = np.clip(x, -6, 6)  # a little beyond the fit, where tanh(p) has become exactly ±1 in float32
    square = near * near
    inner = square * _GELU_POLYNOMIAL[0]
    for coefficient in _GELU_POLYNOMIAL[1:-1]:
        inner += coefficient
        inner *= square
    inner += _GELU_POLYNOMIAL[-1]
    inner *= near
    _half_x_one_plus_tanh(x, inner, out)


def _gelu_float64(x, out):
    out[...] = 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))


def _erf(x):
    """erf by its all-positive series, so nothing cancels:  2/√π · e^(-x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·5···(2n+1))."""
    near = np.clip(x, -6, 6)  # erf(6) is 1 to the last bit
    square = 2 * near * near
    term = near * 1.0
    total = term.copy()
    for n in range(1, 140):  # at x = 6 the terms have fallen below 1e-17 of the sum by then
        term = term * square / (2 * n + 1)
        total += term
    return np.where(np.abs(x) < 6, 2 / math.sqrt(math.pi) * np.exp(-near * near) * total, np.sign(x))


def gelu_tanh(x, out=None):
    """The tanh approximation of GELU ("gelu_new"):  x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""

    def block(x, out):
        inner = x * x  # y**3 would call pow, a hundred times slower than two products
        inner *= 0.044715
        inner += 1
        inner *= x
        inner *= math.sqrt(2 / math.pi)
        _half_x_one_plus_tanh(x, inner, out)

    return _in_blocks(block, x, out)


def quick_gelu(x, out=None):
    """CLIP's cheap GELU:  x · sigmoid(1.702 x), where sigmoid(z) = (1 + tanh(z/2)) / 2 never overflows."""
    return _in_blocks(lambda x, out: _half_x_one_plus_tanh(x, x * (1.702 / 2), out), x, out)


def silu(x, out=None):
    """x · sigmoid(x), also called swish."""
    return _in_blocks(lambda x, out: _half_x_one_plus_tanh(x, x * 0.5, out), x, out)


def relu(x, out=None):
    """The positive part:  max(x, 0)."""
    return np.maximum(x, 0, out=out)


def _half_x_one_plus_tanh(x, inner, out):
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


def embed(ids, table):
    """Row ids[...] of the table, one for each token.

    ids (...) integer   table (V, C)   ->   (..., C)
    InputError for an id outside the table.
    """
    ids = np.asarray(ids)
    check_ids(ids, len(table))
    return table[ids]


def patch_embed(pixels, w, b=None):
    """Cut the picture into P x P patches and take each through one linear layer: a convolution whose stride is its
    size.

        y[n] = Σ w · patch[n] + b          patches in reading order, whole ones only

    pixels (B, 3, Y, X)   w (C, 3, P, P)   b (C,)   ->   (B, N, C) with N = (Y // P)·(X // P)
    """
    B, channels, height, width = pixels.shape
    P = w.shape[-1]
    rows, columns = height // P, width // P
    patches = pixels[:, :, : rows * P, : columns * P].reshape(B, channels, rows, P, columns, P)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, channels * P * P)
    return linear(patches, w.reshape(w.shape[0], -1), b)


def cross_entropy(logits, targets, ignore_index=-100):
    """How surprised the model is by the right answers, on average, in nats.

        mean over targets != ignore_index of  log Σ exp(logits) - logits[target]

    logits (..., V)   targets (...)   ->   scalar; nan if every target is ignored, as in torch.
    """
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]  # (M, V), (M,)
    if not len(targets):
        return logits.dtype.type(math.nan)
    check_labels(targets, logits.shape[-1])
    below = logits - logits.max(axis=-1, keepdims=True)  # (M, V), at most 0: to add the top again would round it off
    return (np.log(np.exp(below).sum(axis=-1)) - below[np.arange(len(targets)), targets]).mean()


OPS = Ops(
    name="numpy",
    linear=linear,
    linear_act=linear_act,
    layer_norm=layer_norm,
    add_layer_norm=add_layer_norm,
    rms_norm=rms_norm,
    attention=attention,
    attention_weights=attention_weights,
    gelu=gelu,
    gelu_tanh=gelu_tanh,
    quick_gelu=quick_gelu,
    relu=relu,
    silu=silu,
    tanh=np.tanh,
    softmax=softmax,
    embed=embed,
    patch_embed=patch_embed,
    cross_entropy=cross_entropy,
    concat=np.concatenate,
    broadcast_to=np.broadcast_to,
    from_numpy=np.asarray,
    to_numpy=np.asarray,
)


def placed(dtype=None, device=None) -> Ops:
    """This record itself. Raises OpsError for any other place or kind of numbers than float32 on the CPU."""
    if dtype is not None and dtype_name(dtype) != "float32":
        raise OpsError(
            f"backend 'numpy' computes in float32, not in {dtype_name(dtype)}: load with backend='torch' for that"
        )
    if device is not None and str(device).partition(":")[0] not in ("cpu", "auto"):
        raise OpsError(
            f"backend 'numpy' computes on the CPU, not on device {str(device)!r}: load with backend='torch' for that"
        )
    return OPS
