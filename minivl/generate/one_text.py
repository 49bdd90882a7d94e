"""One text for each row, a token at a time: the most probable one (greedy), or one drawn by chance (sampling)."""

from __future__ import annotations

import numpy as np

from . import scores
from .endings import Endings
from .scores import Reader
from .settings import Settings


def write(reader: Reader, rows: int, settings: Settings, endings: Endings) -> np.ndarray:
    """Until every text has ended or has its most tokens; one that has ended goes on with the padding token.

    ->  int64 ids (B · num_return_sequences, 1 + new)
    """
    logits = scores.checked(reader.step(None))  # (B, V)
    if settings.num_return_sequences > 1:  # the prompt is read once
        copies = np.repeat(np.arange(rows), settings.num_return_sequences)
        logits, rows = logits[copies], len(copies)
        reader.reorder(copies)
    noise = scores.dice(settings, rows) if settings.do_sample else []
    ids = np.full((rows, 1), endings.first, np.int64)
    running = np.ones(rows, bool)
    tell(settings.streamer, ids)
    while True:
        likely = scores.ruled(logits, ids, settings, endings)
        if settings.do_sample:
            likely = scores.shaped(likely, settings)
            likely = likely + np.stack([drawn(size=likely.shape[1]) for drawn in noise])
        tokens = np.where(running, likely.argmax(-1), endings.pad)
        ids = np.column_stack([ids, tokens])
        tell(settings.streamer, tokens)
        running &= ~endings.reached(ids)
        if not running.any() or ids.shape[1] > settings.most:
            break
        logits = scores.checked(reader.step(tokens))
    if settings.streamer is not None:
        settings.streamer.end()
    return ids


def tell(streamer, ids: np.ndarray) -> None:
    if streamer is not None:
        streamer.put(ids)
