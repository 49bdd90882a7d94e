"""Reading machine code: which instructions a kernel has, which of them repeat, and how long they must take at least.

NVIDIA's code (SASS) is taken out of the compiled file by two programs of the Triton wheel, AMD's is the assembly that
the compiler itself writes. Both become a list of `Instruction`s with the loop that each stands in, and everything else
is counting:

    a loop          NVIDIA: from a label to the branch back to it on a condition, holding no other loop
                    AMD: the blocks that the compiler's comments give to one "Inner Loop"
    a pipe          the part of the core that an instruction keeps busy (PIPES)
    a pipe's bound  clocks that it needs for one trip of one block of threads, if nothing ever waits:

                        instructions · warps · lanes / lanes per clock            issue: instructions · warps / 4
                        multiply-adds of the block / multiply-adds per clock      for the tensor cores

The largest bound is the least time a trip can take on a full core; real trips take longer. It is no prediction.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

import triton

from minivl.kernels.checking.chips import PARTITIONS, Chip

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")

# The first pattern that fits an instruction's name says which pipe it keeps busy.
PIPES = {
    "cuda": {
        "tensor": r"HGMMA|IGMMA|QGMMA|HMMA|IMMA|QMMA|UTC[HIQO]?MMA",
        "special": r"MUFU|F2F\b|I2F|F2I|FRND|POPC|FLO",
        "fp32": r"FFMA|FMUL|FADD|HFMA2|HMUL2|HADD2|IMAD|IDP",
        "memory": r"LD|ST|ATOM|RED\b|SHFL|UTMA|UBLKCP|MEMBAR|FENCE|DEPBAR|LDGDEPBAR|CCTL|ERRBAR|UTCBAR|UTCCP",
        "control": r"BAR|BRA|BSSY|BSYNC|SYNCS|WARP|NOP|EXIT|ELECT|YIELD|CALL|RET|BREAK|NANOSLEEP|ACQ|PREEXIT",
        "uniform": r"U[A-Z]|R2UR|S2UR|CS2UR",
        "alu": r"",
    },
    "hip": {
        "tensor": r"v_mfma|v_smfmac|v_wmma",
        "special": r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_",
        "memory": r"global_|buffer_|flat_|scratch_|ds_|s_load|s_buffer_load",
        "scalar": r"s_",
        "vector": r"",
    },
}


@dataclass(frozen=True)
class Instruction:
    name: str  # with its suffixes, such as LDGSTS.E.BYPASS.128
    loop: int | None  # number of the innermost loop it stands in


def sass(cubin: bytes) -> tuple[str, dict[str, int]]:
    """A compiled NVIDIA file as text, and {"REG": registers, "STACK": bytes, ...} as its header has them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _run("nvdisasm", "-c", "-ndf", file.name)  # no data flow: faster, same code
        usage = _run("cuobjdump", "-res-usage", file.name)
    return text, {name: int(count) for name, count in re.findall(r"\b(REG|STACK):(\d+)", usage)}


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([os.path.join(TOOLS, tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


_SASS_LABEL = re.compile(r"(\.L_\w+):")
_SASS_LINE = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][\w.]*)\s*(.*?);")


def read_sass(text: str) -> list[Instruction]:
    """SASS as `nvdisasm -c` prints it. A spin that waits for a barrier is a loop of a few instructions: left out."""
    names: list[str] = []
    labels: dict[str, int] = {}
    jumps: dict[int, tuple[str, bool]] = {}  # where they stand: where they lead, and whether on a condition
    for line in text.splitlines():
        if label := _SASS_LABEL.match(line):
            labels[label[1]] = len(names)
        elif found := _SASS_LINE.match(line):
            name, operands = found.groups()
            target = re.search(r"\((\.L_\w+)\)", operands)
            if name.startswith(("BRA", "CALL")) and target:
                jumps[len(names)] = target[1], "@" in line or name == "BRA.U"
            names.append(name)

    def closes(at: int) -> bool:
        """A jump on a condition, or one that follows a jump out of the loop on a condition."""
        before, on_condition = jumps.get(at - 1, ("", False))
        return jumps[at][1] or on_condition and labels[before] >= at

    spans = sorted(
        {(labels[target], at) for at, (target, _) in jumps.items() if labels[target] <= at - 8 and closes(at)}
    )
    loops = [(a, b) for a, b in spans if not any((a, b) != (c, d) and a <= c and d <= b for c, d in spans)]
    inside = {i: number for number, (a, b) in enumerate(loops) for i in range(a, b + 1)}
    return [Instruction(name, inside.get(i)) for i, name in enumerate(names)]


def read_amd(text: str) -> list[Instruction]:
    """AMD's assembly as the compiler writes it, with a comment at every block saying which loop it belongs to."""
    headers: dict[str, int] = {}  # the block that a loop begins with -> the loop's number
    inner: set[int] = set()
    found: list[Instruction] = []
    block, loop = "", None
    for line in text.split(".amdhsa_kernel")[0].splitlines():
        if label := re.match(r"(?:\.L(BB\d+_\d+):|; %bb\.)", line):
            block = label[1]
            member = re.search(r"in Loop: Header=(BB\d+_\d+)", line)
            loop = headers.setdefault(member[1], len(headers)) if member else None
        if "=>This Inner Loop Header" in line:
            loop = headers.setdefault(block, len(headers))
            inner.add(loop)
        elif code := re.match(r"\t([a-z]\w+)", line):
            found.append(Instruction(code[1], loop))
    return [i if i.loop in inner else Instruction(i.name, None) for i in found]


def amd_usage(text: str) -> dict[str, int]:
    """Vector registers, bytes of stack and spilled registers from the notes at the end of AMD's assembly."""
    named = dict(re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE))
    return {"REG": int(named["vgpr_count"]), "STACK": int(named["private_segment_fixed_size"]),
            "SPILLS": int(named["vgpr_spill_count"])}  # fmt: skip


