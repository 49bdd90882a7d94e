"""kernels/layer_norm.py and its naive version against float64, and no worse than torch: results and gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits
from kernel_gradients import hold, size

from minivl.errors import OpsError
from minivl.kernels import rows
from minivl.kernels.layer_norm import (
    WIDEST,
    WIDEST_BACKWARD,
    add_layer_norm,
    add_layer_norm_backward,
    backward_config,
    config,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from minivl.kernels.layer_norm_naive import layer_norm_naive
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 5e-5, "float16": 0.02, "bfloat16": 0.15}
EPS = 1e-5
few = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, layouts = st.sampled_from(DTYPES), st.lists(st.sampled_from(LAYOUTS), min_size=5, max_size=5)
seeds = st.integers(0, 2**32 - 1)


def exact_statistics(x, eps=EPS):
    """mean (...) and 1/√(var + eps) (...) of rows in float64."""
    return x.mean(-1), 1 / np.sqrt(x.var(-1) + eps)


def hold_layer_norm(got, mean, rstd, inputs, w, b, dtype, what, eps=EPS):
    """Compare a layer norm of Σ inputs with the truth; `inputs` are tensors of one dtype."""
    exact = sum(map(double, inputs))
    total = sum(inputs[1:], inputs[0])  # as torch rounds it
    reference = F.layer_norm(total, total.shape[-1:], w, b, eps)
    no_worse(got, numpy_ops.layer_norm(exact, double(w), double(b), eps), reference, CAP[dtype], what)
    exact_mean, exact_rstd = exact_statistics(exact, eps)
    single = sum((x.float() for x in inputs[1:]), inputs[0].float())
    torch_rstd = torch.native_layer_norm(single, single.shape[-1:], None, None, eps)[2]
    no_worse(rstd, exact_rstd, torch_rstd[..., 0], 1e-4 * exact_rstd.max(), f"1/σ of {what}")
    assert mean.dtype == torch.float32
    error = np.abs(double(mean) - exact_mean)  # the terms may cancel, so it is measured by them and not by the mean
    assert (error <= 2**-22 * np.abs(exact).mean(-1)).all(), f"mean of {what} is off by {error.max():.3g}"


def hold_rms_norm(got, rstd, x, w, dtype, what, eps=EPS):
    reference = F.rms_norm(x, x.shape[-1:], w, eps)
    no_worse(got, numpy_ops.rms_norm(double(x), double(w), eps), reference, CAP[dtype], what)
    exact = 1 / np.sqrt((double(x) ** 2).mean(-1) + eps)
    no_worse(rstd, exact, (x.float().square().mean(-1) + eps).rsqrt(), 1e-4 * exact.max(), f"1/rms of {what}")


@few
@given(
    st.lists(st.integers(1, 5), max_size=2).map(tuple),
    st.integers(1, 70),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 32, 128]),
    st.sampled_from(DTYPES),
    st.lists(st.sampled_from(LAYOUTS), min_size=4, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_small_tiles(device, watch, shape, C, ROWS, BLOCK, dtype, layouts, seed):
    """Ragged rows and blocks; a width beyond BLOCK takes the kernel that loops."""
    rng, tile = np.random.default_rng(seed), dict(ROWS=ROWS, BLOCK=BLOCK)
    x, y = (draw(rng, (*shape, C), dtype, device, layout, pad) for layout, pad in zip(layouts[:2], (3, 8), strict=True))
    w, b = (draw(rng, (C,), dtype, device, layout) for layout in layouts[2:])
    what = f"{shape} x {C} in tiles of {ROWS} x {BLOCK}"
    with watch():
        got = layer_norm(x, w, b, EPS, with_statistics=True, tile=tile)
        root = rms_norm(x, w, EPS, with_statistics=True, tile=tile)
        normed, total, *statistics = add_layer_norm(x, y, w, b, EPS, with_sum=True, with_statistics=True, tile=tile)
        naive = layer_norm_naive(x, w, b, EPS, tile=dict(BLOCK=BLOCK))
    hold_layer_norm(*got, [x], w, b, dtype, f"layer norm of {what}")
    hold_layer_norm(naive, *got[1:], [x], w, b, dtype, f"naive layer norm of {what}")
    hold_rms_norm(*root, x, w, dtype, f"RMS norm of {what}")
    hold_layer_norm(normed, *statistics, [x, y], w, b, dtype, f"layer norm of a sum of {what}")
    no_worse(total, double(x) + double(y), x + y, CAP[dtype], f"sum of {what}")


@pytest.mark.parametrize("BLOCK", [128, 32])
@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.5])
def test_eps(BLOCK, eps, device, rng):
    x, tile = 0.01 * draw(rng, (3, 100), "float32", device), dict(ROWS=2, BLOCK=BLOCK)
    w, b = torch.ones(100, device=device), torch.zeros(100, device=device)
    got = layer_norm(x, w, b, eps, with_statistics=True, tile=tile)
    hold_layer_norm(*got, [x], w, b, "float32", f"layer norm with eps {eps}", eps)
    hold_rms_norm(*rms_norm(x, w, eps, with_statistics=True, tile=tile), x, w, "float32", f"RMS norm, eps {eps}", eps)


@pytest.mark.parametrize("BLOCK", [2048, 256])
def test_a_large_mean_costs_no_digits(BLOCK, device, rng):
    """Rows that vary by 0.01 around 10,000, where float32 itself has steps of 0.001: exact nevertheless."""
    numbers = 1e4 + 0.01 * rng.standard_normal((32, 1408))
    x = torch.tensor(numbers, dtype=torch.float32, device=device)
    w, b = torch.ones(1408, device=device), torch.zeros(1408, device=device)
    got, mean, rstd = layer_norm(x, w, b, 1e-12, with_statistics=True, tile=dict(ROWS=32, BLOCK=BLOCK))
    exact = double(x)
    np.testing.assert_allclose(double(got), numpy_ops.layer_norm(exact, 1.0, 0.0, 1e-12), atol=1e-4)
    exact_mean, exact_rstd = exact_statistics(exact, 1e-12)
    np.testing.assert_allclose(double(mean), exact_mean, rtol=2**-24)  # the nearest float32
    np.testing.assert_allclose(double(rstd), exact_rstd, rtol=1e-5)


def test_a_first_block_unlike_the_rest(device, rng):
    """The pivot of a wide row is the mean of its first block, here far from the row's."""
    x = draw(rng, (3, 1000), "float32", device)
    x[:, :64] += 1000
    w, b = draw(rng, (1000,), "float32", device), draw(rng, (1000,), "float32", device)
    got = layer_norm(x, w, b, EPS, with_statistics=True, tile=dict(ROWS=1, BLOCK=64))
    exact_mean, exact_rstd = exact_statistics(double(x))
    np.testing.assert_allclose(double(got[0]), numpy_ops.layer_norm(double(x), double(w), double(b), EPS), atol=2e-5)
    np.testing.assert_allclose(double(got[1]), exact_mean, atol=1e-6 / exact_rstd.max())  # of what the rows vary by
    np.testing.assert_allclose(double(got[2]), exact_rstd, rtol=1e-5)


