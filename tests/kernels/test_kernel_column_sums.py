"""kernels/column_sums.py against float64, and no worse than torch."""

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits
from kernel_gradients import CAP

from minivl.kernels import column_sums
from minivl.kernels import rows as rows_file
from minivl.kernels.column_sums import column_sums as sums_of

DTYPES = ("float32", "float16", "bfloat16")
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, seeds = st.sampled_from(DTYPES), st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)


@few
@given(shapes, st.integers(1, 70), st.integers(1, 4), st.sampled_from([4, 8]), dtypes, st.sampled_from(LAYOUTS), seeds)
def test_column_sums(device, watch, shape, C, PARTS, CHUNK, dtype, layout, seed):
    x = draw(np.random.default_rng(seed), (*shape, C), dtype, device, layout)
    tile = dict(BLOCK=16, ROWS=2, CHUNK=CHUNK, PARTS=PARTS, num_warps=4)
    with watch():
        got = sums_of(x, tile=tile)
    exact = double(x).reshape(-1, C).sum(0)
    no_worse(got, exact, x.reshape(-1, C).sum(0), CAP[dtype] * 30, f"sums of {shape} x {C}", times=3)


def test_column_sums_of_many_rows(device, rng):
    """Several chunks, whose sums a second launch adds up, and rounds once."""
    x = draw(rng, (1500, 7), "float16", device, "padded")
    got = sums_of(x, "float32")
    assert got.dtype == torch.float32
    np.testing.assert_allclose(double(got), double(x).sum(0), atol=1e-4)
    same_bits(sums_of(x), torch.tensor(double(x).sum(0)).half().to(device), "sums in float16")
    assert sums_of(x[:0]).tolist() == [0.0] * 7
    assert [column_sums.chunk_of(rows, 16, 64) for rows in (0, 16, 1024, 1025, 5000)] == [16, 16, 16, 32, 80]


def test_the_table_of_tiles(monkeypatch):
    """What a GPU gets."""
    monkeypatch.setattr(rows_file, "INTERPRETED", False)
    monkeypatch.setattr(column_sums, "INTERPRETED", False)
    assert column_sums.config(1408) == dict(BLOCK=64, ROWS=64, CHUNK=256, PARTS=64, num_warps=4)
    assert column_sums.config(5) == dict(BLOCK=8, ROWS=64, CHUNK=256, PARTS=64, num_warps=4)
