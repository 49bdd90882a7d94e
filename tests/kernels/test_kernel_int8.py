"""kernels/int8.py against the formulas of LLM.int8() in NumPy: integers exactly, sums no worse than one rounding."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits

from minivl.errors import InputError, OpsError
from minivl.kernels.int8 import TILES, int8_linear, quantise_rows
from minivl.ops import plain

SMALL = dict(BLOCK_M=16, BLOCK_F=32, BLOCK_C=32, GROUP=2, BLOCK_O=16)
CAP = {"float32": 1e-3, "float16": 0.1, "bfloat16": 1.0}
few = settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, layouts = st.integers(1, 70), st.sampled_from(LAYOUTS)
dtypes = st.sampled_from(tuple(CAP))


def half(x):
    """A tensor of any dtype, rounded to float16, as float32 in NumPy: where all of int8 begins."""
    return x.cpu().half().float().numpy()


def quantised(x, threshold=0.0):
    """The definition: x (M, C) float32 -> q (M, C) int8, absolute maxima (M,), the outlier columns' numbers."""
    large = np.abs(x) >= threshold if threshold else np.zeros(x.shape, bool)
    small = np.where(large, np.float32(0), x)
    top = np.abs(small).max(1)
    stretch = np.float32(127) / np.where(top == 0, np.float32(1), top)
    q = np.rint(small * stretch[:, None]).astype(np.int8)  # np.rint sends ties to the even number
    outliers = np.flatnonzero(large.any(0))
    q[:, outliers] = 0
    return q, top, outliers


def product(x, w, scales, b, threshold):
    """y in float64 from exact integers: x (M, C) a tensor of any dtype, w (F, C) int8 -> (M, F)."""
    x, whole = half(x), double(x)  # the outliers are not rounded
    q, top, outliers = quantised(x, threshold)
    sums = q.astype(np.int64) @ w.astype(np.int64).T  # (M, F)
    y = sums * (top[:, None].astype(np.float64) * scales * plain.PER_STEP)
    return y + whole[:, outliers] @ (w[:, outliers] * (scales[:, None] / 127.0)).T + b


@few
@given(sizes, st.integers(1, 600), dtypes, layouts)
def test_weights_become_the_right_integers(device, rows, width, dtype, layout):
    x = draw(np.random.default_rng(rows * width), (rows, width), dtype, device, layout, pad=8)
    q, top = quantise_rows(x)
    wanted, wanted_top, _ = quantised(half(x))
    same_bits(q.cpu(), torch.from_numpy(wanted), "integers")
    same_bits(top.cpu(), torch.from_numpy(wanted_top), "maxima")


def test_ties_go_to_the_even_integer(device):
    """A row whose maximum is 127 is not stretched, so its halves stay halves."""
    x = torch.tensor([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 0.49]], device=device)
    assert quantise_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2, -2, 126, -126, 0]]


