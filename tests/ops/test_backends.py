"""One model source, three backends: what NumPy says, torch says in every dtype, with gradients, and our kernels too.

The tiny random models here are held to NumPy's float32, which other tests hold to transformers. The kernels run in
Triton's interpreter; every weight, biases and norms too, is random, so that none can be left out unnoticed.
"""

import os
import subprocess
import sys

import kernel_checks
import numpy as np
import pytest
import torch

import minivl.ops
from minivl import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BridgeTowerConfig,
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerForMatchingAndContrast,
    BridgeTowerProcessor,
)
from minivl.errors import InputError, OpsError
from minivl.ops import plain
from minivl.weights import tree

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
NUMPY, PLAIN = minivl.ops.get("numpy"), minivl.ops.get("plain")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
VISION = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3, image_size=12)
VISION |= dict(patch_size=4, initializer_range=0.2)
QFORMER = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2)
OPT = dict(model_type="opt", hidden_size=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
OPT |= dict(max_position_embeddings=40, eos_token_id=49)
T5 = dict(model_type="t5", d_model=16, d_kv=5, d_ff=40, num_layers=2, num_heads=3, vocab_size=50, eos_token_id=49)
T5 |= dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, bos_token_id=0)
TEXT = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=36, vocab_size=50)
BRIDGES = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, contrastive_hidden_size=7, tie_word_embeddings=False,
    link_tower_type="interpolate", text_config=TEXT | dict(max_position_embeddings=20),
    vision_config=dict(hidden_size=64, num_hidden_layers=3, patch_size=4, image_size=12),
)  # fmt: skip
KINDS = {
    "opt": (Blip2ForConditionalGeneration, OPT),
    "t5": (Blip2ForConditionalGeneration, T5),
    "fill": (BridgeTowerForMaskedLM, {}),
    "match": (BridgeTowerForImageAndTextRetrieval, {}),
    "contrast": (BridgeTowerForContrastiveLearning, {}),
    "match and contrast": (BridgeTowerForMatchingAndContrast, {}),
}
# T5 in float16 is refused, see tests/models/test_t5.py
PAIRS = [(kind, dtype) for kind in KINDS for dtype in ("float32", *HALVES) if (kind, dtype) != ("t5", "float16")]
ROWS, WORDS = 3, 6


