"""BridgeTower's processor: pictures equal to transformers' PIL pipeline, texts to its RobertaTokenizer."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from words import OPT_WORDS, roberta_folder

from minivl import BridgeTowerConfig, BridgeTowerForMaskedLM, BridgeTowerProcessor
from minivl.errors import ConfigError, ImageError, InputError, TokenizerError, WeightsError
from minivl.processors.bridgetower import BridgeTowerImageProcessor
from minivl.processors.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
reference = pytest.importorskip("transformers.models.bridgetower.image_processing_pil_bridgetower")

HUB_FILES = sorted((Path(__file__).parents[1] / "hub_configs").glob("BridgeTower*preprocessor_config.json"))
CAPTION, FOOTBALL = "An image of two cats chilling on a couch", "A football player scoring a goal"
MASKED = "a <mask> looking out of the window"


def noise(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photo(height, width, seed=0):
    return Image.fromarray(noise(height, width, seed))


def theirs(**settings):
    """transformers' processor, told to crop what it resizes to: left alone it crops to 288, whatever the size is."""
    crop = settings.get("crop_size", settings.get("size", 288))
    crop = crop["shortest_edge"] if isinstance(crop, dict) else crop
    return reference.BridgeTowerImageProcessorPil(**{**settings, "crop_size": {"shortest_edge": crop}})


def assert_same(pictures, **settings):
    got = BridgeTowerImageProcessor(**settings)(pictures, return_tensors="np")
    want = theirs(**settings)(pictures, return_tensors="np")
    assert set(got) == set(want)
    for name in got:
        assert got[name].dtype == {"pixel_values": np.float32, "pixel_mask": np.int64}[name]
        np.testing.assert_array_equal(got[name], want[name])


# ------------------------------------------------------------------------------------------ pictures: the same numbers


@pytest.mark.parametrize("do_center_crop", [True, False])
@pytest.mark.parametrize("size", [64, 288, 320])
@pytest.mark.parametrize(
    "shape", [(48, 64), (64, 48), (30, 30), (31, 40), (333, 500), (500, 333), (100, 166), (1, 1), (288, 289)], ids=str
)
def test_ordinary_shapes_equal_transformers(shape, size, do_center_crop):
    assert_same(photo(*shape), size=size, do_center_crop=do_center_crop)


@pytest.mark.parametrize("size", [64, 288, 294])
@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (30, 90), (60, 101), (101, 60), (90, 290)], ids=str)
def test_long_pictures_without_a_crop_equal_transformers(shape, size):
    assert_same(photo(*shape), size=size, do_center_crop=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 96}},
        {"size": 96, "size_divisor": 16},
        {"size": 97, "size_divisor": 1},
        {"size": 97, "size_divisor": 1, "crop_size": {"shortest_edge": 64}},
        {"size": 96, "crop_size": {"shortest_edge": 33}},
        {"size": 96, "resample": 2},
        {"size": 96, "resample": 0},
        {"size": 96, "do_rescale": False},
        {"size": 96, "do_normalize": False},
        {"size": 96, "rescale_factor": 1 / 127},
        {"size": 96, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"size": 96, "do_pad": False},
        {"size": 96, "do_resize": False},
        {"size": 49, "do_resize": False},
        {"size": 60, "do_resize": False},
        {"size": 17, "do_resize": False},
        {"do_resize": False, "do_center_crop": False},
    ],
    ids=str,
)
def test_every_setting_equals_transformers(settings):
    assert_same(photo(50, 71), **settings)
    assert_same(photo(71, 50), **settings)


def test_arrays_equal_transformers():
    array, floats = noise(50, 71), np.random.default_rng(0).random((50, 71, 3), np.float32)
    for same in (array, array.transpose(2, 0, 1), np.stack([array, array])):
        assert_same(same, size=64)
    assert_same(floats, size=64, do_rescale=False)
    assert_same(floats, size=60, do_rescale=False, do_resize=False)
    with pytest.raises(ImageError, match="do_rescale=False"):
        BridgeTowerImageProcessor(size=64)(floats)
    torch = pytest.importorskip("torch")
    got = BridgeTowerImageProcessor(size=64)(torch.from_numpy(array), return_tensors="pt")
    assert got.pixel_values.dtype == torch.float32 and got.pixel_mask.dtype == torch.int64
    np.testing.assert_array_equal(got.pixel_values, theirs(size=64)(array, return_tensors="np")["pixel_values"])


