"""T5 against transformers, after every layer; padding, the cache and the tables against the same words without them."""

import json
import shutil

import numpy as np
import oracle
import pytest
import torch
from flattened import flat, layout, unstacked
from transformers.models.t5.modeling_t5 import T5Attention

import minivl.ops
from minivl import Blip2Config, Blip2ForConditionalGeneration
from minivl.errors import ConfigError, InputError, OpsError, WeightsError
from minivl.models import t5
from minivl.weights import files, tree

ODD = {
    "gated": {},
    "relu without a gate": dict(feed_forward_proj="relu"),
    "gelu without a gate": dict(feed_forward_proj="gelu"),
    "gated silu": dict(feed_forward_proj="gated-silu"),
    "exact gelu by name": dict(dense_act_fn="gelu"),
    "tied head": dict(tie_word_embeddings=True),
    "one head": dict(num_heads=1),
    "heads as wide as the model": dict(num_heads=4, d_kv=4),
    "heads wider than the model": dict(num_heads=5, d_kv=7),
    "deep encoder": dict(num_layers=4, num_decoder_layers=1),
    "deep decoder": dict(num_layers=1, num_decoder_layers=4),
    "narrow mlp": dict(d_ff=1),
    "large epsilon": dict(layer_norm_epsilon=0.1),
    "few buckets": dict(relative_attention_num_buckets=4, relative_attention_max_distance=3),
    "many buckets": dict(relative_attention_num_buckets=40, relative_attention_max_distance=200),
}
FULL = np.ones((2, 7), np.int64)
# Padding stands after the picture's soft words, so the encoder's mask hides something in every row but never all.
GAPS = np.array([[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
LONG = np.ones((1, 41), np.int64)
WORDS = {
    "none": None,
    "all": np.ones((3, 6), np.int64),
    "right": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]),
    "first hidden": np.array([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]]),
}


def inputs_for(config, mask, dtype, words=6, seed=1):
    rng = np.random.default_rng(seed)
    embeds = rng.normal(size=(*mask.shape, config.d_model)).astype(dtype)
    return embeds, mask, rng.integers(0, config.vocab_size, (len(mask), words))


def check(config, folder, ops, dtype="float64", mask=FULL, words=6, word_mask=None, labels=None, seed=0):
    model = oracle.t5_model(oracle.T5 | config, seed).to(getattr(torch, dtype))
    mine, params = oracle.ours(model, folder, dtype)
    given = inputs_for(mine, mask, dtype, words, seed)
    got = oracle.our_t5_trace(ops, mine, params, *given, word_mask, labels)
    oracle.compare(got, oracle.t5_trace(model, *given, word_mask, labels), oracle.TOLERANCE[dtype])


# ---- against the transformers of today -----------------------------------------------------------
@pytest.mark.parametrize("dtype", oracle.TOLERANCE)
@pytest.mark.parametrize("odd", ODD)
def test_every_layer(odd, dtype, np_ops, tmp_path):
    check(ODD[odd], tmp_path, np_ops, dtype)


@pytest.mark.parametrize("dtype", oracle.TOLERANCE)
@pytest.mark.parametrize("word_mask", WORDS)
def test_every_layer_with_padding(word_mask, dtype, np_ops, tmp_path):
    check({}, tmp_path, np_ops, dtype, GAPS, word_mask=WORDS[word_mask])


@pytest.mark.parametrize("words", [1, 2, 35])
def test_every_layer_of_texts_longer_than_the_tables_reach(words, np_ops, tmp_path):
    check({}, tmp_path, np_ops, "float64", LONG, words)
    check({}, tmp_path, np_ops, "float64", LONG[:, :1], words)


@pytest.mark.parametrize("seed", range(24))
def test_every_layer_of_random_configurations(seed, np_ops, tmp_path):
    dtype, word_mask = ["float32", "float64"][seed % 2], list(WORDS.values())[seed % 4]
    check(oracle.draw_t5(seed), tmp_path, np_ops, dtype, GAPS, word_mask=word_mask, seed=seed)


