"""A function against an op's contract: many cases, and for what is wrong the smallest case that shows it.

Every case is one call, judged by judge.py. Afterwards the wrong ones are made small, step by step, as long as they stay
wrong in the same way, and hints.py looks for the mistake.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from . import hints, judge
from . import references as answers
from .candidate import Candidate, first_line
from .cases import DTYPES, LETTERS, Case, Contract, arguments, cases, contract_of
from .judge import Finding
from .layouts import everything

REFUSABLE = ("head widths",)  # a kernel that says no to these may still be right
MOST_FAULTS = 5  # that are made small and explained
MOST_TRIES = 80  # calls to make one small


@dataclass
class Fault:
    """Something wrong: the smallest case that shows it, what is wrong there, and what it looks like."""

    case: Case
    finding: Finding
    hint: str
    call: str  # the arguments in words
    aspects: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What came out."""

    candidate: Candidate
    op: str
    tried: list[tuple[Case, Finding | None]] = field(default_factory=list)
    left: int = 0  # cases that there was no time for
    lacking: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[tuple[Case, Finding]]:
        return [(case, finding) for case, finding in self.tried if finding and not self.is_refusal(case, finding)]

    @property
    def right(self) -> bool:
        return not self.wrong and any(finding is None for _, finding in self.tried)

    @staticmethod
    def is_refusal(case: Case, finding: Finding) -> bool:
        """It said no to a dtype or a head width, in so many words: less than the contract, and not a wrong answer."""
        return finding.kind == "raised" and (case.aspect in REFUSABLE or case.aspect == "dtype")


class Examiner:
    """Puts cases to a candidate."""

    def __init__(self, candidate: Candidate, op: str):
        self.candidate, self.op = candidate, op
        self.contract: Contract
        self.contract, self.backward = contract_of(op)
        self.times = 3.0 if self.backward else 2.0
        self.dtypes = DTYPES if candidate.takes == "torch" else DTYPES[:1]

    def given(self, case: Case) -> dict[str, Any]:
        return arguments(self.contract, case, self.backward)

    def lacks(self, case: Case) -> str | None:
        """The keyword that a case needs and the function does not take."""
        return next((name for name in self.candidate.lacking if name in self.given_names(case)), None)

    def given_names(self, case: Case) -> set[str]:
        return {name for name in (*case.choices, *case.layouts)}

    def ask(self, case: Case, switch: str | None = None) -> Finding | None:
        """One call, judged."""
        given = self.given(case)
        before = {name: everything(x) for name, x in given.items() if isinstance(x, torch.Tensor)}
        try:
            found = self.candidate.call(*answers.split(self.contract, given), switch=switch)
        except (Exception, SystemExit) as error:
            kind = "fault" if "KernelFault" in first_line(error)[:12] else "raised"
            return Finding(kind, first_line(error).removeprefix("KernelFault: "))
        for name, kept in before.items():
            if not torch.equal(everything(given[name]), kept):
                return Finding("changed", f"the call changed its argument {name}", name)
        return self._judge(case, given, found, switch)

    def _judge(self, case: Case, given: dict[str, Any], found: Any, switch: str | None) -> Finding | None:
        exact, reference = answers.exact(self.contract, given), answers.in_torch(self.contract, given)
        names = answers.result_names(self.contract, given)
        results = list(found) if isinstance(found, tuple | list) else [found]
        more = self.contract.extras.get(switch or "", ())
        if not self.backward and not switch and len(results) > 1:
            more = next(iter(self.contract.extras.values()), ())  # gives the rest without being asked
        if self.backward and len(results) == len(names) - 1 and names[-1] == "dbias" and exact[-1] is None:
            results.append(None)
        if len(results) != len(names) + len(more):
            wanted = ", ".join([*names, *more])
            missing = names[-1] if self.backward and len(results) == len(names) - 1 else "the result"
            return Finding("form", f"it gave {len(results)} results, and should give {wanted}", missing)
        slack = judge.slack(given)
        for name, got, right, honest in zip(names, results, exact, reference, strict=False):
            finding = self._judge_one(case, name, self._tensor(got, honest), right, honest, slack)
            if finding:
                return finding
        for name, got in zip(more, results[len(names) :], strict=True):
            got = torch.from_numpy(got) if self.candidate.takes == "numpy" and hasattr(got, "dtype") else got
            finding = judge.further_is_right(name, got, answers.further(name, given), given, case)
            if finding:
                return finding
        return None

    def _judge_one(self, case: Case, name: str, got: Any, right: Any, honest: Any, slack: float) -> Finding | None:
        if right is None or got is None:
            if got is None and right is not None:
                return Finding("form", f"{name} is None, and should be an array of shape {tuple(right.shape)}", name)
            return None
        if not hasattr(got, "shape"):
            return Finding("form", f"{name} is of type {type(got).__name__}, and should be an array", name)
        return judge.compare(got, right, honest, case, self.times, slack, name)

    def _tensor(self, got: Any, honest: Any) -> Any:
        """A NumPy function's answer as a tensor; float64 for float32 is said once and forgiven."""
        if self.candidate.takes != "numpy" or not hasattr(got, "dtype"):
            return got
        import numpy as np

        tensor = torch.from_numpy(np.array(got))
        if tensor.dtype == torch.float64 and honest is not None and honest.dtype == torch.float32:
            note = "it gives float64 for float32: wider than the op, and a model goes on in float64"
            if note not in self.candidate.notes:
                self.candidate.notes.append(note)
            return tensor.float()
        return tensor


