"""Questions about a scene of the toy world, each with its one right answer.

A kind of question is a function `(scene, rng) -> (question, answer)`, or None where the scene allows no question of
that kind that is beyond doubt: the things spoken of must be named uniquely, and "left of" is asked only where the gap
is `CLEAR` pixels or more. Yes and no, and small and large counts, are drawn so that the question alone gives little
away.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from minivl.demo.world import COLOURS, NUMBERS, RADII, SHAPES, WITHHELD, Scene, Thing, plural

CLEAR = 6.0  # pixels
Asked = tuple[str, str] | None

_VALUES = {"size": tuple(RADII), "colour": tuple(COLOURS), "shape": SHAPES}
_THERE = ("is there a {}?", "is there a {} in the image?", "does the image contain a {}?", "is a {} present?")
_NOT_THERE = (
    "is there not a {}?", "is there not a {} in the image?", "does the image not contain a {}?", "is no {} present?",
)  # fmt: skip
_ONLY_SHAPE = ("what shape is in the image?", "what shape does the image contain?", "what shape is present?")
_SIDES = {
    "left of": lambda a, b: b.x - a.x, "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y, "below": lambda a, b: a.y - b.y,
}  # fmt: skip


def ask(scene: Scene, kind: str, rng: random.Random) -> Asked:
    """A question of one kind (a key of `KINDS`) and its answer, or None."""
    return KINDS[kind](scene, rng)


def prompt(question: str) -> str:
    """The words that the language model continues."""
    return f"Question: {question} Answer:"


def noun(want: dict[str, str]) -> str:
    """{"colour": "red"} -> "red shape"."""
    words = [want[name] for name in ("size", "colour") if name in want]
    return " ".join([*words, want.get("shape", "shape")])


def named(scene: Scene, want: dict[str, str]) -> list[Thing]:
    """The things that have all these attributes."""
    return [t for t in scene.things if all(getattr(t, k) == v for k, v in want.items())]


def _attributes(thing: Thing, *names: str) -> dict[str, str]:
    return {name: getattr(thing, name) for name in names}


def _unique(scene: Scene, thing: Thing, choices: tuple[tuple[str, ...], ...], rng: random.Random) -> str | None:
    """A phrase that means this thing and no other, or None."""
    wants = [_attributes(thing, *names) for names in choices]
    fit = [want for want in wants if len(named(scene, want)) == 1]
    return noun(rng.choice(fit)) if fit else None


def _exists(scene: Scene, rng: random.Random) -> tuple[str, bool]:
    """A phrase and whether it fits anything here. One that does not differs from something here in one attribute."""
    thing = rng.choice(scene.things)
    names = rng.choice((("shape",), ("colour",), ("colour", "shape"), ("colour", "shape"), ("size", "colour", "shape")))
    want = _attributes(thing, *names)
    if rng.random() < 0.5:
        return noun(want), True
    while named(scene, want) or (want.get("colour"), want.get("shape")) in _unspoken(scene):
        changed = rng.choice(names)
        want = {**_attributes(thing, *names), changed: rng.choice(_VALUES[changed])}
    return noun(want), False


def _unspoken(scene: Scene) -> frozenset[tuple[str, str]]:
    """Withheld pairs are never named, except about scenes that show one and that no training sees."""
    return frozenset() if any((t.colour, t.shape) in WITHHELD for t in scene.things) else WITHHELD


def _exist(scene: Scene, rng: random.Random) -> Asked:
    phrase, there = _exists(scene, rng)
    return rng.choice(_THERE).format(phrase), "yes" if there else "no"


def _absent(scene: Scene, rng: random.Random) -> Asked:
    phrase, there = _exists(scene, rng)
    return rng.choice(_NOT_THERE).format(phrase), "no" if there else "yes"


def _count(scene: Scene, rng: random.Random) -> Asked:
    """How many of a colour or shape. High counts are rare: asked for whenever they occur, and low ones passed over."""
    name = rng.choice(("shape", "colour"))
    counts = {value: len(named(scene, {name: value})) for value in _VALUES[name]}
    highest = max(counts.values())
    target = highest if highest > 1 and rng.random() < 0.7 else rng.choice((0, 1))
    fits = [value for value, count in counts.items() if count == target]
    if not fits or rng.random() > _COUNT_KEPT[target]:
        return None
    value = rng.choice(fits)
    things = plural(value) if name == "shape" else f"{value} shapes"
    return f"how many {things} are there?", NUMBERS[target]


_COUNT_KEPT = (0.35, 0.35, 0.6, 1.0, 1.0)


def _count_all(scene: Scene, rng: random.Random) -> Asked:
    return "how many shapes are there?", NUMBERS[len(scene.things)]


def _colour(scene: Scene, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    phrase = _unique(scene, thing, (("shape",), ("size", "shape"), ()), rng)
    form = rng.choice(("what color is the {}?", "what is the color of the {}?"))
    return (form.format(phrase), thing.colour) if phrase else None


def _shape(scene: Scene, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    if len(scene.things) == 1 and rng.random() < 0.3:
        return rng.choice(_ONLY_SHAPE), thing.shape
    phrase = _unique(scene, thing, (("colour",), ("size", "colour"), ("size",)), rng)
    return (f"what is the {phrase}?", thing.shape) if phrase else None


def _size(scene: Scene, rng: random.Random) -> Asked:
    thing = rng.choice(scene.things)
    phrase = _unique(scene, thing, (("shape",), ("colour",), ("colour", "shape")), rng)
    return (f"what size is the {phrase}?", thing.size) if phrase else None


_FULL_NAMES = (("colour", "shape"), ("size", "colour", "shape"))


def _pair(scene: Scene, sides: tuple[str, str], rng: random.Random) -> Asked:
    """Is the red circle left of the blue star?"""
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    side = rng.choice(sides)
    gap = _SIDES[side](a, b)
    first, second = (_unique(scene, thing, _FULL_NAMES, rng) for thing in (a, b))
    if first is None or second is None or abs(gap) < CLEAR:
        return None
    return f"is the {first} {side} the {second}?", "yes" if gap > 0 else "no"


def _left(scene: Scene, rng: random.Random) -> Asked:
    return _pair(scene, ("left of", "right of"), rng)


def _above(scene: Scene, rng: random.Random) -> Asked:
    return _pair(scene, ("above", "below"), rng)


def _beside(scene: Scene, rng: random.Random) -> Asked:
    """What is left of the blue star? Asked where exactly one thing is, and no other is nearly so."""
    if len(scene.things) < 2:
        return None
    anchor, side = rng.choice(scene.things), rng.choice(tuple(_SIDES))
    phrase = _unique(scene, anchor, _FULL_NAMES, rng)
    gaps = {t: _SIDES[side](t, anchor) for t in scene.things if t is not anchor}
    there = [t for t, gap in gaps.items() if gap > 0]
    if phrase is None or len(there) != 1 or any(abs(gap) < CLEAR for gap in gaps.values()):
        return None
    return f"what is {side} the {phrase}?", f"{there[0].colour} {there[0].shape}"


KINDS: dict[str, Callable[[Scene, random.Random], Asked]] = {
    "exist": _exist, "absent": _absent, "count": _count, "count_all": _count_all, "colour": _colour, "shape": _shape,
    "size": _size, "left": _left, "above": _above, "beside": _beside,
}  # fmt: skip
