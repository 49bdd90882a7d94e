"""kernels/attention.py and kernels/attention_naive.py against float64: outputs and log-sum-exp, on awkward memory."""

import math

import numpy as np
import pytest
import torch
from attention_cases import CAP, DTYPES, WIDTHS, exactly, in_torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import OpsError
from minivl.kernels import attention_naive
from minivl.kernels.attention import attention, parts
from minivl.ops import numpy as numpy_ops

SMALL = dict(BT=32, BS=16)  # unequal, and several of each within a few dozen tokens
few = settings(
    max_examples=14,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check(q, k, v, blocks=SMALL, what="attention", **how):
    exact, exact_lse = exactly(q, k, v, **how)
    out, lse = attention(q, k, v, with_lse=True, blocks=blocks, **how)
    dtype = str(q.dtype).removeprefix("torch.")
    no_worse(out, exact, in_torch(q, k, v, **how), CAP[dtype], what)
    assert lse.dtype == torch.float32
    np.testing.assert_allclose(double(lse), exact_lse, rtol=3e-6, atol=5e-6, err_msg=f"{what}: log-sum-exp")


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


@few
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(WIDTHS), st.sampled_from(DTYPES), st.booleans(),
    st.sampled_from(["none", "none", "keys", "pairs", "heads"]), st.sampled_from(["none", "none", "full", "keys"]),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3), st.sampled_from([None, 0.3, -0.2]),
)  # fmt: skip
def test_attention(device, T, S, D, dtype, causal, masked, biased, layouts, scale):
    rng = np.random.default_rng(T * S + D)
    q = draw(rng, (2, 2, T, D), dtype, device, layouts[0], pad=8)
    k = draw(rng, (2, 2, S, D), dtype, device, layouts[1], pad=24)
    v = draw(rng, (2, 2, S, D), dtype, device, layouts[2], pad=5)
    mask = some_mask(rng, 2, 2, T, S, masked, device)
    shape = {"full": (1, 2, T, S), "keys": (2, 1, 1, S)}.get(biased)
    bias = None if shape is None else draw(rng, shape, "float32", device, "padded")
    check(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)


@pytest.mark.parametrize("D, dtype", [(64, "float32"), (80, "bfloat16"), (88, "float16"), (96, "float32")])
def test_rows_that_begin_at_multiples_of_8_and_rows_that_do_not(D, dtype, device, rng):
    """Both ways of passing strides, with k's and v's far apart, so that neither fits the other."""
    for pads in ((8, 16, 40), (0, 3, 1)):
        q, k, v = (draw(rng, (1, 2, n, D), dtype, device, "padded", p) for n, p in zip((33, 40, 40), pads, strict=True))
        check(q, k, v, causal=D == 64)


@pytest.mark.parametrize(
    "T, S", [(1, 40), (40, 1), (33, 49), (49, 33), (32, 48), (48, 32), (31, 47), (48, 33), (33, 34)]
)
def test_causal_lines_up_the_last_query_with_the_last_key(T, S, device, rng):
    q, k, v = (draw(rng, (1, 1, n, 16), "float32", device) for n in (T, S, S))
    check(q, k, v, causal=True)
    last = attention(q[:, :, -1:], k, v, causal=True, blocks=SMALL)
    whole = attention(q[:, :, -1:], k, v, blocks=SMALL)
    assert torch.equal(last, whole)  # the last query sees every key


