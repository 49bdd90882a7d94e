"""Break each kernel on purpose, one small change at a time, and see whether its tests notice.

    python tests/helpers/mutate_kernels.py                      every list in tests/helpers/mutants
    python tests/helpers/mutate_kernels.py attention softmax    only these

A list is a file tests/helpers/mutants/<name>.py with

    FILE = "attention.py"                               in kernels/
    TESTS = ["test_kernel_attention.py"]                in tests/kernels/
    MUTANTS = [("what is broken", "old text", "new text"), ("what is broken", "old", "new", "function"), ...]
    EQUIVALENT = {"what is broken": "why nobody could tell"}

Old text has to occur exactly once: in the file, or in the function that is named. For each mutant kernels/ is copied
to a temporary folder and changed there, and the tests run on the copy. The table says which test killed it; the command
fails if a mutant survives that is not EQUIVALENT, or one dies that is. It takes many minutes, and is no part of a plain
pytest run.
"""

import ast
import contextlib
import io
import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KERNELS, TESTS = ROOT / "kernels", ROOT / "tests" / "kernels"
os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(ROOT), str(HERE)]


class FirstFailure:
    """A pytest plugin that remembers the test which failed first."""

    name = None

    def pytest_runtest_logreport(self, report):
        if report.failed and self.name is None:
            self.name = report.nodeid.split("::")[-1]


def tests_on(kernels, tests):
    """None if all pass on this folder of kernels, otherwise the name of the first test that fails."""
    # A child of this process has everything heavy imported already, and nothing it does to modules comes back.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(run_tests, (str(kernels), [str(TESTS / test) for test in tests]))


def run_tests(kernels, files):
    import pytest

    import minivl.kernels

    minivl.kernels.__path__ = [kernels]  # the doorway: from here on `minivl.kernels.attention` is the copy's
    plugin = FirstFailure()
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        options = ["-x", "-q", "-n", "0", "--tb=no", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        status = pytest.main([*options, *files], plugins=[plugin])
    return plugin.name or (f"pytest, which ends with {status!r}" if status else None)


def mutate(source, name, old, new, function=None):
    """The source with one text replaced; an error if that text is not there exactly once, or nothing changes."""
    before, place, after = ("", source, "") if function is None else around(source, function)
    if place.count(old) != 1 or old == new:
        raise SystemExit(
            f"mutant {name!r}: its text occurs {place.count(old)} times in {function or 'the file'}, and must once:"
            f" {old!r}"
        )
    return before + place.replace(old, new) + after


def around(source, function):
    """The source in three pieces: before a function, the function, and after it."""
    [node] = [x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name == function]
    lines = source.splitlines(keepends=True)
    pieces = lines[: node.lineno - 1], lines[node.lineno - 1 : node.end_lineno], lines[node.end_lineno :]
    return tuple("".join(piece) for piece in pieces)


def judge(mutants):
    """Run one list; print a table row for every mutant; return how many turned out other than the list says."""
    source = (KERNELS / mutants["FILE"]).read_text()
    changed = [(name, mutate(source, name, *how)) for name, *how in mutants["MUTANTS"]]
    surprises = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
        failed = tests_on(copy, mutants["TESTS"])
        if failed:
            raise SystemExit(f"{mutants['FILE']}: its tests must pass before it is broken, and {failed} fails")
        for name, broken in changed:
            (copy / mutants["FILE"]).write_text(broken)
            start = time.monotonic()
            killer = tests_on(copy, mutants["TESTS"])
            equivalent = mutants["EQUIVALENT"].get(name)
            surprises += (killer is None) == (equivalent is None)
            verdict = f"killed by {killer}" if killer else f"equivalent: {equivalent}" if equivalent else "SURVIVED"
            print(f"| {name} | {verdict} | {time.monotonic() - start:.0f} s |", flush=True)
    return surprises


def import_what_all_tests_need():
    """Once, in the parent; no kernel, for those are what each child imports anew."""
    import hypothesis  # noqa: F401
    import torch
    import transformers.models.t5.modeling_t5  # noqa: F401

    import minivl.kernels.launch  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork


def main(names):
    lists = sorted((HERE / "mutants").glob("*.py"))
    unknown = set(names) - {path.stem for path in lists}
    if unknown:
        raise SystemExit(f"no list named {', '.join(sorted(unknown))}: there are {', '.join(p.stem for p in lists)}")
    import_what_all_tests_need()
    surprises = 0
    for path in lists:
        if not names or path.stem in names:
            print(f"\n| {path.stem} | verdict | time |\n|---|---|---|", flush=True)
            surprises += judge(runpy.run_path(str(path)))
    return surprises


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
