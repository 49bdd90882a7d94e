"""The attention player: the arrays of a trace are those of the model, the page holds them and fetches nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from player_models import of_real_shape, small_t5

from minivl import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerModel,
    BridgeTowerProcessor,
)
from minivl.cli import main
from minivl.errors import InputError
from minivl.player import pack, page, rollout

ROOT = Path(__file__).resolve().parents[2]
PICTURE = "tutorials/pictures/red_triangle_above_yellow_star.png"
QUESTION = "Question: what is above the yellow star? Answer:"


@pytest.fixture(scope="module")
def blip2():
    processor = Blip2Processor.from_pretrained("demo")
    inputs = processor(images=PICTURE, text=QUESTION, return_tensors="np")
    return Blip2ForConditionalGeneration.from_pretrained("demo"), processor, inputs


@pytest.fixture(scope="module")
def record(blip2):
    model, processor, inputs = blip2
    return model.trace(**inputs, tokenizer=processor)


@pytest.fixture(scope="module")
def pair():
    processor = BridgeTowerProcessor.from_pretrained("demo-bridgetower")
    return processor, processor(PICTURE, "a red triangle above a yellow star", return_tensors="np")


# ---- arrays ----------------------------------------------------------------------------------------------------------
def test_what_is_written_is_what_generate_writes(blip2, record):
    model, processor, inputs = blip2
    ids = model.generate(**inputs)[0]
    np.testing.assert_array_equal(record["tokens"], ids[1:])
    np.testing.assert_array_equal(record["probabilities"].argmax(-1), ids[1:])
    assert (record.text, [word.text for word in record.words[:2]]) == ("red triangle", [" red", " triangle"])
    assert record.words[0].likely[0][0] == " red" and record.words[1].so_far == "red triangle"


def test_the_maps_are_those_of_one_pass_over_everything(blip2, record):
    """The cache reads word by word; one call over prompt and answer has to give the same maps and probabilities."""
    model, _, inputs = blip2
    ids = np.concatenate([inputs.input_ids[0], record["tokens"][:-1]])[None]
    out = model(inputs.pixel_values, ids, output_attentions=True)
    near = dict(rtol=0, atol=2e-6)
    parts = {
        "vision.attention": out.vision_outputs.attentions,
        "qformer.attention": out.qformer_outputs.attentions,
        "qformer.cross_attention": out.qformer_outputs.cross_attentions,
        "language.attention": out.language_model_outputs.attentions,
    }
    for name, maps in parts.items():
        np.testing.assert_allclose(record[name], np.concatenate(maps), **near, err_msg=name)
    for word, logits in zip(record.words, out.logits[0, -len(record.words) :], strict=True):
        assert word.row == len(record.places) - len(record.words) + record.words.index(word)
        np.testing.assert_allclose(record["probabilities"][record.words.index(word)], softmax(logits), atol=2e-6)


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def test_t5s_maps_are_those_of_one_pass_too():
    model = Blip2ForConditionalGeneration(small_t5(), seed=3)
    pixels = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    prompt = np.array([[5, 6, 7]])
    record = model.trace(pixels, prompt, max_new_tokens=4, min_new_tokens=4)
    read = np.concatenate([[[0]], record["tokens"][None, :-1]], 1)
    said = model(pixels, prompt, decoder_input_ids=read, output_attentions=True).language_model_outputs
    for name, maps in (
        ("encoder_attention", said.encoder_attentions),
        ("attention", said.decoder_attentions),
        ("cross_attention", said.cross_attentions),
    ):
        np.testing.assert_allclose(record[f"language.{name}"], np.concatenate(maps), atol=2e-6, err_msg=name)
    assert record["language.rollout"].shape == (4, 4 + 6) and record.places[:4] == [
        "query 1",
        "query 2",
        "query 3",
        "#5",
    ]
    np.testing.assert_allclose(record["language.rollout"].sum(-1), 1, atol=1e-5)
    content = page.content(record)
    words = pack.unpacked(content["maps"]["wordsRollout"])[0, 0]
    np.testing.assert_allclose(words[:, :6], record["language.rollout"][:, 4:], atol=0.003)
    np.testing.assert_allclose(words[:, 6:], record["language.rollout"][:, :4], atol=0.003)


def test_a_prompt_that_is_padded_on_the_right_is_followed_from_its_last_word(blip2):
    model, processor, inputs = blip2
    ids = np.concatenate([inputs.input_ids, np.ones((1, 2), int)], 1)
    mask = np.concatenate([inputs.attention_mask, np.zeros((1, 2), int)], 1)
    record = model.trace(inputs.pixel_values, ids, mask, tokenizer=processor)
    first, second = record.words[:2]
    assert first.row == 8 + inputs.input_ids.shape[1] - 1 and second.row == 8 + ids.shape[1]
    np.testing.assert_allclose(record["language.attention"][:, :, [first.row, second.row]].sum(-1), 1, atol=1e-5)
    assert record.text == "red triangle"


def test_bridgetowers_maps_are_those_of_its_outputs(pair):
    processor, inputs = pair
    model = BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower")
    record = model.trace(**inputs, tokenizer=processor)
    out = model(**inputs, output_attentions=True)
    for name, maps, i in (
        ("text_over_text", out.attentions, 0),
        ("patches_over_patches", out.attentions, 1),
        ("text_over_patches", out.cross_attentions, 0),
        ("patches_over_text", out.cross_attentions, 1),
    ):
        np.testing.assert_allclose(record[name], np.concatenate([layer[i] for layer in maps]), atol=1e-6, err_msg=name)
    assert record.answers[1][1] == pytest.approx(softmax(out.logits[0])[1], abs=1e-6) and record.answers[1][1] > 0.9
    assert record.text == "a red triangle above a yellow star"


def test_a_masked_word_has_its_candidates_and_padding_is_left_out(pair):
    processor, _ = pair
    model = BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower")
    inputs = processor("tutorials/pictures/red_circle.png", "a small <mask> circle", return_tensors="np")
    inputs["input_ids"] = np.concatenate([inputs.input_ids, np.ones((1, 3), int)], 1)
    inputs["attention_mask"] = np.concatenate([inputs.attention_mask, np.zeros((1, 3), int)], 1)
    record = model.trace(**inputs, tokenizer=processor)
    masked = next(word for word in record.words if word.text == "<mask>")
    assert masked.likely[0][0].strip() == "red" and record.text == "a small <mask> circle"
    assert len(record.words) == record["text_over_text"].shape[-1] == 6


def test_the_trunk_alone_has_maps_and_no_answer(pair):
    _, inputs = pair
    record = BridgeTowerModel.from_pretrained("demo-bridgetower").trace(**inputs)
    assert "probabilities" not in record and record.answers == [] and record.places[0] == "#0"


def test_more_than_one_text_is_refused_in_a_line(blip2, pair):
    model, _, inputs = blip2
    twice = {name: np.concatenate([value, value]) for name, value in inputs.items()}
    with pytest.raises(InputError, match="one picture and one text, found 2"):
        model.trace(**twice)
    with pytest.raises(InputError, match="follows one text"):
        model.trace(**inputs, num_beams=2)
    tower = BridgeTowerModel.from_pretrained("demo-bridgetower")
    with pytest.raises(InputError, match="found 1 pictures and 2 texts"):
        tower.trace(np.repeat(pair[1].input_ids, 2, 0), pixel_values=pair[1].pixel_values)


def test_the_model_itself_is_as_before(blip2):
    model, processor, inputs = blip2
    before = model.ops
    model.trace(**inputs)
    assert model.ops is before


# ---- rollout ---------------------------------------------------------------------------------------------------------
def test_rollout_is_the_product_of_half_identity_half_map(rng):
    maps = rng.dirichlet(np.ones(5), size=(3, 2, 5)).astype(np.float32)
    want = np.eye(5)
    for layer in maps:
        want = (0.5 * np.eye(5) + 0.5 * layer.mean(0)) @ want
    np.testing.assert_allclose(rollout.rollout(maps), want, atol=1e-6)


def test_cross_rollout_is_that_of_one_large_map(rng):
    """Tokens and memory in one matrix: the memory stays what it is, and each look is one step."""
    own = rng.dirichlet(np.ones(3), size=(2, 2, 3)).astype(np.float32)
    cross = rng.dirichlet(np.ones(4), size=(1, 2, 3)).astype(np.float32)
    want = np.eye(7)
    for layer, look in ((own[0], cross[0]), (own[1], None)):
        step = np.eye(7)
        step[:3, :3] = 0.5 * np.eye(3) + 0.5 * layer.mean(0)
        want = step @ want
        if look is not None:
            step = np.eye(7)
            step[:3, :3], step[:3, 3:] = 0.5 * np.eye(3), 0.5 * look.mean(0)
            want = step @ want
    got = rollout.cross_rollout(list(own), [cross[0], None])
    np.testing.assert_allclose(got, want[:3], atol=1e-6)


def test_in_the_rollout_of_a_pair_each_reads_what_the_other_was_before(rng):
    T, N = 2, 3
    shapes = {"text": (T, T), "to_image": (T, N), "image": (N, N), "to_text": (N, T)}
    maps = {name: rng.dirichlet(np.ones(b), size=(1, 2, a)).astype(np.float32) for name, (a, b) in shapes.items()}
    words, patches = rollout.pair_rollout(**maps)
    mean = {name: one[0].mean(0) for name, one in maps.items()}
    np.testing.assert_allclose(words[:, :T], 0.25 * (np.eye(T) + mean["text"]), atol=1e-6)
    np.testing.assert_allclose(words[:, T:], 0.5 * mean["to_image"], atol=1e-6)
    np.testing.assert_allclose(patches[:, :T], 0.5 * mean["to_text"], atol=1e-6)


# ---- stages ----------------------------------------------------------------------------------------------------------
def test_the_stages_name_lines_that_say_what_is_claimed(record):
    layers = next(stage for stage in record.stages if stage.name == "blocks.pre_ln_layer")
    assert (layers.inputs, layers.output, layers.count) == ("x (1, 65, 128)", "(1, 65, 128)", 4)
    for stage in record.stages:
        function = stage.name.split(".")[1]
        assert f"def {function}(" in line(stage.where), stage
        assert function in line(stage.called) or "ops." in line(stage.called) or "block(" in line(stage.called), stage
    assert {"vit", "qformer", "opt"} <= {stage.part for stage in record.stages}
    attention = next(stage for stage in record.stages if stage.name == "numpy.attention")
    assert attention.called.startswith("minivl/models/blocks.py") and "k (1, 4, 65, 32)" in attention.inputs


def line(place):
    file, number = place.split(":")
    return (ROOT / file).read_text().splitlines()[int(number) - 1]


# ---- pages -----------------------------------------------------------------------------------------------------------
def data_of(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_holds_the_maps_to_a_255th_of_each_row(record):
    maps = data_of(record.page())["maps"]
    got, want = pack.unpacked(maps["queries"]), record["qformer.cross_attention"]
    assert (np.abs(got - want) <= want.max(-1, keepdims=True) / 509).all()
    rows = [word.row for word in record.words]
    np.testing.assert_allclose(pack.unpacked(maps["words"]), record["language.attention"][:, :, rows], atol=0.002)


def test_what_is_too_much_is_averaged_thinned_and_told(monkeypatch, rng):
    maps = rng.random((6, 4, 5, 10), np.float32)
    monkeypatch.setattr(pack, "BUDGET", 300)
    notes = []
    got = pack.packed("The maps", maps, notes)
    np.testing.assert_allclose(pack.unpacked(got), maps.mean(1, keepdims=True), atol=0.003)
    monkeypatch.setattr(pack, "BUDGET", 120)
    got = pack.packed("The maps", maps, notes)
    assert got["layers"] == [1, 4] and len(notes) == 3 and "layers 1, 4" in notes[-1]
    np.testing.assert_allclose(pack.unpacked(got), maps.mean(1, keepdims=True)[::3], atol=0.003)
    monkeypatch.setattr(pack, "BUDGET", 49)
    assert pack.packed("The maps", maps, notes) is None and "left out" in notes[-1]
    assert pack.packed("None", np.zeros((1, 1, 2, 2), np.float32), notes)["shape"] == (1, 1, 2, 2)


def test_the_page_needs_nothing_from_anywhere(record):
    html = record.page()
    assert "default-src 'none'" in html
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", html) == [] and "http" not in html.replace("http-equiv", "")
    assert len(html) < 500_000


def test_text_cannot_break_out_of_the_page(blip2):
    model, processor, inputs = blip2
    record = model.trace(**inputs, tokenizer=processor, max_new_tokens=1)
    record.text = record.prompt = "</script><script>alert(1)</script>[[style]]"
    html = record.page()
    assert html.count("<script") == 2 and "<title>&lt;/script&gt;" in html
    assert data_of(html)["prompt"] == record.prompt


def test_a_notebook_shows_the_player_and_the_shapes(record, monkeypatch):
    html = record._repr_html_()
    assert "<iframe" in html and "qformer.cross_attention" in html and "(3, 4, 8, 65)" in html
    monkeypatch.setattr("minivl.player.record.SMALL_PAGE", 1000)
    assert "<iframe" not in record._repr_html_() and "record.save" in record._repr_html_()
    assert "qformer.cross_attention     (3, 4, 8, 65)" in repr(record)


def test_a_model_of_real_shape_fits_into_20_megabytes():
    record = of_real_shape()
    html = record.page()
    data = data_of(html)
    assert 1e6 < len(html) < 20e6 and data["looks"] == [1, 3, 5, 7, 9, 11]
    assert data["maps"]["words"]["shape"] == [32, 32, 20, 67] and data["maps"]["vision"]["shape"] == [39, 1, 257, 257]
    assert len(data["notes"]) == 1 and "heads of each layer are averaged" in data["notes"][0]


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command_writes_a_page_where_it_says(tmp_path, monkeypatch, capsys):
    picture = str(Path(PICTURE).resolve())
    monkeypatch.chdir(tmp_path)
    assert main(["step", picture, "what is above the yellow star?"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("red_triangle_above_yellow_star.html: 'red triangle'") and "toy world" in out.err
    assert data_of((tmp_path / "red_triangle_above_yellow_star.html").read_text())["text"] == "red triangle"
    assert main(["step", picture, "--text", "a small <mask> triangle", "--out", "fill.html"]) == 0
    assert data_of((tmp_path / "fill.html").read_text())["kind"] == "bridgetower"


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["step", PICTURE, "what?", "--text", "a circle"], "give one of the two"),
        (["step", PICTURE, "--raw"], "--raw takes a question"),
        (["step", "nothing.png"], "nothing.png"),
        (["step", PICTURE, "--model", "demo-bridgetower"], "blip-2"),
        (["step", PICTURE, "--text", "a circle", "--model", "demo"], "bridgetower"),
        (["step", PICTURE, "--out", "no/such/folder/page.html"], "folder"),
    ],
)
def test_wrong_use_gets_one_line(arguments, complaint, capsys):
    status = main(arguments)
    err = capsys.readouterr().err.splitlines()
    err = [line for line in err if "toy world" not in line]
    assert status == 1 and len(err) == 1 and complaint in err[0]
