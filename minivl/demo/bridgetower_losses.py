"""What the tiny BridgeTower is told while it learns (torch; imported by train_bridgetower.py alone).

For each patch of a toy picture there is a right state: the sum of fixed directions for the shape, the colour and the
size of the thing that covers it, for where that thing stands and for how many others are like it. The class token's
right state tells which things there are. So the vision tower can be told what to see, and everything behind it what it
will be shown, before they have met.

What runs here are the functions of minivl.models themselves, on the student's ops record: torch's, or our own Triton
kernels'. What is right is worked out on the CPU, and moved to where the student computes (`here`).
Letters: B pictures or pairs, N patches + 1, C width, T tokens, K width of the contrastive heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from minivl.config.bridgetower import BridgeTowerConfig
from minivl.demo import world
from minivl.demo.learning import TORCH
from minivl.demo.losses import pixels
from minivl.demo.pool import COLOURS, NOTHING, SIZES
from minivl.models import bridgetower, clip_vit
from minivl.ops import Ops

WIDTH = 128
CONTRASTIVE = 64
PATCH = 8
SHARP = 1.5  # a right state's share of a direction, about 5 where it has one, becomes a score
NEAR = 2  # pixels: a patch is covered by a thing whose circle comes this near its middle
DEPTHS = {2: 0.3, 3: 0.6, 4: 1.0}  # the states of the vision tower that are bridged, and how much each counts
BLURS = {2: 0.25, 3: 0.12, 4: 0.08}  # how far from right they are pretended to be while nobody looks at pictures

COUNTS = (NOTHING + 1, len(COLOURS), len(SIZES))  # shapes (and nothing), colours, sizes
FIRST = (0, COUNTS[0], COUNTS[0] + COUNTS[1])  # where each of the three begins among the directions
ALIKE = ((0,), (1,), (0, 1), ())  # things can be alike in shape, in colour, in both, and in being things
PAIRS = len(COLOURS) * NOTHING  # of colour and shape


class Student(NamedTuple):
    """A model that learns: its shape, its weights as a tree of float32 tensors, a layer to throw away."""

    config: BridgeTowerConfig
    weights: dict[str, Any]
    doubter: torch.nn.Linear  # says of each word whether it is wrong
    ops: Ops = TORCH

    @property
    def here(self) -> Callable[[Any], torch.Tensor]:
        """Moves an array or a tensor to where the student computes."""
        return self.ops.from_numpy


class Task(NamedTuple):
    """Texts, each beside its picture, and what is asked about them; -100 where nothing is."""

    ids: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T)
    words: torch.Tensor  # (B, T) the right word, where one is masked or wrong
    wrong: torch.Tensor  # (B, T) 1 where a word is wrong
    true: torch.Tensor  # (B,) 1 if the text is true of the picture
    caption: torch.Tensor  # (B,) bool: the text is the picture's caption, unchanged


def _directions(width: int, count: int) -> torch.Tensor:
    """Unit vectors at right angles, always the same.   (count, width)"""
    random = torch.randn(width, count, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random).Q.T


_ALL = _directions(WIDTH, sum(COUNTS) + 3 + PAIRS + len(SIZES) + 1)
KINDS, MIDDLE, X_Y, SCENE = _ALL.split((sum(COUNTS), 1, 2, PAIRS + len(SIZES) + 1))
CONTRAST = _directions(CONTRASTIVE, len(SCENE))
_MORE = torch.cat([_ALL, _directions(WIDTH, len(ALIKE) * world.MOST)])
ALIKES = torch.linalg.qr(_MORE.T).Q.T[len(_ALL) :]  # at right angles to all others


class Seen(NamedTuple):
    """What is to be seen in pictures: their right states, and what covers each patch."""

    states: torch.Tensor  # (B, N, C), mean 0 and variance 1 as a norm leaves them
    covering: torch.Tensor  # (B, N - 1, 3): shape, colour, size; NOTHING, -100, -100 where no thing is
    alike: torch.Tensor  # (B, N - 1, 4): how many others are like that thing, in the four ways of `ALIKE`, or -100
    middle: torch.Tensor  # (B, N - 1) bool: the patch that holds a thing's middle
    summary: torch.Tensor  # (B, K) of length 1: where the contrastive heads should put picture and caption


def look(kinds: torch.Tensor, places: torch.Tensor) -> Seen:
    """The truth about pictures.   kinds, places (B, 8, 3) as in `pool.Pool`; only the first four places are read"""
    kinds, x_y, radius = kinds[:, : world.MOST], places[:, : world.MOST, :2], places[:, : world.MOST, 2]
    along = torch.arange(PATCH / 2, world.SIDE, PATCH)
    spots = torch.cartesian_prod(along, along).flip(-1)  # (N - 1, 2) x, y, row by row
    there = radius[:, None] > 0  # (B, 1, 4)
    away = torch.cdist(spots.expand(len(kinds), -1, -1), x_y) - radius[:, None]  # (B, N - 1, 4)
    nearest, which = away.masked_fill(~there, math.inf).min(-1)
    covered = (nearest < NEAR)[..., None]
    middle = (((x_y[:, None] - spots[:, None]).abs().amax(-1) < PATCH / 2) & there).any(-1)  # (B, N - 1)
    found = kinds.gather(1, which[..., None].expand(-1, -1, 3))
    covering = torch.where(covered, found, torch.tensor([NOTHING, -100, -100]))
    stands = 2 * (x_y / (world.SIDE / 2) - 1).gather(1, which[..., None].expand(-1, -1, 2)) * covered
    named = (KINDS[covering.clamp(min=0) + torch.tensor(FIRST)] * (covering >= 0)[..., None]).sum(2)
    others = torch.stack([likes(kinds, radius > 0, ways) for ways in ALIKE], -1)  # (B, 4, 4)
    alike = torch.where(covered, others.gather(1, which[..., None].expand(-1, -1, len(ALIKE))), -100)
    rows = alike.clamp(min=0) + world.MOST * torch.arange(len(ALIKE))
    counted = (ALIKES[rows] * covered[..., None]).sum(2) / 2
    patches = named + stands @ X_Y + middle[..., None] * MIDDLE + counted
    bag = summary(kinds, radius > 0)
    states = torch.cat([(bag @ SCENE)[:, None], patches], 1)
    return Seen(F.layer_norm(states, (WIDTH,)), covering, alike, middle, F.normalize(bag @ CONTRAST, dim=-1))


def likes(kinds: torch.Tensor, there: torch.Tensor, ways: tuple[int, ...]) -> torch.Tensor:
    """How many other things are like each thing.   kinds (B, 4, 3), there (B, 4) -> (B, 4)"""
    same = there[:, None] & there[:, :, None]  # (B, 4, 4)
    for way in ways:
        same = same & (kinds[:, None, :, way] == kinds[:, :, None, way])
    return (same.sum(-1) - 1).clamp(min=0)


def summary(kinds: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """How many there are of each pair of colour and shape and of each size, and a one.   -> (B, 51)"""
    shape, colour, size = (kinds * there[..., None]).unbind(-1)
    counted = there[..., None]
    pairs = (F.one_hot(colour * NOTHING + shape, PAIRS) * counted).sum(1)
    sizes = (F.one_hot(size, len(SIZES)) * counted).sum(1)
    return torch.cat([pairs, 0.5 * sizes, torch.ones(len(kinds), 1)], 1)


def see(student: Student, weights: Any, pictures: Any) -> list[torch.Tensor]:
    """The vision tower's states.   pictures (B, 64, 64, 3) uint8 -> list of (B, N, C)"""
    ops, p, config = student.ops, weights["vision"], student.config
    shown = student.here(pixels(pictures)).to(p["class_token"].dtype)
    return bridgetower.image_tower(ops, weights, clip_vit.embed(ops, p, shown, config.vision_config), config)