@pytest.mark.parametrize("BLOCK", [64, 16])
def test_a_constant_row_is_the_shift(BLOCK, device):
    x, w, b = (torch.full(shape, value, device=device) for shape, value in (((2, 40), 7.3), ((40,), 2.0), ((40,), 0.5)))
    normed, mean, rstd = layer_norm(x, w, b, 1e-6, with_statistics=True, tile=dict(ROWS=2, BLOCK=BLOCK))
    np.testing.assert_allclose(double(normed), 0.5, atol=1e-3)
    np.testing.assert_allclose(double(mean), 7.3, rtol=1e-6)
    np.testing.assert_allclose(double(rstd), 1000, rtol=1e-3)


@pytest.mark.parametrize("BLOCK", [64, 16])
def test_large_constant_rows_have_no_negative_variance(BLOCK, device, rng):
    """1/60 is a little more than it should be in float32, so E(s)² comes out above E(s²) in some of these rows."""
    x = (1e6 * draw(rng, (64, 1), "float32", device)).expand(64, 60)
    w, b = torch.ones(60, device=device), torch.zeros(60, device=device)
    normed, _, rstd = layer_norm(x, w, b, 1e-12, with_statistics=True, tile=dict(ROWS=64, BLOCK=BLOCK))
    assert double(normed).max() < 0.1 and double(rstd).max() <= 1e6 * (1 + 1e-6)


