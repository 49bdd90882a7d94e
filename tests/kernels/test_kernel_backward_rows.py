"""The backward kernels of rows: norms, softmax, cross-entropy, embeddings, activations, against float64 and torch.

The exact gradients are torch's in float64; ours may be three times as far from them as torch's in our dtype.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS, RMS, double, draw, no_worse, room, same_bits

from minivl.errors import InputError, OpsError
from minivl.kernels import activations_backward, column_sums, layer_norm_backward
from minivl.kernels import rows as rows_file
from minivl.kernels.column_sums import column_sums as sums_of
from minivl.kernels.cross_entropy_backward import cross_entropy_backward, cross_entropy_backward_in_place
from minivl.kernels.embeddings_backward import embed_backward
from minivl.kernels.layer_norm_backward import add_layer_norm_backward, rms_norm_backward
from minivl.kernels.layer_norm_backward import layer_norm_backward as norm_backward
from minivl.kernels.softmax_backward import softmax_backward
from minivl.ops import ACTS
from minivl.ops import backward as numpy_backward
from minivl.ops import numpy as numpy_ops
from minivl.ops import torch as torch_ops

DTYPES = ("float32", "float16", "bfloat16")
CAP = {"float32": 5e-5, "float16": 0.03, "bfloat16": 0.2}  # times the largest exact number, where that is above 1
EPS = 1e-5
few = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes, layouts = st.sampled_from(DTYPES), st.lists(st.sampled_from(LAYOUTS), min_size=5, max_size=5)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 5), max_size=2).map(tuple)


def autograd(function, dout, inputs, dtype):
    """torch's gradients of function(*inputs) in a dtype, one for each floating tensor among the inputs."""
    given = [x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x for x in inputs]
    out = function(*given)
    leaves = [x for x in given if x.is_floating_point()]
    return torch.autograd.grad(out, leaves, dout.to(dtype).expand(out.shape), allow_unused=True)


def hold(got, function, dout, inputs, what, terms=(0, 0, 0, 0)):
    """Every gradient of `got` against torch's: float64, and the dtype of the inputs.

    terms   for each, the size of the numbers that it is a sum of: where they cancel, errors are measured by them
    """
    dtype = str(dout.dtype).removeprefix("torch.")
    exact, reference = (autograd(function, dout, inputs, kind) for kind in (torch.float64, dout.dtype))
    assert len(got) == len(exact)
    for number, (ours, true, theirs) in enumerate(zip(got, map(double, exact), reference, strict=True)):
        cap = CAP[dtype] * max(1.0, np.abs(true[np.isfinite(true)]).max(initial=0))
        rms = RMS[dtype] * max(1.0, terms[number] / max(size(true), 1e-300))
        no_worse(ours, true, theirs, cap, f"gradient {number} of {what}", rms, times=3)


def size(x):
    """The root mean square of what is finite."""
    x = double(x)
    return np.sqrt(np.mean(x[np.isfinite(x)] ** 2)) if np.isfinite(x).any() else 0.0


# ---- norms -------------------------------------------------------------------------------------------------------
def hold_norms(x, y, dout, dsum, w, b, what, tile=None, eps=EPS):
    """Layer norm, RMS norm, and the norm of a sum that is carried on."""
    one, carried = size(dout), torch.cat([dout, dsum])
    steep = one * size(w) / np.sqrt(double(x).var(-1).min() + eps)
    got = norm_backward(dout, x, w, b, eps, tile=tile)
    hold(got, lambda *a: torch_ops.layer_norm(*a, eps), dout, [x, w, b], f"layer norm of {what}", (steep, one, one))
    got = rms_norm_backward(dout, x, w, eps, tile=tile)
    hold(got, lambda *a: torch_ops.rms_norm(*a, eps), dout, [x, w], f"RMS norm of {what}", (steep, one))
    got = add_layer_norm_backward(dout, x, y, w, b, eps, dsum=dsum, tile=tile)
    assert got[0] is got[1]
    steep = one * size(w) / np.sqrt((double(x) + double(y)).var(-1).min() + eps)

    def both(x, y, w, b):  # the first half gets dout, the second half dsum
        return torch.cat([torch_ops.add_layer_norm(x, y, w, b, eps), x + y])

    hold(got, both, carried, [x, y, w, b], f"layer norm of a sum of {what}", (steep, steep, one, one))