def test_loss_of_labels(np_ops, tmp_path):
    labels = np.random.default_rng(0).integers(0, 50, (3, 6))
    check({}, tmp_path, np_ops, mask=GAPS, labels=labels)
    labels[0, 1:3] = labels[2] = -100
    check({}, tmp_path, np_ops, mask=GAPS, labels=labels)


def test_labels_become_what_the_decoder_reads(tmp_path):
    model = oracle.t5_model(oracle.T5 | dict(decoder_start_token_id=7, pad_token_id=3))
    config, _ = oracle.ours(model, tmp_path)
    labels = np.array([[4, 5, -100, 6], [-100, -100, 8, -100]])
    frozen = labels.copy()
    assert t5.shift_right(labels, config).tolist() == [[7, 4, 5, 3], [7, 3, 3, 8]]
    assert t5.shift_right(labels, config).tolist() == model._shift_right(torch.tensor(labels)).tolist()
    np.testing.assert_array_equal(labels, frozen)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(
    "buckets, farthest",
    [(32, 128), (4, 3), (5, 3), (6, 9), (7, 20), (8, 16), (16, 64), (32, 17), (33, 200), (64, 128), (128, 512)],
)
def test_every_distance_falls_into_its_bucket(buckets, farthest, both_ways):
    """Each bucket's first distance is decided by rounding in float32, so each is looked at."""
    distance = np.arange(-3000, 3001)
    want = T5Attention._relative_position_bucket(torch.tensor(distance), both_ways, buckets, farthest)
    assert t5.bucket(distance, buckets, farthest, both_ways).tolist() == want.tolist()


def test_torch_record(tmp_path):
    """The same model source on the torch record."""
    ops = minivl.ops.get("torch")
    model = oracle.t5_model(oracle.T5)
    config, params = oracle.ours(model, tmp_path)
    given = inputs_for(config, GAPS, "float32")
    params = tree.map_leaves(ops.from_numpy, params)
    for word_mask in (None, WORDS["right"]):
        mine = [None if x is None else ops.from_numpy(x) for x in (*given, word_mask)]
        trace = oracle.our_t5_trace(ops, config, params, *mine)
        theirs = oracle.t5_trace(model, *given, word_mask)
        oracle.compare({name: ops.to_numpy(x) for name, x in trace.items()}, theirs, oracle.TOLERANCE["float32"])


# ---- what holds without an oracle ----------------------------------------------------------------
@pytest.fixture(params=[{}, dict(tie_word_embeddings=True, feed_forward_proj="relu", num_decoder_layers=4)])
def small(request, tmp_path):
    return oracle.ours(oracle.t5_model(oracle.T5 | request.param), tmp_path, "float64")


def test_hidden_tokens_change_nothing(small, np_ops):
    """Tokens that the mask hides, replaced by others; and words that come later."""
    config, params = small
    embeds, mask, words = inputs_for(config, GAPS, "float64")
    other = np.where(mask[..., None] == 1, embeds, 9.0)
    before, after = (oracle.our_t5_trace(np_ops, config, params, x, mask, words) for x in (embeds, other))
    seen = mask == 1
    np.testing.assert_allclose(before["encoder last norm"][seen], after["encoder last norm"][seen], atol=1e-12)
    np.testing.assert_allclose(before["logits"], after["logits"], atol=1e-12)
    later = words.copy()
    later[:, 4:] = 3
    after = oracle.our_t5_trace(np_ops, config, params, embeds, mask, later)
    np.testing.assert_allclose(before["logits"][:, :4], after["logits"][:, :4], atol=1e-12)


def scores(reader, words):
    """The logits of each step of a reader that is told what to say: the first from its own start."""
    return np.stack([reader.step(None), *(reader.step(column) for column in words.T)], 1)


def test_word_by_word_equals_all_words_at_once(small, np_ops):
    config, params = small
    embeds, mask, words = inputs_for(config, GAPS, "float64", words=20)
    all_words = np.column_stack([np.zeros(3, int), words])
    want = oracle.our_t5_trace(np_ops, config, params, embeds, mask, all_words)["logits"]
    np.testing.assert_allclose(scores(t5.Reader(np_ops, params, embeds, mask, config), words), want, atol=1e-12)