def configuration(kind):
    if kind in ("opt", "t5"):
        config = dict(vision_config=VISION, qformer_config=QFORMER, num_query_tokens=5, initializer_range=0.2)
        return Blip2Config(**config, text_config=KINDS[kind][1])
    return BridgeTowerConfig(**BRIDGES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: folder of a tiny model}, every number of it random."""
    found = {}
    for kind, (cls, _) in KINDS.items():
        rng, model = np.random.default_rng(1), cls(configuration(kind))
        model.params = tree.map_leaves(
            lambda w, rng=rng: ((w if w.size and (w == 1).all() else 0) + rng.normal(0, 0.2, w.shape)).astype("f4"),
            model.params,
        )
        found[kind] = tmp_path_factory.mktemp(kind.replace(" ", "_"))
        model.save_pretrained(found[kind])
    return found


@pytest.fixture
def load(folders):
    return lambda kind, *backend, **how: KINDS[kind][0].from_pretrained(
        folders[kind], **(dict(backend=backend[0]) if backend else {}), **how
    )


def questions(kind):
    """What a model is asked, with answers to be told apart: pictures, padded texts, labels."""
    rng = np.random.default_rng(0)
    pixels, ids = rng.normal(size=(ROWS, 3, 12, 12)).astype("f4"), rng.integers(3, 40, (ROWS, WORDS))
    behind = kind not in ("opt", "t5")
    mask = np.array([[1] * WORDS, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])[:, :: 1 if behind else -1].copy()
    given = dict(pixel_values=pixels, input_ids=np.where(mask, ids, 1), attention_mask=mask)
    if kind in ("opt", "t5", "fill"):
        given["labels"] = np.where(mask, ids, -100)
    if "match" in kind:
        given["labels"] = np.array([0, 1, 1])
    if "contrast" in kind:
        given["return_loss"] = True
    return given


def answers(output):
    """Everything that an output holds, under its names: arrays of NumPy."""
    found = {}
    for name, value in output.items():
        if hasattr(value, "items") and not hasattr(value, "shape"):
            found |= {f"{name}.{inner}": array for inner, array in answers(value).items()}
        elif isinstance(value, tuple):
            found |= {f"{name}[{i}]": array for i, part in enumerate(value) for array in _flat(part)}
        else:
            found[name] = as_array(value)
    return found


def _flat(value):
    return [array for part in value for array in _flat(part)] if isinstance(value, tuple) else [as_array(value)]


def as_array(value):
    return kernel_checks.double(value) if isinstance(value, torch.Tensor) else np.asarray(value, np.float64)


def near(ours, wanted, allowed, what):
    """The largest difference at most `allowed` times the largest number (1 if that is smaller)."""
    assert ours.shape == wanted.shape, what
    assert np.isfinite(ours).all(), f"{what}: not finite"
    worst, scale = np.abs(ours - wanted).max(initial=0), max(1, np.abs(wanted).max(initial=0))
    assert worst <= allowed * scale, f"{what}: off by {worst:.1e}, allowed {allowed * scale:.1e}"


def same_answers(ours, wanted, allowed):
    ours, wanted = answers(ours), answers(wanted)
    assert list(ours) == list(wanted)
    for name, array in wanted.items():
        near(ours[name], array, allowed, name)


EVERYTHING = dict(output_attentions=True, output_hidden_states=True)


# ---- torch, in float32 and in half ---------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_torch_says_what_numpy_says(kind, load):
    given = questions(kind) | EVERYTHING
    ours = load(kind, "torch")(**given)
    assert ours.loss.dtype == torch.float32 and not ours.loss.requires_grad
    same_answers(ours, load(kind)(**given), 1e-5)


@pytest.mark.parametrize("kind, dtype", [pair for pair in PAIRS if pair[1] in HALVES])
def test_half_precision(kind, dtype, load):
    """Rounding steps add up over the layers, to four or so; logits and loss are in half precision too."""
    given, model = questions(kind) | EVERYTHING, load(kind, "torch", dtype=dtype)
    ours, wanted = model(**given), load(kind)(**given)
    parts = [ours.matching, ours.contrast] if kind == "match and contrast" else [ours]
    assert all(part.logits.dtype == HALVES[dtype] for part in parts) and ours.loss.dtype == HALVES[dtype]
    same_answers(ours, wanted, 8 * torch.finfo(HALVES[dtype]).eps)


@pytest.mark.parametrize("kind, dtype", [pair for pair in PAIRS if pair[0] in ("opt", "t5")])
def test_generate_on_torch(kind, dtype, load):
    """Token by token through the cache; ids come back as NumPy's, whatever the model computes in."""
    given = questions(kind)
    del given["labels"]
    model = load(kind, "torch", dtype=dtype)
    ids = model.generate(**given, max_new_tokens=9, min_new_tokens=9)
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.shape == (ROWS, 10)
    if dtype == "float32":
        np.testing.assert_array_equal(ids, load(kind).generate(**given, max_new_tokens=9, min_new_tokens=9))
    beams = model.generate(**given, max_new_tokens=5, num_beams=3)
    assert beams.dtype == np.int64 and len(beams) == ROWS


@pytest.mark.parametrize("kind", ["opt", "match"])
def test_inputs_of_every_make(kind, load):
    """Lists, float64, half-precision tensors: all are brought to the model's dtype and device."""
    given = questions(kind)
    given["pixel_values"] = given["pixel_values"].astype(np.float16)  # so that no make loses digits
    for backend, dtype in (("numpy", None), ("torch", "float32"), ("torch", "bfloat16")):
        model = load(kind, backend, dtype=dtype)
        want = as_array(model(**given).logits)
        makes = {
            "lists": {name: x.tolist() for name, x in given.items()},
            "tensors": {name: torch.tensor(x) for name, x in given.items()},
            "wider": {name: x.astype({"f": "f8", "i": "u1"}[x.dtype.kind]) for name, x in given.items()},
        }
        makes["wider"]["labels"] = given["labels"]  # unsigned ones have no -100
        for make, inputs in makes.items():
            np.testing.assert_array_equal(as_array(model(**inputs).logits), want, err_msg=make)


