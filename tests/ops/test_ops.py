"""Every op against a truth in float64: torch's double precision, the C library's erf, or a sum written out.

float32 is held to the rule of FlashAttention's tests: at most twice the error that torch makes in float32 on the same
input, and a few ulps.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import minivl.ops
from minivl.errors import InputError, OpsError
from minivl.ops import numpy_products

RECORDS = ["plain", "numpy", "torch"]
DTYPES = [np.float64, np.float32]
NUMPY = minivl.ops.get("numpy")

records = st.sampled_from(RECORDS)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 6), max_size=3).map(tuple)  # everything before the last axis
widths = st.sampled_from([1, 2, 3, 7, 8, 31, 32, 33, 88])


def draw(seed, shape, dtype, scale=1.0):
    """Normal numbers, read-only; the seed decides how they lie in memory: plain, every second of a row, transposed."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * scale).astype(dtype)
    layout = seed % 3
    if x.ndim and layout == 1:
        wide = np.full((*shape[:-1], 2 * shape[-1]), np.nan, dtype)
        wide[..., ::2] = x
        x = wide[..., ::2]
    elif layout == 2:
        x = np.ascontiguousarray(x.T).T
    x.flags.writeable = False
    return x


def call(record, name, *args, **kwargs):
    """The result as an ndarray. Fails if the op writes to an argument: NumPy's are read-only, torch's are compared."""
    ops = minivl.ops.get(record)

    def give(x):
        return ops.from_numpy(x) if isinstance(x, np.ndarray) else x

    given_args, given_kwargs = [give(x) for x in args], {key: give(x) for key, x in kwargs.items()}
    result = getattr(ops, name)(*given_args, **given_kwargs)
    for before, after in zip([*args, *kwargs.values()], [*given_args, *given_kwargs.values()], strict=True):
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, ops.to_numpy(after), err_msg=f"{name} wrote to its argument")
    return ops.to_numpy(result)


def double(x):
    return torch.tensor(np.asarray(x, np.float64)) if isinstance(x, np.ndarray) else x


def agree(got, truth, dtype, single=None):
    """`single` is what torch makes of the same input in float32."""
    assert got.dtype == dtype
    assert got.shape == truth.shape
    scale = max(1.0, float(np.abs(truth).max(initial=0)))
    if dtype == np.float64:
        allowed = 1e-12 * scale
    else:
        allowed = 1e-6 * scale + (0 if single is None else 2 * float(np.abs(single - truth).max(initial=0)))
    worst = float(np.abs(got - truth).max(initial=0))
    assert worst <= allowed, f"off by {worst:.1e}, allowed {allowed:.1e}"


def against_torch(record, name, function, *args, dtype, **kwargs):
    """Hold an op to torch's function of the same arguments in float64."""
    truth = function(*(double(x) for x in args), **kwargs).numpy()
    single = function(*(torch.tensor(x.astype(np.float32)) if isinstance(x, np.ndarray) else x for x in args), **kwargs)
    agree(call(record, name, *args, **kwargs), truth, dtype, single.double().numpy())


# ---- linear --------------------------------------------------------------------------------------
@given(records, dtypes, seeds, shapes, widths, widths, st.booleans())
def test_linear(record, dtype, seed, shape, into, out, bias):
    x, w = draw(seed, (*shape, into), dtype), draw(seed + 1, (out, into), dtype)
    b = draw(seed + 2, (out,), dtype) if bias else None
    against_torch(record, "linear", F.linear, x, w, b, dtype=dtype)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("rows", [0, 1, 2, 99, 100, 101, 257])
def test_linear_of_many_rows(record, rows):
    x, w, b = draw(0, (rows, 88), np.float32), draw(1, (33, 88), np.float32), draw(2, (33,), np.float32)
    against_torch(record, "linear", F.linear, x, w, b, dtype=np.float32)