@pytest.mark.parametrize("rows", [[2, 1, 0], [0, 0, 1, 1, 2, 2], [1], [2, 2, 0]], ids=str)
def test_reordered_rows_go_on_where_others_stood(rows, small, np_ops):
    config, params = small
    embeds, mask, words = inputs_for(config, GAPS, "float64", words=12)
    want = scores(t5.Reader(np_ops, params, embeds[rows], mask[rows], config), words[rows])
    reader, rows = t5.Reader(np_ops, params, embeds, mask, config), np.array(rows)
    head = scores(reader, words[:, :5])
    np.testing.assert_allclose(head[rows], want[:, :6], atol=1e-12)
    reader.reorder(rows)
    got = [reader.step(column) for column in words[rows, 5:9].T]
    reader.reorder(np.arange(len(rows)))
    got += [reader.step(column) for column in words[rows, 9:].T]
    np.testing.assert_allclose(np.stack(got, 1), want[:, 6:], atol=1e-12)


def test_rows_of_one_picture_change_places(small, np_ops):
    """As beams do: the memory stays where it is, only what was said moves."""
    config, params = small
    embeds, mask, words = inputs_for(config, GAPS[:1].repeat(3, 0), "float64", words=8)
    embeds[:] = embeds[0]
    reader = t5.Reader(np_ops, params, embeds[:1], mask[:1], config)
    reader.step(None)
    reader.reorder(np.zeros(3, int))
    memory = reader.memory
    for column in words[:, :4].T:
        reader.step(column)
    reader.reorder(np.array([2, 2, 0]))
    assert reader.memory is memory
    said = np.column_stack([words[[2, 2, 0], :4], words[:, 4:]])
    got = np.stack([reader.step(column) for column in words[:, 4:].T], 1)
    want = scores(t5.Reader(np_ops, params, embeds, mask, config), said)
    np.testing.assert_allclose(got, want[:, 5:], atol=1e-12)


def test_answers_need_a_first_token_and_labels_a_start(tmp_path):
    for missing, words in (("decoder_start_token_id", "start"), ("pad_token_id", "pad")):
        (tmp_path / words).mkdir()
        config, _ = oracle.ours(oracle.t5_model(oracle.T5 | {missing: None, "bos_token_id": 5}), tmp_path / words)
        with pytest.raises(ConfigError, match=missing):
            t5.shift_right(np.array([[3]]), config)
        assert t5.first_token(config) == {"start": 5, "pad": 0}[words]
    (tmp_path / "none").mkdir()
    changes = dict(decoder_start_token_id=None, bos_token_id=None)
    config, _ = oracle.ours(oracle.t5_model(oracle.T5 | changes), tmp_path / "none")
    with pytest.raises(ConfigError, match="decoder_start_token_id"):
        t5.first_token(config)


# ---- BLIP-2 that writes with T5: against what 4.37.2 answered ------------------------------------
EVERYTHING = dict(output_attentions=True, output_hidden_states=True)
CALLS = ["labels", "no_mask", "words", "words_masked_right", "words_masked_left", "words_and_labels", "ignored_labels"]


@pytest.fixture(scope="module", params=oracle.T5_MODELS)
def golden(request):
    """A golden model's folder, and its arrays."""
    with np.load(oracle.GOLDEN / request.param / "forward.npz") as arrays:
        return oracle.GOLDEN / request.param, dict(arrays)


def given_in(arrays, call):
    """What a call of the golden file was given, beside pictures and prompts."""
    start = f"{call}/given/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}


def test_there_are_golden_models():
    assert oracle.T5_MODELS == ["t5_flan", "t5_gated", "t5_tied"]


@pytest.mark.parametrize("backend", ["plain", "numpy", "torch"])
def test_every_state_and_attention_map_of_4_37(golden, backend):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend=backend)
    output = model(**oracle.golden_inputs(folder, (0, 1)), **given_in(arrays, "labels"), **EVERYTHING)
    got = dict(flat(output))
    want = {name[7:]: x for name, x in arrays.items() if name.startswith("labels/") and "/given/" not in name}
    want = dict(unstacked(want))
    assert sorted(got) == sorted(want)
    names = sorted(want, key=in_order_of_flow)
    got, want = ({name: trace[name] for name in names} for trace in (got, want))
    oracle.compare(got, want, oracle.TOLERANCE["float32"])