# ---- gradients -----------------------------------------------------------------------------------
# What a class's loss does not depend on, so that nothing could reach it.
POOLERS = ("cross_modal_text_pooler.", "cross_modal_image_pooler.")
UNREAD = {
    "opt": (),
    "t5": (),
    "match": ("text_model.pooler.",),
    "contrast": ("text_model.pooler.",),
    "match and contrast": ("text_model.pooler.",),
    "fill": ("text_model.pooler.", *POOLERS, "cross_modal_image_layers.1."),  # the last picture state, that is
}


@pytest.mark.parametrize("kind", KINDS)
def test_backward_reaches_every_weight(kind, load):
    model = load(kind, "torch").requires_grad_()
    model(**questions(kind)).loss.backward()
    weights = tree.flatten(model.table(model.config), model.params)
    reached = {name for name, w in weights.items() if w.grad is not None and w.grad.isfinite().all() and w.grad.any()}
    unread = {name for name in weights if name.removeprefix("bridgetower.").startswith(UNREAD[kind] or ("-",))}
    assert set(weights) - reached == unread


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_slope_of_the_loss(kind, load):
    """Along a random direction, in float64: (loss(w + h d) - loss(w - h d)) / 2h = grad · d."""
    model, given = load(kind, "torch").to(torch.float64).requires_grad_(), questions(kind)
    model(**given).loss.backward()
    torch.manual_seed(0)
    weights = [w for w in model.parameters() if w.grad is not None]
    along = [torch.randn_like(w) for w in weights]
    slope = float(sum((w.grad * d).sum() for w, d in zip(weights, along, strict=True)))
    loss = {}
    with torch.no_grad():
        for h in (1e-6, -2e-6):
            for w, d in zip(weights, along, strict=True):
                w += h * d
            loss[h] = float(model(**given).loss)
    assert slope == pytest.approx((loss[1e-6] - loss[-2e-6]) / 2e-6, rel=1e-5, abs=1e-6)


def test_a_few_steps_of_training(load):
    model, given, losses = load("opt", "torch").requires_grad_(), questions("opt"), []
    for _ in range(4):
        loss = model(**given).loss
        loss.backward()
        with torch.no_grad():
            for w in model.parameters():
                w -= 0.05 * w.grad
                w.grad = None
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1


def test_a_gradient_finds_its_way_back_to_the_picture(load):
    given = questions("match")
    pixels = torch.tensor(given.pop("pixel_values"), requires_grad=True)
    load("match", "torch", dtype="bfloat16")(pixel_values=pixels, **given).loss.backward()
    assert pixels.grad.shape == pixels.shape and pixels.grad.any()


def test_generate_between_two_steps_of_training(load):
    """What is written is never differentiated, so nothing is kept for a way back."""
    pixels = questions("opt")["pixel_values"]
    model = load("opt", "torch").requires_grad_()
    plain = model.ops

    def linear(x, w, b=None):
        assert not x.requires_grad and not w.requires_grad
        return plain.linear(x, w, b)

    model.ops = plain._replace(linear=linear)
    ids = model.generate(pixels, max_new_tokens=4)
    np.testing.assert_array_equal(ids, load("opt").generate(pixels, max_new_tokens=4))
    assert all(w.requires_grad and w.grad is None for w in model.parameters())


def test_numpy_has_no_gradients(load):
    with pytest.raises(OpsError, match="'numpy' computes no gradients"):
        load("opt", "numpy").requires_grad_()


