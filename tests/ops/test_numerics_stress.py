"""Numbers under stress: awkward lengths and widths, enormous, equal, tiny and negative-zero values, NaN and infinity.

The rule is that of the kernels (tests/helpers/kernel_checks.py): against torch in float64 an op may be at most twice as
wrong as torch itself is in the same dtype, plus a floor of a few rounding steps.
"""

import math
import os

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import no_worse

import minivl
from minivl import Blip2ForConditionalGeneration
from minivl.config.blip2 import Blip2Config
from minivl.errors import MinivlError, NumbersError, OpsError

LENGTHS, WIDTHS = (1, 2, 31, 32, 33, 257, 1023), (80, 88, 768, 1408, 2560)
PLACES = [(n, 88) for n in LENGTHS] + [(33, width) for width in WIDTHS if width != 88]
RECORDS = ("numpy", "torch")
CAP = 1e-2  # of the largest value: no error may be larger, however wrong torch is


def sdpa(q, k, v, mask, bias, causal):
    T, S = q.shape[-2], k.shape[-2]
    seen = torch.ones(T, S, dtype=torch.bool) if mask is None else mask.bool()
    seen = seen & torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else seen
    added = torch.zeros(T, S) if bias is None else bias
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=added.masked_fill(~seen, -math.inf))
    return torch.where(seen.any(-1, keepdim=True), found, 0)


def attend(q, k, v, mask=None, bias=None, causal=False):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores if bias is None else scores + bias
    T, S = scores.shape[-2:]
    seen = torch.ones(T, S, dtype=torch.bool) if mask is None else mask.bool()
    seen = seen & torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else seen
    shares = torch.softmax(scores.masked_fill(~seen, -math.inf), -1)
    return torch.where(seen.any(-1, keepdim=True), shares, 0) @ v


THEIRS = {
    "linear": F.linear,
    "linear_act": lambda x, w, b: F.gelu(F.linear(x, w, b)),
    "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
    "add_layer_norm": lambda x, y, w, b: F.layer_norm(x + y, x.shape[-1:], w, b, 1e-5),
    "rms_norm": lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6),
    "softmax": lambda x: torch.softmax(x, -1),
    "attention": attend,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "embed": lambda ids, table: F.embedding(ids, table),
    "patch_embed": lambda x, w, b: F.conv2d(x, w, b, stride=w.shape[-1]).flatten(2).transpose(1, 2),
    "cross_entropy": lambda x, t: F.cross_entropy(x, t),
}
EXTRA = {"linear_act": dict(act="gelu")}
EPS = {"layer_norm": (1e-5,), "add_layer_norm": (1e-5,), "rms_norm": (1e-6,)}
ACTS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")


def arguments(name, n, width, seed=0):
    """Normal numbers for n tokens of a width; for attention n keys and at most 33 queries of width/16 or width."""
    rng = np.random.default_rng([seed, n, width])

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = draw(n, width)
    if name in ("linear", "linear_act"):
        return x, draw(33, width) / math.sqrt(width), draw(33)
    if name in ("layer_norm", "add_layer_norm", "rms_norm"):
        return (x, *((draw(n, width),) if name.startswith("add") else ()), draw(width), draw(width))[
            : 2 if name == "rms_norm" else 4
        ]
    if name == "attention":
        D = width if width < 128 else width // 16
        return draw(1, 2, min(n, 33), D), draw(1, 2, n, D), draw(1, 2, n, D)
    if name == "embed":
        return rng.integers(0, 57, n), draw(57, width)
    if name == "patch_embed":
        return draw(1, 3, 4 * min(n, 40) + 1, 9), draw(width, 3, 4, 4), draw(width)
    if name == "cross_entropy":
        return x, rng.integers(0, width, n)
    return (x,)


def tensors(given, dtype):
    return [torch.tensor(a, dtype=dtype if a.dtype.kind == "f" else None) for a in given]


def ours(record, name, given, dtype=None, **how):
    ops = minivl.ops.get(record)
    with np.errstate(all="ignore"):
        got = getattr(ops, name)(*(ops.from_numpy(a) for a in given), *EPS.get(name, ()), **EXTRA.get(name, {}), **how)
    return torch.tensor(ops.to_numpy(got))


