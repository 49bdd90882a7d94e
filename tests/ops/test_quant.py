"""Weights in fewer bits: the roundings of bitsandbytes, exact whole numbers, what stays in more bits, whole models."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import GOLDEN, golden_inputs

import minivl.ops
from minivl import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BridgeTowerForImageAndTextRetrieval
from minivl.errors import InputError, OpsError, WeightsError
from minivl.ops import numpy_products as products
from minivl.ops import quantised as quant
from minivl.weights import files, names, tree
from minivl.weights import quantise as narrow

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
MODES = {
    "bfloat16": dict(dtype="bfloat16"),
    "weight-only": dict(load_in_8bit="weight-only"),
    "int8": dict(load_in_8bit=True),
}
PICTURES = [f"tutorials/pictures/{name}.png" for name in ("red_circle", "two_teal_rings")]
F, C = 37, 29


@pytest.fixture
def small_tiles(monkeypatch):
    """Matrices of the tests fall into several tiles, the last of them smaller."""
    monkeypatch.setattr(products, "TILE", 8 * C + 3)


NUMPY = quant.reading(minivl.ops.get("numpy"))


@pytest.fixture
def draw(rng):
    return lambda *shape: rng.normal(0, 1, shape).astype(np.float32)


# ---- against bitsandbytes --------------------------------------------------------------------------------------------
CASES = ["plain", "outliers", "one row", "threshold", "wide"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "int8.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("case", CASES)
def test_the_whole_numbers_are_those_of_bitsandbytes(golden, case):
    want = {key.split("/")[1]: a for key, a in golden.items() if key.startswith(f"{case}/")}
    weight = products.quantise_rows(want["w"].astype(np.float32))
    np.testing.assert_array_equal(weight[0], want["CB"])
    np.testing.assert_array_equal(weight[1], want["SCB"])
    small, scale, outlying = products.quantise_activations(want["x"].astype(np.float32))
    np.testing.assert_array_equal(small, want["CA"])
    np.testing.assert_array_equal(scale, want["SCA"])
    np.testing.assert_array_equal(np.flatnonzero(outlying), want["outliers"])


@pytest.mark.parametrize("case", CASES)
def test_the_layer_is_that_of_bitsandbytes_within_the_rounding_of_its_float16(golden, case):
    x, w, b, want = (golden[f"{case}/{key}"].astype(np.float32) for key in ("x", "w", "b", "y"))
    got = NUMPY.linear(x, quant.Int8(*products.quantise_rows(w), whole=True), b)
    assert got.dtype == np.float32
    assert np.linalg.norm(got - want) < 4e-4 * np.linalg.norm(want)


@pytest.mark.parametrize(
    "name, given", [("base", {}), ("t5_flan", {"decoder_input_ids": [[0, 5, 9, 7], [0, 3, 3, 8]]})]
)
def test_every_state_of_a_model_is_that_of_bitsandbytes(golden, name, given):
    want = [a for key, a in sorted(golden.items()) if key.startswith(f"{name}/")]

    def error(**how):
        model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / name, **how)
        out = model(**golden_inputs(GOLDEN / name, (0, 1)), **given, output_hidden_states=True)
        said = out.language_model_outputs
        words = said.hidden_states if name == "base" else said.encoder_hidden_states + said.decoder_hidden_states
        got = (*out.vision_outputs.hidden_states, out.qformer_outputs.last_hidden_state, *words, out.logits)
        assert len(got) == len(want)
        return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, want, strict=True)]

    assert max(error(load_in_8bit=True)) < 5e-3
    assert error()[-1] > 1e-2  # what rounding to 8 bits does at all


# ---- numbers ---------------------------------------------------------------------------------------------------------
def test_rows_are_rounded_to_even_and_a_row_of_zeros_stays_one():
    w = np.array([[127, 0.5, 1.5, -2.5], [0, 0, 0, 0], [-2, 1, 0.5, 0], [1e-40, 0, -1e-41, 0]], np.float32)
    rows, scale = products.quantise_rows(w)
    assert rows.tolist() == [[127, 0, 2, -2], [0] * 4, [-127, 64, 32, 0], [0] * 4]
    np.testing.assert_array_equal(scale, np.abs(w).max(1))
    assert rows.dtype == np.int8 and scale.dtype == np.float32


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("width", [1, products.EXACT, products.EXACT + 1, 5000])
def test_the_product_of_bytes_is_exact(rng, width, extreme, small_tiles):
    a, w = (rng.integers(-127, 128, (rows, width)).astype(np.int8) for rows in (3, 5))
    if extreme:  # the largest sums there can be, and odd ones
        a[:], w[:] = 127, -127
        a[0, :1], w[0, :2] = -126, 127
    want = a.astype(np.int64) @ w.T.astype(np.int64)
    got = products.exact_product(a, w)
    np.testing.assert_array_equal(got, want.astype(np.float32))


def test_sums_of_so_many_products_are_exact_and_no_more():
    assert products.EXACT * 127**2 < 2**24 < (products.EXACT + 1) * 127**2


def test_every_float16_and_every_bfloat16_is_widened_exactly():
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    halves = bits.view(np.float16)
    halves = np.where(np.isfinite(halves), halves, np.float16(0))
    for w, want in (
        (quant.Float16(halves), halves.astype(np.float32)),
        (quant.BFloat16(bits), (bits.astype(np.uint32) << 16).view(np.float32)),
    ):
        got = w.widen(slice(3, 256), np.empty((253, 256), np.float32))
        np.testing.assert_array_equal(got.view(np.uint32), want[3:].view(np.uint32))


def leaves(w):
    """A matrix in each form, and the numbers that the form stands for."""
    rows, scale = products.quantise_rows(w)
    bits = files.convert(w, "BF16")
    yield quant.Float16(w.astype(np.float16)), w.astype(np.float16).astype(np.float64)
    yield quant.BFloat16(bits), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    yield quant.Int8(rows, scale, False), rows * (scale / 127.0)[:, None].astype(np.float64)


def test_products_and_rows_of_every_form(draw, small_tiles, np_ops):
    w, x, b = draw(F, C), draw(2, 3, C), draw(F)
    ids = np.array([[0, F - 1, 5], [5, 5, 1]])
    ops = quant.reading(np_ops)
    for leaf, number in leaves(w):
        before = [a.copy() for a in leaf if isinstance(a, np.ndarray)]
        for rows in (x, x[:1, :1], x[:0]):
            got = ops.linear(rows, leaf, b)
            assert got.dtype == np.float32 and got.flags.c_contiguous
            np.testing.assert_allclose(got, rows @ number.T + b, atol=3e-6)
        np.testing.assert_allclose(ops.linear(x, leaf), x @ number.T, atol=3e-6)
        np.testing.assert_allclose(ops.linear_act(x, leaf, b, act="relu"), np.maximum(x @ number.T + b, 0), atol=3e-6)
        np.testing.assert_allclose(ops.embed(ids, leaf), number[ids], rtol=1e-6)
        with pytest.raises(InputError, match=f"token id {F} "):
            ops.embed(np.array([F]), leaf)
        assert leaf.shape == w.shape and leaf.nbytes == sum(a.nbytes for a in before)
        assert all(map(np.array_equal, before, leaf))
    np.testing.assert_array_equal(ops.linear(x, w, b), np_ops.linear(x, w, b))
    np.testing.assert_array_equal(ops.embed(ids, w), np_ops.embed(ids, w))


def test_an_outlier_keeps_its_column_out_of_the_8_bits(draw, small_tiles):
    """It is multiplied as it is, and does not coarsen its row."""
    x, w = draw(4, C), draw(F, C)
    x[1, 7] = 6000
    x[2, 9] = -1e6  # beyond float16
    leaf = quant.Int8(*products.quantise_rows(w), whole=True)
    number = leaf.rows * (leaf.scale / 127)[:, None]
    got, exact = NUMPY.linear(x, leaf), x.astype(np.float64) @ number.T
    assert np.isfinite(got).all()
    kept = np.abs(x[:, [c for c in range(C) if c not in (7, 9)]]).max(1)
    assert (np.abs(got - exact).max(1) <= kept / 127 * np.abs(number).sum(1).max() + 1e-6 * np.abs(exact).max(1)).all()


def test_a_row_feels_the_others_only_through_their_outliers(draw):
    x, w = np.clip(draw(3, C), -3, 3), draw(F, C)
    leaf = quant.Int8(*products.quantise_rows(w), whole=True)
    alone = NUMPY.linear(x[:1], leaf)
    np.testing.assert_array_equal(NUMPY.linear(x, leaf)[:1], alone)
    x[2, 4] = 50
    moved = np.abs(NUMPY.linear(x, leaf)[:1] - alone)
    assert 0 < moved.max() < 0.1


# ---- reading files ---------------------------------------------------------------------------------------------------
def stored(w, dtype):
    kind = {"F32": np.float32, "F16": np.float16}.get(dtype)
    return files.Stored(dtype, files.convert(w, "BF16") if kind is None else w.astype(kind), "w")


def entry(path, shape=(F, C)):
    return tree.Entry("w", path, shape)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_a_matrix_becomes(draw, small_tiles, dtype):
    w = draw(F, C)
    source = stored(w, dtype)
    number = source.float32()
    as_half = number.astype(np.float16).astype(np.float32)
    for mode, of in (("weight-only", number), ("int8", as_half)):
        leaf = narrow.keeper(mode)(entry("layers.0.mlp.down.w"), source)
        rows, scale = products.quantise_rows(of)
        assert leaf.whole == (mode == "int8")
        np.testing.assert_array_equal(leaf.rows, rows)
        np.testing.assert_array_equal(leaf.scale, scale)
    leaf = narrow.keeper("bfloat16")(entry("head.w"), source)
    np.testing.assert_array_equal(leaf.bits, files.convert(number, "BF16"))
    assert (leaf.bits is source.array) == (dtype == "BF16")
    for half in (False, True):
        leaf = narrow.keeper("int8", half=half)(entry("language.tokens"), source)
        if dtype == "F32":
            assert np.array_equal(leaf.halves, w.astype(np.float16)) if half else leaf is source.array
        else:
            assert leaf[0] is source.array


def test_what_stays_in_float32(draw):
    w = draw(F, C)
    for mode in narrow.MODES:
        for path in ("ln.w", "layers.0.self.q.b"):
            leaf = narrow.keeper(mode)(entry(path, (F,)), stored(w[:, 0], "F16"))
            assert isinstance(leaf, np.ndarray) and leaf.dtype == np.float32
        for path in ("language.positions", "layers.0.self.distance.w", "encoder.places"):
            assert isinstance(narrow.keeper(mode)(entry(path), stored(w, "BF16")), np.ndarray), path
    path = "language.encoder.layers.0.mlp.down.w"
    assert isinstance(narrow.keeper("int8", "t5")(entry(path), stored(w, "F16")), np.ndarray)
    assert isinstance(narrow.keeper("int8", "opt")(entry(path), stored(w, "F16")), quant.Int8)
    assert isinstance(narrow.keeper("weight-only", "t5")(entry(path), stored(w, "F16")), quant.Int8)
    assert isinstance(narrow.keeper("int8", "t5")(entry("vision.layers.0.mlp.down.w"), stored(w, "F16")), quant.Int8)


@pytest.mark.parametrize("value", [65520.0, math.inf, math.nan])
def test_a_weight_that_float16_cannot_hold_is_named(draw, value):
    w = draw(F, C)
    w[F - 1, 3] = 65519.0
    narrow.keeper("int8")(entry("q.w"), stored(w, "F32"))
    w[F - 1, 3] = value
    with pytest.raises(WeightsError, match="tensor 'w': wanted (values that float16 can hold|finite values), found"):
        narrow.keeper("int8")(entry("q.w"), stored(w, "F32"))
    with pytest.raises(WeightsError, match="tensor 'w': wanted"):
        narrow.keeper("int8", half=True)(entry("language.tokens"), stored(w, "F32"))
    if math.isfinite(value):
        narrow.keeper("weight-only")(entry("q.w"), stored(w, "F32"))
    else:
        with pytest.raises(WeightsError, match="tensor 'w': wanted finite values, found NaN or infinity"):
            narrow.keeper("weight-only")(entry("q.w"), stored(w, "F32"))


def test_whole_numbers_are_no_weights():
    with pytest.raises(WeightsError, match="wanted floating point values, found I32"):
        narrow.keeper("int8")(entry("q.w"), files.Stored("I32", np.ones((F, C), np.int32), "w"))


def test_a_bfloat16_folder_is_not_copied(tmp_path):
    Blip2ForConditionalGeneration.from_pretrained("demo").save_pretrained(tmp_path, dtype="bfloat16")
    for how, kind in ((MODES["bfloat16"], "layers"), (MODES["int8"], "tokens")):
        language = Blip2ForConditionalGeneration.from_pretrained(tmp_path, **how).params["language"]
        leaf = language["layers"][0]["self"]["q"]["w"] if kind == "layers" else language["tokens"]
        assert isinstance(leaf, quant.BFloat16) and not leaf.bits.flags.writeable


def test_released_pages_come_back(tmp_path, draw):
    w = draw(300, 100)
    files.save(tmp_path, {"a": w, "b": w + 1})
    tensors = files.read(tmp_path)
    for name in ("a", "b"):
        tensors[name].release()
    np.testing.assert_array_equal(tensors["a"].array, w)
    np.testing.assert_array_equal(tensors["b"].rows(slice(7, 9)).array, w[7:9] + 1)
    stored(w, "F32").release()  # an array that no file is behind


GROWTH = """
import sys
from minivl.weights import files, quantise as narrow, tree

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

