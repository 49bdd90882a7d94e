"""SECURITY.md promises nothing that no test holds."""

import ast
import re
from pathlib import Path

import pytest

from minivl.processors import picture_files as pictures
from minivl.weights import pickles

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
READERS = ("weights", "processors", "api", "config", "models", "generate", "ops")
NEVER = {"eval", "exec", "compile", "__import__", "system", "popen", "Popen", "urlopen", "socket", "create_connection"}
MODULES = {
    "subprocess",
    "socket",
    "urllib",
    "http",
    "requests",
    "httpx",
    "marshal",
    "shelve",
    "dill",
    "joblib",
}


def names_of_tests(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def rows(title):
    """The rows of the table below a heading."""
    part = PAGE.split(f"## {title}")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")
    ][1:]


def test_every_promise_names_tests_and_every_test_is_there():
    known = set().union(*(names_of_tests(path) for path in (ROOT / "tests").rglob("test_*.py")))
    promises = rows("What is promised")
    assert len(promises) >= 12
    for promise, tests in promises:
        named = re.findall(r"`(\w+)`", tests)
        assert named, promise
        assert set(named) <= known, f"{promise}: {set(named) - known}"


def test_the_floors_are_those_of_the_package():
    written = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    dependencies = re.findall(r'"([^"]+)"', written)
    assert len(dependencies) == 4
    floors = {name.lower(): floor for name, floor, _ in rows("Versions that are needed, and why")}
    for dependency in dependencies:
        name, floor = dependency.split(">=")
        assert floors[name] == floor
    constraints = (ROOT / "tests" / "constraints.txt").read_text()
    assert "pillow==13.0" in constraints and "13.0" in PAGE


def test_the_numbers_are_those_of_the_code():
    assert f"{round(pictures.MOST_PIXELS / 1e6)} million pixels" in PAGE
    assert all(name.lower() in PAGE.lower() for name in pictures.FORMATS)
    assert len(pickles.STAND_INS) == 3 and "three names" in PAGE


def test_nobody_is_invented():
    assert "@" not in PAGE and "http" not in PAGE


def sources():
    for room in READERS:
        yield from (ROOT / "minivl" / room).rglob("*.py")
    yield from (ROOT / "minivl").glob("*.py")


def calls_and_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            yield name, owner
        elif isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], "import") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0], "import"


@pytest.mark.parametrize("path", sorted(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_that_reads_calls_nothing_that_runs_code_or_opens_a_socket(path):
    for name, owner in calls_and_imports(path):
        assert not (owner == "import" and name in MODULES), f"{path}: imports {name}"
        assert not (name in NEVER and owner in ("", "os", "builtins", "socket", "subprocess")), f"{path}: calls {name}"
        assert not (name in ("load", "loads") and owner in ("torch", "pickle", "np", "numpy")), (
            f"{path}: {owner}.{name}"
        )
        assert name != "Unpickler" or path.name == "pickles.py", path


def test_the_search_finds_what_it_looks_for(tmp_path):
    (tmp_path / "x.py").write_text("import subprocess\nimport torch\ntorch.load('x')\neval('1')\n")
    found = set(calls_and_imports(tmp_path / "x.py"))
    assert {("subprocess", "import"), ("load", "torch"), ("eval", "")} <= found
