"""The same functions by our own Triton kernels, whose files lie in ../../kernels. Formulas: ops/numpy.py.

Arrays are torch tensors, on a GPU (CUDA or ROCm), or on the CPU in Triton's interpreter. A tensor that requires a
gradient takes the way through ops/autograd.py, where backward() runs on our own kernels too. What a kernel
cannot take it refuses with the reason; nothing else computes in its place.
"""

from __future__ import annotations

from functools import partial, wraps
from inspect import unwrap

import torch
from numpy import ndarray

from ..errors import OpsError
from ..kernels.activations import gelu, gelu_tanh, quick_gelu, relu, silu, tanh
from ..kernels.attention import attention as attention_of_many
from ..kernels.attention_naive import attention_weights
from ..kernels.cross_entropy import cross_entropy
from ..kernels.decode_attention import decode_attention
from ..kernels.embeddings import embed
from ..kernels.launch import INTERPRETED, arrays, check_place
from ..kernels.layer_norm import add_layer_norm, layer_norm, rms_norm
from ..kernels.linear import linear
from ..kernels.patches import patch_embed
from ..kernels.softmax import softmax
from . import Ops
from . import autograd as back
from . import torch as torch_ops


def differentiable(kernel, function):
    """The kernel; where an argument requires a gradient, the function of triton_gradients that knows the way back.

    This is the one frame between a line of a model and the function that calls a kernel, so it unwraps what would let
    that function take NumPy arrays: a model on this record has none.
    """
    direct = unwrap(kernel)

    @wraps(kernel)
    def run(*args, **named):
        given = [*args, *named.values()]
        check_place(direct, given)
        if any(isinstance(x, ndarray) for x in given):
            return kernel(*args, **named)
        if torch.is_grad_enabled() and any(_traced(x) for x in given):
            return function(*args, **named)
        return direct(*args, **named)

    return run


def _traced(x) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


one_query, many_queries = unwrap(decode_attention), unwrap(attention_of_many)


@arrays
def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """A single query, the last one, which sees every key, has a kernel that shares the keys out among many programs."""
    if q.shape[2] == 1:
        return one_query(q, k, v, mask=mask, bias=bias, scale=scale)
    return many_queries(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)


if not INTERPRETED and not torch.cuda.is_available():
    raise OpsError(
        "backend 'triton' needs a GPU that torch sees (CUDA or ROCm), and there is none: set TRITON_INTERPRET=1 before"
        " triton is imported, to run the kernels in its interpreter on the CPU"
    )
HOME = "cpu" if INTERPRETED else "cuda"

OPS = Ops(
    name="triton",
    linear=differentiable(linear, back.linear),
    linear_act=differentiable(linear, back.linear),
    layer_norm=differentiable(layer_norm, back.layer_norm),
    add_layer_norm=differentiable(add_layer_norm, back.add_layer_norm),
    rms_norm=differentiable(rms_norm, back.rms_norm),
    attention=differentiable(attention, back.attention),
    attention_weights=differentiable(attention_weights, back.attention_weights),
    gelu=differentiable(gelu, back.gelu),
    gelu_tanh=differentiable(gelu_tanh, back.gelu_tanh),
    quick_gelu=differentiable(quick_gelu, back.quick_gelu),
    relu=differentiable(relu, back.relu),
    silu=differentiable(silu, back.silu),
    tanh=differentiable(tanh, back.tanh),
    softmax=differentiable(softmax, back.softmax),
    embed=differentiable(embed, back.embed),
    patch_embed=differentiable(patch_embed, back.patch_embed),
    cross_entropy=differentiable(cross_entropy, back.cross_entropy),
    concat=torch.cat,
    broadcast_to=torch.broadcast_to,
    from_numpy=partial(torch_ops.from_numpy, device=HOME),
    to_numpy=torch_ops.to_numpy,
)


def placed(dtype=None, device=None) -> Ops:
    """The record with a from_numpy that casts and moves. Raises OpsError for what the kernels cannot take."""
    kind = torch_ops.float_type(dtype)
    if kind not in (None, torch.float32, torch.float16, torch.bfloat16):
        raise OpsError(f"dtype {kind}: the kernels take float32, float16 and bfloat16")
    place = torch_ops.usable(HOME if device in (None, "auto") else device)
    if str(place) == "cpu" and not INTERPRETED:
        raise OpsError(
            "backend 'triton' runs on the GPU here: for the CPU set TRITON_INTERPRET=1 before triton is imported"
        )
    return OPS._replace(from_numpy=partial(torch_ops.from_numpy, dtype=kind, device=place))
