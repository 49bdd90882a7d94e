"""kernels/attention_backward.py against torch's autograd in float64: every gradient, on awkward memory."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import OpsError
from minivl.kernels import attention_backward as module
from minivl.kernels.attention import attention
from minivl.kernels.attention_backward import attention_backward
from minivl.ops import backward as numpy_backward

NAMES = ("dq", "dk", "dv", "dbias")
DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
RMS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}
ZERO = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
# All unequal, and several of each within a few dozen tokens; of the kernels of the keys, the queries and the bias.
SMALL = (dict(BT=16, BS=32), dict(BT=32, BS=16), dict(BT=16, BS=32))
few = settings(
    max_examples=7,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def in_torch(dout, q, k, v, mask=None, bias=None, causal=False, scale=None, dtype=None):
    """torch's gradients of q, k, v and bias (None without one): from the definition, all of it in `dtype` (q's own)."""
    dtype = dtype or q.dtype
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in (q, k, v))
    bias = None if bias is None else bias.detach().to(dtype).requires_grad_()
    T, S = q.shape[2], k.shape[2]
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device) if mask is None else mask
    if bias is not None:
        visible = visible & (bias > -math.inf)
        scores = scores + bias.masked_fill(bias == -math.inf, 0.0)
    if causal:
        visible = visible & torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = scores.masked_fill(~visible, -math.inf)
    shares = torch.softmax(scores, -1).masked_fill(~(scores > -math.inf).any(-1, keepdim=True), 0.0)
    (shares @ v).backward(dout.to(dtype))
    return q.grad, k.grad, v.grad, None if bias is None else bias.grad


def check(dout, q, k, v, blocks=SMALL, what="", caps=CAP, **how):
    """Every gradient within the rule; what they are."""
    exact = in_torch(dout, q, k, v, **how, dtype=torch.float64)
    reference = in_torch(dout, q, k, v, **how)
    out, lse = attention(q, k, v, with_lse=True, blocks=dict(BT=32, BS=32), **how)
    ours = attention_backward(dout, q, k, v, out=out, lse=lse, blocks=blocks, **how)
    dtype = str(q.dtype).removeprefix("torch.")
    for name, x, right, theirs in zip(NAMES, ours, exact, reference, strict=True):
        if right is None:
            assert x is None
        elif name == "dbias" and how["bias"].shape[-1:] in ((), (1,)):
            # The same number for every key changes no share: ds sums to 0, but for rounding.
            assert x.shape == right.shape and x.abs().max() < ZERO[dtype] * math.sqrt(q.numel() / right.numel())
        elif name == "dbias":  # in the dtype of the bias, which may not be that of q
            assert x.dtype == how["bias"].dtype
            no_worse(x.to(q.dtype), double(right), theirs, 4 * caps[dtype] * size_of(right), f"{what} {name}",
                     RMS[dtype], times=3)  # fmt: skip
        else:
            no_worse(x, double(right), theirs, caps[dtype] * size_of(right), f"{what} {name}", RMS[dtype], times=3)
    return ours


def size_of(x):
    """The largest number of a gradient, and at least 1: what an absolute cap is measured in."""
    return max(1.0, float(x.abs().max()))


def some_mask(rng, B, H, T, S, form, device):
    """For "keys": padding, and the last row of the batch all hidden. Else any pairs; query 1 of row 0 sees none."""
    if form == "none":
        return None
    if form == "keys":
        mask = rng.random((B, 1, 1, S)) < 0.7
        mask[-1] = False
        return torch.from_numpy(mask).to(device)
    mask = rng.random((B, 1, T, S) if form == "pairs" else (1, H, T, S)) < 0.6
    mask[0, :, min(1, T - 1)] = False
    return torch.from_numpy(mask).to(device)


def four(rng, T, S, D, dtype, device, layouts=("padded",) * 4, pads=(3, 8, 24, 5), B=1, H=2):
    """dout, q, k, v with strides of which no two are alike."""
    lengths = (T, T, S, S)
    return [
        draw(rng, (B, H, n, D), dtype, device, x, p) for n, x, p in zip(lengths, layouts, pads, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("form, shape", [("pairs", (1, 2, 33, 40)), ("keys", (2, 1, 1, 40)), ("none", None)])
def test_everything_at_once(form, shape, device, rng):
    """Two parts of a head, strides of which no two are alike, causal, a scale, a mask and a bias: small, and first."""
    given = four(rng, 33, 40, 40, "float32", device, B=2)
    bias = None if shape is None else draw(rng, shape, "float32", device, "padded", 2)
    check(*given, mask=some_mask(rng, 2, 2, 33, 40, form, device), bias=bias, causal=True, scale=0.3)


@pytest.mark.parametrize("T, S", [(1, 40), (40, 5), (33, 34), (33, 49), (48, 32), (32, 48), (47, 33)])
def test_causal_lines_up_the_last_query_with_the_last_key(T, S, device, rng):
    check(*four(rng, T, S, 16, "float32", device, H=1), causal=True)


@pytest.mark.parametrize("n", [15, 16, 17, 32])
def test_the_tail(n, device, rng):
    """Around a block's edge every query and key counts, and none beyond the last: those are NaN here."""
    check(*four(rng, n, n + 1, 32, "float32", device, ("offset",) * 4, H=1))


