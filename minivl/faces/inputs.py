"""Taking in what a caller brings: the name of a backend, arrays and tensors of every make."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops as ops_records
from ..errors import InputError, OpsError

DTYPES = ("float32", "float16", "bfloat16")


def choose_backend(name: str, dtype: Any = None, device: Any = None, device_map: Any = None) -> ops_records.Ops:
    """The ops record for from_pretrained's arguments.

    NumPy computes in float32 on the CPU, so there a half-precision `dtype` and the one-device maps of the
    documentation's examples ("auto", {"": 0}) are taken to mean just that; a named device that NumPy cannot reach
    raises OpsError.
    """
    ops = ops_records.get(name)
    if dtype is not None and dtype_name(dtype) not in DTYPES:
        raise InputError(f"dtype {dtype_name(dtype)!r} is not one of {', '.join(DTYPES)}")
    if str(device or "cpu") != "cpu":
        raise OpsError(f"backend {name!r} computes on the CPU, not on device {str(device)!r}")
    one_device = isinstance(device_map, dict) and len(set(device_map.values())) == 1
    if not one_device and device_map not in (None, "auto", "cpu"):
        raise InputError(
            f'device_map {device_map!r}: minivl uses one device; leave it out, or give "auto" or {{"": 0}}'
        )
    return ops


def dtype_name(dtype: Any) -> str:
    """'float16' for "float16", np.float16 and torch.float16 alike."""
    return dtype.__name__ if isinstance(dtype, type) else str(dtype).removeprefix("torch.")


def to_floats(x: Any, name: str, ndim: int) -> np.ndarray:
    """A float32 array from a list, an array or a tensor, with the number of axes that it must have."""
    array = to_array(x)
    if array.ndim != ndim or array.dtype.kind not in "fiu":
        raise InputError(f"{name} must hold numbers on {ndim} axes, not {array.dtype} of shape {array.shape}")
    return array.astype(np.float32, copy=False)


def to_ids(x: Any, name: str) -> np.ndarray:
    """An int64 array (rows, tokens) from a list, an array or a tensor."""
    try:
        array = to_array(x)
    except ValueError as ragged:
        raise InputError(f"{name} has rows of different lengths: give padding=True to the processor") from ragged
    if array.ndim != 2 or array.dtype.kind not in "iub" or not array.shape[1]:
        raise InputError(
            f"{name} must hold whole numbers of shape (rows, tokens), not {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64, copy=False)


def to_prompt(input_ids: Any, attention_mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, (rows, tokens) each; without a mask every token counts."""
    ids = to_ids(input_ids, "input_ids")
    mask = np.ones_like(ids) if attention_mask is None else to_ids(attention_mask, "attention_mask")
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {mask.shape}, input_ids {ids.shape}: they must be equal")
    if not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"attention_mask holds {mask[~np.isin(mask, (0, 1))].flat[0]}: wanted 1 to read a token, 0 not to"
        )
    return ids, mask


def same_rows(pictures: int, texts: int) -> None:
    """Every picture has its text."""
    if pictures != texts:
        raise InputError(f"{pictures} pictures and {texts} texts: give one text for each picture")


def to_array(x: Any) -> np.ndarray:
    """An array from a list, an array or a tensor."""
    if hasattr(x, "detach"):  # a torch tensor: NumPy has no bfloat16, so floats come over as float32
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() else x).numpy()
    return np.asarray(x)
