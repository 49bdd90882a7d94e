"""Checkpoints in the older form, `pytorch_model.bin`: a zip archive of one pickle and of the tensors' bytes.

    <root>/data.pkl    says which tensor is which part of which storage
    <root>/data/<n>    the bytes of storage n, not compressed

A pickle is a program, and reading one calls whatever it names. So the program is read through before it is run: only
the instructions that torch.save writes, only the few names below, and each of these names stands for a harmless
function of this file. torch is not needed, and nothing of it is called.

Tensors are read-only views of the mapped file, as those of a safetensors file are.
"""

import math
import mmap
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..disk import MOST_AXES, MOST_ELEMENTS, show
from ..errors import WeightsError

KINDS = {  # torch's storages: safetensors' name of their dtype, and NumPy's (bfloat16's bits travel as uint16)
    "DoubleStorage": ("F64", "<f8"), "FloatStorage": ("F32", "<f4"), "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"), "LongStorage": ("I64", "<i8"), "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"), "CharStorage": ("I8", "|i1"), "ByteStorage": ("U8", "|u1"),
    "BoolStorage": ("BOOL", "|b1"),
}  # fmt: skip
MOST_PROGRAM = 2**21  # bytes of data.pkl; a tensor takes about 150, and each byte can cost a hundred in memory
INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE"
    " EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL"
    " BINPERSID REDUCE BUILD BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET".split()
)


NEW_NAMES = b"ccollections\nOrderedDict\n)R"  # find the name, call it with nothing


class Kind(NamedTuple):
    """What a torch.FloatStorage and its like stand for: the dtype of a storage's elements, and NumPy's for them."""

    dtype: str
    numpy: str


class Part(NamedTuple):
    """One tensor: its dtype and the view of its storage's bytes."""

    dtype: str
    array: np.ndarray


class Names(dict):
    """What any dict stands for, keyed by names alone; the notes that torch hangs onto it are dropped."""

    def __init__(self) -> None:
        super().__init__()

    def __setitem__(self, name: Any, value: Any) -> None:
        if not isinstance(name, str):  # to look up a tuple in a tuple in a tuple ... ends Python itself
            raise ValueError(f"a key of type {type(name).__name__}")
        super().__setitem__(name, value)

    def __setstate__(self, notes: Any) -> None:
        pass


