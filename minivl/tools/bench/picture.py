"""One picture of a run: ratios with their spread, and how cost grows. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError
from .results import OPPONENTS, ours, ratio, side, spread

COLOURS = dict(zip(OPPONENTS, ("tab:blue", "tab:orange", "tab:green"), strict=True))


def needed() -> None:
    """Raise InputError with what to install if there is no matplotlib: before an hour of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        advice = "pip install 'minivl[plot]'"
        raise InputError(f"--plot needs the package 'matplotlib', which is not installed: {advice}") from None


def draw(run: dict[str, Any], path: str | Path) -> None:
    """Write the picture; its kind follows from the file's ending."""
    from matplotlib.figure import Figure

    lines = [
        (f"{result['what']}, {own['name'].removeprefix('minivl ')}", own, result)
        for result in run["results"]
        if result["kind"] == "compare"
        for own in ours(result)
    ]
    sweeps = [result for result in run["results"] if result["kind"] == "sweep"]
    figure = Figure(figsize=(15, 2.5 + max(0.42 * len(lines), 4)), layout="constrained")
    wide, *narrow = figure.subplots(1, 1 + len(sweeps), width_ratios=[3, *[1] * len(sweeps)], squeeze=False)[0]
    ratios(wide, lines)
    for axes, result in zip(narrow, sweeps, strict=True):
        growth(axes, result)
    machine = run["machine"]
    figure.suptitle(f"{machine['processor']}, {run['threads']} threads, minivl {machine['versions']['minivl']}")
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: wanted a place and an ending for a picture, found {problem}") from None


def ratios(axes: Any, lines: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    """A bar for each opponent, from 1, with the least and the most of the rounds."""
    seen = set()
    for i, (_, own, result) in enumerate(lines):
        present = [name for name in OPPONENTS if side(result, name)]
        for j, name in enumerate(present):
            values, height = ratio(own, side(result, name) or {}), 0.8 / len(present)
            error = [[values.median - values.least], [values.most - values.median]]
            label = None if name in seen else name
            at = i - 0.4 + (j + 0.5) * height
            axes.barh(at, values.median - 1, height, 1, color=COLOURS[name], xerr=error, label=label)
            seen.add(name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [what for what, *_ in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("their time / ours: right of 1 minivl is faster")
    if seen:
        axes.legend(loc="lower right")


def growth(axes: Any, result: dict[str, Any]) -> None:
    """Seconds over the count, on logarithmic axes."""
    for one in result["sides"]:
        times = [spread(seconds) for seconds in one["seconds"]]
        axes.plot(result["counts"], [values.median for values in times], marker="o", label=one["name"])
        axes.fill_between(result["counts"], [v.least for v in times], [v.most for v in times], alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_title(result["what"], fontsize=9)
    axes.set_ylabel("seconds")
    axes.legend(fontsize=8)
