"""Train the embedded tiny BridgeTower in the toy world, in less than an hour on two cores:

    python -m minivl.demo.train_bridgetower --out minivl/demo/bridgetower --checkpoints ../checkpoints --minutes 58

In stages, with the short cut that only a made-up world allows (see bridgetower_losses.py):

    1. the eyes (the vision tower) learn to turn pixels into the right states;            two processes,
       the reader (everything else) learns to compare texts with right states, blurred;   at the same time
    2. together: pixels and texts in, every loss through everything; both processes take every step together, each with
       half of the batch.
    3. comparing: the same, and half of the false texts are captions of other pictures, which are false in several words
       or name one thing of several. Who has only met texts with one wrong word may take them for true.

Steps follow the clock: a faster computer takes more of them. Every step runs on bfloat16 copies of float32 weights, in
processes of one thread each. Needs the extra `torch`.

`--backend triton` takes such steps through our own kernels, forwards and backwards, on a GPU. That has been run in
Triton's interpreter only, a step at a time, and never on a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from minivl.api.bridgetower import HEADS, BridgeTower
from minivl.config.bridgetower import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig
from minivl.demo import bridgetower_losses as losses
from minivl.demo import statement_pool, statements, world
from minivl.demo.bridgetower_losses import Student, Task
from minivl.demo.learning import BACKENDS, Team, Weights, at_once, kept, learn, seated
from minivl.demo.losses import half
from minivl.demo.pool import COLOURS, NOTHING
from minivl.demo.statement_pool import MASK, PAD, StatementPool
from minivl.processors.image_processor import CLIP_MEAN, CLIP_STD
from minivl.weights import files, tree

EYES = ("vision",)
TEXTS = 4  # beside each picture in a step together; its caption is the first
KEPT = 24, 65  # how many patches the reader is shown, at least and less than: with a number always the same it learns
#                to count by shares of attention, and is wrong as soon as all patches are there
NUMBERS = world.NUMBERS[2:]  # as a text's first word; these and the sides are learned late, and so asked for more often
SIDES = (" left", " right", " above", " below")
NONE = -1  # in place of a thing
MASKED = 0.25  # of the words that the picture determines, in a text that has a mask
STRANGE = 0.5  # of the false texts, where other pictures' captions are compared
SHARES = {"apart": 0.388, "together": 0.474, "comparing": 0.138}  # of the time
SLOWER = {"together": 0.8, "comparing": 0.5}  # than the highest learning rate


class AllHeads(BridgeTower):
    """The trunk and every head, as the file holds them."""

    heads = tuple(HEADS)


def configuration(words: int) -> BridgeTowerConfig:
    """The model's shape: a BridgeTower in every respect but size."""
    width, heads = losses.WIDTH, 4
    text = BridgeTowerTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=width, num_hidden_layers=4, num_attention_heads=heads,
        max_position_embeddings=48,
    )  # fmt: skip
    vision = BridgeTowerVisionConfig(
        hidden_size=width, num_hidden_layers=4, patch_size=losses.PATCH, image_size=world.SIDE
    )
    return BridgeTowerConfig(
        hidden_size=width, num_hidden_layers=3, num_attention_heads=heads, text_config=text, vision_config=vision,
        contrastive_hidden_size=losses.CONTRASTIVE,
    )  # fmt: skip


def newborn(config: BridgeTowerConfig, seed: int) -> Student:
    """A student that knows nothing."""
    torch.manual_seed(seed)
    weights = tree.random(AllHeads.table(config), np.random.default_rng(seed), std=0.04)
    leaves = tree.map_leaves(lambda w: torch.from_numpy(w).requires_grad_(), weights)
    return Student(config, leaves, torch.nn.Linear(losses.WIDTH, 2))


