"""Train the embedded tiny BLIP-2 in the toy world, in about an hour on two cores:

    python -m minivl.demo.train --out minivl/demo/blip2 --checkpoints ../demo-checkpoints

BLIP-2 is trained in stages, and so is this one, with a short cut that only a made-up world allows (see losses.py):

    1. the eyes (ViT, Q-Former, projection) learn to turn pixels into the right soft words;     two processes,
       the voice (OPT) learns to describe and to answer from the right soft words, blurred;     at the same time
    2. together: pixels in, words out, one loss through everything.

Every step runs on bfloat16 copies of float32 weights. Each process uses one thread, so that a second run gives the same
bytes. Needs the extras `torch` and `test` (for easy-VQA).

`--backend triton` takes the same steps through our own kernels, forwards and backwards, on a GPU. That has been run in
Triton's interpreter only, a step at a time, and never on a GPU.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from minivl.config.blip2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig
from minivl.demo import losses, pool, vocabulary, world
from minivl.demo.learning import BACKENDS, kept, seated
from minivl.demo.losses import PATCH, WIDTH, Student
from minivl.processors.image_processor import BlipImageProcessor
from minivl.weights import files, names, tree

EYES = ("vision", "qformer", "queries", "projection")  # our names of the parts
VOICE = ("language",)
BLUR = 0.05
TEXTS = 4  # of each picture in a step


def configuration(words: int, line_break: int) -> Blip2Config:
    """The model's shape: a BLIP-2 in every respect but size."""
    width, heads = WIDTH, 4
    vision = Blip2VisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=4, num_attention_heads=heads,
        image_size=world.SIDE, patch_size=PATCH,
    )  # fmt: skip
    queries = Blip2QFormerConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=3, num_attention_heads=heads,
        cross_attention_frequency=1, vocab_size=words,
    )  # fmt: skip
    text = OPTConfig(
        hidden_size=width, ffn_dim=4 * width, num_hidden_layers=3, num_attention_heads=heads,
        max_position_embeddings=96, vocab_size=words, eos_token_id=line_break,
    )  # fmt: skip
    return Blip2Config(vision, queries, text, num_query_tokens=pool.PLACES, image_token_index=words - 1)


def newborn(config: Blip2Config, seed: int) -> Student:
    """A student that knows nothing."""
    torch.manual_seed(seed)
    weights = tree.random(names.blip2(config), np.random.default_rng(seed), std=0.04)
    spotter = torch.nn.Linear(WIDTH, sum(losses.COUNTS))
    return Student(config, tree.map_leaves(lambda w: torch.from_numpy(w).requires_grad_(), weights), spotter)


