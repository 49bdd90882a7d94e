"""One row per op: what it is given, what it gives, and where else it is told.

Every model is made of the ops in this table. A record (plain.py, numpy.py, torch.py, triton.py) implements all of them.
What follows from a row is derived from it and written nowhere else: the fields of a record, the names of arguments in a
trace, the arrays that `minivl kernels check` draws, the list of kernels, the autograd functions around the Triton
kernels, and which suspects `minivl diff` tries.

To add an op, add its row here, its formula to plain.py, and the same name to numpy.py and torch.py; CONTRIBUTING.md has
the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

Array = Any  # numpy.ndarray or torch.Tensor: what a record's functions take and give
Function = Callable[..., Array]


class Argument(NamedTuple):
    """One argument of an op, as it stands in a row: `b:F?` is an array (F,) that may be None."""

    name: str
    axes: str  # one letter each; "" for an argument that is no array
    optional: bool  # whether it may be None or left out
    integer: bool  # whole numbers or truth values: nothing is differentiated with respect to it
    by_name: bool  # stands behind the * and is given by name


class Op(NamedTuple):
    """A row: `arguments -> result`, the op's kind, and the file in kernels/ that computes it.

        x:BTC w:FC b:F? * act -> BTF

    name:AXES is an array, a bare name is not. ? may be None or left out, # holds whole numbers or truth values, and
    what stands behind * is given by name. "BTC" stands for any number of axes before the last.

    B batch, T query tokens, S key tokens, C width, F another width, H heads, D head width, N patches, V vocabulary,
    P a patch's side, Y and X a picture's
    """

    signature: str
    kind: str  # product, norm, attention, activation, lookup or loss
    kernel: str  # "" while nobody has written one: backend "triton" then refuses the op
    gradient: bool = True  # whether backward.py and the kernel's file know its gradient

    @property
    def arguments(self) -> list[Argument]:
        """In the op's order."""
        found, by_name = [], False
        for word in self.signature.split(" ->")[0].split():
            by_name = by_name or word == "*"
            name, _, axes = word.rstrip("?#").partition(":")
            if word != "*":
                found.append(Argument(name, axes, "?" in word, "#" in word, by_name))
        return found

    @property
    def result(self) -> str:
        """The axes of what it gives; "" for a single number."""
        return self.signature.split("->")[1].strip()

    @property
    def names(self) -> list[str]:
        """The arguments that may be given by position, in order."""
        return [argument.name for argument in self.arguments if not argument.by_name]

    @property
    def floats(self) -> dict[str, str]:
        """The arrays that can have a gradient, in order, and their axes."""
        return {one.name: one.axes for one in self.arguments if one.axes and not one.integer}


Q_K = "q:BHTD k:BHSD"
SCORES = "* mask:BHTS?# bias:BHTS? causal? scale?"


class Ops(NamedTuple):
    """One implementation of every op. The formula of each is in plain.py.

    linear_act, gated_linear and add_layer_norm are ops of their own because one kernel computes each in one pass: to
    replace linear or layer_norm in a whole model, replace these as well.
    """

    name: str

    linear: Annotated[Function, Op("x:BTC w:FC b:F? -> BTF", "product", "linear")]
    linear_act: Annotated[Function, Op("x:BTC w:FC b:F? * act -> BTF", "product", "linear")]
    gated_linear: Annotated[Function, Op("x:BTC gate:FC up:FC * act -> BTF", "product", "linear")]
    int8_linear: Annotated[Function, Op("x:BTC w:FC# scale:F b:F? -> BTF", "product", "int8", gradient=False)]
    weight_only_linear: Annotated[
        Function, Op("x:BTC w:FC# scale:F b:F? -> BTF", "product", "weight_only", gradient=False)
    ]

    layer_norm: Annotated[Function, Op("x:BTC w:C b:C eps -> BTC", "norm", "layer_norm")]
    add_layer_norm: Annotated[Function, Op("x:BTC y:BTC w:C b:C eps -> BTC", "norm", "layer_norm")]
    rms_norm: Annotated[Function, Op("x:BTC w:C eps -> BTC", "norm", "layer_norm")]

    attention: Annotated[Function, Op(Q_K + " v:BHSD " + SCORES + " -> BHTD", "attention", "attention")]
    attention_weights: Annotated[Function, Op(Q_K + " " + SCORES + " -> BHTS", "attention", "attention_naive")]
    softmax: Annotated[Function, Op("x:BTC -> BTC", "attention", "softmax")]

    gelu: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]
    gelu_tanh: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]
    quick_gelu: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]
    relu: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]
    silu: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]
    tanh: Annotated[Function, Op("x:BTC -> BTC", "activation", "activations")]

    embed: Annotated[Function, Op("ids:BT# table:VC -> BTC", "lookup", "embeddings")]
    patch_embed: Annotated[Function, Op("pixels:B3YX w:C3PP b:C? -> BNC", "product", "patches")]
    cross_entropy: Annotated[Function, Op("logits:BTV targets:BT# * ignore_index? ->", "loss", "cross_entropy")]

    # what carries arrays between the ops
    concat: Function  # (arrays, axis) -> array
    broadcast_to: Function  # (x, shape) -> array, without copying
    from_numpy: Function  # ndarray -> this record's array
    to_numpy: Callable[..., Any]  # this record's array -> ndarray


TABLE: dict[str, Op] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Ops, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
ACTS = tuple(name for name, op in TABLE.items() if op.kind == "activation")


def record(name: str, functions: Mapping[str, Any]) -> Ops:
    """The record of the functions that bear the ops' names: of a module's globals(), for example."""
    return Ops(name, **{field: functions[field] for field in Ops._fields[1:]})
