"""A file or module that the prose names is there: in the README, the pages, docstrings and comments."""

import re
from pathlib import Path

import pytest

PLACES = [
    "*.md",
    "minivl/**/*.md",
    "minivl/**/*.py",
    "kernels/*",
    "kernels/**/*.py",
    "tutorials/*.py",
    "tutorials/**/*.md",
]
FILES = sorted({path for place in PLACES for path in Path().glob(place) if path.suffix in (".py", ".md")})
ROOMS = ["", "minivl", "minivl/tools", "minivl/tools/parity", "kernels", "tests", "tutorials", "tutorials/pages"]
PATH = re.compile(r"(?<![\w/.:-])(\w+(?:/\w+)*/\w+\.(?:py|md|json))\b")
OURS = {path.name for path in Path().glob("*") if path.is_dir()} | {
    path.name for path in Path("minivl").rglob("*") if path.is_dir()
}
BUILT = {"tutorials/index.md"}  # by tutorials/pages/build.py
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
MODULE = re.compile(r"(?:python -m|automodule::|autoclass::) +(minivl[\w.]*)")


def missing(text: str, beside: Path) -> list[str]:
    """The paths in a text that begin with a folder of ours and lead nowhere, and the modules that are not there."""
    paths = [path for path in PATH.findall(text) if path.split("/")[0] in OURS and path not in BUILT]
    lost = [path for path in paths if not any(Path(room, path).exists() for room in [*ROOMS, beside])]
    for name in MODULE.findall(text):
        parts = name.split(".")
        inside = [Path(*parts[: len(parts) - cut]) for cut in (0, 1)]  # the last name may be a class
        lost += [] if any(path.with_suffix(".py").exists() or path.is_dir() for path in inside) else [name]
    return lost


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".md"], ids=str)
def test_its_links_lead_somewhere(path):
    """Those of tutorials/pages are looked at when the site is built, beside the files that are copied there."""
    links = LINK.findall(path.read_text(encoding="utf-8"))
    assert [
        link for link in links if not (path.parent / link).exists() and path.parts[:2] != ("tutorials", "pages")
    ] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_it_names_is_there(path):
    assert missing(path.read_text(encoding="utf-8"), path.parent) == []


def test_what_is_lost_is_found():
    text = "see models/gone.py, models/vit.py and https://x.org/models/no.py\n.. automodule:: minivl.gone.away"
    assert missing(text, Path()) == ["models/gone.py", "minivl.gone.away"]