SHAPES = [(48, 64), (64, 48), (50, 100), (30, 30)]


def test_pictures_of_different_sizes_are_padded_below_and_to_the_right():
    pictures = [photo(*shape, seed) for seed, shape in enumerate(SHAPES)]
    assert_same(pictures, size=64, do_center_crop=False)
    batch = BridgeTowerImageProcessor(size=64, do_center_crop=False)(pictures, return_tensors="np")
    assert batch.pixel_values.shape == (4, 3, 64, 96)
    assert batch.pixel_mask.sum((1, 2)).tolist() == [64 * 64, 64 * 64, 32 * 96, 64 * 64]
    assert (batch.pixel_values[2, :, 32:] == 0).all() and (batch.pixel_values[0, :, :, 64:] == 0).all()
    lists = BridgeTowerImageProcessor(size=64, do_center_crop=False)(pictures)
    assert [type(rows) for rows in lists.values()] == [list, list]
    np.testing.assert_array_equal(lists.pixel_values, batch.pixel_values)
    np.testing.assert_array_equal(lists.pixel_mask, batch.pixel_mask)
    assert {mask.dtype for mask in lists.pixel_mask} == {np.dtype(np.int64)}


def test_without_padding_pictures_of_different_sizes_make_no_tensor():
    pictures = [photo(*shape) for shape in SHAPES]
    loose = BridgeTowerImageProcessor(size=64, do_center_crop=False, do_pad=False)
    assert [p.shape for p in loose(pictures).pixel_values] == [(3, 64, 64), (3, 64, 64), (3, 32, 96), (3, 64, 64)]
    assert "pixel_mask" not in loose(pictures)
    with pytest.raises(InputError, match=r"different sizes.*64, 64"):
        loose(pictures, return_tensors="np")


