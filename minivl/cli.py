"""The command line: what can be asked for, and the exit status.

Answers go to standard output, one line each; everything else goes to standard error. Exit status: 0 all done, 1
something failed (each failure named, the rest still done), 2 wrong usage, 130 interrupted. What a command does stands
in commands.py; each of the TOOLS is a room of its own, whose command.py holds options(parser) and run(arguments).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from . import __version__, console
from .console import count, masked_text, part, positive, share, whole_number, words
from .errors import MinivlError, Note

BATCH = 8  # pictures that a job puts together
BACKENDS = ("plain", "numpy", "torch", "triton")
DTYPES = ("auto", "float32", "bfloat16", "int8", "weight-only")
TOOLS: dict[str, tuple[str, str]] = {  # command: its room, and what it does in a few words
    "diff": ("parity.command", "where two runs of a model part, layer by layer, and why"),
    "kernels": ("workbench.command", "step through, check and inspect Triton kernels, without a GPU"),
    "bench": ("bench.command", "how fast it is, beside transformers and beside what the machine can do"),
    "finetune": ("finetune.command", "teach a BLIP-2's Q-Former one's own pictures"),
    "step": ("step", "a page on which to step through what a model looks at"),
    "inspect": ("summary", "what a model consists of, and how much memory it takes, without loading it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    if sys.stderr is None:  # closed by the caller: complaints would be printed among the answers
        sys.stderr = open(os.devnull, "w")
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(argv[0] if argv else "")
    arguments = parser.parse_args(argv)
    if reason := _contradiction(arguments):
        parser.error(reason)
    _complete(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be valid text
    try:
        with _notes_in_a_line(console.complain):
            if arguments.command in TOOLS:
                return _tool(arguments.command).run(arguments)
            with _libraries_silenced():
                return getattr(_room(arguments), arguments.command)(arguments)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        with suppress(OSError, AttributeError):  # what could not be written is let go; stdout may be no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # a reader of our output who has seen enough is nothing to tell
            console.complain(f"cannot go on: {error.strerror}")
        return 1
    except MinivlError as error:
        console.complain(str(error))
        return 1
    except ModuleNotFoundError as missing:
        console.complain(f"needs the package {missing.name!r}, which is not installed: pip install {missing.name}")
        return 1
    except MemoryError as error:
        console.complain(f"not enough memory: {error}" if str(error) else "not enough memory")
        return 1


@contextmanager
def _libraries_silenced() -> Iterator[None]:
    """Standard error is Python's alone: what libraries in C and Rust print there by themselves about a damaged file is
    dropped, because a line of ours says it too.
    """
    usual = sys.stderr
    try:
        usual.flush()
        kept = os.dup(2) if usual.fileno() == 2 else None
    except (OSError, ValueError):  # it is closed, or no file
        kept = None
    if kept is None:
        yield
        return
    with open(os.devnull, "w") as nowhere, os.fdopen(kept, "w", 1, errors="backslashreplace") as sys.stderr:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            sys.stderr = usual


@contextmanager
def _notes_in_a_line(tell: Callable[[str], None]) -> Iterator[None]:
    """Notes go where complaints go; every other warning looks as it always does."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], file: str, number: int, *more: Any) -> None:
        if issubclass(category, Note):
            tell(str(message))
        else:
            usual(message, category, file, number, *more)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = usual


def _tool(name: str) -> ModuleType:
    return import_module(f".tools.{TOOLS[name][0]}", __package__)


def _room(arguments: argparse.Namespace) -> ModuleType:
    """Where a command's function is: with --out it is a long job."""
    return import_module(".commands" if getattr(arguments, "out", None) is None else ".tools.jobs.work", __package__)


