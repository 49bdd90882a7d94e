"""`minivl kernels compare`: two kernels, chips or shapes side by side, in the counts of their compiled code."""

from __future__ import annotations

import argparse

from .inspecting import Inspection, inspect, rows_of

SAME = "="


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    sides = [_side(side, arguments) for side in arguments.sides]
    print(as_text(sides, arguments.sides))
    return 0


def _side(text: str, arguments: argparse.Namespace) -> Inspection:
    """NAME, NAME@CHIP or NAME@CHIP@SHAPE."""
    from ...errors import InputError
    from ...kernels.checking.chips import CHIPS

    name, chip, shape = (*text.split("@", 2), "", "")[:3]
    chip = chip or arguments.chip
    if chip not in CHIPS:
        raise InputError(f"{text}: {chip!r} is no target; the targets are {', '.join(CHIPS)}")
    return inspect(name, chip, shape or arguments.shape, arguments.dtype, arguments.op, arguments.arg, arguments.warps,
                   arguments.stages, lines=False)  # fmt: skip


def table(sides: list[Inspection]) -> list[tuple[str, str, str]]:
    """Name, left, right; of the launch that does the work on each side."""
    left, right = (dict([("kernel", side.main.facts["kernel"]), ("launches", str(len(side.launches))),
                         *rows_of(side.main.facts)]) for side in sides)  # fmt: skip
    for side, rows in zip(sides, (left, right), strict=True):
        if side.roofline and side.roofline["bound"]:
            bound = side.roofline["bound"]
            rows["the work itself"] = (
                f"at least {side.roofline['microseconds'][bound]} µs, {bound} ({side.roofline['chip']})"
            )
    return [(name, left.get(name, "-"), right.get(name, "-")) for name in dict.fromkeys([*left, *right])]


def as_text(sides: list[Inspection], names: list[str]) -> str:
    """Two columns where they fit, what differs marked with *."""
    rows = table(sides)
    lines = [f"left   {sides[0].title}; {sides[0].dtype}, {sides[0].chip}",
             f"right  {sides[1].title}; {sides[1].dtype}, {sides[1].chip}", ""]  # fmt: skip
    for name, left, right in rows:
        if left == right:
            lines.append(f"  {name:16} {left}")
        else:
            lines += [f"* {name:16} {left}", f"  {'':16} {right}"]
    return "\n".join([*lines, "", "counted in compiled code; nothing was run. * differs: left above, right below"])
