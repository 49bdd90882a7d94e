"""What kernels there are: the functions in kernels/ that launch one, found without importing them.

Which op a kernel computes follows from its name and from ops/table.py, its formula from that op's docstring in
ops/plain.py or ops/backward.py, and where the models use it from model_shapes.py.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...ops import TABLE, backward, plain


@dataclass(frozen=True)
class Kernel:
    """One wrapper, the thing that is called."""

    file: str  # in kernels/
    function: str  # its name there
    op: str  # the op that it computes, or whose gradient; "" for something that no record has

    @property
    def test(self) -> str:
        """The file in tests/kernels that tests it; a naive version is tested beside the one that ships."""
        return f"test_kernel_{self.file.removesuffix('_naive')}.py"


def folder() -> Path:
    """Where the kernels' files are."""
    from ... import kernels

    return Path(kernels.__path__[0])


@cache
def kernels() -> dict[str, Kernel]:
    """Every function in kernels/ that is decorated with `arrays`, by its name; a second one of a name by its file's."""
    found: dict[str, Kernel] = {}
    for path in sorted(folder().glob("*.py"), key=lambda path: path.stem.endswith("_naive")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "arrays" for d in node.decorator_list):
                name = path.stem if node.name in found else node.name
                op = name.removesuffix("_naive")
                known = op.removesuffix("_backward") in TABLE
                found[name] = Kernel(path.stem, node.name, op if known else "")
    ops = [*TABLE, *(f"{op}_backward" for op in TABLE)]
    return {name: found[name] for name in sorted(found, key=lambda n: ops.index(n) if n in ops else len(ops))}


def known(name: str) -> Kernel:
    """Raises InputError for a name that is not in the table."""
    if name not in kernels():
        raise InputError(f"kernel {name!r} does not exist: the kernels are {', '.join(kernels())}")
    return kernels()[name]


def wrapper(name: str) -> tuple[Any, Any] | None:
    """The module and the function of a kernel, or None for a name that is none."""
    if name not in kernels():
        return None
    module = import_module(f"minivl.kernels.{kernels()[name].file}")
    return module, getattr(module, kernels()[name].function)


def formula(name: str) -> str:
    """The first formula in the docstring of the op; of what is no op, in the wrapper's own or in the file's header."""
    kernel = kernels()[name]
    if kernel.op:
        home = backward if kernel.op.endswith("_backward") else plain
        text = inspect.getdoc(getattr(home, kernel.op)) or ""
        gradient = re.search(r"\bd[a-z]+(\[v\])? = .*", text) if home is backward else None
        return re.split(r"\s{4,}", gradient[0])[0].strip() if gradient else first_formula(text)
    tree = ast.parse((folder() / f"{kernel.file}.py").read_text(encoding="utf-8"))
    own = next((ast.get_docstring(node) or "" for node in tree.body
                if isinstance(node, ast.FunctionDef) and node.name == kernel.function), "")  # fmt: skip
    return first_formula(own) or first_formula(ast.get_docstring(tree) or "")


def first_formula(text: str) -> str:
    """What follows a colon and three blanks in the first line, or else the first line that is set in."""
    first, *rest = text.split("\n")
    behind = re.search(r":\s{3}(\S.*)$", first)
    lines = [behind[1]] if behind else [line.strip() for line in rest if line.startswith("    ")]
    return re.split(r"\s{3,}", lines[0])[0].strip() if lines else ""


def kernels_of(file: str) -> list[str]:
    """The names of the functions in a file of kernels/ that a wrapper launches: @triton.jit, called ..._kernel."""
    tree = ast.parse((folder() / f"{file}.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)
            and node.name.endswith("_kernel") and node.decorator_list]  # fmt: skip


def used(name: str) -> str:
    """Where the models use a kernel, at which shapes."""
    from .model_shapes import SITES

    where = ", ".join(SITES.get(name, ()))
    if name.endswith("_naive"):
        return f"nowhere: the one to read first ({where})"
    return f"training: {where}" if "_backward" in name or name == "column_sums" else where


def table() -> str:
    """Everything in a few columns."""
    rows = [("kernel", "formula", "reference", "where the models use it")]
    rows += [(name, _cut(formula(name), 60), kernel.op or "-", used(name)) for name, kernel in kernels().items()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join([lines[0].rstrip(), *lines[1:], "", "minivl kernels list KERNEL says more about one.", ""])


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def all_about(name: str) -> str:
    """The same of one kernel, and its shapes."""
    from .model_shapes import SITES

    kernel = known(name)
    home = "backward" if kernel.op.endswith("_backward") else "plain"
    lines = [
        name,
        f"  formula     {' '.join(formula(name).split())}",
        f"  file        kernels/{kernel.file}.py ({', '.join(kernels_of(kernel.file))})",
        f"  reference   {f'minivl.ops.{home}.{kernel.op}' if kernel.op else 'none in the record'}",
        f"  used        {used(name)}",
        f"  test        tests/kernels/{kernel.test}",
        "  shapes      (--shape) the first is taken unless another is named",
        *(f"              {site:20} {use.about}" for site, use in SITES.get(name, {}).items()),
    ]
    return "\n".join(lines) + "\n"
