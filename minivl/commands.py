"""What each command of the command line does; a command gives its exit status. How it is called: cli.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import prompts
from .errors import ImageError, InputError, MinivlError, WeightsError
from .weights.files import DEMOS

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TOY_NOTE = "minivl: this is the demo model, trained on a toy world of coloured shapes; --model FOLDER takes a real one"
TOGETHER = 16  # pairs of text and picture that go through the model at a time


def caption(arguments: argparse.Namespace) -> int:
    """What each picture shows."""
    return _speak(arguments, "caption", lambda _: prompts.PROMPTS.get(arguments.preset, arguments.prompt))


def ask(arguments: argparse.Namespace) -> int:
    """The answer of each picture to one question."""
    question = arguments.question

    def prompt(language: str) -> str:
        preset = arguments.preset or ("vqa-t5" if language == "t5" else "vqa-opt")
        return question if arguments.raw else prompts.prompt(preset, question)

    return _speak(arguments, "answer", prompt, question=question)


def _speak(arguments: argparse.Namespace, name: str, prompt: Callable[[str], str | None], **shown: str) -> int:
    """Say something about every picture; `name` is what it is called in JSON, beside `shown`.

    prompt(model_type of the language model) is what the text goes on from.
    """
    from .faces.blip2 import Blip2ForConditionalGeneration
    from .generate import TextStreamer, cut
    from .processors.blip2 import Blip2Processor

    model = Blip2ForConditionalGeneration.from_pretrained(arguments.model)  # first: it knows the wrong family
    processor = Blip2Processor.from_pretrained(arguments.model)
    processor.tokenizer.split_special_tokens = True  # what a person types is words, whatever it looks like
    _note_toy(arguments.model)
    label = len(arguments.pictures) > 1 or os.path.isdir(arguments.pictures[0])
    beginning, settings = prompt(model.config.text_config.model_type), _settings(arguments)
    stops = tuple(settings.get("stop", ()))

    def say(picture: Path) -> None:
        inputs: dict[str, Any] = processor(images=picture, text=beginning, return_tensors="np")
        before = f"{_one_line(str(picture))}: " if label else ""
        if arguments.stream:
            words = TextStreamer(processor.tokenizer, OneLine(before).write, stop=stops)
            model.generate(**inputs, **settings, tokenizer=processor, streamer=words)
            print(flush=True)
            return
        ids = model.generate(**inputs, **settings, tokenizer=processor)
        text = _flat(cut(processor.batch_decode(ids, skip_special_tokens=True)[0], stops))
        _print(arguments, before + text, picture=str(picture), **shown, **{name: text})

    return _for_each_picture(arguments, say, **shown)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What generate() is to be told: only what was asked for."""
    names = {"beams": "num_beams", "sample": "do_sample"}
    names |= {name: name for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop")}
    values = {names[name]: value for name, value in vars(arguments).items() if name in names}
    return {name: value for name, value in values.items() if value is not None}


def _flat(text: str) -> str:
    """The words with one blank between them, on one line."""
    return " ".join(text.split())


class OneLine:
    """Prints pieces of a text so that, together, they are `_flat` of the whole."""

    def __init__(self, before: str):
        self.text, self.shown = "", 0
        print(before, end="", flush=True)

    def write(self, piece: str) -> None:
        self.text += piece
        flat = _flat(self.text)
        print(flat[self.shown :], end="", flush=True)
        self.shown = len(flat)


def match(arguments: argparse.Namespace) -> int:
    """How probable it is that each text fits the picture, the best first."""
    processor, model = _bridgetower(arguments, "BridgeTowerForImageAndTextRetrieval")
    texts, picture = arguments.texts, Path(arguments.picture)
    pixels = processor.image_processor(picture, return_tensors="np").pixel_values
    scores = np.concatenate(
        [_matching(processor, model, batch, np.repeat(pixels, len(batch), 0)) for batch in _batches(texts)]
    )
    for i in np.argsort(-scores, kind="stable"):
        plain = f"{scores[i]:.3f}  {_one_line(texts[i])}"
        _print(arguments, plain, picture=str(picture), text=texts[i], score=round(float(scores[i]), 6))
    return 0


def rank(arguments: argparse.Namespace) -> int:
    """The pictures in the order in which they fit the text: by their vectors, and the best by a closer look."""
    processor, model = _bridgetower(arguments, "BridgeTowerForMatchingAndContrast")
    text, words = arguments.text, processor.tokenizer(arguments.text, return_tensors="np")
    wanted = model.get_text_features(**words)[0]
    found: list[tuple[float, Path, np.ndarray]] = []

    def look(picture: Path) -> None:
        pixels = processor.image_processor(picture, return_tensors="np").pixel_values
        found.append((float(model.get_image_features(pixels)[0] @ wanted), picture, pixels))

    status = _for_each_picture(arguments, look, text=text)
    found.sort(key=lambda one: -one[0])
    best, rest = found[: arguments.best], found[arguments.best :]
    scores: list[float] = []
    for batch in _batches(best):
        scores += _matching(processor, model, [text] * len(batch), np.concatenate([p for _, _, p in batch])).tolist()
    for i in np.argsort(-np.array(scores), kind="stable"):
        similarity, picture, _ = best[i]
        plain = f"{scores[i]:.3f}  {_one_line(str(picture))}"
        _print(arguments, plain, text=text, picture=str(picture), score=round(scores[i], 6), similarity=similarity)
    for similarity, picture, _ in rest:  # these were not looked at closely
        plain = f"    -  {_one_line(str(picture))}"
        _print(arguments, plain, text=text, picture=str(picture), score=None, similarity=similarity)
    return status


def fill(arguments: argparse.Namespace) -> int:
    """The words that fit best at each <mask>, with their probabilities."""
    processor, model = _bridgetower(arguments, "BridgeTowerForMaskedLM")
    text, picture = arguments.text, Path(arguments.picture)
    mask, added = processor.tokenizer.mask_token, processor.tokenizer.backend.get_added_tokens_decoder().values()
    if control := [token.content for token in added if token.content != mask and token.content in text]:
        raise InputError(f"text: wanted words and {mask}, found the control token {control[0]!r}")
    processor.tokenizer.split_special_tokens = False  # of the mask's name the token is meant
    inputs = processor(picture, text, return_tensors="np")
    logits = _numbers(model(**inputs).logits[0])  # (T, V)
    masks = np.flatnonzero(inputs.input_ids[0] == processor.tokenizer.mask_token_id)
    for number, place in enumerate(masks, 1):
        probability = model.ops.softmax(logits[place].astype(np.float64))
        order = np.argsort(-probability, kind="stable")[: arguments.words]
        words = [(processor.decode([int(i)]).strip(), float(probability[i])) for i in order]
        if not arguments.json and len(masks) > 1:
            print(f"<mask> {number}", flush=True)
        if arguments.json:
            listed = [{"word": word, "probability": round(p, 6)} for word, p in words]
            _print(arguments, "", picture=str(picture), text=text, mask=number, words=listed)
        else:
            for word, p in words:
                _print(arguments, f"{p:.3f}  {word}")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """What a checkpoint consists of, and the memory that it will take."""
    from . import summary

    found = summary.inspect(arguments.model)
    if arguments.json:
        _print(arguments, "", **found)
        return 0
    for name, part in found["parts"].items():
        kept = ", ".join(f"{_size(n)} of {dtype}" for dtype, n in sorted(part["bytes"].items()))
        print(f"{name:20}{part['parameters']:>16,} parameters  {kept}".rstrip())
    print(f"{'together':20}{sum(part['parameters'] for part in found['parts'].values()):>16,} parameters")
    print("peak memory of one picture, about:")
    for mode, n in found["peak"].items():
        print(f"  {mode:18}{_size(n):>16}")
    return 0


def _size(n: int) -> str:
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if n >= pair[0]), (1e3, "kB"))
    return f"{n / unit:.2f} {name}"


