"""The functions that every model here is made of, and the records that hold them.

A model function takes the record as its first argument, `layer(ops, p, x, ...)`, so one model source runs on NumPy, on
torch and on the Triton kernels. Swapping one function is `ops._replace(attention=mine)`; nothing is global and nothing
falls back in silence.

    ops = minivl.ops.get("plain")
    ops.attention(q, k, v, causal=True)

table.py says which ops there are, plain.py what each computes. numpy.py is the same, fast, and the default.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import InputError, OpsError
from .table import ACTS, TABLE, Array, Function, Ops, record

__all__ = ["ACTS", "BACKENDS", "ON_NUMPY", "TABLE", "Array", "Function", "Ops", "act_of", "get", "record"]

BACKENDS = ("plain", "numpy", "torch", "triton")
ON_NUMPY = ("plain", "numpy")  # the backends whose arrays are NumPy's
OPTIONAL = ("torch", "triton")


def get(name: str, dtype: Any = None, device: Any = None) -> Ops:
    """The record called `name`; with a dtype or a device, its from_numpy casts floats to the one and puts arrays on the
    other.

    dtype "float32", "float16", "bfloat16" or torch's own   device "cpu", "cuda", "cuda:1" or torch's own

    Raises OpsError for a name that does not exist; with the extra to install, for one whose package is missing; and
    for a dtype or a device that it cannot compute in or on.
    """
    if name not in BACKENDS:
        raise OpsError(f"backend {name!r} does not exist: the backends are {', '.join(map(repr, BACKENDS))}")
    try:
        module = import_module(f".{name}", __package__)
    except ModuleNotFoundError as missing:
        if missing.name not in OPTIONAL:
            raise
        raise OpsError(
            f"backend {name!r} needs the package {missing.name!r}, which is not installed: pip install 'minivl[{name}]'"
        ) from missing
    return module.OPS if dtype is None and device is None else module.placed(dtype, device)


def act_of(ops: Ops, name: str) -> Function:
    """The record's activation function of this name. Raises InputError for a name that is not one of ACTS."""
    if name not in ACTS:
        raise InputError(f"activation {name!r} does not exist: the activations are {', '.join(ACTS)}")
    return getattr(ops, name)


def dtype_name(dtype: Any) -> str:
    """'float16' for "float16", np.float16 and torch.float16 alike."""
    return dtype.__name__ if isinstance(dtype, type) else str(dtype).removeprefix("torch.")


def check_numpy_place(name: str, dtype: Any, device: Any) -> None:
    """OpsError for any other place or kind of numbers than float32 on the CPU, which is all that NumPy's records do."""
    if dtype is not None and dtype_name(dtype) != "float32":
        raise OpsError(
            f"backend {name!r} computes in float32, not in {dtype_name(dtype)}: load with backend='torch' for that"
        )
    if device is not None and str(device).partition(":")[0] not in ("cpu", "auto"):
        raise OpsError(
            f"backend {name!r} computes on the CPU, not on device {str(device)!r}: load with backend='torch' for that"
        )


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
