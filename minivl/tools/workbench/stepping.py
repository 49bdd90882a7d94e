"""`minivl kernels step`: a debugger inside an interpreted kernel, or every line of one program with what it made.

The kernel gets random numbers in the shape that a model gives it, and one program of its grid is looked at: the others
run without a stop. A block is shown by name, shape, dtype and range; an interpreted scalar is a block of one element.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import math
import pdb
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...errors import InputError
from . import catalogue
from .model_shapes import site_of

SHOWN = 4  # numbers of a block
FEW = 64  # programs of a grid that are all run; of a larger one only the one that is looked at


class Done(BaseException):
    """Whoever looked on has seen enough. No Exception: Triton would wrap it."""


def step(name: str, shape: str | None, dtype: str, program: tuple[int, ...], printing: bool) -> None:
    """Run a kernel until one of its programs comes up, and show that."""
    catalogue.known(name)
    found = catalogue.wrapper(name)
    assert found is not None
    site, use = site_of(name, shape)
    print(f"{name} at {site}: {use.about}; {dtype}", flush=True)
    seen: list[str] = []
    try:
        with _at(program, printing, seen):
            use.call(found[1], _make(dtype))
    except Done:
        return
    if not seen:
        raise InputError(f"--program {program}: the grid of {name} at {site} is smaller")


def _make(dtype: str) -> Callable[..., Any]:
    """Arrays of random numbers as kernels take them without torch; integers from 0 to 9."""
    from ...kernels.interpreter_math import narrow
    from ...kernels.launch import HostArray

    rng = np.random.default_rng(0)

    def make(*shape: int, dtype: str = dtype) -> HostArray:
        if dtype == "bool":
            return HostArray(rng.random(shape) < 0.8)
        if dtype.startswith("int"):
            return HostArray(rng.integers(0, 9, shape).astype(dtype))
        numbers = rng.standard_normal(shape, np.float32)
        return HostArray(narrow(numbers), dtype) if dtype == "bfloat16" else HostArray(numbers.astype(dtype))

    return make


@contextlib.contextmanager
def _at(program: tuple[int, ...], printing: bool, seen: list[str]) -> Iterator[None]:
    """While this lasts, a launch runs the wanted program under the debugger (or printed), and of a large grid only it.

    The result is then that of one program, which is all that is looked at.
    """
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        if not self.fn.__name__.endswith("_kernel"):
            return run(self, *args, grid=grid, warmup=warmup, **named)
        values = dict(zip(self.arg_names, args, strict=False)) | named
        size = (*(grid(values) if callable(grid) else grid), 1, 1)[:3]
        if any(p >= n for p, n in zip(program, size, strict=True)):
            return run(self, *args, grid=grid, warmup=warmup, **named)
        seen.append(self.fn.__name__)
        print(f"\n{self.fn.__name__}, program {program} of {tuple(size)}", flush=True)
        with _only(self, program, printing):
            return run(self, *args, grid=size, warmup=warmup, **named)

    InterpretedFunction.run = launch
    try:
        yield
    finally:
        InterpretedFunction.run = run


@contextlib.contextmanager
def _only(kernel: Any, program: tuple[int, ...], printing: bool) -> Iterator[None]:
    """Let a launch of `kernel` run one program, shown."""
    from triton.runtime import interpreter

    kept, plain = kernel.rewritten_fn, kernel.rewrite()
    builder = interpreter.interpreter_builder

    def one(*args: Any, **named: Any) -> Any:
        if tuple(builder.grid_idx) == program:
            return _printed(plain, args, named) if printing else Debugger().runcall(plain, *args, **named)
        return plain(*args, **named) if math.prod(builder.grid_dim) <= FEW else None

    type(kernel).rewritten_fn = {**kept, kernel.fn: _Like(plain, one)}
    try:
        yield
    finally:
        type(kernel).rewritten_fn = kept


class _Like:
    """A function that looks like another one to those who inspect it, as the interpreter does."""

    def __init__(self, original: Callable, instead: Callable):
        self.instead, self.__name__, self.__globals__ = instead, original.__name__, original.__globals__
        self.__signature__, self.__annotations__ = inspect.signature(original), original.__annotations__

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.instead(*args, **named)


# ---- blocks in words


def in_words(value: Any) -> str:
    """ "(32, 64) float16, -3.9 ... 4.1: 0.126 -0.132 ..." of a block; the value of anything else."""
    handle = getattr(value, "handle", None)
    if handle is None:
        return (
            ""
            if callable(value) or type(value).__module__ == "builtins" and isinstance(value, type)
            else repr(value)[:60]
        )
    numbers, kind = numbers_of(value), handle.dtype.scalar
    if kind.is_ptr():
        return (
            f"{tuple(numbers.shape)} pointers to {kind.element_ty}"
            if value.type.is_block()
            else f"pointer to {kind.element_ty}"
        )
    if not value.type.is_block():
        return f"{numbers.reshape(-1)[0]:.6g} ({kind})"
    flat = numbers.reshape(-1)
    first = " ".join(f"{x:.4g}" for x in flat[:SHOWN]) + (" ..." if flat.size > SHOWN else "")
    if kind.is_int1():
        return f"{tuple(numbers.shape)} {kind}, {int(flat.sum())} of {flat.size} true"
    return f"{tuple(numbers.shape)} {kind}, {np.min(flat):.4g} ... {np.max(flat):.4g}: {first}"


def numbers_of(value: Any) -> np.ndarray:
    """The numbers of a block; bfloat16 widened from its bits."""
    import triton.language as tl

    from ...kernels.interpreter_math import widen

    data = value.handle.data
    return widen(data) if value.handle.dtype.scalar == tl.bfloat16 else data


def blocks(frame: Any) -> Iterator[tuple[str, str]]:
    """Every block of a frame, by name."""
    for name, value in frame.f_locals.items():
        if hasattr(value, "handle") and not name.startswith("__"):
            yield name, in_words(value)


# ---- the debugger


class Debugger(pdb.Pdb):
    """Python's own debugger, with two commands more."""

    def __init__(self) -> None:
        super().__init__(skip=["triton.*", "numpy.*", "minivl.kernels.launch", "minivl.kernels.interpreter_math"])
        self.prompt = "(kernel) "
        print("n next line, s into a function, blocks: what there is, block NAME: its numbers, c: to the end, q: stop")

    def do_blocks(self, _: str) -> None:
        """blocks: every block of this function by name, shape, dtype and range."""
        for name, words in blocks(self.curframe):
            self.message(f"{name:12} {words}")

    def do_block(self, name: str) -> None:
        """block NAME: the numbers of one block."""
        value = self.curframe.f_locals.get(name.strip()) if self.curframe else None
        if not hasattr(value, "handle"):
            self.error(f"{name!r} is no block here: say blocks")
            return
        self.message(in_words(value))
        self.message(np.array2string(numbers_of(value), precision=4, threshold=200, edgeitems=4))

    def do_quit(self, arg: str) -> bool | None:
        """q: leave the kernel and end."""
        sys.settrace(None)
        raise Done

    do_q = do_exit = do_EOF = do_quit


