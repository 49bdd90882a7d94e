"""kernels/decode_attention.py against float64: one query, a cache in chunks, a length for each row."""

import math

import numpy as np
import pytest
import torch
from attention_cases import CAP, DTYPES, WIDTHS, exactly, in_torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import OpsError
from minivl.kernels.attention import attention
from minivl.kernels.decode_attention import config, decode_attention

SMALL = dict(BS=16, CHUNK=32)  # two blocks to a chunk, several chunks within a hundred keys
few = settings(
    max_examples=14,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check(q, k, v, lengths=None, mask=None, blocks=SMALL, **how):
    S = k.shape[2]
    out, lse = decode_attention(q, k, v, lengths=lengths, mask=mask, with_lse=True, blocks=blocks, **how)
    if lengths is not None:
        within = torch.arange(S, device=q.device) < lengths[:, None, None, None]
        mask = within if mask is None else mask & within
    exact, exact_lse = exactly(q, k, v, mask, **how)
    dtype = str(q.dtype).removeprefix("torch.")
    no_worse(out, exact, in_torch(q, k, v, mask, **how), CAP[dtype], "decode_attention")
    assert lse.dtype == torch.float32
    np.testing.assert_allclose(double(lse), exact_lse, rtol=3e-6, atol=5e-6)


@few
@given(
    st.integers(1, 110), st.sampled_from(WIDTHS), st.sampled_from(DTYPES), st.booleans(), st.booleans(), st.booleans(),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3), st.sampled_from([None, 0.3, -0.2]),
)  # fmt: skip
def test_decode_attention(device, S, D, dtype, ragged, masked, biased, layouts, scale):
    rng = np.random.default_rng(S + D)
    q = draw(rng, (3, 2, 1, D), dtype, device, layouts[0], pad=8)
    k = draw(rng, (3, 2, S, D), dtype, device, layouts[1], pad=24)
    v = draw(rng, (3, 2, S, D), dtype, device, layouts[2], pad=5)
    lengths = torch.tensor([S, int(rng.integers(0, S + 1)), 0], device=device) if ragged else None
    mask = torch.from_numpy(rng.random((3, 1, 1, S)) < 0.7).to(device) if masked else None
    bias = draw(rng, (1, 2, 1, S), "float32", device, "padded") if biased else None
    check(q, k, v, lengths, mask, bias=bias, scale=scale)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 97])
def test_lengths_around_the_edges_of_blocks_and_chunks(length, device, rng):
    """What lies beyond a row's length is NaN here: it must not be read."""
    q, k, v = (draw(rng, (2, 1, n, 24), "float32", device) for n in (1, 97, 97))
    lengths = torch.tensor([length, 97 - length], device=device)
    check(q, k, v, lengths)
    want = decode_attention(q, k, v, lengths=lengths, blocks=SMALL)
    for b, kept in enumerate((length, 97 - length)):
        k[b, :, kept:] = float("nan")
        v[b, :, kept:] = float("nan")
    assert torch.equal(decode_attention(q, k, v, lengths=lengths, blocks=SMALL), want)


def test_lengths_beyond_the_cache_stop_at_its_end(device, rng):
    q, k, v = (draw(rng, (2, 1, n, 16), "float32", device, "padded") for n in (1, 50, 50))
    want = decode_attention(q, k, v, blocks=SMALL)
    assert torch.equal(decode_attention(q, k, v, lengths=torch.tensor([51, 1000], device=device), blocks=SMALL), want)


def test_a_row_of_the_batch_has_its_own_length(device, rng):
    """Each row of a ragged batch is as if it were alone."""
    q, k, v = (draw(rng, (3, 2, n, 16), "float32", device) for n in (1, 70, 70))
    lengths = torch.tensor([70, 5, 41], dtype=torch.int32, device=device)
    out = decode_attention(q, k, v, lengths=lengths, blocks=SMALL)
    for b, n in enumerate(lengths.tolist()):
        alone = decode_attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], blocks=SMALL)
        assert torch.allclose(out[b], alone[0], atol=1e-6)


