"""A side that is a model of minivl, on a backend or in float64 as the judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...api.pretrained import Pretrained
from ...ops import ON_NUMPY, Ops, plain
from ...tracing import Item, Tracer, hub_modules, paths_of
from ...weights import tree
from .float64 import FLOAT64

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
Emit = Callable[[Item], None]


def eps_of(dtype: Any) -> float:
    """The relative step of the numbers that a side computes in; float32's for what has none of its own."""
    return EPS.get(str(dtype).removeprefix("torch."), EPS["float32"])


def emit_results(emit: Emit, logits: Any, loss: Any) -> None:
    """What a model returns, as the last activations of its run."""
    for name, value in (("logits", logits), ("loss", loss)):
        if value is not None:
            emit(Item((name, "out", 1), name, value, None))


class Ours:
    """A model of minivl. `ops` is its record, or FLOAT64 for the judge."""

    def __init__(self, model: Pretrained, label: str, *, ops: Ops | None = None):
        self.model, self.label, self.ops = model, label, ops or model.ops
        self.family = type(model)
        self.modules = hub_modules(model.table(model.config))
        self.exact = self.ops is FLOAT64
        self.eps = eps_of(getattr(model, "dtype", "float32"))

    def provides(self, key: tuple[str, str, int]) -> bool:
        return True

    def run(self, inputs: Mapping[str, Any], emit: Emit) -> None:
        """One pass; every activation, then logits and loss."""
        model: Any = type(self.model)(self.model.config, ops=self.ops, params=self.model.params)
        model.ops = Tracer(paths_of(model.params), emit).wrap(self.ops)
        given = {name: inputs[name] for name in inputs if name != "return_loss" or inputs[name]}
        output = model(**given)
        emit_results(emit, getattr(output, "logits", None), getattr(output, "loss", None))

    def weight(self, path: str) -> Any:
        """What stands at a path of the tree, or None."""
        node: Any = self.model.params
        for part in path.split("."):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                return None
        return node

    def judge(self) -> Ours:
        """The same weights and configuration in float64; weights stay as they are kept and are widened when used."""
        model = self.model
        if model.ops.name not in ON_NUMPY:
            params = tree.map_leaves(_numbers, model.params)
            model = type(model)(model.config, ops=plain.OPS, params=params)
        return Ours(model, f"{self.label} in float64", ops=FLOAT64)


def _numbers(tensor: Any) -> np.ndarray:
    """A tensor's numbers as float32, without a copy where it holds that."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
