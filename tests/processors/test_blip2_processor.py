"""The processor as the documentation's examples call it."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivl.errors import ConfigError, ImageError, InputError, MinivlError, TokenizerError, WeightsError
from minivl.processors.blip2 import Blip2Processor
from minivl.processors.calls import BatchFeature

WORDS = Path(__file__).parents[1] / "golden" / "opt_words"
PROMPT = "Question: how many cats are there? Answer:"


def photo(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def folder_of(path, **files):
    """WORDS' vocabulary and the given JSON files."""
    shutil.copytree(WORDS, path, dirs_exist_ok=True)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path, config={"text_config": {"model_type": "opt"}}, preprocessor_config={"size": 16})


@pytest.fixture
def processor(folder):
    return Blip2Processor.from_pretrained(folder)


# ------------------------------------------------------------------------------------------ calling


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_what_goes_in_decides_what_comes_out(processor, kind):
    pixels = {"pixel_values": (1, 3, 16, 16)}
    ids = {"input_ids": (1, 11), "attention_mask": (1, 11)}
    for batch, want in [
        (processor(photo(), return_tensors=kind), pixels),
        (processor(images=photo(), text=PROMPT, return_tensors=kind), {**pixels, **ids}),
        (processor(photo(), PROMPT, return_tensors=kind), {**pixels, **ids}),
        (processor(text=PROMPT, return_tensors=kind), ids),
    ]:
        assert list(batch) == list(want)
        assert {name: tuple(value.shape) for name, value in batch.items()} == want
        assert {type(value).__module__ for value in batch.values()} == {"numpy" if kind == "np" else "torch"}
    with pytest.raises(ValueError, match="found neither"):
        processor(return_tensors=kind)


def test_without_tensors_there_are_lists(processor):
    batch = processor(photo(), PROMPT)
    assert isinstance(batch.pixel_values, list) and batch.pixel_values[0].shape == (3, 16, 16)
    assert batch.input_ids == [2, 45641, 35, 141, 171, 10017, 32, 89, 116, 31652, 35]
    assert batch.attention_mask == [1] * 11


def test_it_equals_transformers(processor, folder):
    transformers = pytest.importorskip("transformers")
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(folder, **names, add_bos_token=True, padding_side="left")
    theirs = transformers.Blip2Processor(BlipImageProcessorPil(size=16), tokenizer)
    pictures, texts = [photo(), photo(1)], [PROMPT, "two cats"]
    want = theirs(images=pictures, text=texts, padding=True, return_tensors="np")
    got = processor(images=pictures, text=texts, return_tensors="np")
    for name in ("pixel_values", "input_ids", "attention_mask"):
        np.testing.assert_array_equal(got[name], want[name])


def test_a_ragged_batch_is_padded_on_the_left_without_being_asked(processor):
    batch = processor([photo(), photo()], ["hello world", PROMPT], return_tensors="np")
    assert batch.input_ids[0].tolist() == [1] * 8 + [2, 42891, 232]
    assert batch.attention_mask[0].tolist() == [0] * 8 + [1] * 3
    assert processor(text=["hello world", PROMPT], padding=False).input_ids[0] == [2, 42891, 232]


def test_pictures_may_be_paths_and_arrays(processor, tmp_path):
    photo().save(tmp_path / "a.png")
    want = processor(photo(), return_tensors="np").pixel_values
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(photo()), [tmp_path / "a.png"]):
        np.testing.assert_array_equal(processor(picture, return_tensors="np").pixel_values, want)
    flat = np.zeros((3, 9, 3), np.uint8)
    with pytest.raises(ImageError, match="input_data_format"):
        processor(flat)
    assert len(processor(flat, input_data_format="channels_last").pixel_values) == 1
    with pytest.raises(ImageError, match="do_rescale=False"):
        processor(np.full((9, 9, 3), 0.5))
    assert processor(np.full((9, 9, 3), 1.0), do_rescale=False).pixel_values[0].max() > 1.9
    with pytest.raises(ImageError, match="no such file"):
        processor(PROMPT)


