"""Attention's cases and its answers in float64 and in torch."""

import math

import numpy as np
import torch
from kernel_checks import double

DTYPES = ("float32", "float16", "bfloat16")


CAP = {"float32": 2e-5, "float16": 0.02, "bfloat16": 0.15}


WIDTHS = (16, 64, 80, 88, 96, 128)


def scores(q, k, mask, bias, causal, scale):
    """(B, H, T, S) in float64, -inf where a query does not see a key."""
    scores = double(q) @ double(k).swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    T, S = scores.shape[-2:]
    if bias is not None:
        scores = scores + double(bias)
    visible = np.ones((T, S), bool) if mask is None else mask.cpu().numpy()
    if causal:
        visible = visible & (np.arange(S) <= np.arange(T)[:, None] + S - T)
    return np.where(visible, scores, -np.inf)


def exactly(q, k, v, mask=None, bias=None, causal=False, scale=None):
    """Output and log-sum-exp in float64, from the definition; a query without keys gives 0 and -inf."""
    s = scores(q, k, mask, bias, causal, scale)
    m = s.max(-1, keepdims=True, initial=-np.inf)
    shares = np.exp(s - np.where(np.isfinite(m), m, 0))
    total = shares.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.where(np.isfinite(m), m, 0) + np.log(total))[..., 0]
    return shares / np.where(total == 0, 1, total) @ double(v), lse


def in_torch(q, k, v, mask=None, bias=None, causal=False, scale=None):
    """What torch makes of it in the dtype of q: products, softmax and weights all in that dtype."""
    T, S = q.shape[2], k.shape[2]
    s = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    s = s if bias is None else s + bias.to(s.dtype)
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device) if mask is None else mask
    if causal:
        visible = visible & torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    s = s.masked_fill(~visible, -math.inf)
    return torch.softmax(s, -1).nan_to_num(0.0) @ v
