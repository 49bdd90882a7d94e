"""What may change the scores of the next token before one is chosen.

Two kinds of change, as in transformers 4.37: rules (`ruled`: repetition, n-grams, the least length), which also hold
for greedy search and beams, and the shape of chance (`shaped`: temperature, top_k, top_p), which only sampling has.

Letters: N texts, V vocabulary, n tokens so far, the first one included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..errors import InputError
from .settings import Endings, Settings


class Reader(Protocol):
    """A language model that has been given its prompts."""

    def step(self, tokens: np.ndarray | None) -> np.ndarray: ...

    def reorder(self, rows: np.ndarray) -> None: ...


def checked(logits: np.ndarray) -> np.ndarray:
    """The same logits (N, V); InputError if there is anything among them that is no number."""
    if not np.isfinite(logits).all():
        raise InputError("the language model's scores are not all numbers: a wider dtype may help ('float32')")
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithm of each token's probability.   (N, V) -> (N, V), in float32 or better"""
    x = logits.astype(np.promote_types(logits.dtype, np.float32))
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def ruled(scores: np.ndarray, ids: np.ndarray, settings: Settings, endings: Endings) -> np.ndarray:
    """The same scores (N, V) after the rules, of which `ids` (N, n) says what has been written so far.

    Raises InputError where nothing is left to choose from.
    """
    scores = scores.astype(np.promote_types(scores.dtype, np.float32))  # a copy, whatever the type
    if settings.repetition_penalty != 1:
        said = np.take_along_axis(scores, ids, 1)
        factor = float(settings.repetition_penalty)
        np.put_along_axis(scores, ids, np.where(said < 0, said * factor, said / factor), 1)
    if settings.no_repeat_ngram_size:
        for row, text in zip(scores, ids, strict=True):
            row[forbidden(text, settings.no_repeat_ngram_size)] = -np.inf
    if ids.shape[1] <= settings.least:
        inside = (endings.tokens >= 0) & (endings.tokens < scores.shape[1])
        scores[:, endings.tokens[inside]] = -np.inf
    if (scores.max(-1) == -np.inf).any():
        raise InputError(f"no token is left to come after {ids.shape[1] - 1}: no_repeat_ngram_size forbids them all")
    return scores


def forbidden(text: np.ndarray, size: int) -> np.ndarray:
    """The tokens that would complete an n-gram of this size a second time.   text (n,) -> (0 or more,)"""
    if len(text) < size:
        return text[:0]
    past = np.lib.stride_tricks.sliding_window_view(text, size)  # (n - size + 1, size)
    beginning = text[len(text) - size + 1 :]  # (size - 1,)
    return past[(past[:, :-1] == beginning).all(1), -1]


def shaped(scores: np.ndarray, settings: Settings, keep: int = 1) -> np.ndarray:
    """Scores (N, V) of which a random choice is to be made: unlikely tokens become impossible, but `keep` stay."""
    scores = scores / np.float64(settings.temperature)
    if settings.top_k:
        place = min(max(settings.top_k, keep), scores.shape[1])
        least = np.partition(scores, -place, -1)[:, -place, None]  # (N, 1) the k-th best
        scores = np.where(scores < least, -np.inf, scores)
    if settings.top_p < 1:
        order = scores.argsort(-1, kind="stable")  # (N, V) worst first
        below = np.exp(log_softmax(np.take_along_axis(scores, order, 1))).cumsum(-1)  # (N, V)
        out = below <= 1 - settings.top_p
        out[:, -keep:] = False
        rejected = np.empty_like(out)
        np.put_along_axis(rejected, order, out, 1)
        scores = np.where(rejected, -np.inf, scores)
    return scores


def dice(settings: Settings, rows: int) -> list[Callable[..., np.ndarray]]:
    """For each row its own source of noise, so that a row's text does not depend on how many others there are.

    argmax(score + noise), with noise drawn from Gumbel's distribution, is a draw from softmax(score); the best n of
    score + noise are n draws without putting back.  Source: Kool, van Hoof and Welling 2019.
    """
    seeds = np.random.SeedSequence(settings.seed).spawn(rows)
    return [np.random.default_rng(seed).gumbel for seed in seeds]
