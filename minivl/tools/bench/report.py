"""The tables of a run in Markdown, from its JSON alone, and the part of a page that holds them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...disk import replacing
from ...errors import InputError
from .results import OPPONENTS, Spread, ours, power, ratio, share, side, spread

HEAD = (
    f"| work | minivl, ms | {' | '.join(f'{name}, ratio and ms' for name in OPPONENTS)} | of the limit | differs |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)
BRIEF_HEAD = "| work | " + " | ".join(OPPONENTS) + " | of the limit |\n|---|---:|---:|---:|---:|"
FORMS = (
    "| | loading, s | first, s | each more, s | weights, GB | peak (mapped), GB | peak over weights |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)
SWEEP = "| grows with | side | {} | power |\n|---|---|{}---:|"
LIMITS = {"products": "of products", "reading": "of reading"}


def page(run: dict[str, Any]) -> str:
    """All tables of a run, with what a reader has to know about the machine."""
    results = run["results"]
    parts = [heading(run)]
    parts += [limits(result) for result in results if result["kind"] == "limits"]
    lines = [line for result in results if result["kind"] == "compare" for line in compare(result)]
    parts += ["\n".join([HEAD, *lines])] if lines else []
    parts += [forms(result) for result in results if result["kind"] == "forms"]
    parts += [sweep(result) for result in results if result["kind"] == "sweep"]
    parts += [reason(result) for result in results if result["kind"] in ("skipped", "failed")]
    return "\n\n".join(parts)


def heading(run: dict[str, Any]) -> str:
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    n = run.get("layers")
    size = f"{n} layer{'s' * (n > 1)} of each stack" if n else "sizes of the real models"
    rounds = f"{run['rounds']} round{'s' * (run['rounds'] > 1)}"
    where = f"{machine['processor']}, {machine['cores']} cores, {run['threads']} threads for every side"
    quick = " (`--quick`)" if run["quick"] else ""
    return (
        f"{where}; {size}, {rounds}{quick}, {run['date']}; {versions}. Ratios are their time / ours, so above 1"
        " minivl is faster: the median of the rounds (least to most)."
    )


def limits(result: dict[str, Any]) -> str:
    """What the machine can do, as a sentence."""
    rates = {name: result["operations"] / min(times) / 1e9 for name, times in result["products"].items()}
    reads = {name: result["bytes"] / min(times) / 1e9 for name, times in result["reading"].items()}
    products = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    reading = ", ".join(f"{rate:.1f} with {n} thread{'s' * (n != '1')}" for n, rate in reads.items())
    return f"Limits of this machine: float32 products, GFLOP/s: {products}. Reading memory, GB/s: {reading}."


def compare(result: dict[str, Any]) -> Iterator[str]:
    """A line for each form of ours."""
    limit = side(result, "limit")
    for own in ours(result):
        cells = [against(own, side(result, name)) for name in OPPONENTS]
        reached = "" if limit is None else f"{share(own, limit).median:.0%} {LIMITS[result['limit']]}"
        what = f"{result['what']}, {own['name'].removeprefix('minivl ')}"
        differs = "" if own["differs"] is None else f"{own['differs']:.0e}"
        yield f"| {what} | {milliseconds(own)} | {' | '.join(cells)} | {reached} | {differs} |"


def against(own: dict[str, Any], other: dict[str, Any] | None) -> str:
    return "" if other is None else f"{told(ratio(own, other))}, {milliseconds(other)}"


def told(values: Spread) -> str:
    return f"{values.median:.2f} ({values.least:.2f} to {values.most:.2f})"


def milliseconds(one: dict[str, Any]) -> str:
    """Three figures of the median."""
    value = spread(one["seconds"]).median * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def forms(result: dict[str, Any]) -> str:
    lines = [f"{result['what']}:\n\n{FORMS}"]
    for one in result["sides"]:
        if "skipped" in one:
            lines.append(f"| {one['name']} | skipped: {one['skipped']} | | | | | |")
            continue
        each = "" if one["each"] is None else f"{one['each']:.2f}"
        memory = f"{one['weights'] / 1e9:.2f} | {one['peak'] / 1e9:.2f} ({one['mapped'] / 1e9:.2f})"
        over = f"{one['peak'] / one['weights'] - 1:+.0%}" if one["peak"] else ""
        lines.append(f"| {one['name']} | {one['load']:.2f} | {one['first']:.2f} | {each} | {memory} | {over} |")
    return "\n".join(lines)


def sweep(result: dict[str, Any]) -> str:
    """Milliseconds by count, and the power with which they grow."""
    counts = result["counts"]
    lines = [SWEEP.format(" | ".join(f"{count}, ms" for count in counts), "---:|" * len(counts))]
    for one in result["sides"]:
        times = " | ".join(f"{statistics.median(seconds) * 1e3:.0f}" for seconds in one["seconds"])
        grows = f"{power(counts, one['seconds']):.2f} (at most {result['most']})"
        lines.append(f"| {result['what']} | {one['name']} | {times} | {grows} |")
    return "\n".join(lines)


def reason(result: dict[str, Any]) -> str:
    return f"{result['kind']}: {result['row']}: {result['reason']}"


def brief(run: dict[str, Any]) -> str:
    """The ratios alone, for a page that is about more than speed."""
    lines = [BRIEF_HEAD]
    for result in run["results"]:
        if result["kind"] == "compare":
            limit = side(result, "limit")
            for own in ours(result):
                found = [side(result, name) for name in OPPONENTS]
                cells = [told(ratio(own, other)) if other else "" for other in found]
                reached = "" if limit is None else f"{share(own, limit).median:.0%} {LIMITS[result['limit']]}"
                what = f"{result['what']}, {own['name'].removeprefix('minivl ')}"
                lines.append(f"| {what} | {' | '.join(cells)} | {reached} |")
    return f"{heading(run)}\n\n" + "\n".join(lines)


# ---- pages -----------------------------------------------------------------------------------------------------------
MARKS = {"<!-- minivl bench -->": page, "<!-- minivl bench, in brief -->": brief}
END = "<!-- end of minivl bench -->"


class Place(NamedTuple):
    """Where a page wants tables, and which."""

    begin: int
    end: int
    tables: Callable[[dict[str, Any]], str]


def place(text: str, where: str) -> Place:
    """The place between two marks. Raises InputError for a page that has none."""
    for mark, tables in MARKS.items():
        begin = text.find(mark)
        if 0 <= begin < (end := text.find(END, begin)):
            return Place(begin + len(mark), end, tables)
    raise InputError(f"{where}: wanted the lines {' or '.join(MARKS)} and {END}, found no such pair")


def read(path: Path) -> str:
    """A page's text. Raises InputError where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: wanted a readable page, found {problem}") from None


def put(path: Path, run: dict[str, Any]) -> None:
    """Put the tables of a run into a page, between its marks."""
    text = read(path)
    begin, end, tables = place(text, str(path))
    with replacing(path) as file:
        file.write(f"{text[:begin]}\n{tables(run)}\n{text[end:]}".encode())
