"""What kernels there are, as one plain table; the rest is read from their own docstrings, without importing them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import InputError


@dataclass(frozen=True)
class Kernel:
    """One wrapper, the thing that is called."""

    file: str  # in kernels/
    ops: tuple[str, ...]  # of the record, that it computes; none: something that no record has
    used: str  # where in the models
    test: str  # in tests/
    formula: str = ""  # where its docstring does not begin with one


_NORMS, _ROWS, _LINEAR = "test_kernel_layer_norm.py", "test_kernel_rows.py", "test_kernel_linear.py"
_BACK_ROWS, _BACK_PRODUCTS = "test_kernel_backward_rows.py", "test_kernel_backward_products.py"
_ACTS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")
_LOSS = "dlogits = dloss (softmax(logits) - 1 at the target) / number of targets"
KERNELS = {
    "attention": Kernel("attention", ("attention",), "every transformer: eyes, Q-Former, OPT, T5, RoBERTa, bridges",
                        "test_kernel_attention.py"),
    "attention_naive": Kernel("attention_naive", ("attention",), "nowhere: the one to read first",
                              "test_kernel_attention.py"),
    "attention_weights": Kernel("attention_naive", ("attention_weights",), "output_attentions=True",
                                "test_kernel_attention.py"),
    "relative_line": Kernel("attention", (), "T5's bias, one line for each head", "test_kernel_attention.py",
                            "line[h, distance] = table[bucket(distance), h]"),
    "decode_attention": Kernel("decode_attention", (), "OPT and T5 while they write, one token at a time",
                               "test_kernel_decode_attention.py"),
    "layer_norm": Kernel("layer_norm", ("layer_norm",), "before or after every block but T5's", _NORMS),
    "add_layer_norm": Kernel("layer_norm", ("add_layer_norm",), "Q-Former, RoBERTa and the bridges, after each step",
                             _NORMS, "y = layer_norm(x + z)"),
    "rms_norm": Kernel("layer_norm", ("rms_norm",), "T5", _NORMS, "y = x / √(mean(x²) + eps) · w"),
    "layer_norm_naive": Kernel("layer_norm_naive", ("layer_norm",), "nowhere: the one to read first", _NORMS),
    "linear": Kernel("linear", ("linear", "linear_act"), "every projection and MLP", _LINEAR),
    "gated_linear": Kernel("linear", (), "the first half of Flan-T5's MLP", _LINEAR),
    "gelu": Kernel("activations", ("gelu",), "the eye, Q-Former, RoBERTa", _ROWS),
    "gelu_tanh": Kernel("activations", ("gelu_tanh",), "Flan-T5", _ROWS),
    "quick_gelu": Kernel("activations", ("quick_gelu",), "CLIP's eye", _ROWS),
    "relu": Kernel("activations", ("relu",), "OPT", _ROWS),
    "silu": Kernel("activations", ("silu",), "where a configuration asks for it", _ROWS),
    "tanh": Kernel("activations", ("tanh",), "BridgeTower's poolers", _ROWS),
    "softmax": Kernel("softmax_rows", ("softmax",), "scores of words while writing", _ROWS),
    "cross_entropy": Kernel("cross_entropy", ("cross_entropy",), "every loss", _ROWS),
    "embed": Kernel("embeddings", ("embed",), "words of OPT, T5, RoBERTa", "test_kernel_embeddings.py"),
    "embed_text": Kernel("embeddings", (), "the front of RoBERTa", "test_kernel_embeddings.py"),
    "patch_embed": Kernel("patches", ("patch_embed",), "the front of both eyes", _LINEAR),
    "quantise_rows": Kernel("int8", (), "load_in_8bit, the input of every large layer", "test_kernel_int8.py"),
    "int8_linear": Kernel("int8", ("linear",), "load_in_8bit, many tokens", "test_kernel_int8.py",
                          "y = (q · a) (p · s)ᵀ / 127² + outlier columns in float16 + b"),
    "matvec": Kernel("matvec", ("linear",), "int8 and 16-bit weights, one to eight tokens", "test_kernel_matvec.py"),
    "attention_backward": Kernel("attention_backward", ("attention_backward",), "training",
                                 "test_kernel_attention_backward.py", "dv = pᵀ dout; ds = p (dout vᵀ - δ); dq = scale"
                                 " · ds k; dk = scale · dsᵀ q; dbias = Σ ds"),
    **{f"{op}_backward": Kernel("layer_norm_backward", (f"{op}_backward",), "training", _BACK_ROWS, formula)
       for op, formula in (("layer_norm", "dx = ρ (g - mean(g) - n mean(g n)), g = dout · w; dw = Σ dout n"),
                           ("add_layer_norm", "dx = dz = that of layer_norm(x + z)"),
                           ("rms_norm", "dx = ρ (g - n mean(g n)), g = dout · w; dw = Σ dout n"))},
    **{f"{op}_backward": Kernel("linear_backward", (f"{op}_backward",), "training", _BACK_PRODUCTS, formula)
       for op, formula in (("linear", "dx = dout w; dw = doutᵀ x; db = Σ dout"),
                           ("linear_act", "dz = dout · act'(z); dx = dz w; dw = dzᵀ x; db = Σ dz"))},
    **{f"{act}_backward": Kernel("activations_backward", (f"{act}_backward",), "training", _BACK_ROWS)
       for act in _ACTS},
    "softmax_backward": Kernel("softmax_backward", ("softmax_backward",), "training", _BACK_ROWS,
                               "dx = y (dout - Σ y dout)"),
    "cross_entropy_backward": Kernel("cross_entropy_backward", ("cross_entropy_backward",), "training", _BACK_ROWS,
                                     _LOSS),
    "cross_entropy_backward_in_place": Kernel("cross_entropy_backward", (), "training, without another table of logits",
                                              _BACK_ROWS, _LOSS),
    "embed_backward": Kernel("embeddings_backward", ("embed_backward",), "training", _BACK_ROWS),
    "patch_embed_backward": Kernel("patches_backward", ("patch_embed_backward",), "training", _BACK_PRODUCTS,
                                   "dw = doutᵀ patches; dpixels = dout w, put back in place; db = Σ dout"),
    "column_sums": Kernel("column_sums", (), "training, the gradients of biases and of norms' w and b", _BACK_ROWS),
}  # fmt: skip
_FUNCTIONS = {"attention_naive": "attention"}  # in their file


def folder() -> Path:
    """Where the kernels' files are."""
    from ... import kernels

    return Path(kernels.__path__[0])


