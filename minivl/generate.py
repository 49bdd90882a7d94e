"""Text, one token at a time: the loop around a language model's step.

The rules of length and ending are those of transformers 4.37. The ids that come back begin with the BOS token; the
prompt is not among them, and `max_length` and `min_length` count the BOS token, `max_new_tokens` and `min_new_tokens`
do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .errors import InputError

DEFAULT_MAX_LENGTH = 20  # the BOS token and 19 new ones


class Lengths(NamedTuple):
    """How many new tokens there may be at most, and must be at least before an end token counts."""

    most: int
    least: int


def lengths(
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    min_length: int | None = None,
    min_new_tokens: int | None = None,
) -> Lengths:
    """The four arguments become two numbers of new tokens; `max_new_tokens` wins over `max_length`.

    Raises InputError for a length that leaves no room for a single new token, or a least above the most.
    """
    given = {
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "min_length": min_length,
        "min_new_tokens": min_new_tokens,
    }
    for name, value in given.items():
        floor = {"max_new_tokens": 1, "max_length": 2}.get(name, 0)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < floor):
            raise InputError(f"{name} must be a whole number of at least {floor}, not {value!r}")
    most = int(max_new_tokens) if max_new_tokens is not None else int(max_length or DEFAULT_MAX_LENGTH) - 1
    least = int(max(min_new_tokens or 0, (min_length or 0) - 1))
    if least > most:
        raise InputError(
            f"at least {least} new tokens are asked for, but at most {most} are allowed: raise max_new_tokens"
        )
    return Lengths(most, least)


def greedy(
    step: Callable[[np.ndarray | None], np.ndarray],
    rows: int,
    limits: Lengths,
    *,
    bos: int,
    eos: int | tuple[int, ...] | None,
    pad: int | None,
) -> np.ndarray:
    """Always the most probable next token, until every row has ended or the length is reached.

    step(None) reads the prompt, step(tokens (B,)) one more token for each row; both give the next logits (B, V).
    A row that has ended goes on with the pad token (without one, the first end token).
    ->  int64 ids (B, 1 + new), the BOS token first
    """
    ends = np.array([] if eos is None else eos, np.int64).reshape(-1)
    if pad is None:
        pad = int(ends[0]) if len(ends) else bos
    ids = np.full((rows, 1 + limits.most), pad, np.int64)
    ids[:, 0] = bos
    running = np.ones(rows, bool)
    tokens = None
    for n in range(1, limits.most + 1):
        logits = step(tokens)
        if n <= limits.least:
            logits = without(logits, ends)
        tokens = np.where(running, logits.argmax(-1), pad)
        ids[:, n] = tokens
        running &= ~np.isin(tokens, ends)
        if not running.any():
            return ids[:, : n + 1]
    return ids


def without(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The same logits (B, V) with some tokens made impossible."""
    logits = logits.copy()
    logits[:, tokens] = -np.inf
    return logits