OVER = [(2, 2, 20, 37), (1, 2, 20, 37), (2, 1, 1, 37), (2, 2, 20, 1), (1, 1, 1, 37)]


@pytest.mark.parametrize("shape", [*OVER, (20, 37), (2, 20, 1), ()])
def test_the_gradient_of_a_bias_is_summed_over_what_was_broadcast(shape, device, rng):
    dout, q, k, v = four(rng, 20, 37, 16, "float32", device, B=2)
    bias = draw(rng, shape, "float32", device, "padded", 2)
    mask = some_mask(rng, 2, 2, 20, 37, "pairs", device) if len(shape) == 4 else None
    dbias = check(dout, q, k, v, bias=bias, mask=mask, causal=shape == (2, 2, 20, 1))[3]
    assert dbias.shape == bias.shape and dbias.is_contiguous()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bias_of_16_bits_has_a_gradient_of_16_bits(dtype, device, rng):
    dout, q, k, v = four(rng, 20, 37, 16, dtype, device)
    bias = draw(rng, (1, 2, 20, 37), dtype, device)
    assert check(dout, q, k, v, bias=bias)[3].dtype == q.dtype


def test_an_expanded_bias_has_a_gradient_of_its_own_shape(device, rng):
    """A step of 0 in memory is not a broadcast: every element is told its own share."""
    dout, q, k, v = four(rng, 20, 37, 16, "float32", device)
    bias = draw(rng, (1, 1, 1, 37), "float32", device).expand(1, 2, 20, 37)
    assert check(dout, q, k, v, bias=bias)[3].shape == (1, 2, 20, 37)


def test_only_what_is_wanted(device, rng):
    """dk and dv come from one kernel, so that both are there if either is wanted."""
    dout, q, k, v = four(rng, 20, 37, 16, "float32", device)
    bias = draw(rng, (1, 2, 1, 37), "float32", device)
    exact = in_torch(dout, q, k, v, bias=bias)
    for wanted in ((True, True, True, False), (True, False, False, False), (False, True, False, True), (False,) * 4):
        grads = attention_backward(dout, q, k, v, bias=bias, wanted=wanted)
        given = (wanted[0], wanted[1] or wanted[2], wanted[1] or wanted[2], wanted[3])
        assert tuple(x is not None for x in grads) == given
        assert all(x is None or torch.allclose(x, y, atol=1e-5) for x, y in zip(grads, exact, strict=True))


