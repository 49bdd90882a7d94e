"""The tables of names are what transformers has, and a checkpoint that does not fit them is refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import transformers

from minivl import Blip2Config, Blip2ForConditionalGeneration
from minivl.errors import WeightsError
from minivl.weights import files, names, tree

HUB = Path(__file__).parents[1] / "hub_configs"


def table(config):
    return {entry.hub: entry.shape for entry in names.blip2(config) if isinstance(entry, tree.Entry)}


def theirs(folder_config, **changes):
    """{name: shape} of transformers' model of a configuration, built without memory; a tied head counts once."""
    config = transformers.Blip2Config.from_dict(json.loads(folder_config) | changes)
    with torch.device("meta"):
        model = transformers.Blip2ForConditionalGeneration(config)
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if config.text_config.tie_word_embeddings:
        del shapes["language_model.lm_head.weight"]
    return shapes


def test_the_table_of_the_real_opt_checkpoint_is_transformers_own():
    text = (HUB / "Salesforce__blip2-opt-2.7b__config.json").read_text()
    ours = table(Blip2Config.from_dict(json.loads(text)))
    assert len(ours) == 1247
    assert ours == theirs(text)
    assert sum(int(np.prod(shape)) for shape in ours.values()) == 3_744_761_856  # "3.74B" on the Hub


@pytest.mark.parametrize("seed", range(12))
def test_the_table_of_any_configuration_is_transformers_own(seed, tmp_path):
    model = oracle.blip2_model(oracle.draw_vision(seed), oracle.draw_qformer(seed), oracle.draw_text(seed))
    model.save_pretrained(tmp_path)
    config = Blip2Config.from_pretrained(tmp_path)
    saved = {name: stored.array.shape for name, stored in files.read(tmp_path).items()}
    assert table(config) == saved
    Blip2ForConditionalGeneration.from_pretrained(tmp_path)


def test_no_two_tensors_share_a_place():
    config = Blip2Config.from_pretrained("tests/golden/base")
    paths = [entry.path for entry in names.blip2(config)]
    assert len(paths) == len(set(paths))


def test_the_table_of_the_real_flan_t5_checkpoint_is_transformers_own():
    text = (HUB / "Salesforce__blip2-flan-t5-xl__config.json").read_text()
    ours, names = table(Blip2Config.from_dict(json.loads(text))), theirs(text)
    for copy in ("encoder.embed_tokens", "decoder.embed_tokens"):
        assert names.pop(f"language_model.{copy}.weight") == ours["language_model.shared.weight"]
    assert ours == names | {"language_model.lm_head.weight": (32128, 2048)}


@pytest.fixture
def checkpoint(tmp_path):
    """A small checkpoint as {name: array}, and a function that loads it after some change."""
    model = oracle.blip2_model()
    model.save_pretrained(tmp_path)
    tensors = {name: stored.array.copy() for name, stored in files.read(tmp_path).items()}

    def load(changed):
        files.save(tmp_path, changed)
        return Blip2ForConditionalGeneration.from_pretrained(tmp_path)

    return tensors, load


NORM = "vision_model.post_layernorm.weight"


def test_a_missing_tensor_is_named(checkpoint):
    tensors, load = checkpoint
    with pytest.raises(WeightsError, match=f"1 missing: {NORM}$"):
        load({name: array for name, array in tensors.items() if name != NORM})


def test_an_unexpected_tensor_is_named(checkpoint):
    tensors, load = checkpoint
    with pytest.raises(WeightsError, match="1 unexpected: vision_model.extra$"):
        load(tensors | {"vision_model.extra": np.zeros(3, np.float32)})


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(checkpoint):
    tensors, load = checkpoint
    with pytest.raises(WeightsError, match=rf"{NORM} has shape \(7,\), the configuration wants \(24,\)"):
        load(tensors | {NORM: np.zeros(7, np.float32)})


def test_transposed_weights_are_no_weights(checkpoint):
    tensors, load = checkpoint
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    with pytest.raises(WeightsError, match="of the wrong shape: " + name):
        load(tensors | {name: np.ascontiguousarray(tensors[name].T)})


def test_all_faults_are_told_at_once(checkpoint):
    tensors, load = checkpoint
    spoiled = {name: array for name, array in tensors.items() if not name.startswith("qformer")}
    with pytest.raises(WeightsError, match=r"\d+ missing: .*, \.\.\.; 1 unexpected: x; 1 of the wrong shape: query_t"):
        load(spoiled | {"x": np.zeros(1, np.float32), "query_tokens": np.zeros((1, 2, 3), np.float32)})


def test_a_tied_head_may_be_there_too_and_changes_nothing(checkpoint):
    tensors, load = checkpoint
    embeddings = "language_model.model.decoder.embed_tokens.weight"
    pixels, ids = np.ones((1, 3, 12, 12)), [[2, 5, 7]]
    alone = load(tensors)(pixels, ids).logits
    both = load(tensors | {"language_model.lm_head.weight": tensors[embeddings]})(pixels, ids).logits
    np.testing.assert_array_equal(alone, both)


