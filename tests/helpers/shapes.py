"""Shape comments held to their word.

Four places of the code say what shape an array has:

    def f(x, w):
        '''x (B, T, C)   w (F, C)   ->   (B, T, F)'''        in a docstring, for the arguments and for what is returned
        y = x @ w.T  # (B, T, F)                             behind an assignment
        return y  # (B, T, F)                                behind a return

    def g(x):
        '''Yield the steps, (B, T, F) each.'''               in a generator's docstring, for everything that it yields

`promises(module)` lists them, and while `watching(modules)` is active every call of a function of these modules is
traced and each of its promises is compared with the arrays that are really there. A letter stands for one number
throughout one call.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

SHAPE = r"\((?:\.\.\.|[A-Z0-9])[^()a-z]*\)"
COMMENT = re.compile(rf"#\s*({SHAPE}(?:, {SHAPE})*)")
ARGUMENTS = re.compile(rf"\b([a-z_]\w*(?:, [a-z_]\w*)*) ({SHAPE})")
RETURNED = re.compile(rf"->\s*(?:list of )?({SHAPE}(?:, {SHAPE})*)")
YIELDED = re.compile(rf"^Yield .*?({SHAPE}(?:, {SHAPE})*)(?: for)? each", re.DOTALL)
RETURN = "return"


class Promise(NamedTuple):
    """In this file and line it says that the array called `name` (or what is returned) has this shape."""

    file: str
    line: int
    name: str
    place: int  # which of several arrays that are assigned or returned together
    shape: str


class Function(NamedTuple):
    """The promises of one function: of its arguments and results, and line by line."""

    arguments: list[Promise]
    results: list[Promise]
    lines: dict[int, list[Promise]]


def promises(module: ModuleType) -> dict[tuple[str, int], Function]:
    """{(name, first line) of a function: what it promises}"""
    source = inspect.getsource(module)
    return {
        (node.name, node.lineno): _function(node, source.splitlines(), module.__file__ or "")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }


def _function(node: ast.FunctionDef, source: list[str], file: str) -> Function:
    text = ast.get_docstring(node) or ""
    known = {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
    arguments = [
        Promise(file, node.lineno, name, 0, shape)
        for names, shape in ARGUMENTS.findall(text)
        for name in names.split(", ")
        if name in known
    ]
    generator = any(isinstance(n, ast.Yield) for n in ast.walk(node))
    given = (YIELDED if generator else RETURNED).search(text)
    results = _shapes(file, node.lineno, [RETURN], given.group(1)) if given else []
    lines: dict[int, list[Promise]] = {}
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign | ast.Return) and (
            comment := COMMENT.search(source[statement.end_lineno - 1])
        ):
            names = [RETURN]
            if isinstance(statement, ast.Assign):
                target = statement.targets[0]
                names = [ast.unparse(n) for n in (target.elts if isinstance(target, ast.Tuple) else [target])]
            lines.setdefault(statement.lineno, []).extend(_shapes(file, statement.end_lineno, names, comment.group(1)))
    return Function(arguments, results, lines)


def _shapes(file: str, line: int, names: list[str], text: str) -> list[Promise]:
    """One promise for each shape in the text; a single shape behind several names holds for each of them."""
    found = re.findall(SHAPE, text)
    if len(found) == 1:
        found *= len(names)
    names = names * len(found) if names == [RETURN] else names
    assert len(found) == len(names), f"{file}:{line} gives {len(found)} shapes for {len(names)} names"
    return [Promise(file, line, name, i, shape) for i, (name, shape) in enumerate(zip(names, found, strict=True))]


class _Call:
    """The letters of one call and the promises that wait for a letter to get its number."""

    def __init__(self, function: Function):
        self.function, self.letters, self.waiting = function, {}, []

    def check(self, promise: Promise, array: Any) -> None:
        where = f"{promise.file}:{promise.line} says that {promise.name} is {promise.shape}"
        assert hasattr(array, "shape"), f"{where}, but it is {type(array).__name__}"
        shape, sizes = tuple(array.shape), _sizes(promise.shape)
        if sizes[:1] == ["..."]:
            sizes = sizes[1:]
            shape = shape[len(shape) - len(sizes) :]
        assert len(shape) == len(sizes), f"{where}, but its shape is {tuple(array.shape)}"
        for size, said in zip(shape, sizes, strict=True):
            if said.isidentifier():
                assert self.letters.setdefault(said, size) == size, f"{where}, but it is {shape} with {self.letters}"
            else:
                self.waiting.append((said, size, where))

    def finish(self) -> None:
        for said, size, where in self.waiting:
            unknown = {n.id for n in ast.walk(ast.parse(said)) if isinstance(n, ast.Name)} - set(self.letters)
            if multiple := re.fullmatch(r"(\d+) ?\* ?([A-Z])", said):  # 2*C: an even number says what C is
                factor, letter = int(multiple[1]), multiple[2]
                unknown -= {letter} if size % factor == 0 else set()
                self.letters.setdefault(letter, size // factor)
            assert not unknown, f"{where}, but nothing in this function says what {', '.join(unknown)} is"
            assert eval(said, {}, self.letters) == size, f"{where}, but {said} is {size} with {self.letters}"


def _sizes(shape: str) -> list[str]:
    return [size.strip().replace("·", "*") for size in shape.strip("()").split(",") if size.strip()]


@contextmanager
def watching(*modules: ModuleType) -> Iterator[set[Promise]]:
    """Trace every call of these modules' functions; gives the set of the promises that were found to hold."""
    functions = {(module.__file__, *key): function for module in modules for key, function in promises(module).items()}
    kept: set[Promise] = set()

    def look_up(code: CodeType) -> Function | None:
        return functions.get((code.co_filename, code.co_name, code.co_firstlineno))

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        function = look_up(frame.f_code)
        if function is None:
            return None
        call, line = _Call(function), None

        def hold(promise: Promise, value: Any) -> None:
            call.check(promise, value)
            kept.add(promise)

        def step(frame: FrameType, event: str, value: Any) -> Any:
            nonlocal line
            for promise in function.lines.get(line, ()):  # the line before this event has been carried out
                if promise.name != RETURN and promise.name in frame.f_locals:
                    hold(promise, frame.f_locals[promise.name])
                elif promise.name == RETURN and event == "return" and value is not None:
                    hold(promise, value)
            if event == "return" and value is not None:
                for promise in function.results:
                    given = value[promise.place] if len(function.results) > 1 else value
                    for array in given if isinstance(given, list) else [given]:
                        hold(promise, array)
            if event == "return":
                call.finish()
            line = frame.f_lineno
            return step

        for promise in function.arguments:
            if frame.f_locals.get(promise.name) is not None:
                hold(promise, frame.f_locals[promise.name])
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield kept
    finally:
        sys.settrace(before)
