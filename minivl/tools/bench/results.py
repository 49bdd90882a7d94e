"""The JSON of a run, and what follows from its raw times: medians, ratios and shares.

format      1
date        when, quick and layers: whether sizes were cut
threads     of BLAS, OpenMP and torch, rounds
machine     processor, cores, memory, system, versions
results     a list of records, each with kind, row and what:
            compare   sides with seconds (one a round, for one unit), work, differs, whose they are; limit
            sweep     counts, most, and sides with seconds for each count
            forms     sides with load, first, each, weights, peak and mapped, or skipped
            limits    products and reading, seconds by way; operations and bytes
            skipped   and failed, with a reason
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...disk import read_json, replacing, show
from ...errors import InputError

FORMAT = 1
OPPONENTS = ("transformers float32", "transformers bfloat16", "torch int8")
TOP = {"format": int, "date": str, "quick": bool, "threads": int, "rounds": int, "machine": dict, "results": list}
FIELDS: dict[str, dict[str, Any]] = {
    "compare": {"limit": (str, type(None)), "sides": list},
    "sweep": {"counts": list, "most": int, "sides": list},
    "forms": {"sides": list},
    "limits": {"products": dict, "operations": float, "reading": dict, "bytes": int},
    "skipped": {"reason": str},
    "failed": {"reason": str},
}


class Spread(NamedTuple):
    """The middle one of some numbers, and the outermost ones."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def side(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A side of a record by its name."""
    return next((side for side in result["sides"] if side["name"] == name), None)


def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> Spread:
    """How many times as long they take as we do: round by round, for what else ran then slowed both."""
    return spread([b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)])


def share(of: dict[str, Any], limit: dict[str, Any]) -> Spread:
    """Which part of what the machine can do is reached: work a second over the limit's, round by round."""
    rate, most = of["work"], limit["work"]
    return spread([(rate / a) / (most / b) for a, b in zip(of["seconds"], limit["seconds"], strict=True)])


def power(counts: Sequence[int], seconds: Sequence[Sequence[float]]) -> float:
    """The power with which cost grows: the slope of log(median seconds) over log(count), by least squares."""
    x, y = [math.log(count) for count in counts], [math.log(statistics.median(times)) for times in seconds]
    return statistics.linear_regression(x, y).slope


def ours(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [side for side in result["sides"] if side["whose"] == "minivl"]


# ---- files -----------------------------------------------------------------------------------------------------------
def save(path: str | Path, run: dict[str, Any]) -> None:
    """Write a run, whole or not at all."""
    with replacing(Path(path)) as file:
        file.write(json.dumps(run, indent=1).encode() + b"\n")


def load(path: str | Path) -> dict[str, Any]:
    """Read a run. Raises InputError for a file that holds none."""
    return check(read_json(Path(path), InputError), str(path))


def check(run: dict[str, Any], where: str) -> dict[str, Any]:
    """The run itself, if every field that is read later is there. Raises InputError naming the first that is not."""
    _fields(run, TOP, where)
    if run["format"] != FORMAT:
        raise InputError(f"{where}: wanted format {FORMAT}, found {show(run['format'])}: run `minivl bench` again")
    _fields(run["machine"], {"processor": str, "cores": int, "versions": dict}, f"{where}: machine")
    for i, result in enumerate(run["results"]):
        place = f"{where}: result {i}"
        _fields(result, {"kind": str, "row": str, "what": str}, place)
        if result["kind"] not in FIELDS:
            raise InputError(f"{place}: wanted a kind among {', '.join(FIELDS)}, found {show(result['kind'])}")
        _fields(result, FIELDS[result["kind"]], place)
        if result["kind"] in ("compare", "sweep"):
            for one in result["sides"]:
                _fields(one, {"name": str, "whose": str, "seconds": list}, f"{place}: side")
    return run


def _fields(record: Any, wanted: dict[str, Any], where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: wanted an object, found {show(record)}")
    for name, kind in wanted.items():
        if name not in record or not isinstance(record[name], kind):
            found = show(record[name]) if name in record else "nothing"
            raise InputError(f"{where}: wanted {name}, found {found}: run `minivl bench` again")