@pytest.mark.parametrize("S", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_the_tail(S, device, rng):
    """Around a block's edge every key counts, and none beyond the last: those are NaN here."""
    q, k, v = (draw(rng, (1, 1, n, 32), "float32", device, "offset") for n in (5, S, S))
    check(q, k, v)


def test_one_query_that_sees_nothing(device, rng):
    """Zeros and -inf for that one; its neighbours, and other heads, are as without the mask."""
    q, k, v = (draw(rng, (1, 2, n, 64), "float32", device) for n in (35, 40, 40))
    mask = torch.ones(1, 2, 35, 40, dtype=torch.bool, device=device)
    mask[0, 1, 34] = False
    out, lse = attention(q, k, v, mask=mask, with_lse=True, blocks=SMALL)
    whole, whole_lse = attention(q, k, v, with_lse=True, blocks=SMALL)
    assert (out[0, 1, 34] == 0).all() and lse[0, 1, 34] == -math.inf
    mask[0, 1, 34] = True
    kept = mask.any(-1)
    kept[0, 1, 34] = False
    assert torch.allclose(out[kept], whole[kept], atol=1e-6) and torch.allclose(lse[kept], whole_lse[kept], atol=1e-6)


def test_one_key_hidden_from_one_query(device, rng):
    """Hiding any single pair changes that query of that head, and nothing else."""
    q, k, v = (draw(rng, (1, 2, n, 16), "float32", device) for n in (35, 40, 40))
    for h, t, s in ((0, 0, 0), (1, 34, 39), (0, 33, 16), (1, 5, 38)):
        mask = torch.ones(1, 2, 35, 40, dtype=torch.bool, device=device)
        mask[0, h, t, s] = False
        check(q, k, v, mask=mask, what=f"without the pair {t}, {s} of head {h}")


@pytest.mark.parametrize("largest", [1e4, -1e4, 3e38])
def test_scores_of_any_size(largest, device, rng):
    """Neither large products nor a bias of the lowest float32 (a mask, as some models write it) overflow."""
    q, k, v = (draw(rng, (1, 1, n, 16), "float32", device) for n in (20, 40, 40))
    if abs(largest) < 1e5:
        bias = torch.zeros(1, 1, 1, 1, device=device)
        k[:, :, 30:] *= 50
    else:
        bias = torch.zeros(1, 1, 20, 40, device=device)
        bias[:, :, :, ::2] = -largest
        bias[0, 0, 3] = -largest
        bias[0, 0, 4, :17] = -math.inf
        largest = 0
    out, lse = attention(q, k, v, bias=bias + largest, with_lse=True, blocks=SMALL)
    exact, exact_lse = exactly(q, k, v, bias=bias + largest)
    rows = [t for t in range(20) if t != 3 or bias.numel() == 1]  # float32 cannot tell the scores of query 3 apart
    np.testing.assert_allclose(double(out)[:, :, rows], exact[:, :, rows], atol=2e-3 if bias.numel() == 1 else 2e-6)
    np.testing.assert_allclose(double(lse)[:, :, rows], exact_lse[:, :, rows], rtol=2e-6, atol=1e-5)
    if bias.numel() > 1:
        np.testing.assert_allclose(double(out)[0, 0, 3], double(v)[0, 0].mean(0), atol=2e-6)


@pytest.mark.parametrize("D", [1, 8, 24, 40, 72, 100, 144, 160, 256])
def test_any_head_width(D, device, rng):
    q, k, v = (draw(rng, (1, 1, n, D), "float32", device, "padded", p) for n, p in ((33, 3), (20, 8), (20, 1)))
    check(q, k, v)


def test_two_parts_hold_every_width():
    for D in range(1, 257):
        one, two = parts(D)
        assert D <= one + two and all(n in (0, 16, 32, 64, 128, 256) for n in (one, two)) and two < one
        assert one + two < 2 * D or D <= 16
    assert [parts(D) for D in (16, 64, 80, 88, 96, 112)] == [(16, 0), (64, 0), (64, 16), (64, 32), (64, 32), (128, 0)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T, D", [(40, 64), (150, 64), (150, 88), (20, 256)])
def test_the_shipped_sizes(T, D, dtype, device, rng):
    q, k, v = (draw(rng, (1, 1, n, D), dtype, device, "permuted", 8) for n in (T, 150, 150))
    check(q, k, v, blocks=None, causal=T == 150)


def test_tokens_lie_outermost_in_the_result(device, rng):
    """So that merging the heads is a view."""
    q = draw(rng, (2, 3, 5, 16), "float32", device)
    assert attention(q, q, q).swapaxes(1, 2).is_contiguous()


def test_nothing_to_do(device):
    q, none = torch.ones(2, 1, 3, 16, device=device), torch.ones(2, 1, 0, 16, device=device)
    out, lse = attention(q, none, none, with_lse=True)
    assert (out == 0).all() and (lse == -math.inf).all() and out.shape == (2, 1, 3, 16)
    assert attention(none, q, q).shape == (2, 1, 0, 16)


def test_arguments_are_left_alone(device, rng):
    q, k, v = (draw(rng, (1, 2, 20, 16), "float32", device) for _ in range(3))
    before = [x.clone() for x in (q, k, v)]
    attention(q, k, v, causal=True)
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True))