@pytest.mark.parametrize(
    ("size", "shape", "crop", "want_shape", "some", "total"),
    [
        (288, (480, 640), True, (288, 288), [0.324509, 0.163927, 0.439037, 0.213921, 0.58169, 0.908751], 46291.759),
        (288, (333, 500), True, (288, 288), [0.923045, -1.208326, 0.213921, 0.904278, -0.413715, -0.541695], 45803.821),
        (288, (640, 427), False, (416, 288), [-0.274026, 0.850053, -0.581491, 0.739192, 0.041327, 0.482149], 66824.52),
        (64, (100, 75), True, (64, 64), [0.076336, 0.22232, -0.626514, 0.288959, 0.994072, 0.140868], 2319.046),
        (64, (64, 100), False, (64, 96), [-0.33242, -0.741176, 1.639658, 1.249457, -0.143534, -1.238479], 3510.043),
    ],
)
def test_what_transformers_4_37_2_makes_of_noise(size, shape, crop, want_shape, some, total):
    """Written down from BridgeTowerImageProcessor(size)(noise, do_center_crop=crop) in that version, with Pillow 13."""
    pixels = BridgeTowerImageProcessor(size=size, do_center_crop=crop)(photo(*shape), return_tensors="np").pixel_values
    assert pixels.shape == (1, 3, *want_shape)
    flat = pixels.reshape(-1)
    np.testing.assert_allclose(flat[:: flat.size // 5][:6], some, rtol=0, atol=1e-5)
    assert flat.sum(dtype=np.float64) == pytest.approx(total, abs=0.01)


# ------------------------------------------------------------------------------------------ pictures: settings


def test_the_defaults_are_bridgetowers():
    want = json.loads(reference.BridgeTowerImageProcessorPil().to_json_string())
    settings = BridgeTowerImageProcessor().to_dict()
    assert json.loads(json.dumps(settings)) == settings
    want["do_convert_rgb"] = True  # there it is not said, and only RGB is read
    assert {name: settings[name] for name in settings} == {name: want[name] for name in settings}
    ours = {f.name for f in fields(BridgeTowerImageProcessor)}
    in_4_37 = ["do_resize", "size", "size_divisor", "resample", "do_rescale", "rescale_factor", "do_normalize"]
    assert ours >= {*in_4_37, "image_mean", "image_std", "do_center_crop", "do_pad"}


def test_the_crop_follows_the_size_unless_it_is_given():
    processor = BridgeTowerImageProcessor(size=96)
    assert processor.crop_edge == 96 and BridgeTowerImageProcessor(size=96, crop_size=64).crop_edge == 64
    assert processor(photo(99, 99), return_tensors="np", size=64).pixel_values.shape == (1, 3, 64, 64)
    again = BridgeTowerImageProcessor.from_dict(processor.to_dict())
    assert again == processor and again(photo(99, 99), return_tensors="np", size=64).pixel_values.shape[-1] == 64
    given = BridgeTowerImageProcessor.from_dict({"size": 96, "crop_size": {"shortest_edge": 64}})
    assert given(photo(99, 99), return_tensors="np", size=128).pixel_values.shape == (1, 3, 64, 64)
    processor.size = 32
    assert processor(photo(99, 99), return_tensors="np").pixel_values.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0}, {"size": -1}, {"size": True}, {"size": 2.5}, {"size": "288"}, {"size": 10**9}, {"size": [1, 2]},
        {"size": {"height": 288, "width": 288}}, {"size": {"shortest_edge": None}}, {"size": None},
        {"crop_size": 0}, {"crop_size": {"height": 3, "width": 3}}, {"crop_size": "288"},
        {"size_divisor": 0}, {"size_divisor": 1.5}, {"size_divisor": True}, {"size_divisor": 10**9},
        {"do_center_crop": "yes"}, {"do_pad": 1}, {"do_resize": None}, {"resample": 9}, {"image_std": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_meaning_is_refused_by_name(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))) as caught:
        BridgeTowerImageProcessor(**settings)
    assert "found" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.name.split("__")[1])
def test_every_preprocessor_file_of_the_hub_loads(tmp_path, path):
    """None of them has a class name, a crop, a divisor or a size but a plain number; one has no size at all."""
    (tmp_path / "preprocessor_config.json").write_bytes(path.read_bytes())
    processor = BridgeTowerImageProcessor.from_pretrained(tmp_path)
    edge = 294 if "large" in path.name else 288
    assert processor == BridgeTowerImageProcessor(size=edge)
    assert processor(photo(48, 64), return_tensors="np").pixel_values.shape == (1, 3, edge, edge)
    old = reference.BridgeTowerImageProcessorPil.from_pretrained(tmp_path)
    assert (old.size["shortest_edge"], old.size_divisor) == (processor.size["shortest_edge"], processor.size_divisor)


def test_there_are_five_such_files():
    assert len(HUB_FILES) == 5


@pytest.mark.parametrize("settings", [{}, {"size": 64, "crop_size": 32, "do_normalize": False}, {"size": 294}], ids=str)
def test_what_is_saved_is_read_back_by_us_and_by_transformers(tmp_path, settings):
    processor = BridgeTowerImageProcessor(**settings)
    processor.save_pretrained(tmp_path)
    assert BridgeTowerImageProcessor.from_pretrained(tmp_path) == processor
    other = reference.BridgeTowerImageProcessorPil.from_pretrained(tmp_path)
    picture = photo(48, 64)
    got, want = processor(picture, return_tensors="np").pixel_values, other(picture, return_tensors="np")
    assert got.shape == want["pixel_values"].shape
    if settings.get("size") != 294:  # there transformers draws a black border
        np.testing.assert_array_equal(got, want["pixel_values"])