@pytest.mark.parametrize("BLOCK", [64, 16])
def test_nan_stays_in_its_row(BLOCK, device, rng):
    x = draw(rng, (5, 40), "float32", device)
    x[2, 39] = float("nan")
    w, b, tile = torch.ones(40, device=device), torch.zeros(40, device=device), dict(ROWS=4, BLOCK=BLOCK)
    wanted = [False, False, True, False, False]
    for y in (layer_norm(x, w, b, EPS, tile=tile), rms_norm(x, w, EPS, tile=tile)):
        assert y.isnan().all(-1).tolist() == wanted
        assert y.isnan().any(-1).tolist() == wanted
    _, mean, rstd = layer_norm(x, w, b, EPS, with_statistics=True, tile=tile)
    assert mean.isnan().tolist() == rstd.isnan().tolist() == wanted


def test_the_sum_is_normalised_before_it_is_rounded(device):
    """2048 + 0.5 is 2048 in float16, so the rounded sum of this row has no variance at all."""
    x = torch.full((1, 8), 2048.0, dtype=torch.float16, device=device)
    y = torch.tensor([[0.5, 0.0] * 4], dtype=torch.float16, device=device)
    w, b = torch.ones(8, dtype=torch.float16, device=device), torch.zeros(8, dtype=torch.float16, device=device)
    normed, total = add_layer_norm(x, y, w, b, 1e-6, with_sum=True)
    assert total.tolist() == x.tolist()
    np.testing.assert_allclose(double(normed), [[1.0, -1.0] * 4], atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [1, 17, 64, 88, 768, 1023, 1408, 5000])
def test_widths_of_the_models_and_others(C, dtype, device, rng):
    layout = LAYOUTS[C % len(LAYOUTS)]
    x, y = draw(rng, (2, 3, C), dtype, device, layout), draw(rng, (2, 3, C), dtype, device, "padded", pad=5)
    w, b = draw(rng, (C,), dtype, device), draw(rng, (C,), dtype, device, "strided")
    hold_layer_norm(*layer_norm(x, w, b, EPS, with_statistics=True), [x], w, b, dtype, f"layer norm of {C}")
    hold_rms_norm(*rms_norm(x, w, EPS, with_statistics=True), x, w, dtype, f"RMS norm of {C}")
    normed, total, *statistics = add_layer_norm(x, y, w, b, EPS, with_sum=True, with_statistics=True)
    hold_layer_norm(normed, *statistics, [x, y], w, b, dtype, f"layer norm of a sum of {C}")
    no_worse(total, double(x) + double(y), x + y, CAP[dtype], f"sum of {C}")


def test_what_is_returned(device, rng):
    x, y = draw(rng, (2, 3, 16), "float16", device), draw(rng, (2, 3, 16), "float16", device)
    w, b = draw(rng, (16,), "float16", device), draw(rng, (16,), "float16", device)
    normed, total, mean, rstd = add_layer_norm(x, y, w, b, EPS, with_sum=True, with_statistics=True)
    assert normed.shape == total.shape == (2, 3, 16) and normed.dtype == total.dtype == torch.float16
    assert mean.shape == rstd.shape == (2, 3) and mean.dtype == rstd.dtype == torch.float32
    same_bits(add_layer_norm(x, y, w, b, EPS), normed, "without the rest")
    same_bits(add_layer_norm(x, y, w, b, EPS, with_sum=True)[1], total, "with the sum only")
    same_bits(add_layer_norm(x, y, w, b, EPS, with_statistics=True)[2], rstd, "with the statistics only")
    same_bits(layer_norm(x, w, b, EPS), layer_norm(x, w, b, EPS, with_statistics=True)[0], "layer norm alone")
    same_bits(rms_norm(x, w, EPS), rms_norm(x, w, EPS, with_statistics=True)[0], "RMS norm alone")


