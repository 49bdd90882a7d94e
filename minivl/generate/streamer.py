"""Text as it is being written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..processors.tokenizer import joined
from .settings import cut, listed

# The end of a text of which it is not clear yet what decoding will join: behind " n" may come "'t", behind " 'v" an
# "e", and of blanks and quotes in a row some go.
OPEN = re.compile(r"(?: [ ']*n)?[ ']*(?:'[vr])?\Z")


class TextStreamer:
    """Gives the text of one row in pieces, as soon as a piece can no longer change.

        model.generate(**inputs, streamer=TextStreamer(processor.tokenizer))     prints the words as they come

    Each piece goes to `write`, which prints if nothing else is named; together the pieces are what decode() makes of
    all the ids. A piece never holds half of a character that several tokens make up, and a blank waits until it is
    clear that decoding will not join what stands around it ("it" and " 's" become "it's").
    With `stop` the text ends in front of the first of these strings.
    """

    def __init__(
        self,
        tokenizer: Any,
        write: Callable[[str], object] | None = None,
        *,
        skip_special_tokens: bool = True,
        stop: str | Sequence[str] = (),
    ):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.write = write or (lambda piece: print(piece, end="", flush=True))
        self.stops = tuple(listed(stop))
        self.ids: list[int] = []
        self.given = ""

    def put(self, ids: Any) -> None:
        """The next token, (1,); or the first, (1, 1), as generate() gives it."""
        ids = np.asarray(ids)
        if ids.size != 1:
            raise InputError(f"TextStreamer writes one text, and there are {ids.size}: give generate one row")
        self.ids.append(int(ids.reshape(())))
        apart = self._text(clean_up_tokenization_spaces=False)
        text = OPEN.sub("", apart, count=1)  # what may still become something else waits
        if apart != self._text():
            text = joined(text)
        known = cut(text, self.stops)
        if known == text:
            wait = max(map(len, self.stops), default=1) - 1  # letters that may begin a stop string
            known = text[: max(len(text) - wait, 0)].rstrip("\ufffd")
        self._give(known)

    def end(self) -> None:
        """Give what has been waiting, and be ready for another text."""
        self._give(cut(self._text(), self.stops))
        self.ids, self.given = [], ""

    def _text(self, **how: Any) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=self.skip_special_tokens, **how)

    def _give(self, text: str) -> None:
        if len(text) > len(self.given):
            self.write(text[len(self.given) :])
            self.given = text
