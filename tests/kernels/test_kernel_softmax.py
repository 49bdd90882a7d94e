"""kernels/softmax.py against float64, and no worse than torch: the shares and their gradient."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse
from kernel_gradients import hold, size

from minivl.errors import OpsError
from minivl.kernels import rows as rows_file
from minivl.kernels.softmax import config, softmax, softmax_backward
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}  # of shares, which are at most 1
few = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
tiles = st.builds(dict, ROWS=st.sampled_from([1, 2, 4]), BLOCK=st.sampled_from([16, 32, 128]))
dtypes, layouts = st.sampled_from(DTYPES), st.lists(st.sampled_from(LAYOUTS), min_size=5, max_size=5)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)


def hold_softmax(got, x, what):
    exact = numpy_ops.softmax(double(x))
    reference = torch.softmax(x, -1).nan_to_num(0)  # torch gives nan where every number is -inf, we give zeros
    no_worse(got, exact, reference, CAP[str(x.dtype).removeprefix("torch.")], f"softmax of {what}")


@few
@given(
    st.lists(st.integers(1, 5), max_size=2).map(tuple),
    st.integers(1, 70),
    tiles,
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(0, 2**32 - 1),
)
def test_softmax(device, watch, shape, C, tile, dtype, layout, scale, seed):
    """Ragged rows and blocks, some numbers -inf, some rows nothing else; a width beyond BLOCK takes the loop."""
    rng = np.random.default_rng(seed)
    x = draw(rng, (*shape, C), dtype, device, layout)
    x.mul_(scale)
    hidden = torch.from_numpy(rng.random((*shape, C)) < rng.choice([0, 0.3, 1], (*shape, 1))).to(device)
    x.masked_fill_(hidden, float("-inf"))
    with watch():
        got = softmax(x, tile=tile)
    hold_softmax(got, x, f"{shape} x {C} in tiles of {tile}")


@pytest.mark.parametrize("C", [1, 257, 5000])
def test_softmax_of_shipped_tiles(C, device, rng):
    x = draw(rng, (3, C), "float16", device, "padded")
    hold_softmax(softmax(x), x, f"3 x {C}")


@pytest.mark.parametrize("BLOCK", [64, 16])
def test_softmax_where_whole_blocks_are_hidden(BLOCK, device, rng):
    x = draw(rng, (4, 50), "float32", device)
    x[0, :40], x[1, 16:], x[2] = float("-inf"), float("-inf"), float("-inf")
    got = softmax(x, tile=dict(ROWS=4, BLOCK=BLOCK))
    hold_softmax(got, x, "half hidden rows")
    assert got[2].tolist() == [0.0] * 50


@pytest.mark.parametrize("BLOCK", [64, 16])
def test_softmax_of_large_numbers_and_nan(BLOCK, device, rng):
    x = draw(rng, (3, 50), "float32", device) + 3e4
    hold_softmax(softmax(x, tile=dict(ROWS=2, BLOCK=BLOCK)), x, "numbers around 30,000")
    x[1, 7] = float("nan")
    got = softmax(x, tile=dict(ROWS=2, BLOCK=BLOCK))
    assert got.isnan().all(-1).tolist() == got.isnan().any(-1).tolist() == [False, True, False]


def test_softmax_of_nothing(device):
    assert softmax(torch.empty(0, 5, device=device)).shape == (0, 5)
    with pytest.raises(OpsError, match="x is int64"):
        softmax(torch.ones(2, 3, dtype=torch.int64, device=device))


# ---- backward --------------------------------------------------------------------------------------------------
@few
@given(shapes, st.integers(1, 70), st.sampled_from([1, 4]), st.sampled_from([16, 128]), dtypes, layouts, seeds)
def test_gradients(device, watch, shape, C, ROWS, BLOCK, dtype, layouts, seed):
    """Rows in one block and in several, some numbers -inf, some rows nothing else."""
    rng = np.random.default_rng(seed)
    x, dout = (draw(rng, (*shape, C), dtype, device, *how) for how in zip(layouts[:2], (3, 8), strict=True))
    hidden = torch.from_numpy(rng.random((*shape, C)) < rng.choice([0, 0.3, 1], (*shape, 1))).to(device)
    x.mul_(float(rng.choice([3, 100]))).masked_fill_(hidden, float("-inf"))  # 100: blocks apart by more than e^x holds
    with watch():
        got = softmax_backward(dout, x, tile=dict(ROWS=ROWS, BLOCK=BLOCK))
    terms = size(double(dout) * numpy_ops.softmax(double(x)))
    hold([got], torch_ops.softmax, dout, [x], f"softmax of {shape} x {C} in {ROWS} x {BLOCK}", [terms])


def test_gradients_of_shipped_tiles_and_of_nothing(device, rng):
    x, dout = draw(rng, (3, 5000), "float16", device, "padded"), draw(rng, (3, 5000), "float16", device)
    hold([softmax_backward(dout, x)], torch_ops.softmax, dout, [x], "softmax of 5000")
    assert softmax_backward(x[:0], x[:0]).shape == (0, 5000)
    with pytest.raises(OpsError, match=r"softmax_backward: dout has shape \(2, 5000\)"):
        softmax_backward(dout[:2], x)


# ---- both ------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not rows_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, dout = rng.standard_normal((4, 9), np.float32), rng.standard_normal((4, 9), np.float32)
    before = x.copy(), dout.copy()
    np.testing.assert_allclose(softmax(x), numpy_ops.softmax(x), atol=1e-6)
    got = softmax_backward(dout, x)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, numpy_backward.softmax_backward(dout, x), atol=2e-6)
    np.testing.assert_array_equal((x, dout), before)


def test_the_table_of_tiles(monkeypatch):
    """What a GPU gets: a load of 16 bytes in float16 for each thread, narrow rows together, wide ones in a loop."""
    monkeypatch.setattr(rows_file, "INTERPRETED", False)
    assert config(257) == dict(BLOCK=512, ROWS=2, num_warps=4)
    assert config(9000) == dict(BLOCK=4096, ROWS=1, num_warps=8)
