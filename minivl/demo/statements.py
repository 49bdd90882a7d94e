"""What can be said of a scene of the toy world, true or false, for the model that compares pictures with texts.

A `Said` is a statement taken apart; `holds` says whether it is true of a scene. So a false statement can differ from a
true one in a single word and still be known to be false, and a word can be masked only where the scene allows no other.

    list      a small red ring, a large blue star and a small teal cross      everything, from left to right
    count     two red circles                                                 exactly as many, whatever else there is
    there     there is a large star
    relation  a red circle left of a blue star
    trait     the ring is small                                               where there is one ring
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from minivl.demo.questions import CLEAR
from minivl.demo.world import COLOURS, NUMBERS, RADII, SHAPES, WITHHELD, Scene, Thing, plural

Want = dict[str, str]  # {"size": "small", "colour": "red", "shape": "ring"}, or fewer of them
Slot = tuple[int, str]  # a word of a statement: which `Want` it stands in, and which attribute it is; WORD for `word`
WORD = -1
ORDER = "order"  # the kind of a false list in which two neighbours have changed places
ATTEMPTS = 300
HARD, OFTENER = ("number", "side", ORDER), 3
ATTRIBUTES = ("size", "colour", "shape")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_VALUES = {"size": tuple(RADII), "colour": tuple(COLOURS), "shape": SHAPES, "number": NUMBERS[2:]}
_PHRASES = (("shape",), ("colour", "shape"), ("colour", "shape"), ("size", "shape"), ("size", "colour", "shape"))


class Said(NamedTuple):
    """A statement taken apart. `word` is the number, the side or the trait that some forms have, `kind` what it is."""

    form: str
    wants: tuple[Want, ...]
    word: str = ""
    kind: str = ""


class Wrong(NamedTuple):
    """A false statement, and what was changed in a true one to make it."""

    said: Said
    kind: str  # "size", "colour", "shape", "number", "side" or ORDER


# --- words -----------------------------------------------------------------------------------------------------------


def text(said: Said) -> str:
    """The statement as it is written. Any word may also be a mask: it is written as it is."""
    names = [_name(want) for want in said.wants]
    if said.form == "list":
        things = [f"a {name}" for name in names]
        return " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    if said.form == "count":
        return f"{said.word} {_name(said.wants[0], plural)}"
    if said.form == "there":
        return f"there is a {names[0]}"
    if said.form == "relation":
        return f"a {names[0]} {said.word} a {names[1]}"
    article = "a " if said.kind == "shape" else ""
    return f"the {names[0]} is {article}{said.word}"


def _name(want: Want, shape: Callable[[str], str] = str) -> str:
    noun = want.get("shape", "shape")
    words = [want[name] for name in ("size", "colour") if name in want]
    return " ".join([*words, shape(noun) if noun.isalpha() else noun])


def slots(said: Said) -> Iterator[Slot]:
    """The words that carry meaning."""
    yield from ((i, name) for i, want in enumerate(said.wants) for name in want)
    if said.word:
        yield WORD, said.kind


def put(said: Said, slot: Slot, value: str) -> Said:
    """The same statement with another word in one place."""
    place, name = slot
    if place == WORD:
        return said._replace(word=value)
    wants = [{**want, name: value} if i == place else want for i, want in enumerate(said.wants)]
    return said._replace(wants=tuple(wants))


def choices(said: Said, slot: Slot) -> tuple[str, ...]:
    """All words that could stand in a place, the one that does included."""
    if slot[1] == "side":
        return said.word, OPPOSITE[said.word]
    return _VALUES[slot[1]]


def masked(said: Said, slot: Slot, mask: str) -> Said:
    """The statement with a mask for one word; "left of" keeps its second."""
    of = " of" if slot[1] == "side" and said.word.endswith(" of") else ""
    return put(said, slot, mask + of)


# --- truth -----------------------------------------------------------------------------------------------------------


def fits(thing: Thing, want: Want) -> bool:
    return all(getattr(thing, name) == value for name, value in want.items())


def holds(said: Said, scene: Scene) -> bool:
    """Whether the statement is true of the scene."""
    things, wants = scene.things, said.wants
    if said.form == "list":
        return len(things) == len(wants) and all(map(fits, things, wants))
    found = [thing for thing in things if fits(thing, wants[0])]
    if said.form == "count":
        return NUMBERS[len(found)] == said.word
    if said.form == "there":
        return bool(found)
    if said.form == "relation":
        others = [thing for thing in things if fits(thing, wants[1])]
        return any(gap(a, b, said.word) > 0 for a in found for b in others if a is not b)
    return len(found) == 1 and getattr(found[0], said.kind) == said.word


def gap(a: Thing, b: Thing, side: str) -> float:
    """How far a is on this side of b, in pixels."""
    across, down = b.x - a.x, b.y - a.y
    return {"left of": across, "right of": -across, "above": down, "below": -down}[side]


# --- making them -----------------------------------------------------------------------------------------------------


def caption(scene: Scene) -> Said:
    """`world.caption`, taken apart."""
    things = scene.things
    if len(things) > 1 and len({(t.colour, t.shape) for t in things}) == 1:
        return Said("count", (_want(things[0], ("colour", "shape")),), NUMBERS[len(things)], "number")
    if len(things) == 2:
        left, right = things
        if right.x - left.x > abs(right.y - left.y):
            return Said("relation", (_want(left), _want(right)), "left of", "side")
        upper, lower = sorted(things, key=lambda t: t.y)
        return Said("relation", (_want(upper), _want(lower)), "above", "side")
    return Said("list", tuple(map(_want, things)))


def _want(thing: Thing, names: tuple[str, ...] = ATTRIBUTES) -> Want:
    return {name: getattr(thing, name) for name in names}


def several(scene: Scene, rng: random.Random, count: int) -> list[Said]:
    """The caption, and other true statements, `count` in all; some may be the same."""
    return [caption(scene), *(another(scene, rng) for _ in range(count - 1))]


def another(scene: Scene, rng: random.Random) -> Said:
    """A true statement about part of a scene."""
    while True:
        form = rng.choices(list(_MAKERS), weights=(6, 3, 1, 2))[0]
        said = _MAKERS[form](scene, rng)
        if said is not None:
            return said


def _relation(scene: Scene, rng: random.Random) -> Said | None:
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    side = rng.choice([side for side in OPPOSITE if gap(a, b, side) > 0])
    wants = tuple(_want(thing, rng.choice(_PHRASES)) for thing in (a, b))
    return Said("relation", wants, side, "side") if gap(a, b, side) >= CLEAR else None


def _count(scene: Scene, rng: random.Random) -> Said | None:
    """Large counts are rare: taken whenever the dice find them."""
    thing = rng.choice(scene.things)
    want = _want(thing, rng.choice((("shape",), ("colour",), ("colour",), ("colour", "shape"), ())))
    count = sum(fits(other, want) for other in scene.things)
    return Said("count", (want,), NUMBERS[count], "number") if count > 1 else None


def _there(scene: Scene, rng: random.Random) -> Said:
    return Said("there", (_want(rng.choice(scene.things), rng.choice(_PHRASES)),))


def _trait(scene: Scene, rng: random.Random) -> Said | None:
    thing = rng.choice(scene.things)
    kind = rng.choice(ATTRIBUTES)
    others = [name for name in ATTRIBUTES if name != kind]
    want = _want(thing, tuple(rng.sample(others, rng.randint(1, 2))))
    want = {name: want[name] for name in ATTRIBUTES if name in want}
    alone = sum(fits(other, want) for other in scene.things) == 1
    return Said("trait", (want,), getattr(thing, kind), kind) if alone else None


_MAKERS: dict[str, Callable[[Scene, random.Random], Said | None]] = {
    "relation": _relation, "count": _count, "there": _there, "trait": _trait,
}  # fmt: skip


def falsified(said: Said, scene: Scene, rng: random.Random, withheld: bool = False) -> Wrong | None:
    """The statement with one word changed, or a list with two neighbours exchanged, such that it is false.

    Which kind of word is changed is drawn first; what takes more than recognising things (`HARD`) comes up more often.
    Pairs of `WITHHELD` are named only if `withheld` says so. None if many attempts gave nothing.
    """
    places = list(slots(said))
    kinds = sorted({name for _, name in places}) + [ORDER] * (len(said.wants) > 1 and said.form == "list")
    weights = [OFTENER if kind in HARD else 1 for kind in kinds]
    for _ in range(ATTEMPTS):
        kind = rng.choices(kinds, weights)[0]
        if kind == ORDER:
            other = _exchanged(said, rng.randrange(len(said.wants) - 1))
        else:
            slot = rng.choice([place for place in places if place[1] == kind])
            other = put(said, slot, rng.choice(choices(said, slot)))
        if (withheld or sayable(other)) and not holds(other, scene):
            return Wrong(other, kind)
    return None


def _exchanged(said: Said, i: int) -> Said:
    wants = list(said.wants)
    wants[i], wants[i + 1] = wants[i + 1], wants[i]
    return said._replace(wants=tuple(wants))


def sayable(said: Said) -> bool:
    """Whether no withheld pair of colour and shape is named."""
    wants = [want | ({said.kind: said.word} if said.form == "trait" else {}) for want in said.wants]
    return not any((want.get("colour"), want.get("shape")) in WITHHELD for want in wants)


def determined(said: Said, scene: Scene) -> list[Slot]:
    """The words of a true statement in whose place the scene allows no other."""
    return [slot for slot in slots(said) if _ways(said, slot, scene) == 1 and not _vague(said, slot, scene)]


def _ways(said: Said, slot: Slot, scene: Scene) -> int:
    return sum(holds(put(said, slot, value), scene) for value in choices(said, slot))


def _vague(said: Said, slot: Slot, scene: Scene) -> bool:
    """Whether a word of another kind would do: in "a ? ring" sizes and colours, in "two red ?" sometimes "shapes"."""
    place, name = slot
    want = said.wants[max(place, 0)]  # the trait of "the ring is ?" belongs to the only one
    if name in ("size", "colour"):
        return said.form != "count" and not {"size", "colour"} - {name} <= want.keys()
    if name == "shape" and place != WORD and said.form in ("count", "trait"):
        nameless = {key: value for key, value in want.items() if key != "shape"}
        return holds(said._replace(wants=(nameless,)), scene)
    return False
