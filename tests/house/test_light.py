"""A caption needs the four core packages, no network, and nothing else; and importing minivl loads almost nothing."""

import json
import subprocess
import sys

import pytest
from bare_process import CAPTION, OFFLINE, WITHOUT

HEAVY = ["torch", "triton", "transformers", "huggingface_hub", "matplotlib", "easy_vqa", "tqdm"]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_caption_needs_no_optional_package_and_no_network():
    plain = run("import sys" + CAPTION)
    bare = run(WITHOUT.format(packages=HEAVY) + OFFLINE + CAPTION)
    assert plain.returncode == 0, plain.stderr
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout == plain.stdout and "red circle" in bare.stdout


def test_the_blocker_blocks():
    assert "No module named 'torch'" in run(WITHOUT.format(packages=HEAVY) + "import torch").stderr
    assert "wanted to open a socket" in run(OFFLINE + "socket.create_connection(('localhost', 1))").stderr


def test_importing_minivl_loads_no_package():
    result = run("import json, sys, minivl; print(json.dumps(sorted(sys.modules)))")
    loaded = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert "minivl" in loaded
    assert not loaded & {*HEAVY, "numpy", "PIL", "tokenizers", "safetensors"}


@pytest.mark.parametrize("backend, missing", [("torch", "torch"), ("triton", "torch"), ("triton", "triton")])
def test_a_backend_whose_package_is_missing_says_what_to_install(backend, missing):
    code = WITHOUT.format(packages=[missing]) + f"import minivl; minivl.ops.get({backend!r})"
    wanted = (
        f"backend {backend!r} needs the package {missing!r}, which is not installed: pip install 'minivl[{backend}]'"
    )
    assert f"minivl.errors.OpsError: {wanted}\n" in run(code).stderr