def _parser(wanted: str) -> argparse.ArgumentParser:
    """The parser of all commands; of the tools only the wanted one is imported for its options."""
    about = "BLIP-2 and BridgeTower in plain NumPy: pictures in, sentences, answers and scores out."
    parser = argparse.ArgumentParser(prog="minivl", description=about)
    parser.add_argument("--version", action="version", version=f"minivl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    a_picture = "a picture, or a folder of pictures"

    caption = commands.add_parser("caption", help="say what pictures show", description="Say what each picture shows.")
    caption.add_argument("pictures", nargs="+", metavar="PICTURE", help=a_picture)
    start = caption.add_mutually_exclusive_group()
    start.add_argument("--prompt", type=words, metavar="TEXT", help="how the caption begins (default: with nothing)")
    start.add_argument("--preset", choices=["caption"], help='a prompt by name: caption is "a photo of"')

    ask = commands.add_parser("ask", help="ask a picture a question", description="Ask a picture, or each of a folder.")
    ask.add_argument("pictures", nargs="?", metavar="PICTURE", help=a_picture)
    about = 'plain words; "Question: ... Answer:" is put around them'
    ask.add_argument("question", nargs="?", type=words, help=about)
    about = 'with --out: a line for each question, {"picture": "cat.jpg", "question": "how many cats?"}, the picture '
    about += "as seen from the file's folder"
    ask.add_argument("--questions", type=Path, metavar="FILE", help=about)
    around = ask.add_mutually_exclusive_group()
    around.add_argument("--raw", action="store_true", help="take the question as the whole prompt, as it is")
    around.add_argument(
        "--preset",
        choices=["vqa-opt", "vqa-t5"],
        help='what is put around it: "Question: ... Answer:" or "Question: ... Short answer:" (default: by the model)',
    )

    match = commands.add_parser(
        "match", help="which texts fit a picture", description="How probable it is that each text fits the picture."
    )
    match.add_argument("picture", metavar="PICTURE", help="a picture; with --out also a folder of pictures")
    match.add_argument("texts", nargs="+", type=words, metavar="TEXT")

    rank = commands.add_parser(
        "rank", help="which pictures fit a text", description="Pictures, the one that fits the text best first."
    )
    rank.add_argument("text", type=words, metavar="TEXT")
    rank.add_argument("pictures", nargs="+", metavar="PICTURE", help=a_picture)
    rank.add_argument("--best", type=count, default=16, metavar="N", help="how many to look at closely (default: 16)")

    fill = commands.add_parser(
        "fill", help="fill in <mask>", description="The words that fit best where the text says <mask>."
    )
    fill.add_argument("picture", metavar="PICTURE")
    fill.add_argument("text", type=masked_text, metavar="TEXT", help='for example "a <mask> shape left of the circle"')
    fill.add_argument("--words", type=count, default=5, metavar="N", help="how many words (default: 5)")

    for command in (caption, ask):
        _shared(command, "demo", "BLIP-2")
        _writing(command)
    for command in (match, rank, fill):
        _shared(command, "demo-bridgetower", "BridgeTower")
    for command in (caption, ask, match, rank):
        _long(command)
    for name, (_, about) in TOOLS.items():
        tool = commands.add_parser(name, help=about, description=about)
        if name == wanted:
            _tool(name).options(tool)
    return parser


def _shared(command: argparse.ArgumentParser, demo: str, family: str) -> None:
    """The options of every command."""
    about = f"a {family} folder in the Hub's layout (default: {demo}, a tiny model of a toy world)"
    command.add_argument("--model", default=demo, metavar="FOLDER", help=about)
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    about = "how weights are kept (default: auto, as the file has them); int8 and weight-only make them 8 bits"
    command.add_argument("--dtype", choices=DTYPES, default="auto", help=about)
    about = "what computes (default: numpy); plain is NumPy by the formulas alone, slower, for stepping through"
    command.add_argument("--backend", choices=BACKENDS, default="numpy", help=about)


def _long(command: argparse.ArgumentParser) -> None:
    """What makes a command a job over many pictures: minivl/jobs."""
    group = command.add_argument_group("long jobs")
    add = group.add_argument
    about = "write a JSON object for each picture, in order, to FILE; a picture may then also be a tar shard"
    add("--out", type=Path, metavar="FILE.jsonl", help=about)
    add("--resume", action="store_true", help="go on where FILE ends, if it is there; it ends with the same bytes")
    add("--batch", type=count, metavar="N", help=f"pictures that are read and go through together (default: {BATCH})")
    about = "only the I-th of N parts; their files one after the other are that of the whole"
    add("--shard", type=part, metavar="I/N", help=about)


def _writing(command: argparse.ArgumentParser) -> None:
    """How a text is written: the arguments of generate() that are wanted most often."""
    group = command.add_argument_group("how the text is written")
    add = group.add_argument
    add("--max-new-tokens", type=count, default=40, metavar="N", help="the longest text, in tokens (default: 40)")
    add("--beams", type=count, metavar="N", help="keep so many beginnings side by side (default: 1)")
    add("--sample", action="store_true", help="draw each token by chance")
    add("--temperature", type=positive, metavar="X", help="with --sample: below 1 tamer, above 1 wilder (default: 1)")
    add("--top-k", type=count, metavar="N", help="with --sample: only the N likeliest tokens (default: 50)")
    add("--top-p", type=share, metavar="P", help="with --sample: only the likeliest, together P (default: 1)")
    add("--seed", type=whole_number, metavar="N", help="with --sample: the same number gives the same text")
    add("--stop", action="append", metavar="TEXT", help="end in front of this text; may be given several times")
    add("--stream", action="store_true", help="print the words as they come")


def _contradiction(arguments: argparse.Namespace) -> str | None:
    """What of the arguments does not go together."""
    given = {name: value for name, value in vars(arguments).items() if value is not None and value is not False}
    for name in ("temperature", "top_k", "top_p", "seed"):
        if name in given and "sample" in arguments and "sample" not in given:
            return f"--{name.replace('_', '-')} needs --sample"
    if "stream" in given and ("json" in given or given.get("beams", 1) > 1):
        return "--stream shows one text as it grows, which goes neither with --json nor with --beams"
    if "" in given.get("stop", ()):
        return "--stop needs a text"
    alone = {"pictures", "question"} & given.keys()
    if arguments.command == "ask" and (alone if "questions" in given else len(alone) < 2):
        return "wanted a PICTURE and a question, or --questions FILE in their place"
    return _job_contradiction(given) if "shard" in arguments else None


def _job_contradiction(given: dict[str, Any]) -> str | None:
    """What of the arguments of a command that may be a long job does not go together."""
    if "out" not in given:
        lonely = [name for name in ("batch", "shard", "resume", "questions") if name in given]
        return f"--{lonely[0]} needs --out FILE" if lonely else None
    if "stream" in given:
        return "--stream shows words as they come, --out writes them to a file: give one of the two"
    if "sample" in given and "seed" not in given:
        return "--sample with --out needs --seed, so that a job that was stopped can go on as if it had not been"
    return None


def _complete(arguments: argparse.Namespace) -> None:
    """Defaults of what must be seen to be missing before."""
    if "shard" in arguments:
        arguments.batch, arguments.shard = arguments.batch or BATCH, arguments.shard or (1, 1)
    if arguments.command == "ask" and arguments.pictures is not None:
        arguments.pictures = [arguments.pictures]
