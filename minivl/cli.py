"""The command line: what can be asked for, and the exit status.

Answers go to standard output, one line each; everything else goes to standard error. Exit status: 0 all done, 1
something failed (each failure named, the rest still done), 2 wrong usage, 130 interrupted. What a command does stands
in commands.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import MinivlError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be valid text
    from . import commands

    try:
        return getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MinivlError as error:
        commands.complain(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    about = "BLIP-2 and BridgeTower in plain NumPy: pictures in, sentences, answers and scores out."
    parser = argparse.ArgumentParser(prog="minivl", description=about)
    parser.add_argument("--version", action="version", version=f"minivl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    a_picture = "a picture, or a folder of pictures"

    caption = commands.add_parser("caption", help="say what pictures show", description="Say what each picture shows.")
    caption.add_argument("pictures", nargs="+", metavar="PICTURE", help=a_picture)

    ask = commands.add_parser("ask", help="ask a picture a question", description="Ask a picture, or each of a folder.")
    ask.add_argument("pictures", nargs=1, metavar="PICTURE", help=a_picture)
    ask.add_argument("question", type=_words, help='plain words; "Question: ... Answer:" is put around them')
    ask.add_argument("--raw", action="store_true", help="take the question as the whole prompt, as it is")

    match = commands.add_parser(
        "match", help="which texts fit a picture", description="How probable it is that each text fits the picture."
    )
    match.add_argument("picture", metavar="PICTURE")
    match.add_argument("texts", nargs="+", type=_words, metavar="TEXT")

    rank = commands.add_parser(
        "rank", help="which pictures fit a text", description="Pictures, the one that fits the text best first."
    )
    rank.add_argument("text", type=_words, metavar="TEXT")
    rank.add_argument("pictures", nargs="+", metavar="PICTURE", help=a_picture)
    rank.add_argument("--best", type=_count, default=16, metavar="N", help="how many to look at closely (default: 16)")

    fill = commands.add_parser(
        "fill", help="fill in <mask>", description="The words that fit best where the text says <mask>."
    )
    fill.add_argument("picture", metavar="PICTURE")
    fill.add_argument("text", type=_masked, metavar="TEXT", help='for example "a <mask> shape left of the circle"')
    fill.add_argument("--words", type=_count, default=5, metavar="N", help="how many words (default: 5)")

    for command in (caption, ask):
        _shared(command, "demo", "BLIP-2")
        command.add_argument(
            "--max-new-tokens", type=_count, default=40, metavar="N", help="the longest text, in tokens (default: 40)"
        )
    for command in (match, rank, fill):
        _shared(command, None, "BridgeTower")
    return parser


def _shared(command: argparse.ArgumentParser, demo: str | None, family: str) -> None:
    """The options of every command; without a model of the family inside minivl, one has to be named."""
    about = f"a {family} folder in the Hub's layout" + (
        f" (default: {demo}, a tiny model of a toy world)" if demo else ""
    )
    command.add_argument("--model", default=demo, required=demo is None, metavar="FOLDER", help=about)
    command.add_argument("--json", action="store_true", help="print one JSON object a line")


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty")
    return text


def _masked(text: str) -> str:
    if "<mask>" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no <mask> to fill")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
