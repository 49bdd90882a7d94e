"""The backward kernels with a product inside: linear layers with and without a curve, and patches."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits

from minivl.errors import InputError, OpsError
from minivl.kernels import linear_backward as linear_file
from minivl.kernels import patches_backward as patches_file
from minivl.kernels.linear_backward import linear_act_backward, linear_backward
from minivl.kernels.patches_backward import patch_embed_backward
from minivl.ops import ACTS
from minivl.ops import backward as numpy_backward
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 3e-5, "float16": 0.02, "bfloat16": 0.15}  # times the largest exact number, where that is above 1
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, layouts = st.sampled_from(DTYPES), st.lists(st.sampled_from(LAYOUTS), min_size=3, max_size=3)
seeds, block = st.integers(0, 2**32 - 1), st.sampled_from([16, 32])
tiles = st.builds(dict, BLOCK_R=block, BLOCK_J=block, BLOCK_K=block, GROUP=st.integers(1, 3))
dz_tiles = st.builds(dict, BLOCK_M=block, BLOCK_F=block, BLOCK_C=block, GROUP=st.integers(1, 3))


def hold(got, function, dout, inputs, what):
    """Every gradient of `got` that is not None against torch's: float64, and the dtype of the inputs."""
    gradients = []
    for kind in (torch.float64, dout.dtype):
        given = [None if x is None else x.detach().to(kind).requires_grad_() for x in inputs]
        leaves = [x for x in given if x is not None]
        found = iter(torch.autograd.grad(function(*given), leaves, dout.to(kind)))
        gradients.append([None if x is None else next(found) for x in inputs])
    for number, (ours, exact, reference) in enumerate(zip(got, *gradients, strict=True)):
        if ours is not None:
            exact, dtype = double(exact), str(dout.dtype).removeprefix("torch.")
            cap = CAP[dtype] * max(1.0, np.abs(exact).max())
            terms = np.sqrt(np.mean(double(dout) ** 2)) / max(np.sqrt(np.mean(exact**2)), 1e-300)  # they may cancel
            rms = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 6e-3}[dtype] * max(1.0, terms)
            no_worse(ours, exact, reference, cap, f"gradient {number} of {what}", rms, times=3)


