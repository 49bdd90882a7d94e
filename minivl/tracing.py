"""What flows through a model, seen from outside: a record of ops can be wrapped, and the model does not notice.

    with minivl.trace(model) as flow:
        model(**inputs)
    flow["vision.layers.3.mlp"]                 an array, in the order in which it was made
    flow.hub("vision.layers.3.mlp")             "vision_model.encoder.layers.3.mlp.fc2", its module on the Hub

    with minivl.trace(model, check_finite=True):
        model(**inputs)                         NumbersError names the first op that gives NaN or an infinity

Names follow from the weights: what `linear` makes with params["vision"]["layers"][3]["self"]["q"] is called
vision.layers.3.self.q. On top of that

    S.embeddings               what the first layer of a stack is given, where that is a sum
    S.layers.3                 what layer 3 leaves, where that is a sum (pre-LN); elsewhere it is S.layers.3.mlp_ln
    S.layers.3.self_sum        the sum after a part of a layer
    S.layers.3.self.mixed      what the heads have gathered, (B, T, H·D), before the last matrix of the attention
    S.layers.3.self            after it
    S.layers.3.mlp.act         between the two matrices of an MLP
    S.layers.3.mlp             after them
    x#2                        what the same weights made when they were used again
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .errors import NumbersError
from .ops import TABLE, Ops

WATCHED = {name: op.names for name, op in TABLE.items() if name != "attention_weights"}  # with their arguments
WATCHED["concat"] = ["arrays", "axis"]
NORMS = tuple(name for name, op in TABLE.items() if op.kind == "norm" and "y" not in op.floats)  # of one array
WORDS = {"tokens": "head", "words": "mlm.decoder"}  # a table of words as a head's matrix


def watch_attention(ops: Ops, maps: list[Any]) -> Ops:
    """A record that also appends the attention weights (B, H, T, S) of every attention call to `maps`."""

    def attention(q, k, v, **how):
        maps.append(ops.attention_weights(q, k, **how))
        return ops.attention(q, k, v, **how)

    return ops._replace(attention=attention)


class Watch:
    """Runs a generator of hidden states and keeps what was asked for: all the states, all the attention maps, or only
    the last state.
    """

    def __init__(self, ops: Any, attentions: bool, hidden_states: bool):
        self._maps: list[Any] | None = [] if attentions else None
        self._states: list[Any] | None = [] if hidden_states else None
        self.ops = ops if self._maps is None else watch_attention(ops, self._maps)

    def run(self, network):
        for x in network(self.ops):
            if self._states is not None:
                self._states.append(x)
        return x

    @property
    def attentions(self):
        return None if self._maps is None else tuple(self._maps)

    @property
    def hidden_states(self):
        return None if self._states is None else tuple(self._states)


# ---- activations by name -------------------------------------------------------------------------
class Call(NamedTuple):
    """One call of an op: which, with the weights at which path of the tree, given what, and what it gave.

    "sum" is no op: x is what the stream held and y what was added to it; "embeddings" has y only, the last summand.
    "gated" is T5's MLP up to its last matrix: x, and the two calls `gate` and `up`.
    """

    op: str
    path: str
    given: dict[str, Any]
    output: Any


class Item(NamedTuple):
    """An activation: `key` says the same on every side of a comparison (path, "in" or "out", how often it was met)."""

    key: tuple[str, str, int]
    name: str
    array: Any
    call: Call | None


class Tracer:
    """Wraps a record; `emit(item)` is called with every activation as soon as it is there.

    paths   {identity(weight): its path in the tree}, see `paths_of`
    """

    def __init__(self, paths: Mapping[int, str], emit: Callable[[Item], None], *, finite=False, attentions=False):
        self.paths, self.emit_item, self.finite, self.attentions = paths, emit, finite, attentions
        self.counts: dict[tuple[str, str], int] = {}
        self.streams: dict[str, tuple[str, Any]] = {}  # of each stack its last norm and what that was given
        self.last = Call("", "", {}, None)
        self.asking = ""  # whose queries were made last
        self.attending = self.thinking = self.gate = self.last

    def wrap(self, ops: Ops) -> Ops:
        """The record whose functions are watched."""

        def watched(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args, **how):
                output = function(*args, **how)
                given = dict(zip(WATCHED[op], args, strict=False)) | how
                self._saw(ops, Call(op, self._path(op, given), given, output))
                return output

            return run

        functions: dict[str, Any] = {op: watched(op, getattr(ops, op)) for op in WATCHED}
        return ops._replace(**functions)

    def _path(self, op: str, given: dict[str, Any]) -> str:
        weight = given.get("table" if op == "embed" else "w")
        path = "" if weight is None else self.paths.get(identity(weight), "")
        stack, _, leaf = path.rpartition(".")
        if op == "linear" and leaf in WORDS:
            return "mlm.decoder" if leaf == "words" else f"{stack}.{WORDS[leaf]}"
        return path

    def _saw(self, ops: Ops, call: Call) -> None:
        op, path, given = call.op, call.path, call.given
        if self.finite:
            _check_finite(call, path or self.asking)
        if op == "gated_linear":
            return self._saw_halves(ops, given)
        if op in NORMS and path:
            self._norm_input(path, given["x"])
        elif op == "linear":
            self._linear_input(path, given["x"])
        if op == "attention":
            self.attending = call._replace(path=self.asking)
            if self.attentions:
                weights = ops.attention_weights(**{k: v for k, v in given.items() if k != "v"})
                self._emit(self.asking, "weights", f"{self.asking}.weights", weights, self.attending)
        elif op == "linear_act":
            self.thinking = self.gate = call
        elif op == "tanh":
            self._emit(self.last.path, "act", f"{self.last.path}.tanh", call.output, call._replace(path=self.last.path))
        elif path:
            stack, _, leaf = path.rpartition(".")
            if leaf in ("q", "qkv"):
                self.asking = stack
            self._emit(path, "out", stack if leaf in ("out", "down") else path, call.output, call)
        if path:
            self.last = call

    def _saw_halves(self, ops: Ops, given: dict[str, Any]) -> None:
        """The two halves of a gated MLP, which the op multiplies in one pass: computed once more, apart, to be seen."""
        x, act = given["x"], given["act"]
        gate, up = {"x": x, "w": given["gate"], "act": act}, {"x": x, "w": given["up"]}
        opened = ops.linear_act(x, given["gate"], act=act)
        self._saw(ops, Call("linear_act", self._path("linear_act", gate), gate, opened))
        self._saw(ops, Call("linear", self._path("linear", up), up, ops.linear(x, given["up"])))

    def _norm_input(self, path: str, x: Any) -> None:
        """What a norm is given is a sum, unless it is just what the last op made."""
        stack = path.split(".layers.")[0] if ".layers." in path else path.rpartition(".")[0]
        if x is not self.last.output:
            self._emit_sum(stack, path, x)
        elif self.last.op == "linear_act":
            self._emit(path, "in", f"{self.last.path.rpartition('.')[0]}.act", x, self.last)
        self.streams[stack] = (path, x)

    def _emit_sum(self, stack: str, path: str, x: Any) -> None:
        before, stream = self.streams.get(stack, ("", None))
        first_of_all = not before and path.endswith(".layers.0.self_ln")
        whole = before.startswith(f"{stack}.layers.") and getattr(stream, "shape", None) == x.shape
        if first_of_all:
            name, call = f"{stack}.embeddings", Call("embeddings", path, {"y": self.last.output}, x)
        elif whole and stack:
            name = before.removesuffix(".mlp_ln") if before.endswith(".mlp_ln") else f"{before.removesuffix('_ln')}_sum"
            call = Call("sum", path, {"x": stream, "y": self.last.output}, x)
        else:
            name, call = f"{path}.in", Call("embeddings", path, {"y": self.last.output}, x)
        self._emit(path, "in", name, x, call)

    def _linear_input(self, path: str, x: Any) -> None:
        stack, _, leaf = path.rpartition(".")
        if leaf == "out":
            self._emit(path, "in", f"{stack}.mixed", x, self.attending._replace(path=stack))
        elif leaf == "down" and self.gate.path.endswith(".gate"):
            gated = Call("gated", stack, {"x": self.gate.given["x"], "gate": self.gate, "up": self.last}, x)
            self._emit(path, "in", f"{stack}.act", x, gated)
        elif leaf == "down":
            self._emit(path, "in", f"{stack}.act", x, self.thinking)
        elif leaf == "head" and x is not self.last.output:
            self._emit_sum(stack, path, x)

    def _emit(self, path: str, where: str, name: str, array: Any, call: Call | None) -> None:
        count = self.counts[path, where] = self.counts.get((path, where), 0) + 1
        name = name if count == 1 else f"{name}#{count}"
        self.emit_item(Item((path, where, count), name, array, call))


def identity(weight: Any) -> int:
    """A number that tells a weight from all others of its model, through torch's detach() too."""
    return weight.data_ptr() if hasattr(weight, "data_ptr") else id(weight)


