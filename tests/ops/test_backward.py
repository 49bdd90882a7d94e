"""The hand-derived gradients of every op: against central differences and against torch's autograd, in float64.

float32 is held to the error rule of the backward kernels: at most three times the error of torch in float32.
"""

import numpy as np
import pytest
import torch
from gradients import Case, cases, directional

import minivl.ops
from minivl.errors import InputError
from minivl.ops import TABLE
from minivl.ops import backward as numpy_backward
from minivl.ops.backward import BACKWARD, summed_to

CASES = cases(np.random.default_rng(7))
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
NUMPY = minivl.ops.get("numpy")


def drawn(case, rng):
    """A gradient of the case's output."""
    return np.asarray(rng.normal(size=np.shape(case.run(NUMPY))))


def test_every_op_has_a_way_back_and_a_case():
    ops = {name for name, op in TABLE.items() if op.gradient}
    assert set(BACKWARD) == ops == {case.op for case in CASES}
    assert all(BACKWARD[name] is getattr(numpy_backward, f"{name}_backward") for name in ops)


@every_case
def test_central_differences(case, rng):
    """<dout, J e> for some single input numbers e, one after the other; the next test moves all of them."""
    dout = drawn(case, rng)
    by_hand = case.backward(dout)
    for name, x in case.floats().items():
        for flat in rng.permutation(x.size)[:9]:
            place = np.unravel_index(flat, x.shape)
            direction = {other: np.zeros_like(y) for other, y in case.floats().items()}
            direction[name][place] = np.isfinite(x[place])
            numeric, ours = (dout * directional(case, direction)).sum(), by_hand[name][place]
            assert abs(numeric - ours) <= 1e-6 * abs(ours) + 2e-8, f"d{name}{place} of {case.name}: {ours}, {numeric}"


@every_case
def test_a_step_along_all_inputs_at_once(case, rng):
    """<dout, J dx> = <gradients, dx>, where dx moves every input together."""
    dout = drawn(case, rng)
    direction = {name: np.where(np.isfinite(x), rng.normal(size=x.shape), 0) for name, x in case.floats().items()}
    moved = (dout * directional(case, direction)).sum()
    promised = sum((grad * direction[name]).sum() for name, grad in case.backward(dout).items())
    assert abs(moved - promised) <= 1e-7 * max(1, abs(promised)), f"{case.name}: {moved} moved, {promised} promised"


@every_case
def test_autograd_of_torch(case, rng):
    dout = drawn(case, rng)
    exact = case.autograd(dout)
    by_hand = case.backward(dout)
    assert by_hand.keys() == exact.keys() == case.floats().keys()
    for name, grad in by_hand.items():
        assert grad.shape == case.floats()[name].shape and grad.dtype == np.float64
        np.testing.assert_allclose(grad, exact[name].numpy(), rtol=1e-11, atol=1e-12, err_msg=f"d{name} of {case.name}")


@every_case
def test_float32(case, rng):
    """At most three times torch's own error in float32, and a few rounding steps; no number of it in float64."""
    single = case.replaced({name: x.astype(np.float32) for name, x in case.floats().items()})
    dout = drawn(single, rng).astype(np.float32)
    exact, torchs = (single.autograd(dout, dtype) for dtype in (torch.float64, torch.float32))
    for name, grad in single.backward(dout).items():
        assert grad.dtype == np.float32, f"d{name} of {case.name} is {grad.dtype}"
        truth = exact[name].numpy()
        error, allowed = (np.abs(x - truth).max() for x in (grad, torchs[name].double().numpy()))
        assert error <= 3 * allowed + 1e-6 * max(1, np.abs(truth).max()), f"d{name} of {case.name}: off by {error:.1e}"


@every_case
def test_no_argument_is_written_to(case, rng):
    def frozen(x):
        if isinstance(x, np.ndarray):
            x = x.copy()
            x.flags.writeable = False
        return x

    shut = Case(case.name, case.op, tuple(map(frozen, case.args)), {k: frozen(v) for k, v in case.kwargs.items()})
    shut.backward(frozen(drawn(case, rng)))  # NumPy raises where somebody writes


def test_a_sum_over_what_was_broadcast(rng):
    gradient = rng.normal(size=(2, 3, 4, 5))
    for shape in [(2, 3, 4, 5), (1, 3, 1, 5), (4, 1), (), (1,), (5,)]:
        wanted = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        wanted.expand(2, 3, 4, 5).backward(torch.tensor(gradient))
        np.testing.assert_allclose(summed_to(gradient, shape), wanted.grad.numpy(), rtol=1e-12)


def test_where_nothing_is_asked_nothing_flows(rng):
    logits, nothing = rng.normal(size=(3, 5)), np.full(3, -100)
    np.testing.assert_array_equal(BACKWARD["cross_entropy"](1.0, logits, nothing), np.zeros((3, 5)))
    q, k, v = rng.normal(size=(3, 1, 1, 4, 6))
    grads = BACKWARD["attention"](q, q, k, v, mask=np.zeros((1, 1, 1, 4), bool), bias=np.zeros((4, 4)))
    assert all(not grad.any() for grad in grads)


def test_relu_lets_nothing_through_at_zero():
    np.testing.assert_array_equal(BACKWARD["relu"](np.ones(3), np.array([-1.0, 0.0, 1.0])), [0, 0, 1])


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_from_zero_every_slope_is_0_or_1(act, dtype):
    """No overflow, and so no nan, however large the input."""
    x = np.array([-1e4, -300, 300, 1e4], dtype)
    with np.errstate(over="raise", invalid="raise"):
        slope = BACKWARD[act](np.ones(4, dtype), x)
    np.testing.assert_allclose(slope, [0, 0, 0, 0] if act == "tanh" else [0, 0, 1, 1], atol=1e-6)


def test_what_the_way_forward_refuses_the_way_back_refuses(rng):
    x, w = rng.normal(size=(2, 4)), rng.normal(size=(3, 4))
    with pytest.raises(InputError, match="activation 'swish' does not exist"):
        BACKWARD["linear_act"](np.ones((2, 3)), x, w, act="swish")
    with pytest.raises(InputError, match="token id 3 has no embedding"):
        BACKWARD["embed"](np.ones((1, 4)), np.array([3]), w)
    with pytest.raises(InputError, match="labels run from 4 to 4, the vocabulary from 0 to 3"):
        BACKWARD["cross_entropy"](1.0, x, np.array([4, 4]))
