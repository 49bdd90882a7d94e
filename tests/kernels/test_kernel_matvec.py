"""kernels/matvec.py against float64, and no further from it than one rounding of the answer (or torch) is."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import InputError, OpsError
from minivl.kernels.int8 import quantise_rows
from minivl.kernels.launch import HostArray
from minivl.kernels.matvec import MOST_ROWS, WIDE, matvec

SMALL = dict(BLOCK_F=16, BLOCK_C=32)
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
few = settings(
    max_examples=14,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, layouts, dtypes = st.integers(1, 70), st.sampled_from(LAYOUTS), st.sampled_from(tuple(CAP))
rows = st.integers(1, MOST_ROWS)


def weight(rng, features, width, dtype, device, layout):
    """w (F, C), its scales or None, and what they stand for in float64."""
    w = draw(rng, (features, width), dtype, device, layout, pad=16)
    if dtype != "int8":
        return w, None, double(w)
    scales = torch.from_numpy(rng.uniform(1, 4, 2 * features).astype(np.float32)).to(device)[::2]
    return w, scales, double(w) * double(scales)[:, None] / 127


@few
@given(rows, sizes, sizes, dtypes, st.sampled_from(tuple(WIDE)), st.tuples(layouts, layouts), st.booleans())
def test_matvec(device, tokens, width, features, dtype, kept, how, biased):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    w, scales, exact_w = weight(rng, features, width, kept, device, how[1])
    b = draw(rng, (features,), dtype, device, "strided") if biased else None
    exact = double(x) @ exact_w.T + (0 if b is None else double(b))
    reference = torch.from_numpy(exact).to(x.dtype)
    no_worse(matvec(x, w, scales, b, tile=SMALL), exact, reference, CAP[dtype], f"matvec, w {kept}")


@pytest.mark.parametrize("kept", WIDE)
def test_every_shipped_tile(kept, device, rng):
    tile = dict(BLOCK_F=8, BLOCK_C=512 // WIDE[kept])
    x = draw(rng, (3, 600), "float16", device)
    w, scales, exact_w = weight(rng, 21, 600, kept, device, "plain")
    exact = double(x) @ exact_w.T
    no_worse(matvec(x, w, scales, tile=tile), exact, torch.from_numpy(exact).half(), 0.1, f"matvec, w {kept}")


def test_the_token_of_a_decoding_step(device, rng):
    """(B, 1, C), as a model hands it over; a view of the last token of each row of a batch; no row at all."""
    x, w = draw(rng, (4, 5, 48), "float32", device), draw(rng, (30, 48), "bfloat16", device)
    for given_x in (x[:, -1:], x[:1, :1], x[:, :1].expand(4, 2, 48), x[:0]):
        exact = double(given_x) @ double(w).T
        no_worse(matvec(given_x, w), exact, torch.from_numpy(exact).float(), 1e-4, "matvec")


def test_the_weights_of_int8_linear_serve_here(device, rng):
    """quantise_rows gives both what they take. x is not rounded here, so this is the nearer one to the full product."""
    x, w = draw(rng, (2, 256), "float32", device), draw(rng, (32, 256), "float32", device)
    q, scales = quantise_rows(w)
    y, exact = double(matvec(x, q, scales)), double(x) @ double(w).T
    assert 0 < np.linalg.norm(y - exact) / np.linalg.norm(exact) < 0.01


def test_numpy_arrays_and_bfloat16_without_torch(rng):
    x, w = rng.standard_normal((2, 20)).astype(np.float32), rng.standard_normal((7, 20)).astype(np.float32)
    bits = (w.view(np.uint32) >> 16).astype(np.uint16)  # cut off to bfloat16
    exact = x.astype(np.float64) @ (bits.astype(np.uint32) << 16).view(np.float32).T
    y = matvec(x, HostArray(bits, "bfloat16"))
    assert isinstance(y, np.ndarray) and y.dtype == np.float32
    np.testing.assert_allclose(y, exact, atol=1e-5)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda x, w, s: matvec(torch.cat([x] * 5), w, s), InputError, "x has 10 rows, and the kernel takes 8 at most"),
        (lambda x, w, s: matvec(x, w[:, :3], s), InputError, r"matvec: w has shape \(4, 3\), and \(4, 5\) fits"),
        (lambda x, w, s: matvec(x, w, s, x[0]), InputError, r"b has shape \(5,\), and \(4,\) fits"),
        (lambda x, w, s: matvec(x, w), OpsError, "w is int8 and scales are missing"),
        (lambda x, w, s: matvec(x, w.float(), s), OpsError, "w is float32 and scales are given"),
        (lambda x, w, s: matvec(x, w, s[:2]), OpsError, r"scales are float32 \(2,\), wanted is one float32"),
        (lambda x, w, s: matvec(x, w, s.half()), OpsError, r"scales are float16 \(4,\)"),
        (lambda x, w, s: matvec(x, w.int(), s), OpsError, "w is int32, and the kernel takes int8, float16"),
        (lambda x, w, s: matvec(x.double(), w, s), OpsError, "x is float64"),
        (lambda x, w, s: matvec(x, w, s, s.half()), OpsError, "b is float16 and x is float32"),
    ],
)
def test_refusals(call, kind, words, device):
    with pytest.raises(kind, match=words):
        call(
            torch.ones(2, 5, device=device),
            torch.ones(4, 5, dtype=torch.int8, device=device),
            torch.ones(4, device=device),
        )
