"""kernels/embeddings.py and kernels/patches.py: rows of tables, RoBERTa's front, patches of pictures."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits

from minivl.config.bridgetower import BridgeTowerTextConfig
from minivl.errors import InputError, OpsError
from minivl.kernels import patches, rows
from minivl.kernels.embeddings import config, embed, embed_text
from minivl.kernels.patches import patch_embed
from minivl.models import roberta
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


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


def draw_front(rng, device, dtype, V, P, C, layouts=("plain", "plain")):
    """Tables and norm of a RoBERTa's front; `types` has two rows, of which only the first may be used."""
    return dict(
        words=draw(rng, (V, C), dtype, device, layouts[0], pad=8),
        positions=draw(rng, (P, C), dtype, device, layouts[1], pad=5),
        types=draw(rng, (2, C), dtype, device),
        ln=dict(w=draw(rng, (C,), dtype, device), b=draw(rng, (C,), dtype, device), eps=1e-5),
    )


def front(p, ids, pad, **how):
    return embed_text(ids, p["words"], p["positions"], p["types"], **p["ln"], pad=pad, **how)


def hold_front(got, p, ids, pad, dtype, what):
    text = BridgeTowerTextConfig(pad_token_id=pad)
    exact = {key: double(value) for key, value in p.items() if key != "ln"}
    exact["ln"] = dict(w=double(p["ln"]["w"]), b=double(p["ln"]["b"]), eps=p["ln"]["eps"])
    truth = roberta.embed(numpy_ops.OPS, exact, ids.cpu().numpy(), text)
    no_worse(got, truth, roberta.embed(torch_ops.OPS, p, ids.long(), text), CAP[dtype], what)


@few
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 70),
    st.sampled_from([0, 1, 3]),
    st.sampled_from(DTYPES),
    st.lists(st.sampled_from(LAYOUTS), min_size=2, max_size=2),
    st.sampled_from([torch.int64, torch.int32]),
    st.sampled_from([1, 4, 16]),
    st.integers(0, 2**32 - 1),
)
def test_front_of_roberta(device, watch, B, T, C, pad, dtype, layouts, integer, ROWS, seed):
    """Padding at the end, in front and in between; exactly as many positions as the longest text can need."""
    rng = np.random.default_rng(seed)
    p = draw_front(rng, device, dtype, 9, pad + 1 + T, C, layouts)
    ids = ids_below(rng, 9, (B, T), device, integer)
    ids[torch.from_numpy(rng.random((B, T)) < rng.choice([0, 0.3, 1], (B, 1))).to(device)] = pad
    with watch():
        got = front(p, ids, pad, tile=dict(ROWS=ROWS, BLOCK=128))
    hold_front(got, p, ids, pad, dtype, f"front of {B} texts of {T} x {C}, pad {pad}")


def test_front_with_shipped_tile(device, rng):
    p, ids = draw_front(rng, device, "float16", 50, 40, 768), ids_below(rng, 50, (3, 33), device)
    ids[1, 20:] = 1
    hold_front(front(p, ids, 1), p, ids, 1, "float16", "front of RoBERTa")


def test_front_refuses(device, rng):
    p, ids = draw_front(rng, device, "float32", 9, 7, 16), torch.full((2, 6), 2, device=device)
    with pytest.raises(InputError, match="a text is longer than the 5 tokens that the text tower has positions for"):
        front(p, ids, 1)
    ids[:, 3] = 1  # padding needs no place of its own
    assert front(p, ids, 1).shape == (2, 6, 16)
    ids[1, 5] = 9
    with pytest.raises(InputError, match="token id 9 has no embedding: the table has 9 rows"):
        front(p, ids, 1)
    with pytest.raises(OpsError, match="up to 4096 numbers a word, these have 5000"):
        front(draw_front(rng, device, "float32", 9, 20, 5000), ids, 1)
    assert front(p, ids[:, :0], 1).shape == (2, 0, 16)


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


def test_numpy_arrays_in_and_out(rng):
    if not rows.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    table, ids = rng.standard_normal((5, 3), np.float32), np.array([[4, 0]])
    np.testing.assert_array_equal(embed(ids, table), table[ids])
    assert embed(np.asarray(2), table).shape == (3,)
    pixels, w = rng.standard_normal((1, 3, 9, 8), np.float32), rng.standard_normal((4, 3, 4, 4), np.float32)
    np.testing.assert_allclose(patch_embed(pixels, w), numpy_ops.patch_embed(pixels, w), atol=2e-5)


def test_the_tables_of_tiles(monkeypatch):
    monkeypatch.setattr(rows, "INTERPRETED", False)
    monkeypatch.setattr(patches, "INTERPRETED", False)
    assert config(768) == dict(BLOCK=1024, ROWS=1, num_warps=4)
    assert patches.config(256, 1408, 588, "float16") == dict(
        BLOCK_N=64, BLOCK_C=128, BLOCK_K=64, num_warps=4, num_stages=3
    )
    assert patches.config(256, 1408, 588, "float32")["BLOCK_C"] == 64