def test_chunks_far_apart_in_size(device, rng):
    """The largest score in any one chunk: the others are scaled to it; one all hidden counts for nothing."""
    q, k, v = (draw(rng, (1, 1, n, 16), "float32", device) for n in (1, 128, 128))
    for chunk in range(4):
        bias = torch.zeros(1, 1, 1, 128, device=device)
        bias[..., 32 * chunk : 32 * chunk + 32] = 12.0
        mask = torch.ones(1, 1, 1, 128, dtype=torch.bool, device=device)
        mask[..., 32 * (chunk ^ 1) : 32 * (chunk ^ 1) + 32] = False
        check(q, k, v, mask=mask, bias=bias)


def test_a_block_all_hidden_after_one_that_is_not(device, rng):
    """What a chunk has summed up is not forgotten when its next block adds nothing."""
    q, k, v = (draw(rng, (1, 1, n, 16), "float32", device) for n in (1, 64, 64))
    mask = torch.ones(1, 1, 1, 64, dtype=torch.bool, device=device)
    mask[..., 16:32] = False
    check(q, k, v, mask=mask)


def test_a_bias_of_the_lowest_float32(device, rng):
    q, k, v = (draw(rng, (1, 1, n, 16), "float32", device) for n in (1, 70, 70))
    bias = torch.full((1, 1, 1, 70), torch.finfo(torch.float32).min, device=device)
    out = decode_attention(q, k, v, bias=bias, blocks=SMALL)
    np.testing.assert_allclose(double(out)[0, 0, 0], double(v)[0, 0].mean(0), atol=2e-6)


@pytest.mark.parametrize("S", [1, 300, 600])
def test_the_shipped_sizes(S, device, rng):
    q, k, v = (draw(rng, (1, 2, n, 80), "float16", device, "permuted", 8) for n in (1, S, S))
    check(q, k, v, blocks=None)


def test_no_more_than_64_chunks():
    for S in (1, 255, 256, 257, 16384, 16385, 100000):
        sizes = config(S)
        assert 1 <= -(-S // sizes["CHUNK"]) <= 64 and sizes["CHUNK"] % sizes["BS"] == 0


@pytest.mark.parametrize("pad_k, pad_v", [(3, 8), (8, 3)])
def test_rows_that_do_not_begin_at_multiples_of_8(pad_k, pad_v, device, rng):
    """Heads and rows of the batch do, with 40 keys: all three strides have to be looked at."""
    q = draw(rng, (2, 2, 1, 16), "float32", device)
    k, v = (draw(rng, (2, 2, 40, 16), "float32", device, "padded", pad) for pad in (pad_k, pad_v))
    check(q, k, v)


def test_agrees_with_attention(device, rng):
    q, k, v = (draw(rng, (2, 2, n, 88), "float32", device, "padded", 8) for n in (1, 60, 60))
    assert torch.allclose(decode_attention(q, k, v, blocks=SMALL), attention(q, k, v), atol=1e-6)


def test_nothing_to_see(device):
    q, none = torch.ones(2, 1, 1, 16, device=device), torch.ones(2, 1, 0, 16, device=device)
    out, lse = decode_attention(q, none, none, with_lse=True)
    assert (out == 0).all() and (lse == -math.inf).all()
    assert decode_attention(q[:0], none[:0], none[:0]).shape == (0, 1, 1, 16)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(q=torch.ones(2, 1, 2, 16)), "q has 2 queries, and the kernel takes one per head"),
        (dict(lengths=torch.ones(3, dtype=torch.int64)), r"lengths are int64 \(3,\), and should be integers \(2,\)"),
        (dict(lengths=torch.ones(2)), "lengths are float32"),
        (dict(mask=torch.ones(1, 1, 3, 5, dtype=torch.bool)), "which does not broadcast"),
    ],
)
def test_refused(change, words, device):
    given = dict(q=torch.ones(2, 1, 1, 16), k=torch.ones(2, 1, 5, 16), v=torch.ones(2, 1, 5, 16)) | change
    given = {name: x.to(device) for name, x in given.items()}
    with pytest.raises(OpsError, match=words):
        decode_attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)
