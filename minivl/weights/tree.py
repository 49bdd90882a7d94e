"""From a checkpoint's tensors to the tree of weights that a model reads, strict both ways.

A table (weights/names.py) says, for one configuration, every tensor that must be there: its name on the Hub, its path
in our tree and its shape. What is missing, unexpected or misshaped is named; nothing is guessed, renamed, transposed or
copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import WeightsError

Tree = dict[str, Any]


class Entry(NamedTuple):
    """One tensor of a model."""

    hub: str  # its name in the checkpoint
    path: str  # where it lives in our tree: "layers.3.self.q.w"
    shape: tuple[int, ...]
    init: float | None = None  # the number that a fresh model holds everywhere in it; None: random numbers
    aliases: tuple[str, ...] = ()  # names that a file may have it under instead, or as well
    required: bool = True  # what is not required and not in the file is not in the tree either

    def found(self, tensors: Collection[str]) -> str | None:
        """The name that a file has it under."""
        return next((name for name in (self.hub, *self.aliases) if name in tensors), None)


class Constant(NamedTuple):
    """A number that stands in the tree beside the weights it belongs to, as eps stands beside a norm's."""

    path: str
    value: Any


Table = Iterable[Entry | Constant]


def build(
    table: Table,
    tensors: Mapping[str, Any],
    where: str,
    *,
    ignored: Collection[str] = (),
    take: Callable[[np.ndarray], Any] = np.asarray,
    keep: Callable[[Entry, Any], Any] | None = None,
) -> Tree:
    """The tree of a model whose tensors (`Stored`, see weights/files.py) come from `where`, the name for messages.

    `ignored` are names that may be there and are not read. `take` makes a backend's array of each float32 array, one
    after the other, so that a large model is never in memory twice; or `keep` makes what it wants of each tensor as it
    is stored.
    Raises WeightsError naming the tensors that do not fit, or one that holds a NaN or an infinity.
    """
    table = list(table)
    _check([entry for entry in table if isinstance(entry, Entry)], tensors, where, ignored)
    leaves = []
    for entry in table:
        if isinstance(entry, Constant):
            leaves.append((entry.path, map_leaves(take, entry.value)))
        elif name := entry.found(tensors):
            leaf = take(tensors[name].checked()) if keep is None else keep(entry, tensors[name])
            tensors[name].release()  # of what was copied, the original need not stay in memory
            leaves.append((entry.path, leaf))
    return _grow(leaves)


def _check(entries: list[Entry], tensors: Mapping[str, Any], where: str, ignored: Collection[str]) -> None:
    found = {name: entry.shape for entry in entries if (name := entry.found(tensors))}
    missing = [entry.hub for entry in entries if entry.required and not entry.found(tensors)]
    known = {name for entry in entries for name in (entry.hub, *entry.aliases)}.union(ignored)
    unexpected = [name for name in tensors if name not in known]
    misshaped = [
        f"{name} has shape {tuple(tensors[name].array.shape)}, the configuration wants {shape}"
        for name, shape in found.items()
        if tuple(tensors[name].array.shape) != shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshaped))
        if names
    ]
    if faults:
        raise WeightsError(
            f"{where} does not hold the weights that its config.json describes: tensors {'; '.join(faults)}"
        )


def random(table: Table, rng: np.random.Generator, std: float) -> Tree:
    """The tree of a fresh model: weights drawn from N(0, std²), biases 0, norms 1."""

    def leaf(entry):
        if isinstance(entry, Constant):
            return entry.value
        if entry.init is None:
            return rng.normal(0, std, entry.shape).astype(np.float32)
        return np.full(entry.shape, entry.init, np.float32)

    return _grow((entry.path, leaf(entry)) for entry in table if isinstance(entry, Constant) or entry.required)


def flatten(table: Table, tree: Tree) -> dict[str, Any]:
    """{Hub name: array} of a tree: the way back."""

    def look_up(entry):
        node: Any = tree
        for part in entry.path.split("."):
            if not entry.required and part not in node:
                return None
            node = node[int(part) if part.isdigit() else part]
        return node

    entries = [entry for entry in table if isinstance(entry, Entry)]
    return {entry.hub: value for entry in entries if (value := look_up(entry)) is not None}


def map_leaves(function: Callable[[Any], Any], node: Any) -> Any:
    """A tree of the same form, with function(array) for every array; constants stay."""
    if isinstance(node, dict):
        return {key: map_leaves(function, child) for key, child in node.items()}
    if isinstance(node, list):
        return [map_leaves(function, child) for child in node]
    return function(node) if hasattr(node, "shape") else node


def _grow(leaves: Iterable[tuple[str, Any]]) -> Tree:
    root: Tree = {}
    for path, value in leaves:
        *folders, name = path.split(".")
        node = root
        for part in folders:
            node = node.setdefault(part, {})
        node[name] = value
    return _numbered_to_lists(root)


def _numbered_to_lists(node: Any) -> Any:
    """{"0": a, "1": b} becomes [a, b]: layers are counted, everything else is named."""
    if not isinstance(node, dict):
        return node
    children = {key: _numbered_to_lists(child) for key, child in node.items()}
    return list(children.values()) if "0" in children else children
