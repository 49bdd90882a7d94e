"""From pictures to records: read a batch ahead, ask the model, one record for each picture, in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from ...pipelines import Item, Read, Record, Work, answered, looked
from .items import Items

T = TypeVar("T")


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
