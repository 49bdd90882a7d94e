"""Beam search: of every row several beginnings are kept side by side, and those that end best are the answer.

At each step every beam could go on with every token; of all these continuations the most probable are looked at. Those
that end are put aside, the best of the others are the next beams. A text is worth

    log p(text) / length ** length_penalty

With do_sample the continuations are drawn by chance instead of taken from the top.

The rules are those of transformers 4.37 to the last token, among them: of the continuations that end only those among
the best num_beams are put aside, and a text that has ended shows the first end token of the list.

Letters: K beams, V vocabulary, n tokens so far, the first one included.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import scores
from .scores import Reader
from .settings import Endings, Settings

UNBORN = -1e9  # the total of a beam that is only a copy of another: nothing that comes of it is chosen


def write(reader: Reader, rows: int, settings: Settings, endings: Endings) -> np.ndarray:
    """->  int64 ids (B · num_return_sequences, 1 + new), the best text of each row first"""
    K = settings.num_beams
    noise = scores.dice(settings, rows) if settings.do_sample else [None] * rows
    searches = [Search(settings, endings, drawn) for drawn in noise]
    own = np.arange(rows * K).reshape(rows, K)  # the numbers of each row's beams among all beams
    logits = scores.checked(reader.step(None))  # (B, V): the prompt is read once
    reader.reorder(np.repeat(np.arange(rows), K))
    logits = np.repeat(logits, K, 0)  # (B · K, V)
    while True:
        moves = [search.advance(logits[place]) for search, place in zip(searches, own, strict=True)]
        if all(search.done for search in searches):
            break
        reader.reorder(np.concatenate([place[move.parents] for place, move in zip(own, moves, strict=True)]))
        logits = scores.checked(reader.step(np.concatenate([move.tokens for move in moves])))
    texts = [text for search in searches for text in search.best()]
    ids = np.full((len(texts), max(map(len, texts))), endings.pad, np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids


class Move(NamedTuple):
    """Beam i goes on where beam parents[i] stood, with tokens[i]."""

    parents: np.ndarray  # (K,)
    tokens: np.ndarray  # (K,)


class Search:
    """The beams of one row: those still being written, and the best that have ended."""

    def __init__(self, settings: Settings, endings: Endings, noise=None):
        self.settings, self.endings, self.noise = settings, endings, noise
        self.K = settings.num_beams
        self.ids = np.full((self.K, 1), endings.first, np.int64)  # (K, n)
        self.totals = np.zeros(self.K, np.float32)  # log-probabilities, (K,)
        if not noise:
            self.totals[1:] = UNBORN  # all beams begin alike and only chance would tell them apart: one speaks for all
        self.ended: list[tuple[float, np.ndarray]] = []  # the best K texts and what they are worth, the worst first
        self.done = False

    def advance(self, logits: np.ndarray) -> Move:
        """One token more for every beam.   logits (K, V)"""
        if self.done:  # other rows are still at work
            return Move(np.arange(self.K), np.full(self.K, self.endings.pad))
        totals, parents, tokens = self.continuations(logits)
        texts = np.column_stack([self.ids[parents], tokens])
        over = self.endings.reached(texts)
        for rank in np.flatnonzero(over[: self.K]):
            self.put_aside(texts[rank], float(totals[rank]))
        going = np.flatnonzero(~over)[: self.K]
        lost = self.K - len(going)  # beams for which nothing is left, because a stop string ended every continuation
        going = np.pad(going, (0, lost))
        self.ids, self.totals = texts[going], totals[going]
        self.totals[self.K - lost :] = -np.inf
        self.done = self.settled(totals[0])
        if not self.done and self.ids.shape[1] > self.settings.most:
            self.done = True
            for text, total in zip(self.ids, self.totals, strict=True):
                self.put_aside(text, float(total))
        return Move(parents[going], tokens[going])

    def continuations(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best continuations of all beams: their totals, best first, the beams they continue, and the tokens.

        There are so many that K of them do not end, whatever the end tokens are.
        """
        enough = max(2, 1 + len(self.endings.tokens))
        likely = scores.ruled(scores.log_softmax(logits), self.ids, self.settings, self.endings)
        if self.noise:
            likely = scores.shaped(likely, self.settings, keep=enough)
        totals = (likely + self.totals[:, None]).ravel()  # (K · V,)
        chosen = top(totals + self.noise(size=totals.shape) if self.noise else totals, enough * self.K)
        chosen = chosen[np.argsort(-totals[chosen], kind="stable")]  # chance decides which, not in what order
        return totals[chosen], *np.divmod(chosen, logits.shape[1])

    def put_aside(self, text: np.ndarray, total: float) -> None:
        """Keep a text that has ended, if it is among the K best."""
        if text[-1] in self.endings.tokens:
            text = np.append(text[:-1], self.endings.tokens[0])
        self.ended.append((self.worth(total, len(text) - 1), text))
        self.ended.sort(key=lambda one: one[0])
        if len(self.ended) > self.K:
            del self.ended[0]

    def worth(self, total: float, length: int) -> float:
        return total / length**self.settings.length_penalty

    def settled(self, total: float) -> bool:
        """Whether to stop looking: K texts have ended, and (early_stopping=False) the worst of them is worth as much as
        the best continuation of this step, or ("never") as that could become by going on.
        """
        if len(self.ended) < self.K:
            return False
        if self.settings.early_stopping is True:
            return True
        length = self.ids.shape[1] - 1
        if self.settings.early_stopping == "never" and self.settings.length_penalty > 0:
            length = self.settings.most
        return self.ended[0][0] >= self.worth(total, length)

    def best(self) -> list[np.ndarray]:
        """The ids of the texts that are asked for, the best first."""
        return [text for _, text in self.ended[::-1]][: self.settings.num_return_sequences]


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest values stand, from left to right.   (N,) -> (count,)"""
    return np.sort(np.argpartition(-values, min(count, len(values)) - 1)[:count])
