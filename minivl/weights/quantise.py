"""Reading a checkpoint into weights of fewer bits (minivl/ops/quantised.py), some rows at a time: no large matrix is
ever in memory as float32, so that the peak stays near the size that is kept.

What a matrix becomes, and each of its numbers' bytes in memory:

    mode            linear layers        tables of words, heads       the rest
    "bfloat16"      bfloat16 (2)         bfloat16 (2)                 float32 (4)
    "auto"          as in the file       as in the file               float32 (4)
    "weight-only"   8 bits (1)           8 bits (1)                   float32 (4)
    "int8"          8 bits (1)           16 bits (2) or float32,      float32 (4), and so
                                         as the file has them         is T5's wo

With dtype "float16", which the documentation gives for 8 bits, tables that a file has in float32 become float16.
Source of what LLM.int8() leaves alone: the module names that transformers skips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import cores
from ..errors import WeightsError
from ..ops.numpy_products import FLOAT16, quantise_rows
from ..ops.quantised import BFloat16, Float16, Int8, in_full
from .files import Stored, convert
from .tree import Entry

MODES = ("bfloat16", "weight-only", "int8")
TABLES = (".tokens", ".words")  # of words, which a tied head multiplies with as well
PIECE = 1 << 15  # numbers converted at a time: what lies between the steps stays in the cache
HEADS = ("head.w", "decoder.w")


def keeper(mode: str, language: str = "", half: bool = False) -> Callable[[Entry, Stored], Any]:
    """What a tensor of a file becomes in a tree.

    half       whether LLM.int8() is to have tables of words in 16 bits that a file has in float32
    language   model_type of the language model: "t5" has one kind of matrix that LLM.int8() must not touch, because the
               values that it is given are too large for float16
    """
    makers: dict[str, Callable[[Stored], Any]] = {
        "float32": Stored.checked,
        "table": lambda stored: halved(stored) if half or stored.dtype in ("F16", "BF16") else stored.checked(),
        "bfloat16": narrowed,
        "auto": lambda stored: halved(stored) if stored.dtype in ("F16", "BF16") else stored.checked(),
        "bytes": lambda stored: in_bytes(stored, whole=mode == "int8"),
    }

    def keep(entry: Entry, stored: Stored) -> Any:
        return makers[form(mode, entry, language)](stored)

    return keep


def form(mode: str, entry: Entry, language: str) -> str:
    """How a tensor is kept in a mode, or in "float32": as float32, bfloat16, bytes, as in the file ("auto"), or as
    LLM.int8() keeps a table.
    """
    if mode == "float32" or not is_matrix(entry):
        return "float32"
    if mode != "int8":
        return "bytes" if mode == "weight-only" else mode
    if entry.path.endswith((*TABLES, *HEADS)):
        return "table"
    too_large = language == "t5" and entry.path.startswith("language.") and entry.path.endswith("mlp.down.w")
    return "float32" if too_large else "bytes"


def nbytes(mode: str, entry: Entry, language: str) -> int:
    """The memory that a tensor takes in a mode, or in "float32", tables in 16 bits; known before it is read."""
    each = {"float32": 4, "table": 2, "bfloat16": 2, "bytes": 1}[kept := form(mode, entry, language)]
    return each * math.prod(entry.shape) + (4 * entry.shape[0] if kept == "bytes" else 0)


def is_matrix(entry: Entry) -> bool:
    """Whether a tensor is the matrix of a linear layer or a table of words."""
    linear_layer = entry.path.endswith(".w") and ".distance." not in entry.path
    return len(entry.shape) == 2 and (linear_layer or entry.path.endswith(TABLES))


def narrowed(stored: Stored) -> BFloat16:
    """A tensor of a file in bfloat16: the file's own bytes if it holds that, rounded otherwise."""
    if stored.dtype == "BF16":
        stored.check_finite()
        return BFloat16(stored.array)
    found = BFloat16(np.empty(stored.array.shape, np.uint16))
    for rows, part in pieces(stored):
        found.bits[rows] = convert(part.checked(), "BF16")
    return found


def halved(stored: Stored) -> Float16 | BFloat16:
    """A tensor of a file in 16 bits: the file's own bytes if it holds 16 bits of either kind, float16 otherwise."""
    stored.check_finite()
    if stored.dtype == "BF16":
        return BFloat16(stored.array)
    if stored.dtype == "F16":
        return Float16(stored.array)
    found = Float16(np.empty(stored.array.shape, np.float16))
    for rows, part in pieces(stored):
        found.halves[rows] = in_range(part)
    return found


def in_bytes(stored: Stored, whole: bool) -> Int8:
    """A tensor of a file in 8 bits; of its float16 form if it is `whole`."""
    F, C = stored.array.shape
    found = Int8(np.empty((F, C), np.int8), np.empty(F, np.float32), whole)
    for rows, part in pieces(stored):
        w = part.checked()
        if whole and stored.dtype != "F16":
            w = in_full(Float16(in_range(part).astype(np.float16)))
        found.rows[rows], found.scale[rows] = quantise_rows(w)
    return found


def pieces(stored: Stored) -> Iterator[tuple[slice, Stored]]:
    """A tensor some rows at a time; what was read of them is given back before the next ones are."""
    for rows in cores.rows(stored.array.shape, PIECE):
        part = stored.rows(rows)
        yield rows, part
        part.release()


def in_range(stored: Stored) -> np.ndarray:
    """The values as float32. Raises WeightsError if float16 cannot hold one."""
    w = stored.float32()
    largest = float(np.abs(w).max(initial=0))
    if not largest < FLOAT16 + 16:  # what is nearer than that is rounded to the largest number
        raise WeightsError(f"tensor {stored.name!r}: wanted values that float16 can hold, found {largest:g}")
    return w
