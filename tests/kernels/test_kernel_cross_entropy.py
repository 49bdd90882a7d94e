"""kernels/cross_entropy.py against float64, and no worse than torch: the loss and its gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, room, same_bits
from kernel_gradients import hold

from minivl.errors import InputError, OpsError
from minivl.kernels import rows as rows_file
from minivl.kernels.cross_entropy import (
    config,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_backward_in_place,
)
from minivl.ops import backward as numpy_backward
from minivl.ops import plain
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
LOSS_CAP = {"float32": 2e-5, "float16": 0.02, "bfloat16": 0.1}
few = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
tiles = st.builds(dict, ROWS=st.sampled_from([1, 2, 4]), BLOCK=st.sampled_from([16, 32, 128]))
dtypes, seeds = st.sampled_from(DTYPES), st.integers(0, 2**32 - 1)


def hold_loss(got, logits, targets, what, ignore_index=-100):
    exact = plain.cross_entropy(double(logits), targets.cpu().numpy(), ignore_index)
    reference = F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), ignore_index=ignore_index)
    assert got.shape == ()
    dtype = str(logits.dtype).removeprefix("torch.")
    no_worse(got, exact, reference, LOSS_CAP[dtype] * max(1.0, np.nan_to_num(abs(exact))), f"loss of {what}")


@few
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
    st.integers(1, 70),
    tiles,
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from([-100, 0, -1]),
    st.sampled_from([torch.int64, torch.int32]),
    st.integers(0, 2**32 - 1),
)
def test_cross_entropy(device, watch, shape, V, tile, dtype, layout, ignore_index, integer, seed):
    rng = np.random.default_rng(seed)
    logits = draw(rng, (*shape, V), dtype, device, layout)
    logits.mul_(5)
    numbers = np.where(rng.random(shape) < 0.3, ignore_index, rng.integers(0, V, shape))
    targets = torch.from_numpy(numbers).to(device, integer)
    with watch():
        got = cross_entropy(logits, targets, ignore_index, tile=tile)
    hold_loss(got, logits, targets, f"{shape} x {V} in tiles of {tile}", ignore_index)


@pytest.mark.parametrize("V", [50304, 32128])
def test_vocabularies_of_the_models(V, device, rng):
    logits = draw(rng, (2, 2, V), "float16", device)
    targets = torch.tensor([[0, V - 1], [-100, 77]], device=device)
    hold_loss(cross_entropy(logits, targets), logits, targets, f"{V} words")


def test_every_row_counts_once(device, rng):
    """Several programs, more rows than the mean takes at once; a wrong row would be hidden by none of the others."""
    logits = draw(rng, (1500, 20), "float32", device)
    targets = torch.from_numpy(rng.integers(0, 20, 1500)).to(device)
    targets[::3] = -100
    hold_loss(cross_entropy(logits, targets, tile=dict(ROWS=512, BLOCK=16)), logits, targets, "1500 rows")


def test_ignored_rows_are_not_read(device, rng):
    logits = draw(rng, (3, 40), "float32", device)
    logits[1] = float("nan")
    targets = torch.tensor([3, -100, 39], device=device)
    kept = torch.tensor([0, 2], device=device)
    hold_loss(cross_entropy(logits, targets), logits[kept], targets[kept], "the rows that count")


def test_no_target_is_kept(device, rng):
    logits = draw(rng, (3, 40), "float32", device)
    assert cross_entropy(logits, torch.full((3,), -100, device=device)).isnan().item()
    assert cross_entropy(logits[:0], torch.empty(0, dtype=torch.int64, device=device)).isnan().item()


def test_logits_of_minus_infinity(device, rng):
    """Words that cannot come, whole blocks of them, cost nothing; being right about one of them costs everything."""
    logits = draw(rng, (2, 50), "float32", device)
    logits[:, :40] = float("-inf")
    tile = dict(ROWS=2, BLOCK=16)
    likely, impossible = torch.tensor([45, 49], device=device), torch.tensor([45, 3], device=device)
    hold_loss(cross_entropy(logits, likely, tile=tile), logits, likely, "words that can come")
    assert cross_entropy(logits, impossible, tile=tile).item() == float("inf")


@pytest.mark.parametrize(("target", "span"), [(40, "4 to 40"), (-1, "-1 to 4"), (2**40, f"4 to {2**40}")])
def test_a_target_outside_the_vocabulary_is_refused(target, span, device, rng):
    logits = draw(rng, (3, 40), "float32", device)
    with pytest.raises(InputError, match=f"labels run from {span}, the vocabulary from 0 to 39"):
        cross_entropy(logits, torch.tensor([4, target, -100], device=device))


def test_cross_entropy_refuses(device):
    logits, targets = torch.ones(2, 3, 8, device=device), torch.zeros(2, 4, dtype=torch.int64, device=device)
    with pytest.raises(InputError, match=r"targets have shape \(2, 4\), logits \(2, 3, 8\)"):
        cross_entropy(logits, targets)
    with pytest.raises(OpsError, match="logits is float64"):
        cross_entropy(logits.double(), targets[:, :3])


# ---- backward --------------------------------------------------------------------------------------------------
def loss_of(targets, ignore_index=-100):
    return lambda logits: torch_ops.cross_entropy(logits, targets, ignore_index)


@few
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
    st.integers(1, 70),
    st.sampled_from([1, 4]),
    st.sampled_from([16, 128]),
    dtypes,
    st.sampled_from(LAYOUTS),
    st.sampled_from([-100, 0]),
    st.sampled_from([torch.int64, torch.int32]),
    seeds,
)
def test_gradients(device, watch, shape, V, ROWS, BLOCK, dtype, layout, ignore_index, integer, seed):
    rng, tile = np.random.default_rng(seed), dict(ROWS=ROWS, BLOCK=BLOCK)
    logits = draw(rng, (*shape, V), dtype, device, layout)
    logits.mul_(5)
    numbers = np.where(rng.random(shape) < 0.3, ignore_index, rng.integers(0, V, shape))
    targets = torch.from_numpy(numbers).to(device, integer)
    dout, before = draw(rng, (), dtype, device), logits.clone()
    with watch():
        got = cross_entropy_backward(dout, logits, targets, ignore_index, tile=tile)
    hold([got], loss_of(targets, ignore_index), dout, [logits], f"loss of {shape} x {V}")
    assert not got[targets == ignore_index].any()
    same_bits(logits, before, "logits that were only read")
    if layout in ("plain", "padded", "offset") or len(shape) == 1 and layout == "permuted":
        with watch():
            over = cross_entropy_backward_in_place(dout, logits, targets, ignore_index, tile=tile)
        assert over.data_ptr() == logits.data_ptr()
        same_bits(logits, got, "the gradient in place of the logits")


def test_in_place_writes_rows_and_nothing_between_them(device, rng):
    logits = room((3, 20), "float32", device, "padded")
    logits.copy_(draw(rng, (3, 20), "float32", device))
    cross_entropy_backward_in_place(torch.ones((), device=device), logits, torch.tensor([3, -100, 19], device=device))
    assert logits.isfinite().all() and logits.as_strided((3, 3), (23, 1), 20).isnan().all()


def test_in_place_refuses_what_it_could_only_copy(device, rng):
    logits, one = draw(rng, (4, 20), "float32", device, "strided"), torch.ones((), device=device)
    before = logits.clone()
    with pytest.raises(OpsError, match=r"_in_place: logits of shape \(4, 20\) have strides \(40, 2\)"):
        cross_entropy_backward_in_place(one, logits, torch.zeros(4, dtype=torch.int64, device=device))
    same_bits(logits, before, "logits that were refused")


@pytest.mark.parametrize("V", [50304, 32128])
def test_gradients_of_the_models_vocabularies(V, device, rng):
    logits, targets = draw(rng, (2, 2, V), "float16", device), torch.tensor([[0, V - 1], [-100, 77]], device=device)
    dout = torch.tensor(1000.0, dtype=torch.float16, device=device)  # as a gradient scaler does
    hold([cross_entropy_backward(dout, logits, targets)], loss_of(targets), dout, [logits], f"{V} words")


def test_ignored_rows_are_not_read_and_get_zeros(device, rng):
    logits, one = draw(rng, (1200, 40), "float32", device), torch.ones((), device=device)
    logits[1::2] = float("nan")
    targets = torch.from_numpy(rng.integers(0, 40, 1200)).to(device)
    targets[1::2] = -100
    got = cross_entropy_backward(one, logits, targets, tile=dict(ROWS=512, BLOCK=64))
    hold([got[::2]], loss_of(targets[::2]), one, [logits[::2]], "every second row")
    assert not got[1::2].any()
    targets[:] = -100
    assert not cross_entropy_backward(one, logits, targets).any()
    assert cross_entropy_backward(one, logits[:0], targets[:0]).shape == (0, 40)


def test_gradients_of_words_that_cannot_come(device, rng):
    logits, one = draw(rng, (2, 50), "float32", device), torch.ones((), device=device)
    logits[:, :40] = float("-inf")
    targets = torch.tensor([45, 3], device=device)  # the second is one of them
    got = cross_entropy_backward(one, logits, targets, tile=dict(ROWS=2, BLOCK=16))
    assert not got[0, :40].any() and got[1, 3].item() == -0.5 and got.isfinite().all()


@pytest.mark.parametrize(("target", "span"), [(40, "4 to 40"), (-1, "-1 to 4")])
def test_backward_refuses(target, span, device, rng):
    logits, one = draw(rng, (3, 40), "float32", device), torch.ones((), device=device)
    before, targets = logits.clone(), torch.tensor([4, target, -100], device=device)
    with pytest.raises(InputError, match=f"labels run from {span}, the vocabulary from 0 to 39"):
        cross_entropy_backward_in_place(one, logits, targets)
    same_bits(logits, before, "logits that were refused")
    with pytest.raises(InputError, match=r"targets have shape \(2,\), logits \(3, 40\)"):
        cross_entropy_backward(one, logits, targets[:2])
    with pytest.raises(OpsError, match=r"dout has shape \(3,\), and the loss is one number"):
        cross_entropy_backward(logits[:, 0], logits, targets)


# ---- both ------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not rows_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, targets, one = rng.standard_normal((4, 9), np.float32), np.array([0, 8, -100, 3]), np.array(1, np.float32)
    before = x.copy(), targets.copy()
    np.testing.assert_allclose(cross_entropy(x, targets), plain.cross_entropy(x, targets), rtol=1e-6)
    got = cross_entropy_backward(one, x, targets)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, numpy_backward.cross_entropy_backward(one, x, targets), atol=2e-6)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(targets, before[1])


def test_the_table_of_tiles(monkeypatch):
    """What a GPU gets: wide rows in a loop."""
    monkeypatch.setattr(rows_file, "INTERPRETED", False)
    assert config(50304) == dict(BLOCK=4096, ROWS=1, num_warps=8, num_stages=2)