def test_options_reach_the_tokenizer(processor):
    assert processor(photo(), PROMPT, max_length=3).input_ids == [2, 45641, 35]
    assert processor(text=PROMPT, add_special_tokens=False).input_ids[0] == 45641
    assert len(processor(text=PROMPT, truncation=False, max_length=3).input_ids) == 11
    assert len(processor(text=PROMPT, padding="max_length", max_length=20).input_ids) == 20
    with pytest.raises(InputError, match="'tf'"):
        processor(photo(), PROMPT, return_tensors="tf")
    with pytest.raises(TypeError, match="paddding"):
        processor(text=PROMPT, paddding=True)


def test_one_picture_may_go_with_several_questions(processor):
    batch = processor(photo(), [PROMPT, "two cats", "a dog"], return_tensors="np")
    assert len(batch.pixel_values) == 1 and len(batch.input_ids) == 3


def test_decoding(processor):
    ids = np.array([[2, 7109, 10017, 11963, 15, 10, 16433, 50118, 1], [2, 10, 2335, 50118, 1, 1, 1, 1, 1]])
    assert [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)] == [
        "two cats laying on a couch",
        "a dog",
    ]
    assert processor.decode(ids[1]) == "</s> a dog\n" + "<pad>" * 5
    assert processor.decode(ids[1], skip_special_tokens=True) == " a dog\n"


# ------------------------------------------------------------------------------------------ the batch


def test_a_batch_is_a_dict_with_attributes(processor):
    batch = processor(photo(), PROMPT, return_tensors="np")
    assert batch.pixel_values is batch["pixel_values"] and dict(**batch) == dict(batch)
    batch.labels = batch.input_ids
    assert batch["labels"] is batch.input_ids
    assert pickle.loads(pickle.dumps(BatchFeature(a=1))).a == 1
    with pytest.raises(AttributeError, match="'pixels'.*pixel_values, input_ids"):
        batch.pixels  # noqa: B018


def torch_names():
    torch = pytest.importorskip("torch")
    return torch.float16, torch.device("cpu")


def test_to_casts_floats_alone_and_in_place_of_the_old(processor):
    half, cpu = torch_names()
    calls = [
        ("cpu", "float16"), (None, np.float16), (cpu, half), ("cpu", np.dtype("float16")), ("cpu:0", "torch.float16"),
        (half,), ("float16",), (np.float16,),
    ]  # fmt: skip
    for kind in ("np", "pt"):
        for call in calls:
            if kind == "pt" and call[0] == "cpu:0":
                continue
            batch = processor(photo(), PROMPT, return_tensors=kind)
            before = batch.pixel_values
            assert batch.to(*call) is batch
            assert str(batch.pixel_values.dtype).removeprefix("torch.") == "float16", (kind, call)
            assert str(batch.input_ids.dtype).removeprefix("torch.") == "int64"
            assert str(before.dtype).removeprefix("torch.") == "float32", "the old array is left alone"
    batch = processor(photo(), PROMPT, return_tensors="np")
    assert batch.to("cpu").to(None).to(device=cpu).to(dtype="float64").pixel_values.dtype == np.float64
    lists = processor(photo(), PROMPT).to("cpu", "float16")
    assert lists.pixel_values[0].dtype == np.float16 and lists.input_ids[0] == 2


def test_bfloat16_is_for_tensors(processor):
    torch = pytest.importorskip("torch")
    batch = processor(photo(), PROMPT, return_tensors="pt").to(device="cpu", dtype=torch.bfloat16)
    assert batch.pixel_values.dtype == torch.bfloat16 and batch.input_ids.dtype == torch.int64
    assert processor(photo(), return_tensors="pt").to("meta").pixel_values.device.type == "meta"
    assert processor(text=PROMPT, return_tensors="pt").to("meta").input_ids.device.type == "meta"


def test_what_numpy_arrays_cannot_do_is_said(processor):
    torch = pytest.importorskip("torch")
    batch = processor(photo(), PROMPT, return_tensors="np")
    for device in ("cuda", "cuda:1", torch.device("cuda"), 0, "mps"):
        with pytest.raises(InputError, match="NumPy array.*CPU") as caught:
            batch.to(device)
        assert 'return_tensors="pt"' in str(caught.value)
    for dtype in ("bfloat16", torch.bfloat16):
        with pytest.raises(InputError, match="no bfloat16"):
            batch.to("cpu", dtype)
    for dtype in ("int64", np.int8, "half", torch.int64):
        with pytest.raises(InputError, match="dtype: wanted one of"):
            batch.to("cpu", dtype)
    assert batch.pixel_values.dtype == np.float32


