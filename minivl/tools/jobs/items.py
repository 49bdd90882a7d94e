"""Which pictures a job is about, in the order of its records."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...disk import parse_json, show
from ...errors import ImageError, InputError
from . import tars

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MOST_OF_A_LINE = 2**20  # bytes of a file of questions


class Item(NamedTuple):
    """One picture: its record begins with `fields`; read() gives what a picture processor takes, or an ImageError."""

    fields: dict[str, Any]
    read: Callable[[], Any]


Items = Callable[[], Iterator[Item]]  # called again, it gives the same again


class EmptyFolder(ImageError):
    """A folder without a picture in it."""

    def __init__(self, folder: str, reason: str):
        super().__init__(f"folder {folder}: {reason}")
        self.folder = folder


def expand(names: Sequence[str], endings: set[str] = ENDINGS) -> Iterator[Path | EmptyFolder]:
    """Folders become the files in them with one of the endings, in the order of their names."""
    for name in names:
        path = Path(name)
        if not os.path.isdir(name):  # Path's own raises for a name that is too long for the system
            yield path
            continue
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings)
        except OSError as error:
            yield EmptyFolder(name, str(error.strerror))
            continue
        if inside:
            yield from inside
        else:
            yield EmptyFolder(name, "it holds no file called *.png, *.jpg or another kind of picture")


def pictures(names: Sequence[str]) -> Iterator[Item]:
    """Every picture of files, folders and tar shards; what cannot be opened is an item that cannot be read."""
    for found in expand(names, ENDINGS | {tars.ENDING}):
        if isinstance(found, EmptyFolder):
            yield Item({"picture": found.folder}, partial(_refuse, found))
        elif found.suffix.lower() == tars.ENDING:
            yield from _members(found)
        else:
            yield Item({"picture": str(found)}, partial(Path, found))


def _members(shard: Path) -> Iterator[Item]:
    try:
        for name, key, read in tars.pictures(shard, ENDINGS):
            yield Item({"picture": f"{shard}/{name}", "key": key}, read)
    except ImageError as error:
        yield Item({"picture": str(shard)}, partial(_refuse, error))


def _refuse(error: ImageError) -> None:
    raise error


def questions(lines: Path) -> Iterator[Item]:
    """Every line of a JSON Lines file: {"picture": "cat.jpg", "question": "how many cats?"}.

    The picture's path is looked up from the file's own folder, unless it is absolute; other keys are passed over.
    InputError names the first line that is something else.
    """
    try:
        with lines.open("rb") as file:
            number, found = 0, False
            while line := file.readline(MOST_OF_A_LINE + 1):
                number += 1
                if line.strip():
                    found = True
                    fields = _question(line, f"{show(lines)}, line {number}")
                    yield Item(fields, partial(Path, lines.parent, fields["picture"]))
    except OSError as problem:
        wanted = "a file with one JSON object a line"
        raise InputError(f"{show(lines)}: wanted {wanted}, found {problem.strerror}") from None
    if not found:
        raise InputError(f"{show(lines)}: wanted one JSON object a line, found an empty file")


def _question(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MOST_OF_A_LINE:
        raise InputError(f"{where}: wanted at most {MOST_OF_A_LINE} bytes, found more")
    values = parse_json(line, where, InputError)
    for name in ("picture", "question"):
        if not isinstance(values.get(name), str) or not values[name].strip():
            raise InputError(f'{where}: wanted "{name}" with some text, found {show(values.get(name))}')
    return {name: values[name] for name in ("picture", "question")}


def about(items: Items, **more: Any) -> Items:
    """The same pictures, and in every record of them this too."""
    return lambda: (item._replace(fields=item.fields | more) for item in items())


def survey(items: Items) -> tuple[int, str]:
    """(how many there are, a digest of what their records begin with), without reading a picture."""
    number, digest = 0, hashlib.sha256()
    for item in items():
        number += 1
        digest.update(json.dumps(item.fields).encode() + b"\n")
    return number, digest.hexdigest()


def share(items: Items, shard: tuple[int, int]) -> Items:
    """The i-th of n parts, (1, n) to (n, n): neighbours stay together, so that the parts' records one after the other
    are those of the whole. Sizes differ by one at most.
    """
    part, parts = shard
    if parts == 1:
        return items
    number = sum(1 for _ in items())
    return lambda: islice(items(), number * (part - 1) // parts, number * part // parts)
