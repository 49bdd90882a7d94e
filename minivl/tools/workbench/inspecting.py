"""`minivl kernels inspect`: what the compiler made of a kernel, in words and numbers, or as a page.

Nothing is run. Registers, shared memory and instructions are counted in the compiled code; bounds follow from them and
from public rates (kernels/checking/chips.py, roofline.py). Only `--time`, on a GPU, measures.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from ...errors import InputError
from . import catalogue
from .assembly import Listing, listing
from .candidate import attribute_of, first_line, one_configuration
from .model_shapes import Site, site_of
from .roofline import roofline

PRODUCTS = {  # file and kernel: multiply-adds of the formula in a trip of the main loop, from its constants
    "attention.attention_kernel": lambda c: 2 * c["BT"] * c["BS"] * c["D"],
    "attention_naive.product_kernel": lambda c: c["BT"] * c["BS"] * c["D"],
    "linear.product_kernel": lambda c: c["BLOCK_R"] * c["BLOCK_J"] * c["BLOCK_K"],
    "attention_backward.keys_kernel": lambda c: 4 * c["BT"] * c["BS"] * c["D"],
    "attention_backward.queries_kernel": lambda c: 3 * c["BT"] * c["BS"] * c["D"],
    "attention_backward.bias_kernel": lambda c: 2 * c["BT"] * c["BS"] * c["D"],
    "linear.linear_kernel": lambda c: c["BLOCK_M"] * c["BLOCK_F"] * c["BLOCK_C"],
    "linear.gated_linear_kernel": lambda c: 2 * c["BLOCK_M"] * c["BLOCK_F"] * c["BLOCK_C"],
    "int8.int8_linear_kernel": lambda c: c["BLOCK_M"] * c["BLOCK_F"] * c["BLOCK_C"],
    "patches.patches_kernel": lambda c: c["BLOCK_N"] * c["BLOCK_C"] * c["BLOCK_K"],
}


@dataclass
class Launch:
    """One kernel that a call launched, compiled."""

    facts: dict[str, Any]
    listing: Listing | None = None


@dataclass
class Inspection:
    """All launches of one call."""

    title: str
    chip: str
    dtype: str
    launches: list[Launch]
    roofline: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)

    @property
    def main(self) -> Launch:
        """The launch with the most code in loops, or the most code: what the rest prepares or cleans up after."""
        products = [x for x in self.launches if x.facts["products"]]
        return max(products or self.launches, key=lambda launch: launch.facts["instructions"])


def inspect(target: str, chip: str, shape: str | None, dtype: str, op: str | None = None, given: list[str] = [],  # noqa: B006
            warps: int = 4, stages: int = 3, lines: bool = True) -> Inspection:  # fmt: skip
    """Compile what the target launches for a chip, at the shape that a model gives it."""
    made: list[Any] = []
    if target in catalogue.kernels():
        found = catalogue.wrapper(target)
        assert found is not None
        name, site = site_of(target, shape)
        title, call, module = f"{target}, {name} ({site.about})", _call(found[1], site, dtype, made), found[0]
    else:
        module, thing = attribute_of(target)
        if hasattr(thing, "run") and (hasattr(thing, "arg_names") or hasattr(thing, "configs")):
            site, title = None, target
            call = _launch(thing, given, warps, stages)
        elif op is None:
            raise InputError(
                f"{target} is a Python function: say with --as which op's shapes to give it; or name a kernel"
            )
        else:
            name, site = site_of(op, shape)
            title, call = f"{target}, {name} ({site.about})", _call(thing, site, dtype, made, module)
    launches = _compiled(call, chip, module, lines, target)
    work = None if site is None or site.gathers else roofline(chip, site.products, site.special, _bytes(made), dtype)
    return Inspection(title, chip, dtype, launches, work)


def _call(wrapper: Callable, site: Site, dtype: str, made: list[Any], module: Any = None) -> Callable[[], Any]:
    """The call of a wrapper as a model makes it; arrays that were made, and the result, are put into `made`."""
    with_torch = module is not None and hasattr(module, "torch")

    def make(*shape: int, dtype: str = dtype) -> Any:
        if with_torch:
            array = module.torch.empty(shape, dtype=getattr(module.torch, dtype))
        else:
            from ...kernels.checking.compiled import array as empty

            array = empty(*shape, dtype=dtype)
        made.append(array)
        return array

    def call() -> None:
        result = site.call(wrapper, make)
        made.extend(result if isinstance(result, tuple) else [result])

    return call


def _bytes(made: list[Any]) -> int:
    return sum(x.numel() * x.element_size() for x in made if hasattr(x, "numel"))


def _launch(kernel: Any, given: list[str], warps: int, stages: int) -> Callable[[], Any]:
    """A launch of a bare kernel with arguments that were given as NAME=VALUE."""
    from ...kernels.checking.compiled import array

    names = list(kernel.arg_names)
    values: dict[str, Any] = {}
    for item in given:
        name, sign, text = item.partition("=")
        if not sign or name not in names:
            raise InputError(f"--arg {item}: give NAME=VALUE; the arguments of this kernel are {', '.join(names)}")
        values[name] = _value(text, array)
    tuned = _tuned(kernel)
    optional = {p.name for p in getattr(kernel, "params", ()) if p.has_default} | tuned
    missing = [name for name in names if name not in values and name not in optional]
    if missing:
        raise InputError(f"say what the kernel is given, --arg NAME=VALUE (X=*fp16, rows=514, BLOCK=1024), for"
                         f" {', '.join(missing)}")  # fmt: skip
    options = {} if tuned else {"num_warps": warps, "num_stages": stages}
    return lambda: kernel[(1,)](**values, **options)


def _tuned(kernel: Any) -> set[str]:
    return set(kernel.configs[0].kwargs) if getattr(kernel, "configs", None) else set()


POINTERS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "i8": "int8", "i32": "int32", "i64": "int64",
            "i1": "bool"}  # fmt: skip


def _value(text: str, array: Callable) -> Any:
    """An array of one element behind a pointer type, or a Python literal."""
    if text.startswith("*"):
        if text[1:] not in POINTERS:
            raise InputError(f"--arg {text}: pointers go to {', '.join(POINTERS)}")
        return array(16, dtype=POINTERS[text[1:]])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a constant that is a word


def _compiled(call: Callable[[], Any], chip: str, module: Any, lines: bool, target: str) -> list[Launch]:
    from triton.runtime.jit import JITFunction

    from ...kernels.checking.chips import CHIPS
    from ...kernels.checking.compiled import facts, main_loop, pretending, useful

    kernels: list[Any] = []
    run = JITFunction.run

    def remember(self: Any, *args: Any, **named: Any) -> Any:
        kernels.append(self)
        return run(self, *args, **named)

    with patch.object(JITFunction, "run", remember), pretending(CHIPS[chip]) as launched, one_configuration(module):
        with _on_gpu():
            try:
                call()
            except InputError:
                raise
            except Exception as error:
                raise InputError(f"{target} cannot be compiled for {chip}: {first_line(error)}") from error
    if not launched:
        raise InputError(f"{target} launches no Triton kernel")
    found = []
    for kernel, (name, constants, grid, compiled) in zip(kernels, launched, strict=False):
        of_it = facts(CHIPS[chip], name, constants, grid, compiled)
        loop = main_loop(of_it)
        of_it["main loop"] = loop
        own = PRODUCTS.get(kernel.fn.__module__.removeprefix("minivl.kernels.") + "." + name)
        of_it["useful"] = round(useful(loop, own(constants)), 3) if loop and own and loop["multiply-adds"] else None
        found.append(Launch(of_it, listing(compiled, kernel, CHIPS[chip].backend) if lines else None))
    return found


def _on_gpu() -> Any:
    """Torch tensors say that they are on a GPU: nothing runs, and wrappers ask."""
    import sys
    from contextlib import nullcontext

    torch = sys.modules.get("torch")
    return patch.object(torch.Tensor, "is_cuda", True) if torch else nullcontext()


def measure(target: str, shape: str | None, dtype: str) -> float:
    """Microseconds of one call on the GPU that is here."""
    import torch
    import triton

    found = catalogue.wrapper(target)
    if found is None:
        raise InputError("--time measures kernels of `minivl kernels list`")
    _, site = site_of(target, shape)

    def make(*shape: int, dtype: str = dtype) -> Any:
        kind = getattr(torch, dtype)
        numbers = torch.randn(shape, device="cuda") if kind.is_floating_point else torch.ones(shape, device="cuda")
        return numbers.to(kind)

    arrays: list[Any] = []

    def keep(*shape: int, **how: Any) -> Any:
        arrays.append(make(*shape, **how))
        return arrays[-1]

    site.call(found[1], keep)

    def again() -> Any:
        ready = iter(arrays)
        return site.call(found[1], lambda *shape, **how: next(ready))

    return 1000 * triton.testing.do_bench(again)


# ---- in words


def as_text(found: Inspection) -> str:
    """A screen or two."""
    lines = [f"{found.title}; {found.dtype}, for {found.chip}: counted in compiled code, nothing was run", ""]
    for launch in found.launches:
        lines += [*_launch_lines(launch), ""]
    lines += roofline_lines(found)
    main = found.main
    if main.listing is not None:
        lines += ["", *_line_table(main.listing)]
    return "\n".join(lines)


def rows_of(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said of one launch: name and value, in words."""
    constants = ", ".join(f"{name}={value}" for name, value in facts["constants"].items()) or "none"
    spills = (
        "none" if not facts["stack"] and not facts["spills"] else f"{facts['spills']}, {facts['stack']} bytes of stack"
    )
    rows = [
        ("grid", f"{' x '.join(map(str, facts['grid']))} programs of {facts['warps']} warps, {facts['stages']} stages"),
        ("constants", constants),
        ("registers", f"{facts['registers']} of a thread"),
        ("spills", spills),
        ("shared memory", f"{facts['shared']:,} bytes of a program"),
        ("occupancy", f"{facts['occupancy']:.0%} of a core's warps, limited by {facts['limited by']}"),
        ("instructions", f"{facts['instructions']}; loads {accesses(facts['loads'])}; copies"
                         f" {accesses(facts['copies'])}; stores {accesses(facts['stores'])}"),
    ]  # fmt: skip
    loop = facts["main loop"]
    if loop is None:
        return [*rows, ("main loop", "none: the compiler wrote all of it out")]
    pipe, clocks = max(loop["bounds"].items(), key=lambda item: item[1])
    mix = ", ".join(f"{name} {count}" for name, count in loop["pipes"].items())
    bounds = ", ".join(f"{name} {count}" for name, count in sorted(loop["bounds"].items(), key=lambda item: -item[1]))
    rows += [
        ("main loop", f"{loop['instructions']} instructions a trip: {mix}"),
        ("bounds", f"{bounds} clocks for a trip of a program"),
        ("bound by", f"{pipe}, at least {clocks} clocks a trip"),
    ]
    if facts["useful"] is not None:
        rows.append(("useful", f"at most {facts['useful']:.0%} of the tensor cores' full speed"))
    return rows