# ---- linear ------------------------------------------------------------------------------------------------------
@few
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), tiles, dz_tiles, st.sampled_from([None, *ACTS]),
    st.booleans(), dtypes, layouts, seeds,
)  # fmt: skip
def test_linear(device, watch, M, F, C, tile, dz_tile, act, with_bias, dtype, layouts, seed):
    """Ragged edges of every tile, tails and none, strides of every kind."""
    rng = np.random.default_rng(seed)
    shapes = ((M, F), (M, C), (F, C))
    dout, x, w = (draw(rng, *how) for how in zip(shapes, [dtype] * 3, [device] * 3, layouts, (3, 8, 5), strict=True))
    b = draw(rng, (F,), dtype, device, "strided") if with_bias else None
    with watch():
        if act is None:
            got = linear_backward(dout, x, w, b, tile=tile)
        else:
            got = linear_act_backward(dout, x, w, b, act=act, tile=tile, dz_tile=dz_tile)
    assert (got[2] is None) == (b is None)
    run = torch_ops.linear if act is None else lambda *a: torch_ops.linear_act(*a, act=act)
    hold(got, run, dout, [x, w, b], f"{act or 'linear'} of {M} x {C} to {F} in {tile}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_in_shipped_tiles(dtype, device, rng):
    """Several programs on every side."""
    dout, x = draw(rng, (2, 150, 270), dtype, device, "padded"), draw(rng, (2, 150, 520), dtype, device)
    w, b = draw(rng, (270, 520), dtype, device), draw(rng, (270,), dtype, device)
    w.mul_(0.05)
    got = linear_act_backward(dout, x, w, b, act="gelu")
    assert got[0].shape == (2, 150, 520)
    hold(got, lambda *a: torch_ops.linear_act(*a, act="gelu"), dout, [x, w, b], "gelu of 300 x 520 to 270")


def test_only_what_is_wanted(device, rng):
    dout, x, w, b = (draw(rng, shape, "float32", device) for shape in ((5, 4), (5, 8), (4, 8), (4,)))
    for run in (linear_backward, lambda *a, **how: linear_act_backward(*a, act="tanh", **how)):
        everything = run(dout, x, w, b)
        for wanted in ((True, False, False), (False, True, False), (False, False, True)):
            parts = run(dout, x, w, b, wanted=wanted)
            for ours, all_of_it, want in zip(parts, everything, wanted, strict=True):
                assert ours is None if not want else (ours == all_of_it).all()


def test_one_token_and_none(device, rng):
    dout, x, w, b = (draw(rng, shape, "float32", device) for shape in ((4,), (8,), (4, 8), (4,)))
    dx, dw, db = linear_backward(dout, x, w, b)
    hold((dx, dw, db), torch_ops.linear, dout, [x, w, b], "one token")
    same_bits(db, dout, "the gradient of the bias")
    for got in (
        linear_backward(dout[None][:0], x[None][:0], w, b),
        linear_act_backward(dout[None][:0], x[None][:0], w, b, act="relu"),
    ):
        assert got[0].shape == (0, 8) and not got[1].any() and not got[2].any()
        assert (got[1].shape, got[2].shape) == ((4, 8), (4,))


def test_numbers_beyond_float16_in_the_sums(device, rng):
    """Sums of 500 products of 30 · 30 pass 65,504 on the way, and are summed in float32."""
    dout = torch.full((500, 16), 30.0, dtype=torch.float16, device=device)
    x, w = torch.full_like(dout, 30.0), torch.ones(16, 16, dtype=torch.float16, device=device)
    x[250:] = -30.0
    _, dw, db = linear_backward(dout, x, w, w[0])
    assert not dw.any() and (db == 15000).all()


def test_linear_refuses(device):
    dout, x, w = torch.ones(2, 4, device=device), torch.ones(2, 8, device=device), torch.ones(4, 8, device=device)
    with pytest.raises(InputError, match=r"linear_backward: dout has shape \(3, 4\), and \(2, 4\) fits x \(2, 8\)"):
        linear_backward(torch.ones(3, 4, device=device), x, w)
    with pytest.raises(InputError, match=r"linear_act_backward: b has shape \(8,\), and \(4,\) fits"):
        linear_act_backward(dout, x, w, x[0], act="gelu")
    with pytest.raises(InputError, match="act is 'swoosh'"):
        linear_act_backward(dout, x, w, act="swoosh")
    with pytest.raises(OpsError, match="dout is float16 and x is float32"):
        linear_backward(dout.half(), x, w)


# ---- patches -----------------------------------------------------------------------------------------------------
@few
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.sampled_from([1, 2, 4, 5]),
    st.integers(1, 40), st.builds(dict, BLOCK_N=block, BLOCK_C=block, BLOCK_K=block), st.booleans(), dtypes, layouts,
    seeds,
)  # fmt: skip
def test_patches(device, watch, B, channels, Y, X, P, C, tile, with_bias, dtype, layouts, seed):
    """Pictures that are no whole number of patches, and some smaller than one."""
    rng = np.random.default_rng(seed)
    N = (Y // P) * (X // P)
    pixels = draw(rng, (B, channels, Y, X), dtype, device, layouts[0])
    w, dout = draw(rng, (C, channels, P, P), dtype, device, layouts[1]), draw(rng, (B, N, C), dtype, device, layouts[2])
    b = draw(rng, (C,), dtype, device, "strided") if with_bias else None
    with watch():
        got = patch_embed_backward(dout, pixels, w, b, tile=tile)
    assert (got[0].shape, got[1].shape, got[2] is None) == (pixels.shape, w.shape, b is None)
    what = f"patches {P} of {channels} x {Y} x {X} to {C} in {tile}"
    if N:
        hold(got, torch_ops.patch_embed, dout, [pixels, w, b], what)
    assert not got[0][..., Y // P * P :, :].any() and not got[0][..., X // P * P :].any()
    assert N or not got[1].any()


def test_patches_of_shipped_tiles_and_what_is_wanted(device, rng):
    pixels, w, b = (draw(rng, shape, "float16", device) for shape in ((2, 3, 30, 45), (24, 3, 14, 14), (24,)))
    dout = draw(rng, (2, 6, 24), "float16", device)
    got = patch_embed_backward(dout, pixels, w, b)
    hold(got, torch_ops.patch_embed, dout, [pixels, w, b], "patches of 14 x 14")
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        parts = patch_embed_backward(dout, pixels, w, b, wanted=wanted)
        for ours, all_of_it, want in zip(parts, got, wanted, strict=True):
            assert ours is None if not want else (ours == all_of_it).all()
    with pytest.raises(InputError, match=r"dout \(2, 5, 24\), pixels \(2, 3, 30, 45\) and w"):
        patch_embed_backward(dout[:, :5], pixels, w, b)


# ---- both --------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not linear_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    dout, x, w, b = (rng.standard_normal(shape, np.float32) for shape in ((2, 3, 4), (2, 3, 8), (4, 8), 4))
    pixels, patch, dpatch = (
        rng.standard_normal(shape, np.float32) for shape in ((2, 3, 5, 4), (4, 3, 2, 2), (2, 4, 4))
    )
    calls = [
        (linear_backward, numpy_backward.linear_backward, (dout, x[..., ::-1], w.T.copy().T, b), {}),
        (linear_act_backward, numpy_backward.linear_act_backward, (dout, x, w, b), dict(act="silu")),
        (patch_embed_backward, numpy_backward.patch_embed_backward, (dpatch, pixels, patch, b), {}),
    ]
    for kernel, plain, args, how in calls:
        before = [a.copy() for a in args]
        for ours, theirs in zip(kernel(*args, **how), plain(*args, **how), strict=True):
            assert isinstance(ours, np.ndarray)
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for a, kept in zip(args, before, strict=True):
            np.testing.assert_array_equal(a, kept)


def test_the_tables_of_tiles(monkeypatch):
    """What a GPU gets."""
    monkeypatch.setattr(linear_file, "INTERPRETED", False)
    monkeypatch.setattr(patches_file, "INTERPRETED", False)
    assert linear_file.config(514, 1408, 6144, "bfloat16")["BLOCK_R"] == 128
    assert linear_file.config(514, 1408, 6144, "float32")["BLOCK_R"] == 64
    assert patches_file.config(512, 1408, 588, "float16")["num_warps"] == 4
    assert patches_file.config(512, 1408, 588, "float32")["num_warps"] == 8
