"""The record "triton" under autograd: every op's gradients, who is asked for them, and what stays as it was.

Models that learn through it: test_training_kernels.py. The kernels alone: test_kernel_backward_*.py.
"""

import numpy as np
import pytest
import torch
from gradients import cases
from kernel_checks import double, no_worse

import minivl.ops
from minivl.errors import OpsError
from minivl.ops import torch as torch_ops

launch = pytest.importorskip("minivl.kernels.launch", reason="triton is not installed: pip install 'minivl[triton]'")
from minivl.ops import autograd as triton_gradients  # noqa: E402
from minivl.ops import triton as triton_ops  # noqa: E402

HALVES = ("float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
CASES = [case for case in cases(np.random.default_rng(0)) if case.op != "attention_weights"]
ONE_OF_EACH = {case.op: case for case in CASES}.values()
OPS = triton_ops.OPS


def run(case, ops, tensors):
    """The case through a record, its floating arrays replaced, the other arrays as tensors."""
    others = {k: torch.from_numpy(v) for k, v in case.bound().items() if k not in tensors and hasattr(v, "shape")}
    others = {name: x.to(next(iter(tensors.values())).device) for name, x in others.items()}
    return case.replaced(tensors | others).run(ops)


def gradients(case, ops, dout, dtype, device="cpu"):
    leaves = {name: torch.tensor(x, device=device).to(dtype).requires_grad_() for name, x in case.floats().items()}
    out = run(case, ops, leaves)
    return torch.autograd.grad(out, list(leaves.values()), dout.to(device, dtype).reshape(out.shape))


@pytest.mark.parametrize(
    "case, dtype",
    [(case, "float32") for case in CASES] + [(case, dtype) for case in ONE_OF_EACH for dtype in HALVES],
    ids=lambda x: getattr(x, "name", x),
)
def test_gradients(case, dtype, device, rng):
    """Of every op in every way that it is called, against torch's own: float64, and the same dtype."""
    kind = getattr(torch, dtype)
    rounded = {name: double(torch.tensor(x).to(kind)) for name, x in case.floats().items()}
    case = case.replaced(rounded)
    shape = np.shape(case.run(minivl.ops.get("numpy")))
    dout = torch.tensor(rng.standard_normal(shape)).to(kind)
    ours = gradients(case, OPS, dout, kind, device)
    exact = gradients(case, torch_ops.OPS, dout.double(), torch.float64)
    reference = gradients(case, torch_ops.OPS, dout, kind)
    for name, got, true, theirs in zip(rounded, ours, exact, reference, strict=True):
        limit = CAP[dtype] * max(1.0, np.abs(double(true)).max())
        no_worse(got, double(true), theirs, limit, f"gradient of {name} in {case.name}", rms=0.1, times=3)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.op)