def check(record, name, given, **how):
    """One op by the rule, and the same bits when it is asked again."""
    theirs = {key: torch.tensor(value) if isinstance(value, np.ndarray) else value for key, value in how.items()}
    exact = THEIRS[name](*tensors(given, torch.float64), **theirs).numpy()
    reference = THEIRS[name](*tensors(given, torch.float32), **theirs)
    if name == "attention":  # torch has it in one piece too, and neither way is always the better one
        fused = sdpa(*tensors(given, torch.float32), **{**dict(mask=None, bias=None, causal=False), **theirs})
        reference = max(reference, fused, key=lambda found: np.abs(found.double().numpy() - exact).max())
    before = [a.copy() for a in given]
    how = {
        key: minivl.ops.get(record).from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in how.items()
    }
    got = ours(record, name, given, **how)
    largest = np.abs(exact[np.isfinite(exact)]).max(initial=1e-30)
    error = np.where(np.isfinite(exact), reference.double().numpy() - exact, 0)
    spread = np.sqrt(np.mean(error**2)) / max(np.sqrt(np.mean(exact**2)), 1e-300)
    rms = max(1e-5, 2 * spread)  # where torch's own error is no rounding step, as of denormals, that is the measure
    no_worse(got, exact, reference, cap=CAP * largest, what=f"{record} {name}", rms=rms)
    assert torch.equal(torch.nan_to_num(got), torch.nan_to_num(ours(record, name, given, **how)))
    for kept, now in zip(before, given, strict=True):
        np.testing.assert_array_equal(kept, now)
    return got.numpy()


# ---------------------------------------------------------------------------------------- lengths and widths


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("record", RECORDS)
def test_lengths_and_widths(record, name, place):
    got = check(record, name, arguments(name, *place))
    if name == "softmax":
        np.testing.assert_allclose(got.sum(-1), 1, atol=2e-6)


@pytest.mark.parametrize("S", LENGTHS)
@pytest.mark.parametrize("record", RECORDS)
def test_masked_causal_and_biased_attention_with_rows_that_see_nothing(record, S):
    q, k, v = arguments("attention", S, 88)
    rng = np.random.default_rng(S)
    mask = rng.random((1, 1, q.shape[2], S)) < 0.7
    mask[..., -1, :] = False
    got = check(record, "attention", (q, k, v), mask=mask, causal=True)
    assert not got[:, :, -1].any()  # zeros, and no NaN
    bias = rng.standard_normal((1, 2, q.shape[2], S)).astype(np.float32)
    check(record, "attention", (q, k, v), bias=bias, mask=mask)


TRITON = [(name, place) for name in ("linear", "layer_norm", "rms_norm", "softmax") for place in ((1, 80), (33, 88))]
TRITON += [("attention", (1, 80)), ("attention", (33, 88)), ("cross_entropy", (31, 80)), ("gelu", (2, 88))]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are compiled in this run")
@pytest.mark.parametrize(("name", "place"), TRITON, ids=str)
def test_the_kernels_at_a_few_lengths_and_widths(name, place):
    pytest.importorskip("triton")
    check("triton", name, arguments(name, *place))


# ---------------------------------------------------------------------------------------- values


def shaped(value, shape):
    return np.broadcast_to(np.float32(value), shape).copy()


def values(kind, shape):
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(shape).astype(np.float32)
    return {
        "1e4": noise * 1e4,
        "equal": shaped(0.7, shape),
        "equal and huge": shaped(1e4, shape),
        "denormal": noise * np.float32(1e-41),
        "minus zero": shaped(-0.0, shape),
        "one among zeros": np.where(np.arange(noise.size).reshape(shape) == 3, np.float32(1e4), np.float32(0)),
        "mixed sizes": noise * (10.0 ** rng.integers(-38, 4, shape)).astype(np.float32),
    }[kind]


KINDS = ("1e4", "equal", "equal and huge", "denormal", "minus zero", "one among zeros", "mixed sizes")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in THEIRS if name not in ("attention", "embed", "patch_embed")])
@pytest.mark.parametrize("record", RECORDS)
def test_values(record, name, kind):
    _, *others = arguments(name, 5, 80)
    got = check(record, name, (values(kind, (5, 80)), *others))
    assert np.isfinite(got).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("record", RECORDS)
def test_values_in_attention(record, kind):
    q, k, v = arguments("attention", 33, 80)
    assert np.isfinite(check(record, "attention", (q, k, values(kind, v.shape)))).all()
    assert np.isfinite(check(record, "attention", (values(kind, q.shape) / 100, k, v))).all()


