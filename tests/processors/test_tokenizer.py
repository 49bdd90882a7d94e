"""Text to ids and back: the published ids, transformers' tokenizers on odd text, and every generation of files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_tokenizers import BAD_JSON, small
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from minivl.errors import InputError, TokenizerError
from minivl.processors import tokenizer_files as text_files
from minivl.processors.tokenizer import Tokenizer

WORDS = Path(__file__).parents[1] / "golden" / "opt_words"

PINNED = {
    "hello world": [2, 42891, 232],
    "Question: how many cats are there? Answer:": [2, 45641, 35, 141, 171, 10017, 32, 89, 116, 31652, 35],
    "\n": [2, 50118],
    "a looking out of the window": [2, 102, 546, 66, 9, 5, 2931],
    "An image of two cats chilling on a couch": [2, 4688, 2274, 9, 80, 10017, 22577, 15, 10, 16433],
    "A football player scoring a goal": [2, 250, 1037, 869, 2314, 10, 724],
    "two cats laying on a couch\n": [2, 7109, 10017, 11963, 15, 10, 16433, 50118],
    "a woman sitting on the beach with a dog\n": [2, 102, 693, 2828, 15, 5, 4105, 19, 10, 2335, 50118],
}
ODD = [
    "", " ", "    ", "\n", "\r\n\t", "a\n\n b", "  two  blanks  ", "a\0b", "\ufeffmark",
    "\u00a0nbsp\u3000wide", "e\u0301 é",
    "naïve café", "東京タワー", "שלום \u202eabc", "ﷺ", "🙂", "👩‍👩‍👧‍👦 🏳️‍🌈", "don't I'm we've it's",
    "3.14 1,000 ½ ²", "x" * 500,
    "</s>", "a </s> b", "<pad><pad>", "<s> <unk> <mask> <image>", "< /s>", "�",
]  # fmt: skip


@pytest.fixture(scope="module")
def opt():
    return Tokenizer.from_pretrained(WORDS)


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return transformers.GPT2Tokenizer.from_pretrained(WORDS, **names, add_bos_token=True)


def folder_of(path, backend=None, **files):
    """A folder holding tokenizer.json from `backend`, or WORDS' two files, and `files` as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    if backend is not None:
        backend.save(str(path / "tokenizer.json"))
    else:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(WORDS / name, path / name)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def unigram():
    """A miniature of T5's: pieces with scores, "</s>" put behind every text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁a", -1.0), ("▁dog", -1.0), ("b", -2.0)]
    backend = Backend(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return backend


# ------------------------------------------------------------------------------------------ ids


@pytest.mark.parametrize("text", PINNED, ids=repr)
def test_published_ids(opt, text):
    assert opt(text).input_ids == PINNED[text]
    assert opt.decode(PINNED[text], skip_special_tokens=True) == text
    assert opt.decode(PINNED[text]) == "</s>" + text


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_text_gives_transformers_ids(opt, theirs, text):
    ids = theirs(text)["input_ids"]
    assert opt(text).input_ids == ids and opt(text).attention_mask == [1] * len(ids)
    assert opt(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False)["input_ids"]
    for skip in (False, True):
        want = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert opt.decode(ids, skip, clean_up_tokenization_spaces=False) == want


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_whole(text):
    tokenizer = any_text_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids[0] == 2
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text


def any_text_tokenizer(kept=[]):  # noqa: B006  (hypothesis and fixtures do not mix; loaded once)
    if not kept:
        kept.append(Tokenizer.from_pretrained(WORDS))
    return kept[0]


def test_the_names_of_special_tokens_are_those_tokens_in_a_text_too(opt):
    assert opt("</s>").input_ids == [2, 2] and opt("<pad>").input_ids == [2, 1]
    assert 0 not in opt("<s>").input_ids, "a token that no file calls special is ordinary text"


def test_a_megabyte_and_a_lone_surrogate(opt):
    assert opt("hello world " * 90_000).input_ids[:3] == PINNED["hello world"]
    with pytest.raises(TokenizerError, match=r"text\[1\].*\\ud83d.* at 2"):
        opt(["fine", "no \ud83d"[1:]])


@pytest.mark.parametrize("text", [3, b"bytes", [], None, {"a": 1}, ["a", 3], [["a"]]], ids=repr)
def test_what_is_no_text_is_refused(opt, text):
    with pytest.raises(InputError, match="wanted a string"):
        opt(text)


# ------------------------------------------------------------------------------------------ padding and truncation

PAIR = ["hello world", "Question: how many cats"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": True},
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 9},
        {"padding": "max_length", "max_length": 4, "truncation": True},
        {"padding": True, "max_length": 4, "truncation": "longest_first"},
        {"padding": True, "truncation": False},
        {"max_length": 2, "truncation": True, "padding": "do_not_pad"},
    ],
    ids=str,
)
def test_padding_and_truncation_equal_transformers(opt, theirs, side, options):
    opt, theirs.padding_side = replace(opt, padding_side=side), side
    for special in (True, False):
        want = theirs(PAIR, add_special_tokens=special, return_tensors="np", **options)
        got = opt(PAIR, add_special_tokens=special, return_tensors="np", **options)
        for name in ("input_ids", "attention_mask"):
            assert got[name].dtype == np.int64
            np.testing.assert_array_equal(got[name], want[name])


def test_the_defaults_pad_tensors_on_the_left_and_leave_lists_alone():
    opt = Tokenizer.from_pretrained(WORDS)
    batch = opt(PAIR, return_tensors="np")
    np.testing.assert_array_equal(batch.input_ids, [[1, 1, 1, 2, 42891, 232], [2, 45641, 35, 141, 171, 10017]])
    np.testing.assert_array_equal(batch.attention_mask, [[0, 0, 0, 1, 1, 1], [1] * 6])
    assert opt(PAIR).input_ids == [PINNED["hello world"], [2, 45641, 35, 141, 171, 10017]]
    assert opt("hello world", return_tensors="np").input_ids.shape == (1, 3)
    assert opt("hello world", max_length=2).input_ids == [2, 42891], "max_length alone cuts, and the BOS stays"
    assert opt("hello world", max_length=1).input_ids == [2]
    assert opt("hello world", max_length=2, padding="max_length").input_ids == PINNED["hello world"]
    assert opt("hello world", max_length=2, truncation=False).input_ids == PINNED["hello world"]


def test_torch_tensors(opt):
    torch = pytest.importorskip("torch")
    batch = opt(PAIR, padding=True, return_tensors="pt")
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert opt.batch_decode(batch.input_ids, skip_special_tokens=True) == PAIR


def test_the_tokenizers_own_longest_text_counts(tmp_path):
    folder = folder_of(tmp_path, tokenizer_config={"model_max_length": 3, "truncation_side": "left"})
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer(PAIR, truncation=True, padding="max_length").input_ids == [PINNED["hello world"], [2, 171, 10017]]
    assert len(tokenizer(PAIR[1]).input_ids) == 6, "cut only if asked"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"padding": False, "return_tensors": "np"}, "padding=True"),
        ({"padding": "max_length"}, "max_length"),
        ({"padding": "both"}, "padding"),
        ({"truncation": "only_second"}, "truncation"),
        ({"max_length": 0}, "above 0"),
        ({"max_length": 2.5}, "max_length"),
        ({"max_length": True}, "max_length"),
        ({"return_tensors": "jax"}, "return_tensors"),
    ],
    ids=str,
)
def test_options_without_meaning(opt, options, says):
    with pytest.raises(InputError, match=says):
        opt(PAIR, **options)


def test_padding_without_a_padding_token(tmp_path):
    tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, small()))
    assert tokenizer.pad_token_id is None
    assert tokenizer(["he", "he"], return_tensors="np").input_ids.shape == (2, 1)
    with pytest.raises(TokenizerError, match="pad_token"):
        tokenizer(["he", "hello"], padding=True)


# ------------------------------------------------------------------------------------------ decoding


def test_rows_of_every_kind_decode(opt):
    torch = pytest.importorskip("torch")
    row = PINNED["hello world"]
    for ids in (row, tuple(row), np.array(row), np.array(row, np.int32), torch.tensor(row), [np.int64(i) for i in row]):
        assert opt.decode(ids) == "</s>hello world"
        assert opt.batch_decode([ids, ids], skip_special_tokens=True) == ["hello world"] * 2
    assert opt.decode(232) == opt.decode(np.int64(232)) == opt.decode(torch.tensor(232)) == " world"
    assert (
        opt.batch_decode(np.array([row, row])) == opt.batch_decode(torch.tensor([row, row])) == ["</s>hello world"] * 2
    )
    assert opt.decode([]) == "" and opt.batch_decode([]) == []
    assert opt.decode([50118, 50270, 2**31]) == "\n", "models have more rows than their tokenizers"


@pytest.mark.parametrize(
    "ids", [[-100], [1.0], ["a"], [True], [[2]], [2**32], None, "232", np.ones((2, 2), int)], ids=repr
)
def test_what_is_no_row_of_ids_is_refused(opt, ids):
    with pytest.raises(TokenizerError, match="decode: wanted"):
        opt.decode(ids)


def test_blanks_are_cleaned_up_as_in_4_37(tmp_path):
    """transformers 5 has the same list and no longer applies it to tokenizers of this kind."""
    apart = "a . b ? c ! d , e ' f do n't I 'm it 's we 've you 're"
    joined = "a. b? c! d, e'f don't I'm it's we've you're"
    tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, small()))
    ids = tokenizer(apart).input_ids
    assert tokenizer.decode(ids) == tokenizer.batch_decode([ids])[0] == joined
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == apart
    folder_of(tmp_path, small(), tokenizer_config={"clean_up_tokenization_spaces": False})
    assert Tokenizer.from_pretrained(tmp_path).decode(ids) == apart
    from transformers import PreTrainedTokenizerBase

    assert PreTrainedTokenizerBase.clean_up_tokenization(None, apart) == joined


# ------------------------------------------------------------------------------------------ files


def bos_first():
    return processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 257)])


@pytest.mark.parametrize(
    "post", [None, processors.ByteLevel(trim_offsets=False), bos_first()], ids=["none", "bytes", "bos"]
)
def test_opt_begins_with_its_bos_whether_or_not_tokenizer_json_says_so(tmp_path, post):
    folder = folder_of(tmp_path, small(post), tokenizer_config={"add_bos_token": True, "bos_token": "</s>"})
    for family in (None, "opt"):
        assert Tokenizer.from_pretrained(folder, family)("he").input_ids == [257, 256]
    unsaid = folder_of(tmp_path / "unsaid", small(post))
    assert Tokenizer.from_pretrained(unsaid, "opt")("he").input_ids == [257, 256]
    assert Tokenizer.from_pretrained(unsaid)("he").input_ids == (
        [257, 256] if type(post) is type(bos_first()) else [256]
    )
    folder_of(tmp_path, small(), tokenizer_config={"add_bos_token": False, "bos_token": "</s>"})
    assert Tokenizer.from_pretrained(folder, "opt")("he").input_ids == [256]


def test_cutting_and_padding_saved_in_tokenizer_json_are_not_carried_over(tmp_path):
    backend = small()
    backend.enable_truncation(1)
    backend.enable_padding(length=9)
    assert Tokenizer.from_pretrained(folder_of(tmp_path, backend))("hello").input_ids != []
    assert len(Tokenizer.from_pretrained(tmp_path)("hello").input_ids) == 4


@pytest.mark.parametrize(
    ("family", "config", "side"),
    [
        ("opt", {}, "left"),
        ("opt", {"padding_side": "right"}, "left"),
        ("t5", {"padding_side": "left"}, "right"),
        (None, {"padding_side": "right"}, "right"),
        (None, {}, "left"),
        (None, {"tokenizer_class": "T5TokenizerFast"}, "right"),
    ],
    ids=str,
)
def test_the_padding_side_suits_the_model(tmp_path, family, config, side):
    assert Tokenizer.from_pretrained(folder_of(tmp_path, small(), tokenizer_config=config), family).padding_side == side


def test_t5_ends_with_its_eos_and_pads_on_the_right(tmp_path):
    tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, unigram()), "t5")
    batch = tokenizer(["a", "a dog b"], return_tensors="np")
    assert batch.input_ids.tolist() == [[4, 1, 0, 0, 0], [4, 5, 3, 6, 1]]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id) == (
        1,
        0,
        2,
        None,
    )
    assert tokenizer("a dog b", max_length=3).input_ids == [4, 5, 1], "the EOS is kept when a text is cut"
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == ["a", "a dog b"]


@pytest.mark.parametrize("where", ["added_tokens", "decoder"])
def test_added_tokens_are_read_from_old_and_new_files(tmp_path, where):
    new = {"added_tokens_decoder": {"259": {"content": "<image>", "special": True, "normalized": False}}}
    files = {"added_tokens": {"<image>": 259}} if where == "added_tokens" else {"tokenizer_config": new}
    named = {"additional_special_tokens": ["<image>"], "pad_token": {"content": "<pad>", "lstrip": False}}
    tokenizer = Tokenizer.from_pretrained(folder_of(tmp_path, small(), special_tokens_map=named, **files))
    assert tokenizer("he<image>").input_ids == [256, 259] and len(tokenizer) == 260
    assert (
        tokenizer.decode([256, 259]) == "he<image>" and tokenizer.decode([256, 259], skip_special_tokens=True) == "he"
    )
    assert tokenizer.pad_token_id == 258


def test_tokenizer_config_counts_before_special_tokens_map(tmp_path):
    config, mapped = {"pad_token": "<pad>"}, {"pad_token": "</s>", "eos_token": "</s>"}
    tokenizer = Tokenizer.from_pretrained(
        folder_of(tmp_path, small(), tokenizer_config=config, special_tokens_map=mapped)
    )
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"added_tokens": {"<image>": 300}}, "wanted id 300"),
        ({"added_tokens": {"<image>": "x"}}, "found 'x'"),
        ({"tokenizer_config": {"added_tokens_decoder": {"-1": {"content": "x"}}}}, "found '-1'"),
        ({"tokenizer_config": {"added_tokens_decoder": ["x"]}}, "added_tokens_decoder"),
        ({"tokenizer_config": {"added_tokens_decoder": {"259": {"lstrip": True}}}}, "content"),
        ({"tokenizer_config": {"pad_token": "[PAD]"}}, r"pad_token.*\[PAD\]"),
        ({"tokenizer_config": {"bos_token": 3}}, "bos_token"),
        ({"tokenizer_config": {"add_bos_token": True}}, "bos_token"),
        ({"tokenizer_config": {"padding_side": "top"}}, "padding_side"),
        ({"tokenizer_config": {"truncation_side": "top"}}, "truncation_side"),
        ({"tokenizer_config": {"model_max_length": 0}}, "model_max_length"),
        ({"tokenizer_config": {"model_max_length": "long"}}, "model_max_length"),
        ({"tokenizer_config": {"clean_up_tokenization_spaces": "no"}}, "clean_up"),
        ({"special_tokens_map": {"additional_special_tokens": "<image>"}}, "additional_special_tokens"),
        ({"tokenizer_config": [1]}, r"tokenizer_config\.json"),
    ],
    ids=str,
)
def test_files_that_contradict_themselves(tmp_path, files, says):
    with pytest.raises(TokenizerError, match=says) as caught:
        Tokenizer.from_pretrained(folder_of(tmp_path, small(), **files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_malformed_tokenizer_json_is_one_error_even_where_rust_panics(tmp_path, name):
    (tmp_path / "tokenizer.json").write_text(BAD_JSON[name])
    with pytest.raises(TokenizerError, match="refused") as caught:
        Tokenizer.from_pretrained(tmp_path)("h" * 60)
    assert "\n" not in str(caught.value)


def test_what_the_user_stops_is_not_swallowed():
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), text_files.guarded("x"):
            raise stop


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "none of them"),
        ({"spiece.model": ""}, "spiece.model"),
        ({"vocab.json": "{}"}, "none of them"),
        ({"vocab.json": "[", "merges.txt": ""}, r"vocab\.json"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version\na b\n"}, r"vocab\.json"),
        ({"tokenizer.json": "{}" + " " * 99}, "at most 100"),
    ],
    ids=str,
)
def test_folders_without_a_readable_vocabulary(tmp_path, monkeypatch, files, says):
    monkeypatch.setattr(text_files, "MOST_BYTES", 100)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.from_pretrained(tmp_path)


def test_what_is_saved_is_read_back_by_us_and_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    for name, family, folder in [("opt", "opt", WORDS), ("t5", "t5", folder_of(tmp_path / "in", unigram()))]:
        tokenizer = Tokenizer.from_pretrained(folder, family)
        tokenizer.save_pretrained(tmp_path / name)
        again, other = (
            Tokenizer.from_pretrained(tmp_path / name),
            transformers.AutoTokenizer.from_pretrained(tmp_path / name),
        )
        texts = ["a dog", "hello </s> b", ""]
        want = tokenizer(texts, return_tensors="np")
        for got in (again(texts, return_tensors="np"), other(texts, padding=True, return_tensors="np")):
            np.testing.assert_array_equal(got["input_ids"], want.input_ids)
            np.testing.assert_array_equal(got["attention_mask"], want.attention_mask)
        fields = ("bos_token", "eos_token", "unk_token", "pad_token", *text_files.OPTIONS)
        assert [getattr(again, f) for f in fields] == [getattr(tokenizer, f) for f in fields]
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_tokenizer_without_bos_stays_so_when_saved(tmp_path):
    folder = folder_of(tmp_path, small(), tokenizer_config={"add_bos_token": False, "bos_token": "</s>"})
    Tokenizer.from_pretrained(folder, "opt").save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again", "opt")("he").input_ids == [256]
