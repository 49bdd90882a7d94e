"""The code in docstrings runs. A block of indented lines counts as code if it parses and calls something.

Comments stand to the right of a line, three spaces or more away; they are cut off first. FORMULAS lists what parses
and is a formula all the same, or needs a GPU. GIVEN holds what an example takes for granted.
"""

import ast
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest

FORMULAS = {
    "kernels/layer_norm.py",
    "minivl/models/blocks.py:pre_ln_layer",
    "minivl/models/blocks.py:post_ln_layer",
    "minivl/models/t5.py",
    "minivl/ops/backward.py:softmax_backward",
    "minivl/api/blip2_pass.py",  # the two lines that its function runs
    "minivl/api/pretrained.py:to",  # needs a GPU
    "kernels/checking/compiled.py",  # needs a process that does not interpret: tests/kernels/test_compiled.py
}


def examples():
    """(where, code) of each block in a docstring that is Python and does something."""
    found = []
    for path in sorted([*Path("minivl").rglob("*.py"), *Path("kernels").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                where = f"{path}:{node.name}" if hasattr(node, "name") else str(path)
                found += [(where, code) for code in blocks(ast.get_docstring(node) or "")]
    return [(where, code) for where, code in found if where not in FORMULAS]


def blocks(text):
    for part in re.split(r"\n(?=\S)|\n\n(?= )", text):
        lines = [line for line in part.split("\n") if line.startswith("    ")]
        code = textwrap.dedent("\n".join(re.sub(r"(?<=\S)\s{3,}\S.*", "", line) for line in lines))
        try:
            parsed = ast.parse(code)
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom | ast.With) for node in ast.walk(parsed)):
            yield code


FOUND = examples()


BLIP2 = """
from minivl import Blip2ForConditionalGeneration, Blip2Processor, tutorial
from minivl.generate import TextStreamer
model = Blip2ForConditionalGeneration.from_pretrained("demo")
processor = Blip2Processor.from_pretrained("demo")
picture = photo = tutorial.picture("red_circle.png")
inputs = processor(images=picture, return_tensors="np")
"""
BRIDGETOWER = """
from minivl import BridgeTowerForMaskedLM, BridgeTowerProcessor, tutorial
model = BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower")
processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
photo = tutorial.picture("red_circle.png")
"""
NORM = """
pytest.importorskip("triton")
from minivl.kernels.checking.checked import checked
from minivl.kernels.layer_norm import layer_norm
x, w, b = np.ones((3, 8), np.float32), np.ones(8, np.float32), np.ones(8, np.float32)
"""
READER = """
from minivl.generate import Settings, Tokens, run
class Reader:  # a model of four tokens that likes the last one
    rows = 2
    def step(self, tokens): return np.tile(np.float32([0, 1, 2, 3]), (self.rows, 1))
    def reorder(self, rows): self.rows = len(rows)
reader, rows, tokens, order = Reader(), 2, None, [1, 0]
"""
RECORDS = """
from pathlib import Path
from minivl.tools.jobs.records import Records
out, settings, items = Path("out.jsonl"), {"model": "demo"}, []
"""
LAYOUTS = """
import torch
from minivl.tools.workbench.layouts import lay
numbers = torch.ones(3, 8)
"""
QKV = "q, k, v, dout = np.random.default_rng(0).normal(size=(4, 1, 2, 5, 8)); "
TAPE = "from minivl.ops import tape; from minivl.weights import tree; weights, x = np.ones((3, 8)), np.ones((2, 8))\n"
GIVEN = {  # what a reader of each docstring has at hand
    "kernels/checking/checked.py": NORM,
    "kernels/launch.py": "",
    "minivl/__init__.py": "",
    "minivl/api/blip2.py:Blip2ForConditionalGeneration": BLIP2,
    "minivl/batch.py:Captioner": "from minivl.batch import Captioner; captioner = Captioner()",
    "minivl/generate/__init__.py": READER,
    "minivl/generate/streamer.py:TextStreamer": BLIP2,
    "minivl/ops/__init__.py": QKV + "import minivl",
    "minivl/ops/backward.py": QKV + "from minivl.ops.backward import attention_backward",
    "minivl/ops/quantised.py": "import minivl; from minivl.ops import quantised",
    "minivl/ops/tape.py": BLIP2 + TAPE,
    "minivl/player/record.py:AttentionTrace": BLIP2 + "record = model.trace(**inputs, tokenizer=processor)",
    "minivl/processors/blip2.py:Blip2Processor": BLIP2,
    "minivl/processors/bridgetower.py:BridgeTowerProcessor": BRIDGETOWER,
    "minivl/prompts.py": "from minivl.prompts import prompt",
    "minivl/tools/jobs/records.py:Records": RECORDS,
    "minivl/tools/workbench/layouts.py": LAYOUTS,
    "minivl/tracing.py": BLIP2 + "import minivl; inputs = {**inputs, 'input_ids': np.array([[2, 4]])}",
    "minivl/tutorial.py": BLIP2 + "from minivl import tutorial; weights = np.ones((8, 8))",
}


@pytest.mark.parametrize("where, code", FOUND, ids=[where for where, _ in FOUND])
def test_an_example_runs(where, code, tmp_path, monkeypatch):
    names = {"np": np, "pytest": pytest}
    exec(GIVEN[where], names)
    for name in ("a.png", "b.png"):
        shutil.copy("tutorials/pictures/red_circle.png", tmp_path / name)
    (tmp_path / "tutorials").symlink_to(Path("tutorials").resolve())  # an installed package has no pictures beside it
    monkeypatch.chdir(tmp_path)
    exec(compile(code, where, "exec"), names)


def test_examples_are_found():
    assert list(blocks("Text.\n\n    x = f(1)     a note\n    x.y\n\n    y = x w\n")) == ["x = f(1)\nx.y"]
    assert {where for where, _ in FOUND} == set(GIVEN)
