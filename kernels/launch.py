"""How a kernel is started here: on a GPU if there is one, otherwise in Triton's interpreter; torch or NumPy arrays.

Triton reads TRITON_INTERPRET once, when it is imported, so this module decides before that, and every kernel takes
`triton` and `tl` from here:

    from minivl.kernels.launch import arrays, tl, triton

Letters of a wrapper stand where its kernel's formula is explained; this file only carries arguments to and fro.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..errors import OpsError


def _gpu_here() -> bool:
    """Whether torch is installed and sees a GPU (CUDA or ROCm)."""
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def _decide() -> bool:
    """Whether kernels are interpreted: as TRITON_INTERPRET says, or else where there is no GPU.

    Raises OpsError if Triton was imported before and took the other way: it decorates its own functions while it is
    imported, and cannot change its mind.
    """
    if "TRITON_INTERPRET" not in os.environ and not _gpu_here():
        os.environ["TRITON_INTERPRET"] = "1"
    wanted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if "triton" in sys.modules:
        taken = type(sys.modules["triton"].language.sum).__name__ == "InterpretedFunction"
        if taken != wanted:
            raise OpsError(
                f"triton was imported with TRITON_INTERPRET {'on' if taken else 'off'}, and minivl needs it"
                f" {'on' if wanted else 'off'}: set TRITON_INTERPRET={int(wanted)} before anything imports triton, or"
                " import minivl.kernels.launch first"
            )
    return wanted


INTERPRETED = _decide()
MARK_UNWRITTEN = INTERPRETED  # whether `empty` fills what it hands out; costs nothing beside an interpreted kernel

import triton  # noqa: E402  the decision above has to come first
import triton.language as tl  # noqa: E402

if INTERPRETED:
    from . import interpreter_math

    interpreter_math.install()

__all__ = ["INTERPRETED", "Array", "HostArray", "arrays", "empty", "name_of", "tl", "triton"]
Array = Any  # a torch tensor or a HostArray, which is what `arrays` turns a NumPy array into
Given = ParamSpec("Given")
Result = TypeVar("Result")


class HostArray:
    """A NumPy array that answers what Triton's interpreter and the wrappers ask of a torch tensor, and nothing else.

    bfloat16, which NumPy does not have, is kept as uint16 with `dtype` saying so.
    """

    def __init__(self, array: np.ndarray, dtype: str | None = None):
        self.array = array
        self.dtype = dtype or str(array.dtype)

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    device = "cpu"
    is_cuda = False

    def data_ptr(self) -> int:
        return self.array.__array_interface__["data"][0]

    def stride(self, axis: int | None = None) -> Any:
        steps = tuple(step // self.array.itemsize for step in self.array.strides)
        return steps if axis is None else steps[axis]

    def element_size(self) -> int:
        return self.array.itemsize

    def numel(self) -> int:
        return self.array.size

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def reshape(self, *shape: int) -> HostArray:
        return HostArray(self.array.reshape(*shape), self.dtype)

    def tolist(self) -> Any:
        return self.array.tolist()

    def contiguous(self) -> HostArray:
        return HostArray(np.ascontiguousarray(self.array), self.dtype)

    def swapaxes(self, one: int, other: int) -> HostArray:
        return HostArray(self.array.swapaxes(one, other), self.dtype)

    def __getitem__(self, where: Any) -> HostArray:
        return HostArray(self.array[where], self.dtype)

    def expand(self, *shape: int) -> HostArray:
        return HostArray(np.broadcast_to(self.array, shape), self.dtype)

    # The interpreter copies a tensor's storage to the CPU and back; this is the CPU, so it is handed the same memory.
    def untyped_storage(self) -> HostArray:
        return self

    def cpu(self) -> HostArray:
        return self

    def copy_(self, other: HostArray) -> None:
        pass

    def storage_offset(self) -> int:
        return 0

    def new_empty(self, *shape: int, **how: Any) -> HostArray:
        return HostArray(self.array, self.dtype)

    def set_(self, *of: Any) -> HostArray:
        return self


def name_of(dtype: Any) -> str:
    """'float16' for torch.float16, numpy.float16 and "float16" alike."""
    return str(dtype).removeprefix("torch.")


def empty(shape: tuple[int, ...], like: Any, dtype: str | None = None) -> Any:
    """An array with nothing in it yet, of the same make (and device) as `like`; of its dtype unless one is named.

    Interpreted, it is full of NaN (integers: their smallest value), so an element that no program writes is seen.
    """
    named = dtype or name_of(like.dtype)
    if isinstance(like, HostArray):
        array = np.empty(shape, np.uint16 if named == "bfloat16" else named)
        if MARK_UNWRITTEN:
            array.fill(_unwritten(named))
        return HostArray(array, named)
    import torch

    tensor = torch.empty(shape, dtype=getattr(torch, named), device=like.device)
    return tensor.fill_(float("nan") if tensor.is_floating_point() else _unwritten(named)) if MARK_UNWRITTEN else tensor


def _unwritten(named: str) -> Any:
    """What stands in an element that nobody has written: NaN, or the smallest integer."""
    if named == "bfloat16":
        return 0x7FC0
    kind = np.dtype(named)
    return np.nan if kind.kind == "f" else np.iinfo(kind).min if kind.kind in "iu" else False


def arrays(wrapper: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a wrapper that was written for tensors take NumPy arrays as well, and give them back.

    Raises OpsError for NumPy arrays where kernels run on a GPU, and for CPU tensors there.
    """

    @functools.wraps(wrapper)
    def take(*args: Given.args, **named: Given.kwargs) -> Result:
        given = [*args, *named.values()]
        check_place(wrapper, given)
        hosted = any(isinstance(x, np.ndarray) for x in given)
        result = wrapper(*map(_host, args), **{key: _host(value) for key, value in named.items()})  # type: ignore
        return _unhost(result) if hosted else result

    return take


def check_place(wrapper: Callable, given: list[Any]) -> None:
    """Raise OpsError for an array in the computer's memory where kernels run on a GPU."""
    if not INTERPRETED and any(isinstance(x, np.ndarray) or _on_cpu(x) for x in given):
        raise OpsError(
            f"{wrapper.__name__}: kernels run on the GPU here and were given an array in the computer's memory:"
            " move it with .to('cuda'), or set TRITON_INTERPRET=1 before triton is imported"
        )


def _on_cpu(x: Any) -> bool:
    return hasattr(x, "data_ptr") and not x.is_cuda


def _host(x: Any) -> Any:
    return HostArray(x) if isinstance(x, np.ndarray) else x


def _unhost(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_unhost, x))
    return x.array if isinstance(x, HostArray) else x