class Lessons:
    """Batches drawn at random from a pool whose last `easy` pictures are easy-VQA's: one in eight is of those."""

    def __init__(self, everything: pool.Pool, easy: int, seed: int):
        self.pool, self.easy, self.rng = everything, easy, np.random.default_rng(seed)

    def toys(self, size: int) -> np.ndarray:
        return self.rng.integers(0, len(self.pool.pictures) - self.easy, size)

    def both(self, size: int) -> np.ndarray:
        last = len(self.pool.pictures)
        return np.concatenate([self.toys(size - size // 8), self.rng.integers(last - self.easy, last, size // 8)])

    def things(self, which: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What is in these pictures: kinds and places."""
        return torch.from_numpy(self.pool.kinds[which]).long(), torch.from_numpy(self.pool.places[which])

    def words(self, which: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Each picture's first text (a toy's caption) and others at random: tokens, and the lengths of the prompts."""
        first, count = self.pool.first[which], np.diff(self.pool.first)[which]
        drawn = self.rng.integers(0, count[:, None], (len(which), TEXTS))
        drawn[:, 0] = 0
        rows = (first[:, None] + drawn).reshape(-1)
        tokens = self.pool.tokens[rows]
        longest = (tokens != vocabulary.PAD).sum(1).max()
        return torch.from_numpy(tokens[:, :longest]).long(), torch.from_numpy(self.pool.prompt[rows]).long()


def eyes(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """Pixels to the right soft words."""
    which = lessons.both(batch)
    image, soft = losses.look(student, losses.half(student.weights), lessons.pool.pictures[which])
    return losses.of_eyes(student, image, soft, *lessons.things(which))


def voice(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """The right soft words, blurred, to words. No picture is looked at."""
    which = lessons.toys(batch)
    soft = losses.soft_words(*lessons.things(which)).repeat_interleave(TEXTS, 0)
    weights = losses.half(student.weights)
    blurred = student.here(soft + BLUR * torch.randn(soft.shape)).to(weights["queries"].dtype)
    return losses.of_voice(student, weights, blurred, *lessons.words(which))


def together(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """Pixels to words, through everything; the eyes are still told what is there."""
    which = lessons.both(batch)
    weights = losses.half(student.weights)
    image, soft = losses.look(student, weights, lessons.pool.pictures[which])
    said = losses.of_voice(student, weights, soft.repeat_interleave(TEXTS, 0), *lessons.words(which))
    return said + losses.of_eyes(student, image, soft, *lessons.things(which)) / 2


def learn(
    student: Student, parts: tuple[str, ...], loss: Callable[[], torch.Tensor], steps: int, rate: float, log: Path
) -> None:
    """Take steps down the loss: warm up over 100 of them, slow down to nothing at the end, remember every hundredth.

    The layers' matrices learn by Muon, everything else by AdamW.
    """
    entries = [e for e in names.blip2(student.config) if getattr(e, "hub", None) and e.path.split(".")[0] in parts]
    used = tree.flatten(entries, student.weights)
    matrices = [w for name, w in used.items() if w.ndim == 2 and "embed" not in name]
    others = [w for name, w in used.items() if w.ndim != 2 or "embed" in name] + list(student.spotter.parameters())
    helpers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    started, mean = time.time(), 0.0
    for step in range(steps):
        now = rate * min(1, (step + 1) / 100, 0.02 + math.cos(math.pi / 2 * step / steps) ** 2)
        for group in (group for helper in helpers for group in helper.param_groups):
            group["lr"] = now
        current = loss()
        current.backward()
        torch.nn.utils.clip_grad_norm_(matrices + others, 1.0)
        for helper in helpers:
            helper.step()
            helper.zero_grad()
        mean += (current.item() - mean) / min(step + 1, 100)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"{log.stem} {step + 1}/{steps}  {time.time() - started:.0f} s  loss {mean:.4f}", flush=True)
            torch.save({"weights": kept(student.weights), "spotter": student.spotter.state_dict()}, log)


def recall(student: Student, path: Path, parts: tuple[str, ...]) -> Student:
    """The student with these parts of its weights as a stage left them, and its spotter, if the stage was the eyes'."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    if "vision" in parts:
        student.spotter.load_state_dict(saved["spotter"])
    return student._replace(weights={**student.weights, **{part: saved["weights"][part] for part in parts}})


def export(student: Student, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder like those on the Hub, with the weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = tree.flatten(names.blip2(student.config), student.weights)
    files.save(folder, {name: w.detach().numpy() for name, w in weights.items()}, dtype="float16")
    student.config.save_pretrained(folder)
    vocabulary.save(tokenizer, folder)
    BlipImageProcessor(size={"height": world.SIDE, "width": world.SIDE}).save_pretrained(folder)


def main() -> None:
    plan = arguments()
    torch.set_num_threads(1)
    plan.checkpoints.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary.learn(vocabulary.corpus())
    easy = pool.of_easy_vqa(tokenizer)
    everything = pool.join([pool.of_world(tokenizer, plan.seed, plan.pictures), easy])
    line_break = tokenizer.encode("\n", add_special_tokens=False).ids[0]
    student = newborn(configuration(tokenizer.get_vocab_size(), line_break), plan.seed)

    def stage(lesson: Callable, number: int, parts: tuple[str, ...], rate: float) -> None:
        lessons = Lessons(everything, len(easy.pictures), plan.seed + number)
        name = lesson.__name__
        learner = seated(student, plan.backend)
        loss = partial(lesson, learner, lessons, plan.batch)
        learn(learner, parts, loss, getattr(plan, name), rate, plan.checkpoints / f"{name}.pt")

    def voice_stage() -> None:
        os.setsid()  # a session of its own: Linux shares the processors out between sessions first
        stage(voice, 1, VOICE, plan.rate)

    beside = multiprocessing.get_context("fork").Process(target=voice_stage)
    beside.start()
    stage(eyes, 2, EYES, plan.rate)
    beside.join()
    student = recall(student, plan.checkpoints / "eyes.pt", EYES)
    student = recall(student, plan.checkpoints / "voice.pt", VOICE)
    stage(together, 3, EYES + VOICE, plan.rate / 2)
    export(recall(student, plan.checkpoints / "together.pt", EYES + VOICE), tokenizer, plan.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for what is kept on the way")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="triton: a GPU, and our own kernels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=120_000, help="toy pictures, drawn once")
    parser.add_argument("--batch", type=int, default=64, help="pictures in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    for name, steps in (("eyes", 4200), ("voice", 3000), ("together", 1800)):
        parser.add_argument(f"--{name}", type=int, default=steps, help="steps of this stage")
    return parser.parse_args()


if __name__ == "__main__":
    main()
