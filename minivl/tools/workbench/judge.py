"""How wrong an answer may be, and what is wrong with one that is not right.

    largest error       <= 2 x that of torch in the same dtype (3 x for gradients) + a few rounding steps
    mean of all errors  <= the same, as root mean square
    both                within a cap that no reference can excuse

A rounding step is eps of the dtype times the largest exact value. Where nothing but the last rounding is left of
torch's error (the long sums), no more than 1.6 times that of perfect rounding is allowed: a sum that is itself kept in
16 bits has several times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .cases import Case
from .references import double, scores

FLOOR = {"float32": 4.0, "float16": 0.5, "bfloat16": 0.5}  # rounding steps
CAP = {"float32": 200.0, "float16": 24.0, "bfloat16": 24.0}  # rounding steps


@dataclass
class Finding:
    """What is wrong with one answer."""

    kind: str  # value, not finite, shape, dtype, fault, raised, changed, form
    words: str
    result: str = "the result"
    got: Any = None  # float64, where kind is value or not finite
    wanted: Any = None
    wrong: Any = field(default=None, repr=False)  # boolean, of the result's shape

    def __str__(self) -> str:
        return self.words


def compare(got: Any, exact: np.ndarray, reference: Any, case: Case, times: float, slack: float, name: str):
    """A Finding, or None if `got` is as near to `exact` as `reference` gives reason to expect."""
    dtype, wanted = _dtype(got), _dtype(reference)
    if tuple(got.shape) != tuple(exact.shape):
        shapes = f"has shape {tuple(got.shape)}, and should have {tuple(exact.shape)}"
        return Finding("shape", f"{name} {shapes}", name)
    if dtype != wanted:
        return Finding("dtype", f"{name} is {dtype}, and should be {wanted}, as its arguments are", name)
    ours, theirs = double(got), double(reference)
    beside = ~(np.isfinite(ours) & np.isfinite(exact)) & ~((ours == exact) | (np.isnan(ours) & np.isnan(exact)))
    if beside.any():
        return _finding("not finite", ours, exact, beside, name, "")
    finite = np.isfinite(exact)
    if not finite.any():
        return None
    with np.errstate(invalid="ignore"):
        error, honest = (np.where(finite, np.abs(x - exact), 0) for x in (ours, theirs))
    honest = np.where(np.isfinite(honest), honest, 0)
    step = torch.finfo(getattr(torch, wanted)).eps * np.abs(exact[finite]).max()
    allowed = times * honest.max() + FLOOR[wanted] * step + slack
    if case.values in ("normal", "grows"):
        allowed = min(allowed, CAP[wanted] * step * times + slack)
    wrong = error > allowed
    if wrong.any():
        return _finding("value", ours, exact, wrong, name, f"at most {allowed:.2g} off is allowed")
    return _on_average(ours, exact, theirs, case, times, slack, name, finite, step, wanted)


def _on_average(ours, exact, theirs, case, times, slack, name, finite, step, dtype):
    """Many errors, each small enough, that are too much together."""
    spread, usual = (np.sqrt(np.mean((x - exact)[finite] ** 2)) for x in (ours, theirs))
    if case.aspect == "long sums" and dtype != "float32" and exact.size >= 8:
        rounded = double(torch.from_numpy(exact).to(getattr(torch, dtype)))
        allowed = 1.6 * max(usual, np.sqrt(np.mean((rounded - exact)[finite] ** 2)))
    else:
        allowed = times * usual + FLOOR[dtype] * step / 2 + slack
    if not spread > allowed:
        return None
    error = np.where(finite, np.abs(ours - exact), 0)
    more = f"errors are {spread:.2g} as root mean square, {allowed:.2g} is allowed"
    return _finding("value", ours, exact, error > 2 * allowed, name, more, np.argmax(error))


def _finding(kind, ours, exact, wrong, name, more, at=None) -> Finding:
    flat = int(np.argmax(wrong)) if at is None else int(at)
    place = tuple(int(i) for i in np.unravel_index(flat, ours.shape))
    got, wanted = float(ours[place]), float(exact[place])
    where = f"{name}{list(place) if place else ''} is {got:.7g}, and should be {wanted:.7g}"
    count = f"{int(wrong.sum())} of {wrong.size} elements are wrong" if wrong.any() else ""
    words = "; ".join(filter(None, (where, count, more)))
    return Finding(kind, words, name, ours, exact, wrong)


def further_is_right(name: str, got: Any, exact: np.ndarray, given: dict[str, Any], case: Case) -> Finding | None:
    """The same for a log-sum-exp, a mean and the like, which a wrapper gives besides its result; (B·H, T) will do."""
    if (
        hasattr(got, "shape")
        and exact.ndim == 3
        and tuple(got.shape) == (exact.shape[0] * exact.shape[1], exact.shape[2])
    ):
        got = got.reshape(exact.shape)
    if not hasattr(got, "shape") or tuple(got.shape) != exact.shape:
        shape = tuple(got.shape) if hasattr(got, "shape") else type(got).__name__
        return Finding("shape", f"{name} has shape {shape}, and should have {exact.shape}", name)
    ours = double(got)
    unit = torch.finfo(getattr(torch, case.dtype)).eps if case.dtype != "float32" else 1e-5
    if name != "sum" and case.dtype != "float32" and name != "lse":
        unit = max(torch.finfo(getattr(torch, _dtype(got))).eps, 1e-5)
    beside = ~(np.isfinite(ours) & np.isfinite(exact)) & ~((ours == exact) | (np.isnan(ours) & np.isnan(exact)))
    if beside.any():
        return _finding("not finite", ours, exact, beside, name, "")
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(exact), np.abs(ours - exact), 0)
    finite = np.where(np.isfinite(exact), np.abs(exact), 0)
    allowed = unit * (1 + finite.max()) + slack(given)
    if (error > allowed).any():
        return _finding("value", ours, exact, error > allowed, name, f"at most {allowed:.2g} off is allowed")
    return None


def slack(given: dict[str, Any]) -> float:
    """What rounding in float32 alone may cost, however careful a kernel is: more than usual where numbers cancel.

    scores of size s are known to s · eps, which their exponentials inherit; a row whose mean is m times its spread
    loses m · eps; and in its gradient numbers of the size dout · w / spread cancel. A gated product's gradients
    are sums of products of three rounded numbers.
    """
    eps = float(torch.finfo(torch.float32).eps)
    args = {name: double(value) for name, value in given.items()}
    if "q" in args:
        table = scores(**{name: args.get(name) for name in ("q", "k", "bias", "scale")}, causal=False)
        seen = np.abs(table[np.isfinite(table) & (np.abs(table) < 1e30)])
        size = np.abs(args["v"]).max() if "v" in args else 1.0
        return float(2 * eps * seen.max(initial=0) * size) * (8 if "dout" in args else 1)
    if "eps" in args:
        x = args["x"] + args["y"] if "y" in args else args["x"]
        spread = np.sqrt((x.var(-1) if "b" in args else (x * x).mean(-1)) + args["eps"])
        size = max(np.abs(args["w"]).max(), 1)
        ratio = np.abs(x.mean(-1)) / spread if "b" in args else np.zeros(1)
        if "dout" not in args:
            return float(4 * eps * ratio.max() * size)
        return float(8 * eps * (1 + ratio.max()) * size * np.abs(args["dout"]).max() * max(1 / spread.min(), 1))
    if "gate" in args and "dout" in args:
        g, u = args["x"] @ args["gate"].T, args["x"] @ args["up"].T
        halves = max(1.0, np.abs(g).max(initial=0), np.abs(u).max(initial=0))
        factors = max(np.abs(args[name]).max(initial=0) for name in ("x", "gate", "up"))
        return float(4 * eps * halves * factors * np.abs(args["dout"]).max(initial=0))
    return 0.0


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")
