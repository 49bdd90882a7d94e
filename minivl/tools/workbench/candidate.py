"""The function that is checked: found in its file, and asked in the way that it takes arguments.

A stranger's function may take torch tensors or NumPy arrays, and may launch Triton kernels. Which it is is found out by
trying one small call. It may lack keywords of the op (`mask`, say): then the cases that need them are left out, and the
report says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError

OTHER_NAMES = {
    "mask": ("attn_mask", "attention_mask", "key_mask"),
    "bias": ("attn_bias",),
    "causal": ("is_causal",),
    "scale": ("sm_scale", "softmax_scale"),
    "act": ("activation",),
    "ignore_index": (),
}
SWITCHES = {
    "with_lse": ("with_lse", "return_lse", "return_softmax_lse"),
    "with_statistics": ("with_statistics", "return_statistics"),
    "with_sum": ("with_sum", "return_sum"),
}
SECONDS = 30  # of the processor, for one call


def interpret() -> None:
    """Let Triton interpret from here on, if it is installed."""
    if "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ModuleNotFoundError):
        from ...kernels import launch  # noqa: F401


def module_of(path: Path) -> Any:
    """A Python file, run as a module of its own. Raises InputError with the reason where that fails."""
    spec = importlib.util.spec_from_file_location(f"minivl_workbench_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Triton looks kernels up in their module
    sys.path.insert(0, str(path.resolve().parent))  # a file beside it can be imported, as if it were run
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be imported: {first_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def attribute_of(target: str) -> tuple[Any, Any]:
    """The module of FILE.py:name and what is called `name` there. Raises InputError for what is not there."""
    file, colon, name = target.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"{target!r} is no FILE.py:NAME, and no kernel of `minivl kernels list`")
    module = module_of(Path(file))
    if not hasattr(module, name):
        defined = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value)) or "none"
        raise InputError(f"{file} has no {name!r}: the functions in it are {defined}")
    return module, getattr(module, name)


def first_line(error: BaseException) -> str:
    """ "ValueError: what was wrong", from the innermost error that Triton wrapped."""
    while type(error).__name__ == "InterpreterError" and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class Candidate:
    """A function with an op's contract, as far as it keeps it."""

    def __init__(self, name: str, function: Callable, module: Any, keywords: tuple[str, ...], switches: Any):
        self.name, self.function, self.module = name, function, module
        self.takes = "torch"  # or "numpy"
        self.triton = _uses_triton(module)
        self.notes: list[str] = []
        accepted = _parameters(function)
        self.renamed = {key: _found(accepted, (key, *OTHER_NAMES.get(key, ()))) for key in keywords}
        self.lacking = [key for key, name in self.renamed.items() if name is None]
        self.switches = {key: found for key in switches if (found := _switch(accepted, key))}
        other = {key: name for key, name in self.renamed.items() if name not in (key, None)}
        self.notes += [f"{name} is taken for {key}" for key, name in other.items()]

    def call(self, positional: list[Any], named: dict[str, Any], switch: str | None = None) -> Any:
        """One call; what it gives, or the exception that it raises."""
        given = {self.renamed.get(key) or key: value for key, value in named.items()}
        if switch:
            given[self.switches[switch]] = True
        if self.takes == "numpy":
            positional = [_as_numpy(x) for x in positional]
            given = {key: _as_numpy(x) for key, x in given.items()}
        from .layouts import unwritten_is_nan

        with _watched(self.triton), unwritten_is_nan(), _in_time(), one_configuration(self.module):
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return self.function(*positional, **given)

    def find_out(self, positional: list[Any], named: dict[str, Any]) -> None:
        """Torch tensors or NumPy arrays? Raises InputError if it takes neither."""
        import torch

        refusals = {}
        for kind in ("torch", "numpy") if self.triton or hasattr(self.module, "torch") else ("numpy", "torch"):
            self.takes = kind
            try:
                found = self.call(positional, named)
            except (Exception, SystemExit) as error:
                refusals[kind] = error
                continue
            first = found[0] if isinstance(found, tuple | list) and found else found
            if isinstance(first, torch.Tensor if kind == "torch" else np.ndarray | np.generic):
                return
            refusals[kind] = TypeError(f"it gave {type(first).__name__}, not an array")
        fault = refusals["torch"]
        self.takes = "torch"
        if type(fault).__name__ == "KernelFault":  # it takes tensors; what it does with them is the check's to say
            return
        said = "; ".join(f"{kind}: {first_line(error)}" for kind, error in refusals.items())
        if "cuda" in said.lower():
            said += "; on this machine arrays lie on the CPU: let it make its own on the device of its arguments"
        raise InputError(f"{self.name} takes neither torch tensors nor NumPy arrays ({said})")


def _parameters(function: Callable) -> set[str] | None:
    """The names that can be given by keyword; None for all (**named)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}


def _found(accepted: set[str] | None, names: tuple[str, ...]) -> str | None:
    return names[0] if accepted is None else next((name for name in names if name in accepted), None)


def _switch(accepted: set[str] | None, key: str) -> str | None:
    return None if accepted is None else _found(accepted, SWITCHES[key])


def _uses_triton(module: Any) -> bool:
    """Whether something in a module comes from Triton, or from our kernels."""
    homes = ("triton", "minivl.kernels")
    return "triton" in sys.modules and any(
        type(value).__module__.startswith("triton")
        or str(getattr(value, "__name__", "")).startswith(homes)
        or str(getattr(value, "__module__", "")).startswith(homes)
        for value in vars(module).values()
    )


def _as_numpy(x: Any) -> Any:
    return x.numpy() if hasattr(x, "numpy") and hasattr(x, "untyped_storage") else x


@contextlib.contextmanager
def _watched(triton: bool) -> Iterator[None]:
    """Kernels under the checked interpreter: what reads or writes out of bounds, and races, is a KernelFault."""
    if not triton:
        yield
        return
    from ...kernels.checking.checked import checked

    with checked():
        yield


@contextlib.contextmanager
def one_configuration(module: Any) -> Iterator[None]:
    """Autotuned kernels take the first of their configurations: without a GPU nothing tells them apart."""
    tuned = [value for value in vars(module).values() if type(value).__name__ == "Autotuner"]
    before = [kernel.configs for kernel in tuned]
    for kernel in tuned:
        kernel.configs = kernel.configs[:1]
    try:
        yield
    finally:
        for kernel, configs in zip(tuned, before, strict=True):
            kernel.configs = configs


class TooLong(Exception):
    """A call did not come back."""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """TooLong after so many seconds of the processor (not of the clock: the machine may be busy)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGVTALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLong(f"more than {SECONDS} seconds for one call")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
