"""What a wrong answer looks like: the likely cause in words, where experiments tell.

Two kinds of experiment. Another question: is the same case right with plain memory, without the mask, in float32? And
another answer: the formula with a typical mistake built in (the mask ignored, the diagonal shifted by one, ...) is
computed in float64, and if that is what came out, the mistake has a name. A mistake may be made in some rows only;
then the wrong rows are compared, and the hint says which they are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from ...ops import ACTS, plain
from . import references as answers
from .cases import Case
from .judge import Finding

Wrong = Iterator[tuple[str, Callable[[], Any]]]  # a mistake in words, and what comes out of it


def hint(examiner: Any, small: tuple[Case, Finding], large: tuple[Case, Finding], end: float) -> str:
    """One sentence or several, or "" where nothing is known.

    small is the smallest case that is wrong, large the one that it was made from: on a small case several mistakes may
    come to the same, and the one that explains both is meant.
    """
    case, finding = small
    if finding.kind == "fault":
        return _of_a_fault(examiner, case, finding, end)
    if finding.kind in ("raised", "form", "shape", "dtype", "changed"):
        return _of_a_form(examiner, case, finding)
    here, there = (_names(examiner, *pair) for pair in (small, large))
    both = [words for words in there if words in here] or there or here
    found = [f"this is what comes out if {both[0]}"] if both else _by_asking(examiner, case, finding, end)
    place = _where(finding)
    if not place and large[1].wrong is not None and (before := _where(large[1])):
        place = f"on the larger case that this was made from, {before}"
    return "; ".join(filter(None, [*found, place]))


def _of_a_fault(examiner: Any, case: Case, finding: Finding, end: float) -> str:
    """A load or store where it must not be."""
    if "race" in finding.words:
        return "on a GPU programs run at the same time: which of the two comes last is chance"
    if "two different values" in finding.words:
        return "which of the values stays is chance on a GPU"
    strange = [name for name, how in case.layouts.items() if how != "plain"]
    if strange and _right(examiner, case.but(layouts=dict.fromkeys(strange)), end):
        names = ", ".join(strange)
        where = re.search(r" of (\w+)[, ]", finding.words)
        if where and where[1].lower() not in strange:
            return (
                f"right as soon as {names} is contiguous: it looks as if {where[1]} is read with the strides of {names}"
            )
        for other in _of_equal_rank(examiner, strange):
            if _right(examiner, case.but(layouts=dict.fromkeys([*strange, other], "strided")), end):
                return f"right as soon as {other} lies as {names} does: {names} is read with the strides of {other}"
        return f"right as soon as {names} is contiguous: {names} is not read with its own strides"
    verb = "store" if " stores " in finding.words else "load"
    if "in the gap" in finding.words:
        return f"this tl.{verb} walks through the argument with strides that are not its own"
    return f"the mask of this tl.{verb} lets elements through that the argument does not have: an edge is off"


def _of_equal_rank(examiner: Any, names: list[str]) -> list[str]:
    """The other arrays of floats with as many axes."""
    axes = examiner.contract.floats
    return [
        other for other in axes if other not in names and all(len(axes.get(n, "")) == len(axes[other]) for n in names)
    ]


def _of_a_form(examiner: Any, case: Case, finding: Finding) -> str:
    if finding.kind == "changed":
        return "copy the argument before writing to it"
    if finding.kind == "dtype":
        return "give the result the dtype of the arguments, however the sums were kept"
    if finding.kind == "form" and finding.result == "dbias":
        return "the gradient of the bias is missing: it is that of the scores, summed over what was broadcast"
    if finding.kind == "form" and finding.result == "db":
        return "the gradient of the bias is missing: it is dout, summed over all rows"
    strange = {name: how for name, how in case.layouts.items() if how != "plain"}
    if finding.kind == "raised" and strange and examiner.ask(case.but(layouts=dict.fromkeys(strange))) is None:
        return f"it takes {', '.join(strange)} only if contiguous: call .contiguous(), or walk with the strides"
    return ""


# ---- mistakes with a name


def _names(examiner: Any, case: Case, finding: Finding) -> list[str]:
    """Every mistake that explains all wrong rows."""
    given = examiner.given(case)
    rows = np.zeros(0, bool) if finding.wrong is None else _rows(finding.wrong)
    if not rows.any():
        return []
    size = np.abs(finding.wanted[np.isfinite(finding.wanted)]).max(initial=0)
    close = {"float32": 2e-4, "float16": 4e-3, "bfloat16": 3e-2}[case.dtype] * max(size, 1e-3)
    apart = np.abs(np.nan_to_num(finding.got - finding.wanted, nan=np.inf))[finding.wrong].max()
    found = []
    with np.errstate(all="ignore"):
        for words, answer in _mistakes(examiner, given, finding):
            try:
                other = np.asarray(answer(), np.float64)
            except (ValueError, IndexError, RuntimeError, ZeroDivisionError):
                continue
            if other.shape == finding.wanted.shape:
                off = np.where(np.isfinite(other) | np.isfinite(finding.got), np.abs(other - finding.got), 0)
                off = np.where(other == finding.got, 0, off)
                if np.where(np.isnan(off), np.inf, off)[rows].max() < min(close, apart / 4):
                    found.append(words)
    return found


def _rows(wrong: np.ndarray) -> np.ndarray:
    """True throughout every row (along the last axis) with a wrong element; of vectors, the wrong elements."""
    return np.broadcast_to(wrong.any(-1, keepdims=True), wrong.shape) if wrong.ndim > 1 else wrong


def _mistakes(examiner: Any, given: dict[str, Any], finding: Finding) -> Wrong:
    contract, name = examiner.contract, finding.result
    args = {key: answers.double(value) for key, value in given.items()}
    place = answers.result_names(contract, given).index(name) if name in answers.result_names(contract, given) else -1

    def again(**changed: Any) -> Callable[[], Any]:
        both = {**args, **changed}
        return lambda: answers.exact64(contract, both)[place] if place >= 0 else answers.further(name, _tensors(both))

    yield from _of_strides(given, again)
    if "dout" in args:
        yield from _of_gradients(args, finding, again)
    if "q" in args:
        yield from _of_attention(args, finding, again)
    elif "eps" in args:
        yield from _of_norms(args, finding)
    else:
        yield from _of_others(contract.op, args, finding, again)


def _tensors(args: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x for name, x in args.items()
    }


def _of_strides(given: dict[str, Any], again: Any) -> Wrong:
    """An argument read with the strides of another, or with none of its own."""
    arrays = {name: x for name, x in given.items() if answers.is_float(x) and x.ndim > 1}
    for name, x in arrays.items():
        for other, y in arrays.items():
            if other != name and y.ndim == x.ndim and y.stride() != x.stride():
                read = _read(x, y.stride())
                if read is not None:
                    yield f"{name} is read with the strides of {other}", again(**{name: read})
        if not x.is_contiguous():
            plain = torch.empty(x.shape).stride()
            read = _read(x, plain)
            if read is not None:
                yield f"{name} is read as if it were contiguous", again(**{name: read})


def _read(x: torch.Tensor, strides: tuple[int, ...]) -> np.ndarray | None:
    """What stands where these strides lead, NaN beyond the end of the memory; None where they lead nowhere new."""
    if tuple(strides) == tuple(x.stride()):
        return None
    whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    place = np.full(x.shape, x.storage_offset())
    for axis, step in enumerate(strides):
        place += np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)]) * step
    numbers = answers.double(whole)
    return np.where(place < numbers.size, numbers[np.minimum(place, numbers.size - 1)], np.nan)


def _of_attention(args: dict[str, Any], finding: Finding, again: Any) -> Wrong:
    T, D = args["q"].shape[-2:]
    S = args["k"].shape[-2]
    if args.get("mask") is not None:
        yield "the mask is ignored", again(mask=None)
        yield "the mask is turned round (True should keep a key)", again(mask=~args["mask"])
        seen = np.broadcast_to(args["mask"], (*args["mask"].shape[:-2], T, S)) if args["mask"].ndim > 1 else None
        if seen is not None and not seen.any(-1).all():
            blind = seen | ~seen.any(-1, keepdims=True)
            yield "a query that sees no key takes the average of all (it should give zeros)", again(mask=blind)
            yield ("a query that sees no key divides 0 by 0 (it should give zeros)",
                   lambda: np.where(np.isnan(finding.got), np.nan, finding.wanted))  # fmt: skip
    if args.get("bias") is not None:
        yield "the bias is ignored", again(bias=None)
        scale = D**-0.5 if args.get("scale") is None else args["scale"]
        yield "the bias is scaled too (only q·k is)", again(bias=args["bias"] * scale)
        yield "the bias is added without the logarithm's base, log2(e)", again(bias=args["bias"] / math.log2(math.e))
    if args.get("scale") is not None:
        yield "the scale that was given is ignored", again(scale=None)
    else:
        yield "the scores are not scaled by 1/√D", again(scale=1.0)
    yield "the scale is 1/D, not 1/√D", again(scale=1.0 / D)
    if args.get("causal"):
        yield from _of_the_diagonal(args, T, S, again)
    for words, low, high in _parts_of_the_keys(S):
        yield words, again(**_visible(args, (np.arange(S) >= low) & (np.arange(S) < high)))
    if finding.result == "lse":
        yield from _of_log_sum_exp(args, finding)


def _of_the_diagonal(args: dict[str, Any], T: int, S: int, again: Any) -> Wrong:
    ahead = np.arange(S) - np.arange(T)[:, None] - (S - T)
    lines = {
        "causal is ignored": np.ones((T, S), bool),
        "the causal diagonal is shifted by one: a query sees the key after its own": ahead <= 1,
        "the causal diagonal is shifted by one: a query does not see its own key": ahead < 0,
        "causal lines up the first query with the first key (it should be the last with the last)": ahead <= T - S,
        "causal looks ahead: a query sees only what comes after it": ahead >= 0,
    }
    for words, seen in lines.items():
        yield words, again(causal=False, **_visible(args, seen))


def _visible(args: dict[str, Any], seen: np.ndarray) -> dict[str, Any]:
    mask = args.get("mask")
    return {"mask": seen if mask is None else mask & seen}


def _parts_of_the_keys(S: int) -> Iterator[tuple[str, int, int]]:
    yield "the last key is left out", 0, S - 1
    if S > 1:
        yield "the first key is left out", 1, S
    for block in (16, 32, 64, 128, 256):
        if S > block:
            if S % block:
                yield f"the keys after the last full block of {block} are left out", 0, S // block * block
            yield f"only the first block of {block} keys counts", 0, block
            yield f"the first block of {block} keys is left out", block, S
            yield f"only the last block of {block} keys counts", (S - 1) // block * block, S


def _of_log_sum_exp(args: dict[str, Any], finding: Finding) -> Wrong:
    table = answers.scores(**args)
    top = table.max(-1)
    lse = finding.wanted
    yield "log-sum-exp is in base 2 (it should be the natural logarithm)", lambda: lse * math.log2(math.e)
    yield "the maximum is left out of the log-sum-exp", lambda: lse - top
    yield "the maximum stands for the log-sum-exp", lambda: top
    yield "the maximum is in base 2 and the logarithm natural", lambda: top * math.log2(math.e) + lse - top
    yield "the logarithm of the sum is in base 2 and the maximum natural", lambda: top + (lse - top) * math.log2(math.e)
    yield "the maximum is not scaled", lambda: top / _scale(args) + lse - top
    yield "the sum stands without its logarithm", lambda: top + np.exp(lse - top)
    yield "log-sum-exp has the wrong sign", lambda: -lse


def _scale(args: dict[str, Any]) -> float:
    return args["q"].shape[-1] ** -0.5 if args.get("scale") is None else args["scale"]


def _of_norms(args: dict[str, Any], finding: Finding) -> Wrong:
    if "dout" in args or finding.result != "the result":
        return
    x, w, b, eps = args["x"], args["w"], args.get("b"), args["eps"]
    x = x + args["y"] if "y" in args else x
    C = x.shape[-1]
    shift, centre = (0 if b is None else b), "b" in args
    mean = x.mean(-1, keepdims=True) if centre else 0.0
    rest = x - mean
    var = (rest**2).mean(-1, keepdims=True)

    def norm(rest=rest, var=var, w=w, b=shift, eps=eps):
        with np.errstate(all="ignore"):
            return rest / np.sqrt(var + eps) * w + b

    yield "w is ignored", lambda: norm(w=1.0)
    if centre:
        yield "b is ignored", lambda: norm(b=0.0)
        yield "w and b are exchanged", lambda: norm(w=b, b=w)
        yield "the mean is not subtracted", lambda: norm(rest=x)
    else:
        yield "the mean is subtracted, which RMS norm does not do", lambda: norm(x - x.mean(-1, keepdims=True),
                                                                                 x.var(-1, keepdims=True))  # fmt: skip
    if "y" in args:
        yield "y is not added", lambda: (lambda z: (z - z.mean(-1, keepdims=True))
                                         / np.sqrt(z.var(-1, keepdims=True) + eps) * w + b)(args["x"])  # fmt: skip
    yield "the variance is divided by C - 1, not by C", lambda: norm(var=var * C / (C - 1))
    yield "eps is ignored", lambda: norm(eps=0.0)
    yield "eps is always 1e-5", lambda: norm(eps=1e-5)
    yield "eps is always 1e-6", lambda: norm(eps=1e-6)
    yield "eps is added to the square root, not under it", lambda: rest / (np.sqrt(var) + eps) * w + shift
    for n in {triton_block(C), triton_block(C) // 2} - {C}:
        if n > 0:
            short = x.sum(-1, keepdims=True) / n if centre else 0.0
            square = ((x - short) ** 2).sum(-1, keepdims=True) / n
            yield f"the sums are divided by the block's {n}, not by C = {C}", partial(norm, x - short, square)
    block = triton_block(C)
    if centre and block > C:
        beyond = (block - C) * mean**2 / C
        yield "the columns beyond the row count in the variance, as 0 - mean", lambda: norm(var=var + beyond)
    if C > 1:
        short = x - x[..., :-1].sum(-1, keepdims=True) / C * centre
        yield (
            "the last column is left out of the sums",
            lambda: norm(short, (short[..., :-1] ** 2).sum(-1, keepdims=True) / C),
        )


def triton_block(C: int) -> int:
    """The power of two that a row of C numbers fits into."""
    return 1 << (C - 1).bit_length()


def _of_others(op: str, args: dict[str, Any], finding: Finding, again: Any) -> Wrong:
    if "dout" in args:
        return
    if op in ("linear", "linear_act", "patch_embed") and args.get("b") is not None:
        yield "the bias is ignored", again(b=None)
        yield "the bias is added twice", again(b=2 * args["b"])
        yield "the bias is subtracted", again(b=-args["b"])
    if op in ("linear", "linear_act"):
        C = args["x"].shape[-1]
        for low in (C - 1, *(C // block * block for block in (16, 32, 64, 128) if C % block)):
            yield f"the sum ends after {low} of {C} columns", again(x=args["x"] * (np.arange(C) < low))
        if args["w"].shape[0] == C:
            yield "w is transposed", again(w=args["w"].T)
    if op == "linear_act":
        for act in ACTS:
            yield f"the activation is {act}, whatever was asked for", again(act=act)
    if "x" in args and op not in ("linear", "linear_act"):
        for other in ACTS:
            yield f"the function is {other}", partial(getattr(plain, other), args["x"])
        yield "the function is the identity", lambda: args["x"]
    if op == "softmax":
        yield from _of_softmax(args["x"])
    if op == "cross_entropy":
        yield from _of_cross_entropy(args, finding)
    if op == "embed":
        rows = len(args["table"])
        for step in (1, -1):
            yield f"row ids {step:+d} is taken", again(ids=(args["ids"] + step) % rows)


def _of_softmax(x: np.ndarray) -> Wrong:
    top = x.max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        shares = np.exp(x - top)
        yield "nothing is divided by the sum", lambda: shares
        yield (
            "a row of nothing but -inf divides 0 by 0 (it should give zeros)",
            lambda: shares / shares.sum(-1, keepdims=True),
        )
        yield "exp is taken to the base 2", lambda: np.exp2(x - top) / np.exp2(x - top).sum(-1, keepdims=True)
        yield "the largest number is not subtracted", lambda: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        extra = (triton_block(x.shape[-1]) - x.shape[-1]) * np.exp(-top)
        total = shares.sum(-1, keepdims=True) + extra
        yield "the columns beyond the row count in the sum, as zeros", lambda: shares / total


def _of_cross_entropy(args: dict[str, Any], finding: Finding) -> Wrong:
    logits, targets = args["logits"], args["targets"]
    ignore = args.get("ignore_index", -100)
    kept = int((targets != ignore).sum())
    yield "the sum is given, not the mean", lambda: finding.wanted * kept
    yield "the mean counts the ignored targets too", lambda: finding.wanted * kept / targets.size
    top = logits.max(-1)
    with np.errstate(all="ignore"):
        yield "the largest logit is left out", lambda: finding.wanted - top[targets != ignore].mean()
    yield "the loss has the wrong sign", lambda: -finding.wanted


def _of_gradients(args: dict[str, Any], finding: Finding, again: Any) -> Wrong:
    wanted = finding.wanted
    yield f"{finding.result} is all zeros", lambda: np.zeros_like(wanted)
    yield f"{finding.result} has the wrong sign", lambda: -wanted
    if "q" in args:
        scale = _scale(args)
        yield f"{finding.result} is not multiplied by the scale", lambda: wanted / scale
        yield f"{finding.result} is multiplied by the scale once more", lambda: wanted * scale
        yield f"{finding.result} is multiplied by log2(e)", lambda: wanted * math.log2(math.e)
        yield f"{finding.result} is multiplied by ln 2", lambda: wanted * math.log(2)
    yield f"{finding.result} counts twice", lambda: 2 * wanted
    for axis in range(wanted.ndim):
        if wanted.shape[axis] == 1:
            continue
        mean = wanted / wanted.shape[axis]
        yield f"{finding.result} is averaged over axis {axis}, where it is summed", partial(np.copy, mean)


# ---- where the wrong elements lie


def _where(finding: Finding) -> str:
    """ "only in the last row", if the wrong elements are not everywhere."""
    wrong = finding.wrong
    if wrong is None or not wrong.any() or wrong.ndim == 0:
        return ""
    parts = []
    for axis, name in enumerate(_axes(wrong.ndim, finding)):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        hit = np.nonzero(wrong.any(others))[0]
        size = wrong.shape[axis]
        if size == 1 or len(hit) == size:
            continue
        parts.append(_which(name, hit, size))
    words = f"wrong {', '.join(parts)}" if parts else ""
    if finding.kind == "not finite" and np.isnan(finding.got[wrong]).all() and np.isfinite(finding.wanted[wrong]).all():
        words = "; ".join(filter(None, (words, "nan: nobody wrote there, or something beside an argument was read")))
    return words


def _which(name: str, hit: np.ndarray, size: int) -> str:
    if len(hit) == 1:
        return f"only at {name} {hit[0]}" + (", the last" if hit[0] == size - 1 else "")
    if len(hit) == hit[-1] - hit[0] + 1:
        if hit[-1] == size - 1:
            return f"from {name} {hit[0]} to the end"
        return f"at {name} {hit[0]} to {hit[-1]} of {size}"
    return f"at {len(hit)} of {size} along {name}"


def _axes(ndim: int, finding: Finding) -> list[str]:
    names = {
        4: ["batch", "head", "token", "column"],
        3: ["batch", "token", "column"],
        2: ["row", "column"],
        1: ["element"],
    }
    if finding.result == "lse":
        return ["batch", "head", "query"]
    return names.get(ndim, [f"axis {axis}" for axis in range(ndim)])


# ---- other questions


def _by_asking(examiner: Any, case: Case, finding: Finding, end: float) -> list[str]:
    """Whether the case is right once it is easier in one respect."""
    found = []
    strange = {name: how for name, how in case.layouts.items() if how != "plain"}
    if strange and _right(examiner, case.but(layouts=dict.fromkeys(strange)), end):
        found.append(f"right as soon as {', '.join(strange)} {'is' if len(strange) == 1 else 'are'} contiguous: its"
                     " strides are not used as they are")  # fmt: skip
    if case.dtype != "float32" and _right(examiner, case.but(dtype="float32"), end):
        found.append(_of_precision(case, finding))
    for name in ("mask", "bias", "causal", "scale"):
        if name in case.choices and _right(examiner, case.but(choices={name: None}), end):
            found.append(f"right without {name}")
    if case.values not in ("normal", "grows") and _right(examiner, case.but(values="normal"), end):
        found.append(f"right with ordinary numbers in place of {case.values!r} ones")
    return found


def _right(examiner: Any, case: Case, end: float) -> bool:
    return time.monotonic() < end and examiner.ask(case) is None


def _of_precision(case: Case, finding: Finding) -> str:
    error = np.nanmax(np.abs(finding.got - finding.wanted))
    size = np.abs(finding.wanted[np.isfinite(finding.wanted)]).max(initial=1e-30)
    steps = error / size / torch.finfo(getattr(torch, case.dtype)).eps
    words = f"right in float32, and {steps:.1f} rounding steps off in {case.dtype}"
    if case.aspect == "long sums":
        return f"{words} where a sum is long: it looks as if the sum is kept in {case.dtype} (accumulate in float32)"
    return f"{words}: it looks as if something in between is rounded to {case.dtype} (compute in float32)"
