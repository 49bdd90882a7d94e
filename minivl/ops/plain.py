"""Every op as its formula, in NumPy: what all other records, every kernel and every test are held to.

There is nothing here but the formula: no threads, no blocks, no tricks. float64 in gives float64 out, accurate to a few
units in the last place; float32 in gives float32 out. No function writes to its arguments. numpy.py computes the same,
faster; `backend="plain"` runs a whole model on this file, and a debugger stops in it every time.

Letters: B batch, T query tokens, S key tokens, C width, F another width, H heads, D head width, N patches, V
vocabulary.
"""

from __future__ import annotations

import math

import numpy as np

from . import Array, Ops, act_of, check_ids, check_labels, check_numpy_place, record


# ---- linear layers -------------------------------------------------------------------------------
def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """Multiply every token by a weight matrix and add a bias:   y = x wᵀ + b

    x (..., C)   w (F, C), the checkpoint's own layout, so loading never transposes   b (F,)   ->   (..., F)
    """
    y = x @ w.T
    return y if b is None else y + b


def linear_act(x: Array, w: Array, b: Array | None = None, *, act: str) -> Array:
    """A linear layer and the activation function after it:   y = act(x wᵀ + b)

    x (..., C)   w (F, C)   b (F,)   act "gelu", "relu", ...: see table.ACTS   ->   (..., F)
    """
    return act_of(OPS, act)(linear(x, w, b))


def gated_linear(x: Array, gate: Array, up: Array, *, act: str) -> Array:
    """The gated linear unit of T5's MLP:   y = act(x gateᵀ) · (x upᵀ)

    x (..., C)   gate, up (F, C)   ->   (..., F)          Source: Shazeer 2020, equation 6 (GEGLU with act="gelu_tanh").
    """
    return linear_act(x, gate, act=act) * linear(x, up)


def weight_only_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    """A linear layer whose weights are kept in 8 bits, one scale for each row:   y = x (w · scale / 127)ᵀ + b

    x (..., C)   w (F, C) int8   scale (F,), the largest magnitude of each row   b (F,)   ->   (..., F)
    """
    return linear(x, w * (scale[:, None] / 127).astype(x.dtype), b)


OUTLIER = 6.0  # an activation of this magnitude keeps its column out of the 8 bits
PER_STEP = 6.200124e-05  # 1/127² as bitsandbytes rounds it, 2e-5 too large: models were quantised for that


def int8_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    """A linear layer as LLM.int8() computes it: activations are rounded to 8 bits too, except in outlier columns.

        y = (q wᵀ) · scale_x · scale / 127² + x_out w_outᵀ + b          q, scale_x = quantise(x)

    An outlier column of x holds a magnitude of 6 or more in any row; it is multiplied as it is, in x_out w_outᵀ. So one
    row's outlier changes the other rows a little. The sum q wᵀ is exact.

    x (..., C)   w (F, C) int8   scale (F,), the largest magnitude of each row   b (F,)   ->   (..., F)
    Source: Dettmers et al. 2022, section 3; the integers are those of the package bitsandbytes.
    """
    flat = x.reshape(-1, x.shape[-1])
    q, scale_x, outlying = quantise_activations(flat)  # (M, C), (M,), (C,)
    whole = q.astype(np.int64) @ w.T.astype(np.int64)  # (M, F), exact
    y = whole.astype(x.dtype) * (scale_x[:, None] * scale) * PER_STEP
    y = y + flat[:, outlying] @ (w[:, outlying] * (scale[:, None] / 127)).T
    y = y if b is None else y + b
    return y.astype(x.dtype).reshape(*x.shape[:-1], len(w))


