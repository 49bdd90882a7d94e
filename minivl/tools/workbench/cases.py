"""What a function is asked while it is checked: one Case after the other, small ones first.

A case says everything: sizes by their letters (B batch, T query tokens, S key tokens, C width, H heads, D head width, F
another width, V vocabulary, P a patch's side, Y and X a picture's), the dtype, how each argument lies in memory, what
numbers stand in it, and the keyword arguments. Its arrays are drawn from it alone, so a case is the same every time.

`arguments(contract, case)` builds them, `cases(op)` lists the cases of an op.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ...ops import ACTS, TABLE, plain
from ...ops.table import Op
from .layouts import lay

DTYPES = ("float32", "float16", "bfloat16")
LETTERS = {"B": 2, "H": 2, "T": 33, "S": 47, "D": 64, "C": 80, "F": 48, "V": 50, "P": 4, "Y": 13, "X": 18}


@dataclass(frozen=True)
class Case:
    """One call."""

    aspect: str  # the row of the table that it belongs to
    dtype: str = "float32"
    sizes: dict[str, int] = field(default_factory=dict)  # letter -> size, where not as in LETTERS
    layouts: dict[str, str] = field(default_factory=dict)  # argument -> one of memory.LAYOUTS, where not plain
    values: str = "normal"  # which numbers: see `_numbers`
    choices: dict[str, Any] = field(default_factory=dict)  # what else an op's arguments depend on

    def size(self, letter: str) -> int:
        return 3 if letter == "3" else self.sizes.get(letter, LETTERS[letter])

    def but(self, **changes: Any) -> Case:
        """The same case with something else in it; sizes, layouts and choices are merged, None takes one out."""
        for name in ("sizes", "layouts", "choices"):
            if name in changes:
                merged = {**getattr(self, name), **changes[name]}
                changes[name] = {key: value for key, value in merged.items() if value is not None}
        return replace(self, **changes)


@dataclass(frozen=True)
class Contract:
    """An op's arguments: those that are arrays of floats with their axes in letters, in the op's order."""

    op: str
    floats: dict[str, str]
    keywords: tuple[str, ...] = ()  # passed by name, and only where a case wants other than the default
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a switch of the wrapper -> further results


def _contract(name: str, op: Op) -> Contract:
    """The contract that follows from an op's row in the table."""
    given = [argument for argument in op.arguments if argument.axes and not argument.integer and not argument.by_name]
    floats = {argument.name: argument.axes for argument in given}
    return Contract(name, floats, tuple(one.name for one in op.arguments if one.by_name), _extras(op.kind, floats))