def test_a_query_that_sees_nothing_gives_no_gradient_and_has_none(device, rng):
    """As if it were not there: zeros for itself, and for the keys what the others give."""
    dout, q, k, v = four(rng, 35, 40, 16, "float32", device)
    mask = torch.ones(1, 2, 35, 40, dtype=torch.bool, device=device)
    mask[0, 1, 34] = False
    bias = draw(rng, (1, 2, 35, 40), "float32", device)
    dq, _, _, dbias = check(dout, q, k, v, mask=mask, bias=bias)
    assert (dq[0, 1, 34] == 0).all() and (dbias[0, 1, 34] == 0).all()
    changed = dout.clone()
    changed[0, 1, 34] = 1e30
    before, after = (attention_backward(x, q, k, v, mask=mask)[:3] for x in (dout, changed))
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("form", ["keys", "pairs"])
def test_a_hidden_key_has_no_gradient_whatever_its_score(form, device, rng):
    """Not even if exp(score - lse) overflows, as nothing bounds the score of a key that nobody sees."""
    dout, q, k, v = four(rng, 20, 40, 16, "float32", device)
    k[:, :, 7], v[:, :, 7], q[:, :, 3] = 100.0, 1e30, 100.0
    mask = torch.ones(1, 1, 1 if form == "keys" else 20, 40, dtype=torch.bool, device=device)
    mask[..., 7] = False
    dq, dk, dv, _ = attention_backward(dout, q, k, v, mask=mask, blocks=SMALL)
    assert (dk[:, :, 7] == 0).all() and (dv[:, :, 7] == 0).all() and torch.isfinite(dq).all()
    wanted = in_torch(dout, q, k, v, mask=mask, dtype=torch.float64)
    kept = [s for s in range(40) if s != 7]
    np.testing.assert_allclose(double(dv)[:, :, kept], double(wanted[2])[:, :, kept], atol=1e-4)


@pytest.mark.parametrize("lowest", [-math.inf, -3.4e38])
def test_a_bias_that_hides(lowest, device, rng):
    """A key at the lowest bias has no share in anything, and its bias no gradient."""
    dout, q, k, v = four(rng, 20, 40, 16, "float32", device)
    bias = draw(rng, (1, 2, 20, 40), "float32", device)
    bias[:, :, :, ::3] = lowest
    bias[0, 0, 4, :17] = lowest
    if lowest == -math.inf:
        bias[0, 0, 5] = lowest
    _, dk, dv, dbias = check(dout, q, k, v, bias=bias)
    assert all((x[:, :, ::3] == 0).all() for x in (dk, dv)) and (dbias[..., ::3] == 0).all()


def test_scores_far_from_zero(device, rng):
    """lse of hundreds, of both signs: exp(score - lse) neither overflows in a tail nor loses its digits."""
    for shift, of_keys in ((300.0, False), (-300.0, False), (300.0, True)):
        dout, q, k, v = four(rng, 20, 37, 16, "float32", device, H=1)
        bias = torch.full((1, 1, 1, 37), shift, device=device) if of_keys else None
        if not of_keys:
            q[..., 0], k[..., 0] = 20.0, shift / 5
        exact = in_torch(dout, q, k, v, bias=bias, dtype=torch.float64)
        ours = attention_backward(dout, q, k, v, bias=bias, blocks=SMALL)
        for name, x, right in zip(NAMES, ours[:3], exact, strict=False):
            np.testing.assert_allclose(double(x), double(right), atol=2e-3 * size_of(right), err_msg=name)


@few
@given(
    st.integers(1, 50), st.integers(8, 50), st.sampled_from([16, 64, 80, 88, 96]), st.sampled_from(DTYPES),
    st.booleans(), st.sampled_from(["none", "none", "keys", "pairs", "heads"]),
    st.sampled_from([None, None, (1, 2, 1, 1), (2, 1, 0, 0), (1, 2, 0, 0), (2, 1, 1, 0)]),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 4), st.sampled_from([None, 0.3, -0.2]),
)  # fmt: skip
def test_gradients(device, T, S, D, dtype, causal, masked, biased, layouts, scale):
    rng = np.random.default_rng(T * S + D)
    dout, q, k, v = four(rng, T, S, D, dtype, device, layouts, B=2)
    mask = some_mask(rng, 2, 2, T, S, masked, device)
    shape = biased and tuple(n or full for n, full in zip(biased, (2, 2, T, S), strict=True))
    bias = None if shape is None else draw(rng, shape, "float32", device, "padded")
    check(dout, q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)


