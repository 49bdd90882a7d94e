"""From the scores of a language model to text: one token at a time, or several beams of them.

    settings = Settings.of(num_beams=5, max_new_tokens=30)
    ids = run(reader, rows, settings, Tokens(first=2, ends=50118, pad=1))

The language model is hidden behind two functions (models/opt.py and models/t5.py have it as `Reader`):

    reader.step(tokens)     reads one more token (B,) for each row, or the prompt for None; gives the next scores (B, V)
    reader.reorder(order)   afterwards row i goes on from what row order[i] has read

A good first walk: `write` below (greedy and sampling), scores.py (what may change a score), then beams.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import scores
from .scores import Reader
from .settings import Endings, Settings, Tokens, cut

if TYPE_CHECKING:
    from .streamer import TextStreamer

__all__ = ["Endings", "Reader", "Settings", "TextStreamer", "Tokens", "Writing", "cut", "run"]


class Writing(NamedTuple):
    """A text that is about to be written: the arguments of `run`."""

    reader: Reader
    rows: int
    settings: Settings
    tokens: Tokens


def run(reader: Reader, rows: int, settings: Settings, tokens: Tokens):
    """What a language model writes after the prompts of its `rows` rows.

    ->  int64 ids (B · num_return_sequences, 1 + new), the first token first; the texts of a row stand together
    """
    endings = Endings.of(settings, tokens)
    if settings.num_beams > 1:
        from . import beams

        return beams.write(reader, rows, settings, endings)
    return write(reader, rows, settings, endings)


def write(reader: Reader, rows: int, settings: Settings, endings: Endings) -> np.ndarray:
    """One text for each row, a token at a time: the most probable one (greedy), or one drawn by chance (sampling).

    Until every text has ended or has its most tokens; one that has ended goes on with the padding token.

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


def __getattr__(name: str) -> Any:
    """The streamer, which needs a tokenizer's rules, is imported when it is first used."""
    if name == "TextStreamer":
        from .streamer import TextStreamer

        return TextStreamer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