def _bridgetower(arguments: argparse.Namespace, name: str) -> tuple[Any, Any]:
    """The processor and a model of one of the classes of faces/bridgetower.py."""
    from .faces import bridgetower
    from .processors.bridgetower import BridgeTowerProcessor

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            model = getattr(bridgetower, name).from_pretrained(arguments.model)  # first: it knows the wrong family
        except UserWarning as random_head:  # which may be trained in Python, and has no answers here
            raise WeightsError(f"{random_head}: wanted a checkpoint with that head") from None
    processor = BridgeTowerProcessor.from_pretrained(arguments.model)
    processor.tokenizer.split_special_tokens = True  # what a person types is words, whatever it looks like
    _note_toy(arguments.model)
    return processor, model


def _matching(processor: Any, model: Any, texts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """The probability that each text fits its picture, (B,)."""
    words = processor.tokenizer(list(texts), padding=True, return_tensors="np")
    output = model(**words, pixel_values=pixels)
    logits = output.logits if hasattr(output, "logits") else output.matching.logits
    return model.ops.softmax(_numbers(logits).astype(np.float64))[:, 1]


def _numbers(logits: np.ndarray) -> np.ndarray:
    """The same logits; InputError where a model's weights have driven them out of what numbers can hold."""
    if not np.isfinite(logits).all():
        raise InputError("the model's scores are not all numbers: its weights are too large, or no model's")
    return logits


def _batches(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), TOGETHER):
        yield things[start : start + TOGETHER]


