"""kernels/linear.py against float64, and no further from it than torch in the same dtype: results and gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as nn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, double, draw, no_worse, same_bits
from kernel_gradients import hold_products

from minivl.errors import InputError, OpsError
from minivl.kernels import linear as linear_file
from minivl.kernels.activations import SMOOTH
from minivl.kernels.launch import HostArray, empty, tl, triton
from minivl.kernels.linear import TILES, gated_linear, linear, linear_act_backward, linear_backward, tile_of
from minivl.ops import ACTS
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

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
EXACT = {None: lambda x: x} | {act: getattr(numpy_ops, act, np.tanh) for act in SMOOTH}
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes, layouts = st.integers(1, 70), st.sampled_from(LAYOUTS)
dtypes, some_layouts = st.sampled_from(DTYPES), st.lists(layouts, min_size=3, max_size=3)
seeds, block = st.integers(0, 2**32 - 1), st.sampled_from([16, 32])
tiles = st.builds(dict, BLOCK_R=block, BLOCK_J=block, BLOCK_K=block, GROUP=st.integers(1, 3))
dz_tiles = st.builds(dict, BLOCK_M=block, BLOCK_F=block, BLOCK_C=block, GROUP=st.integers(1, 3))


@few
@given(
    sizes, sizes, sizes, st.sampled_from(DTYPES), st.sampled_from(list(TORCH)), st.tuples(*[layouts] * 3), st.booleans()
)
def test_linear(device, tokens, width, features, dtype, act, how, with_bias):
    rng = np.random.default_rng(tokens * width)
    x = draw(rng, (tokens, width), dtype, device, how[0], pad=8)
    w = draw(rng, (features, width), dtype, device, how[1], pad=5)
    b = draw(rng, (features,), dtype, device, how[2]) if with_bias else None
    exact = EXACT[act](double(x) @ double(w).T + (0 if b is None else double(b)))
    reference = TORCH[act](nn.linear(x, w, b))
    no_worse(linear(x, w, b, act, tile=SMALL), exact, reference, CAP[dtype], f"linear, act {act}")


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
    no_worse(gated_linear(x, gate, up, act=act, tile=SMALL), exact, reference, CAP[dtype], f"gated_linear, act {act}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_are_kept_in_float32(dtype, device):
    """2048 + nine times 0.25 - 2048, a step of C for each: float16 and bfloat16 would lose the quarters on the way."""
    x, w = (torch.zeros(2, 160, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    x[0, 0], x[0, 16::16], x[0, 159] = 2048, 0.25, -2048
    w[1] = 1
    assert linear(x, w, tile=SMALL).tolist() == [[0, 2.25], [0, 0]]
    assert gated_linear(x, w, w, act=None, tile=SMALL).tolist() == [
        [0, torch.tensor(2.25**2).to(x.dtype).item()],
        [0, 0],
    ]


@pytest.mark.parametrize("key", TILES, ids=str)
def test_every_shipped_tile(key, device, rng):
    gated, short, most = key
    x = draw(rng, (int(min(most, 150)), 200), "float16" if short else "float32", device)
    w, u = (draw(rng, (150, 200), "float16" if short else "float32", device, pad=pad) for pad in (3, 8))
    u /= 8
    exact, reference = np.maximum(double(x) @ double(w).T, 0), nn.relu(nn.linear(x, w))
    if gated:
        exact, reference = exact * (double(x) @ double(u).T), reference * nn.linear(x, u)
        got = gated_linear(x, w, u, act="relu", tile=TILES[key])
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
    x, w = (draw(rng, (16, 16), "float32", device) for _ in range(2))
    b = draw(rng, (16,), "float32", device)
    before = [t.clone() for t in (x, w, b)]
    linear(x, w, b, "relu")
    assert all(torch.equal(a, b) for a, b in zip((x, w, b), before, strict=True))


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda x: linear(x, x[:, :3]), InputError, r"linear: w has shape \(4, 3\), and \(4, 5\) fits"),
        (lambda x: linear(x, x, b=x[0]), InputError, r"linear: b has shape \(5,\), and \(4,\) fits"),
        (lambda x: linear(x, x, act="gelu_new"), InputError, "act is 'gelu_new', and the activations are gelu, "),
        (lambda x: gated_linear(x, x, x[:2], act="relu"), InputError, r"up has shape \(2, 5\), and \(4, 5\) fits"),
        (lambda x: linear(x.double(), x.double()), OpsError, "x is float64, and the kernel takes float32, float16"),
        (lambda x: linear(x, x.half()), OpsError, "w is float16 and x is float32: convert"),
        (lambda x: gated_linear(x, x, x.half(), act="relu"), OpsError, "up is float16 and x is float32"),
    ],
)
def test_refusals(call, kind, words, device):
    with pytest.raises(kind, match=words):
        call(torch.ones(4, 5, device=device))


# ---- backward --------------------------------------------------------------------------------------------------
@few
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), tiles, dz_tiles, st.sampled_from([None, *ACTS]),
    st.booleans(), dtypes, some_layouts, seeds,
)  # fmt: skip
def test_gradients(device, watch, M, F, C, tile, dz_tile, act, with_bias, dtype, layouts, seed):
    """Ragged edges of every tile, tails and none, strides of every kind."""
    rng = np.random.default_rng(seed)
    shapes = ((M, F), (M, C), (F, C))
    dout, x, w = (draw(rng, *how) for how in zip(shapes, [dtype] * 3, [device] * 3, layouts, (3, 8, 5), strict=True))
    b = draw(rng, (F,), dtype, device, "strided") if with_bias else None
    with watch():
        if act is None:
            got = linear_backward(dout, x, w, b, tile=tile)
        else:
            got = linear_act_backward(dout, x, w, b, act=act, tile=tile, dz_tile=dz_tile)
    assert (got[2] is None) == (b is None)
    run = torch_ops.linear if act is None else lambda *a: torch_ops.linear_act(*a, act=act)
    hold_products(got, run, dout, [x, w, b], f"{act or 'linear'} of {M} x {C} to {F} in {tile}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_in_shipped_tiles(dtype, device, rng):
    """Several programs on every side."""
    dout, x = draw(rng, (2, 150, 270), dtype, device, "padded"), draw(rng, (2, 150, 520), dtype, device)
    w, b = draw(rng, (270, 520), dtype, device), draw(rng, (270,), dtype, device)
    w.mul_(0.05)
    got = linear_act_backward(dout, x, w, b, act="gelu")
    assert got[0].shape == (2, 150, 520)
    hold_products(got, lambda *a: torch_ops.linear_act(*a, act="gelu"), dout, [x, w, b], "gelu of 300 x 520 to 270")


def test_only_what_is_wanted(device, rng):
    dout, x, w, b = (draw(rng, shape, "float32", device) for shape in ((5, 4), (5, 8), (4, 8), (4,)))
    for run in (linear_backward, lambda *a, **how: linear_act_backward(*a, act="tanh", **how)):
        everything = run(dout, x, w, b)
        for wanted in ((True, False, False), (False, True, False), (False, False, True)):
            parts = run(dout, x, w, b, wanted=wanted)
            for ours, all_of_it, want in zip(parts, everything, wanted, strict=True):
                assert ours is None if not want else (ours == all_of_it).all()


def test_one_token_and_none(device, rng):
    dout, x, w, b = (draw(rng, shape, "float32", device) for shape in ((4,), (8,), (4, 8), (4,)))
    dx, dw, db = linear_backward(dout, x, w, b)
    hold_products((dx, dw, db), torch_ops.linear, dout, [x, w, b], "one token")
    same_bits(db, dout, "the gradient of the bias")
    for got in (
        linear_backward(dout[None][:0], x[None][:0], w, b),
        linear_act_backward(dout[None][:0], x[None][:0], w, b, act="relu"),
    ):
        assert got[0].shape == (0, 8) and not got[1].any() and not got[2].any()
        assert (got[1].shape, got[2].shape) == ((4, 8), (4,))


def test_numbers_beyond_float16_in_the_sums(device, rng):
    """Sums of 500 products of 30 · 30 pass 65,504 on the way, and are summed in float32."""
    dout = torch.full((500, 16), 30.0, dtype=torch.float16, device=device)
    x, w = torch.full_like(dout, 30.0), torch.ones(16, 16, dtype=torch.float16, device=device)
    x[250:] = -30.0
    _, dw, db = linear_backward(dout, x, w, w[0])
    assert not dw.any() and (db == 15000).all()


def test_backward_refuses(device):
    dout, x, w = torch.ones(2, 4, device=device), torch.ones(2, 8, device=device), torch.ones(4, 8, device=device)
    with pytest.raises(InputError, match=r"linear_backward: dout has shape \(3, 4\), and \(2, 4\) fits x \(2, 8\)"):
        linear_backward(torch.ones(3, 4, device=device), x, w)
    with pytest.raises(InputError, match=r"linear_act_backward: b has shape \(8,\), and \(4,\) fits"):
        linear_act_backward(dout, x, w, x[0], act="gelu")
    with pytest.raises(InputError, match="act is 'swoosh'"):
        linear_act_backward(dout, x, w, act="swoosh")
    with pytest.raises(OpsError, match="dout is float16 and x is float32"):
        linear_backward(dout.half(), x, w)


def test_an_activation_may_be_named_in_place_of_linear_act(device, rng):
    """`linear_backward` takes what `linear` takes, in its order."""
    dout, x, w, b = (draw(rng, shape, "float32", device) for shape in ((5, 4), (5, 8), (4, 8), (4,)))
    for ours, other in zip(
        linear_backward(dout, x, w, b, "silu"), linear_act_backward(dout, x, w, b, act="silu"), strict=True
    ):
        same_bits(ours, other, "silu")


def test_gradients_of_numpy_arrays(rng):
    if not linear_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    dout, x, w, b = (rng.standard_normal(shape, np.float32) for shape in ((2, 3, 4), (2, 3, 8), (4, 8), 4))
    calls = [
        (linear_backward, numpy_backward.linear_backward, (dout, x[..., ::-1], w.T.copy().T, b), {}),
        (linear_act_backward, numpy_backward.linear_act_backward, (dout, x, w, b), dict(act="silu")),
    ]
    for kernel, plain, args, how in calls:
        before = [a.copy() for a in args]
        for ours, theirs in zip(kernel(*args, **how), plain(*args, **how), strict=True):
            assert isinstance(ours, np.ndarray)
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for a, kept in zip(args, before, strict=True):
            np.testing.assert_array_equal(a, kept)


def test_the_table_of_tiles(monkeypatch):
    """What a GPU gets for the products of the backward pass; test_every_shipped_tile runs those of the forward pass."""
    monkeypatch.setattr(linear_file, "INTERPRETED", False)
    assert linear_file.backward_config(514, 1408, 6144, "bfloat16")["BLOCK_R"] == 128
    assert linear_file.backward_config(514, 1408, 6144, "float32")["BLOCK_R"] == 64
