"""Which pictures a job is about, in the order of its records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...disk import parse_json, show
from ...errors import ImageError, InputError
from ...pipelines import Item
from ...processors.picture_files import ENDINGS, EmptyFolder, expand
from . import tars

MOST_OF_A_LINE = 2**20  # bytes of a file of questions


Items = Callable[[], Iterator[Item]]  # called again, it gives the same again


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