# ---- dtype and device ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float16", np.float16, torch.float16])
def test_dtypes_by_every_name(name, dtype, load):
    model = load("opt", "torch", **{name: dtype})
    assert model.dtype == torch.float16 and {w.dtype for w in model.parameters()} == {torch.float16}
    assert load("opt", **{name: dtype}).dtype == np.float32  # NumPy computes in float32, and says so


def test_float32_unless_something_is_said(load):
    assert load("opt", "torch").dtype == torch.float32 and load("opt", "torch").device == torch.device("cpu")
    assert load("opt").dtype == np.float32 and load("opt").device == "cpu"


def test_a_model_made_from_its_configuration():
    model = BridgeTowerForImageAndTextRetrieval(BridgeTowerConfig(**BRIDGES), ops=minivl.ops.get("torch", "bfloat16"))
    assert model.dtype == torch.bfloat16 and model(**questions("match")).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("places", ["auto", "cpu", {"": 0}, {"": "cpu"}, None])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_device_maps_of_one_device(backend, places, load):
    model = load("match", backend, device_map=places)
    assert str(model(**questions("match")).logits.device) == str(model.device)


@needs_triton
def test_an_op_without_a_kernel_is_refused(monkeypatch):
    from minivl.ops import TABLE, triton

    monkeypatch.setitem(TABLE, "tanh", TABLE["tanh"]._replace(kernel=""))
    with pytest.raises(OpsError, match="tanh has no Triton kernel yet"):
        triton.op("tanh")(torch.ones(3))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_what_is_not_there_is_refused(backend, load):
    with pytest.raises(InputError, match="device_map .* one device"):
        load("opt", backend, device_map={"vision": 0, "language": 1})
    with pytest.raises(InputError, match="device_map .* one device"):
        load("opt", backend, device_map=[0])
    with pytest.raises(InputError, match="dtype 'float64' is not one of auto, float32"):
        load("opt", backend, dtype="float64")
    for device in ("warp", "cuda" if not torch.cuda.is_available() else "cuda:99"):
        for refused in (lambda d=device: load("opt", backend, device=d), lambda d=device: load("opt", backend).to(d)):
            with pytest.raises(OpsError, match=f"device '{device}'") as raised:
                refused()
            assert "\n" not in str(raised.value)


def test_to_changes_the_model_itself(load):
    model, given = load("opt", "torch"), questions("opt")
    weights = list(model.parameters())
    for how in ((torch.bfloat16,), ("cpu", "bfloat16"), (torch.device("cpu"), torch.bfloat16)):
        assert model.to(*how) is model
        assert model.dtype == torch.bfloat16 and model(**given).logits.dtype == torch.bfloat16
    assert model.to(device="cpu", dtype=torch.float32).dtype == torch.float32
    assert model.to("cpu").dtype == torch.float32
    assert all(new is old for new, old in zip(model.parameters(), weights, strict=True))


def test_to_keeps_what_training_needs(load):
    """The optimizer's tensors are still the model's, they still require gradients, and gradients move along."""
    model, given = load("opt", "torch").requires_grad_(), questions("opt")
    model(**given).loss.backward()
    model.to(torch.bfloat16)
    assert all(w.is_leaf and w.requires_grad and w.grad.dtype == w.dtype == torch.bfloat16 for w in model.parameters())


def test_to_of_the_numpy_backend(load):
    model = load("opt")
    for how in (("cpu",), ("cpu", torch.float32), (torch.device("cpu"),), ("float32",)):
        assert model.to(*how) is model
    for how, words in (
        (("cuda",), "not on device 'cuda'"),
        ((torch.float16,), "not in float16"),
        (("cpu", "bfloat16"), "not in bfloat16"),
    ):
        with pytest.raises(OpsError, match=f"backend 'numpy' computes .*{words}") as raised:
            model.to(*how)
        assert "\n" not in str(raised.value)


def test_a_replaced_op_survives_to(load):
    model, calls = load("match", "torch"), []
    attention = model.ops.attention
    model.ops = model.ops._replace(attention=lambda *a, **k: calls.append(1) or attention(*a, **k))
    model.to(torch.float16)(**questions("match"))
    assert calls


