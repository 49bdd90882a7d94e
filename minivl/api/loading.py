"""How a checkpoint is loaded: which record of ops runs the model, and in what form it keeps the weights.

Every decision that from_pretrained's arguments ask for is taken in `decide`, from top to bottom:

    backend         plain, numpy                              torch, triton
    dtype None      float32                                   float32
    "auto"          16-bit matrices stay as the file has      what most of the file's numbers are kept in
                    them and are widened tile by tile
    "float32"       float32                                   float32
    "bfloat16"      matrices in bfloat16, products in         bfloat16
                    float32
    "float16"       float32 (with load_in_8bit=True, tables   float16; not for T5, whose sums outgrow it
                    of words in float16)
    load_in_8bit    True: LLM.int8(), "weight-only": 8-bit weights and activations as they are; beside dtype
    device          "cpu"                                     "cpu", "cuda", ...; "auto": the GPU, or else the CPU
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import ops as ops_records
from ..errors import InputError
from ..ops import ON_NUMPY, Ops, dtype_name
from ..weights import files
from ..weights.tree import Entry

if TYPE_CHECKING:
    from ..weights.files import Stored

DTYPES = ("float32", "float16", "bfloat16")


class Loading(NamedTuple):
    """What was decided."""

    ops: Ops  # reads the weights in the form in which they are kept
    dtype: str  # in which a record of torch or triton computes; "float32" for NumPy's
    keep: Callable[[Entry, Stored], Any] | None  # what a tensor of the file becomes; None: an array of the record


def decide(
    backend: str,
    dtype: Any,
    load_in_8bit: Any,
    device: Any,
    device_map: Any,
    tensors: dict[str, Stored],
    language: str,
) -> Loading:
    """From the arguments of from_pretrained, a checkpoint's tensors, and model_type of its language model.

    Raises InputError for a dtype, a load_in_8bit or a device_map that means nothing, OpsError for a backend or a device
    that is not there.
    """
    named = None if dtype is None else dtype_name(dtype)
    if named not in (None, "auto", *DTYPES):
        raise InputError(f"dtype {named!r} is not one of auto, {', '.join(DTYPES)}")
    form = bits(load_in_8bit)
    place = one_device(device_map) if device is None else device

    if backend in ON_NUMPY:
        ops = ops_records.get(backend, "float32", place)
        if form is None and (named == "bfloat16" or named == "auto" and has_16_bits(tensors)):
            form = named
        return Loading(reading(ops) if form else ops, "float32", in_form(form, language, named == "float16"))

    kept = files.main_dtype(tensors) if named == "auto" else named or "float32"
    ops = ops_records.get(backend, kept, place)
    if form is None:
        return Loading(ops, kept, None)
    exact = ops_records.get(backend, "float32", place)  # for the scales of 8-bit rows
    return Loading(reading(ops), kept, in_bytes(form, language, ops, exact))


def bits(load_in_8bit: Any) -> str | None:
    """ "int8", "weight-only" or None."""
    if not (load_in_8bit is None or isinstance(load_in_8bit, bool) or load_in_8bit == "weight-only"):
        raise InputError(f"load_in_8bit: wanted True, False or 'weight-only', found {load_in_8bit!r}")
    return "int8" if load_in_8bit is True else load_in_8bit or None


def one_device(device_map: Any) -> Any:
    """The device that a map names, or None."""
    places = list(device_map.values()) if isinstance(device_map, dict) else [device_map]
    if len(set(map(str, places))) != 1 or isinstance(places[0], list):
        raise InputError(
            f'device_map {device_map!r}: minivl uses one device; leave it out, or give "auto" or {{"": 0}}'
        )
    place = places.pop()
    return "auto" if place == 0 else place


def has_16_bits(tensors: dict[str, Stored]) -> bool:
    return any(stored.dtype in ("F16", "BF16") for stored in tensors.values())


def reading(ops: Ops) -> Ops:
    """The record, able to read matrices of fewer bits."""
    from ..ops import quantised

    return quantised.reading(ops)


def in_form(form: str | None, language: str, half: bool) -> Callable[[Entry, Stored], Any] | None:
    """What a tensor becomes on NumPy."""
    if form is None:
        return None
    from ..weights import quantise

    return quantise.keeper(form, language, half)


def in_bytes(form: str, language: str, ops: Ops, exact: Ops) -> Callable[[Entry, Stored], Any]:
    """What a tensor becomes on torch and triton: bytes with float32 scales, or an array of the record."""
    from ..ops.quantised import Int8
    from ..weights import quantise

    def keep(entry: Entry, stored: Stored) -> Any:
        if quantise.form(form, entry, language) != "bytes":
            return ops.from_numpy(stored.checked())
        rows, scale, whole = quantise.in_bytes(stored, whole=form == "int8")
        return Int8(ops.from_numpy(rows), exact.from_numpy(scale), whole)

    return keep