@pytest.mark.parametrize("D", [1, 24, 100, 256])
def test_any_head_width(D, device, rng):
    check(*four(rng, 18, 20, D, "float32", device, H=1))


@pytest.mark.parametrize("D, dtype", [(64, "float32"), (80, "bfloat16"), (88, "float16")])
def test_rows_that_begin_at_multiples_of_8_and_rows_that_do_not(D, dtype, device, rng):
    """Both ways of passing strides, all of them far apart; one odd step from row to row is enough for the second."""
    for pads in ((8, 16, 40, 24), (1, 8, 16, 24), (8, 8, 16, 5)):
        check(*four(rng, 16, 32, D, dtype, device, pads=pads, H=1), causal=D == 64)


@pytest.mark.parametrize(
    "T, D, dtype",
    [(40, 64, "float32"), (33, 88, "float32"), (140, 64, "float16"), (140, 88, "float16"), (140, 80, "bfloat16")],
)
def test_the_shipped_sizes(T, D, dtype, device, rng):
    bias = draw(rng, (1, 1, T, T + 10), "float32", device) if D == 88 else None
    check(*four(rng, T, T + 10, D, dtype, device, ("permuted",) * 4, H=1), blocks=None, causal=D == 64, bias=bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_key_gets_everything(dtype, device, rng):
    """Its share is 1 whatever the score: nothing flows back into q and k, for dp and δ are one sum, and all into v.

    That sum is in float32 whatever the arguments are: 16 bits would leave a thousandth.
    """
    dout, q, k, v = four(rng, 20, 1, 16, dtype, device)
    dq, dk, dv, _ = attention_backward(dout, q, k, v)
    assert dq.abs().max() < 2e-5 and dk.abs().max() < 2e-5
    right = double(dout).sum(2, keepdims=True)
    np.testing.assert_allclose(double(dv), right, rtol=torch.finfo(q.dtype).eps, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_dot_product_with_the_forward_kernel(causal, device, rng):
    """<dout, J x> = <Jᵀ dout, x>, with J x from differences of the kernel that goes forward."""
    dout, *point = four(rng, 30, 40, 24, "float32", device, H=2)
    point.append(draw(rng, (1, 2, 30, 40), "float32", device))
    along = [draw(rng, tuple(x.shape), "float32", device) for x in point]
    mask = some_mask(rng, 1, 2, 30, 40, "pairs", device)

    def at(step):
        q, k, v, bias = (x + step * a for x, a in zip(point, along, strict=True))
        return double(attention(q, k, v, bias=bias, mask=mask, causal=causal, blocks=dict(BT=32, BS=32)))

    forward = (double(dout) * (8 * (at(0.01) - at(-0.01)) - at(0.02) + at(-0.02)) / 0.12).sum()
    grads = attention_backward(dout, *point[:3], bias=point[3], mask=mask, causal=causal, blocks=SMALL)
    backward = sum((double(x) * double(a)).sum() for x, a in zip(grads, along, strict=True))
    assert abs(forward - backward) < 3e-4 * np.sqrt(sum(double(x).size for x in point))
    for grad, a in zip(grads, along, strict=True):  # each of them matters to that sum
        assert abs((double(grad) * double(a)).sum()) > 0.05


def test_a_gradient_of_ones_that_is_one_number_in_memory(device, rng):
    """What out.sum().backward() hands on: a tensor whose steps are all 0."""
    _, q, k, v = four(rng, 20, 37, 16, "float32", device)
    ones = torch.ones(1, device=device).expand(q.shape)
    check(ones, q, k, v)


def test_tokens_lie_outermost_in_the_gradients(device, rng):
    """So that splitting heads goes backward as a view."""
    dout, q, k, v = four(rng, 5, 7, 16, "float32", device, B=2)
    assert all(x.swapaxes(1, 2).is_contiguous() for x in attention_backward(dout, q, k, v)[:3])


def test_nothing_to_do(device):
    q, none = torch.ones(2, 1, 3, 16, device=device), torch.ones(2, 1, 0, 16, device=device)
    dq, dk, dv, dbias = attention_backward(q, q, none, none, bias=torch.ones(1, 1, 3, 1, device=device))
    assert (dq == 0).all() and dk.shape == dv.shape == (2, 1, 0, 16) and (dbias == 0).all() and dbias.shape[2] == 3
    dq, dk, dv, dbias = attention_backward(none, none, q, q, bias=torch.ones(1, 1, 1, 3, device=device))
    assert dq.shape == (2, 1, 0, 16) and (dk == 0).all() and (dv == 0).all() and (dbias == 0).all()


def test_arguments_are_left_alone(device, rng):
    given = four(rng, 20, 20, 16, "float32", device)
    out, lse = attention(*given[1:], with_lse=True)
    before = [x.clone() for x in (*given, out, lse)]
    attention_backward(*given, out=out, lse=lse, causal=True)
    assert all(torch.equal(x, y) for x, y in zip((*given, out, lse), before, strict=True))


def test_on_numpy_arrays_as_the_reference_in_numpy(device, rng):
    if device != "cpu":
        pytest.skip("NumPy arrays are for the interpreter")
    dout, q, k, v = (rng.standard_normal((2, 2, n, 24)).astype(np.float32) for n in (20, 20, 30, 30))
    how = dict(mask=rng.random((2, 1, 1, 30)) < 0.5, bias=rng.standard_normal((1, 2, 20, 30)), causal=True, scale=0.3)
    ours = attention_backward(dout, q, k, v, **how | dict(bias=how["bias"].astype(np.float32)))
    wanted = numpy_backward.attention_backward(*(x.astype(np.float64) for x in (dout, q, k, v)), **how)
    for name, x, right in zip(NAMES, ours, wanted, strict=True):
        assert isinstance(x, np.ndarray)
        np.testing.assert_allclose(x, right, atol=2e-5, err_msg=name)


def test_no_two_programs_add_to_one_number():
    """Sums in a fixed order are why the same input gives the same bits."""
    assert "atomic" not in Path(module.__file__).read_text()


# what is refused


@pytest.mark.parametrize(
    "change, words",
    [
        (
            dict(dout=torch.ones(1, 2, 3, 8)),
            r"dout is float32 \(1, 2, 3, 8\), and should be as q, float32 \(1, 2, 3, 16",
        ),
        (dict(dout=torch.ones(1, 2, 3, 16).half()), "dout is float16"),
        (dict(out=torch.ones(1, 2, 5, 16)), r"out is float32 \(1, 2, 5, 16\)"),
        (
            dict(lse=torch.ones(1, 2, 5)),
            r"lse is float32 \(1, 2, 5\), and should be float32 \(1, 2, 3\): what attention",
        ),
        (dict(lse=torch.ones(1, 2, 3).half()), "lse is float16"),
        (dict(k=torch.ones(1, 2, 5, 8)), r"k and v should be \(1, 2, S, 16\)"),
        (dict(mask=torch.ones(5)), "mask is float32, and should be bool"),
        (dict(bias=torch.ones(1, 3, 1, 5)), r"bias is \(1, 3, 1, 5\), which does not broadcast"),
    ],
)
def test_refused(change, words, device):
    right = dict(dout=torch.ones(1, 2, 3, 16), q=torch.ones(1, 2, 3, 16), k=torch.ones(1, 2, 5, 16),
                 v=torch.ones(1, 2, 5, 16), out=torch.ones(1, 2, 3, 16), lse=torch.ones(1, 2, 3))  # fmt: skip
    given = {name: x.to(device) for name, x in (right | change).items()}
    with pytest.raises(OpsError, match=words):
        attention_backward(**given)