# ------------------------------------------------------------------------------------------ words


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return roberta_folder(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def roberta(words):
    return Tokenizer.from_pretrained(words, "roberta")


@pytest.fixture
def old(words):
    """transformers' tokenizer, with the mask as its own version 4 has it: version 5 leaves the flag out."""
    mask = transformers.AddedToken("<mask>", lstrip=True, special=True)
    return transformers.RobertaTokenizer.from_pretrained(words, mask_token=mask)


PINNED = {  # the published ids; the mask takes in the blank before it, and only that one
    "hello world": [0, 42891, 232, 2],
    CAPTION: [0, 4688, 2274, 9, 80, 10017, 22577, 15, 10, 16433, 2],
    FOOTBALL: [0, 250, 1037, 869, 2314, 10, 724, 2],
    MASKED: [0, 102, 50264, 546, 66, 9, 5, 2931, 2],
    "  <mask> <mask>a <mask>.": [0, 50264, 50264, 102, 50264, 4, 2],
    "</s> <s><pad>": [0, 2, 1437, 0, 1, 2],
    "": [0, 2],
}


@pytest.mark.parametrize("text", PINNED, ids=repr)
def test_published_ids(roberta, text):
    assert roberta(text).input_ids == PINNED[text]
    assert roberta(text).attention_mask == [1] * len(PINNED[text])


def test_ids_of_the_special_tokens(roberta):
    ids = [roberta.bos_token_id, roberta.pad_token_id, roberta.eos_token_id, roberta.unk_token_id]
    assert ids == [0, 1, 2, 3] and roberta.mask_token_id == 50264
    assert roberta.padding_side == roberta.truncation_side == "right"
    assert Tokenizer.from_pretrained(OPT_WORDS).mask_token_id is None


def test_a_raw_list_of_ids_is_decoded_with_its_special_tokens_unless_they_are_skipped(roberta):
    ids = [0, 102, 50264, 546, 66, 9, 5, 2931, 2, 1, 1]
    assert roberta.decode(ids) == "<s>a<mask> looking out of the window</s><pad><pad>"
    assert roberta.decode(ids, skip_special_tokens=True) == "a looking out of the window"
    assert roberta.batch_decode([ids[:2], np.array(ids[-3:])]) == ["<s>a", "</s><pad><pad>"]


ODD = [
    *PINNED, " ", "   ", "\n", " <mask>", "<mask> <mask>", "<mask>\n<mask>", "\t<mask>a", "a<mask>b", "\u3000<mask>",
    "<MASK>", "< mask>", "naïve 東京 🙂", "don't I'm we've", "a </s> b", "<s>", "<unk> <pad>", "\u00a0\u2028 <mask>",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_text_gives_transformers_ids(roberta, old, text):
    ids = old(text)["input_ids"]
    assert roberta(text).input_ids == ids
    assert roberta(text, add_special_tokens=False).input_ids == old(text, add_special_tokens=False)["input_ids"]
    for skip in (False, True):
        want = old.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert roberta.decode(ids, skip, clean_up_tokenization_spaces=False) == want


TEXTS, PAIRS = ["hello world", CAPTION, "a", "two cats"], [FOOTBALL, "a", "hello world", "hello world"]
PAIR_OPTIONS = [
    {"padding": True},
    {"padding": "max_length", "max_length": 30},
    *({"padding": True, "truncation": True, "max_length": n} for n in (4, 5, 6, 7, 8, 9, 12, 13)),
    {"padding": True, "truncation": "only_first", "max_length": 12},
    {"padding": True, "truncation": "only_second", "max_length": 16},
    {"padding": True, "truncation": False, "max_length": 5},
]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("options", PAIR_OPTIONS, ids=str)
def test_pairs_equal_transformers(roberta, old, options, special):
    want = old(TEXTS, PAIRS, return_tensors="np", add_special_tokens=special, **options)
    got = roberta(TEXTS, PAIRS, return_tensors="np", add_special_tokens=special, **options)
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(got[name], want[name])


def test_one_pair(roberta):
    assert roberta("hello world", "two cats").input_ids == [0, 42891, 232, 2, 2, 7109, 10017, 2]
    assert roberta("hello world", "").input_ids == [0, 42891, 232, 2, 2, 2]
    assert roberta(["a"], ["b"]).input_ids == [[0, 102, 2, 2, 428, 2]]


@pytest.mark.parametrize(
    ("text", "pair", "options", "says"),
    [
        ("a", ["b"], {}, "text_pair: wanted a string"),
        (["a"], "b", {}, "text_pair: wanted 1"),
        (["a", "b"], ["c"], {}, "text_pair: wanted 2"),
        ("a", 3, {}, "text_pair: wanted a string"),
        (["a"], [3], {}, r"text_pair\[0\]"),
        ("hello world", "a", {"truncation": "only_second", "max_length": 6}, r"text\[0\].*only_second.*max_length"),
        ("a", "hello world", {"truncation": "only_first", "max_length": 6}, r"text\[0\].*only_first.*max_length"),
        ("a", None, {"truncation": "only_second", "max_length": 6}, "truncation"),
    ],
    ids=str,
)
def test_pairs_that_are_none(roberta, text, pair, options, says):
    with pytest.raises(InputError, match=says) as caught:
        roberta(text, pair, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"truncation": True, "max_length": 4}], ids=str)