def _launch_lines(launch: Launch) -> list[str]:
    return [launch.facts["kernel"], *(f"  {name:14} {value}" for name, value in rows_of(launch.facts))]


def accesses(counts: dict[int, int]) -> str:
    return ", ".join(f"{count} x {size} bytes" for size, count in counts.items()) or "none"


def roofline_lines(found: Inspection) -> list[str]:
    """The bound of the work itself."""
    work = found.roofline
    if work is None or not work["bound"]:
        return []
    times = ", ".join(f"{name} {time} µs" for name, time in work["microseconds"].items())
    lines = [f"the work at this shape, by the data sheet of {work['chip']} (an estimate: no kernel can be faster)"]
    if work["multiply-adds"]:
        lines.append(f"  {work['multiply-adds']:,} multiply-adds, {work['least bytes']:,} bytes at least:"
                     f" {work['multiply-adds per byte']} per byte, where the chip is even at"
                     f" {work['balance']}")  # fmt: skip
    else:
        lines.append(f"  {work['least bytes']:,} bytes at least")
    return [*lines, f"  {times}: bound by {work['bound']}"]


def _line_table(lines: Listing) -> list[str]:
    """The Python lines that became the most instructions in loops."""
    said = ["instructions by line of Python (in loops, in all)"]
    for number in sorted(lines.counts):
        if number:
            text = (
                lines.python[number - lines.first].strip()
                if lines.first <= number < lines.first + len(lines.python)
                else ""
            )
            said.append(
                f"  {lines.in_loop.get(number, 0):5} {sum(lines.counts[number].values()):5}  {number:4} {text[:88]}"
            )
    if 0 in lines.counts:
        said.append(f"  {lines.in_loop.get(0, 0):5} {sum(lines.counts[0].values()):5}       (no line)")
    return said


def as_json(found: Inspection) -> dict[str, Any]:
    return {"title": found.title, "target": found.chip, "dtype": found.dtype,
            "launches": [launch.facts for launch in found.launches], "roofline": found.roofline}  # fmt: skip
