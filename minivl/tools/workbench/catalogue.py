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
    formula: str = ""  # where its docstring does not begin with one

    @property
    def test(self) -> str:
        """The file in tests/kernels that tests it; a naive version is tested beside the one that ships."""
        return f"test_kernel_{self.file.removesuffix('_naive')}.py"


_ACTS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")
_LOSS = "dlogits = dloss (softmax(logits) - 1 at the target) / number of targets"
KERNELS = {
    "attention": Kernel("attention", ("attention",), "every transformer: eyes, Q-Former, OPT, T5, RoBERTa, bridges"),
    "attention_naive": Kernel("attention_naive", ("attention",), "nowhere: the one to read first"),
    "attention_weights": Kernel("attention_naive", ("attention_weights",), "output_attentions=True"),
    "decode_attention": Kernel("decode_attention", (), "OPT and T5 while they write, one token at a time"),
    "layer_norm": Kernel("layer_norm", ("layer_norm",), "before or after every block but T5's",
                         "y = (x - mean) / √(var + eps) · w + b"),
    "add_layer_norm": Kernel("layer_norm", ("add_layer_norm",), "Q-Former, RoBERTa and the bridges, after each step",
                             "y = layer_norm(x + z)"),
    "rms_norm": Kernel("layer_norm", ("rms_norm",), "T5", "y = x / √(mean(x²) + eps) · w"),
    "layer_norm_naive": Kernel("layer_norm_naive", ("layer_norm",), "nowhere: the one to read first"),
    "linear": Kernel("linear", ("linear", "linear_act"), "every projection and MLP", "y = act(x wᵀ + b)"),
    "gated_linear": Kernel("linear", (), "the first half of Flan-T5's MLP"),
    "gelu": Kernel("activations", ("gelu",), "the eye, Q-Former, RoBERTa"),
    "gelu_tanh": Kernel("activations", ("gelu_tanh",), "Flan-T5"),
    "quick_gelu": Kernel("activations", ("quick_gelu",), "CLIP's eye"),
    "relu": Kernel("activations", ("relu",), "OPT"),
    "silu": Kernel("activations", ("silu",), "where a configuration asks for it"),
    "tanh": Kernel("activations", ("tanh",), "BridgeTower's poolers"),
    "softmax": Kernel("softmax", ("softmax",), "scores of words while writing"),
    "cross_entropy": Kernel("cross_entropy", ("cross_entropy",), "every loss"),
    "embed": Kernel("embeddings", ("embed",), "words of OPT, T5, RoBERTa"),
    "patch_embed": Kernel("patches", ("patch_embed",), "the front of both eyes"),
    "quantise_rows": Kernel("int8", (), "load_in_8bit, the input of every large layer"),
    "int8_linear": Kernel("int8", ("linear",), "load_in_8bit, many tokens",
                          "y = (q · a) (p · s)ᵀ / 127² + outlier columns in float16 + b"),
    "matvec": Kernel("matvec", ("linear",), "int8 and 16-bit weights, one to eight tokens"),
    "attention_backward": Kernel("attention_backward", ("attention_backward",), "training",
                                 "dv = pᵀ dout; ds = p (dout vᵀ - δ); dq = scale"
                                 " · ds k; dk = scale · dsᵀ q; dbias = Σ ds"),
    **{f"{op}_backward": Kernel("layer_norm", (f"{op}_backward",), "training", formula)
       for op, formula in (("layer_norm", "dx = ρ (g - mean(g) - n mean(g n)), g = dout · w; dw = Σ dout n"),
                           ("add_layer_norm", "dx = dz = that of layer_norm(x + z)"),
                           ("rms_norm", "dx = ρ (g - n mean(g n)), g = dout · w; dw = Σ dout n"))},
    **{f"{op}_backward": Kernel("linear", (f"{op}_backward",), "training", formula)
       for op, formula in (("linear", "dx = dout w; dw = doutᵀ x; db = Σ dout"),
                           ("linear_act", "dz = dout · act'(z); dx = dz w; dw = dzᵀ x; db = Σ dz"))},
    **{f"{act}_backward": Kernel("activations", (f"{act}_backward",), "training") for act in _ACTS},
    "softmax_backward": Kernel("softmax", ("softmax_backward",), "training", "dx = y (dout - Σ y dout)"),
    "cross_entropy_backward": Kernel("cross_entropy", ("cross_entropy_backward",), "training", _LOSS),
    "cross_entropy_backward_in_place": Kernel("cross_entropy", (), "training, without another table of logits", _LOSS),
    "embed_backward": Kernel("embeddings", ("embed_backward",), "training",
                             "dtable[v] = Σ dout[t] over the tokens t with ids[t] = v"),
    "patch_embed_backward": Kernel("patches", ("patch_embed_backward",), "training",
                                   "dw = doutᵀ patches; dpixels = dout w, put back in place; db = Σ dout"),
    "column_sums": Kernel("column_sums", (), "training, the gradients of biases and of norms' w and b"),
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
    found = re.split(r"\s{4,}", (inside or labelled or header)[0].strip())
    return found[1 if name.endswith("_backward") else 0]  # a table has the derivative in its second column


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


def _reference(op: str) -> str:
    return f"minivl.ops.{'backward' if op.endswith('_backward') else 'numpy'}.{op}"


def all_about(name: str) -> str:
    """The same of one kernel, and its shapes."""
    from .model_shapes import SITES

    kernel = known(name)
    lines = [
        name,
        f"  formula     {' '.join(formula(name).split())}",
        f"  file        kernels/{kernel.file}.py ({', '.join(kernels_of(kernel.file))})",
        f"  reference   {', '.join(map(_reference, kernel.ops)) or 'none in the record'}",
        f"  used        {kernel.used}",
        f"  test        tests/kernels/{kernel.test}",
        "  shapes      (--shape) the first is taken unless another is named",
        *(f"              {site:20} {use.about}" for site, use in SITES.get(name, {}).items()),
    ]
    return "\n".join(lines) + "\n"
