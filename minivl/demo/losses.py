"""What the tiny BLIP-2 is told while it learns (torch; imported by train.py alone).

For each thing in a toy picture there is a right soft word: the sum of fixed directions for its shape, its colour, its
size and where it stands. So the eyes can be told what to say, and the voice what it will hear, before they have met.

What runs here are the functions of minivl.models themselves, on the student's ops record: torch's, or our own Triton
kernels'. What is right is worked out on the CPU, and moved to where the student computes (`here`).
Letters: B pictures, N patches + 1, C width, T tokens; eight queries, one for each place of a `Pool`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from minivl.config.blip2 import Blip2Config
from minivl.demo import world
from minivl.demo.learning import TORCH
from minivl.demo.pool import COLOURS, NOTHING, PLACES, SIZES, UNKNOWN
from minivl.demo.vocabulary import PAD
from minivl.models import blip2, blocks, opt, qformer, vit
from minivl.ops import Ops
from minivl.processors.image_processor import CLIP_MEAN, CLIP_STD
from minivl.weights import tree

WIDTH = 128
PATCH = 8
COUNTS = (NOTHING + 1, len(COLOURS), len(SIZES))  # shapes (and nothing), colours, sizes
FIRST = (0, COUNTS[0], COUNTS[0] + COUNTS[1])  # where each of the three begins among the directions
SHARP = 8.0  # a soft word's share of a direction, 0 or 1, becomes a score of 0 or 8


class Student(NamedTuple):
    """A model that learns: its shape, its weights as a tree of float32 tensors, a layer to throw away."""

    config: Blip2Config
    weights: dict[str, Any]
    spotter: torch.nn.Linear  # says of each patch what covers it
    ops: Ops = TORCH

    @property
    def here(self) -> Callable[[Any], torch.Tensor]:
        """Moves an array or a tensor to where the student computes."""
        return self.ops.from_numpy


def half(weights: Any) -> Any:
    """bfloat16 copies, through which gradients flow back to the float32 originals."""
    return tree.map_leaves(lambda w: w.bfloat16(), weights)


def _directions() -> torch.Tensor:
    """A unit vector for each shape, colour and size, and for across and down, all at right angles.   (19, C)"""
    random = torch.randn(WIDTH, sum(COUNTS) + 2, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random).Q.T


DIRECTIONS = _directions()


def soft_words(kinds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The right soft words for things that are all known.   kinds (B, 8, 3), places (B, 8, 3) -> (B, 8, C)"""
    known = (kinds >= 0)[..., None]
    named = (DIRECTIONS[kinds.clamp(min=0) + torch.tensor(FIRST)] * known).sum(2)
    stands = (places[..., 2:] > 0) * (places[..., :2] / (world.SIDE / 2) - 1)  # (B, 8, 2), from -1 to 1
    return named + stands @ DIRECTIONS[-2:]


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """What the image processor makes of pictures of the right size.   (B, 64, 64, 3) uint8 -> (B, 3, 64, 64)"""
    scaled = torch.from_numpy(pictures).float() / 255
    return ((scaled - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 3, 1, 2)


def look(student: Student, weights: Any, pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The vision tower's last state (B, N, C) and the soft words (B, 8, C)."""
    ops, seen = student.ops, student.here(pixels(pictures)).to(weights["queries"].dtype)
    image = vit.encode(ops, weights["vision"], seen, student.config.vision_config)
    answers = qformer.encode(ops, weights["qformer"], weights["queries"], image, student.config.qformer_config)
    return image, ops.linear(answers, **weights["projection"])


def of_eyes(
    student: Student, image: torch.Tensor, soft: torch.Tensor, kinds: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """How far patches and soft words are from telling what is there. What nobody said (UNKNOWN) is not asked."""
    ops, here = student.ops, student.here
    covering, named = here(cover(kinds, places)), here(kinds)
    patches = student.spotter(image[:, 1:].float()).split(COUNTS, -1)
    words = (SHARP * soft.float() @ here(DIRECTIONS[:-2].T)).split(COUNTS, -1)
    loss = sum(
        ops.cross_entropy(patches[i], covering[..., i]) + ops.cross_entropy(words[i], named[..., i]) for i in range(3)
    )
    complete = (named[:, 0] >= 0).all(-1)
    return loss + 30 * F.mse_loss(soft[complete].float(), here(soft_words(kinds, places))[complete])


def cover(kinds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What covers each patch, (B, N - 1, 3): the thing whose circle comes within two pixels of the patch's middle."""
    middle = torch.arange(PATCH / 2, world.SIDE, PATCH)
    spots = torch.cartesian_prod(middle, middle).flip(-1)  # (N - 1, 2) x, y, row by row
    things, x_y, radius = kinds[:, : world.MOST], places[:, : world.MOST, :2], places[:, : world.MOST, 2]
    away = torch.cdist(spots.expand(len(kinds), -1, -1), x_y) - radius[:, None]  # (B, N - 1, 4)
    nearest, which = away.masked_fill(radius[:, None] == 0, math.inf).min(-1)
    found = things.gather(1, which[..., None].expand(-1, -1, 3))
    empty = torch.tensor([NOTHING, UNKNOWN, UNKNOWN]).expand_as(found)
    drawn = (radius[:, 0] > 0)[:, None, None]  # False for easy-VQA's pictures, where nobody says where things are
    return torch.where(drawn, torch.where((nearest < 2)[..., None], found, empty), UNKNOWN)


def of_voice(
    student: Student, weights: Any, soft: torch.Tensor, tokens: torch.Tensor, prompt: torch.Tensor
) -> torch.Tensor:
    """How surprised the language model is by the right answers; prompts do not count.

    soft (B, 8, C)   tokens (B, T)   prompt (B,) how many of the tokens are given
    """
    ops, tokens = student.ops, student.here(tokens)
    real = (tokens != PAD).long()
    embeds, mask = blip2.prompt(ops, weights, soft, tokens, real)
    config: Any = student.config.text_config  # OPT's: the demo has no T5
    states = opt.states(ops, weights["language"], embeds, mask, config)
    read = blocks.last(states)[:, PLACES:-1]  # (B, T - 1, C)
    answer = student.here(torch.arange(1, tokens.shape[1]) >= prompt[:, None]) & real[:, 1:].bool()
    scores = opt.logits(ops, weights["language"], read[answer])  # one row for each token of an answer
    return ops.cross_entropy(scores.float(), tokens[:, 1:][answer])
