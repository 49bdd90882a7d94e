"""From the scores of a language model to text: one token at a time, or several beams of them.

    settings = Settings.of(num_beams=5, max_new_tokens=30)
    ids = run(reader, rows, settings, Tokens(first=2, ends=50118, pad=1))

The language model is hidden behind two functions (models/opt.py and models/t5.py have it as `Reader`):

    reader.step(tokens)     reads one more token (B,) for each row, or the prompt for None; gives the next scores (B, V)
    reader.reorder(rows)    afterwards row i goes on where row rows[i] stood

A good first walk: one_text.py (greedy and sampling), scores.py (what may change a score), then beams.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import one_text
from .endings import Endings, Tokens, cut
from .scores import Reader
from .settings import Settings

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
    return one_text.write(reader, rows, settings, endings)


def __getattr__(name: str) -> Any:
    """The streamer, which needs a tokenizer's rules, is imported when it is first used."""
    if name == "TextStreamer":
        from .streamer import TextStreamer

        return TextStreamer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
