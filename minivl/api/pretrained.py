"""What every class of this folder shares: configuration, ops record, tree of weights, and the way to a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from .. import ops as ops_records
from ..config.base import Config
from ..errors import OpsError
from ..ops import ON_NUMPY, dtype_name
from ..weights import files, places, tree
from . import loading

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

    @staticmethod
    def too_narrow(config: Any, dtype: str) -> bool:
        """Whether the model's numbers would not fit into a dtype."""
        return False

    @classmethod
    def check_dtype(cls, config: Any, dtype: Any) -> None:
        """Raise OpsError for a dtype that the model cannot be computed in."""
        if cls.too_narrow(config, dtype_name(dtype)):
            kind = config.text_config.model_type
            raise OpsError(f"dtype {dtype_name(dtype)!r} is too narrow for {kind}: wanted 'bfloat16' or 'float32'")

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
        load_in_8bit: bool | str | None = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read a folder in the Hub's layout, one of the tiny models inside minivl, or a checkpoint named by its id on
        the Hub, which is downloaded if it is not in the local cache (revision, cache_dir and local_files_only are for
        those: see weights/hub.py).

        backend       "numpy", or "plain" for the formulas alone, "torch", "triton"
        dtype, device and device_map as the table in api/loading.py says. On NumPy float32 weights stay where they are,
                      mapped from the file, and 16-bit ones are widened to float32; "auto" maps those too and widens
                      them a tile at a time, so that loading takes no time and half the memory
        load_in_8bit  True is LLM.int8(), which rounds weights and activations to 8 bits; "weight-only" keeps the
                      activations as they are. ops/quantised.py says how, weights/quantise.py what stays in more bits

        Raises OpsError for a backend or a device that is not there, ConfigError or WeightsError for a folder that holds
        no such model, naming the file and what is wrong with it.
        """
        where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
        path = places.find(folder, **where)
        config: Any = cls.config_class.from_pretrained(path)
        tensors = cls.adapted(files.read(path), config, str(path))
        asked = torch_dtype if dtype is None else dtype
        language = config.text_config.model_type
        ops, kept, keep = loading.decide(backend, asked, load_in_8bit, device, device_map, tensors, language)
        if backend not in ON_NUMPY:
            cls.check_dtype(config, kept)
        params = tree.build(cls.table(config), tensors, str(path), ignored=cls.ignored, take=ops.from_numpy, keep=keep)
        return cls(config, ops=ops, params=params)

    def to(self: Self, *places: Any, device: Any = None, dtype: Any = None) -> Self:
        """Move the weights to a device, cast them to a dtype, or both; as in torch the model itself is changed and
        given back.

            model.to("cuda")     model.to(torch.bfloat16)     model.to("cuda", "float16")     model.to(dtype="float32")

        Raises OpsError for what the backend cannot do: NumPy's takes "cpu" and float32 only, and weights that were
        loaded in fewer bits stay as they are.
        """
        for place in places:
            if dtype_name(place) in (*loading.DTYPES, "float64"):
                dtype = place
            else:
                device = place
        narrow = [weight for weight in self.parameters() if not hasattr(weight, "dtype")]  # kept in fewer bits
        if dtype is not None and narrow:
            raise OpsError(f"weights in fewer bits stay so: to have {dtype_name(dtype)} load the model with that")
        if self.ops.name in ON_NUMPY:
            ops_records.get(self.ops.name, dtype, device)  # raises OpsError for what NumPy cannot do
            return self
        self.check_dtype(self.config, dtype)
        place = ops_records.get(self.ops.name, dtype or self.dtype, self.device if device is None else device)
        self.ops = self.ops._replace(from_numpy=place.from_numpy)

        def move(weight):  # each stays the tensor that it was, so that an optimizer still knows it
            if not hasattr(weight, "dtype"):
                for part in (weight.rows, weight.scale):
                    part.data = part.data.to(device)
                return
            weight.data = self.ops.from_numpy(weight.data)
            if weight.grad is not None:
                weight.grad.data = self.ops.from_numpy(weight.grad.data)

        tree.map_leaves(move, self.params)
        return self

    @property
    def dtype(self) -> Any:
        """What the weights are kept in, those of fewer bits aside: torch.float16, or NumPy's float32."""
        return next(weight.dtype for weight in self.parameters() if hasattr(weight, "dtype"))

    @property
    def device(self) -> Any:
        """Where the weights are: a torch.device, or "cpu"."""
        return next(weight.device for weight in self.parameters() if hasattr(weight, "dtype"))

    def parameters(self) -> Iterator[Any]:
        """Every weight, for an optimizer of torch."""
        return iter(tree.flatten(self.table(self.config), self.params).values())

    def requires_grad_(self: Self, wanted: bool = True) -> Self:
        """Let backward() reach every weight, or none, as in torch; single ones are model.params[...].requires_grad_().

        Raises OpsError for NumPy's arrays, which have no backward().
        """
        if self.ops.name not in ("torch", "triton"):
            raise OpsError(f"backend {self.ops.name!r} computes no gradients: load with backend='torch' to train")
        if wanted and any(not hasattr(weight, "dtype") for weight in self.parameters()):
            raise OpsError("weights of 8 bits have no gradients: let single weights of the others require them")
        for weight in self.parameters():
            if hasattr(weight, "dtype"):
                weight.requires_grad_(wanted)
        return self

    def without_gradients(self) -> tree.Tree:
        """The weights without a way back to them, for text that is generated and never differentiated."""
        return tree.map_leaves(lambda weight: weight.detach() if hasattr(weight, "detach") else weight, self.params)

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write config.json and model.safetensors, which transformers reads too."""
        arrays = tree.flatten(self.table(self.config), tree.map_leaves(self.ops.to_numpy, self.params))
        self.config.save_pretrained(folder)
        files.save(folder, arrays, dtype)
