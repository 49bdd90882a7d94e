"""`minivl kernels check`, the judge: what is right passes, and every planted mistake is named on a small case."""

import json
import re
from pathlib import Path

import pytest

from minivl.cli import main
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops

pytest.importorskip("triton")
pytest.importorskip("torch")
from minivl.tools.workbench.candidate import Candidate
from minivl.tools.workbench.cases import OPS, cases, contract_of
from minivl.tools.workbench.check import examine

STRANGERS = Path(__file__).parents[1] / "helpers" / "strangers"
KERNEL = STRANGERS / "triton_attention.py"
PLAIN = STRANGERS / "plain.py"


def check(capsys, target, op, *more):
    """The exit status, and what --json says."""
    status = main(["kernels", "check", str(target), "--as", op, "--json", "--seconds", "0", *more])
    return status, json.loads(capsys.readouterr().out)


def named(found):
    return " | ".join(f"{fault['finding']} / {fault['hint']} / {fault['case']}" for fault in found["faults"])


# ---- what is right


@pytest.mark.parametrize("name, op", [("by_torch", "attention"), ("by_einsum", "attention"), ("widened", "attention"),
                                      ("norm", "layer_norm"), ("all_gradients", "attention_backward")])  # fmt: skip
def test_a_stranger_s_right_function_passes(name, op, capsys, monkeypatch):
    """The first two rounds of the cases."""
    monkeypatch.setattr("minivl.tools.workbench.check.cases", lambda op: cases(op)[:60])
    status, found = check(capsys, f"{PLAIN}:{name}", op)
    assert status == 0 and found["right"], named(found)
    assert found["takes"] == ("numpy" if name == "by_einsum" else "torch")
    assert found["not_tried"] == 0 and not found["does_not_take"]


@pytest.mark.parametrize("op", OPS)
def test_the_reference_passes_as_a_stranger(op):
    """Every case of every op can be built, and asks nothing that a right function would not do."""
    contract, backward = contract_of(op)
    function = getattr(numpy_backward, op) if backward else getattr(numpy_ops.OPS, op)
    report = examine(Candidate(op, function, numpy_ops, contract.keywords, {}), op, seconds=0)
    assert report.right and not report.lacking and not report.refused, report.faults
    assert report.candidate.takes == "numpy" and len({case.aspect for case, _ in report.tried}) > 1


def test_a_stranger_s_right_kernel_passes(capsys, monkeypatch):
    """The first round of the cases, in which every aspect and every dtype comes up."""
    monkeypatch.setattr(
        "minivl.tools.workbench.check.cases", lambda op: [case for case in cases(op)[:30] if case.aspect != "long sums"]
    )
    status, found = check(capsys, f"{KERNEL}:attention", "attention")
    assert status == 0 and found["right"] and found["cases"] > 27, named(found)


def test_what_it_does_not_take_is_said(capsys):
    status, found = check(capsys, f"{PLAIN}:without_mask", "attention")
    assert status == 0 and found["does_not_take"] == ["mask", "bias"]
    assert "is_causal is taken for causal" in found["notes"]
    assert check(capsys, f"{PLAIN}:without_mask", "attention", "--strict", "--first")[0] == 1


# ---- what is wrong: mistakes in a kernel, and the words that the report must have

PLANTS = {
    "log-sum-exp in base 2": ("top + tl.log(den)", "(top + tl.log(den)) * 1.4426950408889634", "base 2"),
    "log-sum-exp without its maximum": ("top + tl.log(den))", "tl.log(den))", "maximum is left out"),
    "a tail one too long": ("inside = (rn < n_k)", "inside = (rn < n_k + 1)", "past its end"),
    "a tail one too short": ("seen = pair\n", "seen = pair & (rn < n_k - 1)[None, :]\n", "last key is left out"),
    "the mask ignored in one row": (
        "        s = tl.where(seen", "        seen = seen | (pair & (rm == 3)[:, None])\n        s = tl.where(seen",
        "mask is ignored"),
    "k's strides used for v": (
        "V + z * svb + y * svh + rn[:, None] * svn + rd[None, :] * svd",
        "V + z * skb + y * skh + rn[:, None] * skn + rd[None, :] * skd", "strides of k"),
    "causal shifted by one": ("rm[:, None] + n_k - n_q)", "rm[:, None] + n_k - n_q + 1)", "diagonal is shifted"),
    "causal lined up with the first": ("rm[:, None] + n_k - n_q)", "rm[:, None])", "first query with the first key"),
    "a sum in 16 bits": (
        "acc = acc * fix[:, None] + tl.dot(p.to(v.dtype), v, input_precision=\"ieee\")",
        "acc = (acc * fix[:, None] + tl.dot(p.to(v.dtype), v, input_precision=\"ieee\")).to(v.dtype).to(tl.float32)",
        "accumulate in float32"),
    "the bias scaled": (".to(tl.float32)\n        seen", ".to(tl.float32) * sm_scale\n        seen", "bias is scaled"),
    "two programs at one place": ("tl.program_id(1) * n_q + rm, lse, rm < n_q", "rm, lse, rm < n_q", "race"),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_mistake_is_named(plant, capsys, tmp_path):
    old, new, words = PLANTS[plant]
    source = KERNEL.read_text()
    assert source.count(old) == 1
    broken = tmp_path / "mine.py"
    broken.write_text(source.replace(old, new))
    status, found = check(capsys, f"{broken}:attention", "attention", "--first")
    assert status == 1 and not found["right"]
    assert words in named(found), named(found)
    assert max(map(int, re.findall(r"\d+", found["faults"][0]["case"].split(";")[0]))) <= 130 or "16 bits" in plant


PLAIN_PLANTS = {
    "norm_of_a_copy": ("layer_norm", "x is read as if it were contiguous"),
    "norm_unbiased": ("layer_norm", "divided by C - 1"),
    "norm_in_place": ("layer_norm", "changed its argument x"),
    "linear_in_16_bits": ("linear", "in float32"),
    "bias_without_gradient": ("attention_backward", "gradient of the bias is missing"),
}


@pytest.mark.parametrize("name", PLAIN_PLANTS)
def test_a_mistake_without_a_kernel_is_named(name, capsys):
    op, words = PLAIN_PLANTS[name]
    status, found = check(capsys, f"{PLAIN}:{name}", op, "--first")
    assert status == 1 and words in named(found), named(found)


@pytest.mark.parametrize("target, op, words", [
    (f"{PLAIN}:nothing", "attention", "has no 'nothing'"),
    ("nowhere.py:attention", "attention", "no such Python file"),
    (f"{PLAIN}:norm", "layernorm", "the ops are"),
    (f"{PLAIN}:not_a_function_of_arrays", "attention", "no luck today"),
    (f"{KERNEL}:fwd", "attention", "bare kernel"),
])  # fmt: skip
def test_what_cannot_be_checked_is_one_line(target, op, words, capsys):
    assert main(["kernels", "check", target, "--as", op]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
