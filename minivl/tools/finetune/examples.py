"""One's own pictures and what should be said about them: read with suspicion, and put into batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from ...disk import parse_json, show
from ...errors import InputError
from ...processors.blip2 import Blip2Processor
from ...processors.picture_files import open_picture

IGNORED = -100  # a label that does not count
MOST_BYTES = 2**16  # of one line


class Example(NamedTuple):
    """A picture, how the text begins (given, not learned), and how it goes on."""

    picture: Path
    prompt: list[int]
    text: list[int]


def read(lines: Path, folder: Path, processor: Blip2Processor, config: Any) -> list[Example]:
    """The examples of a JSON Lines file, and a look at every picture.

    A line is {"file_name": "dog.jpg", "text": "a brown dog"}, perhaps with "prompt": "Question: what is it? Answer:".
    InputError or ImageError naming the line, or the picture, that is no use.
    """
    try:
        with lines.open("rb") as file:
            found = [_example(line, f"{show(lines)}, line {number}", folder, processor, config)
                     for number, line in enumerate(file, 1) if line.strip()]  # fmt: skip
    except OSError as problem:
        raise InputError(
            f"{show(lines)}: wanted a file with one JSON object a line, found {problem.strerror}"
        ) from None
    if not found:
        raise InputError(f"{show(lines)}: wanted one JSON object a line, found an empty file")
    for picture in {example.picture for example in found}:
        open_picture(picture)
    return found


def _example(line: bytes, where: str, folder: Path, processor: Blip2Processor, config: Any) -> Example:
    if len(line) > MOST_BYTES:
        raise InputError(f"{where}: wanted at most {MOST_BYTES} bytes, found {len(line)}")
    values = parse_json(line, where, InputError)
    for name in ("file_name", "text"):
        if not isinstance(values.get(name), str) or not values[name].strip():
            raise InputError(f'{where}: wanted "{name}" with some text, found {show(values.get(name))}')
    prompt = values.get("prompt", "")
    if not isinstance(prompt, str):
        raise InputError(f'{where}: wanted "prompt" with a text, found {show(prompt)}')
    inside = PurePath(values["file_name"])
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"{where}: wanted a picture inside {show(folder)}, found {show(values['file_name'])}")
    given, said = _words(processor.tokenizer, prompt.strip(), values["text"].strip(), config.text_config)
    room = getattr(config.text_config, "max_position_embeddings", None)  # T5 has no end
    length = config.num_query_tokens + len(given) + len(said)
    if room is not None and length > room:
        raise InputError(
            f"{where}: picture, prompt and text are {length} tokens, the language model has room for {room}"
        )
    return Example(folder / inside, given, said)


def _words(tokenizer: Any, prompt: str, text: str, config: Any) -> tuple[list[int], list[int]]:
    """Ids of the prompt, as generate() is given them, and of what it should go on with, its end included."""
    given = list(tokenizer(prompt)["input_ids"])
    if config.model_type == "t5":
        return given, list(tokenizer(text)["input_ids"])
    said = list(tokenizer(f" {text}" if prompt else text, add_special_tokens=False)["input_ids"])
    end = config.eos_token_id
    if end is None:
        raise InputError("text_config.eos_token_id is null: fine-tuning needs it to teach where a text ends")
    return given, said + [end if isinstance(end, int) else end[0]]


def batch(examples: list[Example], processor: Blip2Processor, config: Any) -> dict[str, np.ndarray]:
    """What the model is called with: pixels, ids, mask and labels, padded on the right.

    OPT reads prompt and text as one, and the prompt's labels do not count; T5 reads the prompt, its decoder the labels.
    """
    pixels = processor.image_processor([example.picture for example in examples], return_tensors="np").pixel_values
    if config.text_config.model_type == "t5":
        read = [example.prompt for example in examples]
        labels = [example.text for example in examples]
    else:
        read = [example.prompt + example.text for example in examples]
        labels = [[IGNORED] * len(example.prompt) + example.text for example in examples]
    mask = _padded([[1] * len(row) for row in read], 0)
    filler = config.text_config.pad_token_id or 0
    return {
        "pixel_values": pixels,
        "input_ids": _padded(read, filler),
        "attention_mask": mask,
        "labels": _padded(labels, IGNORED),
    }


def _padded(rows: list[list[int]], filler: int) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([row + [filler] * (width - len(row)) for row in rows])


def order(count: int, size: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Which examples each step takes: all of them once in every epoch, shuffled by the seed and the epoch alone."""
    for epoch in range(epochs):
        shuffled = np.random.default_rng([seed, epoch]).permutation(count)
        yield from (shuffled[start : start + size] for start in range(0, count, size))


def digest(path: str | os.PathLike[str]) -> str:
    """A short name for the bytes of a file."""
    import hashlib

    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