@pytest.mark.parametrize("rows", [2, 7, 99])
@pytest.mark.parametrize("into, out", [(88, 33), (64, 40), (1300, 1001)])  # 33 and 1001 leave rows beside the slices
def test_few_rows_meet_a_matrix_in_parts(monkeypatch, rows, into, out):
    monkeypatch.setattr(numpy_products, "PART", 512)
    parts = []
    whole = numpy_products.sliced_product
    monkeypatch.setattr(numpy_products, "sliced_product", lambda *given: (parts.append(len(given[0])), whole(*given)))
    x, w, b = draw(0, (rows, into), np.float32), draw(1, (out, into), np.float32), draw(2, (out,), np.float32)
    against_torch("numpy", "linear", F.linear, x, w, b, dtype=np.float32)
    assert sum(parts) == out and len(parts) > 1


BENT = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


@given(records, dtypes, seeds, shapes, widths, widths, st.booleans(), st.sampled_from(sorted(BENT)))
def test_linear_act(record, dtype, seed, shape, into, out, bias, act):
    x, w = draw(seed, (*shape, into), dtype), draw(seed + 1, (out, into), dtype)
    b = draw(seed + 2, (out,), dtype) if bias else None

    def bent(x, w, b, act):
        return BENT[act](F.linear(x, w, b))

    against_torch(record, "linear_act", bent, x, w, b, dtype=dtype, act=act)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("act", ["swish", "name", "linear", None])
def test_an_unknown_activation_is_named(record, act):
    x = np.zeros((1, 1), np.float32)
    with pytest.raises(InputError, match=f"{act!r} does not exist.*gelu_tanh"):
        call(record, "linear_act", x, x, act=act)


# ---- norms ---------------------------------------------------------------------------------------
def layer_norm_truth(x, w, b, eps):
    return F.layer_norm(x, w.shape, w, b, eps)


def rms_norm_truth(x, w, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w


norm_eps = st.sampled_from([1e-12, 1e-6, 1e-5, 1e-1])
norm_scales = st.sampled_from([1e-4, 1.0, 1e3])


@given(records, dtypes, seeds, shapes, widths.filter(lambda width: width > 1), norm_eps, norm_scales)
def test_layer_norm(record, dtype, seed, shape, width, eps, scale):
    x = draw(seed, (*shape, width), dtype, scale)
    w, b = draw(seed + 1, (width,), dtype), draw(seed + 2, (width,), dtype)
    against_torch(record, "layer_norm", layer_norm_truth, x, w, b, eps, dtype=dtype)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 768, 1408])
def test_layer_norm_far_from_zero(record, dtype, width):
    """A large mean must be taken off before anything is squared; a constant row gives the bias."""
    x = np.stack([draw(3, (width,), dtype) + dtype(1000), np.full(width, -7, dtype), np.zeros(width, dtype)])
    w, b = draw(4, (width,), dtype), draw(5, (width,), dtype)
    against_torch(record, "layer_norm", layer_norm_truth, x, w, b, 1e-5, dtype=dtype)
    np.testing.assert_allclose(call(record, "layer_norm", x, w, b, 1e-5)[1:], [b, b], atol=1e-6)


@given(records, dtypes, seeds, shapes, widths.filter(lambda width: width > 1), norm_eps, norm_scales)
def test_add_layer_norm(record, dtype, seed, shape, width, eps, scale):
    x, y = draw(seed, (*shape, width), dtype, scale), draw(seed + 3, (*shape, width), dtype)
    w, b = draw(seed + 1, (width,), dtype), draw(seed + 2, (width,), dtype)

    def of_the_sum(x, y, w, b, eps):
        return layer_norm_truth(x + y, w, b, eps)

    against_torch(record, "add_layer_norm", of_the_sum, x, y, w, b, eps, dtype=dtype)


@given(records, dtypes, seeds, shapes, widths, norm_eps, norm_scales)
def test_rms_norm(record, dtype, seed, shape, width, eps, scale):
    x, w = draw(seed, (*shape, width), dtype, scale), draw(seed + 1, (width,), dtype)
    against_torch(record, "rms_norm", rms_norm_truth, x, w, eps, dtype=dtype)


