"""kernels/linear.py and kernels/activations.py against float64, and no further from it than torch in the same dtype."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse

from minivl.errors import InputError, OpsError
from minivl.kernels import activations
from minivl.kernels.launch import HostArray, empty, tl, triton
from minivl.kernels.linear import TILES, gated_linear, linear, tile_of
from minivl.ops import numpy as numpy_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4}
SMALL = dict(BLOCK_M=16, BLOCK_F=32, BLOCK_C=16, GROUP=2)
TORCH = {
    None: lambda x: x,
    "gelu": nn.gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": torch.tanh,
}
EXACT = {None: lambda x: x} | {act: getattr(numpy_ops, act, np.tanh) for act in activations.SMOOTH}
few = settings(
    max_examples=14,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes = st.integers(1, 70)
layouts = st.sampled_from(LAYOUTS)


@pytest.mark.parametrize("act", activations.SMOOTH)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation(act, dtype, device, rng):
    x = draw(rng, (3, 5, 7), dtype, device, "padded")
    x *= 4
    x[0, 0, 0], x[0, 0, 1], x[1, 0, 0] = -30, 30, 0
    got = getattr(activations, act)(x)
    no_worse(got, EXACT[act](double(x)), TORCH[act](x), CAP[dtype], act)


@pytest.mark.parametrize("act", activations.SMOOTH)
def test_activation_keeps_nan_and_does_not_invent_it(act, device):
    x = torch.tensor([float("nan"), -200.0, 200.0, -1e30], device=device)
    assert getattr(activations, act)(x).isnan().tolist() == [True, False, False, False]


def test_activation_over_several_programs(device, rng):
    x = draw(rng, ((1 << 16) + 5,), "float16", device)
    no_worse(activations.silu(x), EXACT["silu"](double(x)), nn.silu(x), 0.01, "silu")


@few
@given(sizes, sizes, sizes, st.sampled_from(DTYPES), st.sampled_from(list(TORCH)), st.tuples(*[layouts] * 4), st.data())
def test_linear(device, tokens, width, features, dtype, act, how, data):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    w = draw(rng, (features, width), dtype, device, how[1], pad=5)
    b = draw(rng, (features,), dtype, device, how[2]) if data.draw(st.booleans()) else None
    r = draw(rng, (tokens, features), dtype, device, how[3], pad=4) if data.draw(st.booleans()) else None
    exact = EXACT[act](double(x) @ double(w).T + (0 if b is None else double(b)))
    reference = TORCH[act](nn.linear(x, w, b))
    if r is not None:
        exact, reference = exact + double(r), reference + r
    no_worse(linear(x, w, b, act, r, tile=SMALL), exact, reference, CAP[dtype], f"linear, act {act}")


@few
@given(sizes, sizes, sizes, st.sampled_from(DTYPES), st.sampled_from(list(TORCH)), st.tuples(*[layouts] * 3))
def test_gated_linear(device, tokens, width, features, dtype, act, how):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    gate = draw(rng, (features, width), dtype, device, how[1], pad=5)
    up = draw(rng, (features, width), dtype, device, how[2], pad=16)
    gate /= 4
    up /= 4
    exact = EXACT[act](double(x) @ double(gate).T) * (double(x) @ double(up).T)
    reference = TORCH[act](nn.linear(x, gate)) * nn.linear(x, up)
    no_worse(gated_linear(x, gate, up, act, tile=SMALL), exact, reference, CAP[dtype], f"gated_linear, act {act}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_are_kept_in_float32(dtype, device):
    """2048 + nine times 0.25 - 2048, a step of C for each: float16 and bfloat16 would lose the quarters on the way."""
    x, w = (torch.zeros(2, 160, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    x[0, 0], x[0, 16::16], x[0, 159] = 2048, 0.25, -2048
    w[1] = 1
    assert linear(x, w, tile=SMALL).tolist() == [[0, 2.25], [0, 0]]
    assert gated_linear(x, w, w, None, tile=SMALL).tolist() == [[0, torch.tensor(2.25**2).to(x.dtype).item()], [0, 0]]


@pytest.mark.parametrize("key", TILES, ids=str)
def test_every_shipped_tile(key, device, rng):
    gated, short, most = key
    x = draw(rng, (int(min(most, 150)), 200), "float16" if short else "float32", device)
    w, u = (draw(rng, (150, 200), "float16" if short else "float32", device, pad=pad) for pad in (3, 8))
    u /= 8
    exact, reference = np.maximum(double(x) @ double(w).T, 0), nn.relu(nn.linear(x, w))
    if gated:
        exact, reference = exact * (double(x) @ double(u).T), reference * nn.linear(x, u)
        got = gated_linear(x, w, u, "relu", tile=TILES[key])
    else:
        got = linear(x, w, act="relu", tile=TILES[key])
    no_worse(got, exact, reference, 0.5, f"tile {key}")


@triton.jit
def number_tiles(OUT, M, F, GROUP: tl.constexpr):
    m, f = tile_of(tl.program_id(0), M, F, 16, 32, GROUP)
    tl.store(OUT + tl.program_id(0) * 2, tl.min(m, 0) // 16)
    tl.store(OUT + tl.program_id(0) * 2 + 1, tl.min(f, 0) // 32)


def test_tiles_are_numbered_down_a_group_first(device):
    """5 x 3 tiles in groups of 2 rows: neighbours in time share rows of w, and every tile is somebody's."""
    out = torch.zeros(15, 2, dtype=torch.int32, device=device)
    number_tiles[(15,)](out, 16 * 4 + 1, 32 * 2 + 1, 2)
    wanted = [(top + i, j) for top, tall in ((0, 2), (2, 2), (4, 1)) for j in range(3) for i in range(tall)]
    assert [tuple(tile) for tile in out.tolist()] == wanted


