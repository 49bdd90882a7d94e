"""What the tests of everything that goes backward share: cases for every op, and what their gradients must be."""

import inspect
from typing import NamedTuple

import numpy as np
import torch

import minivl.ops
from minivl.ops import TABLE
from minivl.ops.backward import BACKWARD


class Case(NamedTuple):
    """One call of one op."""

    name: str
    op: str
    args: tuple
    kwargs: dict

    def bound(self):
        """{parameter: value}, by the signature of the op's backward function."""
        return inspect.signature(BACKWARD[self.op]).bind(None, *self.args, **self.kwargs).arguments

    def floats(self):
        """{parameter: array} of what has a gradient."""
        return {name: x for name, x in self.bound().items() if name in TABLE[self.op].floats and x is not None}

    def replaced(self, arrays):
        """The case with other arrays, {parameter: array}, in place of its own."""
        names = list(inspect.signature(BACKWARD[self.op]).parameters)[1:]
        args = tuple(arrays.get(name, value) for name, value in zip(names, self.args, strict=False))
        return self._replace(args=args, kwargs={name: arrays.get(name, v) for name, v in self.kwargs.items()})

    def run(self, ops):
        """What the op of a record makes of it."""
        return getattr(ops, self.op)(*self.args, **self.kwargs)

    def backward(self, dout):
        """{parameter: gradient} by hand, for each of `floats`."""
        found = BACKWARD[self.op](dout, *self.args, **self.kwargs)
        found = found if isinstance(found, tuple) else (found,)
        return {name: grad for name, grad in zip(TABLE[self.op].floats, found, strict=True) if name in self.floats()}

    def autograd(self, dout, dtype=torch.float64):
        """{parameter: gradient} by torch's autograd through the record "torch", in a dtype."""
        leaves = {name: torch.tensor(x, dtype=dtype, requires_grad=True) for name, x in self.floats().items()}
        tensors = self.replaced(leaves)
        others = {k: torch.from_numpy(v) for k, v in self.bound().items() if k not in leaves and hasattr(v, "shape")}
        out = tensors.replaced(others).run(minivl.ops.get("torch"))
        grads = torch.autograd.grad(out, list(leaves.values()), torch.tensor(dout, dtype=dtype))
        return dict(zip(leaves, grads, strict=True))


def directional(case, direction, step=1e-6):
    """J·direction by a central difference: how the output moves when the inputs move along {parameter: array}."""
    ops = minivl.ops.get("numpy")
    ahead = case.replaced({name: x + step * direction[name] for name, x in case.floats().items()})
    behind = case.replaced({name: x - step * direction[name] for name, x in case.floats().items()})
    return (ahead.run(ops) - behind.run(ops)) / (2 * step)


def cases(rng):
    """Every op, with everything it can be given: a list of `Case`."""
    return [*_matrices(rng), *_norms(rng), *_attention(rng), *_activations(rng), *_ends(rng)]


def _matrices(rng):
    x, w, b = rng.normal(size=(2, 3, 5)), rng.normal(size=(4, 5)), rng.normal(size=4)
    yield Case("linear", "linear", (x, w, b), {})
    yield Case("linear without bias", "linear", (x, w), {})
    yield Case("linear of one token", "linear", (x[0, 0], w, b), {})
    for act in minivl.ops.ACTS:
        yield Case(f"linear_act {act}", "linear_act", (x, w, b), {"act": act})
    yield Case("linear_act without bias", "linear_act", (x, w), {"act": "gelu"})
    for act in minivl.ops.ACTS:
        yield Case(f"gated_linear {act}", "gated_linear", (x, w, rng.normal(size=(4, 5))), {"act": act})


def _norms(rng):
    x, y = 3 + 2 * rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 3, 7))
    w, b = rng.normal(size=7), rng.normal(size=7)
    yield Case("layer_norm", "layer_norm", (x, w, b, 1e-5), {})
    yield Case("layer_norm, large eps", "layer_norm", (x[0, 0], w, b, 0.7), {})
    yield Case("add_layer_norm", "add_layer_norm", (x, y, w, b, 1e-5), {})
    yield Case("rms_norm", "rms_norm", (x, w, 1e-6), {})
    yield Case("rms_norm, large eps", "rms_norm", (y, w, 0.7), {})


def _attention(rng):
    B, H, T, S, D = 2, 3, 4, 5, 6
    q, k, v = (rng.normal(size=(B, H, n, D)) for n in (T, S, S))
    keys = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], bool)[:, None, None]  # (B, 1, 1, S)
    pairs = rng.random((B, 1, T, S)) < 0.6
    pairs[1, 0, 2] = False  # a query that sees nothing
    minus = rng.normal(size=(1, H, T, S))
    minus[0, 1, 2, :3], minus[0, 2, 0] = -np.inf, -np.inf
    ways = {
        "": {},
        "key mask": {"mask": keys},
        "mask with an empty row": {"mask": pairs},
        "scale 1": {"scale": 1.0},
        "bias by head and pair": {"bias": rng.normal(size=(1, H, T, S)), "scale": 1.0},
        "bias by row and key": {"bias": rng.normal(size=(B, 1, 1, S))},
        "bias by pair alone": {"bias": rng.normal(size=(T, S)), "mask": keys},
        "bias of -inf": {"bias": minus},
        "causal": {"causal": True},
        "causal, mask and bias": {"causal": True, "mask": keys, "bias": rng.normal(size=(B, H, T, S))},
    }
    for name, how in ways.items():
        yield Case(f"attention {name}".strip(), "attention", (q, k, v), how)
        yield Case(f"attention_weights {name}".strip(), "attention_weights", (q, k), how)
    yield Case("attention, more queries than keys", "attention", (k, q, rng.normal(size=q.shape)), {"causal": True})
    yield Case("attention, one query", "attention", (q[:, :, :1], k, v), {"causal": True, "mask": keys})


def _activations(rng):
    x = 3 * rng.normal(size=(4, 9))
    for act in minivl.ops.ACTS:
        yield Case(act, act, (x,), {})
    x = x.copy()
    x[1, :3], x[2] = -np.inf, -np.inf
    yield Case("softmax", "softmax", (x,), {})


def _ends(rng):
    yield Case("embed", "embed", (np.array([[3, 0, 3], [1, 3, 0]]), rng.normal(size=(5, 4))), {})
    w, b = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=4)
    yield Case("patch_embed", "patch_embed", (rng.normal(size=(2, 3, 5, 7)), w, b), {})
    yield Case("patch_embed without bias", "patch_embed", (rng.normal(size=(2, 3, 4, 2)), w), {})
    logits, targets = rng.normal(size=(2, 3, 5)), np.array([[1, -100, 4], [0, 1, -100]])
    yield Case("cross_entropy", "cross_entropy", (logits, targets), {})
    yield Case("cross_entropy, other mark", "cross_entropy", (logits, targets % 5), {"ignore_index": 0})
