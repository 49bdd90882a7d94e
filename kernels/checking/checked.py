"""Run kernels under watch: faults that a GPU passes over in silence are reported, and the work is counted.

    with checked() as report:
        y = layer_norm(x, w, b, 1e-5)
    print(report)                       # bytes, sectors and operations, argument by argument

While the block runs, every kernel that Triton interprets is watched, and KernelFault is raised for

    bounds    a load or store outside the argument that its pointer was formed from, in the gaps of padded rows too;
    races     two programs of one launch touching one element, at least one of them writing without an atomic;
    lanes     one store that puts two different values into one element.

It names the argument, the element, the program and the line. Programs run one after the other here, so a race never
shows in the result; on a GPU nothing orders them.

`tf32=True` rounds the operands of float32 products to tf32 wherever the kernel allows it (input_precision="tf32").
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import OpsError
from ..launch import INTERPRETED, tl

if not INTERPRETED:
    raise OpsError(
        "minivl.kernels.checking.checked needs the interpreter: set TRITON_INTERPRET=1 before triton is imported"
    )

from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import TensorHandle

from ..interpreter_math import RightBuilder, RightExecutor, use
from .watched_memory import Argument, ArgumentPointer, KernelFault, arguments_of, give_regions, kernel_line

__all__ = ["KernelFault", "Report", "Traffic", "checked"]

SECTOR = 32  # bytes that a GPU moves at least between its cache and its memory
VERBS = {"load": "loads", "store": "stores", "atomic": "changes (atomic)"}


@dataclass
class Traffic:
    """What was loaded from, or stored to, one argument."""

    lanes: int = 0  # elements asked for, masked ones included
    masked: int = 0  # of these, switched off by the mask
    bytes: int = 0  # of the lanes that were on
    unique_bytes: int = 0  # each byte once per launch: what memory itself must at least deliver
    sectors: int = 0  # of 32 bytes, each once per instruction of a program: what the caches are asked for

    def add(self, more: Traffic) -> None:
        for name in ("lanes", "masked", "bytes", "unique_bytes", "sectors"):
            setattr(self, name, getattr(self, name) + getattr(more, name))


@dataclass
class Report:
    """The work of every kernel launched under `checked`; loads and stores by the argument's name."""

    launches: int = 0
    programs: int = 0
    dot_flops: int = 0  # two for each multiply-add of tl.dot
    flops: int = 0  # every other operation on floats: one per element, two for a multiply-add; comparisons are none
    special: int = 0  # exp, log, sin, cos, square roots, erf and everything of libdevice
    loads: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    stores: dict[str, Traffic] = field(default_factory=lambda: defaultdict(Traffic))  # atomics count as stores

    bytes_loaded = property(lambda self: self._total("loads").bytes)
    bytes_stored = property(lambda self: self._total("stores").bytes)
    unique_bytes_loaded = property(lambda self: self._total("loads").unique_bytes)
    unique_bytes_stored = property(lambda self: self._total("stores").unique_bytes)
    sectors_loaded = property(lambda self: self._total("loads").sectors)
    sectors_stored = property(lambda self: self._total("stores").sectors)
    lanes = property(lambda self: self._total("loads").lanes + self._total("stores").lanes)
    lanes_masked = property(lambda self: self._total("loads").masked + self._total("stores").masked)

    def _total(self, kind: str) -> Traffic:
        total = Traffic()
        for traffic in getattr(self, kind).values():
            total.add(traffic)
        return total

    def __str__(self) -> str:
        lines = [
            f"{self.launches} launches, {self.programs} programs; {self.dot_flops} FLOPs in products, {self.flops}"
            f" beside them, {self.special} special functions",
            f"{'':16} {'bytes':>12} {'unique':>12} {'sectors':>10} {'lanes':>10} {'masked':>8}",
        ]
        for kind in ("loads", "stores"):
            for name, t in getattr(self, kind).items():
                lines.append(
                    f"{kind[:-1] + ' ' + name:16} {t.bytes:12} {t.unique_bytes:12} {t.sectors:10} {t.lanes:10}"
                    f" {t.masked:8}"
                )
        return "\n".join(lines)


