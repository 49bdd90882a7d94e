"""The functions that every model here is made of, and the records that hold them.

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

from ..errors import InputError, OpsError

Array = Any  # numpy.ndarray or torch.Tensor: what a record's functions take and give


class Ops(NamedTuple):
    """One implementation of the contract. The formula of each entry stands in the docstrings of ops/numpy.py.

    linear_act and add_layer_norm are steps of their own, because a kernel takes each in one go: whoever swaps linear
    or layer_norm for a whole model swaps these two as well.
    """

    name: str
    linear: Callable[..., Array]  # (x (..., C), w (F, C), b (F,) or None) -> (..., F)
    linear_act: Callable[..., Array]  # (x (..., C), w (F, C), b (F,) or None, *, act: one of ACTS) -> (..., F)
    layer_norm: Callable[..., Array]  # (x (..., C), w (C,), b (C,), eps) -> (..., C)
    add_layer_norm: Callable[..., Array]  # (x (..., C), y (..., C), w (C,), b (C,), eps) -> (..., C)
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


ACTS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")
MODULES = {"numpy": "numpy", "torch": "torch", "triton": "triton"}
OPTIONAL = ("torch", "triton")


def get(name: str, dtype: Any = None, device: Any = None) -> Ops:
    """The record called `name`; with a dtype or a device, its from_numpy casts floats to the one and puts arrays on the
    other.

    dtype "float32", "float16", "bfloat16" or torch's own   device "cpu", "cuda", "cuda:1" or torch's own

    Raises OpsError for a name that does not exist; with the extra to install, for one whose package is missing; and
    for a dtype or a device that it cannot compute in or on.
    """
    if name not in MODULES:
        raise OpsError(f"backend {name!r} does not exist: the backends are {', '.join(map(repr, MODULES))}")
    try:
        module = import_module(f".{MODULES[name]}", __package__)
    except ModuleNotFoundError as missing:
        if missing.name not in OPTIONAL:
            raise
        raise OpsError(
            f"backend {name!r} needs the package {missing.name!r}, which is not installed: pip install 'minivl[{name}]'"
        ) from missing
    return module.OPS if dtype is None and device is None else module.placed(dtype, device)


def act_of(ops: Ops, name: str) -> Callable[..., Array]:
    """The record's activation function of this name. Raises InputError for a name that is not one of ACTS."""
    if name not in ACTS:
        raise InputError(f"activation {name!r} does not exist: the activations are {', '.join(ACTS)}")
    return getattr(ops, name)


def dtype_name(dtype: Any) -> str:
    """'float16' for "float16", np.float16 and torch.float16 alike."""
    return dtype.__name__ if isinstance(dtype, type) else str(dtype).removeprefix("torch.")


def check_ids(ids: Array, rows: int) -> None:
    """InputError for an id outside a table of so many rows: NumPy would count a negative one from its end."""
    outside = (ids < 0) | (ids >= rows)
    if outside.any():
        wrong = int(ids[outside].reshape(-1)[0])
        raise InputError(f"token id {wrong} has no embedding: the table has {rows} rows, ids run from 0 to {rows - 1}")


def check_labels(labels: Array, words: int) -> None:
    """InputError for a label outside the vocabulary."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < words:
        found = f"labels run from {int(labels.min())} to {int(labels.max())}"
        raise InputError(f"{found}, the vocabulary from 0 to {words - 1}")
