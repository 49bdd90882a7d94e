"""Which functions a pass went through, with the shapes that were really there and the lines where they were called.

Python tells a profiler of every call and every return; here it listens for a few dozen functions of the models.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ..models import blip2, blocks, bridge, bridgetower, clip_vit, opt, qformer, roberta, t5, vit
from ..ops import Ops
from ..tracing import watch_attention

ROOT = Path(__file__).resolve().parents[2]
WATCHER = watch_attention.__code__.co_filename
PARTS = {"vit", "qformer", "opt", "t5", "clip_vit", "roberta", "bridge", "bridgetower", "blip2"}
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(blocks.embed_picture, blocks.pre_ln_layer, blocks.post_ln_layer, blocks.attend, blocks.mlp),
    *(vit.encode, qformer.encode, blip2.prompt, opt.add_positions, opt.logits),
    *(t5.place_bias, t5.layer, t5.attend, t5.mlp, t5.remember, t5.logits),
    *(clip_vit.embed, roberta.embed, bridgetower.transformed, bridgetower.image_state, bridge.link, bridge.cross),
    *(bridgetower.pool, bridgetower.match, bridgetower.fill),
)


@dataclass
class Stage:
    """One function, called from one line with a first array of one shape, `count` times; the shapes are those of the
    first of these calls.
    """

    name: str  # blocks.pre_ln_layer
    about: str  # the first line of its docstring
    where: str  # minivl/models/blocks.py:101, its own line
    called: str  # minivl/models/vit.py:27, the line that called it
    part: str  # vit, qformer, opt, ...
    depth: int  # inside how many other stages
    inputs: str  # x (1, 65, 128)
    output: str  # (1, 65, 128)
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def watching(ops: Ops) -> Iterator[list[Stage]]:
    """While this is active, the calls of FUNCTIONS and of the record's attention are written into the list."""
    stages: list[Stage] = []
    known = {id(_code(function)): function for function in (*FUNCTIONS, ops.attention)}  # hashing code takes long
    seen: dict[tuple[Any, ...], Stage] = {}
    open_calls: list[tuple[FrameType, Stage, bool]] = []

    def listen(frame: FrameType, event: str, value: Any) -> None:
        if id(frame.f_code) not in known:
            return
        if event == "call":
            stage = _stage(frame, known[id(frame.f_code)], len(open_calls))
            outer = id(open_calls[-1][1]) if open_calls else None
            size = stage.inputs.partition(")")[0]  # of the first array alone: keys and masks grow with every word
            first = seen.setdefault((outer, stage.name, stage.called, size), stage)
            if first is stage:
                stages.append(stage)
            else:
                first.count += 1
            open_calls.append((frame, first, first is stage))
        elif event == "return" and open_calls and open_calls[-1][0] is frame:
            _, stage, new = open_calls.pop()
            if new:
                stage.output = _shapes(value)

    before = sys.getprofile()
    sys.setprofile(listen)
    try:
        yield stages
    finally:
        sys.setprofile(before)


def _code(function: Callable[..., Any]) -> CodeType:
    return inspect.unwrap(function).__code__


def _stage(frame: FrameType, function: Callable[..., Any], depth: int) -> Stage:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    shapes = [f"{name} {_shapes(frame.f_locals[name])}" for name in names if _shapes(frame.f_locals[name])]
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename == WATCHER:  # it stands between only while maps are kept
        caller = caller.f_back
    return Stage(
        name=f"{Path(code.co_filename).stem}.{code.co_name}",
        about=_about(function),
        where=_place(code, code.co_firstlineno),
        called=_place(caller.f_code, caller.f_lineno) if caller else "",
        part=_part(frame),
        depth=depth,
        inputs=", ".join(shapes),
        output="",
    )


@lru_cache
def _about(function: Callable[..., Any]) -> str:
    """The first sentences of its docstring, without the shapes behind them."""
    text = (inspect.getdoc(inspect.unwrap(function)) or "").partition("\n\n")[0]
    return text.replace("\n", " ").partition("   ")[0]


def _part(frame: FrameType | None) -> str:
    """The model in whose file the call, or one of its callers, stands."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent.name == "models" and path.stem in PARTS:
            return path.stem
        frame = frame.f_back
    return ""


def _place(code: CodeType, line: int) -> str:
    path = Path(code.co_filename)
    return f"{path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name}:{line}"


def _shapes(value: Any) -> str:
    """(1, 65, 128) for an array, several of them for a pair or a list of arrays, nothing for anything else."""
    if isinstance(value, (tuple, list)):
        shapes = [_shapes(one) for one in value]
        more = f" and {len(shapes) - 2} more" if len(shapes) > 2 else ""
        return ", ".join(shapes[:2]) + more if all(shapes) else ""
    shape = getattr(value, "shape", None)
    return str(tuple(map(int, shape))) if shape is not None and len(shape) else ""