def test_gradients_are_those_of_the_kernels_own_forward(case, rng):
    """<dy, J dx> by central differences through the forward kernel: torch's gradcheck along one random direction.

    The kernels know no float64, so the differences are taken over steps of 1/100, which float32 resolves to 1e-5.
    """
    if not launch.INTERPRETED:
        pytest.skip("the tensors are on the CPU")
    names = list(case.floats())
    leaves = [torch.tensor(x, requires_grad=True) for x in case.floats().values()]
    leaves = [x.detach().nan_to_num(neginf=-2.0).requires_grad_() for x in leaves]  # no steps from minus infinity

    def function(*given):
        return run(case, OPS, {name: x.float() for name, x in zip(names, given, strict=True)}).double()

    if case.op == "relu":  # whose kink a difference must not straddle
        leaves = [(x.detach() + 0.1 * x.detach().sign()).requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(function, leaves, eps=1e-2, atol=5e-3, rtol=5e-3, fast_mode=True, nondet_tol=0.0)


def test_nothing_stands_between_where_no_gradient_is_asked_for(monkeypatch, rng):
    """As direct as before: the Functions are entered for a tensor that requires a gradient, and for no other."""

    def refuse(*_, **__):
        raise AssertionError("a Function was entered")

    for name in dir(triton_gradients):
        if isinstance(getattr(triton_gradients, name), type(torch.autograd.Function)):
            monkeypatch.setattr(getattr(triton_gradients, name), "apply", refuse)
    for case in ONE_OF_EACH:
        tensors = {name: torch.tensor(x, dtype=torch.float32) for name, x in case.floats().items()}
        assert not run(case, OPS, tensors).requires_grad
        first = next(iter(tensors.values())).requires_grad_()
        with torch.no_grad():
            assert not run(case, OPS, tensors).requires_grad
        with pytest.raises(AssertionError, match="a Function was entered"):
            run(case, OPS, tensors)
        assert first.requires_grad


def test_a_frozen_argument_costs_nothing(rng):
    """Of a linear layer: one product for a tensor that asks, where all three gradients are three kernels."""
    if not launch.INTERPRETED:
        pytest.skip("launches are counted in the interpreter")
    from minivl.kernels.checking.checked import checked

    x, w, b = (torch.tensor(rng.standard_normal(shape), dtype=torch.float32) for shape in ((3, 8), (4, 8), (4,)))
    launches = []
    for asking in ((x,), (w,), (b,), (x, w, b)):
        for tensor in (x, w, b):
            tensor.requires_grad_(any(tensor is other for other in asking))
        out = OPS.linear(x, w, b)
        with checked() as report:
            out.sum().backward()
        launches.append(report.launches)
        assert [t.grad is not None for t in (x, w, b)] == [any(t is a for a in asking) for t in (x, w, b)]
        x.grad = w.grad = b.grad = None
    assert launches == [1, 1, 1, 3]


def test_an_activation_inside_the_kernel(rng):
    x, w, b = (
        torch.tensor(rng.standard_normal(shape), dtype=torch.float32, requires_grad=True)
        for shape in ((3, 8), (4, 8), (4,))
    )
    ours = torch.autograd.grad(OPS.linear_act(x, w, b, act="gelu").square().sum(), (x, w, b))
    plain = torch_ops.linear_act(x, w, b, act="gelu")
    for got, wanted in zip(ours, torch.autograd.grad(plain.square().sum(), (x, w, b)), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_gradients_of_gradients_are_refused():
    """torch's own once_differentiable would leave them out in silence, where the gradient that arrives is constant."""
    x = torch.ones(2, 3, requires_grad=True)
    for loss in (OPS.gelu(x).sum(), OPS.gelu(x).square().sum()):
        with pytest.raises(OpsError, match="gradients of gradients.*backend='torch'"):
            torch.autograd.grad(loss, x, create_graph=True)


def test_attention_weights_are_to_look_at_only():
    q = torch.ones(1, 1, 2, 4)
    assert OPS.attention_weights(q, q).sum().item() == pytest.approx(2)
    with pytest.raises(
        OpsError, match="attention_weights: an argument requires a gradient.*backend='torch'"
    ) as refusal:
        OPS.attention_weights(q.requires_grad_(), q)
    assert "\n" not in str(refusal.value)


# ---- cross-entropy in place of the logits ------------------------------------------------------------------------
def test_cross_entropy_in_place(rng):
    """The same gradients; the logits' memory holds their gradient afterwards, and torch lets nobody read them."""
    hidden, w = (torch.tensor(rng.standard_normal(s), dtype=torch.float32) for s in ((5, 8), (20, 8)))
    targets = torch.tensor([3, -100, 19, 0, 3])
    results = []
    for loss_of in (OPS.cross_entropy, triton_gradients.cross_entropy_in_place):
        w.grad = None
        logits = OPS.linear(hidden, w.requires_grad_())
        before = logits.detach().clone()
        loss_of(logits, targets).backward()
        results.append(w.grad)
        changed = not torch.equal(logits.detach(), before)
        assert changed == (loss_of is triton_gradients.cross_entropy_in_place)
    assert torch.equal(*results)

    logits = OPS.linear(hidden, w)
    other = logits.square().mean()  # its gradient needs the logits
    triton_gradients.cross_entropy_in_place(logits, targets).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()


def test_cross_entropy_in_place_refuses_a_leaf():
    with pytest.raises(OpsError, match="the logits are a leaf"):
        triton_gradients.cross_entropy_in_place(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1]))
