"""Which line of Python became which lines of TTIR, PTX (AMD: assembly) and SASS: read from the compiler's own notes.

    TTIR    %0 = tt.load ... loc(#loc12)          #loc12 = loc("attention.py":88:16), or a call of another location
    PTX     .loc 1 88 16                          .file 1 "attention.py"; an inlined function names its caller too
    SASS    //## File "attention.py", line 88     before the instructions that it is true of

A line of a function that the kernel calls counts for that function's own line if it stands in the same file, and
otherwise (tl.sum, tl.cdiv) for the line that calls it.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from typing import Any

from ...kernels.checking import machine_code

Line = tuple[str, int]  # text, and the number of the Python line it comes from; 0 where nobody knows


@dataclass
class Listing:
    """One kernel in all its forms."""

    file: str
    first: int  # number of the first line of `python`
    python: list[str]
    forms: dict[str, list[Line]] = field(default_factory=dict)  # "TTIR", "PTX", "SASS" or "assembly"
    counts: dict[int, dict[str, int]] = field(default_factory=dict)  # Python line -> pipe -> instructions
    in_loop: dict[int, int] = field(default_factory=dict)  # Python line -> instructions inside loops


def listing(compiled: Any, kernel: Any, backend: str) -> Listing:
    """Everything of one compiled kernel."""
    import inspect

    function = kernel.fn
    source, first = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function) or ""
    found = Listing(file, first, [line.rstrip("\n") for line in source])
    found.forms["TTIR"] = of_ttir(compiled.asm["ttir"], file)
    if backend == "cuda":
        found.forms["PTX"] = of_assembly(compiled.asm["ptx"], file)
        text = _disassemble(compiled.asm["cubin"])
        found.forms["SASS"] = of_sass(text, file)
        code = machine_code.read_sass(text)
        lines = [line for line in found.forms["SASS"] if machine_code._SASS_LINE.match(line[0])]
    else:
        text = compiled.asm["amdgcn"]
        found.forms["assembly"] = of_assembly(text, file)
        code = machine_code.read_amd(text)
        lines = [line for line in found.forms["assembly"] if re.match(r"\t[a-z]\w+", line[0])]
    for instruction, (_, number) in zip(code, lines, strict=False):
        pipe = machine_code.pipe(instruction.name, backend)
        of_line = found.counts.setdefault(number, {})
        of_line[pipe] = of_line.get(pipe, 0) + 1
        if instruction.loop is not None:
            found.in_loop[number] = found.in_loop.get(number, 0) + 1
    _add_helpers(found)
    return found


def _add_helpers(found: Listing) -> None:
    """Take in the functions of the same file that the kernel calls: their lines have instructions too."""
    with open(found.file, encoding="utf-8") as file:
        whole = file.read().split("\n")
    last = found.first + len(found.python) - 1
    outside = [n for lines in found.forms.values() for _, n in lines if n and not found.first <= n <= last]
    if outside:
        low, high = min(found.first, *outside), max(last, *outside)
        while low > 1 and not whole[low - 1].startswith("def ") and whole[low - 2].strip():
            low -= 1
        found.first, found.python = low, whole[low - 1 : high]


def _disassemble(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return machine_code._run("nvdisasm", "-g", "-c", "-ndf", file.name)


def of_ttir(text: str, file: str) -> list[Line]:
    """TTIR, each line with the Python line of its location; the table of locations is left out."""
    table = dict(re.findall(r"^#(loc\d*) = (loc\(.*\))$", text, re.MULTILINE))

    def line_of(location: str, depth: int = 0) -> int:
        if place := re.search(r'loc\("([^"]+)":(\d+):\d+', location):
            return int(place[2]) if _same(place[1], file) else 0
        for name in re.findall(r"#(loc\d*)", location) if depth < 20 else ():
            if number := line_of(table.get(name, ""), depth + 1):
                return number
        return 0

    lines = []
    for line in text.split("\n"):
        if re.match(r"#loc\d* = ", line):
            continue
        found = re.search(r"\s*(loc\(.*\))\s*$", line)
        lines.append((line[: found.start()] if found else line, line_of(found[1]) if found else 0))
    return lines


def of_assembly(text: str, file: str) -> list[Line]:
    """PTX or AMD's assembly; comments about debugging at the end are left out."""
    text = text.split(".section\t.debug")[0]
    named = re.findall(r'\.file\s+(\d+) "([^\n]*?)"(?: md5.*)?$', text, re.MULTILINE)
    files = {number: path.replace('" "', "/") for number, path in named}
    lines, current = [], 0
    for line in text.split("\n"):
        if mark := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line):
            current = int(mark[2]) if _same(files.get(mark[1], ""), file) else _inlined(line, file, files)
            continue
        if not re.match(r"\s*(//|\.file|\$L__tmp|\.Ltmp|\.L__tmp|;)", line) and line.strip():
            lines.append((line, current))
    return lines


def _same(path: str, file: str) -> bool:
    """By their names: Triton's cache may hold what another copy of the same file was compiled to."""
    return path.rsplit("/", 1)[-1] == file.rsplit("/", 1)[-1]


def _inlined(line: str, file: str, files: dict[str, str]) -> int:
    """The line that calls what was inlined: "inlined_at 1 88 10", or AMD's comment "@[ attention.py:88:10 ]"."""
    for number, at in re.findall(r"inlined_at (\d+) (\d+)", line):
        if _same(files.get(number, ""), file):
            return int(at)
    name = re.escape(file.rsplit("/", 1)[-1])
    found = re.findall(name + r":(\d+):\d+", line)
    return int(found[0]) if found else 0


def of_sass(text: str, file: str) -> list[Line]:
    """SASS, without the encodings' comments."""
    lines, current, fresh = [], 0, False
    for line in text.split("\n"):
        mark = re.match(r'\s*//## File "([^"]+)", line (\d+)(?: inlined at "([^"]+)", line (\d+))?', line)
        if mark:
            here = int(mark[2]) if _same(mark[1], file) else int(mark[4]) if _same(mark[3] or "", file) else 0
            current = current if fresh and not here else here  # several marks in a row: the innermost comes first
            fresh = bool(current)
            continue
        fresh = False
        if machine_code._SASS_LINE.match(line) or machine_code._SASS_LABEL.match(line):
            lines.append((line.rstrip(), current))
    return lines
