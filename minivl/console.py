"""What a terminal is told, and what its words mean: answers on standard output, the rest on standard error."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from .weights.places import DEMOS

TOY_NOTE = "minivl: this is the demo model, trained on a toy world of coloured shapes; --model FOLDER takes a real one"


def note_toy(model: str) -> None:
    """Say that a demo model knows only its toy world."""
    if model in DEMOS:
        print(TOY_NOTE, file=sys.stderr)


def answer(arguments: argparse.Namespace, plain: str, **fields: Any) -> None:
    """One line of the answer, at once: somebody may be reading along."""
    print(json.dumps(fields) if arguments.json else plain, flush=True)


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"minivl: {one_line(message)}", file=sys.stderr)


def one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def progress(number: int | None, pictures: Sequence[Any]) -> None:
    """A counter that overwrites itself, where a person is watching and there is something to wait for."""
    if len(pictures) > 1 and sys.stderr.isatty():
        text = "" if number is None else f"picture {number} of {len(pictures)}"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# ---- types of arguments --------------------------------------------------------------------------
def words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty")
    return text


def masked_text(text: str) -> str:
    if "<mask>" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no <mask> to fill")
    return text


def count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not all(one.isascii() and one.isdecimal() for one in (part, parts)) or not 1 <= int(part) <= int(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of N parts, as in 1/4, 2/4, 3/4, 4/4")
    return int(part), int(parts)


def whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is above 1")
    return value
