"""Kernels compiled for chips that are not here, and what can be said of them without running: counts, no times.

In words: Triton asks a driver which chip is there and compiles for that one. `pretending` puts a driver in its place
that names any chip of chips.py, and makes every launch stop after the compiler. So a wrapper is called just as a model
calls it, on arrays of the right shape with nothing in them, and what comes out is the machine code that this call would
run: its own block sizes, its own strides, its own specialised arguments.

    from minivl.kernels.checking.compiled import array, compile_call
    x, w, b = array(257, 1408), array(1408), array(1408)
    [facts] = compile_call(lambda: layer_norm(x, w, b, 1e-6), "sm_90")
    facts["registers"], facts["stack"], facts["shared"]

`facts` says what a launch takes (registers, stack, shared memory, occupancy) and, for every innermost loop, how many
instructions a trip has, which pipes they keep busy and how many clocks each pipe needs at least (machine_code.py).

The compiler takes as many seconds as it does for a GPU. Triton must not interpret: TRITON_INTERPRET=0 before it is
imported, which on a machine without a GPU means a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from minivl.errors import OpsError
from minivl.kernels.launch import INTERPRETED, HostArray, triton

if INTERPRETED:
    raise OpsError(
        "minivl.kernels.checking.compiled: Triton interprets kernels in this process, and cannot compile them as well:"
        " start another one with TRITON_INTERPRET=0"
    )

from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from minivl.kernels.checking import machine_code
from minivl.kernels.checking.chips import CHIPS, Chip, occupancy


def array(*shape: int, dtype: str = "float16") -> HostArray:
    """An array that has a shape, strides and a dtype; its memory is asked for but never touched."""
    return HostArray(np.zeros(shape, np.uint16 if dtype == "bfloat16" else dtype), dtype)


class _AbsentChip:
    """What Triton asks its driver, answered for a chip that is not there. Nothing can be launched on it."""

    def __init__(self, chip: Chip):
        self.chip = chip

    def is_active(self) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget(self.chip.backend, self.chip.arch, self.chip.lanes)

    def get_current_device(self) -> int:
        return list(CHIPS).index(self.chip.name)  # Triton keeps what it has compiled by this number

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


@contextmanager
def pretending(chip: Chip) -> Iterator[list[tuple[str, dict[str, Any], Any, Any]]]:
    """As if the chip were there and arrays were on it; every launch is compiled and kept in the list, and not run.

    An entry is the kernel's name, its compile-time constants, its grid, and what Triton compiled.
    """
    launches: list[tuple[str, dict[str, Any], Any, Any]] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        compiled = run(self, *args, grid=grid, warmup=True, **named)
        values = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in named.items() if k in self.arg_names}
        constants = {p.name: values[p.name] for p in self.params if p.is_constexpr and p.name in values}
        launches.append((self.fn.__name__, constants, grid(values) if callable(grid) else grid, compiled))
        return compiled

    with (
        patch.object(triton.runtime.driver, "_active", _AbsentChip(chip)),
        patch.object(JITFunction, "run", compile_only),
        patch.object(HostArray, "is_cuda", True),
        patch.object(HostArray, "tolist", lambda self: np.zeros(self.shape, int).tolist()),  # no kernel wrote a result
    ):
        yield launches


def compile_call(call: Callable[[], Any], target: str) -> list[dict[str, Any]]:
    """The facts of every launch that `call` makes, compiled for a chip of chips.py."""
    chip = CHIPS[target]
    with pretending(chip) as launches:
        call()
    return [facts(chip, *launch) for launch in launches]


def facts(chip: Chip, kernel: str, constants: dict[str, Any], grid: tuple[int, ...], compiled: Any) -> dict[str, Any]:
    """Everything that this module can say of one launch, as plain numbers and words."""
    metadata = compiled.metadata
    if chip.backend == "cuda":
        text, usage = machine_code.sass(compiled.asm["cubin"])
        code = machine_code.read_sass(text)
    else:
        usage = machine_code.amd_usage(compiled.asm["amdgcn"])
        code = machine_code.read_amd(compiled.asm["amdgcn"])
    names = [instruction.name for instruction in code]
    columns = getattr(metadata, "tmem_size", 0)
    share, limit = occupancy(chip, metadata.num_warps, usage["REG"], metadata.shared, columns)
    return {
        "kernel": kernel,
        "constants": constants,
        "grid": list(grid),
        "warps": metadata.num_warps,
        "stages": metadata.num_stages,
        "registers": usage["REG"],
        "stack": usage["STACK"],
        "spills": usage.get("SPILLS", sum(name.startswith(("LDL", "STL")) for name in names)),
        "shared": metadata.shared,
        "tensor memory": columns,
        "occupancy": round(share, 3),
        "limited by": limit,
        "instructions": len(names),
        "loads": machine_code.global_accesses(names, "load"),
        "copies": machine_code.global_accesses(names, "copy"),
        "stores": machine_code.global_accesses(names, "store"),
        "products": sum(machine_code.pipe(name, chip.backend) == "tensor" for name in names),
        "loops": loops(chip, code, metadata.num_warps, compiled.asm["ttgir"]),
    }


def loops(chip: Chip, code: list[machine_code.Instruction], warps: int, ttgir: str) -> list[dict[str, Any]]:
    """One entry for every innermost loop, in the order of the code."""
    found: dict[int, list[str]] = {}
    for instruction in code:
        if instruction.loop is not None:
            found.setdefault(instruction.loop, []).append(instruction.name)
    tiles = machine_code.loops_with_products(ttgir)
    of_products = [number for number, names in found.items() if any(n.startswith("UTC") and "MMA" in n for n in names)]
    entries = []
    for number, names in found.items():
        multiply_adds = machine_code.products(names, warps)
        if number in of_products and len(tiles) == len(of_products):
            multiply_adds = tiles[of_products.index(number)]
        # LLVM may put two trips of the kernel's loop into one of AMD's; ptxas does not.
        trips = multiply_adds // max(tiles) if chip.backend == "hip" and multiply_adds and tiles else 1
        entries.append(
            {
                "instructions": len(names),
                "pipes": machine_code.mix(names, chip.backend),
                "loads": machine_code.global_accesses(names, "load"),
                "copies": machine_code.global_accesses(names, "copy"),
                "multiply-adds": multiply_adds,
                "trips": trips,
                "bounds": machine_code.bounds(chip, names, multiply_adds, warps),
            }
        )
    return entries


def main_loop(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Where a long input spends its time: of the loops with the most products, the one with fewest instructions.

    None where there is no loop: the compiler may write all trips out if it knows their number.
    """
    if not facts["loops"]:
        return None
    most = max(loop["multiply-adds"] for loop in facts["loops"])
    full = [loop for loop in facts["loops"] if loop["multiply-adds"] == most]
    return min(full, key=lambda loop: loop["instructions"])


def useful(loop: dict[str, Any], multiply_adds: int) -> float:
    """The most of the tensor cores' full speed that a loop can reach, counting only multiply-adds of the formula.

        multiply-adds of the formula / those done · tensor cores' clocks / clocks of the pipe that needs the most

    multiply_adds   of the formula, in one trip of the loop as the kernel has it
    """
    done = loop["multiply-adds"]
    clocks = loop["bounds"]
    return multiply_adds * loop["trips"] / done * clocks["tensor"] / max(clocks.values()) if done else 0.0
