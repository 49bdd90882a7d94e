"""The way back through our own Triton kernels: one torch.autograd.Function for each op of the record "triton".

A Function keeps what its op was given, and its backward calls the kernel that ops/backward.py explains. Nothing
that can be found again from the arguments is kept: no statistics of a norm, no hidden layer before its activation, no
shares of attention but one log-sum-exp for each query. Gradients that nobody asked for are not computed.

ops/triton.py comes here only with a tensor that requires a gradient. Gradients of gradients are refused.
"""

from __future__ import annotations

from functools import wraps

import torch
from torch.autograd import Function

from ..errors import OpsError
from ..kernels.activations import gelu as gelu_kernel
from ..kernels.activations import (
    gelu_backward,
    gelu_tanh_backward,
    quick_gelu_backward,
    relu_backward,
    silu_backward,
    tanh_backward,
)
from ..kernels.activations import gelu_tanh as gelu_tanh_kernel
from ..kernels.activations import quick_gelu as quick_gelu_kernel
from ..kernels.activations import relu as relu_kernel
from ..kernels.activations import silu as silu_kernel
from ..kernels.activations import tanh as tanh_kernel
from ..kernels.attention import attention as attention_kernel
from ..kernels.attention_backward import attention_backward
from ..kernels.cross_entropy import cross_entropy as cross_entropy_kernel
from ..kernels.cross_entropy import cross_entropy_backward, cross_entropy_backward_in_place
from ..kernels.embeddings import embed as embed_kernel
from ..kernels.embeddings import embed_backward
from ..kernels.layer_norm import add_layer_norm as add_layer_norm_kernel
from ..kernels.layer_norm import add_layer_norm_backward, layer_norm_backward, rms_norm_backward
from ..kernels.layer_norm import layer_norm as layer_norm_kernel
from ..kernels.layer_norm import rms_norm as rms_norm_kernel
from ..kernels.linear import linear as linear_kernel
from ..kernels.linear import linear_backward
from ..kernels.patches import patch_embed as patch_embed_kernel
from ..kernels.patches import patch_embed_backward
from ..kernels.softmax import softmax as softmax_kernel
from ..kernels.softmax import softmax_backward


def once(backward):
    """A backward that refuses to be differentiated itself, as `create_graph=True` asks."""

    @wraps(backward)
    def run(ctx, dout):
        if torch.is_grad_enabled():
            raise OpsError(
                "the kernels compute no gradients of gradients: leave out create_graph=True, or load with"
                " backend='torch'"
            )
        return backward(ctx, dout)

    return run


class Linear(Function):
    """act(x wᵀ + b); act may be None."""

    @staticmethod
    def forward(ctx, x, w, b, act):
        ctx.save_for_backward(x, w, b)
        ctx.act = act
        return linear_kernel(x, w, b, act)

    @staticmethod
    @once
    def backward(ctx, dout):
        x, w, b = ctx.saved_tensors
        return *linear_backward(dout, x, w, b, ctx.act, wanted=ctx.needs_input_grad[:3]), None


class LayerNorm(Function):
    @staticmethod
    def forward(ctx, x, w, b, eps):
        ctx.save_for_backward(x, w, b)
        ctx.eps = eps
        return layer_norm_kernel(x, w, b, eps)

    @staticmethod
    @once
    def backward(ctx, dout):
        x, w, b = ctx.saved_tensors
        return *layer_norm_backward(dout, x, w, b, ctx.eps, wanted=ctx.needs_input_grad[:3]), None


class AddLayerNorm(Function):
    @staticmethod
    def forward(ctx, x, y, w, b, eps):
        ctx.save_for_backward(x, y, w, b)
        ctx.eps = eps
        return add_layer_norm_kernel(x, y, w, b, eps)

    @staticmethod
    @once
    def backward(ctx, dout):
        x, y, w, b = ctx.saved_tensors
        return *add_layer_norm_backward(dout, x, y, w, b, ctx.eps, wanted=ctx.needs_input_grad[:4]), None


class RMSNorm(Function):
    @staticmethod
    def forward(ctx, x, w, eps):
        ctx.save_for_backward(x, w)
        ctx.eps = eps
        return rms_norm_kernel(x, w, eps)

    @staticmethod
    @once
    def backward(ctx, dout):
        x, w = ctx.saved_tensors
        return *rms_norm_backward(dout, x, w, ctx.eps, wanted=ctx.needs_input_grad[:2]), None