@pytest.mark.parametrize("score", [1e4, -1e4])
@pytest.mark.parametrize("record", RECORDS)
def test_logits_of_ten_thousand(record, score):
    """Of scores that far apart one key takes everything; where they are equal, all share alike."""
    q, k = shaped(math.copysign(100, score), (1, 1, 2, 1)), np.array([100, 0, -100], np.float32).reshape(1, 1, 3, 1)
    v = np.array([1, 2, 3], np.float32).reshape(1, 1, 3, 1)
    assert ours(record, "attention", (q, k, v)).flatten().tolist() == ([1, 1] if score > 0 else [3, 3])
    assert ours(record, "softmax", (shaped(score, (2, 4)),)).tolist() == [[0.25] * 4] * 2
    assert ours(record, "cross_entropy", (shaped(score, (2, 4)), np.array([0, 3]))).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", [*ACTS, "linear", "softmax"])
@pytest.mark.parametrize("record", RECORDS)
def test_rows_do_not_feel_their_neighbours(record, name):
    """Neither a NaN nor an infinity of one row gets into another, and none is hidden in its own."""
    x, *others = arguments(name, 5, 80)
    clean = ours(record, name, (x, *others)).numpy()
    for bad in (np.nan, np.inf):
        x[2, 7] = bad
        got = ours(record, name, (x, *others)).numpy()
        np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(clean, 2, 0))
        if np.isnan(bad):
            assert np.isnan(got[2]).any()


# ---------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def demo():
    model = Blip2ForConditionalGeneration.from_pretrained("demo")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    return model, dict(pixel_values=pixels, input_ids=np.array([[2, 5, 7]]))


PLANTED = [
    (("vision", "layers", 1, "mlp", "down", "w"), np.nan, "vision.layers.1.mlp"),
    (("qformer", "layers", 0, "self", "q", "b"), np.inf, "qformer.layers.0.self.q"),
    (("language", "layers", 1, "self", "out", "b"), np.nan, "language.layers.1.self"),
    (("language", "ln", "w"), np.inf, "language.ln"),
]


@pytest.mark.parametrize(("path", "bad", "name"), PLANTED, ids=[name for _, _, name in PLANTED])
def test_check_finite_names_the_first_op_that_sees_it(demo, path, bad, name):
    model, inputs = demo
    leaf = model.params
    for part in path[:-1]:
        leaf = leaf[part]
    good = leaf[path[-1]]
    leaf[path[-1]] = np.array(good)
    leaf[path[-1]].reshape(-1)[0] = bad
    try:
        with pytest.raises(NumbersError) as caught, np.errstate(all="ignore"), minivl.trace(model, check_finite=True):
            model(**inputs)
    finally:
        leaf[path[-1]] = good
    message = str(caught.value)
    assert name in message and "\n" not in message, message
    with minivl.trace(model, check_finite=True):
        model(**inputs)  # and without it nothing is said


def test_float16_is_refused_for_t5_and_the_other_dtypes_hold_what_it_cannot(tmp_path):
    """T5's sums outgrow float16 (65504): there it is refused by name instead of writing nonsense."""
    text = dict(
        model_type="t5", vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    config = Blip2Config(vision_config=oracle.VISION, qformer_config=oracle.QFORMER, text_config=text)
    model = Blip2ForConditionalGeneration(config)
    for layer in model.params["language"]["encoder"]["layers"]:
        layer["mlp"]["down"]["w"] = layer["mlp"]["down"]["w"] * np.float32(1e7)
    model.save_pretrained(tmp_path)
    with pytest.raises(OpsError, match="float16.*t5.*bfloat16"):
        Blip2ForConditionalGeneration.from_pretrained(tmp_path, backend="torch", dtype="float16")
    side = config.vision_config.image_size
    inputs = dict(
        pixel_values=np.ones((1, 3, side, side), np.float32), input_ids=np.array([[5, 6]]), labels=np.array([[5]])
    )
    states = model(**inputs, output_hidden_states=True).language_model_outputs.encoder_hidden_states
    assert max(np.abs(state).max() for state in states) > 65504  # it would have been infinity
    for how in (
        {},
        dict(dtype="bfloat16"),
        dict(dtype="float16"),
        dict(load_in_8bit=True),
        dict(backend="torch", dtype="bfloat16"),
    ):
        try:
            found = Blip2ForConditionalGeneration.from_pretrained(tmp_path, **how)
            logits = found.ops.to_numpy(found(**inputs).logits)
        except MinivlError as error:
            pytest.fail(f"{how}: {error}")
        assert np.isfinite(logits).all(), how