def test_position_numbers_of_old_files_are_passed_over(checkpoint):
    tensors, load = checkpoint
    load(tensors | {name: np.arange(9)[None] for name in names.BLIP2_IGNORED if name.endswith("position_ids")})


def with_biases_apart(tensors):
    """The same tensors as LAVIS keeps them: keys have no bias."""
    apart = {}
    for name, array in tensors.items():
        if name.endswith("self_attn.qkv.bias"):
            q, _, v = np.split(array, 3)
            apart |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
        else:
            apart[name] = array
    return apart


def test_biases_of_queries_and_values_apart(checkpoint):
    tensors, load = checkpoint
    fused = {name: array.copy() for name, array in tensors.items()}
    for name, array in fused.items():
        if name.endswith("self_attn.qkv.bias"):
            array[len(array) // 3 : 2 * len(array) // 3] = 0
    apart = with_biases_apart(tensors)
    assert len(apart) == len(tensors) + 3
    pixels, ids = np.ones((1, 3, 12, 12)), [[2, 5, 7]]
    want = load(fused)(pixels, ids).logits
    np.testing.assert_array_equal(load(apart)(pixels, ids).logits, want)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda v: None, "1 missing: .*qkv.bias; 1 unexpected: .*q_bias"),
        (lambda v: v[:5], r"qkv.bias has shape \(53,\), the configuration wants \(72,\)"),
        (lambda v: v[None], "1 missing: .*qkv.bias; 2 unexpected: .*q_bias"),
    ],
)
def test_biases_apart_that_do_not_fit(checkpoint, change, words):
    tensors, load = checkpoint
    apart = with_biases_apart(tensors)
    name = "vision_model.encoder.layers.1.self_attn.v_bias"
    value = change(apart.pop(name))
    with pytest.raises(WeightsError, match=words):
        load(apart if value is None else apart | {name: value})


def test_an_untied_head_is_used(tmp_path):
    model = oracle.blip2_model(text={"tie_word_embeddings": False})
    model.save_pretrained(tmp_path)
    ours = Blip2ForConditionalGeneration.from_pretrained(tmp_path)
    head = model.language_model.lm_head.weight.detach().numpy()
    np.testing.assert_array_equal(ours.params["language"]["head"]["w"], head)
    assert np.abs(head - ours.params["language"]["tokens"]).max() > 0.1


def test_shards_give_the_same_model(checkpoint, tmp_path):
    tensors, load = checkpoint
    whole = load(tensors)
    folder = tmp_path / "shards"
    whole.config.save_pretrained(folder)
    parts = [dict(list(tensors.items())[i::3]) for i in range(3)]
    index = {}
    for i, part in enumerate(parts, 1):
        files.save(folder, part)
        name = f"model-0000{i}-of-00003.safetensors"
        (folder / "model.safetensors").rename(folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    pixels = np.random.default_rng(0).normal(size=(1, 3, 12, 12))
    sharded = Blip2ForConditionalGeneration.from_pretrained(folder)
    np.testing.assert_array_equal(sharded(pixels, [[2, 5]]).logits, whole(pixels, [[2, 5]]).logits)


MEASURE = """
import resource, sys
from minivl import Blip2ForConditionalGeneration
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = Blip2ForConditionalGeneration.from_pretrained(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_loading_a_float32_folder_copies_nothing(tmp_path):
    size = dict(hidden_size=1024, ffn_dim=4096, num_hidden_layers=4, num_attention_heads=16, vocab_size=2000)
    config = Blip2Config(
        vision_config=oracle.VISION, qformer_config=oracle.QFORMER, text_config=dict(model_type="opt", **size)
    )
    Blip2ForConditionalGeneration(config).save_pretrained(tmp_path)
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    assert on_disk > 200e6
    grown = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 0.1 * on_disk


def test_what_is_flattened_is_what_was_built(checkpoint):
    tensors, load = checkpoint
    model = load(tensors)
    flat = tree.flatten(names.blip2(model.config), model.params)
    assert set(flat) == set(tensors)
    for name, array in flat.items():
        np.testing.assert_array_equal(array, tensors[name])


def test_a_fresh_model_is_random_and_repeatable():
    config = Blip2Config.from_pretrained("tests/golden/base")
    first, again, other = (Blip2ForConditionalGeneration(config, seed=seed).params for seed in (1, 1, 2))
    weights = [p["language"]["layers"][0]["self"]["q"]["w"] for p in (first, again, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0
    assert abs(first["language"]["tokens"].std() - config.initializer_range) < 0.2 * config.initializer_range
    assert (first["vision"]["ln"]["w"] == 1).all() and (first["vision"]["ln"]["b"] == 0).all()
