"""What every class of this folder shares: configuration, ops record, tree of weights, and the way to a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from .. import ops as ops_records
from ..config_base import Config
from ..weights import files, tree
from .inputs import choose_backend

Self = TypeVar("Self", bound="Pretrained")
Tensors = dict[str, files.Stored]


class Pretrained(ABC):
    """`config` is the configuration, `ops` the backend's record, `params` the tree of weights; all three may be read
    and replaced.

    A class says what its configuration is (`config_class`), which tensors it consists of (`table`) and
    which may be in a file without being read (`ignored`).
    """

    config_class: ClassVar[type[Config]]
    ignored: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any = None, *, ops: Any = None, params: tree.Tree | None = None, seed: int = 0):
        """A model with the given weights, or, as in transformers, with random ones."""
        self.config: Any = config or self.config_class()
        self.ops = ops or ops_records.get("numpy")
        if params is None:
            fresh = tree.random(self.table(self.config), np.random.default_rng(seed), self.spread(self.config))
            params = tree.map_leaves(self.ops.from_numpy, fresh)
        self.params: tree.Tree = params

    @classmethod
    @abstractmethod
    def table(cls, config: Any) -> tree.Table:
        """Every tensor of the model: one of the tables of weights/names.py."""

    @staticmethod
    def spread(config: Any) -> float:
        """The standard deviation of random weights."""
        return config.initializer_range

    @classmethod
    def adapted(cls, tensors: Tensors, config: Any, where: str) -> Tensors:
        """A file's tensors under the names of the table, for classes whose files come in several forms."""
        return tensors

    @classmethod
    def from_pretrained(
        cls: type[Self],
        folder: str | Path,
        *,
        backend: str = "numpy",
        dtype: Any = None,
        torch_dtype: Any = None,
        device: Any = None,
        device_map: Any = None,
    ) -> Self:
        """Read a folder in the Hub's layout, config.json and safetensors, or one of the tiny models inside minivl.

        float32 weights stay where they are, mapped from the file; float16 and bfloat16 ones are widened to float32.
        Raises ConfigError or WeightsError, naming the file and what is wrong with it.
        """
        ops = choose_backend(backend, dtype if dtype is not None else torch_dtype, device, device_map)
        path = files.find(folder)
        config = cls.config_class.from_pretrained(path)
        table = list(cls.table(config))
        tensors = cls.adapted(files.read(path), config, str(path))
        params = tree.build(table, tensors, str(path), ignored=cls.ignored)
        return cls(config, ops=ops, params=tree.map_leaves(ops.from_numpy, params))

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write config.json and model.safetensors, which transformers reads too."""
        arrays = tree.flatten(self.table(self.config), tree.map_leaves(self.ops.to_numpy, self.params))
        self.config.save_pretrained(folder)
        files.save(folder, arrays, dtype)
