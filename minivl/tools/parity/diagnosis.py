"""The diagnosis: which single change explains best why one activation differs.

Every suspect is the layer run once more in float64, on the judge's inputs to that layer, with one thing changed. What
it gives is compared with what B gave:

    explained = 1 - |B - suspect| / |B - A|         1: this change makes B's numbers; 0: no better than none

A suspect counts from ENOUGH on (roundings from a little below), or if what is left is within the tolerance of the row.
Below that the difference is called unknown; it is never forced onto the nearest suspect. Where B's weights can be read
they are compared as well, and a weight that differs is named, together with how it differs where that has a name.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .flow import Parting
from .suspects import suspects

ENOUGH = 0.9
ENOUGH_ROUNDED = 0.8  # a number between two of a narrow kind may be rounded to the one on A's inputs, the other on B's
ALL = 0.998  # but for roundings
NEAR = 4.0  # times the tolerance: up to here a difference may have grown from smaller ones before it
LEVEL = 0.01  # suspects this close to the best are named beside it
KEPT = 8  # findings of a diagnosis


class Finding(NamedTuple):
    """A suspect, and how much of the difference it explains."""

    change: str
    explained: float
    enough: bool  # to be believed
    exact: bool  # what is left is within the tolerance


class Diagnosis(NamedTuple):
    """The suspects in order, the best first, and the sentence."""

    findings: list[Finding]
    sentence: str

    @property
    def best(self) -> str | None:
        """The change that explains the difference, or None: unknown."""
        return self.findings[0].change if self.findings and self.findings[0].enough else None


def diagnose(parting: Parting) -> Diagnosis:
    """Try all suspects on the first activation that differs."""
    a, b = parting.wanted, parting.b
    if a.shape != b.shape:
        return Diagnosis([], f"the shapes differ: {a.shape} on A, {b.shape} on B")
    bad = int((~np.isfinite(b)).sum())
    if bad:
        return Diagnosis([], f"B holds {bad} numbers that are NaN or infinite, of {b.size}: nothing to compare")
    findings = _ranked(_tried(parting))
    return Diagnosis(findings[:KEPT], _sentence(findings, parting.row.excess))


def _tried(parting: Parting) -> list[Finding]:
    """Each suspect's score; of those with one name the best."""
    a, b = parting.wanted, parting.b
    whole, noise = float(np.linalg.norm(b - a)), parting.row.allowed * (float(np.linalg.norm(a)) or 1.0)
    found: dict[str, Finding] = {}
    with np.errstate(all="ignore"):  # a wrong change may well divide by zero
        for change, y in suspects(parting):
            y = np.asarray(y)
            if y.size != b.size or not np.isfinite(y).all():
                continue
            left = float(np.linalg.norm(b - y.reshape(b.shape)))
            explained, exact = 1 - left / whole, left <= noise
            limit = ENOUGH_ROUNDED if change.startswith("dtype") else ENOUGH
            if change not in found or explained > found[change].explained:
                enough = explained >= limit or (exact and explained > 0.5)
                found[change] = Finding(change, explained, enough, exact)
    return list(found.values())


def _ranked(findings: list[Finding]) -> list[Finding]:
    """The best first; those that explain as much stay in the order of trying. What only says that something differs
    comes behind a suspect that says how, if that leaves nothing but rounding: B's weights may be kept in few bits.
    """
    clear = [finding for finding in findings if not _is_vague(finding.change)]
    exact = _in_order([finding for finding in clear if finding.exact or finding.explained >= ALL])
    return exact + _in_order([finding for finding in findings if finding not in exact])


def _in_order(findings: list[Finding]) -> list[Finding]:
    """What is left of the best, within two hundredths, makes a tie."""
    limit = 1.02 * (1 - max((f.explained for f in findings), default=1)) + 1e-6
    return sorted(findings, key=lambda f: (0.0, 0.0) if 1 - f.explained <= limit else (1.0, -f.explained))


def _is_vague(change: str) -> bool:
    """Whether a change says that something differs and not how: such words stand behind all others."""
    return " differ" in change or change.startswith("another ")


def _sentence(findings: list[Finding], excess: float) -> str:
    if not findings:
        return "unknown: there is no suspect to try at this place"
    best = findings[0]
    if best.enough:
        also = [f.change for f in findings[1:] if f.enough and f.explained >= best.explained - LEVEL][:2]
        same = f"; so would: {'; '.join(also)}" if also else ""
        return f"{best.change} (explains {_percent(best.explained)} of the difference{same})"
    grown = "; it is so near the tolerance that it may have grown from before" if excess < NEAR else ""
    return f"unknown: none explains it; the nearest, {best.change}, {_percent(best.explained)}{grown}"


def _percent(explained: float) -> str:
    return f"{max(0.0, explained) * 100:.4g} %"