def paths_of(params: Any, before: str = "") -> dict[int, str]:
    """{identity of a weight: the path of the layer it belongs to}, for a tree of weights."""
    if hasattr(params, "shape"):
        return {identity(params): before.removesuffix(".w")}
    pairs = params.items() if isinstance(params, dict) else enumerate(params) if isinstance(params, list) else ()
    return {
        number: path
        for name, child in pairs
        for number, path in paths_of(child, f"{before}.{name}" if before else str(name)).items()
    }


def hub_modules(table: Any) -> dict[str, str]:
    """{path of a layer: the Hub's module}, from a table of weights/names.py."""
    found: dict[str, str] = {}
    for entry in table:
        if hasattr(entry, "hub") and not entry.path.endswith(".b"):
            found[entry.path.removesuffix(".w")] = entry.hub.removesuffix(".weight")
    return found


def hub_name(modules: Mapping[str, str], key: tuple[str, str, int], name: str) -> str:
    """How the Hub calls an activation: the module whose output it is, or whose input."""
    path, where, _ = key
    if where == "in" and name.partition("#")[0].rpartition(".layers.")[2].isdigit():  # a layer's sum
        own = modules.get(f"{name.partition('#')[0]}.mlp_ln", "").split(".")
        numbers = [i for i, part in enumerate(own) if part.isdigit()]
        return ".".join(own[: numbers[0] + 1]) if numbers else ""
    module = modules.get(path) or modules.get({"head": "tokens"}.get(path.rpartition(".")[2], ""), "")
    if path.endswith(".head") and not module:
        return "language_model.lm_head"
    return f"{module} input" if where == "in" and module else module


