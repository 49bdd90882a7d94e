"""The ops of plain.py on torch tensors, on the CPU or a GPU, differentiable. Each formula is told in plain.py."""

from __future__ import annotations

import math
from functools import partial, reduce
from operator import and_
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import OpsError
from . import Array, Ops, act_of, check_ids, check_labels, dtype_name, record
from .plain import OUTLIER, PER_STEP


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    return F.linear(x, w, b)


def linear_act(x: Array, w: Array, b: Array | None = None, *, act: str) -> Array:
    return act_of(OPS, act)(F.linear(x, w, b))


def gated_linear(x: Array, gate: Array, up: Array, *, act: str) -> Array:
    return linear_act(x, gate, act=act) * F.linear(x, up)


def weight_only_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    y = F.linear(x, w.to(x.dtype)) * (scale / 127).to(x.dtype)
    return y if b is None else y + b


def int8_linear(x: Array, w: Array, scale: Array, b: Array | None = None) -> Array:
    if x.requires_grad and torch.is_grad_enabled():
        raise OpsError("int8_linear: x requires a gradient, and rounding to whole numbers has none: train without it")
    flat = x.reshape(-1, x.shape[-1])
    q, scale_x, outlying = quantise_activations(flat)
    y = exact_product(q, w) * (scale_x[:, None] * scale) * PER_STEP
    y = y + flat[:, outlying].float() @ (w[:, outlying] * (scale / 127)[:, None]).T
    y = y if b is None else y + b
    return y.to(x.dtype).reshape(*x.shape[:-1], len(w))


def quantise_activations(x: Array) -> tuple[Array, Array, Array]:
    largest = torch.finfo(torch.float16).max
    x = x.clamp(-largest, largest).to(torch.float16).float()
    large = x.abs() >= OUTLIER  # (M, C)
    outlying = large.any(0)  # (C,)
    q, scale = quantise_rows(x.masked_fill(large, 0))
    return q.masked_fill(outlying, 0), scale, outlying


def quantise_rows(w: Array) -> tuple[Array, Array]:
    scale = w.abs().amax(1) if w.shape[1] else w.new_zeros(len(w))
    factor = torch.where(scale > 1e-36, 127 / scale, 0.0)
    return torch.round(w * factor[:, None]).to(torch.int8), scale


def exact_product(q: Array, w: Array) -> Array:
    """q wᵀ of bytes, without rounding.   q (M, C) int8   w (F, C) int8   ->   (M, F) float32, of the nearest value"""
    if q.device.type == "cpu":
        return torch._int_mm(q, w.T).float()
    steps = range(0, q.shape[1], 1040)  # float32 sums of so many products of two bytes stay below 2^24: they are exact
    parts = [q[:, i : i + 1040].float() @ w[:, i : i + 1040].float().T for i in steps]
    return sum(part.double() for part in parts).float()


def layer_norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    return F.layer_norm(x, w.shape, w, b, eps)


def add_layer_norm(x: Array, y: Array, w: Array, b: Array, eps: float) -> Array:
    return F.layer_norm(x + y, w.shape, w, b, eps)


def rms_norm(x: Array, w: Array, eps: float) -> Array:
    return F.rms_norm(x, w.shape, w, eps)


def softmax(x: Array) -> Array:
    nothing = (x == -math.inf).all(-1, keepdim=True)  # torch would make nan of such a row
    return torch.softmax(x.masked_fill(nothing, 0), -1).masked_fill(nothing, 0)


def attention_weights(
    q: Array, k: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    dtype = torch.promote_types(q.dtype, k.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q * scale).to(dtype) @ k.to(dtype).transpose(-1, -2)  # scaled first: unscaled ones can overflow float16
    if bias is not None:
        scores = scores + bias
    keep = _visible(mask, bias, causal, scores)
    return (torch.softmax(scores, -1) if keep is None else _softmax_where(scores, keep)).to(dtype)  # (B, H, T, S)


def _visible(mask: Array | None, bias: Array | None, causal: bool, scores: Array) -> Array | None:
    """True where a query may see a key, or None where every query sees every key."""
    seen = [] if mask is None else [mask]
    if bias is not None:
        seen.append(bias != -math.inf)
    queries, keys = scores.shape[-2:]
    if causal and queries > 1:  # a single query is the last one, and sees everything
        seen.append(torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries))
    return reduce(and_, seen) if seen else None


def _softmax_where(scores: Array, keep: Array) -> Array:
    """Softmax over the kept keys; zeros, also in the gradient, in a row that keeps none."""
    lowest = torch.finfo(scores.dtype).min  # finite: a row of -inf would put nan into the gradient
    return torch.softmax(scores.masked_fill(~keep, lowest), -1).masked_fill(~keep, 0)


def attention(
    q: Array, k: Array, v: Array, *, mask: Array | None = None, bias: Array | None = None, causal: bool = False,
    scale: float | None = None,
) -> Array:  # fmt: skip
    weights = attention_weights(q, k, mask=mask, bias=bias, causal=causal, scale=scale)
    dtype = torch.promote_types(weights.dtype, v.dtype)
    return weights.to(dtype) @ v.to(dtype)


gelu, relu, silu, tanh = F.gelu, F.relu, F.silu, torch.tanh


def gelu_tanh(x: Array) -> Array:
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Array) -> Array:
    return x * torch.sigmoid(1.702 * x)


def embed(ids: Array, table: Array) -> Array:
    check_ids(ids, len(table))  # on a GPU an id outside the table would end the process's use of the device
    return F.embedding(ids.long(), table)


def patch_embed(pixels: Array, w: Array, b: Array | None = None) -> Array:
    B, channels, height, width = pixels.shape  # no conv2d: GPUs round float32 in those unless told otherwise
    P = w.shape[-1]
    rows, columns = height // P, width // P
    patches = pixels[:, :, : rows * P, : columns * P].reshape(B, channels, rows, P, columns, P)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, channels * P * P)
    return F.linear(patches, w.flatten(1), b)


def cross_entropy(logits: Array, targets: Array, ignore_index: int = -100) -> Array:
    logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long()
    check_labels(targets[targets != ignore_index], logits.shape[-1])
    return F.cross_entropy(logits, targets, ignore_index=ignore_index)


def from_numpy(x: Array, dtype: Any = None, device: Any = None) -> Array:
    """A tensor of an array, or of a tensor, on `device`, floats in `dtype`.

    An array is copied: weights mapped from a file are read-only, and torch would write to them.
    """
    tensor = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, order="C"))
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def to_numpy(x: Array) -> Array:
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


concat, broadcast_to = torch.cat, torch.broadcast_to

OPS = record("torch", globals())


def placed(dtype=None, device=None) -> Ops:
    """The record with a from_numpy that casts and moves. Raises OpsError for what torch cannot do here."""
    return OPS._replace(from_numpy=partial(from_numpy, dtype=float_type(dtype), device=usable(device)))


def float_type(dtype) -> torch.dtype | None:
    """torch.float16 for "float16", numpy.float16 and itself; None for None."""
    if dtype is None:
        return None
    found = getattr(torch, dtype_name(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise OpsError(f"dtype {dtype_name(dtype)!r} is no floating type of torch: give float32, float16 or bfloat16")
    return found


def usable(device) -> torch.device | None:
    """The device of this name, after a look whether it is there; "auto" is the GPU, or the CPU where there is none."""
    if device is None:
        return None
    try:
        named = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError, TypeError) as refusal:
        reason = str(refusal).splitlines()[0]
        raise OpsError(f"device {str(device)!r} cannot be used here: {reason}; give device='cpu'") from refusal
