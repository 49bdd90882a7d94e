"""Every tutorial runs, from wherever it is started, offline and quickly; and none of them copies the package."""

import ast
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minivl
from minivl import tutorial

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
SECONDS = 20
LINES = 200  # a tutorial has fewer
COPIED = 4  # so many lines of the package's code in a row are a copy
ANSWERS = {  # to the exercises of each tutorial, which do not give them away, in order
    "01": [257, 1408 * 3 * 14 * 14, 19],
    "02": [75, 16 * 257 * 257, 1408 // 16],
    "03": [4 * 1408**2 + 2 * 1408 * 6144, 39],
    "04": [6, 32 * 257, "star"],
    "05": [2 * 32 * 2560, sum(range(33, 43))],
    "06": [2 * 32 * 32, 16, 22],
    "07": [7, (288 // 16) ** 2 + 1, 768 // 64],
    "08": [0.2, 2 * 5],
    "09": [[300 * 300, 300 + 300], 50, "black"],
    "10": [2 * 257 * 1408 * 2],
    "11": [2.5, 97],
    "12": ["language.layers.0.mlp.act", "bias"],
    "13": [0, 2560 * 2560 + 2560 * 4, "yes"],
    "14": [-6, 11],
}
OPTIONAL = ("torch", "triton", "transformers")  # a tutorial that speaks of one of these needs it


def names(path):
    return path.stem


def run(path, monkeypatch):
    """Run a tutorial in this process, without a network and a display; the processor's seconds that it took."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")

    def refuse(*arguments, **named):
        raise AssertionError("a tutorial wanted to open a socket")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = time.process_time()
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        plt.close("all")
    return time.process_time() - before


@pytest.mark.parametrize("path", TUTORIALS, ids=names)
def test_a_tutorial_runs(path, monkeypatch, capsys):
    for package in OPTIONAL:
        if re.search(rf"\b{package}\b", path.read_text()):
            pytest.importorskip(package)
    monkeypatch.chdir(ROOT)
    wanted: list[str] = []
    monkeypatch.setattr(tutorial, "check", lambda answer, digest: wanted.append(digest))
    assert run(path, monkeypatch) < SECONDS
    assert capsys.readouterr().out.strip(), "it prints nothing"
    assert wanted == [tutorial.digest(answer) for answer in ANSWERS.get(path.stem[:2], [])]


def test_an_answer_is_checked_and_not_given_away(capsys):
    tutorial.check(None, tutorial.digest(257))
    tutorial.check(np.int64(257), tutorial.digest(257))
    assert capsys.readouterr().out.splitlines() == ["your turn: write the answer in place of None", "257 is right"]
    with pytest.raises(AssertionError, match="^256 is not right yet$"):
        tutorial.check(256, tutorial.digest(257))


def test_a_picture_is_found_or_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "tutorials")
    assert tutorial.picture("red_circle.png").size == (64, 64)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(minivl.errors.InputError, match="^no picture tutorials/pictures/blue.png: run this in the root"):
        tutorial.picture("blue.png")


@pytest.mark.parametrize("folder", [ROOT, ROOT / "tutorials"], ids=["from the root", "from tutorials"])
def test_a_tutorial_is_a_plain_script_that_needs_no_matplotlib(folder, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    script = os.path.relpath(ROOT / "tutorials/01_pixels_to_patches.py", folder)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install 'minivl[plot]'") == 1 and not done.stderr


def test_tutorials_are_numbered_from_1_without_a_gap():
    assert [int(path.stem[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))


def test_the_list_of_tutorials_has_them_all_with_their_titles():
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \|", (ROOT / "tutorials/README.md").read_text(), re.MULTILINE)
    titles = [path.read_text().splitlines()[1].removeprefix("# # ").partition(" · ") for path in TUTORIALS]
    assert listed == [(n, title, path.name) for (n, _, title), path in zip(titles, TUTORIALS, strict=True)]


@pytest.mark.parametrize("path", TUTORIALS, ids=names)
def test_a_tutorial_is_short_and_in_cells_with_predictions_that_are_asserted(path):
    text = path.read_text()
    assert len(text.splitlines()) < LINES
    assert text.startswith(f"# %% [markdown]\n# # {path.stem[:2]} · ")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert {cell.partition("\n")[0].strip() for cell in cells} == {"", "[markdown]"}
    for cell, after in zip(cells, [*cells[1:], ""], strict=True):
        if "**Predict" in cell:
            assert "assert" in after, f"a prediction that is not asserted: {cell}"


# ---- copies --------------------------------------------------------------------------------------
def code_lines(text):
    """The code of a file, one statement's line at a time, in one spelling, without comments, docstrings and imports."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                body[:] = [one for one in body if not bare(one)] or [ast.Pass()] * bool(body)
    lines = map(str.strip, ast.unparse(tree).splitlines())
    return [line for line in lines if line not in ("", "pass", "else:", "try:")]


def bare(node):
    """Whether a statement is an import or a string that stands alone."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Import | ast.ImportFrom)


def runs(lines):
    """Every few lines in a row."""
    return {tuple(lines[i : i + COPIED]) for i in range(len(lines) - COPIED + 1)}


@pytest.fixture(scope="module")
def package():
    """{a few lines in a row: the file of the package where they stand}"""
    files = [*(ROOT / "minivl").rglob("*.py"), *(ROOT / "kernels").glob("*.py")]
    return {run: path for path in files for run in runs(code_lines(path.read_text()))}


def copies(text, package):
    return [f"{package[run]}: {' | '.join(run)}" for run in sorted(runs(code_lines(text)) & package.keys())]


@pytest.mark.parametrize("path", TUTORIALS, ids=names)
def test_a_tutorial_calls_the_package_and_does_not_repeat_it(path, package):
    assert copies(path.read_text(), package) == []


def test_a_copy_is_found_however_it_is_laid_out(package):
    copy = '''
# %%
def my_attend(x):
    """Other words."""
    q, k, v = queries_keys_values(ops, p, x,  # another comment
                                  x if memory is None else memory, heads)
    if cache is not None:
        import math
        k, v = cache.append(ops, k, v)

    bias = (distance_bias(ops, q, k, **p['distance'])
            if 'distance' in p else None)
    return bias
'''
    assert [found.partition(":")[0] for found in copies(copy, package)] == [str(ROOT / "minivl/models/blocks.py")]
    assert copies(copy.replace("k, v = cache.append(ops, k, v)", "grow(cache)"), package) == []