@contextlib.contextmanager
def checked(*, bounds: bool = True, races: bool = True, tf32: bool = False) -> Iterator[Report]:
    """Watch every kernel that is interpreted inside the block; gives the Report that counts their work.

    Raises KernelFault for what the header lists; `bounds=False` and `races=False` (two programs, two lanes) switch the
    checks off and leave the counting.
    """
    builder = CheckedBuilder(bounds, races, tf32)
    before = use(builder, CheckedExecutor)
    plain = interpreter._implicit_cvt
    interpreter._implicit_cvt = lambda value: builder.remember_argument(value, plain(value))
    try:
        yield builder.report
    finally:
        interpreter._implicit_cvt = plain
        use(*before)


class CheckedExecutor(RightExecutor):
    """Tells the builder what each launch was given, and brings a fault out of the errors that Triton wraps it in."""

    def _init_args_hst(self, args: tuple, named: dict) -> tuple[list, dict]:
        args_here, named_here = super()._init_args_hst(args, named)  # copies in the CPU's memory: what is really read
        interpreter.interpreter_builder.begin_launch(
            [*zip(self.arg_names, args_here, strict=False), *named_here.items()]
        )
        return args_here, named_here

    def __call__(self, *args: Any, **named: Any) -> None:
        fault = None
        try:
            super().__call__(*args, **named)
        except InterpreterError as error:
            fault = error
            while isinstance(fault, InterpreterError):
                fault = fault.__cause__
            if not isinstance(fault, KernelFault):
                raise
        if fault:
            raise fault.with_traceback(None)