def test_texts_are_padded_and_cut_on_the_right(roberta, old, options):
    got = roberta(TEXTS, return_tensors="np", **options)
    want = old(TEXTS, return_tensors="np", padding=True, **options)
    np.testing.assert_array_equal(got.input_ids, want["input_ids"])
    np.testing.assert_array_equal(got.attention_mask, want["attention_mask"])
    assert got.input_ids[2].tolist()[:4] == [0, 102, 2, 1] and got.attention_mask[2].tolist()[:4] == [1, 1, 1, 0]


# ------------------------------------------------------------------------------------------ words: files


def mapped(mask):
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return {"special_tokens_map": {**names, "pad_token": "<pad>", "mask_token": mask}}


@pytest.mark.parametrize(
    ("files", "takes_the_blank"),
    [
        (mapped("<mask>"), True),
        (mapped({"content": "<mask>", "lstrip": True, "rstrip": False}), True),
        (mapped({"content": "<mask>", "lstrip": False}), False),
        ({"tokenizer_config": {"padding_side": "left", "mask_token": "<mask>"}}, True),
    ],
    ids=str,
)
def test_files_beside_the_vocabulary(tmp_path, files, takes_the_blank):
    tokenizer = Tokenizer.from_pretrained(roberta_folder(tmp_path, **files), "roberta")
    assert tokenizer("a <mask>").input_ids == [0, 102, *([] if takes_the_blank else [1437]), 50264, 2]
    assert tokenizer.padding_side == "right", "RoBERTa counts its positions from the left"


def test_only_robertas_mask_takes_the_blank_by_habit(tmp_path):
    folder = roberta_folder(tmp_path, special_tokens_map={"mask_token": "<mask>"})
    assert Tokenizer.from_pretrained(folder, "opt")("a <mask>").input_ids == [2, 102, 1437, 50264]


def test_tokenizer_json_is_read_as_it_is(old, roberta, tmp_path):
    old.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(tmp_path, "roberta")
    for text in ODD:
        assert tokenizer(text).input_ids == roberta(text).input_ids
    assert tokenizer("a", "b").input_ids == [0, 102, 2, 2, 428, 2]
    assert (tokenizer.mask_token, tokenizer.pad_token_id) == ("<mask>", 1)


def test_a_tokenizer_json_that_frames_nothing_is_framed(old, tmp_path):
    from tokenizers import processors

    bare = old.backend_tokenizer
    bare.post_processor = processors.ByteLevel(trim_offsets=False)
    bare.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_pretrained(tmp_path, "roberta")("hello world").input_ids == PINNED["hello world"]
    assert Tokenizer.from_pretrained(tmp_path)("hello world").input_ids == [42891, 232]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert Tokenizer.from_pretrained(tmp_path, "roberta")("hello world").input_ids == [42891, 232]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true, "bos_token": "<s>"}')
    for family in (None, "t5"):
        assert Tokenizer.from_pretrained(tmp_path, family)("hello world").input_ids == [0, 42891, 232]