def known(name: str) -> Kernel:
    """Raises InputError for a name that is not in the table."""
    if name not in KERNELS:
        raise InputError(f"kernel {name!r} does not exist: the kernels are {', '.join(KERNELS)}")
    return KERNELS[name]


def wrapper(name: str) -> tuple[Any, Any] | None:
    """The module and the function of a kernel of the table, or None for a name that is not in it."""
    if name not in KERNELS:
        return None
    module = import_module(f"minivl.kernels.{KERNELS[name].file}")
    return module, getattr(module, _FUNCTIONS.get(name, name))


def _tree(name: str) -> ast.Module:
    return ast.parse((folder() / f"{KERNELS[name].file}.py").read_text(encoding="utf-8"))


def formula(name: str) -> str:
    """The one in the table, or else the first in the wrapper's docstring, or else its own in the file's header."""
    if KERNELS[name].formula:
        return KERNELS[name].formula
    tree, wanted = _tree(name), _FUNCTIONS.get(name, name)
    own = next((ast.get_docstring(node) or "" for node in tree.body
                if isinstance(node, ast.FunctionDef) and node.name == wanted), "")  # fmt: skip
    header = [line.strip() for line in (ast.get_docstring(tree) or "").split("\n") if line.startswith("    ")]
    label = wanted.removesuffix("_backward")
    labelled = [line.removeprefix(label) for line in header if line.split(" ")[0] == label]
    inside = [line.strip() for line in own.split("\n")[1:] if line.startswith("    ")]
    found = (inside or labelled or header)[0].strip()
    return re.split(r"\s{4,}", found)[0]  # what stands further right explains it


def kernels_of(file: str) -> list[str]:
    """The names of the functions in a file of kernels/ that a wrapper launches: @triton.jit, called ..._kernel."""
    tree = ast.parse((folder() / f"{file}.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)
            and node.name.endswith("_kernel") and node.decorator_list]  # fmt: skip


def table() -> str:
    """Everything in a few columns."""
    rows = [("kernel", "formula", "reference", "where the models use it")]
    for name, kernel in KERNELS.items():
        rows.append((name, _cut(formula(name), 60), ", ".join(kernel.ops) or "-", kernel.used))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join([lines[0].rstrip(), *lines[1:], "", "minivl kernels list KERNEL says more about one.", ""])


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."


def all_about(name: str) -> str:
    """The same of one kernel, and its shapes."""
    from .model_shapes import SITES

    kernel = known(name)
    lines = [
        name,
        f"  formula     {' '.join(formula(name).split())}",
        f"  file        kernels/{kernel.file}.py ({', '.join(kernels_of(kernel.file))})",
        f"  reference   {', '.join(f'minivl.ops.numpy.{op}' for op in kernel.ops) or 'none in the record'}",
        f"  used        {kernel.used}",
        f"  test        tests/kernels/{kernel.test}",
        "  shapes      (--shape) the first is taken unless another is named",
        *(f"              {site:20} {use.about}" for site, use in SITES.get(name, {}).items()),
    ]
    return "\n".join(lines) + "\n"