# ------------------------------------------------------------------------------------------ files


def t5_folder(path):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=2))
    backend.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(
        json.dumps({"text_config": {"model_type": "t5"}, "vision_config": {"image_size": 28}})
    )
    return path


def test_config_json_settles_the_padding_side(folder, tmp_path):
    assert Blip2Processor.from_pretrained(folder).tokenizer.padding_side == "left"
    (tmp_path / "t5").mkdir()
    t5 = Blip2Processor.from_pretrained(t5_folder(tmp_path / "t5"))
    assert t5.tokenizer.padding_side == "right"
    assert t5(text=["a", "aa"], return_tensors="np").input_ids.tolist() == [[3, 0], [3, 3]]
    folder_of(folder, tokenizer_config={"padding_side": "right"})
    assert Blip2Processor.from_pretrained(folder).tokenizer.padding_side == "left", "an OPT writes where its row ends"


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"vision_config": {"image_size": 364}}, 364),
        ({"vision_config": {}}, 224),
        ({}, 224),
        ({"vision_config": None}, 224),
    ],
)
def test_a_missing_preprocessor_config_is_read_off_the_model(tmp_path, config, size):
    processor = Blip2Processor.from_pretrained(folder_of(tmp_path, config=config))
    assert processor.image_processor.size == {"height": size, "width": size}
    assert processor.tokenizer.bos_token_id == 2 and processor.tokenizer.padding_side == "left"


def test_a_language_model_without_a_type_is_an_opt_and_begins_with_its_bos(tmp_path):
    """transformers leaves out of config.json what equals its default, and a tokenizer.json may not add the BOS."""
    from minivl.processors.tokenizer import Tokenizer

    backend = Tokenizer.from_pretrained(WORDS).backend
    value = json.loads(backend.to_str())
    value["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8}}))
    assert Blip2Processor.from_pretrained(tmp_path)(text="hello world").input_ids == [2, 42891, 232]


def test_newer_files_are_read_and_their_query_tokens_passed_over(tmp_path):
    nested = {
        "image_processor": {"size": {"height": 8, "width": 8}},
        "num_query_tokens": 32,
        "processor_class": "Blip2Processor",
    }
    processor = Blip2Processor.from_pretrained(folder_of(tmp_path, processor_config=nested))
    assert processor.image_processor.size == {"height": 8, "width": 8}
    assert processor(photo(), "hello world").input_ids == [2, 42891, 232]


def test_folders_that_hold_no_processor(tmp_path):
    with pytest.raises(WeightsError):
        Blip2Processor.from_pretrained(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json or config\.json"):
        Blip2Processor.from_pretrained(folder_of(tmp_path / "words"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Blip2Processor.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(MinivlError, match=r"config\.json"):
        Blip2Processor.from_pretrained(tmp_path)


def test_what_is_saved_is_read_back_by_us_and_by_transformers(processor, tmp_path):
    transformers = pytest.importorskip("transformers")
    new = tmp_path / "deep" / "new"
    processor.save_pretrained(new)
    pictures, texts = [photo(), photo(1)], [PROMPT, "two </s> cats"]
    want = processor(pictures, texts, return_tensors="np")
    again = Blip2Processor.from_pretrained(new)(pictures, texts, return_tensors="np")
    other = transformers.Blip2Processor.from_pretrained(new, backend="pil")
    theirs = other(images=pictures, text=texts, padding=True, return_tensors="np")
    for name in ("pixel_values", "input_ids", "attention_mask"):
        np.testing.assert_array_equal(again[name], want[name])
        np.testing.assert_array_equal(theirs[name], want[name])
    names = ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in new.iterdir()) == names


def test_a_full_disk_leaves_the_old_files_whole(processor, tmp_path, monkeypatch):
    processor.save_pretrained(tmp_path / "new")
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    processor.image_processor.size = {"height": 99, "width": 99}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        processor.save_pretrained(tmp_path / "new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before


def test_importing_the_processor_loads_neither_pillow_nor_tokenizers():
    heavy = ("PIL", "tokenizers", "torch", "transformers", "huggingface_hub")
    code = f"import sys, minivl.processors.blip2; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_without_torch_the_tensors_asked_for_name_the_extra(processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"minivl\[torch\]"):
        processor(photo(), return_tensors="pt")
