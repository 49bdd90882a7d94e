"""The same functions on torch tensors, differentiable: what trains the embedded models. Formulas: ops/numpy_ops.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import Ops


def linear(x, w, b=None):
    return F.linear(x, w, b)


def layer_norm(x, w, b, eps):
    return F.layer_norm(x, w.shape, w, b, eps)


def rms_norm(x, w, eps):
    return F.rms_norm(x, w.shape, w, eps)


def attention_weights(q, k, *, mask=None, bias=None, causal=False, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(-1, -2) * scale  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    keep = _visible(mask, causal, scores)
    return torch.softmax(scores, -1) if keep is None else _softmax_where(scores, keep)


def _visible(mask, causal, scores):
    """True where a query may see a key, or None where every query sees every key."""
    if not causal:
        return mask
    queries, keys = scores.shape[-2:]
    order = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    return order if mask is None else mask & order


def _softmax_where(scores, keep):
    """Softmax over the kept keys; zeros, also in the gradient, in a row that keeps none."""
    lowest = torch.finfo(scores.dtype).min  # finite: a row of -inf would put nan into the gradient
    return torch.softmax(scores.masked_fill(~keep, lowest), -1).masked_fill(~keep, 0)


def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    return attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale).to(v.dtype) @ v


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def softmax(x):
    return torch.softmax(x, -1)


def embed(ids, table):
    return F.embedding(ids, table)


def patch_embed(pixels, w, b=None):
    return F.conv2d(pixels, w, b, stride=w.shape[-1]).flatten(2).transpose(1, 2)


def cross_entropy(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=ignore_index)


def to_numpy(x):
    return x.detach().cpu().numpy()


OPS = Ops(
    name="torch",
    linear=linear,
    layer_norm=layer_norm,
    rms_norm=rms_norm,
    attention=attention,
    attention_weights=attention_weights,
    gelu=F.gelu,
    gelu_tanh=gelu_tanh,
    quick_gelu=quick_gelu,
    relu=F.relu,
    silu=F.silu,
    tanh=torch.tanh,
    softmax=softmax,
    embed=embed,
    patch_embed=patch_embed,
    cross_entropy=cross_entropy,
    concat=torch.cat,
    broadcast_to=torch.broadcast_to,
    from_numpy=torch.tensor,  # a copy: weights mapped from a file are read-only, and torch would write to them
    to_numpy=to_numpy,
)