def test_weights_saved_from_half_precision(load, tmp_path):
    model = load("match", "torch", dtype="bfloat16")
    model.save_pretrained(tmp_path, dtype="bfloat16")
    again = BridgeTowerForImageAndTextRetrieval.from_pretrained(tmp_path, backend="torch", dtype="bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


# ---- every op of the records ---------------------------------------------------------------------
NUMBERS = np.random.default_rng(0)


def draw(*shape, scale=1.0):
    return NUMBERS.normal(size=shape) * scale


MASK = np.array([[[[True, False, True, True, False]]], [[[False] * 5]]])
QKV = draw(2, 3, 4, 16), draw(2, 3, 5, 16), draw(2, 3, 5, 16)
ONE = (QKV[0][:, :, :1], *QKV[1:])
BYTES = plain.quantise_rows(draw(7, 24).astype("f4"))
MANY = draw(2, 9, 24) * np.where(np.arange(24) == 5, 9, 1)  # column 5 holds outliers
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")
CASES = [
    ("linear", (draw(2, 5, 24), draw(7, 24), draw(7)), {}),
    ("linear", (draw(24), draw(7, 24)), {}),
    *(("linear_act", (draw(2, 5, 24), draw(7, 24), draw(7)), dict(act=act)) for act in ACTIVATIONS),
    ("linear_act", (draw(3, 24), draw(7, 24)), dict(act="relu")),
    *(("gated_linear", (draw(2, 5, 24), draw(7, 24), draw(7, 24)), dict(act=act)) for act in ACTIVATIONS),
    *((op, (x, *BYTES, draw(7)), {}) for op in ("int8_linear", "weight_only_linear") for x in (MANY, MANY[0, :3])),
    ("layer_norm", (draw(2, 5, 24), draw(24), draw(24), 1e-5), {}),
    ("add_layer_norm", (draw(2, 5, 24), draw(2, 5, 24), draw(24), draw(24), 1e-12), {}),
    ("rms_norm", (draw(2, 5, 24), draw(24), 1e-6), {}),
    *(
        (name, qkv[:count], how)
        for name, count in (("attention", 3), ("attention_weights", 2))
        for qkv in (QKV, ONE)
        for how in ({}, dict(mask=MASK, causal=True), dict(bias=draw(1, 3, 1, 5), scale=1.0))
    ),
    *((act, (draw(3, 40, scale=3),), {}) for act in ACTIVATIONS),
    ("softmax", (draw(4, 9, scale=5),), {}),
    ("softmax", (np.full((2, 9), -np.inf),), {}),
    ("embed", (np.array([[3, 0], [10, 3]]), draw(11, 24)), {}),
    ("patch_embed", (draw(2, 3, 13, 9), draw(24, 3, 4, 4), draw(24)), {}),
    ("cross_entropy", (draw(2, 4, 50, scale=4), np.array([[0, 49, -100, 7], [-100, 3, 3, 1]])), {}),
]
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]


@pytest.mark.parametrize(
    "backend, dtype",
    [("plain", "float32"), ("numpy", "float32")]
    + [pytest.param(*backend.values, dtype, marks=backend.marks) if hasattr(backend, "values") else (backend, dtype)
       for backend in BACKENDS for dtype in ("float32", *HALVES)],
)  # fmt: skip
def test_every_op_in_every_dtype(backend, dtype):
    """Against the plain formula in float64 of the same rounded numbers: a few rounding steps at the largest number are
    allowed.
    """
    ops = minivl.ops.get(backend, dtype)
    step = torch.finfo(getattr(torch, dtype)).eps
    assert {case[0] for case in CASES} == {*ops._fields[1:-4]}  # all but the name and the four that only carry things
    for name, args, how in CASES:
        given = [taken(ops, x, dtype) for x in args]
        more = {key: taken(ops, x, dtype) for key, x in how.items()}
        exact = getattr(PLAIN, name)(*map(rounded, given), **{key: rounded(x) for key, x in more.items()})
        got = getattr(ops, name)(*given, **more)
        assert minivl.ops.dtype_name(got.dtype) == dtype, name
        near(as_array(got), np.asarray(exact), 6 * step, f"{name} {how}")