class Lessons:
    """Batches drawn at random from a pool."""

    def __init__(self, everything: StatementPool, tokenizer: Tokenizer, seed: int):
        self.pool, self.rng = everything, np.random.default_rng(seed)
        self.mask, *self.hard = (tokenizer.encode(w, add_special_tokens=False).ids[0] for w in (MASK, *SIDES, *NUMBERS))
        oftener = np.where(np.isin(everything.true[:, :, 1], self.hard), statements.OFTENER, 1)  # counts: numbers first
        oftener[:, 0] = 0  # the caption is chosen apart
        shape, colour, size = np.moveaxis(everything.kinds[:, : world.MOST], -1, 0)  # (n, 4) each
        there = everything.places[:, : world.MOST, 2] > 0
        self.things = np.where(there, (size * len(COLOURS) + colour) * NOTHING + shape, NONE)
        single = np.flatnonzero(there.sum(1) == 1)
        kinds = self.things[single].max(1)
        self.alone = {kind: single[kinds == kind] for kind in np.unique(kinds)}  # pictures of one such thing
        self.odds = oftener.cumsum(1) / oftener.sum(1, keepdims=True)  # (n, EACH)

    def pictures(self, size: int) -> np.ndarray:
        return self.rng.integers(0, len(self.pool.pictures), size)

    def seen(self, which: np.ndarray) -> losses.Seen:
        """The truth about these pictures."""
        return losses.look(torch.from_numpy(self.pool.kinds[which]).long(), torch.from_numpy(self.pool.places[which]))

    def task(self, which: np.ndarray, texts: int, strange: float = 0) -> Task:
        """Several texts beside each picture, the first its caption: a third true, a third false, a third with masks.

        Of the false ones, a share is `strange`: another picture's caption.
        """
        owner = np.repeat(which, texts)
        columns = (self.rng.random((len(which), texts, 1)) > self.odds[which][:, None]).sum(-1)
        columns[:, 0] *= self.rng.random(len(which)) < (texts == 1) * 2 / 3  # a single text: a caption in one of three
        at = owner, columns.reshape(-1)
        turn = self.rng.permutation(len(owner)) % 3  # 0 true, 1 false, 2 masked
        true, false, changed = (array[at] for array in (self.pool.true, self.pool.false, self.pool.changed))
        if strange:
            replaced = self.rng.random(len(owner)) < strange
            false = np.where(replaced[:, None], self.pool.true[self.strangers(which, texts), 0], false)
            changed = np.where(replaced, statement_pool.SEVERAL, changed)
        hidden = self._hide(true, self.pool.certain[at]) & (turn == 2)[:, None]
        altered = (np.arange(true.shape[1]) == changed[:, None]) & (turn == 1)[:, None]
        ids = np.where(hidden, self.mask, np.where((turn == 1)[:, None], false, true))
        words = np.where(hidden | altered, true, -100)
        open_to_doubt = (turn == 0) | ((turn == 1) & (changed != statement_pool.SEVERAL))
        wrong = np.where(open_to_doubt[:, None] & (ids != PAD), altered, -100)
        longest = (ids != PAD).sum(1).max()
        rows = (x[:, :longest].astype(np.int64) for x in (ids, ids != PAD, words, wrong))
        alone = np.where(turn == 2, -100, turn == 0), (turn == 0) & (at[1] == 0)
        return Task(*map(torch.from_numpy, (*rows, *alone)))

    def strangers(self, which: np.ndarray, texts: int) -> np.ndarray:
        """For each text beside each picture, another picture whose caption is not true of the first.

        Every other time it shows one thing of the first alone; otherwise it is one of these pictures, with a pair of
        colour and shape that the first has not (or not so often), and rather one with more in common than another.
        """
        things = self.things[which]  # (n, 4)
        pairs = np.where(things == NONE, NONE, things % losses.PAIRS)
        bags = (pairs[..., None] == np.arange(losses.PAIRS)).sum(1)  # (n, PAIRS)
        common = np.minimum(bags[:, None], bags).sum(-1)  # (n, n)
        fitting = np.where(common < bags.sum(-1), common, -np.inf).repeat(texts, 0)
        chosen = which[(fitting + 2 * self.rng.random(fitting.shape)).argmax(1)]
        for row, own in enumerate(which.repeat(texts)):
            shown = self.things[own][self.things[own] != NONE]
            if len(shown) > 1 and self.rng.random() < 0.5:
                chosen[row] = self.rng.choice(self.alone.get(self.rng.choice(shown), chosen[row : row + 1]))
        return chosen

    def _hide(self, words: np.ndarray, certain: np.ndarray) -> np.ndarray:
        """Which words to mask: each certain one perhaps, hard ones rather than others, one of a text at least."""
        oftener = np.where(np.isin(words, self.hard), statements.OFTENER, 1)
        draw = np.where(certain, self.rng.random(certain.shape) / oftener, 2.0)
        return certain & ((draw < MASKED) | (draw == draw.min(1, keepdims=True)))