def _extras(kind: str, floats: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What our kernels, and strangers', give besides the result when asked: for a backward pass, mostly."""
    if kind == "attention" and "v" in floats:
        return {"with_lse": ("lse",)}
    if kind != "norm":
        return {}
    if "y" in floats:
        return {"with_sum": ("sum",)}
    return {"with_statistics": ("mean", "rstd") if "b" in floats else ("rstd",)}


CONTRACTS = {name: _contract(name, op) for name, op in TABLE.items()}
OPS = (*CONTRACTS, *(f"{name}_backward" for name, op in TABLE.items() if op.gradient))


def contract_of(op: str) -> tuple[Contract, bool]:
    """The contract of an op, or of the op that a backward one belongs to; and whether it is a backward one."""
    return CONTRACTS[op.removesuffix("_backward")], op.endswith("_backward")


# ---- the arrays of a case


def arguments(contract: Contract, case: Case, dout: bool = False) -> dict[str, Any]:
    """Name -> tensor or value, in the order of the op, the gradient of the output before them if `dout`."""
    rng = np.random.default_rng([sum(case.sizes.values()), len(case.values)])
    given: dict[str, Any] = {}
    for number, (name, axes) in enumerate(contract.floats.items()):
        if name == "b" and case.choices.get("b") == "none":
            given[name] = None
            continue
        numbers = _numbers(rng, name, tuple(case.size(letter) for letter in axes), case)
        given[name] = lay(numbers, case.layouts.get(name, "plain"), (3, 8, 5, 7)[number])
    given = _rest(contract.op, case, rng, given)
    if dout:
        like = torch.from_numpy(rng.standard_normal(_result_shape(contract.op, case))).to(_dtype(case))
        given = {"dout": lay(like, case.layouts.get("dout", "plain")), **given}
    return given


def _rest(op: str, case: Case, rng: np.random.Generator, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are no plain array of floats."""
    choices = case.choices
    if op in ("attention", "attention_weights"):
        mask, bias = _mask(rng, case), _bias(rng, case)
        for name, value in (("mask", mask), ("bias", bias)):
            if value is not None:
                given[name] = lay(value, case.layouts.get(name, "plain"))
        return given | {name: choices[name] for name in ("causal", "scale") if name in choices}
    if TABLE[op].kind == "norm":
        return given | {"eps": choices.get("eps", 1e-5)}
    if "act" in CONTRACTS[op].keywords:
        return given | {"act": choices.get("act", "gelu")}
    if "scale" in given:
        return _rounded(rng, case, given)
    if op == "embed":
        ids = torch.from_numpy(rng.integers(0, case.size("V"), (case.size("B"), case.size("T"))))
        ids.view(-1)[-1] = case.size("V") - 1
        ids = lay(ids.to(getattr(torch, choices.get("ids", "int64"))), case.layouts.get("ids", "plain"))
        return {"ids": ids, **given}
    if op == "cross_entropy":
        return given | _targets(rng, case)
    return given


def _targets(rng: np.random.Generator, case: Case) -> dict[str, Any]:
    ignore = case.choices.get("ignore_index", -100)
    targets = rng.integers(0, case.size("V"), (case.size("B"), case.size("T")))
    form = case.choices.get("ignored", "none")
    if form == "some":
        targets[rng.random(targets.shape) < 0.4] = ignore
        targets.flat[0] = ignore
        targets.flat[-1] = case.size("V") - 1
    elif form == "all":
        targets[...] = ignore
    more = {"ignore_index": ignore} if "ignore_index" in case.choices else {}
    return {"targets": torch.from_numpy(targets), **more}


def _rounded(rng: np.random.Generator, case: Case, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a product with 8-bit weights: rows and their scales; some activations are outliers if asked."""
    rows, scale = plain.quantise_rows(rng.standard_normal((case.size("F"), case.size("C"))).astype(np.float32))
    w = lay(torch.from_numpy(rows), case.layouts.get("w", "plain"))
    x = given["x"]
    if case.choices.get("outliers"):
        x[..., rng.random(x.shape[-1]) < 0.1] *= 20
    return {"x": x, "w": w, "scale": torch.from_numpy(scale), "b": given["b"]}


def _dtype(case: Case) -> torch.dtype:
    return getattr(torch, case.dtype)


def _numbers(rng: np.random.Generator, name: str, shape: tuple[int, ...], case: Case) -> torch.Tensor:
    """What stands in an argument.

    normal     mean 0, spread 1
    large      to about ±10,000 (float16 scores: as much as its products can hold)
    equal      every row one number
    tiny       zeros of both signs, the smallest numbers there are, and some ordinary ones
    grows      around 1, so that a long sum gets large and rounding it in the wrong dtype shows
    offset     around 100
    hidden     one row nothing but -inf, some -inf elsewhere
    """
    x = rng.standard_normal(shape)
    half = case.dtype != "float32"
    if case.values == "large" and name in ("q", "k"):
        x *= 100 if case.dtype != "float16" else 20
    elif case.values == "large" and name in ("x", "y", "logits"):
        x *= 3000
    elif case.values == "equal" and name in ("q", "x", "y", "logits"):
        x = np.zeros(shape) if name == "q" else np.broadcast_to(x[..., :1], shape)
    elif case.values == "tiny" and name not in ("w", "gate", "up", "b", "table"):
        smallest = torch.finfo(_dtype(case)).smallest_normal
        x = np.where(rng.random(shape) < 0.5, rng.choice([-0.0, 0.0, smallest / 4, -smallest / 2], shape), x)
    elif case.values == "grows" and name in ("v", "x", "y", "w", "gate", "up", "logits"):
        x = 1 + 0.25 * x if name != "logits" else 0.25 * x
    elif case.values == "offset" and name in ("x", "y"):
        x += 100 if not half else 8
    elif case.values == "hidden" and name == "x":
        x[rng.random(shape) < 0.3] = -math.inf
        x[..., 0] = 1.0
        x.reshape(-1, shape[-1])[min(1, math.prod(shape[:-1]) - 1)] = -math.inf
    return torch.from_numpy(np.ascontiguousarray(x)).to(_dtype(case))


def _mask(rng: np.random.Generator, case: Case) -> torch.Tensor | None:
    """Boolean, True keeps a key."""
    B, H, T, S = (case.size(letter) for letter in "BHTS")
    form = case.choices.get("mask")
    if form is None:
        return None
    if form in ("padded left", "padded right"):  # the first text fills its row, the others do not
        lengths = np.maximum(S - np.arange(B) * max(S // 3, 1) - (B == 1) * (S // 3), 1)
        mask = np.arange(S) < lengths[:, None]
        mask = (mask[:, ::-1] if form == "padded left" else mask)[:, None, None, :].copy()
    elif form == "a row hidden":
        mask = rng.random((B, 1, T, S)) < 0.6
        mask[0, :, min(1, T - 1)] = False
    elif form == "part of a row hidden":
        mask = np.ones((B, 1, T, S), bool)
        mask[-1, :, T - 1, : max(S // 2, 1)] = False
    elif form == "a text hidden":
        mask = np.ones((B, 1, 1, S), bool)
        mask[-1] = False
    else:
        shape = {"pairs": (B, 1, T, S), "heads": (1, H, T, S), "table": (T, S), "all": (B, H, T, S)}[form]
        mask = rng.random(shape) < 0.6
        mask[..., -1] = True
    return torch.from_numpy(mask)


def _bias(rng: np.random.Generator, case: Case) -> torch.Tensor | None:
    B, H, T, S = (case.size(letter) for letter in "BHTS")
    form = case.choices.get("bias")
    if form is None:
        return None
    shape = {"heads": (1, H, T, S), "keys": (B, 1, 1, S), "table": (T, S), "all": (B, H, T, S), "lowest": (1, 1, T, S),
             "of a head": (1, H, 1, 1)}[form]  # fmt: skip
    bias = rng.standard_normal(shape)
    if form == "lowest":  # as masks are written by some models
        bias = np.where(rng.random(shape) < 0.5, float(torch.finfo(_dtype(case)).min), 0.0)
        bias[..., -1] = 0.0
    return torch.from_numpy(bias).to(_dtype(case))


def _result_shape(op: str, case: Case) -> tuple[int, ...]:
    axes = TABLE[op].result
    if "N" in axes:
        patches = case.size("Y") // case.size("P") * (case.size("X") // case.size("P"))
        return case.size("B"), patches, case.size("C")
    return tuple(case.size(letter) for letter in axes)


# ---- the lists


def cases(op: str) -> list[Case]:
    """All cases of an op, in an order that tries a little of everything first."""
    contract, backward = contract_of(op)
    listed = [case for case in _list(contract.op) if not backward or _has_gradient(case)]
    if backward:
        listed += [Case("memory layouts", dtype, layouts={"dout": how})
                   for dtype, how in (("float32", "padded"), ("float32", "strided"), ("bfloat16", "transposed"))
                   if contract.op != "cross_entropy"]  # fmt: skip
    place: dict[tuple[str, str], int] = {}
    order = []
    for number, case in enumerate(listed):
        nth = place[case.aspect, case.dtype] = place.get((case.aspect, case.dtype), -1) + 1
        order.append((nth, number, case))
    return [case for _, _, case in sorted(order, key=lambda entry: entry[:2])]


def _has_gradient(case: Case) -> bool:
    """Whether a backward function is asked it: no limits, and no more than the interpreter does in a second."""
    small = case.size("T") * case.size("S") <= 257 * 47
    return case.values in ("normal", "equal", "offset", "grows") and small and case.choices.get("bias") != "lowest"


def _sizes(aspect: str, dtype: str, *pairs: tuple[int, ...], letters: str) -> Iterator[Case]:
    for sizes in pairs:
        few = {letter: 1 for letter in "BH" if math.prod(sizes) > 1000 and letters in ("TS", "TC")}
        yield Case(aspect, dtype, {**few, **dict(zip(letters, sizes, strict=True))})


def _attention() -> Iterator[Case]:
    every = [(1, 1), (33, 47), (1, 33), (31, 32), (2, 31), (33, 257), (257, 33), (257, 257), (1, 1023)]
    for dtype in DTYPES:
        some = every if dtype == "float32" else [(33, 47), (1, 33), (257, 257)]
        yield from _sizes("sizes", dtype, *some, letters="TS")
        for D in (16, 80, 88, 128) if dtype == "float32" else (80, 88):
            yield Case("head widths", dtype, {"D": D, "B": 1})
        yield from _attention_layouts(dtype)
        yield from _attention_masks(dtype)
        yield from _attention_scores(dtype)
        yield Case("long sums", dtype, {"T": 4, "S": 4095, "B": 1, "H": 1}, values="grows")


def _attention_layouts(dtype: str) -> Iterator[Case]:
    ways = [
        ("heads", "padded", "strided"),
        ("strided", "transposed", "padded"),
        ("plain", "padded", "plain"),
        ("heads", "heads", "heads"),
        ("plain", "plain", "padded"),
        ("padded", "plain", "plain"),
        ("offset", "plain", "expanded"),
        ("plain", "expanded", "plain"),
    ]
    for q, k, v in ways if dtype == "float32" else ways[:3]:
        yield Case("memory layouts", dtype, {"T": 20, "S": 33}, {"q": q, "k": k, "v": v})


def _attention_masks(dtype: str) -> Iterator[Case]:
    full = dtype == "float32"
    small = {"T": 35, "S": 40}
    forms = ("padded right", "part of a row hidden", "pairs", "padded left", "a row hidden", "a text hidden", "heads")
    for form in (*forms, "table", "all") if full else forms[:5:2]:
        yield Case("mask", dtype, small, choices={"mask": form})
    if full:
        yield Case("mask", dtype, {"T": 130, "S": 140, "B": 1, "H": 1}, choices={"mask": "pairs"})
        yield Case("mask", dtype, small, {"mask": "transposed"}, choices={"mask": "pairs"})
        yield Case("mask", dtype, small, {"mask": "expanded"}, choices={"mask": "padded left"})
    for form in ("heads", "keys", "table", "all", "of a head") if full else ("heads", "keys"):
        yield Case("bias", dtype, small, choices={"bias": form})
    if full:
        yield Case("bias", dtype, small, {"bias": "padded"}, choices={"bias": "all"})
        yield Case("bias", dtype, {"T": 130, "S": 140, "B": 1, "H": 1}, choices={"bias": "table"})
    together: dict[str, Any] = {"mask": "padded left", "bias": "heads", "causal": True, "scale": 0.3}
    yield Case("all together", dtype, small, choices=together)
    if full:
        yield Case("all together", dtype, small, choices=together | {"mask": "pairs", "bias": "keys"})
        yield Case("all together", dtype, small, choices={"mask": "a row hidden", "causal": True})


def _attention_scores(dtype: str) -> Iterator[Case]:
    full = dtype == "float32"
    pairs = ((5, 47), (33, 33), (47, 5), (130, 257), (1, 33), (2, 33)) if full else ((33, 47),)
    for T, S in pairs:
        yield Case("causal", dtype, {"T": T, "S": S, "B": 1, "H": 1}, choices={"causal": True})
    for scale in (1.0, 0.3, -0.2) if full else (0.3,):
        yield Case("scale", dtype, {"B": 1}, choices={"scale": scale})
    for values in ("large", "equal", "tiny") if full else ("large",):
        yield Case("extreme values", dtype, {"B": 1}, values=values)
    if full:
        yield Case("extreme values", dtype, {"B": 1}, choices={"bias": "lowest"})


def _rows(names: tuple[str, ...]) -> Iterator[Case]:
    """Norms and softmax: rows of C numbers."""
    every = [(1, 1), (33, 80), (2, 33), (1, 1023), (31, 32), (257, 31), (1, 2), (3, 88), (5, 768), (3, 1408), (1, 2560)]
    for dtype in DTYPES:
        some = [*every, (2, 5000)] if dtype == "float32" else [(33, 80), (1, 1023), (2, 1408)]
        yield from _sizes("sizes", dtype, *some, letters="TC")
        ways = ("padded", "strided", "transposed", "heads", "offset", "expanded")
        for name in names:
            for layout in ways if dtype == "float32" else ways[:2]:
                yield Case("memory layouts", dtype, {"T": 5}, {name: layout})
        for values in ("large", "equal", "tiny", "offset") if dtype == "float32" else ("equal", "tiny"):
            yield Case("extreme values", dtype, {"T": 5, "C": 257}, values=values)
        yield Case("long sums", dtype, {"B": 1, "T": 3, "C": 4000}, values="grows")


def _norm(names: tuple[str, ...] = ("x",)) -> Iterator[Case]:
    yield from _rows(names)
    for dtype in DTYPES:
        for eps in (1.0, 1e-12):
            yield Case("eps", dtype, {"T": 5}, choices={"eps": eps})
        for name in ("w", "b"):
            yield Case("memory layouts", dtype, {"T": 5}, {name: "strided"})


def _softmax() -> Iterator[Case]:
    yield from _rows(("x",))
    for dtype in DTYPES:
        yield Case("rows of -inf", dtype, {"T": 5, "C": 33}, values="hidden")


def _elementwise() -> Iterator[Case]:
    for dtype in DTYPES:
        pairs = [(1, 1), (33, 31), (2, 33), (1, 1023), (257, 88), (31, 2)]
        yield from _sizes("sizes", dtype, *(pairs if dtype == "float32" else pairs[1:4]), letters="TC")
        for layout in ("padded", "strided", "transposed", "heads", "offset", "expanded"):
            yield Case("memory layouts", dtype, {"T": 5, "C": 33}, {"x": layout})
        for values in ("tiny", "large"):
            yield Case("extreme values", dtype, {"T": 5, "C": 33}, values=values)


def _linear(acts: tuple[str, ...] = (), weights: tuple[str, ...] = ("w", "b")) -> Iterator[Case]:
    every = [(1, 1, 1), (33, 80, 47), (1, 33, 31), (2, 31, 33), (257, 88, 32), (1, 768, 257), (5, 1408, 33)]
    for dtype in DTYPES:
        some = every if dtype == "float32" else [(33, 80, 47), (1, 257, 33)]
        yield from _sizes("sizes", dtype, *some, letters="TCF")
        for name in ("x", *(weight for weight in weights if weight != "b")):
            for layout in ("padded", "strided", "transposed", "heads") if dtype == "float32" else ("padded",):
                yield Case("memory layouts", dtype, {"T": 5}, {name: layout})
        if "b" in weights:
            yield Case("memory layouts", dtype, {"T": 5}, {"b": "strided"})
            yield Case("no bias", dtype, {"T": 5}, choices={"b": "none"})
        for act in acts:
            yield Case("activations", dtype, {"T": 5}, choices={"act": act})
        yield Case("long sums", dtype, {"B": 1, "T": 3, "C": 2560, "F": 8}, values="grows")


def _embed() -> Iterator[Case]:
    for dtype in DTYPES:
        yield from _sizes("sizes", dtype, (1, 1), (33, 80), (2, 33), (257, 31), (5, 768), (3, 2560), letters="TC")
        yield Case("sizes", dtype, {"V": 1, "T": 5})
        for layout in ("padded", "strided", "transposed"):
            yield Case("memory layouts", dtype, {"T": 5}, {"table": layout})
        yield Case("memory layouts", dtype, {"T": 5}, {"ids": "transposed"})
        yield Case("ids of 32 bits", dtype, {"T": 5}, choices={"ids": "int32"})


def _patches() -> Iterator[Case]:
    for dtype in DTYPES:
        for Y, X, P, C in ((4, 4, 4, 1), (13, 18, 4, 33), (33, 31, 7, 80), (28, 28, 14, 88)):
            yield Case("sizes", dtype, {"Y": Y, "X": X, "P": P, "C": C})
        for name, layout in (("pixels", "padded"), ("pixels", "transposed"), ("w", "padded"), ("b", "strided")):
            yield Case("memory layouts", dtype, {"C": 16}, {name: layout})
        yield Case("no bias", dtype, {"C": 16}, choices={"b": "none"})


def _cross_entropy() -> Iterator[Case]:
    for dtype in DTYPES:
        pairs = [(1, 1), (33, 50), (1, 33), (31, 257), (2, 1023), (3, 2560)]
        yield from _sizes("sizes", dtype, *(pairs if dtype == "float32" else pairs[1:5:2]), letters="TV")
        for layout in ("padded", "strided", "transposed", "heads"):
            yield Case("memory layouts", dtype, {"T": 5}, {"logits": layout})
        for form in ("some", "all"):
            yield Case("ignored targets", dtype, {"T": 9}, choices={"ignored": form})
        yield Case("ignored targets", dtype, {"T": 9}, choices={"ignored": "some", "ignore_index": 0})
        for values in ("large", "equal", "tiny"):
            yield Case("extreme values", dtype, {"T": 5}, values=values)


def _bytes() -> Iterator[Case]:
    yield from (case for case in _linear() if case.aspect != "long sums")
    for dtype in DTYPES:
        yield Case("outliers", dtype, {"T": 5}, choices={"outliers": "some"})
        yield Case("outliers", dtype, {"B": 1, "T": 33, "C": 257}, choices={"outliers": "some"})


def _list(name: str) -> Iterator[Case]:
    """The cases of an op."""
    op, floats = TABLE[name], CONTRACTS[name].floats
    if name in _OWN:
        return _OWN[name]()
    if op.kind == "norm":
        return _norm(tuple(each for each in ("x", "y") if each in floats))
    if op.kind == "attention":
        return _attention()
    if op.kind == "product":
        if "scale" in floats:
            return _bytes()
        return _linear(ACTS if "act" in CONTRACTS[name].keywords else (), tuple(floats)[1:])
    return _elementwise()


_OWN = {"softmax": _softmax, "embed": _embed, "patch_embed": _patches, "cross_entropy": _cross_entropy}
