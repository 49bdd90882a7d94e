"""Times that can be compared: sides take turns in one process, with a pause between them, and must agree.

Idle threads of BLAS and OpenMP spin for a while and keep a core busy, hence the pause. What else runs on a machine
comes and goes, hence the turns: a ratio is taken within each round, and the median of the rounds is what is told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import MinivlError

PAUSE = 0.1  # seconds between two sides
LEAST = 0.1  # seconds that a measurement lasts: what is quicker is repeated
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.2}  # of the whole output, relative to the reference


class Disagreement(MinivlError):
    """Two sides that compute different things, of which no time is told."""


class Side(NamedTuple):
    """One of those that are timed. `run` takes what `prepare` gives, which is not timed, and gives the output."""

    name: str
    whose: str  # "minivl", "other", or "limit" for what the machine can do
    run: Callable[..., Any]
    prepare: Callable[[], tuple[Any, ...]] | None = None
    tolerance: float = TOLERANCES["float32"]
    work: float = 0.0  # operations or bytes of one unit, where a limit is measured
    units: int = 1  # tokens of a run: times are told for one


def measure(row: str, what: str, sides: Sequence[Side], rounds: int, limit: str | None = None) -> dict[str, Any]:
    """Time sides against each other. The first one is the reference of the outputs.

    limit   what the side called "limit" is the limit of
    Raises Disagreement, with nothing timed, for an output further from the reference than the side's tolerance.
    """
    outputs, repeats = {}, {}
    for side in sides:  # the warm-up
        outputs[side.name], seconds = _timed(side, 1)
        repeats[side.name] = 1 if side.prepare else max(1, math.ceil(LEAST / seconds))
    differences = agree(row, sides, outputs)
    del outputs
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for n in range(rounds):
        first = n % len(sides)
        for side in (*sides[first:], *sides[:first]):
            times[side.name].append(_timed(side, repeats[side.name])[1] / side.units)
    told = [
        {"name": s.name, "whose": s.whose, "seconds": times[s.name], "work": s.work, "differs": differences[s.name]}
        for s in sides
    ]
    return {"kind": "compare", "row": row, "what": what, "limit": limit, "sides": told}


def _timed(side: Side, repeats: int) -> tuple[Any, float]:
    """The output and the seconds of one run."""
    state = side.prepare() if side.prepare else ()
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(repeats):
        output = side.run(*state)
    return output, (time.perf_counter() - start) / repeats


def agree(row: str, sides: Sequence[Side], outputs: dict[str, Any]) -> dict[str, float | None]:
    """How far each output is from the first side's; None for a side without one."""
    reference = sides[0]
    found: dict[str, float | None] = {}
    for side in sides:
        found[side.name] = None if side.whose == "limit" else difference(outputs[side.name], outputs[reference.name])
        if side.whose != "limit" and not difference(outputs[side.name], outputs[reference.name]) <= side.tolerance:
            raise Disagreement(
                f"{row}: {side.name} and {reference.name} differ by {found[side.name]:.2g} of the output, more than"
                f" {side.tolerance:g}: what computes different things is not timed"
            )
    return found


def difference(a: Any, b: Any) -> float:
    """|a - b| / |b| over all numbers; of texts 0 for equal ones."""
    if isinstance(a, str) or isinstance(b, str):
        return 0.0 if a == b else math.inf
    x, y = numbers(a), numbers(b)
    if x.shape != y.shape:
        return math.inf
    apart = float(np.linalg.norm(x - y) / max(float(np.linalg.norm(y)), 1e-30))
    return apart if math.isfinite(apart) else math.inf


def numbers(x: Any) -> np.ndarray:
    """The float64 numbers of an array or of a tensor, on one axis."""
    return np.asarray(x.float() if hasattr(x, "detach") else x, np.float64).reshape(-1)
