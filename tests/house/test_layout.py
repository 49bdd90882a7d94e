"""The rules of the house that no other test would notice being broken."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minivl.kernels

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_is_no_package_of_its_own():
    """transformers imports whatever is called `kernels`; without __init__.py a folder of that name does not count."""
    assert (ROOT / "kernels").is_dir()
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_doorway_leads_to_the_folder_kernels():
    assert [Path(place).name for place in minivl.kernels.__path__] == ["kernels"]
    assert Path(minivl.kernels.__path__[0], "README.md").is_file()


def test_nothing_imports_plain_kernels():
    sources = [path for room in ("minivl", "kernels", "tests", "tutorials") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 30
    plain = re.compile(r"^\s*(import kernels\b|from kernels\b)", re.MULTILINE)
    assert [str(path) for path in sources if plain.search(path.read_text())] == []


def test_scripts_are_not_named_like_modules():
    """A script's own folder comes first on sys.path: tutorials/types.py would stand in for the standard library's."""
    taken = sys.stdlib_module_names | {"numpy", "torch", "triton", "minivl", "tokenizers", "transformers"}
    names = {path.stem for room in ("kernels", "tutorials", "tests") for path in (ROOT / room).glob("*.py")}
    assert names & taken == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that nothing is left behind in the checkout."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for room in ("minivl", "kernels"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy]
    subprocess.run(command, check=True, capture_output=True)
    return next((copy / "dist").glob("*.whl"))


def test_a_wheel_holds_every_module_the_demo_and_nothing_at_the_top_level_but_minivl(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"minivl"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "minivl").rglob("*.py")}
    assert modules <= names
    assert {"minivl/kernels/README.md", "minivl/player/page.html", "minivl/demo/blip2/model.safetensors"} <= names
    assert "minivl/kernels/__init__.py" not in names


def test_the_demo_in_the_wheel_stays_small(wheel):
    parts = [i.file_size for i in zipfile.ZipFile(wheel).infolist() if i.filename.startswith("minivl/demo/blip2/")]
    assert 0 < sum(parts) < 5e6