def test_no_rows_and_one_row(device):
    w = torch.ones(8, device=device)
    assert layer_norm(torch.empty(2, 0, 8, device=device), w, w, EPS).shape == (2, 0, 8)
    assert layer_norm(torch.arange(8.0, device=device), w, w, EPS).shape == (8,)


def test_refusals(device):
    x, w = torch.ones(2, 8, device=device), torch.ones(8, device=device)
    with pytest.raises(OpsError, match="x is float64"):
        layer_norm(x.double(), w.double(), w.double(), EPS)
    with pytest.raises(OpsError, match="w is float16 and x is float32"):
        rms_norm(x, w.half(), EPS)
    with pytest.raises(OpsError, match=r"layer_norm: b has shape \(7,\), the rows need \(8,\)"):
        layer_norm(x, w, w[:7], EPS)
    with pytest.raises(OpsError, match=r"x has shape \(2, 8\) and y \(1, 8\)"):
        add_layer_norm(x, x[:1], w, w, EPS)


# ---- backward --------------------------------------------------------------------------------------------------
def hold_gradients(x, y, dout, dsum, w, b, what, tile=None, eps=EPS):
    """Layer norm, RMS norm, and the norm of a sum that is carried on."""
    one, carried = size(dout), torch.cat([dout, dsum])
    steep = one * size(w) / np.sqrt(double(x).var(-1).min() + eps)
    got = layer_norm_backward(dout, x, w, b, eps, tile=tile)
    hold(got, lambda *a: torch_ops.layer_norm(*a, eps), dout, [x, w, b], f"layer norm of {what}", (steep, one, one))
    got = rms_norm_backward(dout, x, w, eps, tile=tile)
    hold(got, lambda *a: torch_ops.rms_norm(*a, eps), dout, [x, w], f"RMS norm of {what}", (steep, one))
    got = add_layer_norm_backward(dout, x, y, w, b, eps, dsum=dsum, tile=tile)
    assert got[0] is got[1]
    steep = one * size(w) / np.sqrt((double(x) + double(y)).var(-1).min() + eps)

    def both(x, y, w, b):  # the first half gets dout, the second half dsum
        return torch.cat([torch_ops.add_layer_norm(x, y, w, b, eps), x + y])

    hold(got, both, carried, [x, y, w, b], f"layer norm of a sum of {what}", (steep, steep, one, one))


@few
@given(st.integers(1, 9), st.integers(5, 70), st.sampled_from([1, 2, 4]), st.integers(1, 3), dtypes, layouts, seeds)
def test_gradients_in_small_tiles(device, watch, rows, C, ROWS, PARTS, dtype, layouts, seed):
    """Ragged rows; chunks of them in several programs; strides of every kind. Narrower rows do nothing but cancel."""
    rng, tile = np.random.default_rng(seed), dict(ROWS=ROWS, BLOCK=128, PARTS=PARTS)
    x, y, dout, dsum = (draw(rng, (rows, C), dtype, device, *how) for how in zip(layouts, (3, 8, 5, 1), strict=False))
    w, b = draw(rng, (C,), dtype, device, layouts[4]), draw(rng, (C,), dtype, device)
    with watch():
        hold_gradients(x, y, dout, dsum, w, b, f"{rows} x {C} in {PARTS} programs of {ROWS} rows", tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [1, 88, 768, 1408, 5000])