@few
@given(st.integers(1, 9), st.integers(5, 70), st.sampled_from([1, 2, 4]), st.integers(1, 3), dtypes, layouts, seeds)
def test_norms_in_small_tiles(device, watch, rows, C, ROWS, PARTS, dtype, layouts, seed):
    """Ragged rows; chunks of them in several programs; strides of every kind. Narrower rows do nothing but cancel."""
    rng, tile = np.random.default_rng(seed), dict(ROWS=ROWS, BLOCK=128, PARTS=PARTS)
    x, y, dout, dsum = (draw(rng, (rows, C), dtype, device, *how) for how in zip(layouts, (3, 8, 5, 1), strict=False))
    w, b = draw(rng, (C,), dtype, device, layouts[4]), draw(rng, (C,), dtype, device)
    with watch():
        hold_norms(x, y, dout, dsum, w, b, f"{rows} x {C} in {PARTS} programs of {ROWS} rows", tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [1, 88, 768, 1408, 5000])
def test_norms_of_the_models_widths(C, dtype, device, rng):
    x, y, dout, dsum = (draw(rng, (6, C), dtype, device, LAYOUTS[(C + i) % 5]) for i in range(4))
    w, b = draw(rng, (C,), dtype, device, "strided"), draw(rng, (C,), dtype, device)
    hold_norms(x, y, dout, dsum, w, b, f"rows of {C}")


def test_norms_of_more_axes_and_none(device, rng):
    x, dout = draw(rng, (2, 3, 8), "float32", device), draw(rng, (2, 3, 8), "float32", device, "permuted")
    w, b = draw(rng, (8,), "float32", device), draw(rng, (8,), "float32", device)
    dx, dw, db = norm_backward(dout, x, w, b, EPS)
    assert (dx.shape, dw.shape, db.shape) == ((2, 3, 8), (8,), (8,))
    hold((dx, dw, db), lambda *a: torch_ops.layer_norm(*a, EPS), dout, [x, w, b], "three axes")
    dx, dw, db = norm_backward(dout[:, :0], x[:, :0], w, b, EPS)
    assert dx.shape == (2, 0, 8) and dw.tolist() == db.tolist() == [0.0] * 8
    assert rms_norm_backward(dout[0, 0], x[0, 0], w, EPS)[0].shape == (8,)


@pytest.mark.parametrize("eps", [1e-12, 0.5])
def test_eps(eps, device, rng):
    x, y, dout, dsum = (0.1 * draw(rng, (3, 40), "float32", device) for _ in range(4))
    hold_norms(x, y, dout, dsum, x[0].clone(), y[0].clone(), f"eps {eps}", eps=eps)


def test_a_large_mean_costs_no_digits(device, rng):
    """Rows that vary by 0.01 around 10,000, where float32 itself has steps of 0.001."""
    x = torch.tensor(1e4 + 0.01 * rng.standard_normal((4, 1408)), dtype=torch.float32, device=device)
    dout, w = draw(rng, (4, 1408), "float32", device), torch.ones(1408, device=device)
    got = norm_backward(dout, x, w, w, 1e-12)
    exact = numpy_backward.layer_norm_backward(double(dout), double(x), double(w), double(w), 1e-12)
    for ours, true in zip(got, exact, strict=True):
        np.testing.assert_allclose(double(ours), true, atol=1e-5 * np.abs(true).max())


def test_only_what_is_wanted(device, rng):
    x, dout, w = (draw(rng, shape, "float32", device) for shape in ((5, 8), (5, 8), (8,)))
    dx, dw, db = norm_backward(dout, x, w, w, EPS)
    for wanted in ((True, False, True), (True, True, False), (True, False, False)):
        parts = norm_backward(dout, x, w, w, EPS, wanted=wanted)
        for ours, all_of_it, want in zip(parts, (dx, dw, db), wanted, strict=True):
            assert ours is None if not want else (ours == all_of_it).all()
    assert rms_norm_backward(dout, x, w, EPS, wanted=(True, False))[1] is None
    assert [g is None for g in add_layer_norm_backward(dout, x, x, w, w, EPS, wanted=(True, False, False, True))] == [
        False, False, True, False,
    ]  # fmt: skip