def eyes(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """Pixels to the right states."""
    which = lessons.pictures(batch)
    seen, weights = moved(student, lessons.seen(which)), half(student.weights)
    return losses.of_eyes(student, weights, losses.see(student, weights, lessons.pool.pictures[which]), seen)


def moved(student: Student, seen: losses.Seen) -> losses.Seen:
    """The truth where the student computes."""
    return losses.Seen(*map(student.here, seen))


def reader(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """Texts beside the right states, blurred. No picture is looked at."""
    which = lessons.pictures(2 * batch)
    seen = lessons.seen(which)
    keep = int(lessons.rng.integers(*KEPT))
    images, weights = losses.imagine(*losses.passing_over([seen.states], seen, keep)), half(student.weights)
    images = [student.here(image).to(weights["vision"]["class_token"].dtype) for image in images]
    return losses.of_reader(student, weights, images, student.here(seen.summary), lessons.task(which, 1))


def together(student: Student, lessons: Lessons, batch: int, strange: float = 0) -> torch.Tensor:
    """Texts beside pictures, through everything; the eyes are still told what is there."""
    which = lessons.pictures(batch // 2)
    seen, weights = moved(student, lessons.seen(which)), half(student.weights)
    images = losses.see(student, weights, lessons.pool.pictures[which])
    shown = [x.repeat_interleave(TEXTS, 0) for x in images]
    summaries = seen.summary.repeat_interleave(TEXTS, 0)
    read = losses.of_reader(student, weights, shown, summaries, lessons.task(which, TEXTS, strange))
    return read + losses.of_eyes(student, weights, images, seen) / 2


def comparing(student: Student, lessons: Lessons, batch: int) -> torch.Tensor:
    """The same, with other pictures' captions among the false texts."""
    return together(student, lessons, batch, STRANGE)


def export(student: Student, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a folder like those on the Hub, with the weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = tree.flatten(AllHeads.table(student.config), student.weights)
    files.save(folder, {name: w.detach().numpy() for name, w in weights.items()}, dtype="float16")
    student.config.save_pretrained(folder)
    statement_pool.save_tokenizer(tokenizer, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


PREPROCESSOR = {
    "image_processor_type": "BridgeTowerImageProcessor", "do_resize": True, "size": {"shortest_edge": world.SIDE},
    "size_divisor": 32, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "do_center_crop": True,
    "crop_size": {"shortest_edge": world.SIDE}, "do_pad": True,
}  # fmt: skip


def ready(path: Path, tokenizer: Tokenizer, seed: int, count: int) -> StatementPool:
    """The pool, from the file if it has been made before."""
    if not path.exists():
        np.savez(path, **statement_pool.of_world(tokenizer, seed, count)._asdict())
    with np.load(path) as arrays:
        return StatementPool(**arrays)


class School(NamedTuple):
    """What every stage needs."""

    plan: argparse.Namespace
    student: Student
    everything: StatementPool
    tokenizer: Tokenizer

    def stage(self, lesson: Callable[..., torch.Tensor], share: float, rate: float, member: int = 0, team: Any = None):
        """Learn by one lesson for a share of the time, in this process."""
        seed = self.plan.seed + 10 * LESSONS.index(lesson) + member
        torch.manual_seed(seed)
        lessons = Lessons(self.everything, self.tokenizer, seed)
        student = seated(self.student, self.plan.backend)
        learn(
            sorted_weights(student, lesson),
            partial(lesson, student, lessons, self.plan.batch),
            share * self.plan.minutes,
            rate,
            self.plan.checkpoints / (f"{lesson.__name__}{member or ''}.pt"),
            lambda: {"weights": kept(student.weights)},
            team and partial(team.agree, member),
        )


LESSONS = (eyes, reader, together, comparing)


def sorted_weights(student: Student, lesson: Callable[..., torch.Tensor]) -> Weights:
    """What a lesson teaches: the layers' matrices, and the rest."""
    entries = [e for e in AllHeads.table(student.config) if isinstance(e, tree.Entry) and taught(e.path, lesson)]
    named = zip((entry.path for entry in entries), tree.flatten(entries, student.weights).values(), strict=True)
    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = [] if lesson is eyes else [*student.doubter.parameters()]
    for path, weight in named:
        (matrices if "layers" in path and weight.ndim == 2 else others).append(weight)
    return Weights(matrices, others)


def taught(path: str, lesson: Callable[..., torch.Tensor]) -> bool:
    """Whether a lesson reaches a weight. The norm behind the vision tower stays as it is until eyes and reader meet."""
    if path.startswith(("text.pooler", "itc.scale")):  # the model never reads the one; no loss here needs the other
        return False
    of_eyes = path.startswith("vision.")
    return lesson in (together, comparing) or of_eyes == (lesson is eyes) and "ln_post" not in path


def main() -> None:
    plan = arguments()
    torch.set_num_threads(1)
    plan.checkpoints.mkdir(parents=True, exist_ok=True)
    tokenizer = statement_pool.learn_words()
    everything = ready(plan.checkpoints / "pool.npz", tokenizer, plan.seed, plan.pictures)
    student = newborn(configuration(tokenizer.get_vocab_size()), plan.seed)
    school = School(plan, student, everything, tokenizer)
    at_once(*(partial(school.stage, lesson, SHARES["apart"], plan.rate) for lesson in (reader, eyes)))
    school = school._replace(student=joined(student, plan.checkpoints))
    for lesson in (together, comparing):
        school = in_a_team(school, lesson)
    export(school.student, tokenizer, plan.out)


def in_a_team(school: School, lesson: Callable[..., torch.Tensor]) -> School:
    """A stage that two processes take together; the student as it leaves it."""
    name, plan, student = lesson.__name__, school.plan, school.student
    team = Team.of(2, sum(w.numel() for w in sorted_weights(student, lesson).all))
    share, rate = SHARES[name], SLOWER[name] * plan.rate
    at_once(*(partial(school.stage, lesson, share, rate, member, team) for member in (0, 1)))
    return school._replace(student=recalled(student, plan.checkpoints / f"{name}.pt", student.weights))


def joined(student: Student, checkpoints: Path) -> Student:
    """The student with the eyes that one process has trained and the rest from the other."""
    rest = [part for part in student.weights if part not in EYES]
    return recalled(recalled(student, checkpoints / "eyes.pt", EYES), checkpoints / "reader.pt", rest)


def recalled(student: Student, path: Path, parts: Iterable[str]) -> Student:
    """The student with these parts of its weights as they were kept."""
    saved = torch.load(path, weights_only=True)["weights"]
    return student._replace(weights={**student.weights, **{part: saved[part] for part in parts}})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for what is kept on the way")
    parser.add_argument("--minutes", type=float, default=58, help="of training, on two processors")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="triton: a GPU, and our own kernels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=120_000, help="toy pictures, drawn once")
    parser.add_argument("--batch", type=int, default=64, help="pictures in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    return parser.parse_args()


if __name__ == "__main__":
    main()
