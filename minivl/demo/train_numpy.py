"""Train a newborn BLIP-2 or BridgeTower of the demo's shape in NumPy alone, forwards, backwards and AdamW:

    python -m minivl.demo.train_numpy blip2 --steps 100
    python -m minivl.demo.train_numpy bridgetower

What runs are the classes and the model functions that everybody else calls. Only their arrays are others, ones that
remember what they were computed from (minivl/ops/tape.py), so that the loss finds the way back to every weight by the
hand-derived formulas of minivl/ops/backward.py.

This is for reading and for looking into: a few minutes teach which words there are and which follows which, not more.
What the embedded models know they learned from train.py and train_bridgetower.py.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minivl.api.blip2 import Blip2ForConditionalGeneration
from minivl.api.bridgetower import BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast
from minivl.demo import world
from minivl.ops import tape
from minivl.processors.blip2 import Blip2Processor
from minivl.processors.bridgetower import BridgeTowerProcessor
from minivl.weights import places, tree

Batch = tuple[list[Image.Image], list[str]]  # pictures and their captions


class AdamW:
    """Steps down the gradient, about equally long for every number whatever the size of its gradient.

        m ← β₁ m + (1 - β₁) g          the direction, averaged over the last steps
        v ← β₂ v + (1 - β₂) g²         how large g is, likewise
        w ← w - rate · (m̂ / (√v̂ + ε) + decay · w)          m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)

    m and v start at 0; the hats make up for that. A weight that the loss does not reach stays as it is.
    Source: Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(self, weights: list[tape.Array], betas: tuple[float, float] = (0.9, 0.98), decay: float = 0.01):
        self.weights, self.betas, self.decay, self.epsilon = weights, betas, decay, 1e-8
        self.m = [np.zeros_like(w.value) for w in weights]
        self.v = [np.zeros_like(w.value) for w in weights]
        self.steps = 0

    def step(self, rate: float) -> None:
        """Move every weight by its gradient, and forget the gradient."""
        self.steps += 1
        beta1, beta2 = self.betas
        for w, m, v in zip(self.weights, self.m, self.v, strict=True):
            if w.grad is None:
                continue
            m += (1 - beta1) * (w.grad - m)
            v += (1 - beta2) * (w.grad * w.grad - v)
            size = np.sqrt(v / (1 - beta2**self.steps)) + self.epsilon
            w.value = w.value - rate * (m / (1 - beta1**self.steps) / size + self.decay * w.value)
            w.grad = None


class Blip2Student:
    """Learns to say what is in a picture: each word of its caption from the picture and the words before it."""

    def __init__(self, folder: Path, seed: int):
        self.processor = Blip2Processor.from_pretrained(folder)
        config = Blip2ForConditionalGeneration.config_class.from_pretrained(folder)
        self.params = newborn(Blip2ForConditionalGeneration.table(config), seed)
        self.model: Any = Blip2ForConditionalGeneration(config, ops=tape.OPS, params=self.params)

    def loss(self, batch: Batch, rng: random.Random) -> tape.Array:
        pictures, captions = batch
        texts = [f"{caption}\n" for caption in captions]
        inputs = self.processor(images=pictures, text=texts, padding=True, return_tensors="np")
        asked = inputs["attention_mask"].cumsum(1) > 1  # neither padding, which is on the left, nor the BOS behind it
        words = np.where(asked, inputs["input_ids"], -100)
        return self.model(**inputs, labels=words).loss


class BridgeTowerStudent:
    """Learns which word was masked, whether a caption belongs to a picture, and which caption to which picture."""

    def __init__(self, folder: Path, seed: int):
        self.processor = BridgeTowerProcessor.from_pretrained(folder)
        config = BridgeTowerForMaskedLM.config_class.from_pretrained(folder)
        one_has, other_has = (newborn(each.table(config), seed) for each in MODELS)
        self.params = {**other_has, **one_has}  # one trunk, and the heads of both classes
        self.fill, self.compare = (each(config, ops=tape.OPS, params=self.params) for each in MODELS)

    def loss(self, batch: Batch, rng: random.Random) -> tape.Array:
        pictures, captions = batch
        true, masked, false = (
            self.processor(pictures, texts, padding=True, return_tensors="np")
            for texts in (captions, [hide_a_word(caption, rng) for caption in captions], captions[1:] + captions[:1])
        )
        hidden = masked["input_ids"] != true["input_ids"]
        filled = self.fill(**masked, labels=np.where(hidden, true["input_ids"], -100)).loss
        ones = np.ones(len(captions), int)
        found = self.compare(**true, labels=ones, return_loss=True).loss
        return filled + found + self.compare(**false, labels=0 * ones).loss


MODELS = BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast
STUDENTS: dict[str, type[Blip2Student] | type[BridgeTowerStudent]] = {
    "blip2": Blip2Student,
    "bridgetower": BridgeTowerStudent,
}
FOLDERS = {"blip2": "demo", "bridgetower": "demo-bridgetower"}


def hide_a_word(caption: str, rng: random.Random) -> str:
    """a red ring -> a<mask> ring; a comma behind the word stays"""
    words = caption.split(" ")
    place = rng.randrange(1, len(words))
    words[place] = "<mask>" + "," * words[place].endswith(",")
    return " ".join(words)


def newborn(table: tree.Table, seed: int) -> dict[str, Any]:
    """Random weights that remember."""
    return tree.map_leaves(tape.Array, tree.random(table, np.random.default_rng(seed), std=0.04))


def lessons(seed: int, size: int) -> Callable[[], Batch]:
    """A function that gives new pictures and their captions every time."""
    scenes = world.scenes("train", seed)

    def batch() -> Batch:
        shown = [next(scenes) for _ in range(size)]
        return [world.draw(scene) for scene in shown], [world.caption(scene) for scene in shown]

    return batch


def learn(student: Blip2Student | BridgeTowerStudent, batch: Callable[[], Batch], steps: int, rate: float) -> list:
    """Take steps down the loss, the first ones short; the losses on the way."""
    weights: list[tape.Array] = []
    tree.map_leaves(weights.append, student.params)
    optimizer, rng, losses, started = AdamW(weights), random.Random(0), [], time.time()
    for step in range(1, steps + 1):
        loss = student.loss(batch(), rng)
        loss.backward()
        optimizer.step(rate * min(1, step / 20))
        losses.append(float(loss.value))
        if step % 10 == 0 or step in (1, steps):
            print(f"step {step}/{steps}  {time.time() - started:.0f} s  loss {np.mean(losses[-10:]):.3f}", flush=True)
    return losses


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].rstrip(":"))
    parser.add_argument("model", choices=STUDENTS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="pictures in a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    plan = parser.parse_args(argv)
    student = STUDENTS[plan.model](places.find(FOLDERS[plan.model]), plan.seed)
    learn(student, lessons(plan.seed, plan.batch), plan.steps, plan.rate)


if __name__ == "__main__":
    main()