before = peak()
stored = files.read(sys.argv[1])["w"]
narrow.keeper(sys.argv[2])(tree.Entry("w", "q.w", stored.array.shape), stored)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("mode, kept", [("int8", 16), ("weight-only", 16), ("bfloat16", 32)])
def test_a_matrix_of_64_megabytes_is_never_in_memory_in_full(tmp_path, draw, mode, kept):
    files.save(tmp_path, {"w": draw(4096, 4096)})
    run = subprocess.run([sys.executable, "-c", GROWTH, str(tmp_path), mode], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert kept - 1 < float(run.stdout) < kept + 12


# ---- memory ----------------------------------------------------------------------------------------------------------
def language(text):
    config = Blip2Config(text_config=text)
    entries = [entry for entry in names.blip2(config) if isinstance(entry, tree.Entry)]
    return entries, sum(math.prod(entry.shape) for entry in entries), config.text_config.model_type


def test_a_large_model_in_8_bits_takes_about_half_of_float16():
    sizes = dict(hidden_size=2560, num_hidden_layers=32, ffn_dim=10240, num_attention_heads=32, vocab_size=50304)
    entries, count, kind = language(dict(model_type="opt", **sizes))
    taken = {mode: sum(narrow.nbytes(mode, entry, kind) for entry in entries) / count for mode in narrow.MODES}
    assert taken["int8"] < 0.55 * 2 and taken["weight-only"] < 0.27 * 4 and taken["bfloat16"] < 0.51 * 4


@pytest.mark.parametrize("name", ["demo", GOLDEN / "t5_flan", GOLDEN / "t5_tied"])
@pytest.mark.parametrize("mode", MODES)
def test_the_memory_of_the_weights_is_known_before(name, mode):
    how = MODES[mode] | (dict(torch_dtype="float16") if mode == "int8" else {})
    model = Blip2ForConditionalGeneration.from_pretrained(name, **how)
    found = tree.flatten(model.table(model.config), model.params)
    table = [entry for entry in model.table(model.config) if isinstance(entry, tree.Entry) and entry.hub in found]
    kind = model.config.text_config.model_type
    for entry in table:
        assert found[entry.hub].nbytes == narrow.nbytes(mode, entry, kind), entry
    full = sum(4 * math.prod(entry.shape) for entry in table)
    assert sum(w.nbytes for w in model.parameters()) < {"bfloat16": 0.6, "weight-only": 0.55, "int8": 0.65}[mode] * full


# ---- whole models ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def demo():
    processor = Blip2Processor.from_pretrained("demo")
    inputs = [processor(images=picture, return_tensors="np") for picture in PICTURES]

    def say(**how):
        model = Blip2ForConditionalGeneration.from_pretrained("demo", **how)
        return [processor.batch_decode(model.generate(**x), skip_special_tokens=True)[0] for x in inputs]

    return say


@pytest.mark.parametrize("mode", MODES)
def test_captions(demo, mode):
    said = demo(**MODES[mode])
    assert said == demo() if mode != "int8" else all(text.strip() for text in said)


@pytest.mark.parametrize("name", ["base", "t5_flan"])
@pytest.mark.parametrize("mode", MODES)
def test_logits_stay_near(name, mode):
    given = {"decoder_input_ids": [[0, 5, 9, 7], [0, 3, 3, 8]]} if name == "t5_flan" else {}
    inputs = golden_inputs(GOLDEN / name, (0, 1))
    want, got = (
        Blip2ForConditionalGeneration.from_pretrained(GOLDEN / name, **how)(**inputs, **given, output_attentions=True)
        for how in ({}, MODES[mode])
    )
    error = np.linalg.norm(got.logits - want.logits) / np.linalg.norm(want.logits)
    assert 1e-4 < error < 0.1
    assert len(got.vision_outputs.attentions) == len(want.vision_outputs.attentions)


@pytest.mark.parametrize("mode", MODES)
def test_beams_and_sampling(mode):
    model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "t5_flan", **MODES[mode])
    inputs = golden_inputs(GOLDEN / "t5_flan", (0, 1))
    assert len(model.generate(**inputs, num_beams=3, max_new_tokens=4)) == 2
    assert len(model.generate(**inputs, do_sample=True, seed=1, max_new_tokens=4)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_bridgetower(mode):
    rng = np.random.default_rng(0)
    plain = BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower")
    size = plain.config.vision_config.image_size
    inputs = dict(input_ids=[[0, 5, 6, 2]], pixel_values=rng.normal(0, 1, (1, 3, size, size)))
    model = BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower", **MODES[mode])
    assert any(isinstance(w, quant.Narrow) for w in model.parameters())
    np.testing.assert_allclose(model(**inputs).logits, plain(**inputs).logits, atol=0.5)


# ---- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong", ["int8", "weight_only", 8, 1, ["weight-only"]])
def test_a_kind_of_8_bits_that_there_is_not(wrong):
    with pytest.raises(InputError, match="load_in_8bit: wanted True, False or 'weight-only', found"):
        Blip2ForConditionalGeneration.from_pretrained("demo", load_in_8bit=wrong)


# ---- the same on every backend ---------------------------------------------------------------------------------------
BYTES = {"int8": {"load_in_8bit": True}, "weight-only": {"load_in_8bit": "weight-only"}}
OTHERS = ["plain", "torch", pytest.param("triton", marks=needs_triton)]


@pytest.mark.parametrize("mode", BYTES)
@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("name", ["demo", GOLDEN / "t5_flan"], ids=["opt", "t5"])
def test_bytes_are_the_same_on_every_backend(name, backend, mode):
    """The same integers and float32 scales in every leaf, and the same logits but for rounding."""
    ours, want = (
        Blip2ForConditionalGeneration.from_pretrained(name, backend=one, **BYTES[mode]) for one in (backend, "numpy")
    )
    pairs = list(zip(ours.parameters(), want.parameters(), strict=True))
    assert sum(isinstance(a, quant.Int8) for a, _ in pairs) > 20
    for a, b in pairs:
        if isinstance(b, quant.Int8):
            assert isinstance(a, quant.Int8) and a.whole == b.whole == (mode == "int8")
            np.testing.assert_array_equal(np.asarray(a.rows), b.rows)
            np.testing.assert_array_equal(np.asarray(a.scale), b.scale)
    size = want.config.vision_config.image_size
    pixels = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    given = {"decoder_input_ids": [[0, 5, 9]]} if want.config.text_config.model_type == "t5" else {}
    got, wanted = (np.asarray(model(pixels, [[5, 9, 7]], **given).logits) for model in (ours, want))
    # An activation near a tie may round the other way, and then every later layer of LLM.int8() feels a whole step.
    assert np.linalg.norm(got - wanted) < {"int8": 0.03, "weight-only": 1e-4}[mode] * np.linalg.norm(wanted)
    assert (ours.generate(pixels, max_new_tokens=4) == want.generate(pixels, max_new_tokens=4)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", BYTES)
def test_bytes_beside_half_precision(mode, dtype):
    """What the documentation gives: load_in_8bit=True, device_map={"": 0}, torch_dtype=torch.float16."""
    how = BYTES[mode] | {"device_map": {"": 0}} if torch.cuda.is_available() else BYTES[mode]
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch", torch_dtype=dtype, **how)
    assert model.dtype == getattr(torch, dtype)
    kept = [weight for weight in model.parameters() if isinstance(weight, quant.Int8)]
    assert kept and all(weight.scale.dtype == torch.float32 for weight in kept)
    want = Blip2ForConditionalGeneration.from_pretrained("demo", **BYTES[mode])
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    got, exact = model(pixels, [[5, 9, 7]]).logits, want(pixels, [[5, 9, 7]]).logits
    assert got.dtype == model.dtype
    assert np.linalg.norm(got.detach().float().numpy() - exact) < 0.05 * np.linalg.norm(exact)


def test_bytes_stay_where_they_are_and_learn_nothing():
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch", load_in_8bit=True)
    assert model.to("cpu") is model
    with pytest.raises(OpsError, match="weights in fewer bits stay so: to have float16 load the model with that"):
        model.to(torch.float16)
    with pytest.raises(OpsError, match="weights of 8 bits have no gradients"):
        model.requires_grad_()
    model.requires_grad_(False)
    model.params["queries"].requires_grad_()
    with pytest.raises(OpsError, match="int8_linear: x requires a gradient"):
        model(np.zeros((1, 3, 64, 64), np.float32), [[5, 9, 7]])


@pytest.mark.parametrize("mode", MODES)
def test_a_model_in_fewer_bits_is_a_model(mode):
    model = Blip2ForConditionalGeneration.from_pretrained("demo", **MODES[mode])
    assert model.to("cpu") is model and model.device == "cpu" and model.dtype == np.float32
    with pytest.raises(OpsError, match="weights in fewer bits stay so: to have float32 load the model with that"):
        model.to(dtype="float32")
    with pytest.raises(OpsError, match="computes no gradients"):
        model.requires_grad_()
    assert Blip2ForConditionalGeneration.from_pretrained("demo").to(dtype="float32").dtype == np.float32


def test_bytes_are_not_saved_and_bfloat16_is(tmp_path):
    for mode in ("int8", "weight-only"):
        model = Blip2ForConditionalGeneration.from_pretrained("demo", **MODES[mode])
        with pytest.raises(OpsError, match="8 bits .* load the model without load_in_8bit to save it"):
            model.save_pretrained(tmp_path / mode)
        assert not (tmp_path / mode).exists()
    model = Blip2ForConditionalGeneration.from_pretrained("demo", dtype="bfloat16")
    model.save_pretrained(tmp_path, dtype="bfloat16")
    again = Blip2ForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16").params["language"]
    np.testing.assert_array_equal(again["tokens"].bits, model.params["language"]["tokens"].bits)


def test_no_warning_on_the_way(demo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        demo(load_in_8bit=True)


def test_the_record_is_numpys_but_for_what_reads_weights():
    plain, reading = minivl.ops.get("numpy"), quant.reading(minivl.ops.get("numpy"))
    changed = {name for name in plain._fields if getattr(plain, name) is not getattr(reading, name)}
    assert changed == {"linear", "linear_act", "gated_linear", "embed", "to_numpy"}


@pytest.mark.parametrize(
    "dtype, kind", [("bfloat16", quant.BFloat16), ("float16", quant.Float16), ("float32", np.ndarray)]
)
def test_auto_keeps_matrices_as_the_file_has_them_and_loses_nothing(tmp_path, dtype, kind):
    source = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")
    source.save_pretrained(tmp_path, dtype=dtype)
    plain, auto = (type(source).from_pretrained(tmp_path, dtype=how) for how in (None, "auto"))
    layer = auto.params["language"]["layers"][0]["mlp"]["up"]
    assert isinstance(layer["w"], kind) and isinstance(layer["b"], np.ndarray)
    inputs = golden_inputs(GOLDEN / "base", (0, 1))
    np.testing.assert_allclose(auto(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_auto_is_the_dtype_of_the_file_on_torch(tmp_path, dtype):
    source = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")
    source.save_pretrained(tmp_path, dtype=dtype)
    model = type(source).from_pretrained(tmp_path, backend="torch", torch_dtype="auto")
    assert str(model.dtype) == f"torch.{dtype}"
