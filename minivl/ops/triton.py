"""The ops of plain.py by our own Triton kernels, whose files lie in ../../kernels.

Arrays are torch tensors, on a GPU (CUDA or ROCm), or on the CPU in Triton's interpreter. Which file computes an op is
said by its row in table.py. Where an argument requires a gradient, the op goes through autograd.py, where backward()
runs on our own kernels too. What a kernel cannot take it refuses with the reason; nothing else computes in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from inspect import unwrap
from typing import Any

import torch
from numpy import ndarray

from ..errors import OpsError
from ..kernels.attention import attention as attention_of_many
from ..kernels.decode_attention import decode_attention
from ..kernels.launch import INTERPRETED, arrays, check_place
from . import TABLE, Ops, record
from . import torch as torch_ops
from .autograd import differentiable

if not INTERPRETED and not torch.cuda.is_available():
    raise OpsError(
        "backend 'triton' needs a GPU that torch sees (CUDA or ROCm), and there is none: set TRITON_INTERPRET=1 before"
        " triton is imported, to run the kernels in its interpreter on the CPU"
    )
HOME = "cpu" if INTERPRETED else "cuda"

one_query, many_queries = unwrap(decode_attention), unwrap(attention_of_many)


@arrays
def attention(q, k, v, *, mask=None, bias=None, causal=False, scale=None):
    """A single query, the last one, which sees every key, has a kernel that splits the keys among many programs."""
    if q.shape[2] == 1:
        return one_query(q, k, v, mask=mask, bias=bias, scale=scale)
    return many_queries(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)


def kernel_of(name: str) -> Callable[..., Any]:
    """The function that launches an op's kernel."""
    if name == "attention":
        return attention
    return getattr(import_module(f"minivl.kernels.{TABLE[name].kernel}"), name)


def op(name: str) -> Callable[..., Any]:
    """The kernel of an op; where an argument requires a gradient, the autograd function around it.

    This is the one frame between a line of a model and the function that calls a kernel, so it unwraps what would let
    that function take NumPy arrays: a model on this record has none.
    """
    if not TABLE[name].kernel:
        return partial(no_kernel, name)
    kernel = kernel_of(name)
    direct, traced = unwrap(kernel), differentiable(name)

    @wraps(kernel)
    def run(*args, **named):
        given = [*args, *named.values()]
        check_place(direct, given)
        if any(isinstance(x, ndarray) for x in given):
            return kernel(*args, **named)
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in given):
            return traced(*args, **named)
        return direct(*args, **named)

    return run


def no_kernel(name: str, *args: Any, **named: Any) -> Any:
    """An op that nobody has written a kernel for yet."""
    raise OpsError(
        f"{name} has no Triton kernel yet: run this model on another backend, or write one (CONTRIBUTING.md)"
    )


OPS = record(
    "triton",
    {name: op(name) for name in TABLE}
    | {"concat": torch.cat, "broadcast_to": torch.broadcast_to, "to_numpy": torch_ops.to_numpy}
    | {"from_numpy": partial(torch_ops.from_numpy, device=HOME)},
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