def test_on_numpy_arrays(device, rng):
    if device != "cpu":
        pytest.skip("NumPy arrays are for the interpreter")
    q, k, v = (rng.standard_normal((1, 2, n, 24)).astype(np.float32) for n in (20, 30, 30))
    mask = rng.random((1, 1, 1, 30)) < 0.5
    out, lse = attention(q, k, v, mask=mask, with_lse=True)
    assert isinstance(out, np.ndarray) and lse.shape == (1, 2, 20)
    np.testing.assert_allclose(out, numpy_ops.attention(q, k, v, mask=mask), atol=1e-6)


# the kernels to read first


@few
@given(
    st.integers(1, 50), st.integers(1, 50), st.sampled_from([16, 24, 80]), st.sampled_from(DTYPES), st.booleans(),
    st.sampled_from(["none", "keys", "pairs"]), st.booleans(), st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
)  # fmt: skip
def test_naive(device, T, S, D, dtype, causal, masked, biased, layouts):
    rng = np.random.default_rng(T * S + D)
    q = draw(rng, (2, 2, T, D), dtype, device, layouts[0], pad=8)
    k = draw(rng, (2, 2, S, D), dtype, device, layouts[1], pad=24)
    v = draw(rng, (2, 2, S, D), dtype, device, layouts[2], pad=5)
    mask = some_mask(rng, 2, 2, T, S, masked, device)
    bias = draw(rng, (1, 2, T, S), "float32", device, "padded") if biased else None
    how = dict(mask=mask, bias=bias, causal=causal)
    out = attention_naive.attention(q, k, v, **how)
    no_worse(out, exactly(q, k, v, **how)[0], in_torch(q, k, v, **how), CAP[dtype], "naive")
    eye = torch.eye(S, dtype=q.dtype, device=device).expand(2, 2, S, S)
    weights = attention_naive.attention_weights(q, k, **how)
    no_worse(weights, exactly(q, k, eye, **how)[0], in_torch(q, k, eye, **how), CAP[dtype], "weights")


# what is refused


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(k=torch.ones(1, 2, 5, 8)), r"k and v should be \(1, 2, S, 16\)"),
        (dict(v=torch.ones(1, 2, 6, 16)), r"are \(1, 2, 5, 16\) and \(1, 2, 6, 16\)"),
        (dict(q=torch.ones(1, 2, 3, 16, dtype=torch.float64)), "float64, float32, float32"),
        (dict(mask=torch.ones(5)), "mask is float32, and should be bool"),
        (dict(mask=torch.ones(3, 4, dtype=torch.bool)), r"mask is \(3, 4\), which does not broadcast"),
        (dict(bias=torch.ones(5, dtype=torch.bool)), "bias is bool, and should be a float"),
        (dict(bias=torch.ones(1, 1, 1, 3, 5)), "which does not broadcast"),
    ],
)
def test_refused(change, words, device):
    given = dict(q=torch.ones(1, 2, 3, 16), k=torch.ones(1, 2, 5, 16), v=torch.ones(1, 2, 5, 16)) | change
    given = {name: x.to(device) for name, x in given.items()}
    for function in (attention, attention_naive.attention):
        with pytest.raises(OpsError, match=words):
            function(given.pop("q"), given.pop("k"), given.pop("v"), **given)
        given = {name: x.to(device) for name, x in given.items()} | {
            name: change.get(name, torch.ones(1, 2, 3 if name == "q" else 5, 16)).to(device) for name in "qkv"
        }


def test_heads_too_wide(device):
    q = torch.ones(1, 1, 2, 257, device=device)
    with pytest.raises(OpsError, match="257 wide, and the kernels hold 1 to 256"):
        attention(q, q, q)
