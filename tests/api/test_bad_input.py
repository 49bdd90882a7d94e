"""Bad input, row by row: what is wrong with it, and what is said about that.

ROWS is the table. Every row is a file, a folder or a call with one thing wrong; the outcome is one line of the stated
kind that names the file, the tensor or the setting, from Python and, where a command can meet it, from the command
line with exit status 1 and nothing on standard output. Nothing is executed, no process started, no file written.
What is accepted and what that means stands below the table.
"""

import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import fuzz
import numpy as np
import pytest
from bad_tokenizers import BAD_JSON
from packed import EIGHT, entry, pack
from PIL import Image, ImageCms

import minivl
from minivl import Blip2ForConditionalGeneration, Blip2Processor
from minivl.cli import main
from minivl.config.blip2 import Blip2Config
from minivl.errors import ConfigError, ImageError, InputError, MinivlError, Note, TokenizerError, WeightsError
from minivl.processors.image_processor import BlipImageProcessor, open_picture
from minivl.processors.tokenizer import Tokenizer
from minivl.weights import files, places

CIRCLE = Path("tutorials/pictures/red_circle.png")
WATCHMAN = fuzz.Watchman()


@pytest.fixture(scope="module")
def demo():
    model = Blip2ForConditionalGeneration.from_pretrained("demo")
    processor = Blip2Processor.from_pretrained("demo")
    return model, processor, processor(images=str(CIRCLE), text="Question: what?", return_tensors="np")