def test_the_sum_is_found_again_before_it_was_rounded(device):
    """2048 + 0.5 is 2048 in float16: of the rounded sum it would be the gradient of a constant row."""
    x = torch.full((1, 8), 2048.0, dtype=torch.float16, device=device)
    y = torch.tensor([[0.5, 0.0] * 4], dtype=torch.float16, device=device)
    dout = torch.tensor([[1.0, 1, -1, -1, 0, 0, 0, 0]], dtype=torch.float16, device=device)
    w = torch.ones(8, dtype=torch.float16, device=device)
    dx, _, dw, _ = add_layer_norm_backward(dout, x, y, w, w, 1e-6)
    np.testing.assert_allclose(double(dx), 4 * double(dout), rtol=2e-3)  # 1/σ of 0.5 and 0 is 4
    np.testing.assert_allclose(double(dw), [1, -1, -1, 1, 0, 0, 0, 0], atol=1e-3)


def test_norms_refuse(device):
    x, w = torch.ones(2, 8, device=device), torch.ones(8, device=device)
    with pytest.raises(OpsError, match=r"layer_norm_backward: dout has shape \(1, 8\) and x \(2, 8\)"):
        norm_backward(x[:1], x, w, w, EPS)
    with pytest.raises(OpsError, match=r"add_layer_norm_backward: y has shape \(1, 8\)"):
        add_layer_norm_backward(x, x, x[:1], w, w, EPS)
    with pytest.raises(OpsError, match="dsum is float16 and x is float32"):
        add_layer_norm_backward(x, x, x, w, w, EPS, dsum=x.half())
    with pytest.raises(OpsError, match=r"rms_norm_backward: w has shape \(7,\)"):
        rms_norm_backward(x, x, w[:7], EPS)
    with pytest.raises(OpsError, match="x is float64"):
        norm_backward(x.double(), x.double(), w.double(), w.double(), EPS)
    wide = torch.ones(1, layer_norm_backward.WIDEST + 1, device=device)
    with pytest.raises(OpsError, match="keeps up to 8192: use the torch ops"):
        rms_norm_backward(wide, wide, wide[0], EPS)


# ---- sums of columns ---------------------------------------------------------------------------------------------
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


# ---- activations -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_activations(act, dtype, device, rng):
    """Everywhere from -30 to 30, at 0, and where e^x overflows."""
    numbers = np.concatenate([np.linspace(-30, 30, 601), [0.0, -0.0, 1e-6, -1e-6, -200, 200, -3e4, 3e4]])
    x = torch.tensor(numbers, device=device).to(getattr(torch, dtype))
    x = torch.stack([x, x.flip(0)])
    dout = draw(rng, tuple(x.shape), dtype, device, "strided")
    got = getattr(activations_backward, f"{act}_backward")(dout, x)
    hold([got], getattr(torch_ops.OPS, act), dout, [x], act)


def test_activations_of_several_programs_of_strided_rows_and_of_nothing(device, rng):
    x, dout = draw(rng, (300, 257), "float32", device, "permuted"), draw(rng, (300, 257), "float32", device, "padded")
    hold([activations_backward.gelu_backward(dout, x)], torch_ops.OPS.gelu, dout, [x], "many rows")
    assert activations_backward.relu_backward(x[:0], x[:0]).shape == (0, 257)
    with pytest.raises(OpsError, match=r"silu_backward: dout has shape \(300, 256\) and x \(300, 257\)"):
        activations_backward.silu_backward(dout[:, 1:], x)


# ---- softmax -----------------------------------------------------------------------------------------------------
@few
@given(shapes, st.integers(1, 70), st.sampled_from([1, 4]), st.sampled_from([16, 128]), dtypes, layouts, seeds)
def test_softmax(device, watch, shape, C, ROWS, BLOCK, dtype, layouts, seed):
    """Rows in one block and in several, some numbers -inf, some rows nothing else."""
    rng = np.random.default_rng(seed)
    x, dout = (draw(rng, (*shape, C), dtype, device, *how) for how in zip(layouts[:2], (3, 8), strict=True))
    hidden = torch.from_numpy(rng.random((*shape, C)) < rng.choice([0, 0.3, 1], (*shape, 1))).to(device)
    x.mul_(float(rng.choice([3, 100]))).masked_fill_(hidden, float("-inf"))  # 100: blocks apart by more than e^x holds
    with watch():
        got = softmax_backward(dout, x, tile=dict(ROWS=ROWS, BLOCK=BLOCK))
    terms = size(double(dout) * numpy_ops.softmax(double(x)))
    hold([got], torch_ops.softmax, dout, [x], f"softmax of {shape} x {C} in {ROWS} x {BLOCK}", [terms])


