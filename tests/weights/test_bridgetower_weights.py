"""BridgeTower's tables are transformers' own, and its files load with and without heads."""

import json
import re
import warnings

import numpy as np
import oracle_bridgetower
import pytest
import torch
import transformers
from oracle_bridgetower import CLASSES, CONTRAST, FILL, MATCH, TRUNK, WIDE, build, example, values
from real_configs import REAL
from safetensors.numpy import load_file, save_file

import minivl
from minivl import BridgeTowerConfig
from minivl.errors import WeightsError
from minivl.weights import tree

BOTH = "BridgeTowerForMatchingAndContrast"
HEADS = {FILL: "mlm_score.", MATCH: "itm_score.", CONTRAST: "itc_"}


def table(kind, config):
    """{name: shape} that our class of this name wants in a file."""
    entries = getattr(minivl, kind).table(config)
    return {entry.hub: entry.shape for entry in entries if isinstance(entry, tree.Entry)}


# ---- the tables ----------------------------------------------------------------------------------
DEFAULTS = dict(contrastive_hidden_size=512, logit_scale_init_value=2.6592)


@pytest.fixture(scope="module")
def shapes():
    """{name: shape} of a class of transformers built without memory; files that mean the same share an answer."""
    known = {}

    def look_up(kind, written):
        config = transformers.BridgeTowerConfig.from_dict(DEFAULTS | written)
        key = kind, BridgeTowerConfig.from_dict(config.to_dict())
        if key not in known:
            with torch.device("meta"):
                model = getattr(transformers, kind)(config)
            known[key] = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        return known[key]

    return look_up


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", REAL)
def test_the_tables_of_the_real_files_are_transformers_own(name, kind, shapes):
    written = json.loads(REAL[name].read_text())
    assert table(kind, BridgeTowerConfig.from_dict(written)) == shapes(kind, written)


@pytest.mark.parametrize(
    "name, kind, parameters",
    [
        ("base", TRUNK, 326_347_008),
        ("base-itm-mlm", FILL, 365_592_921),
        ("large-itm-mlm-itc", CONTRAST, 866_612_737),
        ("large-itm-mlm", FILL, 917_087_321),
    ],
)
def test_parameters_by_their_number(name, kind, parameters):
    config = BridgeTowerConfig.from_dict(json.loads(REAL[name].read_text()))
    assert sum(int(np.prod(shape)) for shape in table(kind, config).values()) == parameters


ODD = [
    {},
    dict(share_cross_modal_transformer_layers=False),
    dict(share_link_tower_layers=True),
    dict(share_link_tower_layers=True, link_tower_type="scaled_add", num_hidden_layers=1),
    dict(link_tower_type="scaled_add", num_hidden_layers=3),
    dict(link_tower_type="interpolate"),
    dict(tie_word_embeddings=True),
    dict(vision=dict(share_layernorm=False, remove_last_layer=True, num_hidden_layers=4, num_channels=1)),
    dict(vision=dict(hidden_size=128, image_size=11), text=dict(type_vocab_size=3)),
]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("odd", ODD, ids=str)
def test_the_tables_of_odd_configurations_are_what_transformers_saves(odd, kind, tmp_path):
    theirs = build(values(**odd), kind)
    theirs.save_pretrained(tmp_path)
    saved = {name: x.shape for name, x in load_file(tmp_path / "model.safetensors").items()}
    assert table(kind, BridgeTowerConfig.from_pretrained(tmp_path)) == saved


def test_no_two_tensors_share_a_place():
    config = BridgeTowerConfig.from_dict(values(link_tower_type="interpolate"))
    paths = [entry.path for kind in (FILL, BOTH) for entry in getattr(minivl, kind).table(config)]
    trunk = [entry.path for entry in minivl.BridgeTowerModel.table(config)]
    assert len(paths) - len(trunk) == len(set(paths))


@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_reads_what_we_save(kind, tmp_path):
    theirs = build(values(**WIDE), kind)
    oracle_bridgetower.ours(theirs, tmp_path).save_pretrained(tmp_path / "ours")
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, want[name]), name


# ---- with and without heads ----------------------------------------------------------------------
@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{class: {name: array}} of transformers' checkpoints, all with different weights, and a config.json for all."""
    tensors = {}
    for seed, kind in enumerate(CLASSES):
        folder = tmp_path_factory.mktemp(kind)
        build(values(**WIDE), kind, seed).save_pretrained(folder)
        tensors[kind] = load_file(folder / "model.safetensors")
    return tensors, (folder / "config.json").read_text()