# ---- everything printed


def _printed(function: Callable, args: tuple, named: dict[str, Any]) -> Any:
    """Run one program; every line is printed the first time it is run, with what it made."""
    code = function.__code__
    trips: dict[int, int] = {}
    last: dict[int, tuple[int, dict[str, int]]] = {}

    def show(frame: Any) -> None:
        line, before = last.pop(id(frame), (0, {}))
        if not line or trips[line] > 1:
            return
        text = linecache.getline(code.co_filename, line).rstrip()
        print(f"{line:4} {text}")
        for name, value in frame.f_locals.items():
            if before.get(name) != id(value) and (words := in_words(value)):
                print(f"     {'':{len(text) - len(text.lstrip())}}  -> {name}: {words}")

    def local(frame: Any, event: str, _: Any) -> Any:
        show(frame)
        if event == "line":
            trips[frame.f_lineno] = trips.get(frame.f_lineno, 0) + 1
            last[id(frame)] = frame.f_lineno, {name: id(value) for name, value in frame.f_locals.items()}
        return local

    def trace(frame: Any, event: str, _: Any) -> Any:
        return local if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(*args, **named)
    finally:
        sys.settrace(before)
        again = max(trips.values(), default=0)
        print(f"     (every line once; the busiest was run {again} times)" if again > 1 else "", flush=True)
