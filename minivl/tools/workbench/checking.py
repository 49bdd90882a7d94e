"""`minivl kernels check`: find the function, examine it, print the table and what is wrong."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ...errors import InputError
from . import candidate, catalogue
from .cases import OPS, contract_of
from .check import Report, examine, one_thread


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 if the function is right, 1 if not."""
    candidate.interpret()
    one, op = find(arguments.target, arguments.op)
    with one_thread():
        report = examine(one, op, arguments.seconds, arguments.first)
        said = _in_model(one, op, arguments.in_model) if arguments.in_model else None
    short = bool(report.lacking or report.refused or report.left)
    right = report.right and not (arguments.strict and short)
    print(
        json.dumps(as_json(report, right, said), ensure_ascii=False) if arguments.json else as_text(report, right, said)
    )
    return 0 if right and (said is None or said["same"]) else 1


def find(target: str, op: str | None) -> tuple[candidate.Candidate, str]:
    """The function of FILE.py:NAME, or a wrapper of ours, and the op that it is held to."""
    if op is not None and op not in OPS:
        raise InputError(f"--as {op}: the ops are {', '.join(OPS)}")
    own = catalogue.wrapper(target)
    if own is not None:
        module, function = own
        op = op or (target if target in OPS else catalogue.kernels()[target].op or None)
    else:
        module, function = candidate.attribute_of(target)
        op = op or (name if (name := target.rpartition(":")[2]) in OPS else None)
    if op is None:
        raise InputError(f"say with --as what {target} computes: one of {', '.join(OPS)}")
    if not callable(function) or type(function).__name__ in ("InterpretedFunction", "JITFunction", "Autotuner"):
        kind = "a bare kernel" if callable(getattr(function, "run", None)) else "no function"
        raise InputError(f"{target} is {kind}: name the Python function that launches it")
    contract, backward = contract_of(op)
    switches = {} if backward else contract.extras
    return candidate.Candidate(target, function, module, contract.keywords, switches), op


def _in_model(one: candidate.Candidate, op: str, model: str) -> dict[str, Any]:
    from . import in_model

    return in_model.run(one, op, model)


# ---- what is printed


def as_text(report: Report, right: bool, said: dict[str, Any] | None) -> str:
    """The table, then what is wrong, then the verdict."""
    one = report.candidate
    how = "torch tensors" if one.takes == "torch" else "NumPy arrays, in float32"
    kernels = "; its kernels are interpreted, every load and store watched" if one.triton else ""
    lines = [f"{one.name} as {report.op}: takes {how}{kernels}"]
    lines += [f"note: {note}" for note in one.notes]
    lines += ["", *_table(report), ""]
    for number, fault in enumerate(report.faults, 1):
        lines.append(f"{number}. {', '.join(dict.fromkeys(fault.aspects))}")
        lines.append(f"   smallest case: {fault.call}")
        lines.append(f"   {fault.finding}")
        lines += [f"   likely: {fault.hint}"] if fault.hint else []
        lines.append("")
    lines += [f"does not take: {name} (cases with it were left out)" for name in report.lacking]
    lines += [f"says no to {what}: {words}" for what, words in report.refused.items()]
    if report.left:
        lines.append(f"{report.left} cases were not tried: --seconds 0, without --first, tries them all")
    if said:
        lines.append(said["words"])
    lines.append(_verdict(report, right))
    return "\n".join(lines)


def _verdict(report: Report, right: bool) -> str:
    wrong, tried = len(report.wrong), len(report.tried)
    if wrong:
        return f"WRONG: {wrong} of {tried} cases, in {report.seconds:.0f} s"
    if not right:
        return f"NOT ALL OF IT: {tried} cases are right, in {report.seconds:.0f} s, and it does not take everything"
    return f"right: {tried} cases, in {report.seconds:.0f} s"


def _table(report: Report) -> list[str]:
    """Aspects down, dtypes across; "7" is seven right, "2 of 7 WRONG" is what it says."""
    dtypes = list(dict.fromkeys(case.dtype for case, _ in report.tried))
    aspects = list(dict.fromkeys(case.aspect for case, _ in report.tried))
    lines = [f"{'cases':20}" + "".join(f"{dtype:>16}" for dtype in dtypes)]
    for aspect in aspects:
        cells = []
        for dtype in dtypes:
            here = [(c, f) for c, f in report.tried if (c.aspect, c.dtype) == (aspect, dtype)]
            bad = sum(f is not None and not report.is_refusal(c, f) for c, f in here)
            no = sum(f is not None and report.is_refusal(c, f) for c, f in here)
            cell = (
                f"{bad} of {len(here)} WRONG" if bad else f"{no} of {len(here)} refused" if no else str(len(here) or "")
            )
            cells.append(f"{cell:>16}")
        lines.append(f"{aspect:20}" + "".join(cells))
    return lines


def as_json(report: Report, right: bool, said: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "function": report.candidate.name,
        "as": report.op,
        "takes": report.candidate.takes,
        "right": right,
        "cases": len(report.tried),
        "wrong": len(report.wrong),
        "not_tried": report.left,
        "does_not_take": report.lacking,
        "refuses": report.refused,
        "notes": report.candidate.notes,
        "seconds": round(report.seconds, 2),
        "faults": [
            {"aspects": list(dict.fromkeys(f.aspects)), "case": f.call, "kind": f.finding.kind,
             "finding": str(f.finding), "hint": f.hint}
            for f in report.faults
        ],
        "in_model": said,
    }  # fmt: skip