def examine(candidate: Candidate, op: str, seconds: float = 20.0, first: bool = False) -> Report:
    """Every case for which there is time; then the smallest cases of what was wrong.

    seconds  0: all the time it needs      first  stop at the first case that is wrong
    """
    start = time.monotonic()
    contract, backward = contract_of(op)
    small = Case("sizes", sizes={"B": 1, "H": 1, "T": 2, "S": 3, "D": 16, "C": 16, "F": 2})
    candidate.find_out(*answers.split(contract, arguments(contract, small, backward)))
    examiner = Examiner(candidate, op)
    report = Report(candidate, op)
    for case, switch in _plan(examiner, report):
        if seconds and time.monotonic() - start > seconds or first and report.wrong:
            report.left += 1
            continue
        if case.dtype in report.refused:
            continue
        finding = examiner.ask(case, switch)
        if finding and finding.kind == "raised" and case.dtype != "float32" and _refuses_dtype(examiner, case):
            report.refused[case.dtype] = finding.words
            continue
        if finding and Report.is_refusal(case, finding):
            report.refused.setdefault(f"head width {case.size('D')}", finding.words)
        report.tried.append((case, finding))
    _explain(examiner, report, seconds and 8.0)
    report.seconds = time.monotonic() - start
    return report


def _plan(examiner: Examiner, report: Report) -> Iterator[tuple[Case, str | None]]:
    """The cases that the function can be asked, and where it has switches for further results, some with those on."""
    switched: set[tuple[str, str, str]] = set()
    for case in cases(examiner.op):
        if case.dtype not in examiner.dtypes:
            continue
        if missing := examiner.lacks(case):
            if missing not in report.lacking:
                report.lacking.append(missing)
            continue
        yield case, None
        wanted = case.values == "normal" and max(case.sizes.values(), default=0) > 1
        for switch in (
            examiner.candidate.switches if wanted and (case.dtype == "float32" or case.aspect == "sizes") else ()
        ):
            if (case.aspect, case.dtype, switch) not in switched:
                switched.add((case.aspect, case.dtype, switch))
                yield case.but(aspect=SWITCHED[switch]), switch


SWITCHED = {"with_lse": "log-sum-exp", "with_statistics": "statistics", "with_sum": "the sum"}
SWITCH_OF = {aspect: switch for switch, aspect in SWITCHED.items()}