class Attention(Function):
    """The T x S shares are computed again from lse (B, H, T), the log-sum-exp of each query's scores."""

    @staticmethod
    def forward(ctx, q, k, v, mask, bias, causal, scale):
        out, lse = attention_kernel(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale, with_lse=True)
        ctx.save_for_backward(q, k, v, mask, bias, out, lse)
        ctx.how = dict(causal=causal, scale=scale)
        return out

    @staticmethod
    @once
    def backward(ctx, dout):
        q, k, v, mask, bias, out, lse = ctx.saved_tensors
        to_q, to_k, to_v, _, to_bias, *_ = ctx.needs_input_grad
        more = dict(mask=mask, bias=bias, out=out, lse=lse, wanted=(to_q, to_k, to_v, to_bias))
        dq, dk, dv, dbias = attention_backward(dout, q, k, v, **more, **ctx.how)
        return dq, dk, dv, None, dbias, None, None


class Activation(Function):
    """One of the six curves, given as its kernel and that of its slope."""

    @staticmethod
    def forward(ctx, x, kernel, backward_kernel):
        ctx.save_for_backward(x)
        ctx.run = backward_kernel
        return kernel(x)

    @staticmethod
    @once
    def backward(ctx, dout):
        return ctx.run(dout, *ctx.saved_tensors), None, None


class Softmax(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return softmax_kernel(x)

    @staticmethod
    @once
    def backward(ctx, dout):
        return softmax_backward(dout, *ctx.saved_tensors)


class Embed(Function):
    @staticmethod
    def forward(ctx, ids, table):
        ctx.save_for_backward(ids, table)
        return embed_kernel(ids, table)

    @staticmethod
    @once
    def backward(ctx, dout):
        return None, embed_backward(dout, *ctx.saved_tensors)


class PatchEmbed(Function):
    @staticmethod
    def forward(ctx, pixels, w, b):
        ctx.save_for_backward(pixels, w, b)
        return patch_embed_kernel(pixels, w, b)

    @staticmethod
    @once
    def backward(ctx, dout):
        return patch_embed_backward(dout, *ctx.saved_tensors, wanted=ctx.needs_input_grad)


class CrossEntropy(Function):
    @staticmethod
    def forward(ctx, logits, targets, ignore_index, in_place):
        ctx.save_for_backward(logits, targets)
        ctx.ignore_index, ctx.in_place = ignore_index, in_place
        return cross_entropy_kernel(logits, targets, ignore_index)

    @staticmethod
    @once
    def backward(ctx, dout):
        logits, targets = ctx.saved_tensors
        if not ctx.in_place:
            return cross_entropy_backward(dout, logits, targets, ctx.ignore_index), None, None, None
        dlogits = cross_entropy_backward_in_place(dout, logits.detach(), targets, ctx.ignore_index)
        torch.autograd.graph.increment_version(logits)  # torch refuses whoever still counts on the logits
        return dlogits, None, None, None


def linear(x, w, b=None, act=None):
    return Linear.apply(x, w, b, act)


def layer_norm(x, w, b, eps):
    return LayerNorm.apply(x, w, b, eps)


def add_layer_norm(x, y, w, b, eps):
    return AddLayerNorm.apply(x, y, w, b, eps)


def rms_norm(x, w, eps):
    return RMSNorm.apply(x, w, eps)


def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    return Attention.apply(q, k, v, mask, bias, causal, scale)


def attention_weights(q, k, **how):
    raise OpsError(
        "attention_weights: an argument requires a gradient, and the kernel computes none of the weights themselves:"
        " look at them under torch.no_grad(), or load with backend='torch'"
    )


def gelu(x):
    return Activation.apply(x, gelu_kernel, gelu_backward)


def gelu_tanh(x):
    return Activation.apply(x, gelu_tanh_kernel, gelu_tanh_backward)


def quick_gelu(x):
    return Activation.apply(x, quick_gelu_kernel, quick_gelu_backward)


def relu(x):
    return Activation.apply(x, relu_kernel, relu_backward)


def silu(x):
    return Activation.apply(x, silu_kernel, silu_backward)


def tanh(x):
    return Activation.apply(x, tanh_kernel, tanh_backward)


def softmax(x):
    return Softmax.apply(x)


def embed(ids, table):
    return Embed.apply(ids, table)


def patch_embed(pixels, w, b=None):
    return PatchEmbed.apply(pixels, w, b)


def cross_entropy(logits, targets, ignore_index=-100):
    return CrossEntropy.apply(logits, targets, ignore_index, False)


def cross_entropy_in_place(logits, targets, ignore_index=-100):
    """`cross_entropy` whose backward WRITES THE GRADIENT OVER THE LOGITS, the largest array of a step by far.

    For a training loop that does not look at the logits again: ops._replace(cross_entropy=cross_entropy_in_place).
    Raises OpsError for logits that are a weight and no result: they would be lost.
    """
    if logits.is_leaf and logits.requires_grad:
        raise OpsError("cross_entropy_in_place: the logits are a leaf, whose values backward() would overwrite")
    return CrossEntropy.apply(logits, targets, ignore_index, True)
