"""`minivl bench`: measure, print a table as it grows, and keep the raw times.

Every group of rows has a process of its own, so that its memory is given back, and so that the number of threads is
set before NumPy is imported.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import machine, others, picture, report, results, rows
from .rows import ROWS, Plan
from .status import leave_on_terminate, surroundings

QUICK_LAYERS, QUICK_ROUNDS, ROUNDS = 2, 2, 5
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
GRACE = 20  # seconds in which a child has to end


def options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `minivl bench`."""
    add = parser.add_argument
    known = [row.name for row in ROWS]
    add("rows", nargs="*", metavar="ROW", type=_one_of(known), help="which rows, see --list (default: all)")
    add("--list", action="store_true", help="say which rows there are and what each needs, and measure nothing")
    add("--quick", action="store_true", help=f"{QUICK_LAYERS} layers and {QUICK_ROUNDS} rounds: under three minutes")
    add("--layers", type=_count, metavar="N", help="layers of every stack, for machines with less memory")
    add("--rounds", type=_count, metavar="N", help=f"how often the sides take turns (default: {ROUNDS})")
    add("--threads", type=_count, metavar="N", help="threads of every side (default: the cores)")
    add("--json", metavar="FILE", help="write the raw times and what ran where")
    add("--plot", metavar="FILE", help="write a picture of the results (needs the extra plot)")
    add("--folder", metavar="DIR", help="where large checkpoints are written, and found again (default: temporary)")
    add("--from", dest="earlier", metavar="FILE", help="measure nothing, tell about the JSON of an earlier run")
    about = f"put the tables into a Markdown page, between {' or '.join(report.MARKS)} and {report.END}"
    add("--into", metavar="PAGE", help=about)


def _one_of(known: list[str]) -> Any:
    def row(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is no row: they are {', '.join(known)}")
        return text

    return row


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number above 0, found {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0, or 1 if a row failed."""
    if arguments.list:
        print("\n".join(listing(arguments.layers)))
        return 0
    if arguments.plot:
        picture.needed()
    if arguments.into:
        report.place(report.read(Path(arguments.into)), arguments.into)  # better known before an hour of measuring
    if arguments.earlier:
        found = results.load(arguments.earlier)
        print(report.page(found))
    else:
        leave_on_terminate()
        found = measured(plan_of(arguments), arguments.json)
    if arguments.plot:
        picture.draw(found, arguments.plot)
    if arguments.into:
        report.put(Path(arguments.into), found)
    return 1 if any(result["kind"] == "failed" for result in found["results"]) else 0


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the arguments ask for; packages that are missing are told in one line."""
    quick, absent = arguments.quick, others.missing()
    if absent:
        packages = " and ".join(absent)
        complain(f"only our own times are measured: {packages} not installed (pip install 'minivl[test]')")
    return Plan(
        rows=tuple(dict.fromkeys(arguments.rows)) or tuple(row.name for row in ROWS),
        layers=arguments.layers or (QUICK_LAYERS if quick else None),
        rounds=arguments.rounds or (QUICK_ROUNDS if quick else ROUNDS),
        threads=arguments.threads or machine.cores(),
        others=not absent,
        folder=arguments.folder,
        quick=quick,
    )


def listing(layers: int | None) -> Iterator[str]:
    """The rows with the memory and the disk that each needs."""
    yield "| row | what | memory, GB | disk, GB |\n|---|---|---:|---:|"
    for row in ROWS:
        memory, disk = rows.memory(row.group, layers) / 1e9, rows.disk(row.group, layers) / 1e9
        yield f"| {row.name} | {row.about} | {memory:.1f} | {f'{disk:.1f}' if disk else ''} |"


# ---- measuring -------------------------------------------------------------------------------------------------------
def measured(plan: Plan, path: str | None) -> dict[str, Any]:
    """A run: each result is printed, and the JSON written anew, as soon as it is there."""
    found: dict[str, Any] = {
        "format": results.FORMAT,
        "date": datetime.date.today().isoformat(),
        **{name: getattr(plan, name) for name in ("quick", "layers", "threads", "rounds")},
        "machine": machine.about(),
        "results": [],
    }
    if path:
        results.save(path, found)  # a place that cannot be written to is better known now
    print(report.heading(found), flush=True)
    last = None
    for result in every(plan):
        found["results"].append(result)
        print(printed(result, last), flush=True)
        last = result["kind"]
        if path:
            results.save(path, found)
    return found


def printed(result: dict[str, Any], last: str | None) -> str:
    """A result as the next lines of the output; lines of one table stand together."""
    if result["kind"] == "compare":
        lines = "\n".join(report.compare(result))
        return lines if last == "compare" else f"\n{report.HEAD}\n{lines}"
    shown = {"limits": report.limits, "forms": report.forms, "sweep": report.sweep}
    return "\n" + shown.get(result["kind"], report.reason)(result)


def every(plan: Plan) -> Iterator[dict[str, Any]]:
    """All results of a plan; a group for which the machine has no memory is skipped with the reason."""
    together: list[str] = []
    for group, names in rows.grouped(plan.rows).items():
        needs, free = rows.memory(group, plan.layers), machine.free_memory()
        if free is not None and needs > free:
            reason = f"needs {needs / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; --layers N needs less"
            yield from ({"kind": "skipped", "row": name, "what": name, "reason": reason} for name in names)
        elif plan.quick and group not in rows.ALONE:
            together += names  # importing transformers takes longer than these rows
        else:  # with --quick two processes of a side are enough, the first of which does not count
            rounds = max(1, plan.rounds // 2) if plan.quick else plan.rounds
            yield from within_a_process(plan._replace(rows=names, rounds=rounds))
    if together:
        yield from within_a_process(plan._replace(rows=tuple(together)))


def within_a_process(plan: Plan) -> Iterator[dict[str, Any]]:
    """The results of a child; rows of which it says nothing before it ends have failed."""
    complain(f"measuring {', '.join(plan.rows)} ...")
    environment = {**surroundings(with_minivl=True), **{name: str(plan.threads) for name in THREADS}}
    command = [sys.executable, "-m", "minivl.tools.bench.child", json.dumps(plan._asdict())]
    told = set()
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True)
        try:
            for line in child.stdout or ():
                result = json.loads(line)
                told.add(result["row"])
                yield result
            status = child.wait()
        finally:
            stop(child)
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    for name in plan.rows:
        if name not in told or (status and name == plan.rows[-1]):
            why = "it was killed, for want of memory perhaps" if status == -9 else said[0]
            reason = f"its process ended with status {status}: {why}"
            yield {"kind": "failed", "row": name, "what": name, "reason": reason}


def stop(child: subprocess.Popen) -> None:
    """End a child that still runs, with time to take away its files and its own children."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def complain(text: str) -> None:
    print(f"minivl: {text}", file=sys.stderr, flush=True)