def in_order_of_flow(name):
    """A sort key: vision, Q-Former, encoder, decoder, each layer by layer; then what is read off at the end."""
    parts = ["vision", "qformer", "language_model_outputs.encoder", "language_model_outputs", "logits", "loss"]
    part = max((p for p in parts if name.startswith(p)), key=len)
    layer = name.rsplit(".", 1)[-1]
    return parts.index(part), int(layer) if layer.isdigit() else 1000, "attentions" not in name


@pytest.mark.parametrize("call", CALLS)
def test_logits_and_loss_of_4_37(golden, call):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = oracle.golden_inputs(folder, (0, 1), masked=call != "no_mask")
    output = model(**inputs, **given_in(arrays, call))
    np.testing.assert_allclose(output.logits, arrays[f"{call}/logits"], atol=1e-4)
    if f"{call}/loss" in arrays:
        np.testing.assert_allclose(output.loss, arrays[f"{call}/loss"], atol=1e-5)
        assert output.language_model_outputs.loss is output.loss
    else:
        assert output.loss is None and output.language_model_outputs.loss is None


@pytest.mark.parametrize("flags", [{}, EVERYTHING], ids=["few", "all"])
def test_tuple_layout(golden, flags):
    folder, arrays = golden
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    labels = given_in(arrays, "labels")
    got = layout(model(**oracle.golden_inputs(folder, (0, 1)), **labels, **flags, return_dict=False))
    want = json.loads((folder / "layouts.json").read_text())["all/labels" if flags else "few/labels"]
    assert isinstance(want[-1][2][0], list)
    del want[-1][2]  # the keys and values, which stay inside generate() here
    assert got == want


def test_right_padding_and_left_padding_are_told_apart(golden):
    """Distances are counted along the row, so here, other than in OPT, it matters where the padding stands."""
    folder, _ = golden
    model, inputs = Blip2ForConditionalGeneration.from_pretrained(folder), oracle.golden_inputs(folder)
    labels, order = inputs["input_ids"], np.argsort(inputs["attention_mask"], axis=1, kind="stable")
    left = {name: np.take_along_axis(inputs[name], order, 1) for name in ("input_ids", "attention_mask")}
    a = model(**inputs, labels=labels).logits
    b = model(inputs["pixel_values"], **left, labels=labels).logits
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)  # no padding in this row
    assert np.abs(a[2] - b[2]).max() > 1e-3
    kept = inputs["attention_mask"][2] == 1
    alone = model(inputs["pixel_values"][2:], inputs["input_ids"][2:, kept], labels=labels[2:]).logits
    np.testing.assert_allclose(a[2], alone[0], atol=1e-4)


# ---- BLIP-2 that writes with T5: live ------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_every_layer_of_random_models(seed, tmp_path):
    theirs = oracle.draw_blip2(seed, "t5")
    theirs.save_pretrained(tmp_path)
    pixels, ids, mask = oracle.example(theirs, batch=seed % 3 + 1, seed=seed)
    labels = np.where(mask == 1, ids, -100)
    trace = oracle.sight_trace(theirs, pixels)
    embeds, seen = oracle.prompt(theirs, trace, ids, mask)
    words = theirs.language_model._shift_right(torch.tensor(labels)).numpy()
    want = oracle.t5_trace(theirs.language_model, embeds, seen, words, labels=labels)
    output = Blip2ForConditionalGeneration.from_pretrained(tmp_path)(pixels, ids, mask, labels=labels, **EVERYTHING)
    text = output.language_model_outputs
    got = oracle.our_stack_trace("encoder", text.encoder_hidden_states, [(x,) for x in text.encoder_attentions])
    maps = zip(text.decoder_attentions, text.cross_attentions, strict=True)
    got |= oracle.our_stack_trace("decoder", text.decoder_hidden_states, maps)
    oracle.compare(got | {"logits": output.logits, "loss": output.loss}, want, 2 * oracle.TOLERANCE["float32"])


def checkpoint(folder, **text):
    theirs = oracle.blip2_model(text=oracle.T5 | text)
    theirs.save_pretrained(folder)
    return theirs, {name: stored.array.copy() for name, stored in files.read(folder).items()}