def imagine(right: torch.Tensor) -> list[torch.Tensor]:
    """What `see` would give if the tower saw rightly, a little blurred; the states that nobody reads are missing."""
    blurred = [right + BLURS[depth] * torch.randn(right.shape) for depth in DEPTHS]
    return [right[:0]] * min(DEPTHS) + blurred


def of_eyes(student: Student, weights: Any, images: list[torch.Tensor], seen: Seen) -> torch.Tensor:
    """How far the vision tower's states are from right. Patches with things count more: there are fewer of them."""
    ops, kinds, likenesses = student.ops, student.here(KINDS.T), student.here(ALIKES.T)
    things = F.pad(seen.covering[..., 0] != NOTHING, (1, 0), value=True)[..., None]
    loss = torch.tensor(0.0)
    for depth, share in DEPTHS.items():
        state = ops.layer_norm(images[depth], **weights["vision"]["ln_post"]).float()  # (B, N, C)
        apart = (state - seen.states) ** 2 * torch.where(things, 2.0, 0.5)
        scores = (SHARP * state[:, 1:] @ kinds).split(COUNTS, -1)
        named = sum(ops.cross_entropy(scores[i], seen.covering[..., i]) for i in range(3))
        numbers = (2 * SHARP * state[:, 1:] @ likenesses).unflatten(-1, (len(ALIKE), world.MOST))
        counted = ops.cross_entropy(numbers, seen.alike)
        loss = loss + share * (4 * apart.mean() + named + counted)
    return loss