def test_softmax_of_shipped_tiles_and_of_nothing(device, rng):
    x, dout = draw(rng, (3, 5000), "float16", device, "padded"), draw(rng, (3, 5000), "float16", device)
    hold([softmax_backward(dout, x)], torch_ops.softmax, dout, [x], "softmax of 5000")
    assert softmax_backward(x[:0], x[:0]).shape == (0, 5000)
    with pytest.raises(OpsError, match=r"softmax_backward: dout has shape \(2, 5000\)"):
        softmax_backward(dout[:2], x)


# ---- cross-entropy -----------------------------------------------------------------------------------------------
def loss_of(targets, ignore_index=-100):
    return lambda logits: torch_ops.cross_entropy(logits, targets, ignore_index)


@few
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple),
    st.integers(1, 70),
    st.sampled_from([1, 4]),
    st.sampled_from([16, 128]),
    dtypes,
    st.sampled_from(LAYOUTS),
    st.sampled_from([-100, 0]),
    st.sampled_from([torch.int64, torch.int32]),
    seeds,
)
def test_cross_entropy(device, watch, shape, V, ROWS, BLOCK, dtype, layout, ignore_index, integer, seed):
    rng, tile = np.random.default_rng(seed), dict(ROWS=ROWS, BLOCK=BLOCK)
    logits = draw(rng, (*shape, V), dtype, device, layout)
    logits.mul_(5)
    numbers = np.where(rng.random(shape) < 0.3, ignore_index, rng.integers(0, V, shape))
    targets = torch.from_numpy(numbers).to(device, integer)
    dout, before = draw(rng, (), dtype, device), logits.clone()
    with watch():
        got = cross_entropy_backward(dout, logits, targets, ignore_index, tile)
    hold([got], loss_of(targets, ignore_index), dout, [logits], f"loss of {shape} x {V}")
    assert not got[targets == ignore_index].any()
    same_bits(logits, before, "logits that were only read")
    if layout in ("plain", "padded", "offset") or len(shape) == 1 and layout == "permuted":
        with watch():
            over = cross_entropy_backward_in_place(dout, logits, targets, ignore_index, tile)
        assert over.data_ptr() == logits.data_ptr()
        same_bits(logits, got, "the gradient in place of the logits")


def test_in_place_writes_rows_and_nothing_between_them(device, rng):
    logits = room((3, 20), "float32", device, "padded")
    logits.copy_(draw(rng, (3, 20), "float32", device))
    cross_entropy_backward_in_place(torch.ones((), device=device), logits, torch.tensor([3, -100, 19], device=device))
    assert logits.isfinite().all() and logits.as_strided((3, 3), (23, 1), 20).isnan().all()


def test_in_place_refuses_what_it_could_only_copy(device, rng):
    logits, one = draw(rng, (4, 20), "float32", device, "strided"), torch.ones((), device=device)
    before = logits.clone()
    with pytest.raises(OpsError, match=r"_in_place: logits of shape \(4, 20\) have strides \(40, 2\)"):
        cross_entropy_backward_in_place(one, logits, torch.zeros(4, dtype=torch.int64, device=device))
    same_bits(logits, before, "logits that were refused")


@pytest.mark.parametrize("V", [50304, 32128])
def test_vocabularies_of_the_models(V, device, rng):
    logits, targets = draw(rng, (2, 2, V), "float16", device), torch.tensor([[0, V - 1], [-100, 77]], device=device)
    dout = torch.tensor(1000.0, dtype=torch.float16, device=device)  # as a gradient scaler does
    hold([cross_entropy_backward(dout, logits, targets)], loss_of(targets), dout, [logits], f"{V} words")


def test_ignored_rows_are_not_read_and_get_zeros(device, rng):
    logits, one = draw(rng, (1200, 40), "float32", device), torch.ones((), device=device)
    logits[1::2] = float("nan")
    targets = torch.from_numpy(rng.integers(0, 40, 1200)).to(device)
    targets[1::2] = -100
    got = cross_entropy_backward(one, logits, targets, tile=dict(ROWS=512, BLOCK=64))
    hold([got[::2]], loss_of(targets[::2]), one, [logits[::2]], "every second row")
    assert not got[1::2].any()
    targets[:] = -100
    assert not cross_entropy_backward(one, logits, targets).any()
    assert cross_entropy_backward(one, logits[:0], targets[:0]).shape == (0, 40)