class CheckedBuilder(RightBuilder):
    """Carries out a kernel's operations and looks at every address on the way."""

    def __init__(self, bounds: bool, races: bool, tf32: bool):
        super().__init__()
        self.bounds, self.races, self.tf32 = bounds, races, tf32
        self.report = Report()
        self.arguments: dict[int, Argument] = {}  # by id() of the tensor
        self.tensors: list[Any] = []  # kept, so that no other tensor takes over an id()

    def count(self, kind: str, number: int) -> None:
        setattr(self.report, kind, getattr(self.report, kind) + number)

    def begin_launch(self, given: list[tuple[str, Any]]) -> None:
        found = [pair for name, value in given for pair in arguments_of(name, value)]
        self.tensors = [tensor for tensor, _ in found]
        self.arguments = {id(tensor): argument for tensor, argument in found}
        give_regions(list(self.arguments.values()))
        self.report.launches += 1

    def remember_argument(self, value: Any, converted: Any) -> Any:
        argument = self.arguments.get(id(value))
        if argument is not None and isinstance(converted, tl.tensor):
            converted.handle.dtype = ArgumentPointer(converted.handle.dtype, argument)
        return converted

    def set_grid_idx(self, x: int, y: int, z: int) -> None:
        super().set_grid_idx(x, y, z)
        self.report.programs += 1

    @property
    def program(self) -> int:
        """The number of the running program, counted through the grid."""
        (x, y, z), (_, ny, nz) = self.grid_idx, self.grid_dim
        return (x * ny + y) * nz + z

    def create_bitcast(self, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
        result = super().create_bitcast(src, dst_type)  # a pointer to bool is turned into one to int8 before loading
        if isinstance(src.dtype, ArgumentPointer) and isinstance(result.dtype, tl.pointer_type):
            result.dtype = ArgumentPointer(result.dtype, src.dtype.argument)
        return result

    def create_masked_load(self, ptrs: TensorHandle, mask: TensorHandle, *rest: Any, **named: Any) -> TensorHandle:
        self._look("load", ptrs, mask)
        return super().create_masked_load(ptrs, mask, *rest, **named)

    def create_masked_store(
        self, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any, **named: Any
    ) -> Any:
        self._look("store", ptrs, mask, value)
        return super().create_masked_store(ptrs, value, mask, *rest, **named)

    def create_atomic_cas(self, ptr: TensorHandle, *rest: Any) -> TensorHandle:
        self._look("atomic", ptr, None)
        return super().create_atomic_cas(ptr, *rest)

    def create_atomic_rmw(
        self, op: Any, ptr: TensorHandle, val: TensorHandle, mask: TensorHandle, *rest: Any
    ) -> TensorHandle:
        self._look("atomic", ptr, mask)
        return super().create_atomic_rmw(op, ptr, val, mask, *rest)

    def _look(self, kind: str, ptrs: TensorHandle, mask: Any, value: TensorHandle | None = None) -> None:
        """Hold one load or store of one program against the argument it goes to, and enter it in the report."""
        on = np.ones(ptrs.data.shape, bool) if mask is None else np.asarray(mask.data)
        pointers, on = np.broadcast_arrays(ptrs.data, on)
        live = pointers[on]
        itemsize = interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize
        argument = self._argument(ptrs, live)
        name = argument.name if argument else "?"
        traffic = (self.report.loads if kind == "load" else self.report.stores)[name]
        done = Traffic(pointers.size, pointers.size - live.size, live.size * itemsize)
        if live.size:
            addresses, first, which = np.unique(live, return_index=True, return_inverse=True)
            done.sectors = np.unique(addresses // SECTOR).size
            if self.bounds:
                self._check_bounds(kind, argument, addresses, itemsize)
            if self.races and value is not None and addresses.size < live.size:
                self._check_lanes(argument, live, np.broadcast_to(value.data, on.shape)[on], first, which)
            if argument and not argument.outside(addresses, itemsize).any():
                done.unique_bytes = self._mark(kind, argument, addresses, itemsize)
        traffic.add(done)

    def _argument(self, ptrs: TensorHandle, live: np.ndarray) -> Argument | None:
        """The argument that a pointer came from; for one made of a bare number, the argument it points into."""
        if isinstance(ptrs.dtype, ArgumentPointer):
            return ptrs.dtype.argument
        for argument in self.arguments.values():
            if live.size and argument.start <= int(live.flat[0]) < argument.end:
                return argument
        return None

    def _check_bounds(self, kind: str, argument: Argument | None, addresses: np.ndarray, itemsize: int) -> None:
        if argument is None:
            raise KernelFault(f"{kernel_line()}: program {self.grid_idx} {VERBS[kind]} outside every argument")
        outside = argument.outside(addresses, itemsize)
        if outside.any():
            more = f" and {outside.sum() - 1} more" if outside.sum() > 1 else ""
            raise KernelFault(
                f"{kernel_line()}: program {self.grid_idx} {VERBS[kind]} {argument.place(addresses[outside][0])}{more}"
            )

    def _check_lanes(
        self, argument: Argument | None, live: np.ndarray, values: np.ndarray, first: np.ndarray, which: np.ndarray
    ) -> None:
        kept = values[first][which.reshape(-1)]
        differ = (values != kept) & ((values == values) | (kept == kept))
        if differ.any():
            where = argument.place(live[differ][0]) if argument else "one address"
            raise KernelFault(
                f"{kernel_line()}: program {self.grid_idx} stores two different values at once to {where}"
            )

    def _mark(self, kind: str, argument: Argument, addresses: np.ndarray, itemsize: int) -> int:
        """Enter who touched these elements; returns the bytes that were new. Raises KernelFault for a race."""
        region = argument.region
        assert region is not None, "begin_launch gives every argument its region"
        units = region.units(addresses, itemsize)
        clash = region.clash(kind, units, self.program) if self.races else None
        if clash:
            place = argument.place(addresses[clash.element])
            raise KernelFault(
                f"{kernel_line()}: race: program {self.grid_idx} {VERBS[kind]} {place}, which"
                f" {self._named(clash.program)} {VERBS[clash.did]}, and nothing orders the two"
                f" ({clash.count} such elements)"
            )
        return region.enter(kind, units, self.program)

    def _named(self, program: int) -> str:
        """A program by its place in the grid."""
        _, ny, nz = self.grid_dim
        return (
            f"program {(program // (ny * nz), program // nz % ny, program % nz)}" if program >= 0 else "several others"
        )
