"""The diagnosis: which single change explains best why one activation differs.

Every suspect is the layer run once more in float64, on the judge's inputs to that layer, with one thing changed. What
it gives is compared with what B gave:

    explained = 1 - |B - suspect| / |B - A|         1: this change makes B's numbers; 0: no better than none

A suspect counts from ENOUGH on (roundings from a little below), or if what is left is within the tolerance of the row.
Below that the difference is called unknown; it is never forced onto the nearest suspect. Where B's weights can be read
they are compared as well, and a weight that differs is named, together with how it differs where that has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from .. import quant
from ..models import blocks, t5
from ..ops import ACTS
from ..quant import round_rows
from ..trace import NORMS, Call
from .flow import Parting
from .sides import FLOAT64, double
from .weights import changes, head_orders, in_place, rounded, without_part

ENOUGH = 0.9
ENOUGH_ROUNDED = 0.8  # a number between two of a narrow kind may be rounded to the one on A's inputs, the other on B's
NEAR = 4.0  # times the tolerance: up to here a difference may have grown from smaller ones before it
LEVEL = 0.01  # suspects this close to the best are named beside it
EPSES = (1e-5, 1e-6, 1e-12, 1e-8, 1e-3)
NARROW = ("bfloat16", "float16", "int8")
Try = tuple[str, Any]  # a change, and the function without arguments that makes what the layer would give with it


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
    a, b = np.asarray(double(parting.item.array)), parting.b
    if a.shape != b.shape:
        return Diagnosis([], f"the shapes differ: {a.shape} on A, {b.shape} on B")
    bad = int((~np.isfinite(b)).sum())
    if bad:
        return Diagnosis([], f"B holds {bad} numbers that are NaN or infinite, of {b.size}: nothing to compare")
    whole, scale = float(np.linalg.norm(b - a)), float(np.linalg.norm(a)) or 1.0
    noise = parting.row.allowed * scale
    found: dict[str, Finding] = {}
    for change, run in suspects(parting):
        with np.errstate(all="ignore"):
            y = np.asarray(run())
        if y.size != b.size or not np.isfinite(y).all():
            continue
        left = float(np.linalg.norm(b - y.reshape(b.shape)))
        explained = 1 - left / whole
        limit = ENOUGH_ROUNDED if change.startswith("dtype") else ENOUGH
        enough = explained >= limit or (left <= noise and explained > 0.5)
        if change not in found or explained > found[change].explained:
            found[change] = Finding(change, explained, enough, left <= noise)
    findings = _ranked(list(found.values()))
    return Diagnosis(findings[:8], _sentence(findings, parting.row.excess))


def _ranked(findings: list[Finding]) -> list[Finding]:
    """The best first; those that explain as much stay in the order of trying. What only says that something differs
    comes behind a suspect that says how, if that leaves nothing but rounding.
    """
    clear = [f for f in findings if not _is_vague(f.change)]
    exact = _in_order([f for f in clear if f.exact])
    return exact + _in_order([f for f in findings if f not in exact])


def _in_order(findings: list[Finding]) -> list[Finding]:
    limit = 1.02 * (1 - max((f.explained for f in findings), default=1)) + 1e-6
    return sorted(findings, key=lambda f: (0.0, 0.0) if 1 - f.explained <= limit else (1.0, -f.explained))


def _is_vague(change: str) -> bool:
    """Whether a change says that something differs and not how: such words stand behind all others."""
    return " differs" in change or change.endswith(" differ") or change.startswith("another ")


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


# ---- suspects of each kind of layer --------------------------------------------------------------
def suspects(parting: Parting) -> Iterator[Try]:
    """Each change, and what the activation would be with it."""
    call, key = parting.item.call, parting.item.key
    if call is None:
        yield from _ends(parting)
        return
    call = call._replace(given={name: _again(value) for name, value in call.given.items()})
    kinds: dict[str, Callable[[Parting, Call], Iterator[Try]]] = {
        "linear": linear,
        "linear_act": linear_act,
        "gated": gated,
        "layer_norm": norm,
        "rms_norm": norm,
        "add_layer_norm": norm,
        "attention": attention,
        "sum": total,
        "embeddings": total,
        "embed": embed,
        "patch_embed": patches,
    }
    if call.op in kinds:
        yield from kinds[call.op](parting, call)
    if key[0].endswith(".self_ln"):
        yield from other_order(parting, key)
    yield from dtypes(parting)


def _again(value: Any) -> Any:
    return value if isinstance(value, Call | str) else double(value)


def dtypes(parting: Parting) -> Iterator[Try]:
    """The result itself rounded, whatever made it."""
    y = np.asarray(double(parting.item.array))
    for name in NARROW[:2]:
        yield f"dtype: rounded to {name}", lambda name=name: rounded(y, name)


def linear(parting: Parting, call: Call, then: Callable[[Any], Any] | None = None) -> Iterator[Try]:
    """x wᵀ + b with another weight, another bias or another x; `then` is what is done with it."""
    x, w, b = call.given["x"], call.given["w"], call.given.get("b")

    def run(x=x, w=w, b=b):
        y = FLOAT64.linear(x, w, b)
        return y if then is None else then(y)

    yield from _other_weights(parting, call, run)
    if b is not None:
        yield "bias missing", lambda: run(b=None)
        if call.path.endswith("qkv"):
            for i, part in enumerate("qkv"):
                yield f"bias of {part} missing", lambda i=i: run(b=without_part(b, i))
    yield from _other_order(parting, call, run)
    if (before := _input_of_norm(parting, call)) is not None:
        yield "norm before it missing", lambda: run(x=before)
    for name in NARROW:
        yield f"dtype: weight rounded to {name}", lambda name=name: run(w=rounded(w, name))
        narrow = {"x": rounded(x, name), "w": rounded(w, name), "b": None if b is None else rounded(b, name)}
        if name != "int8":
            yield f"dtype: computed in {name}", lambda name=name, narrow=narrow: rounded(run(**narrow), name)
        elif then is None:
            yield "dtype: weight and activations rounded to int8, as LLM.int8()", lambda: _llm_int8(x, w, b)
    if then is None:
        yield from _fitted(parting, call)
    if call.path.endswith(".out"):
        yield from _mixed_before(parting, run)
    if then is None:
        yield from _behind_the_norm(parting, call, run)


def _llm_int8(x: Any, w: Any, b: Any) -> Any:
    rows = round_rows(w.astype(np.float16).astype(np.float32))
    return quant.linear(x.astype(np.float32), quant.Int8(*rows, True), None if b is None else b.astype(np.float32))


def _other_order(parting: Parting, call: Call, run: Callable[..., Any]) -> Iterator[Try]:
    """The same numbers of the matrix in another place."""
    w, b = call.given["w"], call.given.get("b")
    if w.ndim == 2 and w.shape[0] == w.shape[1]:
        yield "weight transposed", lambda: run(w=w.T)
    heads = _heads(parting, call.path)
    if call.path.endswith("qkv"):
        for order in list(permutations(range(3)))[1:]:
            name = "".join("qkv"[i] for i in order)
            rows = np.concatenate([np.arange(len(w)).reshape(3, -1)[i] for i in order])
            yield f"q/k/v order: {name}", lambda r=rows: run(w=w[r], b=None if b is None else b[r])
            yield f"q/k/v order: {name} in the weight alone", lambda r=rows: run(w=w[r])
            yield f"q/k/v order: {name} in the bias alone", lambda r=rows: run(b=None if b is None else b[r])
    leaf, change = call.path.rpartition(".")[2], "heads split in another order"
    for places in head_orders(leaf, w.shape[-1] if leaf == "out" else len(w), heads):
        if leaf == "out":
            yield change, lambda c=places: run(w=w[:, c])
        else:
            yield change, lambda r=places: run(w=w[r], b=None if b is None else b[r])


def _other_weights(parting: Parting, call: Call, run: Callable[..., Any]) -> Iterator[Try]:
    """B's own weight and bias, called by how they differ; then the tensors of A's other layers."""
    w, b = call.given["w"], call.given.get("b")
    theirs = {name: _weight(parting.side_b, call.path, name) for name in ("w", "b")}
    for name, mine in (("w", w), ("b", b)):
        if mine is None or theirs[name] is None or np.array_equal(theirs[name], mine):
            continue
        known = dict(_same_shape(parting, call.path, name, mine))
        for change in changes(mine, theirs[name], name, call.path, _heads(parting, call.path), known):
            yield change, lambda name=name: run(**{name: theirs[name]})
    if theirs["w"] is not None and theirs["b"] is not None and b is not None and w.shape == theirs["w"].shape:
        for path, tensor in _same_shape(parting, call.path, "w", w):
            if np.array_equal(tensor, theirs["w"]) and not np.array_equal(tensor, w):
                yield in_place(call.path, path), lambda: run(w=theirs["w"], b=theirs["b"])
    for path, tensor in _same_shape(parting, call.path, "w", w):
        bias = double(parting.judge.weight(f"{path}.b"))
        yield in_place(call.path, path), lambda t=tensor, bias=bias: run(w=t, b=bias)


def _same_shape(parting: Parting, path: str, name: str, mine: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of A that might stand here by mistake: of the same layer, and of the same part of other layers."""
    stack, _, leaf = path.rpartition(".")
    places = [f"{stack}.{other}" for other in ("q", "k", "v", "out", "up", "gate", "down") if other != leaf]
    parts = path.split(".")
    for at in (i for i, part in enumerate(parts) if part.isdigit()):
        number = int(parts[at])
        near = sorted((n for n in range(200) if n != number), key=lambda n: abs(n - number))[:80]
        places += [".".join([*parts[:at], str(n), *parts[at + 1 :]]) for n in near]
    for swap in (("self", "cross"), ("cross", "self"), ("self_ln", "mlp_ln"), ("mlp_ln", "self_ln")):
        places.append(".".join(swap[1] if part == swap[0] else part for part in parts))
    places += [path.replace(*pair) for pair in (("text_", "image_"), ("image_", "text_")) if pair[0] in path]
    for place in places:
        tensor = double(parting.judge.weight(f"{place}.{name}")) if place != path else None
        if tensor is not None and tensor.shape == mine.shape:
            yield place, tensor


