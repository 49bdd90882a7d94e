"""Several sides in step: each runs until it has its next activation, which is compared and let go before it runs on.

So a comparison of a large model holds one layer's activations of each side, not all of them. Only one side runs at a
time; what one emits earlier than the others is kept until it is asked for.

The rule: an activation of B is the same as A's if its error against our own float64 run is

    at most  2 · A's error + floor,       floor = eps · √(1 + layers so far),   eps of the numbers that A computes in

once for the relative error in the Frobenius norm and once for the largest error over the largest number (whose floor is
four times as high: the largest of many rounding errors is larger than the usual one). The float64 run has A's weights
and configuration. Where A is itself that run, our float32 run stands in its place on the right.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ops import get
from ...tracing import Item, hub_name
from .float64 import double
from .ours import Ours
from .sides import Side

TWICE = 2.0
REMEMBERED = 24  # calls that a diagnosis may look back on
Key = tuple[str, str, int]


class _Enough(BaseException):
    """Ends a side that nobody listens to any more."""


class InStep:
    """A side that runs in a thread of its own, and only while somebody waits for its next activation."""

    def __init__(self, side: Side, inputs: Mapping[str, Any]):
        self.side, self.inputs = side, inputs
        self.early: dict[Key, Item] = {}
        self.made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.ended = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        outcome: Any = None
        try:
            if self.wanted.get():
                self.side.run(self.inputs, self._emit)
        except _Enough:
            pass
        except BaseException as problem:  # raised again where the results are waited for
            outcome = problem
        self.made.put(outcome)

    def _emit(self, item: Item) -> None:
        self.made.put(item)
        if not self.wanted.get():
            raise _Enough

    def next(self) -> Item | None:
        """The next activation, or None after the last."""
        if self.ended:
            return None
        self.wanted.put(True)
        found = self.made.get()
        self.ended = not isinstance(found, Item)
        if isinstance(found, BaseException):
            raise found
        return found

    def get(self, key: Key) -> Item | None:
        """The activation of this key, if the side has it."""
        if not self.side.provides(key):
            return None
        while key not in self.early:
            item = self.next()
            if item is None:
                return None
            self.early[item.key] = item
        return self.early.pop(key)

    def close(self) -> None:
        if not self.ended:
            self.wanted.put(False)
            self.made.get()
            self.ended = True


@dataclass
class Row:
    """One activation: errors of A and B against float64, relative Frobenius norm and largest over largest, and how far
    B may be; the largest difference of the two sides, the cosine of the angle between them.
    """

    name: str
    hub: str
    shape: tuple[int, ...]
    error_a: float
    error_b: float
    most_a: float
    most_b: float
    allowed: float
    allowed_most: float
    difference: float
    relative: float
    cosine: float
    same: bool

    @property
    def excess(self) -> float:
        """How many times what is allowed; 1 is the limit."""
        return max(_over(self.error_b, self.allowed), _over(self.most_b, self.allowed_most))


def _over(error: float, allowed: float) -> float:
    return error / allowed if math.isfinite(error) else math.inf


@dataclass
class Parting:
    """The first activation that differs, with all that a diagnosis needs."""

    row: Row
    item: Item  # the judge's
    a: np.ndarray
    b: np.ndarray
    side_a: Side
    side_b: Side
    judge: Ours
    past: list[Item] = field(default_factory=list)  # the judge's last items, oldest first
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> np.ndarray:
        """What the judge has made."""
        return np.asarray(double(self.item.array))

    @property
    def worst(self) -> tuple[tuple[int, ...], float, float]:
        """Where they differ most, and both values there."""
        if self.a.shape != self.b.shape:
            return (), math.nan, math.nan
        apart = np.abs(np.nan_to_num(self.b - self.a, nan=np.inf))
        where = np.unravel_index(int(apart.argmax()), apart.shape)
        return tuple(int(i) for i in where), float(self.a[where]), float(self.b[where])


def compare(a: Side, b: Side, inputs: Mapping[str, Any], *, to_the_end: bool = False) -> tuple[list[Row], Any]:
    """The rows in the order of the flow, up to the first that differs unless `to_the_end`, and the Parting or None."""
    judge = a.judge()
    yard: Side = Ours(judge.model, "float32", ops=_plain(judge)) if a.exact else a
    running = {side: InStep(side, inputs) for side in (judge, yard, b)}
    rows: list[Row] = []
    parting: Parting | None = None
    past: deque[Item] = deque(maxlen=REMEMBERED)
    depth, layer = 1.0, ""
    try:
        for item in _items(running[judge]):
            depth, layer = _deeper(item.name, depth, layer)
            theirs = running[b].get(item.key)
            ours = running[yard].get(item.key) if theirs is not None else None
            if theirs is None or ours is None:
                past.append(item)
                continue
            wanted = np.asarray(double(item.array))
            found, middle = fitted(theirs.array, wanted), fitted(ours.array, wanted)
            reference = wanted if a.exact else middle
            row = measure(item, wanted, middle, found, reference, yard.eps * math.sqrt(depth), judge)
            rows.append(row)
            if not row.same and parting is None:
                parting = Parting(row, item, reference, found, a, b, judge, list(past), inputs)
                if not to_the_end:
                    break
            past.append(item)
    finally:
        for one in running.values():
            one.close()
    return rows, parting


def _plain(judge: Ours) -> Any:
    return judge.model.ops if judge.model.ops.name == "numpy" else get("numpy")


def _items(running: InStep) -> Iterator[Item]:
    while (item := running.next()) is not None:
        yield item


def _deeper(name: str, depth: float, layer: str) -> tuple[float, str]:
    """The number of layers so far: a name of another layer counts one."""
    parts = name.split(".")
    now = ".".join(parts[: next((i + 1 for i, part in enumerate(parts) if part.isdigit()), 1)])
    return (depth + (now != layer), now)


def fitted(array: Any, wanted: np.ndarray) -> np.ndarray:
    """In float64; rows that a side has in one long list, as OPT's MLP in transformers does, row by row again."""
    found = np.asarray(double(array))
    rows_merged = found.ndim != wanted.ndim and found.size == wanted.size and found.shape[-1:] == wanted.shape[-1:]
    return found.reshape(wanted.shape) if rows_merged else found