def copy(folder, **changes):
    """The tiny model in a folder of its own, after `changes` to its configuration ("text_config.vocab_size": 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in places.find("demo").iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = place[part]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors(folder):
    return {name: np.array(stored.float32()) for name, stored in files.read(folder).items()}


# ---------------------------------------------------------------------------------------- what makes a bad file


def picture_bytes(kind="PNG", **how):
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (23, 31, 3), np.uint8)).save(file, kind, **how)
    return file.getvalue()


def giant(side):
    """A small PNG that says it is side x side."""
    small = picture_bytes()
    body = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    return small[:12] + body + struct.pack(">I", zlib.crc32(body)) + small[33:]


def weights(data):
    """A model whose weights file holds these bytes."""

    def make(folder):
        copy(folder)
        (folder / "model.safetensors").write_bytes(data)

    return make


def spoiled(change):
    """A model of which change(tensors) has been saved."""

    def make(folder):
        copy(folder)
        found = tensors(folder)
        change(found)
        files.save(folder, found)

    return make


def bad_number(name, value):
    return spoiled(lambda tensors: tensors[name].reshape(-1).__setitem__(-1, value))


def index(weight_map, *, tensor="a", shards=("x.safetensors",), link=None):
    """A model in shards, as this index says."""

    def make(folder):
        copy(folder)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        for shard in shards:
            (folder / shard).write_bytes(pack({tensor: entry()}, EIGHT))
        (folder.parent / "outside.safetensors").write_bytes(pack({tensor: entry()}, EIGHT))
        if link:
            (folder / link).symlink_to("../outside.safetensors")

    return make


def pickled(program, name="pytorch_model.bin", packed=True):
    def make(folder):
        copy(folder)
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(fuzz.archive(program, bytes(64)) if packed else program)

    return make


def config(**changes):
    return lambda folder: copy(folder, **changes)


def written(name, content):
    """A model with a file of this content."""

    def make(folder):
        copy(folder)
        data = content() if callable(content) else content
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return make


def huge_tokenizer(folder):
    copy(folder)
    os.truncate(folder / "tokenizer.json", 200 * 2**20)


def picture(data):
    return lambda path: path.write_bytes(data)


# ---------------------------------------------------------------------------------------- the table


class Row(NamedTuple):
    area: str
    case: str
    make: object  # of a "picture" row: writes the file; of a "model" row: makes the folder
    kind: type
    words: tuple


HIDDEN, BIAS, NORM = (
    f"language_model.model.decoder.{name}"
    for name in ("layers.0.fc1.weight", "layers.0.self_attn.q_proj.bias", "final_layer_norm.weight")
)
CALL = b"\x80\x02cposix\nsystem\nX\x0a\x00\x00\x00touch pwned\x85R."
DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
ROWS = [
    Row("picture", "a JPEG cut short", picture(picture_bytes("JPEG")[:600]), ImageError, ("damaged",)),
    Row("picture", "a PNG cut short", picture(picture_bytes()[:900]), ImageError, ("damaged",)),
    Row(
        "picture",
        "a wrong checksum",
        picture(picture_bytes()[:300] + b"?" + picture_bytes()[301:]),
        ImageError,
        ("damaged",),
    ),
    Row("picture", "no bytes", picture(b""), ImageError, ("empty file",)),
    Row("picture", "a text", picture(b"dear diary\n"), ImageError, ("wanted a picture", "dear diary")),
    Row("picture", "10,000 squared", picture(giant(10_000)), ImageError, ("pixels", "10000 x 10000")),
    Row("picture", "14,000 squared", picture(giant(14_000)), ImageError, ("pixels",)),
    Row("picture", "2^31 squared", picture(giant(2**31 - 1)), ImageError, ("pixels",)),
    Row("picture", "FITS", picture(b"SIMPLE  =                    T" + b" " * 2850), ImageError, ("wanted a picture",)),
    Row(
        "picture",
        "EPS",
        picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ImageError,
        ("wanted a picture",),
    ),
    Row("picture", "PSD", picture(b"8BPS\0\1" + bytes(60)), ImageError, ("wanted a picture",)),
    Row("picture", "a pipe", os.mkfifo, ImageError, ("no regular file",)),
    Row("picture", "nothing", lambda path: None, ImageError, ("no such file",)),
    Row("picture", "a broken link", lambda path: path.symlink_to("gone"), ImageError, ("no such file",)),
    Row("picture", "a link to itself", lambda path: path.symlink_to(path.name), ImageError, ("no such file",)),
    #
    Row(
        "weights",
        "a header beyond the cap",
        weights(struct.pack("<Q", 2**24 + 1) + bytes(99)),
        WeightsError,
        ("at most 16777216",),
    ),
    Row(
        "weights",
        "a header of 2^63",
        weights(struct.pack("<Q", 2**63) + bytes(99)),
        WeightsError,
        ("9223372036854775808",),
    ),
    Row(
        "weights",
        "bytes behind the last tensor",
        weights(pack({"a": entry()}, EIGHT + b"x")),
        WeightsError,
        ("not fully covered", "damaged"),
    ),
    Row(
        "weights",
        "a hole",
        weights(pack({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20))),
        WeightsError,
        ("invalid offset for tensor `b`",),
    ),
    Row(
        "weights",
        "an overlap",
        weights(pack({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12))),
        WeightsError,
        ("invalid offset for tensor `b`",),
    ),
    Row(
        "weights",
        "a key twice",
        weights(
            (lambda text: len(text).to_bytes(8, "little") + text + EIGHT)(
                b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
            )
        ),
        WeightsError,
        ("'a' twice",),
    ),
    Row(
        "weights",
        "2^40 elements",
        weights(pack({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, EIGHT)),
        WeightsError,
        ("not fully covered", "damaged"),
    ),
    Row(
        "weights",
        "no elements, 2^40 wide",
        weights(pack({"a": entry(shape=(0, 2**40), offsets=(0, 0))}, b"")),
        WeightsError,
        ("'a'", "2**40"),
    ),
    Row(
        "weights",
        "another shape than the configuration's",
        config(**{"text_config.ffn_dim": 12}),
        WeightsError,
        ("fc1.weight", "wrong shape"),
    ),
    Row("weights", "a tensor too few", spoiled(lambda found: found.pop(BIAS)), WeightsError, (BIAS, "1 missing")),
    Row(
        "weights",
        "a tensor too many",
        spoiled(lambda found: found.update(x=np.zeros(2, np.float32))),
        WeightsError,
        ("1 unexpected: x",),
    ),
    Row("weights", "NaN in a matrix", bad_number(HIDDEN, np.nan), WeightsError, (HIDDEN, "NaN")),
    Row("weights", "NaN in a bias", bad_number(BIAS, np.nan), WeightsError, (BIAS, "NaN")),
    Row("weights", "infinity in a norm", bad_number(NORM, np.inf), WeightsError, (NORM, "infinity")),
    Row("weights", "NaN in the queries", bad_number("query_tokens", np.nan), WeightsError, ("query_tokens", "NaN")),
    Row(
        "weights",
        "8-bit floats",
        weights(pack({"a": entry("F8_E4M3", (8,))}, EIGHT)),
        WeightsError,
        ("'a'", "F8_E4M3", "bfloat16"),
    ),
    Row(
        "weights",
        "a name that is a path and a control character",
        weights(pack({"../x\0": entry()}, EIGHT)),
        WeightsError,
        ("printable",),
    ),
    Row("weights", "a pickle that calls something", pickled(CALL), WeightsError, ("'posix.system'", "not run")),
    Row("weights", "a bare pickle", pickled(CALL, packed=False), WeightsError, ("zip archive",)),
    Row("weights", "a .pt file", pickled(CALL, "model.pt"), WeightsError, ("model.pt", "safe_serialization=True")),
    Row("weights", "a .pkl file", pickled(CALL, "model.pkl"), WeightsError, ("model.pkl", "pickle")),
    Row(
        "weights",
        "a shard in the folder above",
        index({"a": "../outside.safetensors"}),
        WeightsError,
        ("plain name", "../outside"),
    ),
    Row("weights", "an absolute shard", index({"a": "/etc/passwd"}), WeightsError, ("plain name", "/etc/passwd")),
    Row(
        "weights",
        "a link out of the folder",
        index({"a": "y.safetensors"}, link="y.safetensors"),
        WeightsError,
        ("y.safetensors", "link"),
    ),
    Row(
        "weights",
        "a shard that is not there",
        index({"a": "z.safetensors"}),
        WeightsError,
        ("z.safetensors", "no such file"),
    ),
    Row("weights", "a shard with an endless name", index({"a": "z" * 5000}), WeightsError, ("no such file",)),
    Row(
        "weights",
        "a tensor in two shards",
        index({"a": "x.safetensors", "b": "y.safetensors"}, shards=("x.safetensors", "y.safetensors")),
        WeightsError,
        ("'a' once", "x.safetensors", "y.safetensors"),
    ),
    #
    Row(
        "config",
        "a negative number",
        config(**{"text_config.hidden_size": -1}),
        ConfigError,
        ("config.json", "hidden_size", "-1"),
    ),
    Row("config", "zero", config(**{"vision_config.patch_size": 0}), ConfigError, ("patch_size", "0")),
    Row("config", "10^12", config(**{"text_config.vocab_size": 10**12}), ConfigError, ("vocab_size", "1000000000000")),
    Row("config", "NaN", config(**{"vision_config.layer_norm_eps": math.nan}), ConfigError, ("layer_norm_eps", "nan")),
    Row("config", "a text for a number", config(num_query_tokens="32"), ConfigError, ("num_query_tokens", "'32'")),
    Row(
        "config",
        "heads that do not divide the width",
        config(**{"text_config.num_attention_heads": 7}),
        ConfigError,
        ("num_attention_heads", "7"),
    ),
    Row("config", "an unknown model", config(model_type="gpt5"), ConfigError, ("model_type", "gpt5")),
    Row(
        "config",
        "an unknown language model",
        config(**{"text_config.model_type": "llama"}),
        ConfigError,
        ("model_type", "llama"),
    ),
    Row("config", "a part that is a list", config(vision_config=[]), ConfigError, ("vision_config", "[]")),
    Row("config", "deep JSON", written("config.json", DEEP), ConfigError, ("config.json", "deep")),
    Row(
        "config",
        "20 MB of JSON",
        written("config.json", lambda: b" " * 20 * 2**20),
        ConfigError,
        ("config.json", "at most"),
    ),
    Row("config", "no JSON", written("config.json", "{'a': 1}"), ConfigError, ("config.json", "JSON")),
    Row(
        "config",
        "a picture size of 10^9",
        written("preprocessor_config.json", '{"size": 1000000000}'),
        ConfigError,
        ("size", "4096"),
    ),
    Row(
        "config",
        "pixels beyond float32",
        written("preprocessor_config.json", '{"image_std": [1, 1e-60, 1]}'),
        ConfigError,
        ("image_std",),
    ),
    Row(
        "config",
        "a spread beyond float32",
        written("preprocessor_config.json", '{"image_std": [1, 1e308, 1]}'),
        ConfigError,
        ("image_std",),
    ),
    #
    Row(
        "tokenizer",
        "a merge that overruns",
        written("tokenizer.json", BAD_JSON["a merge that overruns"]),
        TokenizerError,
        ("refused",),
    ),
    Row(
        "tokenizer",
        "a template's missing token",
        written("tokenizer.json", BAD_JSON["a template's missing token"]),
        TokenizerError,
        ("refused",),
    ),
    Row("tokenizer", "deep JSON", written("tokenizer.json", DEEP), TokenizerError, ("tokenizer.json",)),
    Row("tokenizer", "200 MB", huge_tokenizer, TokenizerError, ("tokenizer.json", "at most")),
    Row(
        "tokenizer",
        "no tokenizer",
        lambda folder: (copy(folder) / "tokenizer.json").unlink(),
        TokenizerError,
        ("tokenizer.json",),
    ),
]


def tree_of(folder):
    """Every file below a folder, with what tells whether it was touched."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def refusal(call, kind, *words):
    """What is said by a call that fails as it should, having done nothing else."""
    WATCHMAN.seen.clear()
    WATCHMAN.on = True
    try:
        with pytest.raises(MinivlError) as caught:
            call()
    finally:
        WATCHMAN.on = False
    message = str(caught.value)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {message}"
    assert "\n" not in message and len(message) < 1300, message
    assert all(word in message for word in words), message
    assert WATCHMAN.seen == []
    return message