def _for_each_picture(arguments: argparse.Namespace, do: Callable[[Path], None], **shown: str) -> int:
    """do(picture) for every picture that was named; one that fails is reported and does not stop the others."""
    pictures = list(_expand(arguments.pictures))
    failed = False
    for number, picture in enumerate(pictures, 1):
        _progress(number, pictures)
        try:
            if isinstance(picture, EmptyFolder):
                raise picture
            do(picture)
        except MinivlError as error:
            failed = True
            complain(str(error))
            if arguments.json:
                named = picture.folder if isinstance(picture, EmptyFolder) else picture
                _print(arguments, "", picture=str(named), **shown, error=str(error))
    _progress(None, pictures)
    return 1 if failed else 0


class EmptyFolder(ImageError):
    """A folder without a picture in it."""

    def __init__(self, folder: str, reason: str):
        super().__init__(f"folder {folder}: {reason}")
        self.folder = folder


def _expand(names: Sequence[str]) -> Iterator[Path | EmptyFolder]:
    """Folders become the pictures in them, in the order of their names."""
    for name in names:
        path = Path(name)
        if not os.path.isdir(name):  # Path's own raises for a name that is too long for the system
            yield path
            continue
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
        except OSError as error:
            yield EmptyFolder(name, str(error.strerror))
            continue
        if inside:
            yield from inside
        else:
            yield EmptyFolder(name, "it holds no file called *.png, *.jpg or another kind of picture")


def _note_toy(model: str) -> None:
    if model in DEMOS:
        print(TOY_NOTE, file=sys.stderr)


def _print(arguments: argparse.Namespace, plain: str, **fields: Any) -> None:
    """One line of the answer, at once: somebody may be reading along."""
    print(json.dumps(fields) if arguments.json else plain, flush=True)


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"minivl: {_one_line(message)}", file=sys.stderr)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _progress(number: int | None, pictures: Sequence[Any]) -> None:
    """A counter that overwrites itself, where a person is watching and there is something to wait for."""
    if len(pictures) > 1 and sys.stderr.isatty():
        text = "" if number is None else f"picture {number} of {len(pictures)}"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