# ---- softmax and attention -----------------------------------------------------------------------
@given(records, dtypes, seeds, shapes, widths, st.sampled_from([1.0, 30.0, 1e4]))
def test_softmax(record, dtype, seed, shape, width, scale):
    x = draw(seed, (*shape, width), dtype, scale)
    got = call(record, "softmax", x)
    agree(got, torch.softmax(double(x), -1).numpy(), dtype)
    np.testing.assert_allclose(got.sum(-1), np.ones(shape), atol=1e-6)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_extremes(record, dtype):
    inf = math.inf
    x = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [0, -inf, 0], [-inf, -inf, 5], [1e4, 1e4, -inf]], dtype)
    want = [[1, 0, 0], [1 / 3] * 3, [0.5, 0, 0.5], [0, 0, 1], [0.5, 0.5, 0]]
    agree(call(record, "softmax", x), np.array(want), dtype)


def test_softmax_of_a_row_without_anything():
    assert NUMPY.softmax(np.full((2, 3), -np.inf)).tolist() == [[0] * 3] * 2


def weights_truth(q, k, mask=None, bias=None, causal=False, scale=None):
    """One query at a time, one visible key at a time."""
    (B, H, T, D), S = q.shape, k.shape[2]
    mask = np.broadcast_to(True if mask is None else mask, (B, H, T, S))
    bias = np.broadcast_to(0.0 if bias is None else bias, (B, H, T, S))
    weights = np.zeros((B, H, T, S))
    for b, h, t in np.ndindex(B, H, T):
        seen = [s for s in range(S) if mask[b, h, t, s] and (not causal or s - (S - 1) <= t - (T - 1))]
        scores = [
            math.fsum(float(x) * float(y) for x, y in zip(q[b, h, t], k[b, h, s], strict=True))
            * (1 / math.sqrt(D) if scale is None else scale)
            + float(bias[b, h, t, s])
            for s in seen
        ]
        shares = [math.exp(score - max(scores)) for score in scores]
        weights[b, h, t, seen] = [share / math.fsum(shares) for share in shares]
    return weights


sizes = st.integers(1, 5)
ways = st.sampled_from([(), (0,), (1,), (2,), (0, 1), (0, 1, 2), (1, 3), (3,)])  # axes of size 1 in a mask or bias


@given(
    records, dtypes, seeds, sizes, sizes, sizes, sizes, sizes, sizes, st.booleans(),
    st.none() | ways, st.none() | ways, st.sampled_from([None, 1.0, 0.3]),
)  # fmt: skip
def test_attention(record, dtype, seed, B, H, T, S, D, E, causal, masked, biased, scale):
    q, k, v = draw(seed, (B, H, T, D), dtype), draw(seed + 1, (B, H, S, D), dtype), draw(seed + 2, (B, H, S, E), dtype)
    how = dict(causal=causal, scale=scale)

    def narrow(axes):
        return tuple(1 if axis in axes else size for axis, size in enumerate((B, H, T, S)))

    if masked is not None:
        how["mask"] = np.random.default_rng(seed).random(narrow(masked)) < 0.6
    if biased is not None:
        how["bias"] = draw(seed + 3, narrow(biased), dtype, 2.0)
    want = weights_truth(q, k, **how)
    agree(call(record, "attention_weights", q, k, **how), want, dtype)
    agree(call(record, "attention", q, k, v, **how), want @ v.astype(np.float64), dtype)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("T, S", [(1, 1), (4, 4), (2, 5), (1, 5), (5, 2)])
def test_causal_lines_up_the_last_query_with_the_last_key(record, T, S):
    q, k = np.zeros((1, 1, T, 2)), np.zeros((1, 1, S, 2))
    got = call(record, "attention_weights", q, k, causal=True)[0, 0]
    for t in range(T):
        sees = max(0, S - T + t + 1)  # with more queries than keys the first ones see nothing
        np.testing.assert_allclose(got[t], [1 / sees] * sees + [0] * (S - sees) if sees else [0] * S)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_may_see_no_key_gives_zeros(record, dtype):
    q, k, v = (draw(seed, (2, 1, 3, 4), dtype) for seed in (0, 1, 2))
    mask = np.ones((2, 1, 3, 3), bool)
    mask[1, 0, 1] = False
    for causal in (False, True):
        got = call(record, "attention", q, k, v, mask=mask, causal=causal)
        assert not got[1, 0, 1].any()
        assert np.isfinite(got).all() and got[0].all() and got[1, 0, 2].all()