def taken(ops, x, dtype):
    """An argument as a record takes it: the scales of 8-bit weights stay float32."""
    if not isinstance(x, np.ndarray):
        return x
    if ops.name in ("plain", "numpy"):
        return x.astype(dtype) if x.dtype.kind == "f" else x
    return torch.from_numpy(x.copy()) if x is BYTES[1] else ops.from_numpy(x)


def rounded(x):
    """What the op was really given, in float64 where it is no integer or bool."""
    if not isinstance(x, torch.Tensor):
        return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
    return as_array(x) if x.is_floating_point() else x.cpu().numpy()


@pytest.mark.parametrize("backend", ["numpy", *BACKENDS])
@pytest.mark.parametrize("dtype", ["int8", np.complex64, "nonsense", "nn"])
def test_a_record_of_no_floating_type_is_refused(backend, dtype):
    with pytest.raises(OpsError, match=f"{minivl.ops.dtype_name(dtype)}"):
        minivl.ops.get(backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals_are_the_same_everywhere(backend):
    ops = minivl.ops.get(backend)
    table, logits = ops.from_numpy(draw(11, 8).astype("f4")), ops.from_numpy(draw(2, 5).astype("f4"))
    for wrong in (-1, 11):
        with pytest.raises(InputError, match=f"token id {wrong} has no embedding: the table has 11 rows"):
            ops.embed(ops.from_numpy(np.array([[0, wrong]])), table)
    with pytest.raises(InputError, match="labels run from 1 to 5, the vocabulary from 0 to 4"):
        ops.cross_entropy(logits, ops.from_numpy(np.array([5, 1])))
    with pytest.raises(InputError, match="'swoosh'.*gelu"):
        ops.linear_act(table, table, act="swoosh")


def test_torch_attention_of_mixed_dtypes():
    """As in NumPy the widest dtype wins; a float32 bias alone does not widen anything."""
    ops = minivl.ops.get("torch")
    q, k, v = (torch.tensor(x, dtype=torch.float16) for x in QKV)
    bias = torch.tensor(draw(1, 3, 1, 5), dtype=torch.float32)
    assert ops.attention(q, k, v, bias=bias).dtype == torch.float16
    assert ops.attention(q, k, v.float()).dtype == torch.float32
    assert ops.attention(q, k.bfloat16(), v).dtype == torch.float32
    want = NUMPY.attention(*(x.double().numpy() for x in (q, k, v)), bias=bias.double().numpy())
    near(as_array(ops.attention(q, k, v, bias=bias)), want, 4e-3, "attention")


def test_a_row_of_minus_infinity_in_the_bias_gives_zeros_and_no_nan_on_the_way_back():
    q, k, v = (torch.tensor(x, requires_grad=True) for x in QKV)
    bias = torch.zeros(4, 5, dtype=torch.float64)
    bias[2] = bias[1, 3] = -torch.inf
    out = minivl.ops.get("torch").attention(q, k, v, bias=bias)
    assert not out[:, :, 2].any() and out[:, :, 1].all()
    out.sum().backward()
    assert q.grad.isfinite().all() and k.grad.isfinite().all() and not q.grad[:, :, 2].any()


def test_torch_softmax_of_nothing():
    x = torch.full((2, 3), -torch.inf, requires_grad=True)
    y = minivl.ops.get("torch").softmax(x)
    y.sum().backward()
    assert y.tolist() == x.grad.tolist() == [[0] * 3] * 2


# ---- triton --------------------------------------------------------------------------------------
@needs_triton
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_say_what_numpy_says(kind, load):
    given = questions(kind) | EVERYTHING
    same_answers(load(kind, "triton")(**given), load(kind)(**given), 1e-5)


PICTURE = "tutorials/pictures/blue_circle_left_of_green_circle.png"
QUESTIONS = ["Question: what color is the left circle? Answer:", "Question: how many shapes are there? Answer:"]
SAID = ["a blue circle left of a green circle", "a red square", "two circles"]


@needs_triton
@pytest.mark.parametrize("questions", [None, QUESTIONS])
def test_the_demo_captions_and_answers_through_the_kernels(questions):
    processor = Blip2Processor.from_pretrained("demo")
    inputs = processor(
        images=[PICTURE] * len(questions or [PICTURE]), text=questions, padding=True, return_tensors="np"
    )
    numpy, triton = (
        Blip2ForConditionalGeneration.from_pretrained("demo", backend=name) for name in ("numpy", "triton")
    )
    words = processor.batch_decode(triton.generate(**inputs), skip_special_tokens=True)
    assert words == processor.batch_decode(numpy.generate(**inputs), skip_special_tokens=True) and all(words)


@needs_triton
def test_the_demo_matches_through_the_kernels():
    processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
    inputs = processor(images=[PICTURE] * len(SAID), text=SAID, padding=True, return_tensors="np")
    numpy, triton = (
        BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower", backend=name)(**inputs).logits
        for name in ("numpy", "triton")
    )
    np.testing.assert_allclose(triton, numpy, atol=1e-4)
    assert (triton.argmax(-1).numpy() == numpy.argmax(-1)).all() and numpy.argmax(-1).tolist() != [1] * len(SAID)


@needs_triton
def test_a_weight_learns_through_the_kernels_as_it_does_through_torch(load):
    """The rest of the model is frozen; every op is in test_triton_gradients.py."""
    given, grads = questions("match"), []
    for backend in ("torch", "triton"):
        model = load("match", backend)
        weight = model.params["itm"]["w"].requires_grad_()
        model(**given).logits.square().sum().backward()
        grads.append(weight.grad.numpy())
        with torch.no_grad():
            assert not model(**given).logits.requires_grad
    near(grads[1], grads[0], 1e-5, "the gradient of a weight")


@needs_triton
def test_the_kernels_refuse_what_they_cannot_take(load):
    ops = minivl.ops.get("triton")
    wide = torch.zeros(1, 1, 2, 512)
    for refused in (
        lambda: ops.attention(wide, wide, wide),
        lambda: ops.linear(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)),
        lambda: load("match", "triton").to(torch.float64),
    ):
        with pytest.raises(OpsError) as raised:
            refused()
        assert "\n" not in str(raised.value)