def test_gradients_of_the_models_widths(C, dtype, device, rng):
    x, y, dout, dsum = (draw(rng, (6, C), dtype, device, LAYOUTS[(C + i) % 5]) for i in range(4))
    w, b = draw(rng, (C,), dtype, device, "strided"), draw(rng, (C,), dtype, device)
    hold_gradients(x, y, dout, dsum, w, b, f"rows of {C}")


def test_gradients_of_more_axes_and_none(device, rng):
    x, dout = draw(rng, (2, 3, 8), "float32", device), draw(rng, (2, 3, 8), "float32", device, "permuted")
    w, b = draw(rng, (8,), "float32", device), draw(rng, (8,), "float32", device)
    dx, dw, db = layer_norm_backward(dout, x, w, b, EPS)
    assert (dx.shape, dw.shape, db.shape) == ((2, 3, 8), (8,), (8,))
    hold((dx, dw, db), lambda *a: torch_ops.layer_norm(*a, EPS), dout, [x, w, b], "three axes")
    dx, dw, db = layer_norm_backward(dout[:, :0], x[:, :0], w, b, EPS)
    assert dx.shape == (2, 0, 8) and dw.tolist() == db.tolist() == [0.0] * 8
    assert rms_norm_backward(dout[0, 0], x[0, 0], w, EPS)[0].shape == (8,)


@pytest.mark.parametrize("eps", [1e-12, 0.5])
def test_gradients_with_eps(eps, device, rng):
    x, y, dout, dsum = (0.1 * draw(rng, (3, 40), "float32", device) for _ in range(4))
    hold_gradients(x, y, dout, dsum, x[0].clone(), y[0].clone(), f"eps {eps}", eps=eps)


def test_a_large_mean_costs_the_gradients_no_digits(device, rng):
    """Rows that vary by 0.01 around 10,000, where float32 itself has steps of 0.001."""
    x = torch.tensor(1e4 + 0.01 * rng.standard_normal((4, 1408)), dtype=torch.float32, device=device)
    dout, w = draw(rng, (4, 1408), "float32", device), torch.ones(1408, device=device)
    got = layer_norm_backward(dout, x, w, w, 1e-12)
    exact = numpy_backward.layer_norm_backward(double(dout), double(x), double(w), double(w), 1e-12)
    for ours, true in zip(got, exact, strict=True):
        np.testing.assert_allclose(double(ours), true, atol=1e-5 * np.abs(true).max())


def test_only_what_is_wanted(device, rng):
    x, dout, w = (draw(rng, shape, "float32", device) for shape in ((5, 8), (5, 8), (8,)))
    dx, dw, db = layer_norm_backward(dout, x, w, w, EPS)
    for wanted in ((True, False, True), (True, True, False), (True, False, False)):
        parts = layer_norm_backward(dout, x, w, w, EPS, wanted=wanted)
        for ours, all_of_it, want in zip(parts, (dx, dw, db), wanted, strict=True):
            assert ours is None if not want else (ours == all_of_it).all()
    assert rms_norm_backward(dout, x, w, EPS, wanted=(True, False))[1] is None
    assert [g is None for g in add_layer_norm_backward(dout, x, x, w, w, EPS, wanted=(True, False, False, True))] == [
        False, False, True, False,
    ]  # fmt: skip


def test_the_sum_is_found_again_before_it_was_rounded(device):
    """2048 + 0.5 is 2048 in float16: of the rounded sum it would be the gradient of a constant row."""
    x = torch.full((1, 8), 2048.0, dtype=torch.float16, device=device)
    y = torch.tensor([[0.5, 0.0] * 4], dtype=torch.float16, device=device)
    dout = torch.tensor([[1.0, 1, -1, -1, 0, 0, 0, 0]], dtype=torch.float16, device=device)
    w = torch.ones(8, dtype=torch.float16, device=device)
    dx, _, dw, _ = add_layer_norm_backward(dout, x, y, w, w, 1e-6)
    np.testing.assert_allclose(double(dx), 4 * double(dout), rtol=2e-3)  # 1/σ of 0.5 and 0 is 4
    np.testing.assert_allclose(double(dw), [1, -1, -1, 1, 0, 0, 0, 0], atol=1e-3)


