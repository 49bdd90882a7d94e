"""The dozen functions that every model here is made of, and the records that hold them.

A model function takes the record as its first argument, `layer(ops, p, x, ...)`, so one model source runs on NumPy, on
torch and on the Triton kernels. Swapping one function is `ops._replace(attention=mine)`; nothing is global and nothing
falls back in silence.

    ops = minivl.ops.get("numpy")
    ops.attention(q, k, v, causal=True)
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from ..errors import OpsError

Array = Any  # numpy.ndarray or torch.Tensor: what a record's functions take and give


class Ops(NamedTuple):
    """One implementation of the contract. The formula of each entry stands in the docstrings of ops/numpy_ops.py."""

    name: str
    linear: Callable[..., Array]  # (x (..., C), w (F, C), b (F,) or None) -> (..., F)
    layer_norm: Callable[..., Array]  # (x (..., C), w (C,), b (C,), eps) -> (..., C)
    rms_norm: Callable[..., Array]  # (x (..., C), w (C,), eps) -> (..., C)
    attention: Callable[..., Array]  # (q (B,H,T,D), k v (B,H,S,D), *, mask, bias, causal, scale) -> (B,H,T,D)
    attention_weights: Callable[..., Array]  # (q, k, *, mask, bias, causal, scale) -> (B,H,T,S), rows sum to 1 or to 0
    gelu: Callable[..., Array]  # (x) -> like x, exact
    gelu_tanh: Callable[..., Array]
    quick_gelu: Callable[..., Array]
    relu: Callable[..., Array]
    silu: Callable[..., Array]
    tanh: Callable[..., Array]
    softmax: Callable[..., Array]  # (x) over the last axis
    embed: Callable[..., Array]  # (ids (...), table (V, C)) -> (..., C)
    patch_embed: Callable[..., Array]  # (pixels (B,3,Y,X), w (C,3,P,P), b (C,) or None) -> (B, N, C)
    cross_entropy: Callable[..., Array]  # (logits (..., V), targets (...), ignore_index=-100) -> scalar
    concat: Callable[..., Array]  # (arrays, axis) -> array
    broadcast_to: Callable[..., Array]  # (x, shape) -> array, without copying
    from_numpy: Callable[..., Array]  # ndarray -> this record's array
    to_numpy: Callable[..., Any]  # this record's array -> ndarray


MODULES = {"numpy": "numpy_ops", "torch": "torch_ops"}


def get(name: str) -> Ops:
    """The record called `name`.

    Raises OpsError for a name that does not exist, and, with the extra to install, for one whose package is missing.
    """
    if name not in MODULES:
        raise OpsError(f"backend {name!r} does not exist: the backends are {', '.join(map(repr, MODULES))}")
    try:
        return import_module(f".{MODULES[name]}", __package__).OPS
    except ModuleNotFoundError as missing:
        raise OpsError(
            f"backend {name!r} needs the package {missing.name!r}, which is not installed: pip install 'minivl[{name}]'"
        ) from missing