def test_the_product_is_rounded_before_the_tie_is_broken(device):
    """x · (127 / a) in float32 falls onto a tie that lies a little beside the exact product.

    One fused multiply-add would not see that tie, and send the number the other way.
    """
    every = np.arange(1, 1 << 15, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[(every > 0.01) & (every < 1)]
    for top in (np.float32(1.0009765625), np.float32(1.1845703125), np.float32(1.7001953125)):
        stretch = np.float32(127) / top
        exact, rounded = np.rint(every.astype(np.float64) * stretch), np.rint(every * stretch)
        telling = every[exact != rounded]
        x = torch.from_numpy(np.append(telling, top)[None]).to(device)
        assert quantise_rows(x)[0][0].tolist() == [*rounded[exact != rounded].astype(int), 127]


def test_a_row_of_zeros_stays_one(device):
    q, top = quantise_rows(torch.tensor([[0.0, 0.0], [1.0, -2.0]], device=device))
    assert q.tolist() == [[0, 0], [64, -127]] and top.tolist() == [0.0, 2.0]


@few
@given(sizes, st.integers(1, 600), dtypes, layouts, st.integers(0, 40))
def test_outliers_are_left_out(device, rows, width, dtype, layout, outliers):
    rng = np.random.default_rng(rows * width)
    x = draw(rng, (rows, width), dtype, device, layout, pad=8)
    for i, j in zip(rng.integers(0, rows, outliers), rng.integers(0, width, outliers), strict=True):
        x[i, j] = float(rng.choice([6.0, -6.0, 5.996, 17.0, -300.0]))
    q, top = quantise_rows(x, 6.0)
    wanted, wanted_top, _ = quantised(half(x), 6.0)
    same_bits(q.cpu(), torch.from_numpy(wanted), "integers")
    same_bits(top.cpu(), torch.from_numpy(wanted_top), "maxima")


def test_the_threshold_is_met_after_rounding_to_float16(device):
    x = torch.tensor([[1.0, 5.9990, 5.9985, -6.0]], device=device)  # float16 has nothing between 5.996 and 6.0
    assert x.half().tolist() == [[1.0, 6.0, 6.0, -6.0]]
    x[0, 2] = 5.9975
    assert quantise_rows(x, 6.0)[0].tolist() == [[21, 0, 127, 0]]


@few
@given(sizes, sizes, sizes, layouts, layouts)
def test_integer_products_are_exact(device, tokens, width, features, one, other):
    """Rows whose maximum is 127 are their own integers, and the scale 127 is 1: y is the int32 sum itself."""
    rng = np.random.default_rng(tokens * width)
    x, w = (rng.integers(-127, 128, (n, width)) for n in (tokens, features))
    x[:, 0] = 127
    at, held = draw(rng, x.shape, "float16", device, one, pad=8), draw(rng, w.shape, "int8", device, other, pad=16)
    at.copy_(torch.from_numpy(x))
    held.copy_(torch.from_numpy(w))
    scales = torch.full((features,), 127.0, device=device)
    got = int8_linear(at.float(), held, scales, threshold=0, tile=SMALL)
    sums = np.rint(double(got) / (127**2 * plain.PER_STEP))  # so near are the float32 that the whole number is certain
    np.testing.assert_array_equal(sums, x @ w.T)


@few
@given(sizes, st.integers(1, 130), sizes, dtypes, st.tuples(layouts, layouts), st.integers(0, 30), st.booleans())
def test_int8_linear(device, tokens, width, features, dtype, how, outliers, biased):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    for i, j in zip(rng.integers(0, tokens, outliers), rng.integers(0, width, outliers), strict=True):
        x[i, j] = float(rng.choice([6.0, -6.0, 12.5]))
    w = draw(rng, (features, width), "int8", device, how[1], pad=16)
    scales = torch.from_numpy(rng.uniform(0.1, 2, 2 * features).astype(np.float32)).to(device)[::2]
    b = draw(rng, (features,), dtype, device) if biased else None
    exact = product(x, w.cpu().numpy(), double(scales), 0 if b is None else double(b), 6.0)
    reference = torch.from_numpy(exact).to(x.dtype)
    no_worse(int8_linear(x, w, scales, b, tile=SMALL), exact, reference, CAP[dtype], "int8_linear")


@pytest.mark.parametrize("most", TILES)
def test_every_shipped_tile(most, device, rng):
    x = draw(rng, (int(min(most, 140)), 200), "float16", device)
    x[:, 3] *= 10
    w, scales = draw(rng, (150, 200), "int8", device), torch.ones(150, device=device)
    exact = product(x, w.cpu().numpy(), double(scales), 0, 6.0)
    no_worse(int8_linear(x, w, scales, tile=TILES[most]), exact, torch.from_numpy(exact).half(), 0.1, "int8_linear")


def test_what_float16_cannot_hold_is_an_outlier_like_any_other(device):
    x = torch.tensor([[1e6, 1.0], [0.5, -2.0]], device=device)
    y = int8_linear(
        x, torch.tensor([[127, 1], [-127, 2]], dtype=torch.int8, device=device), torch.ones(2, device=device)
    )
    assert y[0].tolist() == pytest.approx([1e6, -1e6], rel=1e-4) and y[1].isfinite().all()


def test_more_outlier_columns_than_one_step_takes(device, rng):
    """37 of them, in steps of 16; and every column of the call."""
    w, scales = draw(rng, (20, 50), "int8", device), torch.ones(20, device=device)
    for outliers in (37, 50):
        x = draw(rng, (5, 50), "float32", device)
        x[2, :outliers] = 9
        exact = product(x, w.cpu().numpy(), double(scales), 0, 6.0)
        no_worse(int8_linear(x, w, scales), exact, torch.from_numpy(exact).float(), 1e-3, "int8_linear")


def test_outliers_far_apart(device, rng):
    """Columns are numbered 1024 at a time, rows searched 32 or 64 at a time."""
    x, w = draw(rng, (130, 2100), "float16", device), draw(rng, (3, 2100), "int8", device)
    x[0, 7], x[129, 1023], x[64, 1024], x[40, 2099] = 7, -8, 9, 30
    scales = torch.ones(3, device=device)
    exact = product(x, w.cpu().numpy(), double(scales), 0, 6.0)
    no_worse(int8_linear(x, w, scales), exact, torch.from_numpy(exact).half(), 0.5, "int8_linear")


def test_another_rows_outlier_changes_mine_a_little(device, rng):
    x, w = draw(rng, (2, 3, 40), "float16", device), draw(rng, (8, 40), "float32", device)
    q, scales = quantise_rows(w)
    alone = int8_linear(x, q, scales)
    x[1, 2, 5] = 50
    beside = int8_linear(x, q, scales)
    assert alone.shape == (2, 3, 8)
    assert 0 < (alone[0] - beside[0]).abs().max() < 0.1


def test_near_the_product_that_it_stands_for(device, rng):
    x, w = draw(rng, (6, 256), "float32", device), draw(rng, (32, 256), "float32", device)
    y = double(int8_linear(x, *quantise_rows(w)))
    exact = double(x) @ double(w).T
    assert 0 < np.linalg.norm(y - exact) / np.linalg.norm(exact) < 0.02


def test_numpy_arrays(rng):
    x, w = rng.standard_normal((3, 20)).astype(np.float32), rng.standard_normal((7, 20)).astype(np.float32)
    q, scales = quantise_rows(w)
    y = int8_linear(x, q, scales)
    assert [type(a) for a in (q, scales, y)] == [np.ndarray] * 3 and (q.dtype, y.dtype) == (np.int8, np.float32)
    np.testing.assert_allclose(y, product(torch.from_numpy(x), q, scales, 0, 6.0), atol=1e-4)


def test_no_tokens(device, rng):
    w, scales = draw(rng, (8, 16), "int8", device), torch.ones(8, device=device)
    assert int8_linear(torch.ones(2, 0, 16, device=device), w, scales).shape == (2, 0, 8)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (
            lambda x, w, s: int8_linear(x, w[:, :3], s),
            InputError,
            r"int8_linear: w has shape \(4, 3\), and \(4, 5\) fits",
        ),
        (lambda x, w, s: int8_linear(x, w, s, x[0]), InputError, r"b has shape \(5,\), and \(4,\) fits"),
        (lambda x, w, s: int8_linear(x, w.float(), s), OpsError, "w is float32 and scale float32 .*quantise_rows"),
        (lambda x, w, s: int8_linear(x, w, s[:2]), OpsError, r"scale float32 \(2,\); wanted are int8 rows and one"),
        (lambda x, w, s: int8_linear(x, w, s.half()), OpsError, "scale float16"),
        (lambda x, w, s: int8_linear(x, w, s, s.half()), OpsError, "b is float16 and x is float32"),
        (lambda x, w, s: int8_linear(x.double(), w, s), OpsError, "x is float64"),
        (lambda x, w, s: quantise_rows(w), OpsError, "quantise_rows: x is int8, and the kernel takes float32"),
        (lambda x, w, s: quantise_rows(x[:0]), InputError, r"x has shape \(0, 5\), and there is nothing"),
    ],
)
def test_refusals(call, kind, words, device):
    with pytest.raises(kind, match=words):
        call(
            torch.ones(4, 5, device=device),
            torch.ones(4, 5, dtype=torch.int8, device=device),
            torch.ones(4, device=device),
        )