def passing_over(images: list[torch.Tensor], seen: Seen, keep: int) -> list[torch.Tensor]:
    """The class token and `keep` patches, those with things first: most of the others tell nothing new."""
    worth = torch.rand(seen.middle.shape) + (seen.covering[..., 0] != NOTHING) + seen.middle  # (B, N - 1)
    kept = F.pad(worth.topk(keep).indices + 1, (1, 0))[..., None]  # (B, keep + 1, 1)
    return [x.gather(1, kept.expand(-1, -1, x.shape[-1])) for x in images]


def of_reader(
    student: Student, weights: Any, images: list[torch.Tensor], summaries: torch.Tensor, task: Task
) -> torch.Tensor:
    """How far texts beside pictures are from being understood: is it true, which word is masked, which is wrong.

    images   list of (B, N, C), summaries (B, K): one for each text
    """
    ops, config, task = student.ops, student.config, Task(*map(student.here, task))
    texts = bridgetower.text_tower(ops, weights, task.ids, task.mask, config)
    *_, (text, image) = bridgetower.fuse(ops, weights, texts, images, task.mask, config)
    pooled = bridgetower.pool(ops, weights, text, image)
    match = ops.cross_entropy(bridgetower.match(ops, weights, pooled).float(), task.true)
    asked = task.words >= 0
    scores = bridgetower.fill(ops, weights, text[asked], config)  # one row for each word asked for
    fill = ops.cross_entropy(scores.float(), task.words[asked])
    doubt = ops.cross_entropy(student.doubter(text.float()), task.wrong)
    vectors = contrasted(ops, weights, texts, images, pooled, task.caption)
    right = summaries[task.caption]  # (captions, K)
    far = sum((1 - (vector * right).sum(-1)).sum() for vector in vectors) / max(1, len(right))
    return match + fill + doubt + far


def contrasted(
    ops: Ops, weights: Any, texts: list[torch.Tensor], images: list[torch.Tensor], pooled: Any, which: torch.Tensor
) -> list[torch.Tensor]:
    """The contrastive heads' vectors of text, picture and pair, float32, for some of the pairs.   (captions, K) each"""
    state = bridgetower.image_state(ops, weights, images[-1][which], 0)  # all cross-modal layers share one transform
    inputs = {"text": texts[-1][which, 0], "image": state[:, 0], "cross": pooled[which]}
    return [bridgetower.contrast(ops, weights, x, head).float() for head, x in inputs.items()]
