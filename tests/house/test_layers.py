"""The rooms stand on one another: a file imports from its own room or from a lower one, and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from minivl.ops.table import TABLE
from minivl.tools.workbench.catalogue import kernels

ROOT = Path(__file__).resolve().parents[2]

# The lowest first. Rooms on one line know nothing of each other. CONTRIBUTING.md has the same picture, with words.
LAYERS = """
    errors
    disk cores
    kernels
    ops
    weights
    config
    processors
    models
    generate prompts
    tracing inputs outputs
    player
    api
    pipelines
    console
    commands
    batch demo tutorial
    tools
    cli
    __main__
"""
RANK = {room: rank for rank, line in enumerate(LAYERS.split("\n")) for room in line.split()}


def sources() -> dict[str, Path]:
    """Every module of the package by its dotted name; `kernels/` is the package `minivl.kernels`."""
    files = [*ROOT.glob("minivl/**/*.py"), *ROOT.glob("kernels/**/*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    return {
        ("minivl." + name if name.startswith("kernels") else name).removesuffix(".__init__"): path
        for path, name in names.items()
        if path != ROOT / "minivl/kernels.py"
    }


MODULES = sources()


def imported(name: str) -> set[str]:
    """The modules of the package that one module names in its imports, at the top, in functions and for types."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in wanted:
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            found.add(target)
    return found - {"", name}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


EDGES = {name: imported(name) for name in MODULES}


def test_every_room_has_a_layer():
    assert {room(name) for name in MODULES} - {""} == set(RANK)
    assert sum(len(edges) for edges in EDGES.values()) > 400  # the imports were read at all


def test_nothing_imports_from_above():
    """The package itself is outside: it hands out the public names of every room, each when it is first asked for."""
    upward = [
        f"{name} -> {target}"
        for name, targets in EDGES.items()
        for target in targets
        if room(name) and room(target) and room(name) != room(target) and RANK[room(target)] >= RANK[room(name)]
    ]
    assert not upward


def test_no_circles():
    """Files taken off one after another, each once everything it imports is gone: none is left over."""
    left = {name: {t for t in targets if room(t)} for name, targets in EDGES.items() if room(name)}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_a_circle_would_be_found(monkeypatch):
    monkeypatch.setitem(EDGES, "minivl.errors", {"minivl.disk"})
    with pytest.raises(AssertionError):
        test_no_circles()
    with pytest.raises(AssertionError):
        test_nothing_imports_from_above()


def test_a_caption_loads_only_what_it_uses():
    """Each module adds to the time before the first word: neither the other family nor a tool is among them."""
    program = (
        "import sys; from minivl.cli import main\n"
        "main(['caption', 'tutorials/pictures/red_circle.png'])\n"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] == 'minivl'), sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = [line for line in run.stdout.splitlines() if line.split(".")[0] == "minivl"]
    assert "minivl.models.opt" in loaded or "minivl.models.t5" in loaded
    assert len(loaded) <= 45
    strays = [m for m in loaded if "bridgetower" in m or m.startswith(("minivl.tools", "minivl.player"))]
    assert not strays


def files_naming(word: str) -> set[str]:
    """The source files in which a word stands, as `grep -w` finds it."""
    return {
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if any(word == part for part in _words(path.read_text(encoding="utf-8")))
    }


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


GENERAL = {"attention", "attention_weights", "linear"}  # words that prose needs too


@pytest.mark.parametrize("op", [op for op in TABLE if op not in GENERAL])
def test_an_op_is_told_once(op):
    """In `ops/`: its row, its formula and, where it has them, its fast form, torch's call and its gradient."""
    here = {name for name in files_naming(op) if name.startswith("minivl/ops/")}
    assert {"minivl/ops/table.py", "minivl/ops/plain.py"} <= here
    assert len(here) <= 6


def test_rms_norm_stands_in_few_files():
    """The six files of the recipe, the one model that uses it, and the workbench's table of model shapes."""
    assert len(files_naming("rms_norm")) <= 8


# ---- every kernel has a user


def users() -> str:
    """All that a model, an op or a tutorial can call, as text; the table derives calls from its rows, so they count."""
    places = [*ROOT.glob("minivl/ops/*.py"), *ROOT.glob("minivl/models/*.py"), *ROOT.glob("tutorials/*.py")]
    rows = [f"{name} {name}_backward" if op.gradient else name for name, op in TABLE.items()]
    lines = [line for path in ROOT.glob("kernels/*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    shared = [
        line for line in lines if line.startswith("from minivl.kernels.")
    ]  # what one kernel's file takes from another's
    return "\n".join([*rows, *shared, *(path.read_text(encoding="utf-8") for path in places)])


def test_every_kernel_is_reached():
    """By an op, or by a tutorial: nothing is listed as if the models ran it that they do not run."""
    named, listed = set(_words(users())), [one.function for one in kernels().values()]
    assert len(listed) > 25
    assert [function for function in listed if function not in named] == []
