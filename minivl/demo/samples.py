"""The sample pictures:  python -m minivl.demo.samples tutorials/pictures

A dozen scenes that training cannot have seen: for each count of things the first few held-out ones, whatever they show.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minivl.demo import world

SEED = 12
WANTED = {1: 4, 2: 4, 3: 2, 4: 2}  # things in a picture: how many such pictures


def samples() -> dict[str, world.Scene]:
    """File names, which tell what is to be seen, and scenes."""
    left = dict(WANTED)
    found: dict[str, world.Scene] = {}
    for scene in world.scenes("test", SEED):
        count = len(scene.things)
        if left[count]:
            left[count] -= 1
            found[file_name(scene)] = scene
        if not any(left.values()):
            return found
    raise AssertionError("scenes never end")


def file_name(scene: world.Scene) -> str:
    """a large red ring above a small blue star -> red_ring_above_blue_star.png"""
    words = world.caption(scene).replace(",", "").split()
    return "_".join(word for word in words if word not in ("a", "and", *world.RADII)) + ".png"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in samples().items():
        world.draw(scene).save(folder / name, optimize=True)


if __name__ == "__main__":
    main()
