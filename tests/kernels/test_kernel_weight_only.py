"""kernels/weight_only.py against float64, and no further from it than one rounding of the answer (or torch) is."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import InputError, OpsError
from minivl.kernels import linear
from minivl.kernels.int8 import quantise_rows
from minivl.kernels.weight_only import MOST_ROWS, weight_only_linear
from minivl.ops import plain

SMALL = dict(BLOCK_F=16, BLOCK_C=32)
TILE = dict(BLOCK_M=16, BLOCK_F=32, BLOCK_C=32, GROUP=2)
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
few = settings(
    max_examples=14,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, layouts, dtypes = st.integers(1, 70), st.sampled_from(LAYOUTS), st.sampled_from(tuple(CAP))
rows = st.integers(1, MOST_ROWS)


def weight(rng, features, width, device, layout="plain"):
    """w (F, C) int8, its scales, and what they stand for in float64."""
    w = draw(rng, (features, width), "int8", device, layout, pad=16)
    scale = torch.from_numpy(rng.uniform(1, 4, 2 * features).astype(np.float32)).to(device)[::2]
    return w, scale, double(w) * double(scale)[:, None] / 127


def held(device, tokens, width, features, dtype, how, biased, tile):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    w, scale, exact_w = weight(rng, features, width, device, how[1])
    b = draw(rng, (features,), dtype, device, "strided") if biased else None
    exact = double(x) @ exact_w.T + (0 if b is None else double(b))
    reference = torch.from_numpy(exact).to(x.dtype)
    no_worse(weight_only_linear(x, w, scale, b, tile=tile), exact, reference, CAP[dtype], "weight_only_linear")


@few
@given(rows, sizes, sizes, dtypes, st.tuples(layouts, layouts), st.booleans())
def test_few_rows(device, tokens, width, features, dtype, how, biased):
    held(device, tokens, width, features, dtype, how, biased, SMALL)


@few
@given(st.integers(MOST_ROWS + 1, 70), sizes, sizes, dtypes, st.tuples(layouts, layouts), st.booleans())
def test_many_rows(device, tokens, width, features, dtype, how, biased):
    held(device, tokens, width, features, dtype, how, biased, TILE)


@pytest.mark.parametrize("tokens", [3, MOST_ROWS, MOST_ROWS + 1, 100])
def test_every_shipped_tile(tokens, device, rng):
    tile = dict(BLOCK_F=8, BLOCK_C=512) if tokens <= MOST_ROWS else linear.TILES[False, True, 64]
    x = draw(rng, (tokens, 600), "float16", device)
    w, scale, exact_w = weight(rng, 21, 600, device)
    exact = double(x) @ exact_w.T
    no_worse(weight_only_linear(x, w, scale, tile=tile), exact, torch.from_numpy(exact).half(), 0.1, "weight-only")


def test_the_token_of_a_decoding_step(device, rng):
    """(B, 1, C), as a model hands it over; a view of the last token of each row of a batch; no row at all."""
    x, (w, scale, exact_w) = draw(rng, (4, 5, 48), "float32", device), weight(rng, 30, 48, device)
    for given_x in (x[:, -1:], x[:1, :1], x[:, :1].expand(4, 2, 48), x, x[:0]):
        exact = double(given_x) @ exact_w.T
        no_worse(weight_only_linear(given_x, w, scale), exact, torch.from_numpy(exact).float(), 1e-4, "weight-only")


def test_the_weights_of_int8_linear_serve_here(device, rng):
    """quantise_rows gives both what they take. x is not rounded here, so this is the nearer one to the full product."""
    x, w = draw(rng, (2, 256), "float32", device), draw(rng, (32, 256), "float32", device)
    q, scale = quantise_rows(w)
    y, exact = double(weight_only_linear(x, q, scale)), double(x) @ double(w).T
    assert 0 < np.linalg.norm(y - exact) / np.linalg.norm(exact) < 0.01


def test_numpy_arrays_against_the_plain_op(rng):
    w, scale = plain.quantise_rows(rng.standard_normal((7, 20)).astype(np.float32))
    for rows in (2, 30):
        x = rng.standard_normal((rows, 20)).astype(np.float32)
        y = weight_only_linear(x, w, scale)
        assert isinstance(y, np.ndarray) and y.dtype == np.float32
        np.testing.assert_allclose(y, plain.weight_only_linear(x, w, scale), atol=1e-5)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda x, w, s: weight_only_linear(x, w[:, :3], s), InputError, r"w has shape \(4, 3\), and \(4, 5\) fits"),
        (lambda x, w, s: weight_only_linear(x, w, s, x[0]), InputError, r"b has shape \(5,\), and \(4,\) fits"),
        (lambda x, w, s: weight_only_linear(x, w.float(), s), OpsError, "w is float32 .*wanted are int8 rows"),
        (
            lambda x, w, s: weight_only_linear(x, w, s[:2]),
            OpsError,
            r"scale float32 \(2,\); wanted are int8 rows",
        ),
        (lambda x, w, s: weight_only_linear(x, w, s.half()), OpsError, r"scale float16 \(4,\)"),
        (lambda x, w, s: weight_only_linear(x.double(), w, s), OpsError, "x is float64"),
        (lambda x, w, s: weight_only_linear(x, w, s, s.half()), OpsError, "b is float16 and x is float32"),
    ],
)
def test_refusals(call, kind, words, device):
    with pytest.raises(kind, match=words):
        call(
            torch.ones(2, 5, device=device),
            torch.ones(4, 5, dtype=torch.int8, device=device),
            torch.ones(4, device=device),
        )
