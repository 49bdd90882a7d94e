"""A toy world: one to four coloured shapes on a light ground, drawn from a seed, and the one caption that is right.

Every choice that a picture depends on is in its `Scene`; drawing adds nothing, so a seed and a number give the same
picture everywhere. Which split a scene belongs to is read off a hash of what it shows (`split_of`): training and
held-out scenes cannot meet. A few colour-and-shape pairs (`WITHHELD`) are kept out of training altogether, pictures and
words alike, to see what the model makes of a red star when it has seen red things and stars but never a red star.

The colours, the size of the pictures and the light grounds are those of easy-VQA (https://github.com/vzhou842/easy-VQA),
so that its questions, which nobody here wrote, can be put to the same model.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, ImageDraw

SIDE = 64
SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "ring")
COLOURS = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
    "green": (0, 255, 0), "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip
RADII = {"small": (5.0, 6.5), "large": (9.5, 11.5)}
WITHHELD = frozenset({("red", "star"), ("blue", "cross"), ("green", "ring"), ("yellow", "cross")})
NUMBERS = ("zero", "one", "two", "three", "four")
MOST = 4  # things in a picture

_SHADE = 20  # how far a colour may stray from its name, per channel
_TILT = 15  # degrees
_GAP = 2.0  # pixels between the circles around two things
_ORDER_GAP = 4.0  # pixels across and down, so that which is further left, and which higher, is never in doubt
_FINE = 3  # drawn three times as large, then averaged down


class Thing(NamedTuple):
    """One shape: what it is called, and how it is drawn (`stretch` is a rectangle's width over its height)."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    stretch: float
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


class Scene(NamedTuple):
    """Things from left to right, on a ground of one light colour."""

    things: tuple[Thing, ...]
    ground: tuple[int, int, int]


def scenes(split: str, seed: int, start: int = 0, most: int = MOST) -> Iterator[Scene]:
    """Endless scenes of a split ("train", "choose", "test" or "withheld"); number i depends on seed and i alone."""
    number = start
    while True:
        yield scene(split, seed, number, most)
        number += 1


def scene(split: str, seed: int, number: int, most: int = MOST) -> Scene:
    """Scene `number` of a split: candidates are drawn until one falls into it."""
    rng = random.Random(f"{split} {seed} {number}")
    count = rng.randint(1, most)
    while True:
        made = _place(_kinds(rng, count, split == "withheld"), rng)
        if made is not None and split_of(made) == split:
            return made


def split_of(scene: Scene) -> str:
    """Which split a scene belongs to: a hash of what is shown and where (in cells of 8 pixels), and nothing else."""
    if any((t.colour, t.shape) in WITHHELD for t in scene.things):
        return "withheld"
    shown = sorted((t.name, int(t.x) // 8, int(t.y) // 8) for t in scene.things)
    tenth = hashlib.sha256(repr(shown).encode()).digest()[0] % 10
    return {0: "test", 1: "choose"}.get(tenth, "train")


def _kinds(rng: random.Random, count: int, withheld: bool) -> list[tuple[str, str, str]]:
    """What the things of a scene are. In half of the scenes they share a shape, a colour or both: a thing to count."""
    shared = rng.choices(((), ("shape",), ("colour",), ("shape", "colour")), weights=(5, 2, 2, 1))[0]
    one_shape, one_colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
    kinds = []
    for _ in range(count):
        shape = one_shape if "shape" in shared else rng.choice(SHAPES)
        colour = one_colour if "colour" in shared else rng.choice(list(COLOURS))
        kinds.append((rng.choice(list(RADII)), colour, shape))
    if withheld:
        colour, shape = rng.choice(sorted(WITHHELD))
        kinds[rng.randrange(count)] = (rng.choice(list(RADII)), colour, shape)
    return kinds


def _place(kinds: list[tuple[str, str, str]], rng: random.Random) -> Scene | None:
    """Put things where they neither touch nor leave their order in doubt; None if the dice did not allow it."""
    things: list[Thing] = []
    for size, colour, shape in kinds:
        radius = rng.uniform(*RADII[size])
        edge = radius + 1
        for _ in range(20):
            x, y = rng.uniform(edge, SIDE - edge), rng.uniform(edge, SIDE - edge)
            if all(_apart(t, x, y, radius) for t in things):
                break
        else:
            return None
        red, green, blue = (min(255, max(0, c + rng.randint(-_SHADE, _SHADE))) for c in COLOURS[colour])
        angle, stretch = rng.uniform(-_TILT, _TILT), 2 ** rng.uniform(-1, 1)
        things.append(Thing(size, colour, shape, x, y, radius, angle, stretch, (red, green, blue)))
    if len(things) == 2 and abs(abs(things[0].x - things[1].x) - abs(things[0].y - things[1].y)) < _ORDER_GAP:
        return None
    ground = (rng.randint(200, 255), rng.randint(200, 255), rng.randint(200, 255))
    return Scene(tuple(sorted(things, key=lambda t: t.x)), ground)


def _apart(other: Thing, x: float, y: float, radius: float) -> bool:
    near = math.hypot(other.x - x, other.y - y) < other.radius + radius + _GAP
    return not near and min(abs(other.x - x), abs(other.y - y)) >= _ORDER_GAP


def caption(scene: Scene) -> str:
    """The one right caption: a count if all are alike, a relation between two, otherwise a list from left to right."""
    things = scene.things
    if len(things) > 1 and len({(t.colour, t.shape) for t in things}) == 1:
        return f"{NUMBERS[len(things)]} {things[0].colour} {plural(things[0].shape)}"
    if len(things) == 2:
        left, right = things
        if right.x - left.x > abs(right.y - left.y):
            return f"a {left.name} left of a {right.name}"
        upper, lower = sorted(things, key=lambda t: t.y)
        return f"a {upper.name} above a {lower.name}"
    names = [f"a {t.name}" for t in things]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, 64 x 64, RGB."""
    picture = Image.new("RGB", (SIDE * _FINE, SIDE * _FINE), scene.ground)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        _draw_thing(pen, thing, scene.ground)
    return picture.reduce(_FINE)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, ground: tuple[int, int, int]) -> None:
    if thing.shape in ("circle", "ring"):
        _disc(pen, thing, 1.0, thing.rgb)
        if thing.shape == "ring":
            _disc(pen, thing, 0.5, ground)
        return
    turn = math.radians(thing.angle)
    cos, sin = math.cos(turn) * thing.radius, math.sin(turn) * thing.radius
    corners = [(thing.x + px * cos - py * sin, thing.y + px * sin + py * cos) for px, py in _outline(thing)]
    pen.polygon([(x * _FINE, y * _FINE) for x, y in corners], fill=thing.rgb)


def _disc(pen: ImageDraw.ImageDraw, thing: Thing, share: float, fill: tuple[int, int, int]) -> None:
    r = thing.radius * share
    pen.ellipse([c * _FINE for c in (thing.x - r, thing.y - r, thing.x + r, thing.y + r)], fill=fill)


def _outline(thing: Thing) -> list[tuple[float, float]]:
    """The corners of a shape that fits into the circle of radius 1 around (0, 0)."""
    if thing.shape == "rectangle":
        wide, high = 0.9 * min(1.0, thing.stretch), 0.9 * min(1.0, 1 / thing.stretch)
        return [(-wide, -high), (wide, -high), (wide, high), (-wide, high)]
    if thing.shape == "triangle":
        return [_spoke(-90 + 120 * i, 1.0) for i in range(3)]
    if thing.shape == "star":
        return [_spoke(-90 + 36 * i, 0.42 if i % 2 else 1.1) for i in range(10)]
    arm = 0.3
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]  # a cross is this corner, turned four times
    return [corner for turn in range(4) for corner in _turned(quarter, turn)]


def _spoke(degrees: float, length: float) -> tuple[float, float]:
    return length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))


def _turned(points: list[tuple[float, float]], quarters: int) -> list[tuple[float, float]]:
    for _ in range(quarters):
        points = [(-y, x) for x, y in points]
    return points