def _weight(side: Any, path: str, name: str) -> Any:
    """A tensor of a side in float64, or None; a head that is a table of words is found there."""
    found = side.weight(f"{path}.{name}")
    if found is None and name == "w":
        table = {"language.head": "language.tokens", "mlm.decoder": "text.words"}.get(path, path)
        found = side.weight(table)
    if found is None and path == "mlm.decoder":
        found = side.weight("mlm.bias")
    return None if found is None or not hasattr(found, "shape") else double(found)


def _fitted(parting: Parting, call: Call) -> Iterator[Try]:
    """Changes whose size is read off the difference: a factor, a bias, a few rows, one element."""
    y, d = np.asarray(double(parting.item.array)), parting.b - np.asarray(double(parting.item.array))
    b, x = call.given.get("b"), call.given["x"]
    bare = y if b is None else y - b
    for what, part in (("weight", bare), ("weight and bias", y)):
        if (factor := _factor(part, part + d)) is not None and (b is not None or what == "weight"):
            yield f"{what} scaled by {factor:.4g}", lambda p=part, f=factor: y + p * (f - 1)
    flat, rows = d.reshape(-1, d.shape[-1]), x.reshape(-1, x.shape[-1])
    lone = int(np.abs(flat).max(0).argmax())
    mean = np.zeros(d.shape[-1])
    mean[lone] = flat[:, lone].mean()
    yield f"element {lone} of the bias", lambda: y + mean
    yield "another bias", lambda: y + flat.mean(0)
    sizes = (rows * rows).sum(0)
    step = np.divide(rows.T @ flat[:, lone], sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    column = int((step * step * sizes).argmax())
    one = np.zeros_like(flat)
    one[:, lone] = rows[:, column] * step[column]
    yield f"element [{lone}, {column}] of the weight, off by {step[column]:.3g}", lambda: y + one.reshape(y.shape)
    order = _permutation(y.reshape(flat.shape), parting.b.reshape(flat.shape))
    if order is not None:
        yield "rows of the weight permuted", lambda: y[..., order]


def _factor(x: Any, y: Any) -> float | None:
    """The number that y is of x, unless that is 1 or 0."""
    size = float(np.vdot(x, x))
    factor = float(np.vdot(x, y)) / size if size else 1.0
    return None if abs(factor - 1) < 1e-9 else factor


def _permutation(y: np.ndarray, found: np.ndarray) -> np.ndarray | None:
    """Which column of y each column of `found` is, if they are y's columns in another order."""
    if y.shape[1] > 4096 or len(y) < 3:
        return None
    apart = (found**2).sum(0)[:, None] + (y**2).sum(0)[None] - 2 * found.T @ y
    order = apart.argmin(1)
    is_one = len(set(order.tolist())) == len(order) and not np.array_equal(order, np.arange(len(order)))
    return order if is_one else None


def linear_act(parting: Parting, call: Call) -> Iterator[Try]:
    """Another function behind the layer, then what may be wrong with the layer itself."""
    given = {name: value for name, value in call.given.items() if name != "act"}
    act = call.given["act"]
    inner = FLOAT64.linear(**given)
    for other in ACTS:
        if other != act:
            yield f"activation: {_spoken(other)} for {_spoken(act)}", lambda f=other: getattr(FLOAT64, f)(inner)
    yield "activation missing", lambda: inner
    yield from linear(parting, call._replace(given=given), getattr(FLOAT64, act))


def _spoken(act: str) -> str:
    return {"gelu": "gelu (exact)", "gelu_tanh": "gelu (tanh)"}.get(act, act)


def gated(parting: Parting, call: Call) -> Iterator[Try]:
    """act(W_gate x) · W_up x with one thing changed."""
    gate, up = call.given["gate"], call.given["up"]
    inner = {name: double(value) for name, value in gate.given.items() if name != "act"}
    act = gate.given["act"]
    before, other = FLOAT64.linear(**inner), np.asarray(double(up.output))
    opened = getattr(FLOAT64, act)(before)
    for name in ACTS:
        if name != act:
            yield f"activation: {_spoken(name)} for {_spoken(act)}", lambda f=name: getattr(FLOAT64, f)(before) * other
    yield "activation missing", lambda: before * other
    yield "gate and up exchanged", lambda: before * getattr(FLOAT64, act)(other)
    yield "gate missing", lambda: other
    yield "up missing", lambda: opened
    yield from linear(parting, gate._replace(given=inner), lambda y: getattr(FLOAT64, act)(y) * other)
    plain = up._replace(given={name: double(value) for name, value in up.given.items()})
    yield from linear(parting, plain, lambda y: opened * y)


def norm(parting: Any, call: Call) -> Iterator[Try]:
    """Another eps, weights left out, a summand left out, no norm or another kind of it."""
    given = dict(call.given)
    y = given.pop("y", None)
    x = given.pop("x") if y is None else given.pop("x") + y
    op = "rms_norm" if call.op == "rms_norm" else "layer_norm"
    w, b, eps = given["w"], given.get("b"), given["eps"]

    def run(x=x, w=w, b=b, eps=eps, op=op):
        return FLOAT64.rms_norm(x, w, eps) if op == "rms_norm" else FLOAT64.layer_norm(x, w, b, eps)

    yield from _other_weights(parting, call._replace(given={"w": w, "b": b}), run)
    for other in EPSES:
        if other != eps:
            yield f"eps {other:g} for {eps:g}", lambda e=other: run(eps=e)
    fitted = None
    if parting.b.size:
        fitted = _fitted_eps(x if op == "rms_norm" else x - x.mean(-1, keepdims=True), parting.b, w, b)
    if fitted is not None and all(abs(fitted - known) > 0.1 * known for known in (*EPSES, eps)):
        yield f"eps near {fitted:.3g} for {eps:g}", lambda: run(eps=fitted)
    yield "weight of the norm missing", lambda: run(w=np.ones_like(w))
    if b is not None:
        yield "bias missing", lambda: run(b=np.zeros_like(b))
        yield "weight and bias of the norm missing", lambda: run(w=np.ones_like(w), b=np.zeros_like(b))
    yield "1 added to the weight of the norm", lambda: run(w=w + 1)
    yield "norm missing", lambda: x
    nothing = np.zeros(x.shape[-1])
    if op == "rms_norm":
        yield "layer norm for RMS norm", lambda: run(op="layer_norm", b=nothing)
    else:
        yield "RMS norm for layer norm", lambda: run(op="rms_norm") + b
    C = x.shape[-1]
    if C > 1 and op != "rms_norm":
        yield "variance over C - 1", lambda: (run(b=nothing) * ((C - 1) / C) ** 0.5) + b
    if y is not None:
        yield from _summands(parting, call, given["w"], b, eps)
    elif (before := _input_of_norm(parting, call._replace(given={"x": x}))) is not None:
        yield "norm before it missing", lambda: run(x=before)
    for name in NARROW[:2]:
        yield f"dtype: computed in {name}", lambda name=name: rounded(run(x=rounded(x, name)), name)


def _summands(parting: Parting, call: Call, w: Any, b: Any, eps: float) -> Iterator[Try]:
    """LN(x + y): either left out, the norm in another place, and what bridges do to either."""
    x, y = call.given["x"], call.given["y"]
    ln = lambda z: FLOAT64.layer_norm(z, w, b, eps)  # noqa: E731
    yield "residual missing", lambda: ln(y)
    yield "residual alone, without what the layer makes", lambda: ln(x)
    yield "norm before the sum, not after it", lambda: x + ln(y)
    yield "norm missing after the sum", lambda: x + y
    yield "residual doubled", lambda: ln(2 * x + y)
    yield "what the layer makes doubled", lambda: ln(x + 2 * y)
    yield "what the layer makes subtracted", lambda: ln(x - y)
    link = parting.judge.weight(call.path.rpartition(".")[0])
    types = parting.judge.weight("token_types")
    if "links" not in call.path or types is None or not isinstance(link, dict):
        return
    types, tower = double(types), 1.0
    if "scale" in link:
        tower = float(link["scale"])
        yield "factor of the link missing", lambda: ln(x / tower + y)
        yield "factor of the link on the other summand", lambda: ln(x / tower + y * tower)
    if "beta" in link:
        beta = float(link["beta"])
        tower = 1 - beta
        yield "weights of the link exchanged", lambda: ln(x / tower * beta + y / beta * tower)
        yield "weights of the link missing", lambda: ln(x / tower + y / beta)
    for name in ("scale", "beta"):
        theirs = parting.side_b.weight(f"{call.path.rpartition('.')[0]}.{name}")
        if name in link and theirs is not None and float(theirs) != float(link[name]):
            value = float(theirs)
            changed = value * x / tower + y if name == "scale" else x / tower * (1 - value) + y / beta * value
            yield f"{name} of the link {value:.4g} for {float(link[name]):.4g}", lambda z=changed: ln(z)
    own = 1 if "image" in call.path else 0
    yield "token type missing", lambda: ln(x - tower * types[own] + y)
    yield "the other token type", lambda: ln(x + tower * (types[1 - own] - types[own]) + y)


def _fitted_eps(centred: Any, found: Any, w: Any, b: Any) -> float | None:
    """The eps that would make a norm's result, if there is one: its scale is 1/√(variance + eps)."""
    bare = found - (0 if b is None else b)
    shape = centred * w
    scale = (bare * shape).sum(-1) / np.maximum((shape * shape).sum(-1), 1e-300)
    variance = (centred * centred).mean(-1)
    with np.errstate(all="ignore"):
        eps = float(np.median(scale**-2 - variance))
    return eps if np.isfinite(eps) and eps > 0 else None


def attention(parting: Any, call: Call) -> Iterator[Try]:
    """Masks, scale, order of q, k and v, the heads."""
    given = {name: value for name, value in call.given.items()}
    q, k, v = (given[name] for name in "qkv")
    D, H, C = q.shape[-1], q.shape[1], q.shape[1] * q.shape[-1]

    def run(**other):
        how = given | other
        return _merged(FLOAT64.attention(**how))

    if given.get("mask") is not None:
        mask = given["mask"]
        yield "mask ignored", lambda: run(mask=None)
        yield "mask inverted", lambda: run(mask=~mask)
        yield "mask shifted by one", lambda: run(mask=np.roll(mask, 1, -1))
        yield "mask reversed", lambda: run(mask=mask[..., ::-1])
    if (hidden := _hidden(parting, k.shape[2])) is not None and given.get("mask") is None and q.shape[2] == k.shape[2]:
        yield "mask that should not be", lambda: run(mask=hidden)
    if q.shape[2] > 1:
        causal = bool(given.get("causal"))
        if causal and given.get("mask") is not None:
            yield "mask and causal ignored", lambda: run(mask=None, causal=False)
        yield ("causal ignored" if causal else "causal that should not be"), lambda: run(causal=not causal)
    usual = given.get("scale") or D**-0.5
    for name, scale in (("missing (1)", 1.0), ("1/√D", D**-0.5), ("1/D", 1 / D), ("1/√(H·D)", C**-0.5), ("√D", D**0.5)):
        if abs(scale - usual) > 1e-12:
            yield f"attention scale: {name}", lambda s=scale: run(scale=s)
    if H * D == C and q.shape == k.shape:
        for a, b, c in list(permutations("qkv"))[1:]:
            yield f"q/k/v order: {a}{b}{c}", lambda a=a, b=b, c=c: run(q=given[a], k=given[b], v=given[c])
    else:
        yield "q/k/v order: qvk", lambda: run(k=v, v=k)
    if given.get("bias") is not None:
        bias = given["bias"]
        yield "position bias missing", lambda: run(bias=None)
        yield "position bias of the other direction", lambda: run(bias=bias.swapaxes(-1, -2))
        yield "position offset: bias one place on", lambda: run(bias=np.roll(bias, 1, -1))
        yield "position offset: bias one place back", lambda: run(bias=np.roll(bias, -1, -1))
        yield "position bias of the heads in reverse", lambda: run(bias=bias[:, ::-1])
    yield "heads not merged back in order", lambda: FLOAT64.attention(**given).reshape(q.shape[0], q.shape[2], -1)
    merged = [_merged(x) for x in (q, k, v)]
    for heads in (n for n in range(1, C + 1) if C % n == 0 and n != H):
        parts = [blocks.split_heads(x, heads) for x in merged]
        scale = given.get("scale") or (C // heads) ** -0.5
        if given.get("bias") is None:
            how = {"q": parts[0], "k": parts[1], "v": parts[2], "scale": scale}
            yield f"{heads} heads for {H}", lambda how=how: run(**how)
            if abs(scale - usual) > 1e-12:
                yield f"{heads} heads for {H}, scale as before", lambda how=how: run(**how | {"scale": usual})
    flipped = [x.reshape(*x.shape[:2], D, H).swapaxes(-1, -2).swapaxes(1, 2) for x in merged]
    yield "heads split in another order", lambda: run(q=flipped[0], k=flipped[1], v=flipped[2])
    fit = _fitted_scale(given, parting.b, usual) if parting.b.size else None
    if fit is not None:
        yield f"attention scale: {fit:.4g}", lambda: run(scale=fit)
    for name in NARROW[:2]:
        r = {part: rounded(given[part], name) for part in "qkv"}
        yield f"dtype: computed in {name}", lambda r=r, name=name: rounded(run(**r), name)


def _fitted_scale(given: dict[str, Any], found: Any, usual: float) -> float | None:
    """The scale with which the scores would make B's result, sought by halving; None where none does better."""

    def left(scale: float) -> float:
        y = _merged(FLOAT64.attention(**given | {"scale": scale}))
        return float(np.linalg.norm(y.ravel() - found.ravel()))

    grid = [usual * 2.0**p for p in np.linspace(-4, 4, 17)]
    best = min(grid, key=left)
    width = 2**0.5
    while width > 1 + 1e-7:
        width = width**0.5
        best = min((best / width, best, best * width), key=left)
    return None if abs(best / usual - 1) < 1e-6 else best


def _merged(y: Any) -> Any:
    return blocks.merge_heads(y)


def _hidden(parting: Parting, keys: int) -> Any:
    """The text's mask, as wide as the keys: what a self-attention that takes none might have been given."""
    mask = parting.inputs.get("attention_mask")
    return None if mask is None or np.shape(mask)[1] != keys else (np.asarray(mask) != 0)[:, None, None]


def _mixed_before(parting: Parting, run: Callable[..., Any]) -> Iterator[Try]:
    """Where B does not show what the heads have gathered, its faults are seen behind the last matrix."""
    before = next((item for item in reversed(parting.past) if item.call and item.call.op == "attention"), None)
    if before is None or parting.side_b.provides(before.key):
        return
    call = before.call._replace(given={name: _again(value) for name, value in before.call.given.items()})
    for change, make in attention(_Silent(parting), call):
        yield change, lambda make=make: run(x=make())


def _behind_the_norm(parting: Parting, call: Call, run: Callable[..., Any]) -> Iterator[Try]:
    """What a layer is given may have been changed behind the module that made it, where no hook sees it."""
    x = call.given["x"]
    for item in reversed(parting.past):
        made = item.call
        if made and item.key[1] == "out" and made.op in (*NORMS, "add_layer_norm") and np.shape(item.array) == x.shape:
            if np.array_equal(double(item.array), x):
                given = {name: _again(value) for name, value in made.given.items()}
                for change, make in norm(_Silent(parting), made._replace(given=given)):
                    yield f"{change}, in {item.name}", lambda make=make: run(x=make())
                return


class _Silent:
    """A parting whose B does not show what is tried: nothing can be fitted to it."""

    def __init__(self, parting: Parting):
        self._parting = parting
        self.b = np.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parting, name)


def total(parting: Parting, call: Call) -> Iterator[Try]:
    """A sum with a summand left out, doubled, subtracted, or normed on the way."""
    whole, y = np.asarray(double(call.output)), call.given.get("y")
    if y is None or np.shape(y)[-1] != whole.shape[-1]:
        y = None
    if call.op == "sum" and y is not None and np.size(y) == whole.size:
        x, y = call.given["x"], np.asarray(y).reshape(whole.shape)
        yield "residual missing", lambda: y
        yield "what the layer makes missing", lambda: x
        yield "residual doubled", lambda: whole + x
        yield "what the layer makes doubled", lambda: whole + y
        yield "what the layer makes subtracted", lambda: x - y
        if (normed := _norm_of(parting, x)) is not None:
            yield "residual taken after the norm", lambda: normed + y
            yield "result of the norm added as well", lambda: whole + normed
        for name, before in _streams(parting, call, whole):
            yield f"{name} missing", lambda s=before: whole - s
            yield f"{name} added once more", lambda s=before: whole + s
        if (factor := _factor(y, parting.b - x)) is not None:
            yield f"what the layer makes scaled by {factor:.4g}", lambda: x + factor * y
        if (factor := _factor(x, parting.b - y)) is not None:
            yield f"residual scaled by {factor:.4g}", lambda: factor * x + y
    if (factor := _factor(whole, parting.b)) is not None:
        yield f"scaled by {factor:.4g}", lambda: whole * factor
    yield from _parameters(parting, call, whole, y)


def _streams(parting: Parting, call: Call, whole: Any) -> Iterator[tuple[str, Any]]:
    """What the stream held at the places before, by their names."""
    stack = call.path.split(".layers.")[0] if ".layers." in call.path else call.path.rpartition(".")[0]
    for item in reversed(parting.past):
        same_stack = item.name.split(".layers.")[0].removesuffix(".embeddings") == stack
        if item.key[1] == "in" and item.call and item.call.op in ("sum", "embeddings") and same_stack:
            if np.shape(item.array) == whole.shape:
                yield item.name, np.asarray(double(item.array))


def _parameters(parting: Parting, call: Call, whole: Any, y: Any) -> Iterator[Try]:
    """Sums of learned tables: positions, the class token, token types."""
    stack = call.path.split(".")[0]
    positions, token = (parting.judge.weight(f"{stack}.{name}") for name in ("positions", "class_token"))
    if call.op == "embeddings" and positions is not None and stack in ("vision",) and "layers.1" not in call.path:
        table = double(positions).reshape(-1, whole.shape[-1])
        if len(table) == whole.shape[1]:
            bare = whole - table
            yield "positions missing", lambda: bare
            for step in (1, -1):
                yield f"position offset {step:+d}", lambda s=step: bare + np.roll(table, s, 0)
            yield "positions of the class token last", lambda: bare + np.concatenate([table[1:], table[:1]])
            yield "positions in columns, not in rows", lambda: bare + _columns(table)
            yield "class token missing", lambda: _without_first(whole, table)
            yield from _their_table(parting, f"{stack}.positions", bare, table)
            theirs = parting.side_b.weight(f"{stack}.class_token")
            if theirs is not None and not np.array_equal(double(theirs), double(token)):
                change = np.zeros_like(whole)
                change[:, 0] = (double(theirs) - double(token)).reshape(-1)
                yield "class token differs", lambda: whole + change
    elif call.op == "embeddings" and stack == "language" and y is not None and np.shape(y) == whole.shape:
        yield "positions missing", lambda: whole - y
        yield "positions doubled", lambda: whole + y
    elif call.op == "embeddings" and stack in ("text_ln", "image_ln"):
        types, own = double(parting.judge.weight("token_types")), 1 if stack == "image_ln" else 0
        yield "token type missing", lambda: whole - types[own]
        yield "the other token type", lambda: whole - types[own] + types[1 - own]
        yield from _their_table(parting, "token_types", whole - types[own], types, own)
    elif call.op == "embeddings" and stack == "text":
        yield from _text_sum(parting, whole)
    elif call.path == "qformer.ln":
        yield from _their_table(parting, "queries", 0.0, double(parting.judge.weight("queries")))


def _text_sum(parting: Parting, whole: Any) -> Iterator[Try]:
    """RoBERTa's words, type and positions."""
    made = [np.asarray(double(i.array)) for i in parting.past if i.key[0] in ("text.positions", "text.words")]
    types = double(parting.judge.weight("text.types"))
    yield "token type missing", lambda: whole - types[0]
    for row in range(1, len(types)):
        yield f"token type {row} for 0", lambda r=row: whole - types[0] + types[r]
    yield from _their_table(parting, "text.types", whole - types[0], types, 0)
    if len(made) == 2:
        yield "positions missing", lambda: made[0] + types[0]
        yield "words missing", lambda: made[1] + types[0]


def _their_table(parting: Parting, path: str, bare: Any, mine: Any, row: int | None = None) -> Iterator[Try]:
    theirs = parting.side_b.weight(path)
    if theirs is None:
        return
    theirs = double(theirs).reshape(mine.shape)
    if not np.array_equal(theirs, mine):
        picked = theirs if row is None else theirs[row]
        for change in changes(mine, theirs, path.rpartition(".")[2], path, 0, {}):
            yield change, lambda: np.broadcast_to(bare + picked, parting.b.shape)


def _columns(table: Any) -> Any:
    side = int(round((len(table) - 1) ** 0.5))
    if side * side + 1 != len(table):
        return table
    return np.concatenate([table[:1], table[1:].reshape(side, side, -1).swapaxes(0, 1).reshape(side * side, -1)])


def _without_first(whole: Any, table: Any) -> Any:
    found = whole.copy()
    found[:, 0] = table[0]
    return found


def embed(parting: Parting, call: Call) -> Iterator[Try]:
    """Rows of a table: another place to count from, a mask that is not counted, another table."""
    ids, table = np.asarray(call.given["ids"]), double(call.given["table"])
    rows = len(table)
    theirs = parting.side_b.weight(call.path)
    if theirs is not None and not np.array_equal(double(theirs), table):
        for change in changes(table, double(theirs), "table", call.path, 0, {}):
            yield change, lambda: double(theirs)[ids]
    if call.path.endswith("positions"):
        for step in (-2, -1, 1, 2):
            yield f"position offset {step:+d}", lambda s=step: table[np.clip(ids + s, 0, rows - 1)]
        first = int(ids.max(initial=0)) - ids.shape[-1] + 1
        line = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
        for start in sorted({first, 0, 1, 2, int(ids.min(initial=0)), int(ids.min(initial=0)) + 1}):
            name = "mask ignored: positions counted through padding"
            yield name, lambda s=start: table[np.clip(line + s, 0, rows - 1)]
        for start in sorted({0, 1, 2, 3, first, first + 1}):
            yield f"positions from {start} on", lambda s=start: table[np.clip(line + s, 0, rows - 1)]
    if call.path.endswith("coder.places"):
        yield from _other_rows(parting, call.path, table, ids.shape)
    if (factor := _factor(np.asarray(double(call.output)), parting.b)) is not None:
        yield f"embeddings scaled by {factor:.4g}", lambda: np.asarray(double(call.output)) * factor


def _other_rows(parting: Parting, path: str, table: Any, shape: tuple[int, ...]) -> Iterator[Try]:
    """T5's distances put into other buckets."""
    config, both = parting.judge.model.config.text_config, "encoder" in path
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    apart = t5.distances(*shape[-2:])

    def rows(apart=apart, buckets=buckets, farthest=farthest, both=both):
        return table[np.clip(t5.bucket(apart, buckets, farthest, both), 0, len(table) - 1)]

    for step in (1, -1, 2, -2):
        yield f"position offset {step:+d}", lambda s=step: rows(apart + s)
    yield "places of the other direction", lambda: rows(-apart)
    yield f"distances in {'one direction' if both else 'both directions'}", lambda: rows(both=not both)
    for other in sorted({8, 16, 20, 32, 64, 128, 256, 512} - {farthest}):
        if other > buckets // 2:
            yield f"relative_attention_max_distance {other}", lambda o=other: rows(farthest=o)
    for other in sorted({8, 16, 32, 64} - {buckets}):
        if 4 <= other <= len(table) and other < 2 * farthest:
            yield f"relative_attention_num_buckets {other}", lambda o=other: rows(buckets=o)


def patches(parting: Parting, call: Call) -> Iterator[Try]:
    """The first layer: bias, colours, rows and columns."""
    pixels, w, b = (double(call.given.get(name)) for name in ("pixels", "w", "b"))

    def run(pixels=pixels, w=w, b=b):
        return FLOAT64.patch_embed(pixels, w, b)

    yield from _other_weights(parting, call._replace(given={"w": w, "b": b}), run)
    if b is not None:
        yield "bias missing", lambda: run(b=None)
    yield "colours in reverse (BGR)", lambda: run(w=w[:, ::-1])
    yield "patches transposed", lambda: run(w=w.swapaxes(-1, -2))
    yield "picture transposed", lambda: run(pixels=pixels.swapaxes(-1, -2))
    yield "patches upside down", lambda: run(w=w[:, :, ::-1])
    yield "patches mirrored", lambda: run(w=w[..., ::-1])
    y = np.asarray(double(call.output))
    side = int(round(y.shape[1] ** 0.5))
    if side * side == y.shape[1]:
        turned = y.reshape(len(y), side, side, -1).swapaxes(1, 2).reshape(y.shape)
        yield "patches counted in columns, not in rows", lambda: turned
    if (factor := _factor(y if b is None else y - b, parting.b if b is None else parting.b - b)) is not None:
        yield f"weight or picture scaled by {factor:.4g}", lambda: run(w=w * factor)
    for name in NARROW:
        yield f"dtype: weight rounded to {name}", lambda name=name: run(w=rounded(w, name))
        if name != "int8":
            narrow = {"pixels": rounded(pixels, name), "w": rounded(w, name)}
            narrow |= {"b": None if b is None else rounded(b, name)}
            yield f"dtype: computed in {name}", lambda n=name, narrow=narrow: rounded(run(**narrow), n)


def other_order(parting: Parting, key: tuple[str, str, int]) -> Iterator[Try]:
    """A pre-LN layer that norms after its sums."""
    path, where, _ = key
    judge, config = parting.judge, parting.judge.model.config
    layer = judge.weight(path.removesuffix(".self_ln"))
    made = parting.item.call or Call("", "", {}, None)
    stream = made.given.get("x") if where == "out" else parting.item.array
    heads = _heads(parting, path)
    is_opt = path.startswith("language.layers") and config.text_config.model_type == "opt"
    if layer is None or not heads or stream is None or made.op == "rms_norm" or "coder." in path:
        return
    mask = None
    if is_opt:
        text = np.asarray(parting.inputs["attention_mask"])
        seen = np.ones((len(text), np.shape(stream)[1] - text.shape[1]), text.dtype)
        mask = (np.concatenate([seen, text], 1) != 0)[:, None, None]

    def summed() -> Any:
        x = np.asarray(double(stream))
        return x + blocks.attend(FLOAT64, layer["self"], x, heads, mask=mask, causal=is_opt)

    if where == "in":
        yield "norm after the sum, not before it", summed
    elif made.op in NORMS:
        yield "norm after the sum, not before it", lambda: FLOAT64.layer_norm(summed(), **layer["self_ln"])


def _ends(parting: Parting) -> Iterator[Try]:
    """What comes after the last layer: the logits' scale, the length of vectors, the loss."""
    y = np.asarray(double(parting.item.array))
    if (factor := _factor(y, parting.b)) is not None:
        yield f"scaled by {factor:.4g}", lambda: y * factor
    if parting.item.name == "loss":
        return
    made = next((i for i in reversed(parting.past) if i.key[0] == "mlm.decoder"), None)
    if made is not None and made.call is not None:
        given = made.call.given
        call = made.call._replace(given={n: double(v) for n, v in given.items()})
        yield from linear(parting, call)
    yield from dtypes(parting)


# ---- what is known around a layer ----------------------------------------------------------------
def _input_of_norm(parting: Parting, call: Call) -> Any:
    """What the norm in front of a layer was given, if its result is what the layer reads."""
    x = call.given["x"]
    for item in reversed(parting.past):
        made = item.call
        if made and item.key[1] == "out" and made.op in (*NORMS, "add_layer_norm") and np.shape(item.array) == x.shape:
            if np.array_equal(double(item.array), x):
                before = double(made.given["x"])
                return before + double(made.given["y"]) if made.op == "add_layer_norm" else before
    return None


def _norm_of(parting: Parting, x: Any) -> Any:
    """The norm of x, if it was made lately."""
    for item in reversed(parting.past):
        made = item.call
        if made and item.key[1] == "out" and made.op in NORMS and np.shape(item.array) == x.shape:
            if np.array_equal(double(made.given["x"]), x):
                return np.asarray(double(item.array))
    return None


def _heads(parting: Parting, path: str) -> int:
    """How many heads the attention at a path has."""
    config, first = parting.judge.model.config, path.split(".")[0]
    if first == "vision":
        c = config.vision_config
        return getattr(c, "num_attention_heads", 0) or max(1, c.hidden_size // 64)
    if first == "qformer":
        return config.qformer_config.num_attention_heads
    if first == "language" or first == "text":
        return config.text_config.num_attention_heads
    return config.num_attention_heads if first.endswith("_layers") else 0
