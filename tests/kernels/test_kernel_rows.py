"""kernels/softmax_rows.py and kernels/cross_entropy.py against float64, and no worse than torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import InputError, OpsError
from minivl.kernels import cross_entropy as cross_entropy_file
from minivl.kernels import rows as rows_file
from minivl.kernels import softmax_rows
from minivl.kernels.cross_entropy import cross_entropy
from minivl.kernels.softmax_rows import softmax
from minivl.ops import numpy as numpy_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}  # of shares, which are at most 1
LOSS_CAP = {"float32": 2e-5, "float16": 0.02, "bfloat16": 0.1}
few = settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
tiles = st.builds(dict, ROWS=st.sampled_from([1, 2, 4]), BLOCK=st.sampled_from([16, 32, 128]))


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


def hold_loss(got, logits, targets, what, ignore_index=-100):
    exact = numpy_ops.cross_entropy(double(logits), targets.cpu().numpy(), ignore_index)
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


def test_numpy_arrays_in_and_out(rng):
    if not rows_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, targets = rng.standard_normal((4, 9), np.float32), np.array([0, 8, -100, 3])
    np.testing.assert_allclose(softmax(x), numpy_ops.softmax(x), atol=1e-6)
    np.testing.assert_allclose(cross_entropy(x, targets), numpy_ops.cross_entropy(x, targets), rtol=1e-6)


def test_the_tables_of_tiles(monkeypatch):
    """What a GPU gets: a load of 16 bytes in float16 for each thread, narrow rows together, wide ones in a loop."""
    monkeypatch.setattr(rows_file, "INTERPRETED", False)
    assert softmax_rows.config(257) == dict(BLOCK=512, ROWS=2, num_warps=4)
    assert softmax_rows.config(9000) == dict(BLOCK=4096, ROWS=1, num_warps=8)
    assert cross_entropy_file.config(50304) == dict(BLOCK=4096, ROWS=1, num_warps=8, num_stages=2)