def pipe(name: str, backend: str) -> str:
    """The pipe that an instruction keeps busy."""
    return next(pipe for pipe, pattern in PIPES[backend].items() if re.match(pattern, name))


def mix(names: list[str], backend: str) -> dict[str, int]:
    """How many instructions each pipe gets."""
    counts = Counter(pipe(name, backend) for name in names)
    return {pipe: counts[pipe] for pipe in PIPES[backend] if counts[pipe]}


# What one of them multiplies, as (rows, columns, depth), and how many warps do it together.
_SHAPES = (
    (re.compile(r"[HIQ]GMMA\.(\d+)x(\d+)x(\d+)"), 4),
    (re.compile(r"[HIQ]MMA\.(16)(8)(\d+)"), 1),  # HMMA.16816 is 16 x 8 x 16
    (re.compile(r"v_mfma_\w+?_(\d+)x(\d+)x(\d+)"), 1),
)
# How long a multiply-add takes, in those of float16.
_LENGTHS = (
    (r"[IQ]G?MMA|UTC[IQ]MMA|v_mfma_i32|v_mfma\w*(fp8|bf8)", 0.5),
    (r".*(TF32|xf32)", 2.0),
    (r"v_mfma\w*_f32$", 8.0),
)


def products(names: list[str], warps: int) -> int:
    """Multiply-adds that the tensor cores do for a block of threads; sm_100's instructions do not tell theirs."""
    total = 0
    for name in names:
        for pattern, together in _SHAPES:
            if shape := pattern.match(name):
                rows, columns, depth = map(int, shape.groups())
                total += rows * columns * depth * warps // together
    return total


def loops_with_products(ttgir: str) -> list[int]:
    """Multiply-adds in a trip of each loop that has products, from the compiler's last form with whole tiles in it."""
    loops: list[int] = []
    open_loops: list[tuple[int, int]] = []  # indentation, number
    for line in ttgir.splitlines():
        indent = len(line) - len(line.lstrip())
        if open_loops and indent <= open_loops[-1][0] and line.strip().startswith("}"):
            open_loops.pop()
        if "scf.for" in line:
            open_loops.append((indent, len(loops)))
            loops.append(0)
        elif open_loops and re.search(r"\b(tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma) ", line):
            (rows, depth), (_, columns) = re.findall(r"(?:tensor|memdesc)<(\d+)x(\d+)x", line)[:2]
            loops[open_loops[-1][1]] += int(rows) * int(depth) * int(columns)
    return [count for count in loops if count]


def bounds(chip: Chip, names: list[str], multiply_adds: int, warps: int) -> dict[str, int]:
    """Clocks that each pipe needs at least for one trip of a block."""
    per_clock = {"special": chip.special, "fp32": chip.fp32, "alu": chip.alu, "vector": chip.fp32}
    pipes = mix(names, chip.backend)
    clocks = {name: round(n * warps * chip.lanes / per_clock[name]) for name, n in pipes.items() if name in per_clock}
    if chip.backend == "cuda":
        clocks["issue"] = round(len(names) * warps / PARTITIONS)
    if multiply_adds:
        of_products = (name for name in names if pipe(name, chip.backend) == "tensor")
        length = max(next((long for pattern, long in _LENGTHS if re.match(pattern, name)), 1.0) for name in of_products)
        clocks["tensor"] = round(multiply_adds * length / chip.products)
    return clocks


_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_AMD_BYTES = {"ubyte": 1, "sbyte": 1, "ushort": 2, "sshort": 2, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12,
              "dwordx4": 16, "byte": 1}  # fmt: skip


def global_accesses(names: list[str], kinds: str) -> dict[int, int]:
    """{bytes per thread: how many instructions} of the loads ("load"), copies to shared memory ("copy") or stores."""
    patterns = {
        "load": r"LDG\.|(?:global|buffer)_load_(?!.*lds)",
        "copy": r"LDGSTS|UTMALDG|UBLKCP|(?:global|buffer)_load_.*lds",
        "store": r"STG\.|(?:global|buffer)_store_",
    }
    counts = Counter(_bytes(name) for name in names if re.match(patterns[kinds], name))
    return dict(sorted(counts.items()))


def _bytes(name: str) -> int:
    if name[0].islower():
        return _AMD_BYTES[name.split("_")[2]]
    return next((_BYTES[part] for part in reversed(name.split(".")) if part in _BYTES), 4)
