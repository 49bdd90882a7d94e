"""The rest of the kernel workbench: the list is complete, the debugger shows blocks, what is inspected adds up."""

import ast
import inspect
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minivl.cli import main
from minivl.errors import InputError
from minivl.tools.workbench import catalogue
from minivl.tools.workbench.model_shapes import SITES

pytest.importorskip("triton")
pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
STRANGER = ROOT / "tests" / "helpers" / "strangers" / "triton_attention.py"


def run(*arguments):
    """A process of its own, as a user starts it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "minivl", "kernels", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env | {"PYTHONPATH": paths})


# ---- list


def wrappers():
    """(file, name) of every function that launches kernels: those under @arrays."""
    found = set()
    for path in (ROOT / "kernels").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "arrays" for d in node.decorator_list):
                found.add((path.stem, node.name))
    return found


def test_the_list_is_complete():
    listed = {(kernel.file, kernel.function) for kernel in catalogue.kernels().values()}
    assert listed == wrappers() and len(listed) > 40
    assert SITES.keys() == catalogue.kernels().keys()


def test_every_kernel_has_a_user():
    """Each function that launches one computes an op or its gradient, or is called where an op is computed, or is read
    in a tutorial.
    """
    from minivl.ops import TABLE

    record = [ROOT / "minivl/ops/triton.py", ROOT / "minivl/ops/autograd.py"]
    for name, kernel in catalogue.kernels().items():
        if name.removesuffix("_backward") in TABLE:
            continue
        others = [*record, *(ROOT / "tutorials").glob("*.py"), *(ROOT / "kernels").glob("*.py")]
        users = [
            path.name for path in others if path.stem != kernel.file and re.search(rf"\b{name}\b", path.read_text())
        ]
        assert users or name == "quantise_rows", name
    assert "_quantise(" in inspect.getsource(inspect.unwrap(catalogue.wrapper("int8_linear")[1]))  # its kernel's user


def test_every_entry_of_the_list_is_true():
    from minivl.ops import backward, plain

    for name, kernel in catalogue.kernels().items():
        assert (ROOT / "tests" / "kernels" / kernel.test).is_file(), name
        assert catalogue.formula(name), name
        if kernel.op:
            assert hasattr(backward if kernel.op.endswith("_backward") else plain, kernel.op), name


def test_list_prints_every_kernel_and_all_about_one(capsys):
    assert main(["kernels", "list"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in catalogue.kernels())
    assert main(["kernels", "list", "rms_norm"]) == 0
    said = capsys.readouterr().out
    assert "x / sqrt(mean(x²) + eps) · w" in said and "norm_kernel" in said and "Flan-T5-XL" in said
    assert main(["kernels", "list", "atention"]) == 1
    assert "does not exist: the kernels are linear," in capsys.readouterr().err


# ---- step


def test_every_line_of_a_program_is_printed_with_its_blocks(capsys):
    assert main(["kernels", "step", "layer_norm", "--print", "--dtype", "bfloat16", "--program", "1"]) == 0
    said = capsys.readouterr().out
    assert "norm_kernel, program (1, 0, 0) of (5, 1, 1)" in said
    assert "x = load_rows(" in said and "-> x: (128, 2048) fp32, -" in said
    assert re.search(r"-> row: \(128,\) int64, 128 \.\.\. 255: 128 129", said)
    assert "-> here: (128, 2048) int1, 180224 of 262144 true" in said


def test_the_debugger_stops_in_the_kernel_and_shows_blocks(capsys, monkeypatch):
    """Also where the input ends without a word."""
    for last in ("q\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO("n\nn\nblocks\nblock row\nblock nothing\n" + last))
        assert main(["kernels", "step", "softmax", "--shape", "words"]) == 0
        said = capsys.readouterr().out
        assert "softmax_wide_kernel()" in said and said.count("(kernel)") >= 5
        assert re.search(r"X +pointer to fp16", said) and re.search(r"row +\(\d+,\) int64, 0 \.\.\.", said)
        assert "'nothing' is no block here" in said


def test_a_program_or_a_shape_that_is_not_there_is_one_line(capsys):
    wrong = (["--program", "99"], "is smaller"), (["--shape", "GPT"], "is used at"), (["--program", "x"], "--program x")
    for more, words in wrong:
        assert main(["kernels", "step", "layer_norm", "--print", *more]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


# ---- inspect, compare: Triton compiles there, so each is a process


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    done = run("inspect", "attention", "--shape", "CLIP ViT-B", "--html", page)
    assert done.returncode == 0, done.stderr
    return done.stdout, page.read_text()


def test_inspect_says_what_the_snapshot_says(inspected):
    """The same numbers as the compilation gates have, which come from another way of asking."""
    said, _ = inspected
    golden = json.loads((ROOT / "tests" / "golden" / "compiled.json").read_text())
    import triton

    if golden["triton"] != triton.__version__:
        pytest.skip("the snapshot is of another version of Triton")
    facts = next(x for x in golden["launches"] if (x["name"], x["chip"]) == ("attention, CLIP ViT-B", "sm_90"))
    assert f"{facts['registers']} of a thread" in said and f"{facts['shared']:,} bytes" in said
    assert f"at most {facts['useful']:.0%} of the tensor cores" in said
    assert "special, at least 544 clocks a trip" in said and "an estimate" in said


def test_every_machine_instruction_stands_at_one_line(inspected):
    said, _ = inspected
    total = int(re.search(r"instructions +(\d+);", said)[1])
    table = re.findall(r"^ +(\d+) +(\d+) +(?:\d+ .*|\(no line\))$", said.split("instructions by line")[1], re.MULTILINE)
    assert sum(int(count) for _, count in table) == total
    known = [line for line in said.splitlines() if "p = tl.exp2(score * c" in line]
    assert len(known) == 1 and int(known[0].split()[0]) >= 128  # a 2^x and a multiply-add for each of 64 scores


def test_the_page_needs_nothing_else(inspected):
    _, page = inspected
    assert not re.search(r"https?://|<link|src=|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page and "viewport" in page
    for form in ("TTIR", "PTX", "SASS"):
        assert f">{form}</button>" in page
    assert "tt.dot" in page and "ld.global" in page or "cp.async" in page
    assert re.search(r"<div data-l=\d+ ?(tabindex=0)?><u>\d+</u>", page) and "HGMMA" in page
    assert page.count("<div") == page.count("</div>")


def test_a_stranger_s_wrapper_is_inspected():
    done = run("inspect", f"{STRANGER}:attention", "--as", "attention", "--shape", "CLIP ViT-B", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["launches"][0]
    assert facts["kernel"] == "fwd" and facts["products"] and facts["constants"]["BLOCK_N"] == 64


def test_a_bare_kernel_is_compiled_with_the_arguments_given(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef twice(X, Y, n, BLOCK: tl.constexpr):\n"
        "    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        "    tl.store(Y + i, 2 * tl.load(X + i, i < n), i < n)\n"
    )
    given = [word for pair in ("X=*fp16", "Y=*fp16", "n=4096", "BLOCK=1024") for word in ("--arg", pair)]
    done = run("inspect", f"{tmp_path / 'mine.py'}:twice", *given, "--target", "gfx942")
    assert done.returncode == 0, done.stderr
    assert "twice" in done.stdout and "loads 1 x 8 bytes" in done.stdout and "BLOCK=1024" in done.stdout


def test_two_chips_are_compared():
    done = run("compare", "layer_norm@sm_90", "layer_norm@sm_80@CLIP ViT-B")
    assert done.returncode == 0, done.stderr
    assert "left   layer_norm, ViT-g" in done.stdout and "right  layer_norm, CLIP ViT-B" in done.stdout
    assert re.search(r"^\* constants +C=1408.*\n +C=768", done.stdout, re.MULTILINE)


def test_without_a_gpu_nothing_is_timed(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["kernels", "inspect", "gelu", "--time"]) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "needs a GPU" in said


def test_inspecting_in_a_process_that_interprets_is_refused_in_a_line(monkeypatch):
    from minivl.tools.workbench import command

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InputError, match="interprets kernels in this process"):
        command._to_compile()


# ---- in a model


def test_a_whole_model_runs_with_the_function_inside(capsys):
    plain = ROOT / "tests" / "helpers" / "strangers" / "plain.py"
    status = main(
        ["kernels", "check", f"{plain}:norm", "--as", "layer_norm", "--seconds", "0", "--json", "--in-model", "demo"]
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0 and found["in_model"]["same"] and "red" in found["in_model"]["answer"]
    assert found["in_model"]["moved"] < 1e-3