def measure(item: Item, wanted: Any, yard: Any, found: Any, reference: Any, floor: float, judge: Ours) -> Row:
    """All numbers of one row. Arrays of another shape differ by definition."""
    hub = hub_name(judge.modules, item.key, item.name) or ("" if item.key[0] not in ("logits", "loss") else item.name)
    if found.shape != wanted.shape:
        nothing = math.nan
        text = f"{item.name} has shape {found.shape} on B"
        return Row(text, hub, wanted.shape, 0, math.inf, 0, math.inf, 0, 0, math.inf, math.inf, nothing, False)
    size, top = np.linalg.norm(wanted) or 1.0, float(np.abs(wanted).max(initial=0)) or 1.0
    error_a, error_b = (float(np.linalg.norm(x - wanted) / size) for x in (yard, found))
    most_a, most_b = (float(np.abs(x - wanted).max(initial=0) / top) for x in (yard, found))
    allowed, allowed_most = TWICE * error_a + floor, TWICE * most_a + 4 * floor
    lengths = float(np.linalg.norm(reference) * np.linalg.norm(found))
    cosine = float(np.vdot(reference, found)) / lengths if lengths else 1.0
    return Row(
        item.name, hub, wanted.shape, error_a, error_b, most_a, most_b, allowed, allowed_most,
        float(np.abs(found - reference).max(initial=0)), float(np.linalg.norm(found - reference) / size), cosine,
        error_b <= allowed and most_b <= allowed_most,
    )  # fmt: skip