def test_linear_takes_what_the_models_hand_it(device, rng):
    """Three axes, a view of every third token, a row repeated by expand, no token at all."""
    x, w = draw(rng, (2, 9, 24), "float32", device), draw(rng, (10, 24), "float32", device, "padded")
    b = draw(rng, (10,), "float32", device)
    for given_x in (x, x[:, ::3], x[:1, :1].expand(2, 4, 24), x.swapaxes(0, 1), x[:, :0]):
        no_worse(
            linear(given_x, w, b), double(given_x) @ double(w).T + double(b), nn.linear(given_x, w, b), 1e-4, "linear"
        )


def test_numpy_arrays(rng):
    x, w = rng.standard_normal((3, 20)).astype(np.float32), rng.standard_normal((7, 20)).astype(np.float32)
    got = linear(x, w, act="gelu")
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    np.testing.assert_allclose(got, numpy_ops.gelu(x.astype(np.float64) @ w.T), atol=1e-5)
    assert isinstance(empty((2,), HostArray(x), "bfloat16"), HostArray)


def test_arguments_are_not_written_to(device, rng):
    x, w, r = (draw(rng, (16, 16), "float32", device) for _ in range(3))
    before = [t.clone() for t in (x, w, r)]
    linear(x, w, r[0], "relu", r)
    assert all(torch.equal(a, b) for a, b in zip((x, w, r), before, strict=True))


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda x: linear(x, x[:, :3]), InputError, r"linear: w has shape \(4, 3\), and \(4, 5\) fits"),
        (lambda x: linear(x, x, b=x[0]), InputError, r"linear: b has shape \(5,\), and \(4,\) fits"),
        (lambda x: linear(x, x, residual=x), InputError, r"residual has shape \(4, 5\), and \(4, 4\) fits"),
        (lambda x: linear(x, x, act="gelu_new"), InputError, "act is 'gelu_new', and the activations are gelu, "),
        (lambda x: gated_linear(x, x, x[:2], "relu"), InputError, r"up has shape \(2, 5\), and \(4, 5\) fits"),
        (lambda x: linear(x.double(), x.double()), OpsError, "x is float64, and the kernel takes float32, float16"),
        (lambda x: linear(x, x.half()), OpsError, "w is float16 and x is float32: convert"),
        (lambda x: linear(x, x, residual=x[:, :4].half()), OpsError, "residual is float16 and x is float32"),
        (lambda x: gated_linear(x, x, x.half(), "relu"), OpsError, "up is float16 and x is float32"),
        (lambda x: activations.gelu(x.int()), OpsError, "gelu: x is int32, and the kernel takes float32, float16"),
    ],
)
def test_refusals(call, kind, words, device):
    with pytest.raises(kind, match=words):
        call(torch.ones(4, 5, device=device))
