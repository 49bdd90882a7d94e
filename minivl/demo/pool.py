"""What training reads: many pictures, what is in them, and what can be said about them, as plain arrays.

The pictures are drawn once, by all cores, from a seed. easy-VQA's training pictures join them with its questions.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from minivl.demo import questions, world
from minivl.demo.vocabulary import PAD

LONGEST = 22  # tokens of a text
COLOURS = tuple(world.COLOURS)
SIZES = tuple(world.RADII)
NOTHING = len(world.SHAPES)  # the shape of an empty place
PLACES = 2 * world.MOST
UNKNOWN = -100  # cross-entropy's "do not ask"


class Pool(NamedTuple):
    """n pictures with up to four things each, and m texts; the texts of picture i are rows first[i] to first[i + 1].

    Eight places hold the things of a picture: the first four from left to right, the last four from top to bottom.
    """

    pictures: np.ndarray  # (n, 64, 64, 3) uint8
    kinds: np.ndarray  # (n, 8, 3) int16: shape, colour, size; an empty place has shape NOTHING, UNKNOWN if nobody says
    places: np.ndarray  # (n, 8, 3) float32: x, y, radius in pixels
    tokens: np.ndarray  # (m, LONGEST) int16, padded
    prompt: np.ndarray  # (m,) int16: tokens before the answer, at least the one that begins every text
    first: np.ndarray  # (n + 1,) int64

    @property
    def owner(self) -> np.ndarray:
        """The picture of each text, (m,)."""
        return np.repeat(np.arange(len(self.pictures)), np.diff(self.first))


def of_world(tokenizer: Tokenizer, seed: int, count: int, most: int = world.MOST, workers: int | None = None) -> Pool:
    """`count` training scenes and what can be said about them."""
    size = 2000
    chunks = [(seed, start, min(size, count - start), most) for start in range(0, count, size)]
    with multiprocessing.get_context("fork").Pool(workers or os.cpu_count()) as hands:
        return join(hands.map(partial(_chunk, tokenizer.to_str()), chunks))


def join(pools: list[Pool]) -> Pool:
    """One pool of all these pictures, in order."""
    starts = np.cumsum([0] + [len(pool.tokens) for pool in pools])
    first = [pool.first[:-1] + start for pool, start in zip(pools, starts, strict=False)]
    arrays = {name: np.concatenate([getattr(pool, name) for pool in pools]) for name in Pool._fields[:-1]}
    return Pool(**arrays, first=np.concatenate([*first, starts[-1:]]))


def _chunk(tokenizer: str, job: tuple[int, int, int, int]) -> Pool:
    seed, start, count, most = job
    rng = random.Random(f"texts {seed} {start}")
    shown = [world.scene("train", seed, number, most) for number in range(start, start + count)]
    pictures = np.stack([np.asarray(world.draw(scene)) for scene in shown])
    kinds, places = zip(*(labels(scene) for scene in shown), strict=True)
    texts = [_said(scene, rng) for scene in shown]
    return Pool(pictures, np.stack(kinds), np.stack(places), *tokenize(Tokenizer.from_str(tokenizer), texts))


def labels(scene: world.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Pool.kinds and Pool.places of one picture."""
    kinds = np.full((PLACES, 3), UNKNOWN, np.int16)
    kinds[:, 0] = NOTHING
    places = np.zeros((PLACES, 3), np.float32)
    for start, things in ((0, scene.things), (world.MOST, sorted(scene.things, key=lambda t: t.y))):
        for i, t in enumerate(things, start):
            kinds[i] = world.SHAPES.index(t.shape), COLOURS.index(t.colour), SIZES.index(t.size)
            places[i] = t.x, t.y, t.radius
    return kinds, places


def _said(scene: world.Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Pairs of prompt and answer; a caption's prompt is empty."""
    asked = [questions.ask(scene, kind, rng) for kind in questions.KINDS for _ in range(2)]
    pairs = {(questions.prompt(each[0]), f" {each[1]}") for each in asked if each}
    return [("", world.caption(scene)), *sorted(pairs)]


def tokenize(tokenizer: Tokenizer, said: list[list[tuple[str, str]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pool.tokens, Pool.prompt and Pool.first of these texts; each ends with a line break."""
    ids = cache(lambda text, begins: tokenizer.encode(text, add_special_tokens=begins).ids)
    pairs = [(ids(prompt, True), ids(answer, False)) for texts in said for prompt, answer in texts]
    (line_break,) = ids("\n", False)
    tokens = np.full((len(pairs), LONGEST), PAD, np.int16)
    for row, (prompt, answer) in zip(tokens, pairs, strict=True):
        row[: len(prompt) + len(answer) + 1] = [*prompt, *answer, line_break]
    prompts = np.array([len(prompt) for prompt, _ in pairs], np.int16)
    return tokens, prompts, np.cumsum([0] + [len(texts) for texts in said])


def of_easy_vqa(tokenizer: Tokenizer) -> Pool:
    """easy-VQA's training pictures and questions (pip install easy-vqa); what is in them is known from the answers."""
    import easy_vqa
    from PIL import Image

    paths = easy_vqa.get_train_image_paths()
    pictures = np.stack([np.asarray(Image.open(paths[i]).convert("RGB")) for i in range(len(paths))])
    kinds = np.full((len(paths), PLACES, 3), UNKNOWN, np.int16)
    kinds[:, [i for i in range(PLACES) if i % world.MOST], 0] = NOTHING  # one thing in every picture
    said: list[list[tuple[str, str]]] = [[] for _ in paths]
    for question, answer, i in zip(*easy_vqa.get_train_questions(), strict=True):
        said[i].append((questions.prompt(question), f" {answer}"))
        if answer in world.SHAPES:
            kinds[i, :: world.MOST, 0] = world.SHAPES.index(answer)
        elif answer in COLOURS:
            kinds[i, :: world.MOST, 1] = COLOURS.index(answer)
    places = np.zeros((len(paths), PLACES, 3), np.float32)  # radius 0: nobody says where
    return Pool(pictures, kinds, places, *tokenize(tokenizer, said))
