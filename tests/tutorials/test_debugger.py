"""Stepping: a debugger stops in any line of a model or of an interpreted kernel, and finds arrays with names there.

Nothing stands between a line of a model and the function that computes: frames are counted.
"""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivl
from minivl import Blip2VisionConfig
from minivl.models import blocks, vit
from minivl.weights import names, tree

ROOT = Path(__file__).resolve().parents[2]
MODELS = str(Path(blocks.__file__).parent)


def line_of(function, text):
    """Where `text` stands inside a function: file:line."""
    lines, first = inspect.getsourcelines(function)
    (place,) = (first + i for i, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(function)}:{place}"


def test_the_debugger_shows_names_and_shapes_and_steps_into_the_formula(tmp_path):
    commands = [
        f"b {line_of(blocks.attend, 'mixed = ops.attention(')}",
        "c",
        "p q.shape, k.shape, v.shape",
        "p sorted(p)",
        "s",
        "w",
        "q",
    ]
    command = [sys.executable, "-m", "pdb", *(part for one in commands for part in ("-c", one))]
    command += ["-m", "minivl", "caption", "--backend", "plain", str(ROOT / "tutorials/pictures/red_circle.png")]
    beside = os.environ | {"PYTHONPATH": str(Path(blocks.__file__).parents[2])}  # the minivl of the breakpoint
    done = subprocess.run(command, cwd=tmp_path, env=beside, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "((1, 4, 65, 32), (1, 4, 65, 32), (1, 4, 65, 32))" in done.stdout, done.stdout + done.stderr
    assert "['out', 'qkv']" in done.stdout
    here = [line for line in done.stdout.partition("--Call--")[2].splitlines() if line.startswith("> ")][-1]
    assert "ops/plain.py" in here and here.endswith("attention()")


KERNEL = """
from minivl.kernels.launch import arrays, empty, tl, triton


@triton.jit
def double_kernel(X, OUT, C: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + c, c < C, 0.0)
    breakpoint()
    tl.store(OUT + c, x * 2, c < C)


@arrays
def double(x):
    out = empty(x.shape, x)
    double_kernel[(2,)](x, out, C=x.shape[0], BLOCK=4)
    return out
"""


def test_a_breakpoint_in_an_interpreted_kernel_gives_blocks(tmp_path, monkeypatch):
    path = tmp_path / "double_kernels.py"
    path.write_text(KERNEL)
    spec = importlib.util.spec_from_file_location("double_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen = []

    def stop():
        frame = sys._getframe(1)
        seen.append((frame.f_code.co_name, tuple(frame.f_locals["x"].shape), np.array(frame.f_locals["x"].handle.data)))

    monkeypatch.setattr(sys, "breakpointhook", stop)
    x = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(module.double(x), 2 * x)
    assert [name for name, _, _ in seen] == ["double_kernel"] * 2  # once in each program
    np.testing.assert_array_equal(np.stack([block for _, _, block in seen]), [[0, 1, 2, 3], [4, 5, 0, 0]])


@pytest.mark.parametrize("backend, most", [("plain", 0), ("numpy", 0), ("torch", 0), ("triton", 1)])
def test_nothing_stands_between_a_line_of_a_model_and_the_function_that_computes(backend, most):
    """The one on the way to a Triton kernel asks whether an argument wants a gradient."""
    found = frames_between(backend)
    assert {"linear", "layer_norm", "attention", "patch_embed"} <= set(found)
    assert max(found.values()) <= most, found


def frames_between(backend):
    """{op: the most frames between a line in minivl/models and the function that the record names}"""
    ops = minivl.ops.get(backend)
    functions = {name: inspect.unwrap(value) for name, value in ops._asdict().items() if callable(value)}
    codes: dict[int, str] = {}
    for name, function in functions.items():
        if hasattr(function, "__code__"):
            codes.setdefault(id(function.__code__), name)
    found: dict[str, int] = {}

    def listen(frame, event, _):
        if event != "call" or id(frame.f_code) not in codes:
            return
        count, caller = 0, frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(MODELS):
            if id(caller.f_code) in codes:
                return  # an op that uses another
            count, caller = count + 1, caller.f_back
        if caller is not None:
            name = codes[id(frame.f_code)]
            found[name] = max(count, found.get(name, 0))

    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = Blip2VisionConfig(**small, image_size=16, patch_size=8)
    fresh = tree.random(names.vit(config), np.random.default_rng(0), 0.1)
    weights = tree.map_leaves(ops.from_numpy, fresh)
    pixels = ops.from_numpy(np.zeros((1, 3, 16, 16), np.float32))
    sys.setprofile(listen)
    try:
        vit.encode(ops, weights, pixels, config)
    finally:
        sys.setprofile(None)
    return found
