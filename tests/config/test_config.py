"""Configurations: the defaults are transformers', real files load, and no value without meaning gets through."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from minivl.config.base import Config
from minivl.config.blip2 import ACTIVATIONS, Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config
from minivl.errors import ConfigError, WeightsError

transformers = pytest.importorskip("transformers")

KINDS = [Blip2VisionConfig, Blip2QFormerConfig, OPTConfig, T5Config, Blip2Config]
REAL = {
    name: Path(__file__).parents[1] / f"hub_configs/Salesforce__blip2-{name}__config.json"
    for name in ("opt-2.7b", "flan-t5-xl")
}

# What transformers 4.37.2 answers where 5.x has dropped the attribute (read off 4.37.2 itself).
ONLY_IN_437 = {
    "Blip2QFormerConfig.position_embedding_type": "absolute",
    "T5Config.bos_token_id": None,
    "T5Config.decoder_start_token_id": None,
}


def theirs(kind):
    return getattr(transformers, kind.__name__)


def one_line(raised, *words):
    text = str(raised.value)
    assert "\n" not in text and all(word in text for word in words), text


def plain_fields(kind):
    return [field for field in dataclasses.fields(kind) if not field.name.endswith("_config")]


CASES = [(kind, field.name) for kind in KINDS for field in plain_fields(kind)]
NAMES = [f"{kind.__name__}.{name}" for kind, name in CASES]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=NAMES)
def test_default_is_that_of_transformers(kind, name):
    key = f"{kind.__name__}.{name}"
    reference = theirs(kind)()
    assert hasattr(reference, name) or key in ONLY_IN_437
    want = getattr(reference, name) if hasattr(reference, name) else ONLY_IN_437[key]
    got = getattr(kind(), name)
    assert got == want and isinstance(got, type(want))


def test_the_defaults_that_follow_from_others():
    for text, encoder_decoder in ((OPTConfig(), False), (T5Config(), True)):
        config = Blip2Config(text_config=text)
        reference = transformers.Blip2Config(text_config=text.to_dict())
        for key in ("is_encoder_decoder", "use_decoder_only_language_model"):
            assert getattr(config, key) == getattr(reference, key) == (encoder_decoder == (key == "is_encoder_decoder"))
    assert Blip2Config() == Blip2Config(Blip2VisionConfig(), Blip2QFormerConfig(), OPTConfig(), 32)
    assert Blip2Config.from_dict({}) == Blip2Config()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("text", [OPTConfig, T5Config])
def test_the_language_model_decides_about_tying(text, tie):
    assert Blip2Config(text_config=text(tie_word_embeddings=tie)).tie_word_embeddings is tie
    contradiction = {"tie_word_embeddings": not tie, "text_config": text(tie_word_embeddings=tie).to_dict()}
    assert Blip2Config.from_dict(contradiction).to_dict()["tie_word_embeddings"] is tie


def agree(ours, reference, path=""):
    """Every value that we write is the one that transformers has after reading the same file.

    Except tying: 5.x no longer copies it to the top, and says true for every T5.
    """
    for key, value in ours.items():
        if isinstance(value, dict):
            agree(value, getattr(reference, key), f"{path}{key}.")
        elif hasattr(reference, key) and not (key == "tie_word_embeddings" and ours["model_type"] != "opt"):
            assert getattr(reference, key) == value, path + key


@pytest.mark.parametrize("name", REAL)
def test_real_files_mean_what_they_mean_to_transformers(name, tmp_path):
    (tmp_path / "config.json").write_bytes(REAL[name].read_bytes())
    config = Blip2Config.from_pretrained(tmp_path)
    agree(config.to_dict(), transformers.Blip2Config.from_dict(json.loads(REAL[name].read_text())))
    assert (
        Blip2Config.from_dict(transformers.Blip2Config.from_pretrained(tmp_path).to_dict()).vision_config
        == config.vision_config
    )
    config.save_pretrained(tmp_path / "again")
    assert Blip2Config.from_pretrained(tmp_path / "again") == config
    agree(config.to_dict(), transformers.Blip2Config.from_pretrained(tmp_path / "again"))


def test_real_opt_and_t5_files_by_their_numbers():
    opt, t5 = (Blip2Config.from_dict(json.loads(REAL[name].read_text())) for name in REAL)
    assert (opt.text_config.vocab_size, opt.text_config.hidden_size, opt.text_config.num_hidden_layers) == (
        50304,
        2560,
        32,
    )
    assert (opt.text_config.eos_token_id, opt.image_token_index, opt.tie_word_embeddings) == (50118, 50265, True)
    assert opt.vision_config == t5.vision_config == Blip2VisionConfig()
    assert (t5.text_config.d_model, t5.text_config.d_ff, t5.text_config.num_decoder_layers) == (2048, 5120, 24)
    assert (t5.text_config.dense_act_fn, t5.text_config.is_gated_act, t5.tie_word_embeddings) == ("gelu", True, False)
    assert (t5.text_config.bos_token_id, t5.text_config.decoder_start_token_id, t5.image_token_index) == (1, 0, 32100)


@pytest.mark.parametrize("tie", [True, False])
def test_t5_output_scaling_is_kept_by_files_of_both_versions(tie):
    """5.x writes every T5 as tied and keeps what it meant in scale_decoder_outputs, which 4.37 does not know."""
    old = {"text_config": {"model_type": "t5", "tie_word_embeddings": tie}}
    new = transformers.Blip2Config(**old).to_dict()
    assert new["text_config"]["tie_word_embeddings"] is True
    for file in (old, new):
        text = Blip2Config.from_dict(file).text_config
        assert text.scale_decoder_outputs is tie
        assert transformers.T5Config(**text.to_dict()).scale_decoder_outputs is tie


@pytest.mark.parametrize(
    "given", ["relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-silu", "gated-relu", "gated-gelu_new"]
)
def test_t5_feed_forward_is_read_as_transformers_reads_it(given):
    ours, reference = T5Config(feed_forward_proj=given), transformers.T5Config(feed_forward_proj=given)
    assert (ours.dense_act_fn, ours.is_gated_act) == (reference.dense_act_fn, reference.is_gated_act)
    explicit = dict(feed_forward_proj=given, dense_act_fn="gelu", is_gated_act=False)
    ours, reference = T5Config.from_dict(explicit), transformers.T5Config(**explicit)
    assert (ours.dense_act_fn, ours.is_gated_act) == (reference.dense_act_fn, reference.is_gated_act) == ("gelu", False)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_functions_of_that_name(name):
    torch = pytest.importorskip("torch")
    from transformers.activations import ACT2FN

    from minivl import ops

    x = np.linspace(-6, 6, 501, dtype=np.float32)
    got = getattr(ops.get("numpy"), ACTIVATIONS[name])(x)
    np.testing.assert_allclose(got, ACT2FN[name](torch.from_numpy(x)).numpy(), atol=2e-6)


NONSENSE = [-1, 10**12, 1e12, float("nan"), float("inf"), -float("inf"), "nonsense", "", {"a": 1}, [], [[1]], b"1", "1"]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize(("kind", "name"), CASES, ids=NAMES)
def test_a_value_without_meaning_is_refused(kind, name, value):
    with pytest.raises(ConfigError) as raised:
        kind.from_dict({name: value})
    one_line(raised, f"{kind.__name__}.{name}", "wanted", repr(value))


@pytest.mark.parametrize(("kind", "name"), CASES, ids=NAMES)
def test_bool_zero_and_null_are_refused_where_they_have_no_meaning(kind, name):
    default = getattr(kind(), name)
    field = {field.name: field for field in dataclasses.fields(kind)}[name]
    wrong = [] if isinstance(default, bool) else [True, False]
    wrong += [0, 1] if isinstance(default, bool) else []
    wrong += [None] if field.default is not None and "token_id" not in name else []
    counted = isinstance(default, int) and "token" not in name
    wrong += [0] if counted or name.endswith(("eps", "epsilon")) else []
    for value in wrong:
        with pytest.raises(ConfigError):
            kind.from_dict({name: value})
    assert wrong


def test_numpy_numbers_become_plain_ones():
    config = OPTConfig(hidden_size=np.int64(24), dropout=np.float32(0.5), eos_token_id=[np.int32(5)])
    assert json.loads(config.to_json_string())["eos_token_id"] == [5]
    assert type(config.hidden_size) is int and type(config.dropout) is float


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError) as raised:
        OPTConfig(activation_function="x\n" * 10**6)
    one_line(raised, "...")
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Blip2VisionConfig, {"hidden_size": 100}, ["Blip2VisionConfig.hidden_size", "num_attention_heads (16)", "100"]),
        (Blip2QFormerConfig, {"num_attention_heads": 5}, ["Blip2QFormerConfig.hidden_size", "(5)", "768"]),
        (OPTConfig, {"num_attention_heads": 7}, ["OPTConfig.hidden_size", "(7)", "768"]),
        (Blip2VisionConfig, {"image_size": 13}, ["Blip2VisionConfig.image_size", "(14)", "13"]),
        (OPTConfig, {"pad_token_id": 50272}, ["OPTConfig.pad_token_id", "vocab_size (50272)"]),
        (OPTConfig, {"bos_token_id": 50272}, ["OPTConfig.bos_token_id", "vocab_size (50272)"]),
        (OPTConfig, {"pad_token_id": [1]}, ["OPTConfig.pad_token_id", "a token id below 16777216, found [1]"]),
        (T5Config, {"decoder_start_token_id": 32128}, ["T5Config.decoder_start_token_id", "vocab_size (32128)"]),
        (
            T5Config,
            {"relative_attention_num_buckets": 256},
            ["T5Config.relative_attention_max_distance", "(256)", "128"],
        ),
        (T5Config, {"relative_attention_num_buckets": 3}, ["T5Config.relative_attention_num_buckets", "from 4"]),
        (T5Config, {"feed_forward_proj": "gated-gated-relu"}, ["T5Config.feed_forward_proj"]),
        (Blip2Config, {"text_config": {"word_embed_proj_dim": 512}}, ["OPTConfig.word_embed_proj_dim", "(768)", "512"]),
        (
            Blip2Config,
            {"text_config": {"model_type": "llama"}},
            ["Blip2Config.text_config.model_type", "opt, t5", "llama"],
        ),
        (Blip2Config, {"text_config": {"model_type": ["opt"]}}, ["Blip2Config.text_config.model_type"]),
        (Blip2Config, {"model_type": "blip"}, ["Blip2Config.model_type", "blip-2", "'blip'"]),
        (Blip2Config, {"vision_config": {"model_type": "clip"}}, ["vision_config.model_type", "clip"]),
        (Blip2Config, {"vision_config": OPTConfig()}, ["Blip2Config.vision_config", "Blip2VisionConfig"]),
        (Blip2Config, {"text_config": []}, ["Blip2Config.text_config", "[]"]),
        (Blip2Config, {"qformer_config": {"hidden_size": "768"}}, ["Blip2QFormerConfig.hidden_size", "'768'"]),
        (Blip2Config, {"text_config": {"eos_token_id": [5, None]}}, ["OPTConfig.eos_token_id"]),
        (Blip2Config, None, ["Blip2Config", "None"]),
    ],
)
def test_values_that_do_not_go_together_are_refused(kind, values, words):
    with pytest.raises(ConfigError) as raised:
        kind.from_dict(values)
    one_line(raised, "wanted", "found", *words)


@pytest.mark.parametrize(
    ("kind", "last", "beyond"),
    [
        (Blip2VisionConfig, {"num_hidden_layers": 1}, {"num_hidden_layers": 0}),
        (Blip2VisionConfig, {"num_hidden_layers": 1024}, {"num_hidden_layers": 1025}),
        (Blip2VisionConfig, {"patch_size": 224}, {"patch_size": 225}),
        (Blip2VisionConfig, {"image_size": 2**14}, {"image_size": 2**14 + 1}),
        (OPTConfig, {"eos_token_id": 2**24 - 1}, {"eos_token_id": 2**24}),
        (OPTConfig, {"pad_token_id": 50271}, {"pad_token_id": 50272}),
        (OPTConfig, {"pad_token_id": 0}, {"pad_token_id": -1}),
        (OPTConfig, {"dropout": 0}, {"dropout": -1e-9}),
        (OPTConfig, {"dropout": 1}, {"dropout": 1 + 1e-9}),
        (T5Config, {"layer_norm_epsilon": 1e-30}, {"layer_norm_epsilon": 0.0}),
        (T5Config, {"relative_attention_num_buckets": 4}, {"relative_attention_num_buckets": 3}),
        (T5Config, {"relative_attention_max_distance": 17}, {"relative_attention_max_distance": 16}),
    ],
)
def test_the_last_value_with_a_meaning_is_taken_and_the_next_is_not(kind, last, beyond):
    assert all(getattr(kind.from_dict(last), key) == value for key, value in last.items())
    with pytest.raises(ConfigError):
        kind.from_dict(beyond)


def test_opt_alone_may_have_narrow_embeddings():
    assert OPTConfig(word_embed_proj_dim=512).word_embed_proj_dim == 512
    assert OPTConfig(hidden_size=48).word_embed_proj_dim == 48


@pytest.mark.parametrize("given", ["absolute", "relative_key", "relative_key_query"])
def test_position_types(given):
    assert Blip2QFormerConfig(position_embedding_type=given).position_embedding_type == given


def test_several_ends_survive_the_round_trip(tmp_path):
    config = Blip2Config(text_config={"eos_token_id": [50118, 2]})
    assert config.text_config.eos_token_id == (50118, 2)
    config.save_pretrained(tmp_path)
    assert Blip2Config.from_pretrained(tmp_path) == config
    assert transformers.Blip2Config.from_pretrained(tmp_path).text_config.eos_token_id == [50118, 2]


def test_t5_answers_to_the_common_names():
    config = T5Config.from_dict({"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2})
    assert (config.d_model, config.num_heads, config.num_layers, config.num_decoder_layers) == (24, 3, 2, 2)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (24, 3, 2)


def test_the_queries_always_look_at_this_image():
    qformer = Blip2QFormerConfig(encoder_hidden_size=99)
    config = Blip2Config.from_vision_qformer_text_configs(
        Blip2VisionConfig(hidden_size=32), qformer, T5Config(), num_query_tokens=5
    )
    assert config.qformer_config.encoder_hidden_size == 32 and qformer.encoder_hidden_size == 99
    assert config.num_query_tokens == 5 and config.text_config == T5Config()


def test_configs_are_frozen_hashable_and_equal_by_value():
    config = Blip2Config(text_config={"eos_token_id": [1, 2]})
    assert hash(config) == hash(Blip2Config.from_dict(config.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_query_tokens = 1
    assert dataclasses.replace(config, num_query_tokens=4).text_config == config.text_config


def test_code_that_a_file_asks_for_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    asks = {
        "auto_map": {"AutoConfig": "evil.C"},
        "_attn_implementation_internal": "evil/kernel",
        "trust_remote_code": True,
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "blip-2", **asks, "text_config": asks, "__class__": 1})
    )
    config = Blip2Config.from_pretrained(tmp_path)
    assert config == Blip2Config() and not (tmp_path / "ran").exists()
    assert not any(key in config.to_json_string() for key in asks)


def test_parts_are_found_in_a_whole_file(tmp_path):
    whole = Blip2Config({"hidden_size": 32}, {"hidden_size": 24}, {"model_type": "t5", "d_model": 40})
    whole.save_pretrained(tmp_path)
    assert Blip2VisionConfig.from_pretrained(tmp_path) == whole.vision_config
    assert Blip2QFormerConfig.from_pretrained(tmp_path) == whole.qformer_config
    assert T5Config.from_pretrained(tmp_path) == whole.text_config
    with pytest.raises(ConfigError) as raised:
        OPTConfig.from_pretrained(tmp_path)
    one_line(raised, str(tmp_path / "config.json"), "OPTConfig.model_type", '"opt"', "'t5'")
    whole.vision_config.save_pretrained(tmp_path)
    assert Blip2VisionConfig.from_pretrained(tmp_path) == whole.vision_config
    stray = whole.vision_config.to_dict() | {"vision_config": {"hidden_size": 48}}
    (tmp_path / "config.json").write_text(json.dumps(stray))
    assert Blip2VisionConfig.from_pretrained(tmp_path) == whole.vision_config
    (tmp_path / "config.json").write_text('{"model_type": "blip-2", "text_config": null}')
    assert OPTConfig.from_pretrained(tmp_path) == OPTConfig()


BAD_FILES = {
    "empty": (b"", "UTF-8"),
    "text": (b"hello", "Expecting value"),
    "cut short": (b'{"a": ', "Expecting value"),
    "latin 1": ('{"a": "é"}'.encode("latin-1"), "UTF-8"),
    "a list": (b"[1]", "a JSON object"),
    "key twice": (b'{"num_query_tokens": 1, "num_query_tokens": 2}', "'num_query_tokens' twice"),
    "key twice inside": (b'{"text_config": {"a\\n": 1, "a\\n": 2}}', "twice"),
    "deep": (b'{"a": ' + b"[" * 200_000, "deep"),
    "long number": (b'{"num_query_tokens": ' + b"9" * 5000 + b"}", "wanted"),
    "NaN": (b'{"initializer_range": NaN}', "Blip2Config.initializer_range"),
    "overflow": (b'{"initializer_range": 1e999}', "Blip2Config.initializer_range"),
    "large": (b" " * (16 * 2**20 + 1), "at most 16777216 bytes"),
}


@pytest.mark.parametrize(("data", "word"), BAD_FILES.values(), ids=BAD_FILES)
def test_malformed_files_are_refused_by_name(tmp_path, data, word):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        Blip2Config.from_pretrained(tmp_path)
    one_line(raised, str(tmp_path / "config.json"), word)


def test_no_file_no_folder_and_no_regular_file(tmp_path):
    with pytest.raises(ConfigError) as raised:
        Blip2Config.from_pretrained(tmp_path)
    one_line(raised, str(tmp_path / "config.json"), "found nothing")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError) as raised:
        Blip2Config.from_pretrained(tmp_path)
    one_line(raised, "no regular file")
    with pytest.raises(WeightsError):
        Blip2Config.from_pretrained(tmp_path / "absent")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied"))
    )
    with pytest.raises(ConfigError) as raised:
        Blip2Config.from_pretrained(tmp_path)
    one_line(raised, str(tmp_path / "config.json"), "Permission denied")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    Blip2Config().save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        Blip2Config(num_query_tokens=3).save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"] and (tmp_path / "config.json").read_bytes() == before


def test_a_saved_file_has_ordinary_rights(tmp_path):
    Blip2Config().save_pretrained(tmp_path / "new" / "folder")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new/folder/config.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_new_kind_of_configuration_needs_only_its_fields():
    """What a fourth and fifth family would write: nothing but fields."""
    from minivl.config.base import flag, whole

    @dataclasses.dataclass(frozen=True)
    class Small(Config):
        model_type = "small"
        width: int = whole(8, 64)
        wide: bool = flag(False)

    assert Small.from_dict({"width": 16}).to_dict() == {"model_type": "small", "width": 16, "wide": False}
    with pytest.raises(ConfigError, match="Small.width"):
        Small(width=65)
