"""Where a text ends: at an end token, or when a stop string has appeared in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .settings import Settings, listed


class Tokens(NamedTuple):
    """The language model's own special tokens."""

    first: int  # every answer begins with it: OPT's BOS, T5's start
    ends: int | list[int] | tuple[int, ...] | None
    pad: int | None


class Endings(NamedTuple):
    """Says of each text whether it has ended, and what stands behind its end."""

    first: int
    tokens: np.ndarray  # (E,) the end tokens
    pad: int
    stops: tuple[str, ...]
    tokenizer: Any

    @classmethod
    def of(cls, settings: Settings, tokens: Tokens) -> Endings:
        """What was asked for goes before what the model has; without a padding token the first end token pads."""
        ends = listed(tokens.ends if settings.eos_token_id is None else settings.eos_token_id)
        pad = tokens.pad if settings.pad_token_id is None else settings.pad_token_id
        if pad is None:
            pad = ends[0] if ends else tokens.first
        return cls(tokens.first, np.array(ends, np.int64), int(pad), settings.stops, settings.tokenizer)

    def reached(self, ids: np.ndarray) -> np.ndarray:
        """Which of the texts end with their newest token.   ids (N, 1 + n) -> bool (N,)"""
        ended = np.isin(ids[:, -1], self.tokens)
        if self.stops:
            ended |= [self.stopped(row) for row in ids]
        return ended

    def stopped(self, ids: np.ndarray) -> bool:
        text = self.tokenizer.decode(ids[1:].tolist(), skip_special_tokens=True)
        return any(stop in text for stop in self.stops)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first stop string, which may have come with the same token as what stands before it."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
