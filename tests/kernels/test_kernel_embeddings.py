"""kernels/embeddings.py: rows of a table, bit for bit, and the table's gradient against float64 and torch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits
from kernel_gradients import CAP, autograd

from minivl.errors import InputError, OpsError
from minivl.kernels import rows
from minivl.kernels.embeddings import config, embed, embed_backward
from minivl.ops import backward as numpy_backward
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, seeds = st.sampled_from(DTYPES), st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)


def ids_below(rng, count, shape, device, integer=torch.int64):
    return torch.from_numpy(np.asarray(rng.integers(0, count, shape))).to(device, integer)


@few
@given(
    st.lists(st.integers(1, 6), max_size=3).map(tuple),
    st.integers(1, 70),
    st.integers(1, 30),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.int64, torch.int32]),
    st.sampled_from([dict(ROWS=1, BLOCK=32), dict(ROWS=4, BLOCK=16), dict(ROWS=8, BLOCK=128)]),
    st.integers(0, 2**32 - 1),
)
def test_embed(device, watch, shape, C, V, dtype, layout, integer, tile, seed):
    rng = np.random.default_rng(seed)
    table, ids = draw(rng, (V, C), dtype, device, layout), ids_below(rng, V, shape, device, integer)
    with watch():
        got = embed(ids, table, tile=tile)
    same_bits(got, table[ids.long()], f"embed {shape} of {V} x {C} in tiles of {tile}")


@pytest.mark.parametrize("C", [88, 1408, 5000])
def test_embed_with_shipped_tiles(C, device, rng):
    table, ids = draw(rng, (9, C), "float16", device, "padded"), ids_below(rng, 9, (2, 5), device).T
    same_bits(embed(ids, table), table[ids], f"embed rows of {C}")


def test_embed_nothing(device):
    table = torch.ones(3, 4, device=device)
    assert embed(torch.empty(2, 0, dtype=torch.int64, device=device), table).shape == (2, 0, 4)


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
@pytest.mark.parametrize("place", [(0, 0), (1, 4)])
def test_embed_refuses_an_id_outside_the_table(wrong, place, device):
    ids = torch.ones(2, 5, dtype=torch.int64, device=device)
    ids[place] = wrong
    with pytest.raises(
        InputError, match=f"token id {wrong} has no embedding: the table has 7 rows, ids run from 0 to 6"
    ):
        embed(ids, torch.ones(7, 4, device=device))


def test_embed_sees_a_wrong_id_in_a_long_text(device):
    ids = torch.zeros(5000, dtype=torch.int64, device=device)
    ids[4999] = 7
    with pytest.raises(InputError, match="token id 7"):
        embed(ids, torch.ones(7, 4, device=device))


# ---- backward --------------------------------------------------------------------------------------------------
@few
@given(
    shapes,
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 64]),
    dtypes,
    st.sampled_from(LAYOUTS),
    st.sampled_from([torch.int64, torch.int32]),
    seeds,
)
def test_gradients(device, watch, shape, C, V, ROWS, BLOCK, dtype, layout, integer, seed):
    """Few rows, so that words come again; some never come, and their rows are zeros."""
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(np.asarray(rng.integers(0, V, shape))).to(device, integer)
    dout, table = draw(rng, (*shape, C), dtype, device, layout), draw(rng, (V, C), dtype, device)
    with watch():
        got = embed_backward(dout, ids, table, tile=dict(ROWS=ROWS, BLOCK=BLOCK))
    exact = numpy_backward.embed_backward(double(dout), ids.cpu().numpy(), double(table))
    reference = autograd(torch_ops.embed, dout, [ids, table], table.dtype)[0]
    no_worse(got, exact, reference, CAP[dtype] * 10, f"{shape} of {V} words of {C}", times=3)


def test_a_word_of_every_token_and_a_large_table(device, rng):
    dout, table = draw(rng, (3, 20, 24), "float32", device), draw(rng, (3000, 24), "float32", device)
    ids = torch.full((3, 20), 2999, device=device)
    ids[1, ::2] = torch.from_numpy(rng.integers(0, 3000, 10)).to(device)
    got = embed_backward(dout, ids, table)
    exact = numpy_backward.embed_backward(double(dout), ids.cpu().numpy(), double(table))
    np.testing.assert_allclose(double(got), exact, atol=1e-4)
    assert not embed_backward(dout[:, :0], ids[:, :0], table).any()


def test_backward_refuses(device, rng):
    dout, table = draw(rng, (2, 4), "float32", device), draw(rng, (5, 4), "float32", device)
    for wrong in (-1, 5):
        with pytest.raises(InputError, match=f"token id {wrong} has no embedding: the table has 5 rows"):
            embed_backward(dout, torch.tensor([0, wrong], device=device), table)
    with pytest.raises(OpsError, match=r"dout has shape \(2, 4\), and \(3, 4\) fits ids \(3,\)"):
        embed_backward(dout, torch.zeros(3, dtype=torch.int64, device=device), table)


# ---- both ------------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not rows.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    table, ids = rng.standard_normal((5, 3), np.float32), np.array([[4, 0, 4, 1]])
    dout = rng.standard_normal((1, 4, 3), np.float32)
    before = table.copy(), dout.copy(), ids.copy()
    np.testing.assert_array_equal(embed(ids, table), table[ids])
    assert embed(np.asarray(2), table).shape == (3,)
    got = embed_backward(dout, ids, table)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, numpy_backward.embed_backward(dout, ids, table), atol=2e-6)
    for array, kept in zip((table, dout, ids), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_the_table_of_tiles(monkeypatch):
    monkeypatch.setattr(rows, "INTERPRETED", False)
    assert config(768) == dict(BLOCK=1024, ROWS=1, num_warps=4)
