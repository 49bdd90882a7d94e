"""Checkpoints on disk: safetensors files, or the older .bin files, whole or in shards, mapped without being read.

What comes back are read-only views of the file in the file's own dtype and layout; pages are fetched when they are
used.  A file that shrinks while it is mapped cannot be survived by anyone (the system ends the process), so `save`
never writes into a file: it puts a new one in its place.
"""

import errno
import math
import mmap
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from .. import cores
from ..disk import MOST_AXES, MOST_ELEMENTS, MOST_JSON, parse_json, replacing_name, show
from ..errors import InputError, WeightsError

# NumPy has no bfloat16, which is the upper half of a float32: its bits travel as uint16.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
NAMES = {code: np.dtype(kind).name for code, kind in DTYPES.items()} | {"BF16": "bfloat16"}  # the library's
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD_SINGLE, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CODES = {np.dtype(kind): code for code, kind in DTYPES.items() if code != "BF16"}
BLOCK = 2**20  # elements looked at or converted at a time


class Stored(NamedTuple):
    """One tensor as the file holds it: `array` is a read-only view (of uint16 bits where `dtype` is "BF16")."""

    dtype: str
    array: np.ndarray
    name: str = "tensor"

    def float32(self) -> np.ndarray:
        """The values as float32: the view itself for F32, a new array for the other floating kinds.

        Raises WeightsError for whole numbers, and for a number of F64 that float32 cannot hold.
        """
        if self.dtype == "BF16":
            bits = self.array.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        if self.array.dtype.kind != "f":
            raise WeightsError(f"tensor {show(self.name)}: wanted floating point values, found {self.dtype}")
        with np.errstate(over="ignore"):
            values = self.array.astype(np.float32, copy=False)
        if self.dtype == "F64" and (np.isfinite(self.array) & ~np.isfinite(values)).any():
            raise WeightsError(f"tensor {show(self.name)}: wanted values that float32 can hold, found larger ones")
        return values

    def rows(self, part: slice) -> "Stored":
        """Some rows of it."""
        return self._replace(array=self.array[part])

    def release(self) -> None:
        """Give back the memory that holds what was read of it; it is read from the file again when it is used again."""
        base: Any = self.array
        while isinstance(base, np.ndarray | memoryview):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            start = self.array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the others hold neighbours too
            last = (start + self.array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                base.madvise(mmap.MADV_DONTNEED, first, last - first)

    def checked(self) -> np.ndarray:
        """The values as float32; WeightsError if a NaN or an infinity is among them."""
        self.check_finite()
        return self.float32()

    def check_finite(self) -> None:
        """Read the whole tensor, a block at a time; WeightsError if a NaN or an infinity is in it."""
        flat, found = self.array.reshape(-1), list[int]()

        def look(start: int) -> None:
            good = finite(flat[start : start + BLOCK], self.dtype)
            if not good.all():
                found.append(start + int(np.argmin(good)))

        cores.share(look, range(0, flat.size, BLOCK))
        if found:
            raise WeightsError(f"tensor {show(self.name)}: wanted finite values, found NaN or infinity at {min(found)}")


def read(folder: str | os.PathLike[str]) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder under its name in the file: safetensors where there are any, .bin otherwise,
    as one file or as an index and its shards.

    Raises WeightsError for whatever is missing or malformed, naming the file and the tensor.  Nothing is copied.
    """
    folder = Path(folder)
    for single, index in ((SINGLE, INDEX), (OLD_SINGLE, OLD_INDEX)):
        if os.path.lexists(folder / single):
            return read_file(inside(folder, single))
        if os.path.lexists(folder / index):
            return read_shards(folder, index)
    others = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    found = f"{show(others[0])}, a pickle, which can run code" if others else "neither"
    advice = "; load it in transformers, then save_pretrained(folder, safe_serialization=True)" if others else ""
    raise WeightsError(f"{show(folder)}: wanted {SINGLE} or {INDEX}, found {found}{advice}")


def main_dtype(tensors: dict[str, Stored]) -> str:
    """What most of a checkpoint's numbers are kept in: "float32", "float16" or "bfloat16"."""
    sizes: Counter[str] = Counter()
    for stored in tensors.values():
        sizes[{"F16": "float16", "BF16": "bfloat16"}.get(stored.dtype, "float32")] += stored.array.size
    return sizes.most_common(1)[0][0]


def read_shards(folder: Path, name: str) -> dict[str, Stored]:
    """The union of the shards that an index names: each tensor where the index says, and in one shard only.

    A shard may hold tensors that the index leaves out; whether they belong to the model is decided elsewhere.
    """
    from .index import shards

    index = inside(folder, name)
    named = shards(index)
    tensors: dict[str, Stored] = {}
    home: dict[str, str] = {}
    for file in sorted(set(named.values())):
        for name, stored in read_file(inside(folder, file)).items():
            if name in tensors:
                raise WeightsError(f"{show(folder)}: wanted tensor {show(name)} once, found in {home[name]} and {file}")
            tensors[name], home[name] = stored, file
    for name, file in named.items():
        if home.get(name) != file:
            found = f"in {home[name]}" if name in home else "nowhere"
            raise WeightsError(f"{show(index)}: wanted tensor {show(name)} in {file}, found {found}")
    return tensors


def inside(folder: Path, name: str) -> Path:
    """The file `name` of this folder, refused if a path or a link would lead out of it.

    A folder of the Hub's cache (models--x/snapshots/revision) is all links to models--x/blobs: those are followed.
    """
    if not name.isprintable() or name in ("", ".", "..") or any(sign in name for sign in "/\\:"):
        raise WeightsError(f"{show(folder)}: wanted the plain name of a file in this folder, found {show(name)}")
    home, path = folder.resolve(), folder / name
    if not os.path.isfile(path):  # Path's own raises for a name that is too long for the system
        there = os.path.exists(path)
        found = "a broken link" if os.path.islink(path) else "no regular file" if there else "no such file"
        raise WeightsError(f"{show(path)}: wanted a weights file, found {found}")
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    target = path.resolve()
    if not any(target.is_relative_to(place) for place in allowed):
        raise WeightsError(f"{show(path)}: wanted a file inside its folder, found a link to {show(target)}")
    return path


def read_file(path: Path) -> dict[str, Stored]:
    """The tensors of one file, as read-only views of the mapped file."""
    if path.suffix == ".bin":
        from . import pickles

        return {name: Stored(part.dtype, part.array, name) for name, part in pickles.read_archive(path).items()}
    try:
        with path.open("rb") as file:
            header, start = read_header(file, path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tensors = {}
        for name, (code, shape, begin) in header.items():
            flat = np.frombuffer(mapped, DTYPES[code], math.prod(shape), start + begin)
            tensors[name] = Stored(code, flat.reshape(shape), name)
        return tensors
    except WeightsError:
        raise
    except SafetensorError as problem:
        reason = str(problem).removeprefix("Error while deserializing header: ")
        advice = "it is cut short or damaged, fetch it again"
        raise WeightsError(f"{show(path)}: wanted a safetensors file, found {show(reason)}; {advice}") from None
    except (OSError, ValueError) as problem:  # ValueError: the file shrank between two looks at it
        raise WeightsError(f"{show(path)}: wanted a readable file, found {problem}") from None


def read_header(file: BinaryIO, path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int]:
    """{name: dtype, shape, first byte} of a safetensors file, and where those bytes are counted from.

    A file is eight bytes (the header's length N, little endian), N bytes of JSON and the tensors' bytes:

        {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"format": "pt"}}

    The library checks the header against the file. It is read here once more because the library copies what it hands
    out and has no bfloat16 for NumPy, where we map; and because it takes names twice and shapes of any size.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_JSON:
        found = f"one that claims {length}"
        raise WeightsError(f"{show(path)}: wanted a header of at most {MOST_JSON} bytes, found {found}")
    with safe_open(path, framework="np"):
        pass
    entries = parse_json(file.read(length), show(path), WeightsError)
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        code, shape = entry["dtype"], entry["shape"]
        if not name.isprintable():
            raise WeightsError(f"{show(path)}: wanted printable names, found a tensor called {show(name)}")
        if code not in DTYPES:
            advice = "; convert 8-bit floats to bfloat16 first" if code.startswith("F8") else ""
            wanted = f"wanted a dtype among {' '.join(DTYPES)}, found {show(code)}{advice}"
            raise WeightsError(f"{show(path)}: tensor {show(name)}: {wanted}")
        if len(shape) > MOST_AXES or math.prod(max(n, 1) for n in shape) >= MOST_ELEMENTS:
            wanted = f"wanted a shape of fewer than 2**40 elements, found {show(shape)}"
            raise WeightsError(f"{show(path)}: tensor {show(name)}: {wanted}")
    slots = {name: (one["dtype"], tuple(one["shape"]), one["data_offsets"][0]) for name, one in entries.items()}
    return slots, 8 + length


def save(folder: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
    """Write `model.safetensors`, whole or not at all: floating arrays as `dtype`, whole numbers as they are.

    float16 and bfloat16 round to nearest, ties to even. The library wants all arrays at once, so what is converted is
    in memory twice: float32 arrays of 4 GB, written as bfloat16, take 2 GB more.

    Raises WeightsError for a finite value beyond the range of `dtype`, and OSError if the file cannot be written.
    """
    if dtype not in FLOATS:
        raise InputError(f"dtype: wanted one of {', '.join(FLOATS)}, found {show(dtype)}")
    codes = {name: code_of(name, array, FLOATS[dtype]) for name, array in tensors.items()}
    stored = {name: converted(name, tensors[name], code, dtype) for name, code in codes.items()}
    specs = {name: spec(codes[name], tensors[name].shape, array) for name, array in stored.items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replacing_name(Path(folder) / SINGLE) as path:
        try:
            serialize_file(specs, path, {"format": "pt"})
        except SafetensorError as problem:  # "... I/O error: No space left on device (os error 28)"
            reason = str(problem).rpartition("I/O error: ")[2]
            number = re.search(r"os error (\d+)", reason)
            where = str(Path(folder) / SINGLE)
            raise OSError(int(number[1]) if number else errno.EIO, reason, where) from None


def spec(code: str, shape: tuple[int, ...], array: np.ndarray) -> TensorSpec:
    """What the library writes of an array, whose memory it reads where it lies."""
    data = {"data_ptr": array.ctypes.data, "data_len": math.prod(shape) * array.itemsize}
    return TensorSpec(dtype=NAMES[code], shape=list(shape), **data)


def converted(name: str, array: np.ndarray, code: str, dtype: str) -> np.ndarray:
    """An array, flat, as the file holds it: without a copy if it is stored as it is, and finite wherever it was."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if code != "BF16" and flat.dtype == DTYPES[code]:
        return flat
    stored = np.empty(flat.size, DTYPES[code])
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        part = stored[start : start + BLOCK]
        part[:] = convert(block, code)
        if (finite(block) & ~finite(part, code)).any():
            largest = show(float(np.abs(block[np.isfinite(block)]).max()))
            raise WeightsError(f"tensor {show(name)}: wanted values that {dtype} can hold, found {largest}")
    return stored


def code_of(name: str, array: np.ndarray, floats: str) -> str:
    """The dtype under which an array is stored; WeightsError if it, or its name, cannot be."""
    if not isinstance(name, str) or not name.isprintable() or name == "__metadata__":
        raise WeightsError(f"tensors: wanted printable names other than __metadata__, found {show(name)}")
    if not isinstance(array, np.ndarray):
        raise WeightsError(f"tensor {show(name)}: wanted a NumPy array, found {type(array).__name__}")
    code = floats if array.dtype.kind == "f" else CODES.get(array.dtype.newbyteorder("<"))
    if code is None:
        raise WeightsError(f"tensor {show(name)}: wanted floats, whole numbers or booleans, found {array.dtype}")
    return code


def convert(block: np.ndarray, code: str) -> np.ndarray:
    """A flat array in the form in which the file holds it."""
    with np.errstate(over="ignore"):
        if code != "BF16":
            return block.astype(DTYPES[code], copy=False)
        bits = block.astype(np.float32).view(np.uint32)
    # Adding just under half of the last kept bit, and one more if that bit is odd, makes the cut round to even.
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    unknown = np.isnan(block)
    return np.where(unknown, bits >> 16 | 0x40, rounded).astype("<u2") if unknown.any() else rounded.astype("<u2")


def finite(block: np.ndarray, code: str = "") -> np.ndarray:
    """Which elements are neither NaN nor infinite. With 16 bits the exponent's decide, which is quicker to see."""
    if code == "BF16":
        return (block & 0x7F80) != 0x7F80
    return (block.view(np.uint16) & 0x7C00) != 0x7C00 if code == "F16" else np.isfinite(block)
