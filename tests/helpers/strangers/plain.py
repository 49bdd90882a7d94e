"""Strangers' functions without a kernel, each right and none written as in minivl; and some that are wrong."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def by_torch(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """torch's own attention, its causal lined up with the last key."""
    T, S = q.shape[2], k.shape[2]
    seen = torch.ones(T, S, dtype=torch.bool) if mask is None else mask
    if causal:
        seen = seen & torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if bias is not None:
        seen = bias.to(q.dtype).masked_fill(~seen, -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)


def by_einsum(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """NumPy, float64 inside."""
    scores = np.einsum("bhtd,bhsd->bhts", q.astype(np.float64), k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    T, S = scores.shape[-2:]
    seen = np.ones((T, S), bool) if mask is None else mask
    if causal:
        seen = seen & np.tri(T, S, S - T, dtype=bool)
    scores = np.where(seen, scores, -1e300)
    shares = np.exp(scores - scores.max(-1, keepdims=True)) * seen
    total = shares.sum(-1, keepdims=True)
    return np.einsum("bhts,bhsd->bhtd", shares / np.where(total == 0, 1, total), v).astype(np.float32)


def widened(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """Everything in float32, the result in the dtype of q."""
    wide = by_torch(q.float(), k.float(), v.float(), mask=mask, causal=causal, scale=scale,
                    bias=None if bias is None else bias.float())  # fmt: skip
    return wide.to(q.dtype)


def without_mask(q, k, v, is_causal=False, sm_scale=None):
    """Other names, and less than all of it."""
    return by_torch(q, k, v, causal=is_causal, scale=sm_scale)


def norm(x, w, b, eps):
    """Layer norm by hand, in float32."""
    wide = x.float()
    rest = wide - wide.mean(-1, keepdim=True)
    return (rest * torch.rsqrt(rest.pow(2).mean(-1, keepdim=True) + eps) * w.float() + b.float()).to(x.dtype)


def norm_of_a_copy(x, w, b, eps):
    """Wrong: reads x as if its numbers lay side by side."""
    return norm(torch.as_strided(x, x.shape, torch.empty(x.shape).stride()), w, b, eps)


def norm_unbiased(x, w, b, eps):
    wide = x.float()
    spread = torch.sqrt(wide.var(-1, keepdim=True) + eps)
    return ((wide - wide.mean(-1, keepdim=True)) / spread * w.float() + b.float()).to(x.dtype)


def norm_in_place(x, w, b, eps):
    x -= x.mean(-1, keepdim=True)
    return norm(x, w, b, eps)


def linear_in_16_bits(x, w, b=None):
    """Wrong: the sum over blocks of 64 columns is kept in the dtype of x."""
    y = torch.zeros(*x.shape[:-1], w.shape[0], dtype=x.dtype)
    for c in range(0, x.shape[-1], 64):
        y = y + F.linear(x[..., c : c + 64], w[:, c : c + 64])
    return y if b is None else y + b


def bias_without_gradient(dout, q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """Wrong: no gradient of the bias."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    from minivl.ops import torch as torch_ops

    out = torch_ops.attention(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)
    return *torch.autograd.grad(out, (q, k, v), dout), None


def all_gradients(dout, q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """Right: by float32 autograd of another attention."""
    leaves = [None if x is None else x.detach().float().requires_grad_() for x in (q, k, v, bias)]
    out = by_torch(*leaves[:3], mask=mask, bias=leaves[3], causal=causal, scale=scale)
    found = torch.autograd.grad(out, [x for x in leaves if x is not None], dout.float())
    grads = [g.to(q.dtype) for g in found]
    return (*grads, None) if bias is None else tuple(grads)


def not_a_function_of_arrays(q, k, v, **named):
    raise RuntimeError("no luck today")
