"""minivl step: watch a model look at a picture, in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import count, note_toy, words
from ..disk import show
from ..errors import InputError

if TYPE_CHECKING:
    from ..player.record import AttentionTrace


def options(parser: argparse.ArgumentParser) -> None:
    """What `minivl step` takes."""
    add = parser.add_argument
    add("picture", metavar="PICTURE")
    about = "what BLIP-2 is asked (default: it says what it sees)"
    add("question", nargs="?", type=words, metavar="QUESTION", help=about)
    add("--raw", action="store_true", help="take the question as the whole prompt, as it is")
    add("--text", type=words, metavar="TEXT", help="a text to be read with the picture, by a BridgeTower")
    about = "a folder in the Hub's layout, or an id on the Hub (default: demo, with --text demo-bridgetower)"
    add("--model", metavar="FOLDER", help=about)
    add("--out", type=Path, metavar="FILE.html", help="the page (default: the picture's name and .html, here)")
    add("--max-new-tokens", type=count, default=20, metavar="N", help="the longest text, in tokens (default: 20)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    if arguments.text is not None and arguments.question is not None:
        raise InputError("a question is for BLIP-2 and --text for BridgeTower: give one of the two")
    if arguments.raw and arguments.question is None:
        raise InputError("--raw takes a question as it is: give one")
    out = arguments.out or Path(Path(arguments.picture).stem + ".html")
    if not out.parent.is_dir() or out.is_dir():  # said before the model has worked
        raise InputError(f"--out {show(out)}: wanted a file in a folder that is there")
    model = arguments.model or ("demo" if arguments.text is None else "demo-bridgetower")
    record = _read(arguments, model) if arguments.text is not None else _write(arguments, model)
    note_toy(model)
    record.save(out)
    print(f"{out}: {record.text!r}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser", flush=True)
    return 0


def _write(arguments: argparse.Namespace, name: str) -> AttentionTrace:
    """BLIP-2 says something about the picture."""
    from .. import prompts
    from ..api.blip2 import Blip2ForConditionalGeneration
    from ..processors.blip2 import Blip2Processor

    model = Blip2ForConditionalGeneration.from_pretrained(name)
    processor = Blip2Processor.from_pretrained(name)
    text = arguments.question
    if text is not None and not arguments.raw:
        preset = "vqa-t5" if model.config.text_config.model_type == "t5" else "vqa-opt"
        text = prompts.prompt(preset, text)
    inputs: dict[str, Any] = processor(images=Path(arguments.picture), text=text, return_tensors="np")
    return model.trace(**inputs, tokenizer=processor, max_new_tokens=arguments.max_new_tokens)


def _read(arguments: argparse.Namespace, name: str) -> AttentionTrace:
    """BridgeTower compares text and picture, or fills in what the text masks."""
    from ..api.bridgetower import BridgeTowerForImageAndTextRetrieval, BridgeTowerForMaskedLM
    from ..processors.bridgetower import BridgeTowerProcessor

    face = BridgeTowerForMaskedLM if "<mask>" in arguments.text else BridgeTowerForImageAndTextRetrieval
    model = face.from_pretrained(name)
    processor = BridgeTowerProcessor.from_pretrained(name)
    inputs: dict[str, Any] = processor(Path(arguments.picture), arguments.text, return_tensors="np")
    return model.trace(**inputs, tokenizer=processor)