def quantise_activations(x: Array) -> tuple[Array, Array, Array]:
    """Activations in 8 bits, from their float16 form, without the outlier columns.

    x (M, C)   ->   (M, C), (M,), (C,)          q int8, its scales, and which columns are outliers
    """
    x = np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32)  # 65504 is the largest float16
    large = np.abs(x) >= OUTLIER  # (M, C)
    outlying = large.any(0)  # (C,)
    q, scale = quantise_rows(np.where(large, np.float32(0), x))
    return np.where(outlying, 0, q).astype(np.int8), scale, outlying


def quantise_rows(w: Array) -> tuple[Array, Array]:
    """Round each row to whole numbers from -127 to 127, so that its largest magnitude becomes 127; ties go to even.

        q = round(w · 127 / scale)          scale = max |w| of the row; a row below 1e-36 becomes zeros

    w (F, C) float32   ->   (F, C), (F,)          q int8 and its scales
    """
    scale = np.abs(w).max(1, initial=0)
    factor = np.float32(127) / np.where(scale > 1e-36, scale, np.inf).astype(np.float32)
    return np.rint(w * factor[:, None]).astype(np.int8), scale


# ---- normalisation -------------------------------------------------------------------------------
def layer_norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    """Shift every token to mean 0 and scale it to variance 1, then apply the learned scale and shift.

        y = (x - mean) / sqrt(var + eps) · w + b          var is the biased variance, the mean of (x - mean)²

    x (..., C)   w, b (C,)   ->   (..., C)          Source: Ba, Kiros and Hinton 2016.
    """
    mean = x.mean(-1, keepdims=True, dtype=np.float64)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return ((x - mean) / np.sqrt(var + eps) * w + b).astype(x.dtype)


def add_layer_norm(x: Array, y: Array, w: Array, b: Array, eps: float) -> Array:
    """Layer norm of a residual sum, which ends every post-LN layer:   layer_norm(x + y)

    x, y (..., C)   w, b (C,)   ->   (..., C)
    """
    return layer_norm(x + y, w, b, eps)


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    """Layer norm without mean and shift, as T5 has it:   y = x / sqrt(mean(x²) + eps) · w

    x (..., C)   w (C,)   ->   (..., C)          Source: Zhang and Sennrich 2019.
    """
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


# ---- attention -----------------------------------------------------------------------------------
def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """Scaled dot-product attention: each query averages the values, weighted by how well it matches their keys.

        softmax(q kᵀ · scale + bias) v          scale = 1/√D unless given (T5 gives 1)

    q (B, H, T, D)   k (B, H, S, D)   v (B, H, S, E), where E is D in every model   ->   (B, H, T, E)
    mask    bool, True keeps a key, broadcastable to (B, H, T, S)
    bias    float, added to the scores, broadcastable likewise
    causal  aligns the LAST query with the LAST key: query t sees the keys s <= t + S - T
    A query that may see no key gives zeros.   Source: Vaswani et al. 2017, section 3.2.1.
    """
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, T, S)
    scores = scores if bias is None else scores + bias
    scores = np.where(visible(mask, causal, *scores.shape[-2:]), scores, -math.inf)
    weights = softmax(scores)  # (B, H, T, S), rows sum to 1, or to 0 where no key is visible
    return weights @ v


def attention_weights(
    q: Array, k: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    """How much each query takes from each key: attention to values that say which key they belong to.

        softmax(q kᵀ · scale + bias)

    q (B, H, T, D)   k (B, H, S, D)   ->   (B, H, T, S); mask, bias, causal and scale as in `attention`
    """
    B, H, S, _ = k.shape
    names = np.broadcast_to(np.eye(S, dtype=q.dtype), (B, H, S, S))
    return attention(q, k, names, mask=mask, bias=bias, causal=causal, scale=scale)


def visible(mask: Array | None, causal: bool, T: int, S: int) -> Array:
    """Which keys each query may see: bool, broadcastable to (B, H, T, S)."""
    seen = np.tri(T, S, S - T, dtype=bool) if causal else np.ones((T, S), bool)
    return seen if mask is None else seen & mask


def softmax(x: Array) -> Array:
    """Turn each row into weights that sum to 1:   exp(x) / Σ exp(x)

    The row's maximum is subtracted first, so that nothing overflows. A row of nothing but -inf gives zeros.
    x (..., S)   ->   (..., S)
    """
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(top == -math.inf, 0, top))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


