"""`minivl kernels`: list, step, check, inspect, compare. This file reads the options; the work is done in the room."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ...errors import InputError

TARGET = "a kernel of `minivl kernels list`, or FILE.py:NAME"
CHIPS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942")


def options(parser: argparse.ArgumentParser) -> None:
    """The tools of the bench and what each can be asked."""
    tools = parser.add_subparsers(required=True, metavar="TOOL", dest="tool")

    about = "Every kernel: its formula, its reference, where the models use it, its test."
    listing = tools.add_parser("list", help="what kernels there are", description=about)
    listing.add_argument("name", nargs="?", metavar="KERNEL", help="say everything about this one")

    about = "Step through a kernel line by line, in Triton's interpreter, at the shape that a model gives it."
    step = tools.add_parser("step", help="a debugger inside a kernel", description=about)
    step.add_argument("target", metavar="KERNEL", help="a kernel of `minivl kernels list`")
    _site(step)
    step.add_argument("--program", default="0", metavar="X[,Y[,Z]]", help="which program of the grid (default: 0)")
    step.add_argument("--print", action="store_true", help="run through, printing every line once and what it made")

    about = "Put a function through shapes, dtypes, strides, masks and the error rule. Exit status 0: right, 1: wrong."
    check = tools.add_parser("check", help="is a kernel right, and where not", description=about)
    check.add_argument("target", metavar="FILE.py:FUNCTION", help=TARGET)
    check.add_argument("--as", dest="op", metavar="OP", help="the op it computes: attention, layer_norm, gelu_backward")
    check.add_argument("--seconds", type=_seconds, default=20.0, metavar="N", help="stop asking after N (default: 20;"
                       " 0: never)")  # fmt: skip
    check.add_argument("--first", action="store_true", help="stop at the first case that is wrong")
    check.add_argument("--strict", action="store_true", help="what it does not take counts as wrong, too")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("--in-model", choices=["demo", "demo-bridgetower"], help="also run this model with it inside")

    about = "What the compiler made of a kernel. Counts and bounds read from machine code; nothing is run or timed."
    inspect = tools.add_parser("inspect", help="registers, loops, bounds, machine code", description=about)
    inspect.add_argument("target", metavar="KERNEL|FILE.py:NAME", help=f"{TARGET}: a wrapper (with --as), or a kernel")
    _compiled(inspect)
    inspect.add_argument("--target", dest="chip", choices=CHIPS, default="sm_90", help="default: sm_90")
    inspect.add_argument("--html", metavar="FILE", help="write one page that needs nothing else")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.add_argument("--time", action="store_true", help="with a GPU: also measure, by triton.testing.do_bench")

    about = "Two kernels, two chips or two shapes side by side. A side is NAME, NAME@CHIP or NAME@CHIP@SHAPE."
    compare = tools.add_parser("compare", help="two of them side by side", description=about)
    compare.add_argument("sides", nargs=2, metavar="KERNEL[@CHIP[@SHAPE]]")
    _compiled(compare)
    compare.add_argument("--target", dest="chip", choices=CHIPS, default="sm_90", help="where a side names none")


def _site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", metavar="NAME", help="where a model uses it (see list KERNEL; default: the first)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")


def _compiled(parser: argparse.ArgumentParser) -> None:
    _site(parser)
    parser.add_argument(
        "--as", dest="op", metavar="OP", help="for a wrapper in a file: the op whose shapes it is given"
    )
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="for a kernel in a file, each"
                        " of its arguments: X=*fp16 (a pointer), rows=514, eps=1e-5, BLOCK=1024")  # fmt: skip
    parser.add_argument("--warps", type=int, default=4, metavar="N", help="for a kernel in a file (default: 4)")
    parser.add_argument("--stages", type=int, default=3, metavar="N", help="for a kernel in a file (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """The exit status of one tool."""
    return globals()[f"_{arguments.tool}"](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from . import catalogue

    print(catalogue.all_about(arguments.name) if arguments.name else catalogue.table(), end="")
    return 0


def _step(arguments: argparse.Namespace) -> int:
    _need_triton()
    from . import candidate

    candidate.interpret()
    from . import stepping

    stepping.step(arguments.target, arguments.shape, arguments.dtype, _program(arguments.program), arguments.print)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    _need_torch()
    from . import checking

    return checking.run(arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    if arguments.time and not _gpu():
        print("--time needs a GPU, and there is none here: without one there are only counts and bounds")
        return 1
    _to_compile()
    from . import inspecting, page

    found = inspecting.inspect(arguments.target, arguments.chip, arguments.shape, arguments.dtype, arguments.op,
                               arguments.arg, arguments.warps, arguments.stages)  # fmt: skip
    if arguments.html:
        Path(arguments.html).write_text(page.page(found), encoding="utf-8")
    print(json.dumps(inspecting.as_json(found)) if arguments.json else inspecting.as_text(found))
    if arguments.time:
        took = inspecting.measure(arguments.target, arguments.shape, arguments.dtype)
        print(f"measured: {took:.1f} µs (triton.testing.do_bench)")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    _to_compile()
    from . import comparing

    return comparing.run(arguments)


def _gpu() -> bool:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _to_compile() -> None:
    """Triton compiles in this process. Raises InputError where it interprets already."""
    _need_triton()
    os.environ["TRITON_INTERPRET"] = "0"
    if "triton" in sys.modules and type(sys.modules["triton"].language.sum).__name__ == "InterpretedFunction":
        raise InputError("Triton interprets kernels in this process: inspect them in one of its own, `minivl kernels`")


def _need_triton() -> None:
    from importlib.util import find_spec

    if find_spec("triton") is None:
        raise InputError("this tool needs the package 'triton', which is not installed: pip install 'minivl[triton]'")


def _need_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise InputError("this tool needs the package 'torch', which is not installed: pip install 'minivl[torch]'")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _program(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise InputError(f"--program {text}: give up to three numbers, such as 2 or 2,0,1")
    return (*map(int, parts), 0, 0)[:3]