def test_words_that_cannot_come(device, rng):
    logits, one = draw(rng, (2, 50), "float32", device), torch.ones((), device=device)
    logits[:, :40] = float("-inf")
    targets = torch.tensor([45, 3], device=device)  # the second is one of them
    got = cross_entropy_backward(one, logits, targets, tile=dict(ROWS=2, BLOCK=16))
    assert not got[0, :40].any() and got[1, 3].item() == -0.5 and got.isfinite().all()


@pytest.mark.parametrize(("target", "span"), [(40, "4 to 40"), (-1, "-1 to 4")])
def test_cross_entropy_refuses(target, span, device, rng):
    logits, one = draw(rng, (3, 40), "float32", device), torch.ones((), device=device)
    before, targets = logits.clone(), torch.tensor([4, target, -100], device=device)
    with pytest.raises(InputError, match=f"labels run from {span}, the vocabulary from 0 to 39"):
        cross_entropy_backward_in_place(one, logits, targets)
    same_bits(logits, before, "logits that were refused")
    with pytest.raises(InputError, match=r"targets have shape \(2,\), logits \(3, 40\)"):
        cross_entropy_backward(one, logits, targets[:2])
    with pytest.raises(OpsError, match=r"dout has shape \(3,\), and the loss is one number"):
        cross_entropy_backward(logits[:, 0], logits, targets)


# ---- embeddings --------------------------------------------------------------------------------------------------
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
def test_embed(device, watch, shape, C, V, ROWS, BLOCK, dtype, layout, integer, seed):
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


def test_embed_refuses(device, rng):
    dout, table = draw(rng, (2, 4), "float32", device), draw(rng, (5, 4), "float32", device)
    for wrong in (-1, 5):
        with pytest.raises(InputError, match=f"token id {wrong} has no embedding: the table has 5 rows"):
            embed_backward(dout, torch.tensor([0, wrong], device=device), table)
    with pytest.raises(OpsError, match=r"dout has shape \(2, 4\), and \(3, 4\) fits ids \(3,\)"):
        embed_backward(dout, torch.zeros(3, dtype=torch.int64, device=device), table)


# ---- all of them -------------------------------------------------------------------------------------------------
def test_numpy_arrays_in_and_out(rng):
    if not rows_file.INTERPRETED:
        pytest.skip("NumPy arrays need the interpreter")
    x, dout, w = (rng.standard_normal(shape, np.float32) for shape in ((4, 9), (4, 9), 9))
    ids, targets, one = np.array([3, 0, 3, 1]), np.array([0, 8, -100, 3]), np.array(1, np.float32)
    calls = {
        "layer_norm": (norm_backward, (dout, x, w, w, EPS)),
        "rms_norm": (rms_norm_backward, (dout, x[::2, ::-1].repeat(2, 0), w, EPS)),
        "softmax": (softmax_backward, (dout, x)),
        "gelu": (activations_backward.gelu_backward, (dout, x)),
        "embed": (embed_backward, (dout, ids, x)),
        "cross_entropy": (cross_entropy_backward, (one, x, targets)),
    }
    for name, (kernel, args) in calls.items():
        before = [np.copy(a) for a in args]
        got, wanted = kernel(*args), numpy_backward.BACKWARD[name](*args)
        for ours, theirs in zip(*(g if isinstance(g, tuple) else (g,) for g in (got, wanted)), strict=True):
            assert isinstance(ours, np.ndarray)
            np.testing.assert_allclose(ours, theirs, atol=2e-6, err_msg=name)
        for a, kept in zip(args, before, strict=True):
            np.testing.assert_array_equal(a, kept)


def test_the_tables_of_tiles(monkeypatch):
    """What a GPU gets."""
    monkeypatch.setattr(rows_file, "INTERPRETED", False)
    monkeypatch.setattr(column_sums, "INTERPRETED", False)
    assert layer_norm_backward.config(1408) == dict(BLOCK=2048, ROWS=1, PARTS=256, num_warps=8)
    assert layer_norm_backward.config(88) == dict(BLOCK=128, ROWS=8, PARTS=256, num_warps=4)
    assert layer_norm_backward.config(5120) == dict(BLOCK=8192, ROWS=1, PARTS=256, num_warps=16)
    assert column_sums.config(1408) == dict(BLOCK=64, ROWS=64, CHUNK=256, PARTS=64, num_warps=4)
    assert column_sums.config(5) == dict(BLOCK=8, ROWS=64, CHUNK=256, PARTS=64, num_warps=4)