def test_a_frame_of_the_files_own_is_kept(old, tmp_path):
    from tokenizers import processors

    other = old.backend_tokenizer
    other.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    other.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_pretrained(tmp_path, "roberta")("hello world").input_ids == [2, 42891, 232]


@pytest.mark.parametrize(("gone", "says"), [("<s>", "bos_token"), ("</s>", "eos_token")])
def test_a_vocabulary_without_the_frame(tmp_path, gone, says):
    folder = roberta_folder(tmp_path)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary[gone]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(TokenizerError, match=f"wanted a {says} to add") as caught:
        Tokenizer.from_pretrained(folder, "roberta")
    assert "\n" not in str(caught.value)


def test_the_tokenizer_saved_is_read_back_by_us_and_by_transformers(roberta, tmp_path):
    roberta.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path, "roberta")
    names = [f.name for f in fields(Tokenizer) if f.name != "backend"]
    assert [getattr(again, n) for n in names] == [getattr(roberta, n) for n in names]
    for other in (transformers.AutoTokenizer.from_pretrained(tmp_path), again):
        for text in ODD:
            assert other(text)["input_ids"] == roberta(text).input_ids
        assert other("a", "b")["input_ids"] == [0, 102, 2, 2, 428, 2]
        assert other.mask_token == "<mask>" and other.padding_side == "right"


# ------------------------------------------------------------------------------------------ both together


@pytest.fixture
def folder(words, tmp_path):
    return roberta_folder(tmp_path / "model", preprocessor_config={"size": 64})


@pytest.fixture
def processor(folder):
    return BridgeTowerProcessor.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_what_goes_in_decides_what_comes_out(processor, kind):
    ids = {"input_ids": (1, 9), "attention_mask": (1, 9)}
    pixels = {"pixel_values": (1, 3, 64, 64), "pixel_mask": (1, 64, 64)}
    for batch, want in [
        (processor(photo(48, 64), MASKED, return_tensors=kind), {**ids, **pixels}),
        (processor(images=photo(48, 64), text=MASKED, return_tensors=kind), {**ids, **pixels}),
        (processor(photo(48, 64), return_tensors=kind), pixels),
        (processor(text=MASKED, return_tensors=kind), ids),
    ]:
        assert list(batch) == list(want)
        assert {name: tuple(value.shape) for name, value in batch.items()} == want
        assert {type(value).__module__ for value in batch.values()} == {"numpy" if kind == "np" else "torch"}
    with pytest.raises(ValueError, match="found neither"):
        processor(return_tensors=kind)


def test_a_batch_equals_transformers(processor, old):
    other = transformers.BridgeTowerProcessor(theirs(size=64), old)
    pictures, texts = [photo(48, 64), photo(64, 48, 1)], ["hello world", CAPTION]
    want = other(images=pictures, text=texts, padding=True, return_tensors="np")
    for got in (
        processor(pictures, texts, padding=True, return_tensors="np"),
        processor(pictures, texts, return_tensors="np"),
        processor(pictures, texts, True, True, False, None, return_tensors="np"),
    ):
        assert set(got) == set(want)
        for name in got:
            np.testing.assert_array_equal(got[name], want[name])


def test_options_reach_both_parts(processor, old):
    picture = photo(48, 64)
    assert processor(picture, CAPTION, max_length=4).input_ids == [0, 4688, 2274, 2]
    assert processor(picture, "a", text_pair="b").input_ids == [0, 102, 2, 2, 428, 2]
    assert processor(picture, CAPTION, add_special_tokens=False).input_ids == PINNED[CAPTION][1:-1]
    assert processor(picture, "a", size=96, return_tensors="np").pixel_values.shape == (1, 3, 96, 96)
    assert processor(picture, "a", do_center_crop=False, return_tensors="np").pixel_mask.shape == (1, 64, 64)
    flat = np.zeros((3, 9, 3), np.uint8)
    assert len(processor(flat, "a", input_data_format="channels_last").pixel_values) == 1
    for call in ({"images": picture}, {"text": "a"}):
        with pytest.raises(TypeError, match="paddding"):
            processor(**call, paddding=True)
    with pytest.raises(InputError, match="'tf'"):
        processor(picture, "a", return_tensors="tf")


