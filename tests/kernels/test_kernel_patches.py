"""kernels/patches.py against float64, and no worse than torch: patches of pictures, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse
from kernel_gradients import hold_products

from minivl.errors import InputError, OpsError
from minivl.kernels import patches
from minivl.kernels.patches import patch_embed, patch_embed_backward
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, layouts = st.sampled_from(DTYPES), st.lists(st.sampled_from(LAYOUTS), min_size=3, max_size=3)
seeds, block = st.integers(0, 2**32 - 1), st.sampled_from([16, 32])


@few
@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 4, 7]),
    st.tuples(st.integers(0, 22), st.integers(0, 22)),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.sampled_from([dict(BLOCK_N=16, BLOCK_C=32, BLOCK_K=16), dict(BLOCK_N=32, BLOCK_C=16, BLOCK_K=64)]),
    st.integers(0, 2**32 - 1),
)
def test_patches(device, watch, B, P, over, C, dtype, layout, bias, tile, seed):
    """Pictures that are not square, with pixels left over right and below; patches that fit no block."""
    rng = np.random.default_rng(seed)
    pixels = draw(rng, (B, 3, P + over[0], P + over[1]), dtype, device, layout)
    w, b = draw(rng, (C, 3, P, P), dtype, device, "padded"), draw(rng, (C,), dtype, device) if bias else None
    with watch():
        got = patch_embed(pixels, w, b, tile=tile)
    exact = numpy_ops.patch_embed(double(pixels), double(w), double(b) if bias else None)
    no_worse(got, exact, torch_ops.patch_embed(pixels, w, b), CAP[dtype], f"patches of {tuple(pixels.shape)} by {P}")


@pytest.mark.parametrize(("size", "P", "C"), [(56, 14, 1408), (48, 16, 768)])
def test_patches_of_the_models(size, P, C, device, rng):
    pixels, w = draw(rng, (2, 3, size, size), "float16", device), draw(rng, (C, 3, P, P), "float16", device)
    b = draw(rng, (C,), "float16", device)
    exact = numpy_ops.patch_embed(double(pixels), double(w), double(b))
    no_worse(patch_embed(pixels, w, b), exact, torch_ops.patch_embed(pixels, w, b), 0.1, f"{P} x {P} patches")


def test_patches_refuse(device):
    pixels, w = torch.ones(1, 3, 8, 8, device=device), torch.ones(5, 3, 4, 4, device=device)
    assert patch_embed(pixels[:, :, :3], w).shape == (1, 0, 5)
    with pytest.raises(InputError, match="pixels have 4 channels, the weights are for 3"):
        patch_embed(torch.ones(1, 4, 8, 8, device=device), w)
    with pytest.raises(OpsError, match=r"b has shape \(4,\)"):
        patch_embed(pixels, w, torch.ones(4, device=device))
    with pytest.raises(OpsError, match="w is float16 and pixels is float32"):
        patch_embed(pixels, w.half())


# ---- backward --------------------------------------------------------------------------------------------------
@few
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.sampled_from([1, 2, 4, 5]),
    st.integers(1, 40), st.builds(dict, BLOCK_N=block, BLOCK_C=block, BLOCK_K=block), st.booleans(), dtypes, layouts,
    seeds,
)  # fmt: skip
def test_gradients(device, watch, B, channels, Y, X, P, C, tile, with_bias, dtype, layouts, seed):
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
        hold_products(got, torch_ops.patch_embed, dout, [pixels, w, b], what)
    assert not got[0][..., Y // P * P :, :].any() and not got[0][..., X // P * P :].any()
    assert N or not got[1].any()


def test_gradients_of_shipped_tiles_and_what_is_wanted(device, rng):
    pixels, w, b = (draw(rng, shape, "float16", device) for shape in ((2, 3, 30, 45), (24, 3, 14, 14), (24,)))
    dout = draw(rng, (2, 6, 24), "float16", device)
    got = patch_embed_backward(dout, pixels, w, b)
    hold_products(got, torch_ops.patch_embed, dout, [pixels, w, b], "patches of 14 x 14")
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        parts = patch_embed_backward(dout, pixels, w, b, wanted=wanted)
        for ours, all_of_it, want in zip(parts, got, wanted, strict=True):
            assert ours is None if not want else (ours == all_of_it).all()
    with pytest.raises(InputError, match=r"dout \(2, 5, 24\), pixels \(2, 3, 30, 45\) and w"):
        patch_embed_backward(dout[:, :5], pixels, w, b)


# ---- both ------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not patches.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    pixels, w = rng.standard_normal((1, 3, 9, 8), np.float32), rng.standard_normal((4, 3, 4, 4), np.float32)
    np.testing.assert_allclose(patch_embed(pixels, w), numpy_ops.patch_embed(pixels, w), atol=2e-5)
    shapes = (2, 4, 4), (2, 3, 5, 4), (4, 3, 2, 2), (4,)
    args = [rng.standard_normal(shape, np.float32) for shape in shapes]  # dout, pixels, w, b
    before = [a.copy() for a in args]
    wanted = numpy_backward.patch_embed_backward(*args)
    for ours, theirs in zip(patch_embed_backward(*args), wanted, strict=True):
        assert isinstance(ours, np.ndarray)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for a, kept in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, kept)


def test_the_tables_of_tiles(monkeypatch):
    """What a GPU gets."""
    monkeypatch.setattr(patches, "INTERPRETED", False)
    assert patches.config(256, 1408, 588, "float16") == dict(
        BLOCK_N=64, BLOCK_C=128, BLOCK_K=64, num_warps=4, num_stages=3
    )
    assert patches.config(256, 1408, 588, "float32")["BLOCK_C"] == 64
    assert patches.backward_config(512, 1408, 588, "float16")["num_warps"] == 4
    assert patches.backward_config(512, 1408, 588, "float32")["num_warps"] == 8
