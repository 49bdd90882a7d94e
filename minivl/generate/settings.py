"""What can be asked of generate(), and what of it makes no sense."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ..disk import show
from ..errors import InputError

DEFAULT_MAX_LENGTH = 20  # the first token and 19 new ones
MOST_ID = 2**63 - 1  # ids are int64
MOST_TEXTS = 2**16  # of one row, side by side; far beyond any use, short of what fills the memory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of generate(), with the defaults of transformers 4.37.

    A value that could have no effect beside the others (a temperature without do_sample, a length_penalty without
    beams) is refused, because whoever wrote it meant something by it.
    """

    # ---- how long: the first token (BOS, or T5's start) is counted by *_length and not by *_new_tokens
    max_new_tokens: int | None = None  # wins over max_length
    max_length: int | None = None  # 20 where neither is given
    min_new_tokens: int = 0  # an end token does not count before
    min_length: int = 0

    # ---- where a text ends
    eos_token_id: int | Sequence[int] | None = None  # instead of the model's own
    pad_token_id: int | None = None  # what a text that has ended goes on with, instead of the model's own
    stop: str | Sequence[str] = ()  # a text also ends as soon as it contains one of these; it stays in the ids
    tokenizer: Any = None  # whose decode() gives the text that `stop` is looked for in; a processor will do

    # ---- beams: several beginnings of a text side by side, the most probable ones kept
    num_beams: int = 1
    length_penalty: float = 1.0  # a text's score is its log-probability / length ** length_penalty
    early_stopping: bool | str = False  # True: as soon as there are num_beams texts; "never": when no better can come
    num_return_sequences: int = 1  # the best so many beams, or so many samples, of each row

    # ---- chance
    do_sample: bool = False
    temperature: float = 1.0  # below 1 likely tokens become likelier
    top_k: int = 50  # only the k most probable tokens; 0 for all
    top_p: float = 1.0  # only the fewest tokens that together have this probability
    seed: int | None = None  # the same seed gives the same text

    # ---- against repetition, of what has been written and not of the prompt
    repetition_penalty: float = 1.0  # above 1 a token that was there becomes less likely
    no_repeat_ngram_size: int = 0  # no n tokens in a row twice

    streamer: Any = None  # has put(ids) and end(), and is given each token as it comes

    @classmethod
    def of(cls, **wishes: Any) -> Settings:
        """Settings from keyword arguments; None means the default, for top_k, as in transformers, all tokens.

        Raises InputError for an argument that does not exist.
        """
        known = [field.name for field in fields(cls)]
        for name in wishes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise InputError(f"generate has no argument {show(name)}: {hint}")
        if "top_k" in wishes and wishes["top_k"] is None:
            wishes["top_k"] = 0
        return cls(**{name: value for name, value in wishes.items() if value is not None})

    @property
    def most(self) -> int:
        """How many new tokens there may be."""
        if self.max_new_tokens is not None:
            return int(self.max_new_tokens)
        return int(DEFAULT_MAX_LENGTH if self.max_length is None else self.max_length) - 1

    @property
    def least(self) -> int:
        """How many new tokens there must be before an end token counts."""
        return int(max(self.min_new_tokens, self.min_length - 1))

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(listed(self.stop))

    def __post_init__(self):
        self._check_values()
        self._check_lengths()
        self._check_ends()
        self._check_sense()

    def _check_values(self) -> None:
        floors = {"num_beams": 1, "num_return_sequences": 1, "top_k": 0, "no_repeat_ngram_size": 0, "seed": 0}
        floors |= {"min_length": 0, "min_new_tokens": 0, "max_new_tokens": 1, "max_length": 2}
        most = {"num_beams": MOST_TEXTS, "num_return_sequences": MOST_TEXTS}
        for name, floor in floors.items():
            whole(name, getattr(self, name), floor, most.get(name, math.inf))
        number("temperature", self.temperature, above=1e-9)  # below, do_sample=False is meant
        number("repetition_penalty", self.repetition_penalty, above=0)
        number("top_p", self.top_p, above=0, most=1)
        number("length_penalty", self.length_penalty, above=-32, most=32)
        if not isinstance(self.do_sample, (bool, np.bool_)):
            raise InputError(f"do_sample: wanted True or False, found {show(self.do_sample)}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise InputError(f'early_stopping: wanted True, False or "never", found {show(self.early_stopping)}')

    def _check_lengths(self) -> None:
        if self.least > self.most:
            found = f"at least {self.least} new tokens are asked for, but at most {self.most} are allowed"
            raise InputError(f"{found}: raise max_new_tokens")

    def _check_ends(self) -> None:
        whole("pad_token_id", self.pad_token_id, 0, MOST_ID)
        for end in listed(self.eos_token_id):
            whole("eos_token_id", end, 0, MOST_ID)
        if any(not isinstance(stop, str) or not stop for stop in self.stops):
            raise InputError(f"stop: wanted a text or a list of texts, none of them empty, found {show(self.stop)}")
        if self.stops and not hasattr(self.tokenizer, "decode"):
            raise InputError("stop needs the text so far: pass tokenizer=processor.tokenizer too")
        if self.streamer is not None and not (hasattr(self.streamer, "put") and hasattr(self.streamer, "end")):
            raise InputError(f"streamer: wanted an object with put(ids) and end(), found {show(self.streamer)}")

    def _check_sense(self) -> None:
        """Refuses what contradicts itself, and what would have no effect."""
        if self.num_beams == 1:
            self._without_effect("num_beams", "length_penalty", "early_stopping")
        if not self.do_sample:
            self._without_effect("do_sample=True", "temperature", "top_k", "top_p")
        if self.num_beams > 1 and self.streamer is not None:
            raise InputError("streamer: beams are only known at the end, so there is nothing to stream: num_beams=1")
        if self.num_return_sequences > self.num_beams and (self.num_beams > 1 or not self.do_sample):
            found = f"num_return_sequences={self.num_return_sequences} and num_beams={self.num_beams}"
            raise InputError(f"{found}: a row has no more texts than beams; raise num_beams, or sample without beams")

    def _without_effect(self, needed: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value != Settings.__dataclass_fields__[name].default and (name, value) != ("top_k", 0):
                raise InputError(f"{name}={value!r} has no effect without {needed}: add that, or leave {name} out")


def listed(value: Any) -> list[Any]:
    """A list of what may be one thing, several or None."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(value)
    return [] if value is None else [value]


def whole(name: str, value: Any, least: int, most: float = math.inf) -> None:
    """InputError unless the value is a whole number, least <= value <= most, or None."""
    if value is None:
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        room = f"of at least {least}" + (f" and at most {most}" if most < math.inf else "")
        raise InputError(f"{name} must be a whole number {room}, not {show(value)}")


def number(name: str, value: Any, above: float, most: float = math.inf) -> None:
    """InputError unless `above` < value <= most and the value is finite."""
    fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not above < value <= most:
        room = f"above {above}" + (f" and at most {most}" if most < math.inf else "")
        raise InputError(f"{name} must be a number {room}, not {show(value)}")


# ---- where a text ends ---------------------------------------------------------------------------
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