def _refuses_dtype(examiner: Examiner, case: Case) -> bool:
    """Whether the very same case goes through in float32."""
    finding = examiner.ask(case.but(dtype="float32"))
    return finding is None or finding.kind != "raised"


def _explain(examiner: Examiner, report: Report, seconds: float) -> None:
    """Make the first wrong case of each aspect small; those that come down to the same case are one fault."""
    end = time.monotonic() + seconds if seconds else float("inf")
    seen: dict[tuple[str, str], Fault] = {}
    for case, finding in report.wrong:
        key = (case.aspect, finding.kind)
        if key in seen or len(report.faults) >= MOST_FAULTS and time.monotonic() > end:
            continue
        left = min(end, time.monotonic() + max(seconds / 3, 2.0)) if seconds else end
        small, smaller = shrink(examiner, case, finding, left)
        hint = hints.hint(examiner, (small, smaller), (case, finding), left + 2)
        same = [f for f in report.faults if f.case.but(aspect="") == small.but(aspect="") or hint and f.hint == hint]
        if same:
            same[0].aspects.append(case.aspect)
            seen[key] = same[0]
            continue
        seen[key] = Fault(small, smaller, hint, call_in_words(examiner.given(small), small), [case.aspect])
        report.faults.append(seen[key])


def shrink(examiner: Examiner, case: Case, finding: Finding, end: float) -> tuple[Case, Finding]:
    """The smallest case that is still wrong in the same way: every step that can be taken back is tried."""
    switch, tries, progress = SWITCH_OF.get(case.aspect), 0, True
    while progress:
        progress = False
        for smaller in _smaller(examiner.contract, case):
            tries += 1
            if time.monotonic() > end or tries > MOST_TRIES:
                return case, finding
            again = examiner.ask(smaller, switch)
            if again and again.kind == finding.kind and again.result == finding.result:
                case, finding, progress = smaller, again, True
                break
    return case, finding


def _smaller(contract: Contract, case: Case) -> Iterator[Case]:
    """Cases with one thing less, the largest step first."""
    letters = [letter for letter in LETTERS if _uses(contract, letter)]
    if case.dtype != "float32" and case.aspect != "long sums":
        yield case.but(dtype="float32")
    for name in case.choices:
        if contract.op != "linear_act" or name != "act":
            yield case.but(choices={name: None})
    if len(set(case.layouts)) > 1:
        for name in case.layouts:
            yield case.but(layouts={name: None})
    if case.values != "normal" and case.aspect != "long sums":
        yield case.but(values="normal")
    for letter in letters:
        size = case.size(letter)
        for less in sorted({1, 2, 16, 17, 33, 65, size // 2, size - 1}):
            if 0 < less < size and not (letter == "D" and less < 16) and _fits(case, letter, less):
                yield case.but(sizes={letter: less})


def _uses(contract: Contract, letter: str) -> bool:
    axes = (
        "".join(contract.floats.values()) + {"embed": "BT"}.get(contract.op, "") + "P" * (contract.op == "patch_embed")
    )
    return letter in axes


def _fits(case: Case, letter: str, size: int) -> bool:
    return not (letter in "YX" and size < case.size("P"))


def call_in_words(given: dict[str, Any], case: Case) -> str:
    """The arguments: "q (1, 1, 33, 64), k (1, 1, 47, 64) padded, causal=True; float32"."""
    parts = []
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            layout = case.layouts.get(name, "plain")
            lies = "" if layout == "plain" else f" {layout} in memory, strides {tuple(value.stride())}"
            kind = f" {case.choices[name]!r}" if name in case.choices else ""
            parts.append(f"{name} {tuple(value.shape)}{kind}{lies}")
        else:
            parts.append(f"{name}={value}")
    numbers = "" if case.values == "normal" else f"; numbers: {case.values}"
    return f"{', '.join(parts)}; {case.dtype}{numbers}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small arrays are slower on many threads, and the sums of torch then differ from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
