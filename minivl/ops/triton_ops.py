"""The same functions by our own Triton kernels, whose files lie in ../../kernels. Formulas: ops/numpy_ops.py.

Arrays are torch tensors, on a GPU (CUDA or ROCm), or on the CPU in Triton's interpreter. The kernels compute forward
only. What one of them cannot take it refuses with the reason; nothing else computes in its place.
"""

from __future__ import annotations

from functools import partial, wraps

import torch

from ..errors import OpsError
from ..kernels.activations import gelu, gelu_tanh, quick_gelu, relu, silu, tanh
from ..kernels.attention import attention as many_queries
from ..kernels.attention_naive import attention_weights
from ..kernels.cross_entropy import cross_entropy
from ..kernels.decode_attention import decode_attention as one_query
from ..kernels.embeddings import embed
from ..kernels.launch import INTERPRETED
from ..kernels.layer_norm import add_layer_norm, layer_norm, rms_norm
from ..kernels.linear import linear
from ..kernels.patches import patch_embed
from ..kernels.softmax_rows import softmax
from . import Ops, torch_ops


def forward_only(kernel):
    """The kernel, refusing a tensor that requires a gradient: it would come out as one that leads nowhere."""

    @wraps(kernel)
    def run(*args, **named):
        if torch.is_grad_enabled() and any(_traced(x) for x in (*args, *named.values())):
            raise OpsError(
                f"{kernel.__name__}: an argument requires a gradient and the kernels compute none: load with"
                " backend='torch' to train, or call under torch.no_grad()"
            )
        return kernel(*args, **named)

    return run


def _traced(x) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


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
    linear=forward_only(linear),
    linear_act=forward_only(linear),
    layer_norm=forward_only(layer_norm),
    add_layer_norm=forward_only(add_layer_norm),
    rms_norm=forward_only(rms_norm),
    attention=forward_only(attention),
    attention_weights=forward_only(attention_weights),
    gelu=forward_only(gelu),
    gelu_tanh=forward_only(gelu_tanh),
    quick_gelu=forward_only(quick_gelu),
    relu=forward_only(relu),
    silu=forward_only(silu),
    tanh=forward_only(tanh),
    softmax=forward_only(softmax),
    embed=forward_only(embed),
    patch_embed=forward_only(patch_embed),
    cross_entropy=forward_only(cross_entropy),
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
