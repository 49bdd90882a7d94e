"""The header of a safetensors file, and every way in which it can lie.

A safetensors file is eight bytes (the header's length N, little endian), N bytes of JSON, then the tensors' bytes:

    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"format": "pt"}}

The offsets count from the end of the header, and the tensors cover the rest of the file without hole or overlap.
Every number is held against the file's real length before anything is mapped or allocated.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..disk import MOST_JSON, parse_json, show
from ..errors import WeightsError

# NumPy has no bfloat16, which is the upper half of a float32: its bits travel as uint16.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
MOST_ELEMENTS = 2**40  # zeros counted as ones, so that an empty tensor cannot claim an absurd shape either
MOST_AXES = 32


class Slot(NamedTuple):
    """Where one tensor lies: bytes begin..end after the header, to be read as this dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def nbytes(dtype: str, shape: Iterable[int]) -> int:
    """The length in bytes of a tensor."""
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def read_header(file: BinaryIO, size: int, where: str) -> tuple[list[Slot], int]:
    """The tensors in the order of their bytes, and the place where those bytes start in the file of `size` bytes."""
    if size < 8:
        raise WeightsError(f"{where}: wanted a safetensors file, found only {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_JSON:
        raise WeightsError(f"{where}: wanted a header of at most {MOST_JSON} bytes, found one that claims {length}")
    if 8 + length > size:
        raise WeightsError(f"{where}: wanted {length} bytes of header, found {size - 8}; the file is cut short")
    text = file.read(length)
    if len(text) != length:
        raise WeightsError(f"{where}: wanted {length} bytes of header, found only {len(text)} when reading")
    if text[:1] != b"{":
        raise WeightsError(f"{where}: wanted a header that starts with '{{', found {show(text[:8])}")
    header = parse_json(text, where, WeightsError)
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise WeightsError(f"{where}: wanted __metadata__ to hold only strings, found {show(notes)}")
    slots = sorted((check_slot(*item, where) for item in header.items()), key=lambda slot: (slot.begin, slot.end))
    check_cover(slots, size - 8 - length, where)
    return slots, 8 + length


def check_slot(name: str, entry: Any, where: str) -> Slot:
    """One entry of the header as a Slot, if it makes sense on its own."""
    if not name.isprintable():
        raise WeightsError(f"{where}: wanted printable names, found a tensor called {show(name)}")
    what = f"{where}: tensor {show(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise WeightsError(f"{what}: wanted dtype, shape and data_offsets, found {show(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        advice = "; convert 8-bit floats to bfloat16 first" if str(dtype).startswith("F8") else ""
        raise WeightsError(f"{what}: wanted a dtype among {' '.join(DTYPES)}, found {show(dtype)}{advice}")
    if not are_sizes(shape) or len(shape) > MOST_AXES or math.prod(max(n, 1) for n in shape) >= MOST_ELEMENTS:
        raise WeightsError(f"{what}: wanted a shape of fewer than 2**40 elements, found {show(shape)}")
    if not are_sizes(offsets) or len(offsets) != 2:
        raise WeightsError(f"{what}: wanted data_offsets [begin, end], found {show(offsets)}")
    begin, end = offsets
    if end - begin != nbytes(dtype, shape):
        need = f"{nbytes(dtype, shape)} bytes for {dtype} {tuple(shape)}"
        raise WeightsError(f"{what}: wanted {need}, found data_offsets {show(offsets)}")
    return Slot(name, dtype, tuple(shape), begin, end)


def are_sizes(value: Any) -> bool:
    """Whether this is a list of whole numbers from 0 to 2**63 (true and false do not count as numbers)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def check_cover(slots: list[Slot], room: int, where: str) -> None:
    """Raise unless the tensors, in the order of their bytes, fill exactly `room` bytes, each byte once."""
    at = 0
    for slot in slots:
        if slot.begin != at:
            kind = "a hole" if slot.begin > at else "an overlap"
            found = f"{kind}: it begins at {slot.begin}"
            raise WeightsError(f"{where}: wanted tensor {show(slot.name)} to begin at byte {at}, found {found}")
        at = slot.end
        if at > room:
            found = f"only {room}; the file is cut short"
            raise WeightsError(f"{where}: wanted {at} bytes of data for tensor {show(slot.name)}, found {found}")
    if at != room:
        raise WeightsError(f"{where}: wanted {at} bytes of data, found {room - at} more after the last tensor")


def write_header(entries: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The length and the JSON for tensors (name, dtype, shape) in a row, padded to a multiple of eight bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in entries:
        begin, at = at, at + nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, at]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