def test_a_masked_word_is_asked_for_and_the_answer_read(processor):
    """The documentation's example, with a model of random weights."""
    parts = {"hidden_size": 64, "num_hidden_layers": 2}
    text = {**parts, "num_attention_heads": 1, "intermediate_size": 8}
    config = BridgeTowerConfig(
        **{**parts, "num_attention_heads": 1}, text_config=text, vision_config={**parts, "image_size": 64}
    )
    encoding = processor(photo(48, 64), MASKED, return_tensors="pt")
    outputs = BridgeTowerForMaskedLM(config)(**encoding)
    results = processor.decode(outputs.logits.argmax(axis=-1).squeeze(0).tolist())
    assert outputs.logits.shape == (1, 9, 50265) and isinstance(results, str)
    results = processor.decode([0, 102, 2335, 546, 66, 9, 5, 2931, 2])
    assert results == "<s>a dog looking out of the window</s>"
    assert processor.batch_decode(encoding.input_ids, skip_special_tokens=True) == ["a looking out of the window"]


# ------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize(
    ("config", "size"),
    [({"vision_config": {"image_size": 294}}, 294), ({"vision_config": {}}, 288), ({"vision_config": None}, 288)],
    ids=str,
)
def test_a_missing_preprocessor_config_is_read_off_the_model(tmp_path, config, size):
    processor = BridgeTowerProcessor.from_pretrained(roberta_folder(tmp_path, config=config))
    assert processor.image_processor == BridgeTowerImageProcessor(size=size)
    assert processor.tokenizer.mask_token_id == 50264


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.name.split("__")[1])
def test_folders_of_the_hub(tmp_path, path):
    """A vocabulary, merges, and a preprocessor_config.json: there is no tokenizer_config.json in those repositories."""
    processor = BridgeTowerProcessor.from_pretrained(
        roberta_folder(tmp_path, preprocessor_config=json.loads(path.read_text()))
    )
    batch = processor(photo(48, 64), "hello world", return_tensors="np")
    edge = 294 if "large" in path.name else 288
    assert batch.pixel_values.shape == (1, 3, edge, edge) and batch.input_ids.tolist() == [PINNED["hello world"]]


def test_what_the_processor_saves_is_read_back_by_us_and_by_transformers(processor, tmp_path):
    new = tmp_path / "deep" / "new"
    processor.save_pretrained(new)
    pictures, texts = [photo(48, 64), photo(64, 48, 1)], ["a <mask>", CAPTION]
    want = processor(pictures, texts, return_tensors="np")
    again = BridgeTowerProcessor.from_pretrained(new)(pictures, texts, return_tensors="np")
    other = transformers.BridgeTowerProcessor.from_pretrained(new, backend="pil")
    theirs = other(images=pictures, text=texts, padding=True, return_tensors="np")
    assert set(again) == set(theirs) == set(want)
    for name in want:
        np.testing.assert_array_equal(again[name], want[name])
        np.testing.assert_array_equal(theirs[name], want[name])
    names = ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in new.iterdir()) == names


def test_folders_that_hold_no_processor(tmp_path):
    with pytest.raises(WeightsError, match='"demo"'):
        BridgeTowerProcessor.from_pretrained(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json or config\.json"):
        BridgeTowerProcessor.from_pretrained(roberta_folder(tmp_path / "words"))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        BridgeTowerProcessor.from_pretrained(tmp_path)


def test_importing_the_processor_loads_neither_pillow_nor_tokenizers():
    heavy = ("PIL", "tokenizers", "torch", "transformers", "huggingface_hub")
    code = f"import sys, minivl.processors.bridgetower; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
