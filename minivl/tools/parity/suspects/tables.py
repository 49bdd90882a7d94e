"""Rows of a table: another table, another place to count from, a mask that is not counted, T5's buckets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....models import t5
from ....tracing import Call
from ..float64 import double
from ..flow import Parting
from ..weights import how_it_differs
from .around import Try
from .sums import scaled


def embed(parting: Parting, call: Call) -> Iterator[Try]:
    """table[ids], with another table or other ids."""
    ids, table = np.asarray(call.given["ids"]), call.given["table"]
    theirs = double(parting.side_b.weight(call.path))
    if theirs is not None and not np.array_equal(theirs, table):
        yield how_it_differs(table, theirs, "table", call.path), theirs[ids]
    if call.path.endswith("positions"):
        yield from _positions(ids, table)
    if call.path.endswith("coder.places"):
        yield from _buckets(parting, call.path, table, ids.shape)
    yield from scaled(parting, "embeddings ")


def _positions(ids: np.ndarray, table: np.ndarray) -> Iterator[Try]:
    """Positions counted from somewhere else, or through the padding."""

    def rows(places: Any) -> Any:
        return table[np.clip(places, 0, len(table) - 1)]

    for step in (-2, -1, 1, 2):
        yield f"position offset {step:+d}", rows(ids + step)
    line = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
    least, last = int(ids.min(initial=0)), int(ids.max(initial=0))
    first = last - ids.shape[-1] + 1  # of a row without padding
    for start in sorted({first, 0, 1, 2, least, least + 1}):
        yield "mask ignored: positions counted through padding", rows(line + start)
    for start in sorted({0, 1, 2, 3, first, first + 1}):
        yield f"positions from {start} on", rows(line + start)


def _buckets(parting: Parting, path: str, table: np.ndarray, shape: tuple[int, ...]) -> Iterator[Try]:
    """T5's distances put into other buckets."""
    config, both = parting.judge.model.config.text_config, "encoder" in path
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    apart = t5.distances(*shape[-2:])

    def rows(apart=apart, buckets=buckets, farthest=farthest, both=both):
        return table[np.clip(t5.bucket(apart, buckets, farthest, both), 0, len(table) - 1)]

    for step in (1, -1, 2, -2):
        yield f"position offset {step:+d}", rows(apart + step)
    yield "places of the other direction", rows(-apart)
    yield f"distances in {'one direction' if both else 'both directions'}", rows(both=not both)
    for other in sorted({8, 16, 20, 32, 64, 128, 256, 512} - {farthest}):
        if other > buckets // 2:
            yield f"relative_attention_max_distance {other}", rows(farthest=other)
    for other in sorted({8, 16, 32, 64} - {buckets}):
        if 4 <= other <= len(table) and other < 2 * farthest:
            yield f"relative_attention_num_buckets {other}", rows(buckets=other)