@pytest.fixture
def load(saved, tmp_path):
    def from_tensors(kind, tensors, **how):
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(saved[1])
        return getattr(minivl, kind).from_pretrained(tmp_path, **how)

    return from_tensors


def quietly(load, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(*arguments)


def same(model, other):
    """The same trunk, tensor by tensor."""
    entries = list(minivl.BridgeTowerModel.table(model.config))
    one, two = tree.flatten(entries, model.params), tree.flatten(entries, other.params)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize("kind", HEADS)
def test_the_trunk_loads_from_a_file_with_a_head(kind, saved, load):
    """In silence, and with transformers' answer for the trunk in that file."""
    trunk = {name.removeprefix("bridgetower."): x for name, x in saved[0][kind].items()}
    bare = {name: x for name, x in trunk.items() if not name.startswith(HEADS[kind]) and name != "logit_scale"}
    same(quietly(load, TRUNK, saved[0][kind]), quietly(load, TRUNK, bare))


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_on_a_file_without_one_starts_at_random_and_says_so(kind, saved, load):
    with pytest.warns(UserWarning, match=rf"holds no {re.escape(HEADS[kind])}\* weights.* random") as caught:
        model = load(kind, saved[0][TRUNK])
    assert len(caught) == 1 and caught[0].filename == __file__
    same(model, load(TRUNK, saved[0][TRUNK]))
    entries = [entry for entry in getattr(minivl, kind).table(model.config) if isinstance(entry, tree.Entry)]
    fresh = [entry for entry in entries if not entry.hub.startswith("bridgetower.")]
    for name, array in tree.flatten(fresh, model.params).items():
        expected = 0.5 if name == "logit_scale" else 1.0 if name.endswith("LayerNorm.weight") else 0.0
        random = name.endswith("weight") and "LayerNorm" not in name
        assert array.dtype == np.float32
        assert 0.04 < array.std() < 0.06 if random else (array == np.float32(expected)).all(), name
    model(**example(model.config))


@pytest.mark.parametrize("other", HEADS)
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_on_a_file_with_another_head(kind, other, saved, load):
    if kind == other:
        quietly(load, kind, saved[0][kind])
    else:
        with pytest.warns(UserWarning, match=re.escape(HEADS[kind])):
            same(load(kind, saved[0][other]), load(TRUNK, saved[0][other]))


def everything(saved):
    """One file with all heads, as the real itm-mlm checkpoints have two."""
    heads = {}
    for kind in HEADS:
        heads |= {name: x for name, x in saved[0][kind].items() if not name.startswith("bridgetower.")}
    return {f"bridgetower.{name}": x for name, x in saved[0][TRUNK].items()} | heads


@pytest.mark.parametrize("kind", [*CLASSES, BOTH])
def test_every_class_reads_a_file_with_all_heads(kind, saved, load, tmp_path):
    tensors = everything(saved)
    model = quietly(load, kind, tensors)
    entries = list(getattr(minivl, kind).table(model.config))
    for name, array in tree.flatten(entries, model.params).items():
        np.testing.assert_array_equal(array, tensors[name if name in tensors else f"bridgetower.{name}"])
    if kind != BOTH:
        inputs = example(model.config)
        theirs = getattr(transformers, kind).from_pretrained(tmp_path)
        with torch.no_grad():
            want = theirs(**oracle_bridgetower.tensors(inputs))[0].numpy()
        np.testing.assert_allclose(model(**inputs)[0], want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [MATCH, CONTRAST])
def test_both_heads_from_a_file_with_one_of_them(kind, saved, load):
    other = {MATCH: CONTRAST, CONTRAST: MATCH}[kind]
    with pytest.warns(UserWarning, match=re.escape(HEADS[other])) as caught:
        model = load(BOTH, saved[0][kind])
    assert len(caught) == 1
    inputs = example(model.config)
    alone = load(kind, saved[0][kind])(**inputs).logits
    output = model(**inputs)
    np.testing.assert_array_equal((output.matching if kind == MATCH else output.contrast).logits, alone)


# ---- what does not fit ---------------------------------------------------------------------------
HIDDEN = "text_model.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_missing_tensor_is_named(kind, saved, load):
    name = HIDDEN if kind == TRUNK else f"bridgetower.{HIDDEN}"
    with pytest.raises(WeightsError, match=f"1 missing: {name}$"):
        load(kind, {key: x for key, x in saved[0][kind].items() if key != name})


@pytest.mark.parametrize(
    "kind, name",
    [(FILL, "mlm_score.bias"), (FILL, "mlm_score.decoder.weight"), (MATCH, "itm_score.fc.bias"),
     (CONTRAST, "logit_scale"), (CONTRAST, "itc_cross_modal_head.fc.weight")],
)  # fmt: skip
def test_half_a_head_is_no_head(kind, name, saved, load):
    with pytest.raises(WeightsError, match=f"1 missing: {name}$"):
        quietly(load, kind, {key: x for key, x in saved[0][kind].items() if key != name})


@pytest.mark.parametrize("name", ["extra", "bridgetower.extra", "mlm_score.extra", "bridgetower.text_model.extra"])
def test_an_unexpected_tensor_is_named(name, saved, load):
    with pytest.raises(WeightsError, match=f"1 unexpected: (bridgetower.)?{name}$"):
        load(FILL, saved[0][FILL] | {name: np.zeros(3, np.float32)})


@pytest.mark.parametrize("kind", CLASSES)
def test_a_tensor_under_both_of_its_names_is_refused(kind, saved, load):
    bare, array = HIDDEN, np.zeros((64, 64), np.float32)
    with pytest.raises(WeightsError, match=f"wanted tensor {bare} once, found it also as bridgetower.{bare}$"):
        load(kind, saved[0][kind] | {bare: array, f"bridgetower.{bare}": array})


@pytest.mark.parametrize("kind", CLASSES)
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(kind, saved, load):
    name = HIDDEN if kind == TRUNK else f"bridgetower.{HIDDEN}"
    with pytest.raises(WeightsError, match=rf"{name} has shape \(7,\), the configuration wants \(64, 64\)"):
        load(kind, saved[0][kind] | {name: np.zeros(7, np.float32)})


@pytest.mark.parametrize("kind", CLASSES)
def test_position_numbers_of_old_files_are_passed_over(kind, saved, load):
    prefix = "" if kind == TRUNK else "bridgetower."
    numbers = {
        f"{prefix}text_model.embeddings.position_ids": np.arange(20)[None],
        f"{prefix}vision_model.visual.embeddings.position_ids": np.arange(5)[None],
    }
    same(quietly(load, kind, saved[0][kind] | numbers), quietly(load, kind, saved[0][kind]))


def test_a_tied_decoder_may_be_there_too_and_changes_nothing(tmp_path):
    theirs = build(values(tie_word_embeddings=True), FILL)
    mine, inputs = oracle_bridgetower.ours(theirs, tmp_path), example(theirs.config)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "mlm_score.decoder.weight" not in tensors
    words = tensors["bridgetower.text_model.embeddings.word_embeddings.weight"]
    save_file(tensors | {"mlm_score.decoder.weight": words}, tmp_path / "model.safetensors")
    again = minivl.BridgeTowerForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(**inputs).logits, mine(**inputs).logits)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints(dtype, tmp_path):
    """The weights are rounded as the file says; the arithmetic stays float32."""
    theirs = build(values(**WIDE), MATCH).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    theirs, inputs = theirs.float(), example(theirs.config)
    got = minivl.BridgeTowerForImageAndTextRetrieval.from_pretrained(tmp_path)(**inputs).logits
    assert got.dtype == np.float32
    with torch.no_grad():
        want = theirs(**oracle_bridgetower.tensors(inputs)).logits
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-4)


def test_a_fresh_model_is_random_and_repeatable():
    config = BridgeTowerConfig.from_dict(values())
    for kind in [*CLASSES, BOTH]:
        first, again, other = (getattr(minivl, kind)(config, seed=seed).params for seed in (1, 1, 2))
        weights = [p["text_layers"][1]["cross"]["k"]["w"] for p in (first, again, other)]
        np.testing.assert_array_equal(weights[0], weights[1])
        assert np.abs(weights[0] - weights[2]).max() > 0
        assert (first["image_ln"]["w"] == 1).all() and (first["image_ln"]["b"] == 0).all()
    links = minivl.BridgeTowerModel(BridgeTowerConfig.from_dict(values(link_tower_type="interpolate"))).params
    assert links["text_links"][0]["beta"] == 0.5
    links = minivl.BridgeTowerModel(BridgeTowerConfig.from_dict(values(link_tower_type="scaled_add"))).params
    assert links["image_links"][0]["scale"] == 1
