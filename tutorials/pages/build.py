"""The pages of minivl as a small static site: every tutorial executed, the interface from its docstrings, the cards.

    pip install '.[docs]' && python tutorials/pages/build.py            the site is in build/pages, and needs no network
    python tutorials/pages/build.py OUT                                 another folder

A cell that fails, a warning of Sphinx, a link inside the site that leads nowhere, or anything that a page would fetch
from elsewhere ends the build with exit status 1. Each tutorial lies beside its page as an executed .ipynb too.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPIED = ["LICENSE", "kernels", "minivl", "tutorials/pictures", "tests"]  # beside all README.md: what pages link to
PICTURE = ROOT / "tutorials/pictures/red_triangle_above_yellow_star.png"
PLAYERS = {
    "caption": (),
    "question": ("what is above the yellow star?",),
    "match": ("--text", "a red triangle above a yellow star"),
    "fill": ("--text", "a red <mask> above a yellow star"),
}
REPORTS = {  # the first agrees (exit status 0), the second does not (1)
    "same": ("float64", "numpy"),
    "different": ("float64", "numpy", "--set-b", "vision_config.layer_norm_eps=0.01"),
}


def main(out: Path) -> int:
    """Build into `out`; the exit status."""
    from links import complaints

    os.environ |= {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        gather(source)
        names = [execute(path, source) for path in sorted((ROOT / "tutorials").glob("[0-9]*.py"))]
        contents(source, names)
        players(source / "extra/players")
        reports(source)
        status = sphinx(source, out)
    wrong = complaints(out)
    print(*wrong, sep="\n", file=sys.stderr)
    print(f"{out}: {len(list(out.rglob('*.html')))} pages, {len(names)} tutorials")
    return 1 if status or wrong else 0


def gather(source: Path) -> None:
    """What the pages are made of, where it lies in the repository, so that links between files stay true."""
    hide = shutil.ignore_patterns("__pycache__", "*.safetensors", "golden", "hub_configs")
    for name in [*COPIED, *(path.name for path in ROOT.glob("*.md"))]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=hide)
        else:
            shutil.copy(ROOT / name, source / name)
    for path in HERE.iterdir():
        if path.is_file() and path.name not in ("build.py", "links.py", "look.py"):
            shutil.copy(path, source)


def execute(path: Path, source: Path) -> str:
    """Run one tutorial; its notebook, with everything that it printed and drew, becomes a page."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    start, name = time.perf_counter(), f"{path.stem}.ipynb"
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    (source / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, source / "notebooks" / name)
    link = f"{{download}}`This page as a notebook <../notebooks/{name}>`, executed."
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(link))
    nbformat.write(notebook, source / "tutorials" / name)
    print(f"{path.name}: {time.perf_counter() - start:.1f} s")
    return path.stem


def contents(source: Path, names: list[str]) -> None:
    """The list of tutorials, in the order of their numbers."""
    listed = "\n".join(names)
    page = source / "tutorials" / "index.md"
    page.write_text(f"{(HERE / 'tutorials.md').read_text()}\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n")
    (source / "tutorials.md").unlink()


def players(folder: Path) -> None:
    """The attention player of one picture, in four ways."""
    from minivl.cli import main as minivl

    folder.mkdir(parents=True)
    for name, arguments in PLAYERS.items():
        if minivl(["step", str(PICTURE), *arguments, "--out", str(folder / f"{name}.html")]):
            raise SystemExit(f"minivl step could not write {name}.html")


def reports(source: Path) -> None:
    """What `minivl diff` prints of two sides that agree, and of two that do not because a setting was changed."""
    from minivl.cli import main as minivl

    (source / "extra/diff").mkdir()
    for status, (name, arguments) in enumerate(REPORTS.items()):
        said, page = io.StringIO(), source / f"extra/diff/{name}.html"
        with contextlib.redirect_stdout(said):
            found = minivl(["diff", *arguments, "--html", str(page)])
        if found != status:
            raise SystemExit(f"minivl diff {' '.join(arguments)}: wanted exit status {status}, found {found}")
        (source / f"diff_{name}.txt").write_text(said.getvalue())


def sphinx(source: Path, out: Path) -> int:
    """Sphinx's exit status, where a warning counts as a failure."""
    from sphinx.cmd.build import main as build

    if out.exists():
        shutil.rmtree(out)
    return build(["-q", "-W", "--keep-going", "-b", "html", "-d", str(source / "_doctrees"), str(source), str(out)])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/pages").resolve()))