def logits_of(folder):
    rng = np.random.default_rng(0)
    pixels, ids = rng.normal(size=(2, 3, 12, 12)), rng.integers(0, 50, (2, 4))
    return Blip2ForConditionalGeneration.from_pretrained(folder)(pixels, ids, labels=ids).logits


SHARED, HEAD = "language_model.shared.weight", "language_model.lm_head.weight"
ALIASES = [SHARED, "language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight"]


@pytest.mark.parametrize("alias", ALIASES)
def test_any_name_of_the_table_of_words_will_do(alias, tmp_path):
    _, tensors = checkpoint(tmp_path)
    want, table = logits_of(tmp_path), tensors.pop(SHARED)
    files.save(tmp_path, tensors | {alias: table})
    np.testing.assert_array_equal(logits_of(tmp_path), want)


def test_all_names_at_once_and_a_table_that_nobody_uses(tmp_path):
    _, tensors = checkpoint(tmp_path)
    want = logits_of(tmp_path)
    stray = "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    files.save(tmp_path, tensors | {alias: tensors[SHARED] for alias in ALIASES} | {stray: np.ones((8, 3), np.float32)})
    np.testing.assert_array_equal(logits_of(tmp_path), want)


@pytest.mark.parametrize("lost", [SHARED, HEAD, "language_model.decoder.block.1.layer.2.DenseReluDense.wo.weight"])
def test_a_tensor_that_is_missing_is_named(lost, tmp_path):
    _, tensors = checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= dict(tie_word_embeddings=False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    del tensors[lost]
    files.save(tmp_path, tensors)
    with pytest.raises(WeightsError, match=f"1 missing: {lost}"):
        Blip2ForConditionalGeneration.from_pretrained(tmp_path)


@pytest.mark.parametrize("said", [dict(tie_word_embeddings=False), dict(scale_decoder_outputs=False)], ids=str)
def test_a_head_in_the_file_counts_whatever_is_said_about_it(said, tmp_path):
    """4.37 says of Flan-T5 that its head is not tied; 5.x says of every T5 that it is, and keeps the scale apart."""
    _, tensors = checkpoint(tmp_path)
    assert HEAD in tensors
    want = logits_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        config["text_config"].pop(name, None)
    config["text_config"] |= said
    (tmp_path / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(logits_of(tmp_path), want)


def test_a_head_that_is_tied_but_not_scaled(tmp_path):
    """So are the files of a model that 5.x made new from the configuration of a Flan-T5."""
    tied, tensors = checkpoint(tmp_path, tie_word_embeddings=True)
    assert HEAD not in tensors
    scaled = logits_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= dict(tie_word_embeddings=True, scale_decoder_outputs=False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(logits_of(tmp_path), scaled * oracle.T5["d_model"] ** 0.5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_we_save(tied, tmp_path):
    theirs, before = checkpoint(tmp_path / "theirs", tie_word_embeddings=tied)
    Blip2ForConditionalGeneration.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    after = files.read(tmp_path / "ours")
    assert sorted(before) == sorted(after)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, want[name]), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints(dtype, tmp_path):
    """The weights are rounded as the file says; the arithmetic stays float32."""
    theirs = oracle.blip2_model(text=oracle.T5).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "half")
    theirs.float().save_pretrained(tmp_path / "full")
    np.testing.assert_array_equal(logits_of(tmp_path / "half"), logits_of(tmp_path / "full"))


# ---- what is asked of the model ------------------------------------------------------------------
@pytest.fixture(scope="module")
def flan():
    folder = oracle.GOLDEN / "t5_flan"
    return Blip2ForConditionalGeneration.from_pretrained(folder), oracle.golden_inputs(folder, (0, 1))


WORDS_GIVEN = np.array([[0, 4, 5], [0, 6, 7]])


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "labels or decoder_input_ids"),
        (dict(labels=[[3, 4]]), "2 pictures and 1 texts"),
        (dict(labels=[[3, 40], [3, 3]]), "40"),
        (dict(labels=[[3, -1], [3, 3]]), "-1"),
        (dict(labels=[3, 4]), "labels"),
        (dict(decoder_input_ids=[[3, 40], [3, 3]]), "40"),
        (dict(decoder_input_ids=[[3], [3, 3]]), "decoder_input_ids"),
        (dict(decoder_input_ids=WORDS_GIVEN, labels=WORDS_GIVEN[:, :2]), r"labels have shape \(2, 2\)"),
        (dict(decoder_input_ids=WORDS_GIVEN, decoder_attention_mask=[[1, 1], [1, 1]]), "decoder_attention_mask"),
        (dict(labels=WORDS_GIVEN, decoder_attention_mask=[[1, 2, 1], [1, 1, 1]]), "decoder_attention_mask holds 2"),
    ],
)
def test_inputs_that_do_not_fit(flan, change, words):
    model, inputs = flan
    with pytest.raises(InputError, match=words):
        model(**inputs, **change)