@pytest.mark.parametrize("row", [row for row in ROWS if row.area == "picture"], ids=lambda row: row.case)
def test_a_bad_picture(row, tmp_path, capfd):
    path = tmp_path / "bad.png"
    row.make(path)
    before = tree_of(tmp_path)
    refusal(lambda: open_picture(path), row.kind, str(path), *row.words)
    status = main(["caption", str(path), str(CIRCLE), "--max-new-tokens", "1"])  # the other one is captioned
    out, err = capfd.readouterr()
    complaints = [line for line in err.splitlines() if "toy world" not in line]
    assert status == 1 and len(out.splitlines()) == 1 and len(complaints) == 1
    assert complaints[0].startswith("minivl: ") and str(path) in complaints[0]
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.area != "picture"], ids=lambda row: f"{row.area}: {row.case}"
)
def test_a_bad_model(row, tmp_path, capsys):
    folder = tmp_path / "model"
    row.make(folder)
    before = tree_of(tmp_path)

    def load():
        Blip2ForConditionalGeneration.from_pretrained(folder)
        Blip2Processor.from_pretrained(folder)(text="h" * 60, return_tensors="np")

    refusal(load, row.kind, *row.words)
    assert main(["ask", str(CIRCLE), "h" * 60, "--model", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and all(word in err for word in row.words)
    assert tree_of(tmp_path) == before and not Path("pwned").exists()


@pytest.mark.parametrize(
    "mode",
    [
        dict(dtype="bfloat16"),
        dict(dtype="auto"),
        dict(load_in_8bit=True),
        dict(load_in_8bit="weight-only"),
        dict(load_in_8bit=True, dtype="float16"),
        dict(backend="torch"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name", [HIDDEN, BIAS, NORM, "query_tokens", "language_model.model.decoder.embed_tokens.weight"]
)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_no_mode_of_loading_lets_a_nan_pass(name, mode, stored, tmp_path):
    minivl.ops.get(mode.get("backend", "numpy"))  # loads libraries, which is no reading of a file
    found = tensors(copy(tmp_path / "model"))
    found[name].reshape(-1)[0] = np.nan
    files.save(tmp_path / "model", found, stored)
    refusal(
        lambda: Blip2ForConditionalGeneration.from_pretrained(tmp_path / "model", **mode), WeightsError, name, "NaN"
    )


def test_float64_that_float32_cannot_hold_is_named():
    stored = files.Stored("F64", np.array([1.0, 1e300]), "big")
    refusal(stored.checked, WeightsError, "'big'", "float32")


# ---------------------------------------------------------------------------------------- nothing large is allocated

CHILD = """
import re, sys
from minivl.cli import main
status = main(sys.argv[1:])
print(status, int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


def child(*arguments):
    """(exit status, peak memory in MB, standard error) of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    status, peak = done.stdout.split()[-2:]
    return int(status), int(peak), done.stderr


def sparse(folder, size):
    """A file of `size` bytes that takes no room, whose one tensor fills it."""
    copy(folder)
    head = pack({"a": entry("U8", (size,), (0, size))}, b"")
    (folder / "model.safetensors").write_bytes(head)
    os.truncate(folder / "model.safetensors", len(head) + size)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak on Linux only")
@pytest.mark.parametrize(
    "make, words",
    [
        (weights(pack({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, EIGHT)), "damaged"),
        (weights(pack({"a": entry(shape=(2**39,), offsets=(0, 2**41))}, EIGHT)), "cut short"),
        (lambda folder: sparse(folder, 2**39), "unexpected: a"),  # it is all there, and mapped, and not read
        (
            config(
                **{
                    "text_config.hidden_size": 2**20,
                    "text_config.ffn_dim": 2**20,
                    "text_config.num_hidden_layers": 1024,
                    "text_config.word_embed_proj_dim": 2**20,
                }
            ),
            "missing",
        ),
        (pickled(b"\x80\x02}(" + b"]" * 15 * 2**20 + b"u."), "data.pkl"),
        (huge_tokenizer, "tokenizer.json"),
    ],
    ids=[
        "a claim of 2^40",
        "a claim of 2^39",
        "2^39 bytes",
        "a giant's configuration",
        "a pickle of 15 MB",
        "a tokenizer",
    ],
)
def test_a_refusal_takes_little_memory(make, words, tmp_path):
    try:
        make(tmp_path / "model")
    except OSError:
        pytest.skip("this file system holds no file of that size")
    status, peak, err = child("caption", CIRCLE, "--model", tmp_path / "model")
    assert status == 1 and words in err and len(err.splitlines()) == 1
    assert peak < 200, f"{peak} MB"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak on Linux only")
def test_a_giant_picture_takes_little_memory(tmp_path):
    (tmp_path / "bad.png").write_bytes(giant(14_000))
    status, peak, err = child("caption", tmp_path / "bad.png")
    assert status == 1 and "pixels" in err and peak < 200


def test_without_memory_there_is_a_line(capsys, monkeypatch):
    monkeypatch.setattr(np, "frombuffer", lambda *_: (_ for _ in ()).throw(MemoryError("Unable to allocate 9 TiB")))
    assert main(["caption", str(CIRCLE)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == "minivl: not enough memory: Unable to allocate 9 TiB\n"


# ---------------------------------------------------------------------------------------- arrays

GREY = np.full((5, 7, 3), 7.0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.where(GREY == 7, np.nan, GREY), "NaN"),
        (np.full((5, 7, 3), np.inf), "infinity"),
        (GREY + 0.5, "0..255 or floats in 0..1"),
        (GREY * 100, "0..255"),
        (GREY - 9, "0..255"),
        (GREY.astype(np.uint16), "uint16"),
        (GREY > 0, "bool"),
        (GREY + 1j, "complex"),
        (np.zeros((0, 7, 3), np.uint8), "at least one pixel"),
        (np.zeros((3, 7, 3), np.uint8), "channels_first"),
        (np.zeros((5, 7, 2), np.uint8), "channels"),
        (np.zeros(5, np.uint8), "axes"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_an_array_that_is_no_picture(array, words):
    refusal(lambda: BlipImageProcessor()(array, return_tensors="np"), ImageError, words)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_pixels_that_are_no_numbers(demo, bad):
    model, _, inputs = demo
    pixels = inputs.pixel_values.astype(np.float64)
    pixels[0, 1, 2, 3] = bad
    for call in (lambda: model.generate(pixels), lambda: model(pixels, inputs.input_ids)):
        refusal(call, InputError, "pixel_values", "finite")


# ---------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(max_new_tokens=0), "max_new_tokens"),
        (dict(max_new_tokens=-1), "max_new_tokens"),
        (dict(num_beams=10**9), "num_beams"),
        (dict(num_beams=2, num_return_sequences=3), "num_return_sequences"),
        (dict(do_sample=True, num_return_sequences=10**9), "num_return_sequences"),
        (dict(do_sample=True, temperature=0), "temperature"),
        (dict(do_sample=True, temperature=math.nan), "temperature"),
        (dict(do_sample=True, top_p=math.nan), "top_p"),
        (
            dict(eos_token_id=10**9, max_new_tokens=10**12),
            "positions",
        ),  # the end never comes, the text stops all the same
    ],
    ids=str,
)
def test_generate_refuses_what_has_no_meaning(demo, settings, words):
    model, _, inputs = demo
    refusal(lambda: model.generate(**inputs, **settings), InputError, words)


def test_more_beams_than_words_and_an_end_that_never_comes_stop_all_the_same(demo):
    model, _, inputs = demo
    beams = model.config.text_config.vocab_size + 1
    assert model.generate(**inputs, num_beams=beams, max_new_tokens=2).shape[1] <= 3
    assert model.generate(**inputs, eos_token_id=10**9).shape == (1, 20)


def test_an_id_beyond_the_models_table_is_named(demo):
    model, _, inputs = demo
    rows = len(model.params["language"]["tokens"])
    refusal(lambda: model.generate(inputs.pixel_values, np.array([[2, rows]])), InputError, str(rows), "ids run from 0")


@pytest.mark.parametrize(
    ("text", "words"),
    [("a\ud800b", "surrogate"), (b"bytes", "string"), (3, "string"), ([], "string"), (["a", None], "string")],
    ids=repr,
)
def test_what_is_no_text(demo, text, words):
    kind = TokenizerError if words == "surrogate" else InputError
    refusal(lambda: demo[1](text=text, return_tensors="np"), kind, words)


@pytest.mark.parametrize(
    "text",
    ["", "   ", "a" * 10**6, "a\0b", "שלום \u202eabc", "👩‍👩‍👧‍👦 🏳️‍🌈", "\ufeff", "e\u0301"],
    ids=lambda t: ascii(t)[:12],
)
def test_odd_text_is_text(demo, text):
    processor = demo[1]
    ids = processor(text=text, return_tensors="np").input_ids[0]
    assert ids[0] == processor.tokenizer.bos_token_id
    if len(text) < 100:
        assert processor.tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text
    else:
        assert len(ids) == 1 + len(text) and len(set(ids[1:].tolist())) == 1


def test_a_text_that_is_too_long_for_the_model_is_refused(demo):
    model, processor, inputs = demo
    long = processor(text="a" * 10**5, return_tensors="np")
    refusal(lambda: model.generate(inputs.pixel_values, **long), InputError, "positions")


CONTROL = "</s> a <pad></s>x<mask>"


def test_what_a_person_types_never_becomes_a_control_token_unless_asked(demo):
    tokenizer = Tokenizer.from_pretrained(places.find("demo"), "opt")
    specials = {token.content: i for i, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    assert {"</s>", "<pad>"} <= specials.keys()
    asked = tokenizer(CONTROL)["input_ids"]
    tokenizer.split_special_tokens = True
    plain = tokenizer(CONTROL)["input_ids"]
    assert len(set(asked) & set(specials.values())) == 2
    assert plain[0] == tokenizer.bos_token_id and not set(plain[1:]) & set(specials.values())
    assert tokenizer.decode(plain[1:], clean_up_tokenization_spaces=False) == CONTROL
    tokenizer.split_special_tokens = False
    assert tokenizer(CONTROL)["input_ids"] == asked


@pytest.mark.parametrize(
    "arguments",
    [["caption", "{}", "--prompt", CONTROL], ["ask", "{}", CONTROL], ["match", "{}", CONTROL], ["rank", CONTROL, "{}"]],
    ids=lambda a: a[0],
)
def test_the_command_line_reads_words(arguments, monkeypatch, capsys):
    seen = []
    real = Tokenizer._encode

    def encode(self, texts, *rest):
        seen.append((self.split_special_tokens, real(self, texts, *rest)))
        return seen[-1][1]

    monkeypatch.setattr(Tokenizer, "_encode", encode)
    assert main([a.format(CIRCLE) for a in arguments]) == 0
    capsys.readouterr()
    assert seen and all(split and not set(ids[1:-1]) & {0, 1, 2} for split, ids in seen), seen


def test_a_control_token_beside_the_mask_is_refused(capsys):
    assert main(["fill", str(CIRCLE), "a </s> <mask>"]) == 1
    assert "'</s>'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("size", [(1, 65000), (65000, 1), (1, 1)], ids=str)
def test_extreme_shapes_are_read_and_told(size, tmp_path, capsys):
    path = tmp_path / "a.png"
    Image.new("RGB", size, "red").save(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = BlipImageProcessor(size=16)(path, return_tensors="np").pixel_values
    notes = [str(one.message) for one in caught if one.category is Note]
    assert pixels.shape == (1, 3, 16, 16) and np.isfinite(pixels).all()
    assert len(notes) == (max(size) > 1) and all(str(path) in note and "\n" not in note for note in notes)
    assert main(["caption", str(path), "--max-new-tokens", "1"]) == 0
    assert sum("times as long as wide" in line for line in capsys.readouterr().err.splitlines()) == (max(size) > 1)


@pytest.mark.parametrize("kind", ["gif", "webp", "tiff", "png"])
def test_of_several_frames_the_first_is_read_and_told(kind, tmp_path, capsys):
    path = tmp_path / f"a.{kind}"
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(path, save_all=True, append_images=[blue])
    with pytest.warns(Note, match="only the first"):
        assert open_picture(path).getpixel((3, 3))[0] > 200
    red.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        open_picture(path)


def test_every_mode_of_a_picture_keeps_its_meaning(tmp_path):
    """What is hidden stays hidden, 16 bits and floats are scaled, turned pictures are set upright."""
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.save(tmp_path / "hidden.png")
    assert open_picture(tmp_path / "hidden.png").getpixel((4, 4)) == (255, 255, 255)
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((4, 4)) == (128, 128, 128)
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    assert open_picture(tmp_path / "float.tiff").getpixel((4, 4))[0] in (127, 128)
    lab = ImageCms.applyTransform(
        Image.new("RGB", (8, 8), "red"),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    lab.save(tmp_path / "lab.tiff")
    assert open_picture(tmp_path / "lab.tiff").getpixel((4, 4))[0] > 200
    turned = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (4, 8)


def test_bfloat16_is_read_exactly(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x0001, 0x7F7F], np.uint16)
    (tmp_path / "model.safetensors").write_bytes(pack({"a": entry("BF16", (4,))}, bits.tobytes()))
    values = files.read(tmp_path)["a"].checked()
    assert values.view(np.uint32).tolist() == (bits.astype(np.uint32) << 16).tolist()


@pytest.mark.parametrize(
    "key", ["auto_map", "_attn_implementation_internal", "custom_pipelines", "torch_dtype", "__class__"]
)
def test_a_key_that_asks_for_code_is_dropped_and_nothing_runs(key, tmp_path):
    value = {"AutoConfig": "evil--evil.Config", "AutoModel": "os.system"}
    folder = copy(tmp_path / "model", **{key: value, f"text_config.{key}": value})
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    WATCHMAN.seen.clear()
    WATCHMAN.on = True
    try:
        model = Blip2ForConditionalGeneration.from_pretrained(folder)
    finally:
        WATCHMAN.on = False
    assert WATCHMAN.seen == [] and key not in model.config.to_dict()
    assert not hasattr(model.config, key) or key == "__class__"


def test_a_head_that_no_file_holds_answers_nothing(tmp_path, capsys):
    """In Python a fresh head is made, with a warning, to be trained; the command line has no use for one."""
    folder = tmp_path / "model"
    shutil.copytree(places.find("demo-bridgetower"), folder)
    found = {name: array for name, array in tensors(folder).items() if not name.startswith("itm_score")}
    files.save(folder, found)
    assert main(["match", str(CIRCLE), "a red circle", "--model", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "itm_score" in err and len(err.splitlines()) == 1


def test_scores_that_are_no_numbers_are_no_answer(tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(places.find("demo-bridgetower"), folder)
    found = tensors(folder)
    for name in found:
        if name.startswith("itm_score") or name.startswith("mlm_score") and name.endswith("weight"):
            found[name] = np.full_like(found[name], 3e38)
    files.save(folder, found)
    with np.errstate(all="ignore"):
        assert main(["match", str(CIRCLE), "a red circle", "--model", str(folder)]) == 1
        assert main(["fill", str(CIRCLE), "a <mask>", "--model", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("not all numbers") == 2


# ---------------------------------------------------------------------------------------- the command line

NAMES = [
    "ünï cødé.png",
    "with space.png",
    "new\nline.png",
    'quote".png',
    "-dash.png",
    "\udcff.png",
    "tab\t.png",
    "%s{}.png",
]


def test_odd_names_stay_one_line_and_valid_json(tmp_path, capsys):
    for name in NAMES:
        shutil.copy(CIRCLE, tmp_path / name)
    (tmp_path / "broken\n\udcfe.png").write_bytes(b"")
    assert main(["caption", "--json", str(tmp_path), "--max-new-tokens", "1"]) == 1
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(record["picture"]).name for record in records] == sorted([*NAMES, "broken\n\udcfe.png"])
    assert sum("error" in record for record in records) == 1
    assert main(["caption", str(tmp_path), "--max-new-tokens", "1"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["caption", "{empty}"], 1, "holds no file"),
        (["caption", "-"], 1, "no such file"),
        (["caption", "{gone}"], 1, "no such file"),
        (["caption", str(CIRCLE), "--model", "{gone}"], 1, "no such folder"),
        (["caption", str(CIRCLE), "--model", "{empty}"], 1, "config.json"),
        (["caption", str(CIRCLE), "--model", str(CIRCLE)], 1, "a file"),
        (["caption"], 2, "PICTURE"),
        (["caption", str(CIRCLE), "--max-new-tokens", "0"], 2, "above 0"),
        (["caption", str(CIRCLE), "--beams", "-1"], 2, "above 0"),
        (["caption", str(CIRCLE), "--sample", "--temperature", "nan"], 2, "above 0"),
        (["ask", str(CIRCLE), "  "], 2, "empty"),
        (["fill", str(CIRCLE), "no mask"], 2, "<mask>"),
        (["dance"], 2, "invalid choice"),
        ([], 2, "COMMAND"),
    ],
    ids=str,
)
def test_exit_status(arguments, status, words, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [a.format(empty=tmp_path / "empty", gone=tmp_path / "gone") for a in arguments]
    try:
        found = main(arguments)
    except SystemExit as stop:
        found = stop.code
    out, err = capsys.readouterr()
    assert found == status and out == "" and words in err and "Traceback" not in err


def test_the_same_stem_twice_is_two_answers(tmp_path, capsys):
    for name in ("a.png", "a.PNG", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(CIRCLE, tmp_path / name)
    assert main(["caption", "--json", str(tmp_path), str(tmp_path / "sub"), "--max-new-tokens", "1"]) == 0
    found = [json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == sorted(str(tmp_path / name) for name in ("a.png", "a.PNG", "sub/a.png"))


# ---------------------------------------------------------------------------------------- pickles that hurt


def test_a_tuple_in_a_tuple_and_so_on_ends_no_process(tmp_path):
    """Python itself dies of looking up such a key; the reader takes names alone for keys. In a child, to be sure."""
    program = b"\x80\x02})" + b"\x85" * 400_000 + b"Ns."
    pickled(program)(tmp_path / "model")
    status, peak, err = child("caption", CIRCLE, "--model", tmp_path / "model")
    assert status == 1 and "key of type tuple" in err and peak < 400


def test_an_archive_that_holds_a_name_twice(tmp_path):
    copy(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    path = tmp_path / "model/pytorch_model.bin"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for data in (bytes(64), bytes(64)):
            file.writestr("archive/data/0", data)
        file.writestr("archive/data.pkl", fuzz.program())
    refusal(lambda: files.read(path.parent), WeightsError, "once", "twice")


def test_the_configuration_object_refuses_what_the_file_would():
    refusal(lambda: Blip2Config(num_query_tokens=0), ConfigError, "num_query_tokens")


@pytest.mark.parametrize("kind", ["tokenizer", "tiff"])
def test_what_libraries_print_by_themselves_is_not_shown(kind, tmp_path):
    """Rust's panics and libtiff's complaints go to the process's standard error, past Python; a child shows them."""
    copy(tmp_path / "model")
    path, data = tmp_path / "bad.tiff", bytearray(picture_bytes("TIFF", compression="tiff_lzw"))
    data[len(data) // 4 :: 3] = bytes(len(data[len(data) // 4 :: 3]))
    path.write_bytes(data[:60] + data[60:])
    if kind == "tokenizer":
        (tmp_path / "model/tokenizer.json").write_text(BAD_JSON["a merge that overruns"])
    program = [sys.executable, "-m", "minivl", "caption", str(path), "--model", str(tmp_path / "model")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert str(path if kind == "tiff" else "tokenizer.json") in done.stderr


LIMITED = """
import resource, sys
from minivl.processors.image_processor import open_picture
from minivl.errors import ImageError
open_picture("tutorials/pictures/red_circle.png")
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20,) * 2)
try:
    open_picture(sys.argv[1])
except ImageError as error:
    print("refused", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set as on Linux")
def test_a_chunk_that_claims_two_gigabytes_gets_no_room_for_them(tmp_path):
    """Found by tests/helpers/fuzz.py: Pillow asks the file for as many bytes as a PNG's chunk claims to have."""
    data = bytearray(picture_bytes())
    at = data.index(b"IDAT") - 4
    length = struct.unpack(">I", data[at : at + 4])[0]
    end = at + 12 + length
    chunk = b"tEXt" + b"x"  # behind the pixels: it is read when they are all there
    data[end:end] = struct.pack(">I", 2**31 - 1) + chunk
    for place in (at, end):
        damaged = bytearray(data)
        damaged[place : place + 4] = struct.pack(">I", 2**31 - 1)
        (tmp_path / "bad.png").write_bytes(damaged)
        program = [sys.executable, "-c", LIMITED, str(tmp_path / "bad.png")]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "MemoryError" not in done.stderr, done.stderr


@pytest.mark.parametrize("resample", [-0.0, 3.0, "3", True, 6, -1])
def test_a_filter_is_a_whole_number(resample):
    """Found by tests/helpers/fuzz.py: 3.0 is in range(6) too, and no filter of Pillow's."""
    refusal(lambda: BlipImageProcessor(resample=resample), ConfigError, "resample", repr(resample))
