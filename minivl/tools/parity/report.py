"""What a comparison found, to be printed, kept as JSON, shown in a notebook or as a page."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .diagnosis import Diagnosis
from .flow import Row

RULE = (
    "Same means: B's error against float64 is at most twice A's, plus eps * sqrt(layers so far)"
    " (largest error over largest number: 4 times that floor)."
)
SHOWN = 12  # rows that a text shows before the first that differs


@dataclass
class Run:
    """One model of the checkpoint: its rows, and where the sides part."""

    model: str
    rows: list[Row]
    first: Row | None = None
    worst: tuple[tuple[int, ...], float, float] | None = None  # index, A's number, B's number
    diagnosis: Diagnosis | None = None

    @property
    def same(self) -> bool:
        return self.first is None


@dataclass
class Report:
    """A comparison of two sides. `same`, `first`, `diagnosis` and `worst` are those of the first model that differs."""

    a: str
    b: str
    checkpoint: str
    runs: list[Run] = field(default_factory=list)
    versions: str = ""

    @property
    def same(self) -> bool:
        return all(run.same for run in self.runs)

    @property
    def parted(self) -> Run | None:
        """The first model at which the sides differ."""
        return next((run for run in self.runs if not run.same), None)

    @property
    def first(self) -> Row | None:
        return self.parted.first if self.parted else None

    @property
    def diagnosis(self) -> Diagnosis | None:
        return self.parted.diagnosis if self.parted else None

    @property
    def worst(self) -> tuple[tuple[int, ...], float, float] | None:
        return self.parted.worst if self.parted else None

    def __bool__(self) -> bool:
        return self.same

    def line(self) -> str:
        """One line to paste into a thread."""
        rows = [row for run in self.runs for row in run.rows]
        models = ", ".join(dict.fromkeys(run.model for run in self.runs))
        top = max(rows, key=lambda row: row.excess, default=None)
        worst = f"worst error {top.error_b:.2g} at {top.name} ({top.excess:.2g} of what is allowed)" if top else ""
        verdict = "same" if self.same else f"DIFFERENT at {self.first.name if self.first else ''}"
        sides = f"{self.a} against {self.b}"
        return f"{self.checkpoint} ({models}): {sides}; {self.versions}; {len(rows)} activations; {worst}; {verdict}"

    def __str__(self) -> str:
        return "\n".join([f"A: {self.a}    B: {self.b}", RULE, *(_text(run) for run in self.runs), "", self.line()])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; numbers that are not finite become null."""
        plain = {
            "a": self.a,
            "b": self.b,
            "checkpoint": self.checkpoint,
            "versions": self.versions,
            "rule": RULE,
            "same": self.same,
            "runs": [_run(run) for run in self.runs],
        }
        return _finite(plain)

    def json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def _repr_html_(self) -> str:
        return "\n".join(_section(run) for run in self.runs) + f"<p><code>{html.escape(self.line())}</code></p>"

    def html(self) -> str:
        """A page that stands alone."""
        title = html.escape(f"{self.a} against {self.b}: {self.checkpoint}")
        return (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<style>{STYLE}</style>\n'
            f"<h1>{title}</h1><p>{html.escape(RULE)}</p>\n{self._repr_html_()}\n</html>\n"
        )


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}h1,h2,p{overflow-wrap:anywhere}"
    "td,th{padding:.1em .7em;text-align:right}td:nth-child(-n+2){text-align:left}"
    "th{border-bottom:1px solid}code{font-size:.9em}.different{background:#fbe3c8;color:#000}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"
)


def _run(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {"model": run.model, "same": run.same, "rows": [asdict(row) for row in run.rows]}
    if run.first is not None:
        found["first"] = run.first.name
        found["worst"] = dict(zip(("index", "a", "b"), run.worst or ((), None, None), strict=True))
    if run.diagnosis is not None:
        found["diagnosis"] = {
            "sentence": run.diagnosis.sentence,
            "suspects": [finding._asdict() for finding in run.diagnosis.findings],
        }
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- text ----------------------------------------------------------------------------------------
COLUMNS = ("activation", "module on the Hub", "A error", "B error", "allowed", "largest B-A", "rel. B-A", "1 - cosine")


def _cells(row: Row) -> list[str]:
    numbers = (row.error_a, row.error_b, row.allowed, row.difference, row.relative, 1 - row.cosine)
    return [row.name, row.hub, *(_number(x) for x in numbers)]


def _number(x: float) -> str:
    return f"{x:.1e}" if math.isfinite(x) else str(x)


def _kept(run: Run) -> list[Row | None]:
    """The rows that a text shows: the layers' ends on the way, and all of the last ones; None for those left out."""
    last = next((i for i, row in enumerate(run.rows) if not row.same), len(run.rows) - 1)
    near = range(max(0, last - SHOWN + 1), min(len(run.rows), last + 1))
    ends = [i for i in range(near.start) if run.rows[i].name.rpartition(".")[2] in _ENDS or _is_layer(run.rows[i])]
    step = max(1, -(-len(ends) // SHOWN))
    shown = [*ends[::step], *near]
    kept: list[Row | None] = []
    for before, i in zip([-1, *shown], shown, strict=False):
        kept += [None] * (i > before + 1) + [run.rows[i]]
    return kept


_ENDS = ("embeddings", "mlp_ln", "projection", "patch")


def _is_layer(row: Row) -> bool:
    return row.name.rpartition(".layers.")[2].isdigit()


def _text(run: Run) -> str:
    table = [list(COLUMNS), *([*_cells(row)] if row else ["..."] + [""] * 7 for row in _kept(run))]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
    lines = [f"\n{run.model}: {len(run.rows)} activations compared", *(line.rstrip() for line in lines)]
    return "\n".join([*lines, *_verdict(run)])


def _verdict(run: Run) -> list[str]:
    if run.first is None:
        return ["same"]
    lines = [f"first difference: {run.first.name}" + (f"  ({run.first.hub})" if run.first.hub else "")]
    if run.worst and run.worst[0]:
        index, a, b = run.worst
        lines.append(f"  worst at {list(index)}: A {a:.9g}, B {b:.9g}")
    if run.diagnosis is not None:
        lines.append(f"  diagnosis: {run.diagnosis.sentence}")
        for finding in run.diagnosis.findings[:5]:
            lines.append(f"    {finding.explained:8.3f}  {finding.change}")
    return lines


# ---- page ----------------------------------------------------------------------------------------
def _section(run: Run) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    rows = "\n".join(
        f"<tr{'' if row.same else ' class=different'}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))
        + "</tr>"
        for row in run.rows
    )
    verdict = "<br>".join(html.escape(line) for line in _verdict(run))
    return f"<h2>{html.escape(run.model)}</h2><p>{verdict}</p><table><tr>{head}</tr>\n{rows}</table>"