def read_archive(path: Path) -> dict[str, Part]:
    """Every tensor of a .bin file under its name.

    Raises WeightsError for a file that is not torch's archive, that names anything else than tensors, or whose numbers
    do not fit its bytes.
    """
    where = show(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            listed = archive.infolist()
            entries = {info.filename: _bytes(info, mapped, where) for info in listed}
    except zipfile.BadZipFile:
        advice = "if torch before 1.6 wrote it, load and save it again with a newer one"
        raise WeightsError(
            f"{where}: wanted the zip archive that torch.save writes, found another file; {advice}"
        ) from None
    except (OSError, ValueError, NotImplementedError) as problem:
        raise WeightsError(f"{where}: wanted a readable archive, found {problem}") from None
    if len(entries) != len(listed):
        raise WeightsError(f"{where}: wanted every entry of the archive once, found a name twice")
    programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise WeightsError(f"{where}: wanted one data.pkl in the archive, found {len(programs)}")
    root = programs[0].removesuffix("data.pkl")
    if bytes(entries.get(f"{root}byteorder", b"little")) != b"little":
        raise WeightsError(f"{where}: wanted tensors with the lowest byte first, found another byteorder")
    program = entries[programs[0]]
    if len(program) > MOST_PROGRAM:
        raise WeightsError(f"{where}: wanted at most {MOST_PROGRAM} bytes of data.pkl, found {len(program)}")
    return _tensors(bytes(program), lambda key: entries.get(f"{root}data/{key}"), where)


def _bytes(info: zipfile.ZipInfo, mapped: mmap.mmap, where: str) -> memoryview:
    """Where an entry of the archive lies in the file."""
    what = f"{where}: {show(info.filename)}"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise WeightsError(f"{what}: wanted plain bytes, found an entry that is compressed or locked")
    head = mapped[info.header_offset : info.header_offset + 30]  # the entry's own header: its name and notes come next
    if head[:4] != b"PK\3\4":
        raise WeightsError(f"{what}: wanted an entry of a zip archive at byte {info.header_offset}, found other bytes")
    begin = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if begin + info.file_size > len(mapped):
        raise WeightsError(f"{what}: wanted {info.file_size} bytes, found fewer; the file is cut short")
    return memoryview(mapped)[begin : begin + info.file_size]


def _tensors(program: bytes, storage: Callable[[str], memoryview | None], where: str) -> dict[str, Part]:
    """Run a program that has been read through first."""
    try:
        found = _Reader(_read_through(program, where), storage, where).load()
    except WeightsError:
        raise
    except Exception as problem:  # a damaged program can go wrong in any way, and has nothing more to say than that
        raise WeightsError(f"{where}: wanted data.pkl as torch.save writes it, found {show(str(problem))}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{where}: wanted a dict of tensors, found {type(found).__name__}")
    others = [name for name, value in found.items() if not isinstance(value, Part)]
    if others:
        kind = "dict" if isinstance(found[others[0]], dict) else type(found[others[0]]).__name__
        raise WeightsError(f"{where}: wanted only tensors, found {show(others[0])}, which is a {kind}")
    return dict(found)


def _read_through(program: bytes, where: str) -> bytes:
    """The program with a Names for every dict; WeightsError for an instruction or a name that has no business in a
    checkpoint. Nothing is run.
    """
    places: list[int] = []
    replaced: dict[int, bytes] = {}
    for number, (code, argument, place) in enumerate(pickletools.genops(program)):
        places.append(int(place or 0))
        if code.name == "EMPTY_DICT":
            replaced[number] = NEW_NAMES
        elif code.name == "FRAME":  # says how long the next part is, which need not be true any more
            replaced[number] = b""
        if code.name not in INSTRUCTIONS:
            raise WeightsError(
                f"{where}: wanted the pickle of a checkpoint, found the instruction {code.name}; not run"
            )
        if code.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            _known(module, name, where)
        if (
            code.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > number
        ):  # Python would make room for that many
            raise WeightsError(f"{where}: wanted the pickle of a checkpoint, found a memo numbered {argument}; not run")
    ends = [*places[1:], len(program)]
    return b"".join(
        replaced.get(number, program[start:end]) for number, (start, end) in enumerate(zip(places, ends, strict=True))
    )


def _known(module: str, name: str, where: str) -> Any:
    """What one of the names that a checkpoint needs stands for."""
    if module == "torch" and name in KINDS:
        return Kind(*KINDS[name])
    if (module, name) not in STAND_INS:
        called = show(f"{module}.{name}")
        advice = "load it in transformers, if you trust it, then save_pretrained(folder, safe_serialization=True)"
        raise WeightsError(
            f"{where}: wanted a pickle of tensors alone, found one that calls {called}; not run; {advice}"
        )
    return STAND_INS[module, name]


class _Reader(pickle.Unpickler):
    """Runs the program with stand-ins for every name and with the archive's storages."""

    def __init__(self, program: bytes, storage: Callable[[str], memoryview | None], where: str):
        super().__init__(BytesIO(program))
        self._storage, self._where = storage, where

    def find_class(self, module: str, name: str) -> Any:
        return _known(module, name, self._where)

    def persistent_load(self, pid: Any) -> Part:
        what, kind, key, _, _ = pid
        data = self._storage(key) if isinstance(key, str) else None
        if what != "storage" or not isinstance(kind, Kind) or data is None:
            raise WeightsError(f"{self._where}: wanted a storage of the archive, found {show(pid)}")
        return Part(kind.dtype, np.frombuffer(data, kind.numpy, len(data) // np.dtype(kind.numpy).itemsize))


def _tensor(storage: Part, offset: int, size: tuple, stride: tuple, *_: Any) -> Part:
    """A view of a storage, after a look whether it lies in it."""
    sizes, steps = list(size), list(stride)
    place = f"a tensor at {offset}, sizes {size}, steps {stride}"
    if not are_sizes([offset, *sizes, *steps]) or len(sizes) != len(steps) or len(sizes) > MOST_AXES:
        raise ValueError(place)
    flat = storage.array[offset:]
    reach = sum((n - 1) * step for n, step in zip(sizes, steps, strict=True)) + 1 if math.prod(sizes) else 0
    if reach > len(flat) or math.prod(sizes) >= MOST_ELEMENTS:
        raise ValueError(f"{place} in a storage of {storage.array.size}")
    width = flat.itemsize
    return Part(storage.dtype, as_strided(flat, sizes, [step * width for step in steps], writeable=False))


def _parameter(tensor: Part, *_: Any) -> Part:
    return tensor


STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Names,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def are_sizes(value: Any) -> bool:
    """Whether this is a list of whole numbers from 0 to 2**63 (true and false do not count as numbers)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