@pytest.mark.parametrize("name", ["decoder_input_ids", "decoder_attention_mask"])
def test_opt_has_no_decoder_of_its_own(name):
    folder = oracle.GOLDEN / "base"
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(InputError, match=f"{name} is for T5"):
        model(**oracle.golden_inputs(folder), **{name: [[1]] * 3})


def test_nothing_given_is_written_to(flan):
    model, inputs = flan
    given = inputs | dict(
        labels=np.array([[4, 5, -100], [6, -100, -100]]), decoder_attention_mask=np.eye(3, dtype=int)[:2]
    )
    for array in given.values():
        array.flags.writeable = False
    model(**given, **EVERYTHING)
    model.generate(**inputs, max_new_tokens=2)


def test_a_fresh_model_writes():
    config = Blip2Config(text_config=dict(oracle.T5, model_type="t5"), vision_config=oracle.VISION,
                         qformer_config=oracle.QFORMER, num_query_tokens=2)  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    assert model.generate(np.zeros((1, 3, 12, 12)), max_new_tokens=3).shape == (1, 4)


@pytest.mark.parametrize("name", ["float16", torch.float16], ids=str)
def test_float16_is_refused_where_it_would_be_computed_in(name):
    folder = oracle.GOLDEN / "t5_flan"
    for given in (dict(dtype=name), dict(torch_dtype=name)):
        with pytest.raises(OpsError, match="float16.*bfloat16"):
            Blip2ForConditionalGeneration.from_pretrained(folder, backend="torch", **given)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend="torch")
    for given in ((name,), ("cpu", name)):
        with pytest.raises(OpsError, match="float16.*bfloat16"):
            model.to(*given)
    assert model.dtype == torch.float32
    assert Blip2ForConditionalGeneration.from_pretrained(folder, dtype=name).dtype == np.float32


def test_bfloat16_writes(flan):
    _, inputs = flan
    folder = oracle.GOLDEN / "t5_flan"
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend="torch", dtype="bfloat16")
    full = Blip2ForConditionalGeneration.from_pretrained(folder)
    got, want = (m(**inputs, labels=inputs["input_ids"]).logits for m in (model, full))
    assert got.dtype == torch.bfloat16
    error = np.linalg.norm(got.detach().float().numpy() - want) / np.linalg.norm(want)
    assert 0 < error < 0.1
    assert model.generate(**inputs, max_new_tokens=3).shape == (2, 4)


@pytest.mark.parametrize("beams", [1, 3])
def test_torch_backend_writes_the_same(beams, flan):
    model, inputs = flan
    torch_model = Blip2ForConditionalGeneration.from_pretrained(oracle.GOLDEN / "t5_flan", backend="torch")
    want = model.generate(**inputs, max_new_tokens=9, num_beams=beams)
    assert np.asarray(torch_model.generate(**inputs, max_new_tokens=9, num_beams=beams)).tolist() == want.tolist()


def test_a_start_is_enough_where_there_is_a_prompt(flan, tmp_path):
    """Without one the prompt is the BOS alone, which then has to have a number."""
    _, inputs = flan
    shutil.copytree(oracle.GOLDEN / "t5_flan", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["text_config"]["bos_token_id"] = None
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.generate(**inputs, max_new_tokens=2).shape == (2, 3)
    with pytest.raises(ConfigError, match="bos_token_id"):
        model.generate(inputs["pixel_values"])
