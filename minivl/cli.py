"""The command line:  minivl caption PICTURE...   and   minivl ask PICTURE "question".

Answers go to standard output, one line for each picture; everything else goes to standard error. Exit status: 0 all
done, 1 something failed (each failure named, the rest still done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import ImageError, MinivlError

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TOY_NOTE = (
    "minivl: this is the demo model, trained on a toy world of coloured shapes; --model FOLDER takes a real BLIP-2"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be valid text
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MinivlError as error:
        _complain(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minivl", description="BLIP-2 in plain NumPy: pictures in, sentences out.")
    parser.add_argument("--version", action="version", version=f"minivl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    caption = commands.add_parser("caption", help="say what pictures show", description="Say what each picture shows.")
    caption.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture, or a folder of pictures")
    caption.set_defaults(run=_caption)

    ask = commands.add_parser(
        "ask", help="ask pictures a question", description="Ask a picture, or each of a folder, a question."
    )
    ask.add_argument("pictures", nargs=1, metavar="PICTURE", help="a picture, or a folder of pictures")
    ask.add_argument("question", type=_question, help='plain words; "Question: ... Answer:" is put around them')
    ask.add_argument("--raw", action="store_true", help="take the question as the whole prompt, as it is")
    ask.set_defaults(run=_ask)

    for command in (caption, ask):
        command.add_argument(
            "--model",
            default="demo",
            metavar="FOLDER",
            help='a BLIP-2 folder in the Hub\'s layout (default: "demo", a toy)',
        )
        command.add_argument("--json", action="store_true", help="print one JSON object for each picture")
        command.add_argument(
            "--max-new-tokens", type=_count, default=40, metavar="N", help="the longest text, in tokens (default: 40)"
        )
    return parser


def _question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _caption(arguments: argparse.Namespace) -> int:
    return _for_each_picture(arguments, "caption", prompt=None)


def _ask(arguments: argparse.Namespace) -> int:
    question = arguments.question
    prompt = question if arguments.raw else f"Question: {question.strip()} Answer:"
    return _for_each_picture(arguments, "answer", prompt=prompt, question=question)


def _for_each_picture(arguments: argparse.Namespace, name: str, prompt: str | None, **shown: str) -> int:
    """Load the model once, then say something about every picture; a picture that fails does not stop the others."""
    say = _speaker(arguments.model, prompt, arguments.max_new_tokens)
    pictures = list(_expand(arguments.pictures))
    label = len(arguments.pictures) > 1 or Path(arguments.pictures[0]).is_dir()
    failed = False
    for number, picture in enumerate(pictures, 1):
        _progress(number, pictures)
        try:
            if isinstance(picture, ImageError):
                raise picture
            text = say(picture)
        except MinivlError as error:
            failed = True
            _complain(str(error))
            if arguments.json:
                _print(json.dumps({"picture": str(getattr(error, "picture", picture)), **shown, "error": str(error)}))
        else:
            plain = f"{_one_line(str(picture))}: {text}" if label else text
            _print(json.dumps({"picture": str(picture), **shown, name: text}) if arguments.json else plain)
    _progress(None, pictures)
    return 1 if failed else 0


def _speaker(model_name: str, prompt: str | None, max_new_tokens: int) -> Callable[[Path], str]:
    """A function from the path of a picture to one line of text."""
    from .faces.blip2 import Blip2ForConditionalGeneration
    from .processors.blip2 import Blip2Processor

    processor = Blip2Processor.from_pretrained(model_name)
    model = Blip2ForConditionalGeneration.from_pretrained(model_name)
    if model_name == "demo":
        print(TOY_NOTE, file=sys.stderr)

    def say(picture: Path) -> str:
        inputs: dict[str, Any] = processor(images=picture, text=prompt, return_tensors="np")
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens)
        return " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())

    return say


def _expand(names: Sequence[str]) -> Iterator[Path | ImageError]:
    """Folders become the pictures in them, in the order of their names."""
    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
        except OSError as error:
            inside, reason = [], error.strerror
        else:
            reason = "it holds no file called *.png, *.jpg or another kind of picture"
        if inside:
            yield from inside
        else:
            empty = ImageError(f"folder {name}: {reason}")
            empty.picture = name  # type: ignore[attr-defined]
            yield empty


def _print(line: str) -> None:
    print(line, flush=True)


def _complain(message: str) -> None:
    print(f"minivl: {_one_line(message)}", file=sys.stderr)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _progress(number: int | None, pictures: Sequence[Any]) -> None:
    """A counter that overwrites itself, where a person is watching and there is something to wait for."""
    if len(pictures) > 1 and sys.stderr.isatty():
        text = "" if number is None else f"picture {number} of {len(pictures)}"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
