"""What each command of the command line does; a command gives its exit status. How it is called: cli.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .console import answer, complain, note_toy, one_line, progress
from .errors import InputError, MinivlError
from .ops.plain import softmax
from .pipelines import WEIGHTS, ImageTextMatching, ImageToText, flat, numbers, stops
from .processors.picture_files import EmptyFolder, expand

TOGETHER = 16  # pairs of text and picture that go through the model at a time


def caption(arguments: argparse.Namespace) -> int:
    """What each picture shows."""
    return _write(arguments, "caption")


def ask(arguments: argparse.Namespace) -> int:
    """The answer of each picture to one question."""
    return _write(arguments, "answer", question=arguments.question)


def prompt(arguments: argparse.Namespace, language: str, question: str | None) -> str | None:
    """What a caption, or the answer to a question, goes on from; `language` is model_type of the language model."""
    if question is None and not arguments.preset:
        return arguments.prompt
    from . import prompts

    if question is None:
        return prompts.PROMPTS[arguments.preset]
    preset = arguments.preset or ("vqa-t5" if language == "t5" else "vqa-opt")
    return question if arguments.raw else prompts.prompt(preset, question)


def _write(arguments: argparse.Namespace, name: str, **shown: str) -> int:
    """Say something about every picture; `name` is what it is called in JSON, beside `shown`."""
    writer, settings = ImageToText(arguments.model, **loading(arguments)), generate_settings(arguments)
    note_toy(arguments.model)
    label = len(arguments.pictures) > 1 or os.path.isdir(arguments.pictures[0])
    beginning = [prompt(arguments, writer.language, shown.get("question"))]

    def say(picture: Path) -> None:
        pixels = writer.look(picture)[None]
        before = f"{one_line(str(picture))}: " if label else ""
        if arguments.stream:
            from .generate.streamer import TextStreamer

            words = TextStreamer(writer.processor.tokenizer, OneLine(before).write, stop=stops(settings))
            writer.ids(pixels, beginning, **settings, streamer=words)
            print(flush=True)
            return
        text = writer.say(pixels, beginning, **settings)[0]
        answer(arguments, before + text, picture=str(picture), **shown, **{name: text})

    return _for_each_picture(arguments, say, **shown)


def generate_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What generate() is to be told: only what was asked for."""
    names = {"beams": "num_beams", "sample": "do_sample"}
    names |= {name: name for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop")}
    values = {names[name]: value for name, value in vars(arguments).items() if name in names}
    return {name: value for name, value in values.items() if value is not None}


def loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """What from_pretrained is to be told."""
    return {"backend": arguments.backend, **WEIGHTS[arguments.dtype]}


class OneLine:
    """Prints pieces of a text so that, together, they are `flat` of the whole."""

    def __init__(self, before: str):
        self.text, self.shown = "", 0
        print(before, end="", flush=True)

    def write(self, piece: str) -> None:
        self.text += piece
        shown = flat(self.text)
        print(shown[self.shown :], end="", flush=True)
        self.shown = len(shown)


def match(arguments: argparse.Namespace) -> int:
    """How probable it is that each text fits the picture, the best first."""
    matcher = _matcher(arguments, "BridgeTowerForImageAndTextRetrieval")
    texts, picture = arguments.texts, Path(arguments.picture)
    pixels = matcher.look(picture)[None]
    scores = np.concatenate([matcher.match(batch, np.repeat(pixels, len(batch), 0)) for batch in _batches(texts)])
    for i in np.argsort(-scores, kind="stable"):
        plain = f"{scores[i]:.3f}  {one_line(texts[i])}"
        answer(arguments, plain, picture=str(picture), text=texts[i], score=round(float(scores[i]), 6))
    return 0


def rank(arguments: argparse.Namespace) -> int:
    """The pictures in the order in which they fit the text: by their vectors, and the best by a closer look."""
    matcher = _matcher(arguments, "BridgeTowerForMatchingAndContrast")
    near, text = matcher.finder(arguments.text), arguments.text
    found: list[tuple[float, Path]] = []  # without pixels: there may be many

    def look(picture: Path) -> None:
        found.append((float(near(matcher.look(picture)[None])[0]), picture))

    status = _for_each_picture(arguments, look, text=text)
    found.sort(key=lambda one: -one[0])
    best, rest = found[: arguments.best], found[arguments.best :]
    show_ranking(arguments, matcher, [(similarity, str(p), matcher.look(p)) for similarity, p in best])
    for similarity, picture in rest:  # these were not looked at closely
        plain = f"    -  {one_line(str(picture))}"
        answer(arguments, plain, text=text, picture=str(picture), score=None, similarity=similarity)
    return status


Ranked = tuple[float, str, np.ndarray]  # how near a picture's vector is to the text's, its name, its pixels


def show_ranking(arguments: argparse.Namespace, matcher: ImageTextMatching, best: list[Ranked]) -> None:
    """Look at pictures and text together, and print the pictures, the best first."""
    scores: list[float] = []
    for batch in _batches(best):
        scores += matcher.match([arguments.text] * len(batch), np.stack([pixels for _, _, pixels in batch])).tolist()
    for i in np.argsort(-np.array(scores), kind="stable"):
        similarity, name, _ = best[i]
        fields = {"text": arguments.text, "picture": name, "score": round(scores[i], 6), "similarity": similarity}
        answer(arguments, f"{scores[i]:.3f}  {one_line(name)}", **fields)


def fill(arguments: argparse.Namespace) -> int:
    """The words that fit best at each <mask>, with their probabilities."""
    matcher = _matcher(arguments, "BridgeTowerForMaskedLM")
    processor, model = matcher.processor, matcher.model
    text, picture = arguments.text, Path(arguments.picture)
    mask, added = processor.tokenizer.mask_token, processor.tokenizer.backend.get_added_tokens_decoder().values()
    if control := [token.content for token in added if token.content != mask and token.content in text]:
        raise InputError(f"text: wanted words and {mask}, found the control token {control[0]!r}")
    processor.tokenizer.split_special_tokens = False  # of the mask's name the token is meant
    inputs = processor(picture, text, return_tensors="np")
    logits = numbers(model(**inputs).logits)[0]  # (T, V)
    masks = np.flatnonzero(inputs.input_ids[0] == processor.tokenizer.mask_token_id)
    for number, place in enumerate(masks, 1):
        probability = softmax(logits[place].astype(np.float64))
        order = np.argsort(-probability, kind="stable")[: arguments.words]
        words = [(processor.decode([int(i)]).strip(), float(probability[i])) for i in order]
        if not arguments.json and len(masks) > 1:
            print(f"<mask> {number}", flush=True)
        if arguments.json:
            listed = [{"word": word, "probability": round(p, 6)} for word, p in words]
            answer(arguments, "", picture=str(picture), text=text, mask=number, words=listed)
        else:
            for word, p in words:
                answer(arguments, f"{p:.3f}  {word}")
    return 0


def _matcher(arguments: argparse.Namespace, kind: str) -> ImageTextMatching:
    matcher = ImageTextMatching(arguments.model, kind, **loading(arguments))
    note_toy(arguments.model)
    return matcher


def _batches(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), TOGETHER):
        yield things[start : start + TOGETHER]


def _for_each_picture(arguments: argparse.Namespace, do: Callable[[Path], None], **shown: str) -> int:
    """do(picture) for every picture that was named; one that fails is reported and does not stop the others."""
    pictures = list(expand(arguments.pictures))
    failed = False
    for number, picture in enumerate(pictures, 1):
        progress(number, pictures)
        try:
            if isinstance(picture, EmptyFolder):
                raise picture
            do(picture)
        except MinivlError as error:
            failed = True
            complain(str(error))
            if arguments.json:
                named = picture.folder if isinstance(picture, EmptyFolder) else picture
                answer(arguments, "", picture=str(named), **shown, error=str(error))
    progress(None, pictures)
    return 1 if failed else 0
