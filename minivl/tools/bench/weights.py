"""Random weights of a model's real size, once in memory: our tree, and a module of transformers that looks at the same.

Numbers come from one stretch of noise, read from another place for each tensor: quick to fill gigabytes with, random
enough for a clock, and a mix-up of two tensors still shows in the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...errors import WeightsError
from ...weights import files, tree
from ...weights import quantise as narrow

NOISE = 1 << 22  # numbers, more than a processor's cache holds
STEP = 1_299_709  # a prime: no two tensors of a model start at the same place of the noise
STD = 0.02
Tensors = dict[str, files.Stored]


def parameters(table: tree.Table) -> int:
    """How many numbers a model has."""
    return sum(math.prod(entry.shape) for entry in table if isinstance(entry, tree.Entry) and entry.required)


@cache
def noise(code: str, std: float = STD) -> np.ndarray:
    """The stretch of noise in one of the forms of a file."""
    drawn = np.random.default_rng(0).normal(0, std, NOISE).astype(np.float32)
    return drawn if code == "F32" else files.convert(drawn, code)


def draw(table: tree.Table, code: str = "F32", std: float = STD) -> Tensors:
    """Every tensor of a model; "BF16" gives the rounded numbers of "F32"."""
    entries = [entry for entry in table if isinstance(entry, tree.Entry) and entry.required]
    return {
        entry.hub: files.Stored(code, _drawn(entry, i * STEP, code, std), entry.hub) for i, entry in enumerate(entries)
    }


def _drawn(entry: tree.Entry, start: int, code: str, std: float) -> np.ndarray:
    size, source = math.prod(entry.shape), noise(code, std)
    if entry.init:  # ones of a norm, which stay near one
        near = noise("F32", std)[np.arange(start, start + size) % NOISE] + np.float32(entry.init)
        return (near if code == "F32" else files.convert(near, code)).reshape(entry.shape)
    found, at = np.empty(size, source.dtype), 0
    while at < size:
        part = source[(start + at) % NOISE :][: size - at]
        found[at : at + len(part)] = part
        at += len(part)
    return found.reshape(entry.shape)


def tree_of(table: tree.Table, tensors: Tensors, mode: str | None = None, language: str = "") -> tree.Tree:
    """Our tree of these weights; with a mode, as from_pretrained keeps them in fewer bits."""
    keep = narrow.keeper(mode, language) if mode else None
    return tree.build(table, tensors, "random weights", keep=keep)


def within(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors of one part, under the names that they have there."""
    return {name.removeprefix(prefix): stored for name, stored in tensors.items() if name.startswith(prefix)}


def module_of(make: Callable[..., Any], config: Any, tensors: Tensors) -> Any:
    """A module of transformers whose parameters are views of these weights."""
    import torch

    with torch.device("meta"):
        module = make(config).eval()
    state = {name: tensor_of(stored) for name, stored in tensors.items()}
    module.load_state_dict(state, assign=True, strict=False)
    if hasattr(module, "tie_weights"):  # ties what has no tensor of its own, and T5's head, which has
        module.tie_weights()
        module.load_state_dict(state, assign=True, strict=False)
    for name, buffer in list(module.named_buffers()):  # numbers of positions and token types are in no file
        owner, _, key = name.rpartition(".")
        filled = torch.arange(buffer.shape[-1]) if key == "position_ids" else torch.zeros(1, dtype=torch.long)
        setattr(module.get_submodule(owner), key, filled.expand(buffer.shape).clone())
    left = [name for name, weight in module.named_parameters() if weight.is_meta]
    if left:
        raise WeightsError(f"{make.__name__}: wanted a tensor for every parameter, found none for {left[0]}")
    return module


def tensor_of(stored: files.Stored) -> Any:
    """A torch tensor that looks at the same memory."""
    import torch

    if stored.dtype == "BF16":
        return torch.from_numpy(stored.array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored.array)


def leaves(node: Any) -> list[np.ndarray]:
    """The arrays in memory under a node of a tree; of a matrix in fewer bits, its parts."""
    if isinstance(node, np.ndarray):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return [array for child in children for array in leaves(child)]
