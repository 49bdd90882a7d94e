"""From pictures to records: read a batch ahead, ask the model, one record for each picture, in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, TypeVar

from ...errors import MinivlError
from .items import Item, Items

T = TypeVar("T")
Read = tuple[Item, Any]  # an item and its pixels, or the MinivlError that it gave instead
Record = dict[str, Any]


class Work(Protocol):
    """What is done with a picture."""

    together: bool  # whether several may go through the model at a time

    def look(self, picture: Any) -> Any:
        """A picture -> its pixels as the model reads them, (3, Y, X); in a thread of its own."""

    def answer(self, items: list[Item], pixels: Any) -> list[Record]:
        """Pixels (B, 3, Y, X) -> what each picture's record goes on with."""


def records(work: Work, items: Items, batch: int, done: int = 0) -> Iterator[list[Record]]:
    """The records of a batch at a time, without the first `done`.

    Batches are cut at the same places whatever `done` is, for the last bits of a score may depend on its neighbours: of
    one that lies across, all is computed and the rest is handed on.
    """
    start = done - done % batch
    for chunk in ahead(_chunks(work, islice(items(), start, None), batch)):
        yield answered(work, chunk)[max(0, done - start) :]
        start += batch


def ahead(things: Iterator[T]) -> Iterator[T]:
    """The same things, the next made in a thread while one is used: one ahead, never more."""
    end: Any = object()
    with ThreadPoolExecutor(1, "minivl-ahead") as thread:
        coming = thread.submit(next, things, end)
        while (thing := coming.result()) is not end:
            coming = thread.submit(next, things, end)
            yield thing


def _chunks(work: Work, items: Iterator[Item], batch: int) -> Iterator[list[Read]]:
    while chunk := [(item, looked(work, item)) for item in islice(items, batch)]:  # each is read before the next comes
        yield chunk


def looked(work: Work, item: Item) -> Any:
    """An item's pixels, or the MinivlError that came instead."""
    try:
        return work.look(item.read())
    except MinivlError as error:
        return error


def answered(work: Work, chunk: list[Read]) -> list[Record]:
    """A record for each; a failure is the picture's own and not its neighbours'."""
    good = [read for read in chunk if not isinstance(read[1], MinivlError)]
    answers = iter(_answers(work, good))
    return [item.fields | ({"error": str(p)} if isinstance(p, MinivlError) else next(answers)) for item, p in chunk]


def _answers(work: Work, chunk: list[Read]) -> list[Record]:
    import numpy as np

    alone = not work.together or len({pixels.shape for _, pixels in chunk}) > 1
    if alone and len(chunk) > 1:
        return [answer for one in chunk for answer in _answers(work, [one])]
    if not chunk:
        return []
    try:
        return work.answer([item for item, _ in chunk], np.stack([pixels for _, pixels in chunk]))
    except MinivlError as error:
        if len(chunk) == 1:
            return [{"error": str(error)}]
        return [answer for one in chunk for answer in _answers(work, [one])]
