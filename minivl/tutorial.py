"""What the tutorials share: their pictures, drawings, which are left out where matplotlib is missing, and a check of
what the reader answers.

    from minivl import tutorial

    star = tutorial.picture("red_triangle_above_yellow_star.png")
    tutorial.show([star, weights], ["what it saw", "where it looked"])
    tutorial.check(None, "a1b2c3d4")          write the answer in place of None
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from PIL import Image

EDGE, WIDTH = 1.5, 6.0  # inches of a panel, and of all panels of a row together, at most


def picture(name: str) -> Image.Image:
    """A picture of tutorials/pictures, for a script that runs in the repository's root, in tutorials/, or near them."""
    from PIL import Image

    roots = [Path(), Path(".."), Path(__file__).resolve().parents[1]]
    for path in (root / "tutorials/pictures" / name for root in roots):
        if path.is_file():
            return Image.open(path).convert("RGB")
    raise InputError(f"no picture tutorials/pictures/{name}: run this in the root of a checkout, or in tutorials/")


def pyplot() -> Any:
    """matplotlib.pyplot; None where matplotlib is missing, which is said once: `if plt := tutorial.pyplot(): ...`"""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        miss_pictures()
        return None
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")  # a script without a display goes on
    return plt


@cache
def miss_pictures() -> None:
    """Printed once."""
    print("(no pictures: they are drawn by matplotlib, pip install 'minivl[plot]')")


def show(
    panels: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    over: Any = None,
    title: str = "",
    columns: int = 6,
    signed: bool = False,
) -> None:
    """Draw pictures and maps beside each other.

    panels   pictures, or arrays (h, w, 3) of colours, or maps (h, w) of numbers, dark where they are large
    over     a picture that lies under every map, which then is light where its numbers are large
    signed   maps run from -1, red, through white to 1, blue
    """
    plt = pyplot()
    if plt is None:
        return
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    edge = min(EDGE, WIDTH / columns)
    size = (columns * edge, rows * (edge + 0.2 * bool(titles)) + 0.4 * bool(title))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        draw(axis, np.asarray(panel), over, signed)
    for axis, text in zip(axes.flat, titles, strict=False):
        axis.set_title(text, fontsize=8)
    figure.suptitle(title, fontsize=10)
    plt.show()
    plt.close(figure)


def check(answer: Any, wanted: str) -> None:
    """Whether an answer is right, without giving it away: `wanted` is its `digest`. None is no answer yet.

    Raises AssertionError for a wrong one.
    """
    if answer is None:
        print("your turn: write the answer in place of None")
    elif digest(answer) != wanted:
        raise AssertionError(f"{answer!r} is not right yet")
    else:
        print(f"{answer} is right")


def digest(answer: Any) -> str:
    """What stands for an answer, a number, a word or a list of them."""
    return hashlib.sha256(f"minivl {answer}".lower().encode()).hexdigest()[:8]


def draw(axis: Any, panel: np.ndarray, over: Any, signed: bool) -> None:
    """One panel of `show`."""
    if panel.ndim == 3:
        axis.imshow(panel)
    elif signed:
        axis.imshow(panel, vmin=-1, vmax=1, cmap="RdBu")
    elif over is None:
        axis.imshow(panel, vmin=0, cmap="Blues")
    else:
        under = np.asarray(over)
        edges = (-0.5, under.shape[1] - 0.5, under.shape[0] - 0.5, -0.5)
        axis.imshow(under)
        axis.imshow(np.zeros_like(panel), extent=edges, vmin=0, cmap="gray", alpha=0.75 * (1 - panel / panel.max()))