# ---- activation functions ------------------------------------------------------------------------
def gelu(x: Array) -> Array:
    """The exact Gaussian error linear unit:   x Φ(x), Φ the normal distribution function.   x (...) -> (...)"""
    return x * normal_cdf(x)


def normal_cdf(x: Array) -> Array:
    """The share of a normal distribution that lies below x:   Φ(x) = (1 + erf(x/√2)) / 2"""
    return ((1 + ERF(x / math.sqrt(2))) / 2).astype(x.dtype)


ERF = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf of its own


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU ("gelu_new"):   x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))"""
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def quick_gelu(x: Array) -> Array:
    """CLIP's approximation of GELU:   x · sigmoid(1.702 x)"""
    return x * sigmoid(1.702 * x)


def silu(x: Array) -> Array:
    """The sigmoid linear unit, also called swish:   x · sigmoid(x)"""
    return x * sigmoid(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), written as (1 + tanh(x/2)) / 2, which never overflows."""
    return (1 + np.tanh(x / 2)) / 2


def relu(x: Array) -> Array:
    """The rectified linear unit:   max(x, 0)"""
    return np.maximum(x, 0)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent:   (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ)"""
    return np.tanh(x)


# ---- the two ends of a model ---------------------------------------------------------------------
def embed(ids: Array, table: Array) -> Array:
    """Look up the embedding of every token:   y[t] = table[ids[t]]

    ids (...) integer   table (V, C)   ->   (..., C)          Raises InputError for an id outside the table.
    """
    ids = np.asarray(ids)
    check_ids(ids, len(table))
    return table[ids]


def patch_embed(pixels: Array, w: Array, b: Array | None = None) -> Array:
    """Cut the picture into P x P patches and apply one linear layer to each: a convolution whose stride is its size.

        y[n] = Σ w · patch[n] + b          patches in reading order, whole ones only

    pixels (B, 3, Y, X)   w (C, 3, P, P)   b (C,)   ->   (B, N, C) with N = (Y // P)·(X // P)
    """
    return linear(patches(pixels, w.shape[-1]), w.reshape(len(w), -1), b)


def patches(pixels: Array, P: int) -> Array:
    """The whole P x P patches of a picture, in reading order.   pixels (B, 3, Y, X)   ->   (B, N, K), K = 3 P²"""
    B, channels, height, width = pixels.shape
    rows, columns = height // P, width // P
    cut = pixels[:, :, : rows * P, : columns * P].reshape(B, channels, rows, P, columns, P)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, channels * P * P)


def cross_entropy(logits: Array, targets: Array, ignore_index: int = -100) -> Array:
    """The average surprise at the right answers, in nats.

        mean over targets != ignore_index of  log Σ exp(logits) - logits[target]

    logits (..., V)   targets (...)   ->   scalar; nan if every target is ignored, as in torch
    Raises InputError for a target outside the vocabulary.
    """
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]  # (M, V), (M,)
    check_labels(targets, logits.shape[-1])
    if not len(targets):
        return logits.dtype.type(math.nan)
    below = logits - logits.max(-1, keepdims=True)  # (M, V), at most 0, so that exp does not overflow
    return (np.log(np.exp(below).sum(-1)) - below[np.arange(len(targets)), targets]).mean()


# ---- the record ----------------------------------------------------------------------------------
concat, broadcast_to = np.concatenate, np.broadcast_to
from_numpy = to_numpy = np.asarray

OPS = record("plain", globals())


def placed(dtype=None, device=None) -> Ops:
    """This record itself. Raises OpsError for any other place or kind of numbers than float32 on the CPU."""
    check_numpy_place("plain", dtype, device)
    return OPS
