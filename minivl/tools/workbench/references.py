"""The right answer to a case: exactly, in float64; and as torch gives it in the case's own dtype, to know how far off
an honest answer may be.

The exact one is the formula of minivl/ops/plain.py (ops/backward.py), the other is ops/torch.py (its autograd).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...ops import backward, plain
from ...ops import torch as torch_ops
from .cases import Contract


def split(contract: Contract, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, those that the op takes by name apart."""
    return (
        [value for name, value in given.items() if name not in contract.keywords],
        {name: value for name, value in given.items() if name in contract.keywords},
    )


def double(value: Any) -> Any:
    """float64 in NumPy of a tensor or array of floats; everything else as it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.double().numpy() if value.is_floating_point() else value.numpy()
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def exact(contract: Contract, given: dict[str, Any]) -> list[Any]:
    """In float64: the result; of a backward op (there is a dout) every gradient, None where an argument is None."""
    return exact64(contract, {name: double(value) for name, value in given.items()})


def exact64(contract: Contract, given: dict[str, Any]) -> list[Any]:
    """The same of arguments that are float64 already."""
    positional, named = split(contract, given)
    with np.errstate(all="ignore"):
        if "dout" not in given:
            return [np.asarray(getattr(plain.OPS, contract.op)(*positional, **named))]
        found = getattr(backward, f"{contract.op}_backward")(*positional, **named)
    return list(found) if isinstance(found, tuple) else [found]


def in_torch(contract: Contract, given: dict[str, Any]) -> list[Any]:
    """What torch makes of it in the same dtype."""
    op = getattr(torch_ops.OPS, contract.op)
    if "dout" not in given:
        positional, named = split(contract, given)
        return [op(*positional, **named)]
    leaves = {name: value.detach().clone().requires_grad_() if is_float(value) else value
              for name, value in given.items() if name != "dout"}  # fmt: skip
    positional, named = split(contract, leaves)
    wanted = gradients(leaves)
    traced = [leaves[name] for name in wanted if leaves[name] is not None]
    found = iter(torch.autograd.grad(op(*positional, **named), traced, given["dout"]))
    return [None if leaves[name] is None else next(found) for name in wanted]


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def gradients(given: dict[str, Any]) -> list[str]:
    """The arguments that a backward op gives a gradient of, in its order: the float arrays, and those that may be one.

    Attention has a place for its bias even where there is none.
    """
    names = [name for name, value in given.items() if name != "dout" and (is_float(value) or name == "b")]
    if "q" in given and "bias" not in given:
        given["bias"] = None
        names.append("bias")
    return names


def result_names(contract: Contract, given: dict[str, Any]) -> list[str]:
    """What to call the results."""
    return [f"d{name}" for name in gradients(dict(given))] if "dout" in given else ["the result"]


def further(name: str, given: dict[str, Any]) -> np.ndarray:
    """In float64, what a wrapper gives besides the result when asked: lse, mean, rstd, sum."""
    args = {key: double(value) for key, value in given.items()}
    if name == "lse":
        return _log_sum_exp(**args)
    x = args["x"] + args["y"] if "y" in args else args["x"]
    if name == "sum":
        return x
    if name == "mean":
        return x.mean(-1)
    spread = (x * x).mean(-1) if "b" not in args else x.var(-1)
    return 1 / np.sqrt(spread + args["eps"])


def scores(q, k, mask=None, bias=None, causal=False, scale=None, **_):
    """(B, H, T, S) in float64, -inf where a query does not see a key."""
    table = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    T, S = table.shape[-2:]
    table = table if bias is None else table + bias
    if mask is not None:
        table = np.where(mask, table, -np.inf)
    return np.where(np.arange(S) <= np.arange(T)[:, None] + S - T, table, -np.inf) if causal else table


def _log_sum_exp(**args: Any) -> np.ndarray:
    """(B, H, T); -inf where a query sees no key."""
    table = scores(**args)
    top = table.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(table - top).sum(-1, keepdims=True)) + top)[..., 0]