def test_backward_refuses(device):
    x, w = torch.ones(2, 8, device=device), torch.ones(8, device=device)
    with pytest.raises(OpsError, match=r"layer_norm_backward: dout has shape \(1, 8\) and x \(2, 8\)"):
        layer_norm_backward(x[:1], x, w, w, EPS)
    with pytest.raises(OpsError, match=r"add_layer_norm_backward: y has shape \(1, 8\)"):
        add_layer_norm_backward(x, x, x[:1], w, w, EPS)
    with pytest.raises(OpsError, match="dsum is float16 and x is float32"):
        add_layer_norm_backward(x, x, x, w, w, EPS, dsum=x.half())
    with pytest.raises(OpsError, match=r"rms_norm_backward: w has shape \(7,\)"):
        rms_norm_backward(x, x, w[:7], EPS)
    with pytest.raises(OpsError, match="x is float64"):
        layer_norm_backward(x.double(), x.double(), w.double(), w.double(), EPS)
    wide = torch.ones(1, WIDEST_BACKWARD + 1, device=device)
    with pytest.raises(OpsError, match="keeps up to 8192: use the torch ops"):
        rms_norm_backward(wide, wide, wide[0], EPS)


# ---- both ------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not rows.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, y, w, b = (rng.standard_normal(shape, np.float32) for shape in ((4, 9), (4, 9), 9, 9))
    before = [a.copy() for a in (x, y, w, b)]
    normed, total = add_layer_norm(x, y, w, b, EPS, with_sum=True)
    assert isinstance(normed, np.ndarray) and isinstance(total, np.ndarray)
    np.testing.assert_allclose(normed, numpy_ops.layer_norm(x + y, w, b, EPS), atol=2e-6)
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_allclose(rms_norm(x[::2, ::-1], w, EPS), numpy_ops.rms_norm(x[::2, ::-1], w, EPS), atol=2e-6)
    for a, kept in zip((x, y, w, b), before, strict=True):
        np.testing.assert_array_equal(a, kept)


def test_gradients_of_numpy_arrays(rng):
    if not rows.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, dout, w = (rng.standard_normal(shape, np.float32) for shape in ((4, 9), (4, 9), 9))
    for kernel, plain, args in (
        (layer_norm_backward, numpy_backward.layer_norm_backward, (dout, x, w, w, EPS)),
        (rms_norm_backward, numpy_backward.rms_norm_backward, (dout, x[::2, ::-1].repeat(2, 0), w, EPS)),
    ):
        before = [np.copy(a) for a in args]
        for ours, theirs in zip(kernel(*args), plain(*args), strict=True):
            assert isinstance(ours, np.ndarray)
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
        for a, kept in zip(args, before, strict=True):
            np.testing.assert_array_equal(a, kept)


def test_the_tables_of_tiles(monkeypatch):
    """What a GPU gets: a load of 16 bytes in float16 for each thread, narrow rows together, wide ones in a loop."""
    monkeypatch.setattr(rows, "INTERPRETED", False)
    assert config(1408) == dict(BLOCK=2048, ROWS=1, num_warps=8)
    assert config(768) == dict(BLOCK=1024, ROWS=1, num_warps=4)
    assert config(88) == dict(BLOCK=128, ROWS=8, num_warps=4)
    assert config(5000) == dict(BLOCK=WIDEST, ROWS=1, num_warps=8)
    assert backward_config(1408) == dict(BLOCK=2048, ROWS=1, PARTS=256, num_warps=8)
    assert backward_config(88) == dict(BLOCK=128, ROWS=8, PARTS=256, num_warps=4)
    assert backward_config(5120) == dict(BLOCK=8192, ROWS=1, PARTS=256, num_warps=16)
