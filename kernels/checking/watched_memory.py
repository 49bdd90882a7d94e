"""Who touched which element of which argument: the bookkeeping behind `checked`.

A kernel deals in bare addresses. While it is watched, every address that it forms still knows the argument it was
formed from (`ArgumentPointer`), so it can be held against that argument alone: an address past the end of X is a fault
even where Y happens to begin there.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import triton
import triton.language as tl

OWN_CODE = (os.path.dirname(triton.__file__) + os.sep, os.path.dirname(np.__file__) + os.sep)
NOBODY, SEVERAL = 0, -1  # what stands in a mark instead of 1 + the number of a program
CLASHES = {"load": ("store", "atomic"), "store": ("store", "atomic", "load"), "atomic": ("store", "load")}


class KernelFault(AssertionError):
    """A kernel touched memory that it must not touch: outside an argument, or where another program works."""


class ArgumentPointer(tl.pointer_type):
    """The type of a pointer that remembers which argument it came from; sums, broadcasts and reshapes hand it on."""

    def __init__(self, kind: tl.pointer_type, argument: Argument):
        super().__init__(kind.element_ty, kind.address_space, kind.const)
        self.argument = argument


@dataclass
class Region:
    """Memory that one argument, or several overlapping ones, lie in; and who loaded, stored and atomically changed it.

    One mark per `unit` bytes: NOBODY, 1 + the number of a program, or SEVERAL. The marks are zeros until touched, so a
    large table costs only the pages that are used.
    """

    start: int
    end: int
    unit: int

    def __post_init__(self) -> None:
        units = -(-(self.end - self.start) // self.unit)
        self.marks = {kind: np.zeros(units, np.int32) for kind in CLASHES}

    def units(self, addresses: np.ndarray, itemsize: int) -> np.ndarray:
        """The marks that belong to each element: (elements, units in one)."""
        return ((addresses.astype(np.int64) - self.start) // self.unit)[:, None] + np.arange(itemsize // self.unit)

    def clash(self, kind: str, units: np.ndarray, program: int) -> Clash | None:
        """The first element that another program touched in a way that does not go with `kind`, or None."""
        for other in CLASHES[kind]:
            marks = self.marks[other][units]
            differ = (marks != NOBODY) & (marks != 1 + program)
            if differ.any():
                element, unit = (int(axis[0]) for axis in np.nonzero(differ))
                return Clash(element, other, int(marks[element, unit]) - 1, int(differ.any(1).sum()))
        return None

    def enter(self, kind: str, units: np.ndarray, program: int) -> int:
        """Mark these units as touched by `program`; returns how many bytes nobody had touched in this way before."""
        marks = self.marks[kind]
        before = marks[units]
        marks[units] = np.where((before == NOBODY) | (before == 1 + program), 1 + program, SEVERAL)
        return int((before == NOBODY).sum()) * self.unit


@dataclass
class Clash:
    """Two programs at one element: its number among those looked at, what the other did, which one, and how many."""

    element: int
    did: str
    program: int  # negative if several
    count: int


@dataclass
class Argument:
    """One tensor that a kernel was given: its name, and where its elements lie."""

    name: str
    start: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    region: Region | None = None

    def __post_init__(self) -> None:
        reach = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        self.span = 1 + sum(reach) if 0 not in self.shape else 0  # elements from the first to just past the last
        self.end = self.start + self.span * self.itemsize
        steps = {(stride, size) for size, stride in zip(self.shape, self.strides, strict=True) if size > 1 and stride}
        self.steps = sorted(steps, reverse=True)

    def outside(self, addresses: np.ndarray, itemsize: int) -> np.ndarray:
        """True for each address at which no element lies: before the first, past the last, or in a gap between rows."""
        offset = addresses.astype(np.int64) - self.start
        beyond = (offset < 0) | (offset + itemsize > self.end - self.start)
        return beyond | self._in_gap(offset) if itemsize == self.itemsize else beyond

    def _in_gap(self, offset: np.ndarray) -> np.ndarray:
        """True where the padding between two rows lies; False throughout if the elements fill their span or overlap."""
        rest, gap = offset // self.itemsize, offset % self.itemsize != 0
        filled = 1
        for stride, size in reversed(self.steps):
            if stride < filled:
                return gap
            filled = stride * (size - 1) + filled
        for stride, size in self.steps:
            gap = gap | (rest // stride >= size)
            rest = rest % stride
        return gap | (rest != 0)

    def place(self, address: int) -> str:
        """Where an address lies, in words: "element 640 of X, past its end (it spans 640; shape (10, 64))"."""
        element = (int(address) - self.start) // self.itemsize
        if element < 0:
            return f"element {element} of {self.name}, before its start"
        if element >= self.span:
            return f"element {element} of {self.name}, past its end (it spans {self.span}; shape {self.shape})"
        if self._in_gap(np.array([int(address) - self.start])).any():
            gap = f"in the gap between rows (shape {self.shape}, strides {self.strides})"
            return f"element {element} of {self.name}, {gap}"
        return f"element {element} of {self.name}"


def arguments_of(name: str, value: Any) -> Iterator[tuple[Any, Argument]]:
    """Every tensor in an argument of a kernel (which may be a tuple or a descriptor), and its description."""
    if isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from arguments_of(f"{name}[{number}]", part)
    elif hasattr(value, "data_ptr"):
        shown = value if hasattr(value, "stride") else value.base  # a tensor under another dtype keeps it in `base`
        yield value, Argument(name, value.data_ptr(), shown.element_size(), tuple(shown.shape), tuple(shown.stride()))
    elif hasattr(value, "base"):
        yield from arguments_of(name, value.base)


def give_regions(arguments: list[Argument]) -> None:
    """Put every argument in a region, overlapping ones (an output that is also an input) in the same."""
    groups: list[list[Argument]] = []
    for argument in sorted((a for a in arguments if a.span), key=lambda a: a.start):
        if groups and argument.start < max(a.end for a in groups[-1]):
            groups[-1].append(argument)
        else:
            groups.append([argument])
    for group in groups:
        unit = min(a.itemsize for a in group)
        region = Region(group[0].start, max(a.end for a in group), unit)
        for argument in group:
            argument.region = region


def kernel_line() -> str:
    """The line of the kernel that is being run, as "file.py:88 `x = tl.load(...)`"."""
    frame: FrameType | None = sys._getframe(1)
    here = os.path.dirname(os.path.abspath(__file__))
    helpers = {os.path.join(here, name) for name in ("watched_memory.py", "checked.py", "interpreter_math.py")}
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OWN_CODE) and os.path.abspath(file) not in helpers:
            text = linecache.getline(file, frame.f_lineno).strip()
            return f"{os.path.basename(file)}:{frame.f_lineno} `{text}`"
        frame = frame.f_back
    return "an unknown line"
