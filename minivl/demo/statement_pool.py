"""What the tiny BridgeTower reads while it learns: pictures with true and false statements about them, as plain arrays.

Its tokenizer is RoBERTa's, a byte-level BPE with `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3 and a `<mask>` that takes the
blank before it along, learned from the few words of these statements: every word is one token.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, processors

from minivl.demo import pool, statements, vocabulary, world
from minivl.demo.statements import Said

LONGEST = 23  # tokens of a text, <s> and </s> included
EACH = 6  # statements about a picture; the first is its caption
MASK = "<mask>"
OTHER_WORDS = "a and the there is left right of above below"
PAD, END = 1, 2
SEVERAL = -1  # where a false statement differs from the true one in more than one word


class StatementPool(NamedTuple):
    """n pictures, what is in them (see `pool.Pool`), and EACH statements about each, true and made false."""

    pictures: np.ndarray  # (n, 64, 64, 3) uint8
    kinds: np.ndarray  # (n, 8, 3) int16
    places: np.ndarray  # (n, 8, 3) float32
    true: np.ndarray  # (n, EACH, LONGEST) int16, padded
    false: np.ndarray  # the same, one word changed
    changed: np.ndarray  # (n, EACH) int16: where that word stands, or SEVERAL
    certain: np.ndarray  # (n, EACH, LONGEST) bool: words of the true one that the picture determines


def learn_words() -> Tokenizer:
    """The tokenizer, learned from the words that statements consist of, at the beginning of a text and further on."""
    nouns = [form(shape) for shape in (*world.SHAPES, "shape") for form in (str, world.plural)]
    words = [*nouns, *world.COLOURS, *world.RADII, *world.NUMBERS, *OTHER_WORDS.split()]
    texts = words + [f" {word}" for word in words]
    tokenizer = vocabulary.bare(texts)
    tokenizer.add_special_tokens([AddedToken(MASK, lstrip=True, special=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", END), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The files of a Hub repository with a RoBERTa tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    mask = {"__type": "AddedToken", "content": MASK, "lstrip": True, "rstrip": False, "normalized": False}
    about = {
        "add_prefix_space": False, "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
        "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": {**mask, "single_word": False, "special": True},
        "errors": "replace", "model_max_length": LONGEST, "tokenizer_class": "RobertaTokenizer", "trim_offsets": True,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")


class Words:
    """Texts of the toy world to ids, a word at a time: many times faster than the tokenizer, and the same."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.known: dict[str, int] = {}

    def __call__(self, text: str) -> list[int]:
        """The ids between <s> and </s>, one for each word or comma."""
        pieces = re.findall(rf" ?{MASK}| ?\w+|,", text)
        return [self.known[piece] if piece in self.known else self._look_up(piece) for piece in pieces]

    def _look_up(self, piece: str) -> int:
        (self.known[piece],) = self.tokenizer.encode(piece, add_special_tokens=False).ids
        return self.known[piece]


def of_world(tokenizer: Tokenizer, seed: int, count: int, workers: int | None = None) -> StatementPool:
    """`count` training scenes, drawn, and statements about them."""
    size = 500
    chunks = [(seed, start, min(size, count - start)) for start in range(0, count, size)]
    with multiprocessing.get_context("fork").Pool(workers or os.cpu_count()) as hands:
        return _joined(hands.map(partial(_chunk, tokenizer.to_str()), chunks, chunksize=1))


def _joined(parts: list[StatementPool]) -> StatementPool:
    return StatementPool(*map(np.concatenate, zip(*parts, strict=True)))


def _chunk(tokenizer: str, job: tuple[int, int, int]) -> StatementPool:
    seed, start, count = job
    rng, words = random.Random(f"statements {seed} {start}"), Words(Tokenizer.from_str(tokenizer))
    shown = [world.scene("train", seed, number) for number in range(start, start + count)]
    pictures = np.stack([np.asarray(world.draw(scene)) for scene in shown])
    kinds, places = zip(*(pool.labels(scene) for scene in shown), strict=True)
    said = [_row(words, said, scene, rng) for scene in shown for said in statements.several(scene, rng, EACH)]
    arrays = [np.stack(column).reshape(count, EACH, *np.shape(column[0])) for column in zip(*said, strict=True)]
    return StatementPool(pictures, np.stack(kinds), np.stack(places), *arrays)


def _row(words: Words, said: Said, scene: world.Scene, rng: random.Random) -> list[np.ndarray]:
    """One statement's part of `true`, `false`, `changed` and `certain`."""
    true = words(statements.text(said))
    wrong = statements.falsified(said, scene, rng)
    if wrong is None:
        raise AssertionError(f"no way found to make this false: {statements.text(said)}")
    false = words(statements.text(wrong.said))
    differ = [i for i, (a, b) in enumerate(zip(true, false, strict=True), 1) if a != b]
    mask = words(MASK)[0]
    certain = np.zeros(LONGEST, bool)
    for slot in statements.determined(said, scene):
        certain[1 + words(statements.text(statements.masked(said, slot, MASK))).index(mask)] = True
    changed = np.array(differ[0] if len(differ) == 1 else SEVERAL, np.int16)
    return [padded(true), padded(false), changed, certain]


def padded(ids: list[int]) -> np.ndarray:
    """<s> ids </s> <pad> ...   (LONGEST,) int16"""
    row = np.full(LONGEST, PAD, np.int16)
    row[: len(ids) + 2] = [0, *ids, END]
    return row
