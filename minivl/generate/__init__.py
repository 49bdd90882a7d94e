"""From the scores of a language model to text: one token at a time, or several beams of them.

    settings = Settings.of(num_beams=5, max_new_tokens=30)
    ids = run(reader, rows, settings, Tokens(bos=2, eos=50118, pad=1))

The language model is hidden behind two functions (models/opt.py and models/t5.py have it as `Reader`):

    reader.step(tokens)     reads one more token (B,) for each row, or the prompt for None; gives the next scores (B, V)
    reader.reorder(rows)    afterwards row i goes on where row rows[i] stood

A good first walk: plain.py (greedy and sampling), scores.py (what may change a score), then beams.py.
"""

from __future__ import annotations

from . import beams, plain
from .endings import Endings, Tokens, cut
from .scores import Reader
from .settings import Settings
from .streamer import TextStreamer

__all__ = ["Endings", "Reader", "Settings", "TextStreamer", "Tokens", "cut", "run"]


def run(reader: Reader, rows: int, settings: Settings, tokens: Tokens):
    """What a language model writes after the prompts of its `rows` rows.

    ->  int64 ids (B · num_return_sequences, 1 + new), the first token first; the texts of a row stand together
    """
    endings = Endings.of(settings, tokens)
    if settings.num_beams > 1:
        return beams.write(reader, rows, settings, endings)
    return plain.write(reader, rows, settings, endings)