class Flow:
    """The activations of a run, by name, in the order in which they were made; `ops` is the record that is watched."""

    def __init__(self, modules: Mapping[str, str]):
        self._items: dict[str, Item] = {}
        self._modules = modules
        self.ops: Any = None

    def _keep(self, item: Item) -> None:
        self._items.pop(item.name, None)  # a second run of the model takes the place of the first
        self._items[item.name] = item

    def __getitem__(self, name: str) -> Any:
        return self._items[name].array

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._items)

    def items(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, item.array) for name, item in self._items.items())

    def call(self, name: str) -> Call | None:
        """The op that made an activation, with what it was given."""
        return self._items[name].call

    def hub(self, name: str) -> str:
        """The Hub's name of the module that makes this activation, or "… input"; "" where it has none."""
        return hub_name(self._modules, self._items[name].key, name)


@contextmanager
def trace(model: Any = None, *, check_finite: bool = False, attentions: bool = False) -> Iterator[Flow]:
    """While the block runs, everything that flows through the model is kept under its name.

    model         one of minivl's models, or an ops record (None: NumPy's), for functions of one's own: use flow.ops
    check_finite  raise NumbersError at the first op that gives NaN or an infinity
    attentions    keep the attention weights (B, H, T, S) too, as vision.layers.3.self.weights
    """
    from . import ops as ops_records

    is_model = hasattr(model, "params")
    ops = model.ops if is_model else model or ops_records.get("numpy")
    flow = Flow(hub_modules(model.table(model.config)) if is_model else {})
    tracer = Tracer(paths_of(model.params) if is_model else {}, flow._keep, finite=check_finite, attentions=attentions)
    flow.ops = tracer.wrap(ops)
    if not is_model:
        yield flow
        return
    model.ops = flow.ops
    try:
        yield flow
    finally:
        model.ops = ops


# ---- NaN and infinity ----------------------------------------------------------------------------
def _check_finite(call: Call, near: str) -> None:
    bad = _not_finite(call.output)
    if not bad:
        return
    given = [name for name, value in call.given.items() if name not in ("mask", "bias") and _not_finite(value)]
    why = f"already in its argument {' and '.join(given)}" if given else "its arguments are finite"
    place = f" of {near}" if near else ""
    number, where = bad
    raise NumbersError(
        f"op {call.op}{place}: wanted finite numbers, found {number} NaN or infinite, the first at {where}; {why}"
    )


def _not_finite(value: Any) -> tuple[int, tuple[int, ...]] | None:
    """How many numbers of an array are NaN or infinite, and where the first is."""
    if isinstance(value, list | tuple) and not hasattr(value, "shape"):
        return next((found for part in value if (found := _not_finite(part))), None)
    if hasattr(value, "isfinite"):  # a tensor
        wrong = (~value.isfinite()).detach().cpu().numpy() if value.is_floating_point() else np.zeros(0, bool)
    else:
        array = np.asarray(value) if isinstance(value, np.ndarray | np.generic | float) else np.zeros(0)
        wrong = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(0, bool)
    if not wrong.any():
        return None
    first = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return int(wrong.sum()), tuple(int(i) for i in first)