@needs_triton
@pytest.mark.parametrize("dtype", HALVES)
def test_the_kernels_in_half_precision(dtype, load):
    given = questions("match")
    model = load("match", "triton").to(getattr(torch, dtype))
    ours = model(**given).logits
    assert ours.dtype == HALVES[dtype]
    near(as_array(ours), as_array(load("match")(**given).logits), 8 * torch.finfo(HALVES[dtype]).eps, dtype)


@needs_triton
def test_compiled_kernels_without_a_gpu_are_refused(monkeypatch):
    code = "import minivl; minivl.ops.get('triton')"
    environment = os.environ | dict(TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "OpsError: backend 'triton' needs a GPU" in result.stderr and "set TRITON_INTERPRET=1" in result.stderr
    minivl.ops.get("triton")
    monkeypatch.setattr(sys.modules["minivl.ops.triton"], "INTERPRETED", False)
    with pytest.raises(OpsError, match="'triton' runs on the GPU here: for the CPU set TRITON_INTERPRET=1"):
        minivl.ops.get("triton", device="cpu")


# ---- on a GPU ------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("kind, dtype", PAIRS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu(backend, kind, dtype, load):
    given, model = questions(kind) | EVERYTHING, load(kind, backend, dtype=dtype, device="cuda")
    ours = model(**given)
    assert ours.loss.device.type == model.device.type == "cuda"
    same_answers(ours, load(kind)(**given), 1e-5 if dtype == "float32" else 8 * torch.finfo(HALVES[dtype]).eps)
