"""Small JSON files read with suspicion, and files that appear whole or not at all."""

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import MinivlError

MOST_JSON = 16 * 2**20  # bytes; the largest real header or index in this family is below one megabyte
MOST_AXES = 32  # of a tensor in a file
MOST_ELEMENTS = 2**40  # zeros counted as ones, so that an empty tensor cannot claim an absurd shape either
MOST_OF_A_PATH = 1000  # characters


def show(thing: object, most: int = 120) -> str:
    """A value or a path as one line for a message: values quoted and cut when long, a path plain where it can be."""
    if isinstance(thing, os.PathLike):
        text, most = str(thing) if str(thing).isprintable() else repr(str(thing)), MOST_OF_A_PATH
    else:
        text = repr(thing)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def parse_json(data: bytes, where: str, error: type[MinivlError]) -> dict[str, Any]:
    """The JSON object in these bytes; `error` unless it is UTF-8, an object, and names no key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"{where}: wanted every key once, found {show(key)} twice")
            found[key] = value
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except MinivlError:
        raise
    except RecursionError:
        raise error(f"{where}: wanted JSON of ordinary depth, found brackets nested too deep to read") from None
    except ValueError as problem:
        raise error(f"{where}: wanted JSON in UTF-8, found {show(str(problem))}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: wanted a JSON object, found {show(value)}")
    return value


def read_json(path: Path, error: type[MinivlError], most: int = MOST_JSON) -> dict[str, Any]:
    """The JSON object in a file; `error` naming the file if it is missing, unreadable, too large or malformed."""
    if not path.is_file():
        raise error(f"{show(path)}: wanted a JSON file, found {'no regular file' if path.exists() else 'nothing'}")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as problem:
        raise error(f"{show(path)}: wanted a readable file, found {problem.strerror}") from None
    if len(data) > most:
        raise error(f"{show(path)}: wanted at most {most} bytes of JSON, found more")
    return parse_json(data, show(path), error)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name `path` only when the block ends well.

    The bytes go to a temporary file in the same folder, reach the disk, and are then renamed, which no reader can
    see half done.  If anything fails the temporary file is removed and whatever stood at `path` stands unchanged.
    """
    with replacing_name(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def replacing_name(path: Path) -> Iterator[Path]:
    """The same for a library that opens the file itself: the name of an empty temporary file, to be written to."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield temporary
        temporary.chmod(mode)  # a library may have put a file of its own there, which only its owner may read
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
