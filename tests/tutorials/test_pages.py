"""The pages: what builds them finds dead links and fetched things, keeps docstrings as they are, and its examples run.

The site itself is built by `python tutorials/pages/build.py`, which needs the extra `docs`.
"""

import re
import sys
from pathlib import Path

import pytest

PAGES = Path("tutorials/pages")


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(PAGES.resolve()))


def test_wrong_links_are_found_and_right_ones_are_not(tmp_path):
    from links import complaints

    right = '<a href="b.html#there">b</a> <a href="#here" id="here">me</a> <a href="https://example.org">out</a>'
    wrong = '<a href="c.html">c</a> <a href="b.html#gone">b</a> <script src="https://example.org/x.js"></script>'
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "a.html").write_text(f'<link rel="canonical" href="https://example.org/">{right}')
    assert complaints(tmp_path) == []
    (tmp_path / "a.html").write_text(wrong)
    assert complaints(tmp_path) == [
        "a.html: fetches https://example.org/x.js",
        "a.html: c.html leads nowhere",
        "a.html: there is no #gone in b.html",
    ]


def test_docstrings_keep_their_columns_and_lose_their_markup():
    from docstrings import marked_up

    lines = ["A *star* and `code` of **p.", "", "    y = x wᵀ + b", "", "x (B, C)   ->   (B, F)", ""]
    assert marked_up(lines) == [
        r"A \*star\* and ``code`` of \*\*p.",
        "",
        *(".. code-block:: text", "", "       y = x wᵀ + b", ""),
        *(".. code-block:: text", "", "   x (B, C)   ->   (B, F)", ""),
    ]


def test_the_code_of_the_players_page_prints_what_it_says(capsys):
    names: dict = {}
    page = (PAGES / "player.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "player.md", "exec"), names)
    want = re.findall(r"^print\(.*\)  # (.*)$", page, re.MULTILINE) + re.findall(
        r"^    (\w+ covered: .*)$", page, re.MULTILINE
    )
    assert len(want) == 4 and capsys.readouterr().out.splitlines() == want


def test_the_line_that_the_debuggers_page_names_is_that_line():
    page = (PAGES / "debugger.md").read_text()
    (file, number), text = re.search(r'"b (\S+):(\d+)"', page).groups(), "mixed = ops.attention("
    assert text in page and text in Path(file).read_text().splitlines()[int(number) - 1]


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml", reason="pip install latex2mathml to draw the formulas of the pages")
    pytest.importorskip("docutils")
    import mathml
    from docutils import nodes

    class Translator:
        body: list = []

    with pytest.raises(nodes.SkipNode):
        mathml.block(Translator, nodes.math_block("", r"y = W\, x"))
    assert "<math" in Translator.body[0] and "<mi>W</mi>" in Translator.body[0]
    sys.modules.pop("mathml")