@pytest.mark.parametrize("record", RECORDS)
def test_attention_with_enormous_scores(record):
    """exp(1e4) would overflow; with the maximum taken off, one key simply takes all."""
    q, k = np.full((1, 1, 1, 1), 1e4, np.float32), np.array([1, 0.5, -1], np.float32).reshape(1, 1, 3, 1)
    assert call(record, "attention_weights", q, k).tolist() == [[[[1, 0, 0]]]]


def test_gradients_pass_a_query_that_sees_nothing():
    """The torch record trains: a hidden row must not turn into nan on the way back."""
    ops = minivl.ops.get("torch")
    q, k, v = (torch.tensor(draw(seed, (1, 1, 3, 4), np.float64), requires_grad=True) for seed in (0, 1, 2))
    mask = torch.tensor([[True] * 3, [False] * 3, [True, False, True]])
    assert torch.autograd.gradcheck(lambda *qkv: ops.attention(*qkv, mask=mask, causal=True), (q, k, v))


# ---- activations ---------------------------------------------------------------------------------
def erf_gelu(x):
    """x times the normal distribution below x; erfc keeps the digits that 1 + erf would lose on the left."""
    return 0.5 * x * math.erfc(-x / math.sqrt(2))


def tanh_gelu(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


ACTIVATIONS = {
    "gelu": erf_gelu,
    "gelu_tanh": tanh_gelu,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: x if x > 0 else 0.0,
}
GRID = np.linspace(-12, 12, 48_001)


def grid_truth(name, x):
    return np.array([ACTIVATIONS[name](float(value)) for value in x.reshape(-1)]).reshape(x.shape)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype, allowed", [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_on_a_fine_grid(record, name, dtype, allowed):
    x = GRID.astype(dtype)
    got = call(record, name, x)
    assert got.dtype == dtype
    worst = np.abs(got - grid_truth(name, x)).max()
    assert worst <= allowed, f"off by {worst:.1e}"


def test_gelu_is_as_good_as_its_docstring_says():
    x = GRID.astype(np.float32)
    assert np.abs(NUMPY.gelu(x) - grid_truth("gelu", x)).max() <= 6e-7


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_huge_and_tiny_numbers(record, name, dtype):
    """Far to the right every activation is x, far to the left 0; close to zero the smooth ones are x/2."""
    tiny = float(np.finfo(dtype).tiny)
    x = np.array([100, 1e3, 1e6, 1e12, -100, -1e3, -1e6, -1e12, 0, tiny, -tiny, tiny / 4], dtype)
    got = call(record, name, x)
    np.testing.assert_array_equal(got[:4], x[:4])
    np.testing.assert_allclose(got[4:8], 0, atol=1e-7)
    near_zero = np.maximum(x[8:], 0) if name == "relu" else x[8:] / 2
    np.testing.assert_allclose(got[8:], near_zero, rtol=1e-5, atol=tiny / 1e5)
    assert call(record, name, np.array([np.inf], dtype))[0] == np.inf
    assert np.isnan(call(record, name, np.array([np.nan], dtype))[0])


@given(records, dtypes, seeds, shapes, widths, st.sampled_from(sorted(ACTIVATIONS)))
def test_activation_of_any_shape(record, dtype, seed, shape, width, name):
    x = draw(seed, (*shape, width), dtype, 3.0)
    agree(call(record, name, x), grid_truth(name, x), dtype)


@pytest.mark.parametrize("size", [0, 1, 32767, 32768, 32769, 65539])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_more_than_one_block(name, size):
    x = draw(0, (size,), np.float32)
    truth = grid_truth(name, x) if size < 100 else getattr(NUMPY, name)(x.astype(np.float64))
    agree(call("numpy", name, x), truth, np.float32)


@given(records, dtypes, seeds, shapes, widths)
def test_tanh(record, dtype, seed, shape, width):
    x = draw(seed, (*shape, width), dtype, 5.0)
    agree(call(record, "tanh", x), np.array([math.tanh(value) for value in x.reshape(-1)]).reshape(x.shape), dtype)


# ---- embed, patch_embed, cross_entropy -----------------------------------------------------------
@given(records, dtypes, seeds, shapes, widths)
def test_embed(record, dtype, seed, shape, width):
    table = draw(seed, (11, width), dtype)
    ids = np.random.default_rng(seed).integers(0, 11, shape)
    got = call(record, "embed", ids, table)
    assert got.dtype == dtype and got.shape == (*shape, width)
    for place in np.ndindex(shape):
        assert got[place].tolist() == table[ids[place]].tolist()


@pytest.mark.parametrize("ids, words", [([[0, 11]], "11"), ([-1], "-1"), ([3, 2**40], str(2**40))])
def test_embed_names_an_id_that_is_not_in_the_table(ids, words):
    with pytest.raises(InputError, match=f"token id {words} has no embedding"):
        NUMPY.embed(np.array(ids), np.zeros((11, 2)))


def test_embed_of_nothing():
    assert NUMPY.embed(np.zeros((2, 0), int), np.zeros((11, 4))).shape == (2, 0, 4)


sides = st.integers(4, 13)


@given(records, dtypes, seeds, st.integers(1, 3), st.integers(1, 4), sides, sides, widths, st.booleans())
def test_patch_embed(record, dtype, seed, B, P, height, width, out, bias):
    pixels, w = draw(seed, (B, 3, height, width), dtype), draw(seed + 1, (out, 3, P, P), dtype)
    b = draw(seed + 2, (out,), dtype) if bias else None

    def convolution(pixels, w, b):
        return F.conv2d(pixels, w, b, stride=P).flatten(2).transpose(1, 2)

    against_torch(record, "patch_embed", convolution, pixels, w, b, dtype=dtype)


@given(records, dtypes, seeds, shapes, widths, st.sampled_from([1.0, 1e3]), st.sampled_from([-100, -1, 0]))
def test_cross_entropy(record, dtype, seed, shape, width, scale, ignore):
    rng = np.random.default_rng(seed)
    logits = draw(seed, (*shape, width), dtype, scale)
    targets = np.where(rng.random(shape) < 0.3, ignore, rng.integers(0, width, shape))
    if (targets == ignore).all():
        assert math.isnan(call(record, "cross_entropy", logits, targets, ignore_index=ignore))
        return
    losses = []
    for place in np.ndindex(shape):
        if targets[place] != ignore:
            row = [float(x) for x in logits[place]]
            losses.append(math.log(math.fsum(math.exp(x - max(row)) for x in row)) + max(row) - row[targets[place]])
    got = call(record, "cross_entropy", logits, targets, ignore_index=ignore)
    agree(np.asarray(got), np.asarray(math.fsum(losses) / len(losses)), dtype)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_without_targets_is_nan(record, dtype):
    got = call(record, "cross_entropy", np.zeros((2, 3, 5), dtype), np.full((2, 3), -100))
    assert got.dtype == dtype and math.isnan(got)


def test_cross_entropy_leaves_out_minus_hundred_and_nothing_else():
    logits = draw(0, (3, 5), np.float64)
    kept = call("numpy", "cross_entropy", logits[[0, 2]], np.array([1, 0]))
    assert call("numpy", "cross_entropy", logits, np.array([1, -100, 0])) == pytest.approx(float(kept), abs=1e-15)
    for wrong in (-1, 5):
        with pytest.raises(InputError, match="vocabulary from 0 to 4"):
            NUMPY.cross_entropy(logits, np.array([1, wrong, 0]))


# ---- the record itself ---------------------------------------------------------------------------
@pytest.mark.parametrize("record", RECORDS)
def test_small_change(record):
    ops = minivl.ops.get(record)
    assert ops.name == record
    a, b = ops.from_numpy(np.array([[1, 2]])), ops.from_numpy(np.array([[3]]))
    assert ops.to_numpy(ops.concat([a, b], 1)).tolist() == [[1, 2, 3]]
    assert ops.to_numpy(ops.broadcast_to(b, (2, 3))).tolist() == [[3] * 3] * 2
    swapped = ops._replace(relu=ops.silu)
    assert swapped.relu is ops.silu and ops.relu is not ops.silu and minivl.ops.get(record).relu is ops.relu


def test_unknown_record():
    with pytest.raises(OpsError, match="'jax'.*'numpy'"):
        minivl.ops.get("jax")
