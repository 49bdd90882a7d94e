"""The gradients of the record "triton": a torch.autograd.Function for each op, derived from its row in table.py.

A Function keeps what its op was given, and its backward calls `<op>_backward` of the kernel's own file, whose formula
is in backward.py. Nothing that can be computed again from the arguments is kept: no statistics of a norm, no hidden
layer before its activation, no attention weights but one log-sum-exp for each query. Gradients that nobody asked for
are not computed. Gradients of gradients are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch.autograd import Function

from ..errors import OpsError
from . import TABLE

KEPT = {"attention": {"with_lse": ("out", "lse")}}  # what more an op's kernel gives, and its backward is given back


def differentiable(name: str) -> Callable[..., Any]:
    """The op as a function that backward() can go through. Raises OpsError, when called, for one without a gradient."""
    if not TABLE[name].gradient or name == "attention_weights":
        return _refused(name)
    file = TABLE[name].kernel
    kernel = inspect.unwrap(getattr(import_module(f"minivl.kernels.{file}"), name))
    back_file = "attention_backward" if name == "attention" else file
    backward = inspect.unwrap(getattr(import_module(f"minivl.kernels.{back_file}"), f"{name}_backward"))
    signature, floats = inspect.signature(backward), list(TABLE[name].floats)
    own = [parameter for parameter in signature.parameters.values() if parameter.name in _own(name)]
    call = signature.replace(parameters=own)  # the op's own arguments, as its backward names them

    def run(*args: Any, **named: Any) -> Any:
        given = call.bind(*args, **named)
        given.apply_defaults()
        arrays = [given.arguments[each] for each in floats]
        return _Step.apply(name, kernel, backward, given, *arrays)

    return run


def _own(name: str) -> list[str]:
    return [argument.name for argument in TABLE[name].arguments]


def _refused(name: str) -> Callable[..., Any]:
    def run(*args: Any, **named: Any) -> Any:
        raise OpsError(
            f"{name}: an argument requires a gradient, and this kernel computes none: call it under torch.no_grad(), or"
            " load with backend='torch'"
        )

    return run


class _Step(Function):
    """One call of an op.   given: its arguments; arrays: those of them that can have a gradient, in order"""

    @staticmethod
    def forward(ctx: Any, name: str, kernel: Any, backward: Any, given: Any, *arrays: Any) -> Any:
        switches = KEPT.get(name, {})
        result = kernel(*given.args, **given.kwargs, **dict.fromkeys(switches, True))
        more = dict(zip([each for kept in switches.values() for each in kept], result, strict=True)) if switches else {}
        tensors = {key: value for key, value in given.arguments.items() if isinstance(value, torch.Tensor)} | more
        ctx.save_for_backward(*tensors.values())
        ctx.kept, ctx.more, ctx.given, ctx.run = list(tensors), list(more), given, backward
        for key in tensors.keys() & given.arguments.keys():
            given.arguments[key] = None  # saved above, where autograd watches whether anything writes into them
        return more["out"] if more else result

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:  # type: ignore[override]
        _refuse_second_order()
        tensors = dict(zip(ctx.kept, ctx.saved_tensors, strict=True))
        given, more = ctx.given, {key: tensors.pop(key) for key in ctx.more}
        given.arguments.update(tensors)
        wanted = ctx.needs_input_grad[4:]
        if "wanted" in inspect.signature(ctx.run).parameters:
            more["wanted"] = wanted
        grads = ctx.run(dout, *given.args, **given.kwargs, **more)
        grads = grads if isinstance(grads, tuple) else (grads,)
        given.arguments.update(dict.fromkeys(tensors))
        return None, None, None, None, *(g if want else None for g, want in zip(grads, wanted, strict=True))


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise OpsError(
            "the kernels compute no gradients of gradients: leave out create_graph=True, or load with backend='torch'"
        )


def cross_entropy_in_place(logits: Any, targets: Any, ignore_index: int = -100) -> Any:
    """`cross_entropy` whose backward WRITES THE GRADIENT OVER THE LOGITS, the largest array of a step by far.

    For a training loop that does not look at the logits again: ops._replace(cross_entropy=cross_entropy_in_place).
    Raises OpsError for logits that are a weight and no result: they would be lost.
    """
    if logits.is_leaf and logits.requires_grad:
        raise OpsError("cross_entropy_in_place: the logits are a leaf, whose values backward() would overwrite")
    return _InPlace.apply(logits, targets, ignore_index)


class _InPlace(Function):
    @staticmethod
    def forward(ctx: Any, logits: Any, targets: Any, ignore_index: int) -> Any:
        from ..kernels.cross_entropy import cross_entropy

        ctx.save_for_backward(logits, targets)
        ctx.ignore_index = ignore_index
        return cross_entropy(logits, targets, ignore_index)

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:  # type: ignore[override]
        _refuse_second_order()
        from ..kernels.cross_entropy import cross_entropy_backward_in_place

        logits, targets = ctx.saved_tensors
        dlogits = cross_entropy_backward_in_place(dout, logits.detach(), targets, ctx.ignore_index)
        torch.autograd.graph.increment_version(logits)  # torch refuses whoever still counts on the logits
        return dlogits, None, None
