"""BridgeTower's configurations: the defaults are transformers', and the Hub's files load, whatever else is in them."""

import dataclasses
import json

import pytest
import transformers
from real_configs import REAL

from minivl import BridgeTowerConfig, BridgeTowerTextConfig, BridgeTowerVisionConfig
from minivl.errors import ConfigError

KINDS = [BridgeTowerVisionConfig, BridgeTowerTextConfig, BridgeTowerConfig]

# What 4.37.2 answers where 5.x has dropped the attribute, and what the Hub's files say where neither has a default.
ONLY_HERE = {
    "BridgeTowerTextConfig.position_embedding_type": "absolute",
    "BridgeTowerConfig.contrastive_hidden_size": 512,
    "BridgeTowerConfig.logit_scale_init_value": 2.6592,
}
CASES = [
    (kind, field.name)
    for kind in KINDS
    for field in dataclasses.fields(kind)
    if field.name not in ("text_config", "vision_config")
]
NAMES = [f"{kind.__name__}.{name}" for kind, name in CASES]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=NAMES)
def test_default_is_that_of_transformers(kind, name):
    key = f"{kind.__name__}.{name}"
    reference = getattr(transformers, kind.__name__)()
    assert hasattr(reference, name) != (key in ONLY_HERE)
    want = ONLY_HERE[key] if key in ONLY_HERE else getattr(reference, name)
    got = getattr(kind(), name)
    assert got == want and type(got) in (type(want), float)  # transformers' initializer_factor is a whole number


def test_no_field_of_transformers_is_missing():
    """Those of 5.x that minivl has not belong to decoders and to every class of transformers."""
    common = set(transformers.PreTrainedConfig().to_dict())
    for kind in KINDS:
        reference = set(getattr(transformers, kind.__name__)().to_dict()) - common
        ours = {field.name for field in dataclasses.fields(kind)}
        assert reference - ours <= {"add_cross_attention", "model_type"}, kind


def agree(ours, reference, path=""):
    """Every value that we write is the one that transformers has after reading the same file."""
    for key, value in ours.items():
        if isinstance(value, dict):
            agree(value, getattr(reference, key), f"{path}{key}.")
        elif hasattr(reference, key):
            assert getattr(reference, key) == value, path + key


def test_there_are_five_real_files():
    assert sorted(REAL) == ["base", "base-itm-mlm", "large-itm-mlm", "large-itm-mlm-gaudi", "large-itm-mlm-itc"]
    assert all("model_type" not in json.loads(path.read_text()) for path in REAL.values())


@pytest.mark.parametrize("name", REAL)
def test_real_files_mean_what_they_mean_to_transformers(name, tmp_path):
    (tmp_path / "config.json").write_bytes(REAL[name].read_bytes())
    config = BridgeTowerConfig.from_pretrained(tmp_path)
    agree(config.to_dict(), transformers.BridgeTowerConfig.from_dict(json.loads(REAL[name].read_text())))
    config.save_pretrained(tmp_path / "again")
    assert BridgeTowerConfig.from_pretrained(tmp_path / "again") == config
    theirs = transformers.BridgeTowerConfig.from_pretrained(tmp_path / "again")
    agree(config.to_dict(), theirs)
    assert BridgeTowerConfig.from_dict(theirs.to_dict()) == config


def test_real_files_by_their_numbers():
    for name, path in REAL.items():
        config = BridgeTowerConfig.from_dict(json.loads(path.read_text()))
        text, vision = config.text_config, config.vision_config
        large = name.startswith("large")
        assert (config.hidden_size, text.hidden_size, vision.hidden_size) == ((1024,) * 3 if large else (768,) * 3)
        assert (text.num_hidden_layers, vision.num_hidden_layers, config.num_hidden_layers) == (
            (24, 24, 6) if large else (12, 12, 6)
        )
        assert (text.num_attention_heads, text.intermediate_size) == ((16, 4096) if large else (12, 3072))
        assert (vision.patch_size, vision.image_size) == ((14, 294) if large else (16, 288))
        assert (config.link_tower_type, config.share_cross_modal_transformer_layers) == ("add", True)
        assert (config.share_link_tower_layers, config.tie_word_embeddings) == (False, False)
        assert (config.contrastive_hidden_size, config.logit_scale_init_value) == (512, 2.6592)
        assert (text.pad_token_id, text.position_embedding_type, text.vocab_size) == (1, "absolute", 50265)


def test_the_base_file_is_the_default():
    assert BridgeTowerConfig.from_dict(json.loads(REAL["base"].read_text())) == BridgeTowerConfig()


def test_the_name_of_4_37_for_making_one_of_two():
    text, vision = BridgeTowerTextConfig(hidden_size=24), BridgeTowerVisionConfig(hidden_size=128)
    config = BridgeTowerConfig.from_text_vision_configs(text, vision, hidden_size=24, link_tower_type="scaled_add")
    assert config == BridgeTowerConfig(
        text_config=text, vision_config=vision, hidden_size=24, link_tower_type="scaled_add"
    )
    assert (config.text_config, config.vision_config) == (text, vision)


def test_parts_are_found_in_a_whole_file(tmp_path):
    """4.37's BridgeTowerVisionConfig reads text_config instead."""
    whole = BridgeTowerConfig(
        hidden_size=24,
        text_config=dict(hidden_size=24, num_hidden_layers=7),
        vision_config=dict(hidden_size=128, num_hidden_layers=9),
    )
    whole.save_pretrained(tmp_path)
    assert BridgeTowerVisionConfig.from_pretrained(tmp_path) == whole.vision_config
    assert BridgeTowerTextConfig.from_pretrained(tmp_path) == whole.text_config
    (tmp_path / "config.json").write_bytes(REAL["large-itm-mlm"].read_bytes())
    assert BridgeTowerVisionConfig.from_pretrained(tmp_path).patch_size == 14
    assert BridgeTowerTextConfig.from_pretrained(tmp_path).intermediate_size == 4096


NONSENSE = [-1, 10**12, float("nan"), float("inf"), "nonsense", "", {"a": 1}, [[1]], b"1", "1"]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=NAMES)
def test_a_value_without_meaning_is_refused(kind, name):
    for value in NONSENSE:
        with pytest.raises(ConfigError) as raised:
            kind.from_dict({name: value})
        text = str(raised.value)
        assert "\n" not in text and f"{kind.__name__}.{name}" in text and "wanted" in text and repr(value) in text


@pytest.mark.parametrize("kind", KINDS)
def test_another_models_file_is_refused(kind):
    with pytest.raises(ConfigError, match="model_type"):
        kind.from_dict({"model_type": "blip-2"})


@pytest.mark.parametrize("width, fits", [(64, True), (96, True), (127, True), (128, True), (129, False), (63, False)])
def test_the_picture_tower_takes_one_head_for_each_64_of_its_width(width, fits):
    """As transformers does: the heads have to share the width, they need not be 64 wide."""
    vision = dict(hidden_size=width, num_hidden_layers=1, patch_size=4, image_size=8)
    if fits:
        assert BridgeTowerVisionConfig(**vision).hidden_size == width
        transformers.BridgeTowerModel(
            transformers.BridgeTowerConfig(
                hidden_size=8,
                num_hidden_layers=1,
                vision_config=vision,
                text_config=dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9),
            )
        )
    else:
        with pytest.raises(ConfigError, match=rf"hidden_size.*64.*{width}"):
            BridgeTowerVisionConfig(**vision)
