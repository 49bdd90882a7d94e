"""Damaged files by the thousand: whatever stands in a file, reading it succeeds or raises a MinivlError, and soon.

    python tests/helpers/fuzz.py --count 100000 --seed 0            every kind of file in turn
    python tests/helpers/fuzz.py --kind picture --count 1000        one kind
    python tests/helpers/fuzz.py --seed 0 --only 4711 --keep DIR    one mutant again, its files kept

A mutant is a good file changed in one to four places: bytes (flipped, set, cut out, doubled, put in, exchanged with
those of another file), digits in texts, or one value of a JSON tree. Mutant number i of a seed is the same on every
machine with the same versions. Where a checksum would stop a change at the door (the chunks of a PNG, the length of a
safetensors header, the zip archive around a pickle) half of the mutants have theirs made right again.

Anything else than a success or a MinivlError of one line is a finding: another exception (a MemoryError too, in a
process that may take one gigabyte more), more than LIMIT seconds, a warning of NumPy's, and any attempt to start a
process, to open a socket or to write, delete or rename a file. Exit status: 0 nothing found, 1 something.
"""

import argparse
import collections
import copy
import io
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = ROOT / "tests" / "golden"
LIMIT = 5.0  # seconds of computing for one file
MORE = 2**30  # bytes that reading may take beyond what the process has at the start
ODD = [
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**40, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, math.nan, math.inf,
    "", "x", "../x", "/etc/passwd", "a\0b", "\n", "\ud800", "x" * 5000, [], [[]], [0], [2**40, 0], {}, {"": 0},
    {"content": "x"}, {"type": "Split"}, "opt", "t5", "F8_E4M3", "BF16",
]  # fmt: skip
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen",
             "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
             "shutil.", "socket.", "ctypes.dlopen", "webbrowser.open", "pty.spawn")  # fmt: skip


# ---------------------------------------------------------------------------------------- the good files


def checkpoint():
    """A safetensors file of a few tensors of different kinds."""
    parts = [("layer.weight", "F32", (3, 4)), ("half", "F16", (5,)), ("brain", "BF16", (2, 2)), ("whole", "I64", (2,))]
    parts.append(("nothing", "U8", (0, 7)))
    header, at = {}, 0
    for name, kind, shape in parts:
        end = at + math.prod(shape) * {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}[kind]
        header[name], at = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(i % 64 for i in range(at))


def archive(program, storage, root="archive"):
    """The zip archive that torch.save writes around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", program)
        archive.writestr(f"{root}/byteorder", b"little")
        archive.writestr(f"{root}/data/0", storage)
    return file.getvalue()


def program():
    """The pickle of two tensors in one storage, written by hand in protocol 2."""

    def text(word):
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x10tQ"
    parts = b"".join(
        text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + steps + b"\x89}tR"
        for name, offset, size, steps in (
            ("weight", b"K\x00", b"K\x03K\x04\x86", b"K\x04K\x01\x86"),
            ("bias", b"K\x0c", b"K\x04\x85", b"K\x01\x85"),
        )
    )
    return b"\x80\x02}(" + parts + b"u."


def tokenizer():
    """A byte-level BPE with a normalizer, a template and added tokens: most of what a tokenizer.json may hold."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "</s>", "<pad>"]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("h", "e")]))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("  ", " ")])
    split = pre_tokenizers.Split(" ", "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("</s>"), AddedToken("<pad>")])
    backend.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 257)])
    return backend.to_str().encode()


def pictures():
    """A small picture in every format that is read, some of them with a palette, transparency, frames or EXIF."""
    from PIL import Image

    noise = np.random.RandomState(0).randint(0, 256, (17, 23, 3), np.uint8)
    colour, found = Image.fromarray(noise), []
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    for picture, kind, how in (
        (colour, "PNG", {}), (colour.convert("P"), "PNG", {"transparency": 3}), (grey16, "PNG", {}),
        (colour.convert("RGBA"), "PNG", {"exif": exif}), (colour, "JPEG", {"exif": exif}),
        (colour.convert("CMYK"), "JPEG", {}), (colour, "JPEG", {"progressive": True}), (colour, "WEBP", {}),
        (colour.convert("RGBA"), "WEBP", {"lossless": True}), (colour, "GIF", {}),
        (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(9)]}), (colour, "BMP", {}),
        (colour.convert("1"), "BMP", {}), (colour, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour.convert("L").convert("F"), "TIFF", {}), (colour.convert("LAB"), "TIFF", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        picture.save(file, kind, **how)
        found.append(file.getvalue())
    return found


def goods():
    """{kind: good files}"""
    index = {"metadata": {"total_size": 8}, "weight_map": {"layer.weight": "a.safetensors", "half": "a.safetensors"}}
    texts = [path.read_bytes() for path in sorted(HERE.glob("*/config.json"))]
    return {
        "safetensors": [checkpoint()],
        "index": [json.dumps(index).encode()],
        "config": texts + [path.read_bytes() for path in sorted((ROOT / "tests" / "hub_configs").glob("*config.json"))],
        "preprocessor": [(ROOT / "minivl/demo/blip2/preprocessor_config.json").read_bytes()],
        "tokenizer": [tokenizer()],
        "tokenizer_config": [(ROOT / "minivl/demo/blip2/tokenizer_config.json").read_bytes()],
        "pickle": [archive(program(), bytes(64))],
        "picture": pictures(),
    }


# ---------------------------------------------------------------------------------------- the damage


def mutant(kind, good, dice):
    """One of the good files of a kind, damaged."""
    data = bytearray(dice.choice(good[kind]))
    if kind == "pickle" and dice.random() < 0.7:
        return archive(bytes(bytes_changed(bytearray(program()), dice)), bytes(64))
    if kind == "safetensors":
        head = int.from_bytes(data[:8], "little")
        text, rest = data[8 : 8 + head], data[8 + head :]
        if dice.random() < 0.8:
            text = json_changed(text, dice) if dice.random() < 0.5 else bytes_changed(text, dice)
            return len(text).to_bytes(8, "little") + bytes(text) + bytes(rest)
    if kind == "picture":
        data = bytes_changed(data, dice)
        return png_made_right(data) if data[:4] == b"\x89PNG" and dice.random() < 0.5 else bytes(data)
    if kind not in ("safetensors", "pickle") and dice.random() < 0.6:
        return bytes(json_changed(data, dice))
    return bytes(bytes_changed(data, dice))


def bytes_changed(data, dice):
    """One to four changes of bytes anywhere."""
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(data) + 1), dice.choice((1, 1, 2, 4, 8, 40))
        change = dice.randrange(8)
        if change == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif change == 1 and at < len(data):
            data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = data[at : at + length] * dice.choice((1, 2, 50))
        elif change == 4:
            data[at:at] = dice.randbytes(length)
        elif change == 5:
            data[at : at + length] = dice.choice((b"\xff", b"\0", b"\x80")) * length
        elif change == 6:
            other = dice.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + length]
        elif dice.random() < 0.3:
            del data[at:]
        else:
            number_changed(data, at, dice)
    return data


def number_changed(data, at, dice):
    """The next run of digits becomes another number."""
    start = next((i for i in range(at, len(data)) if 48 <= data[i] < 58), None)
    if start is not None:
        end = next((i for i in range(start, len(data)) if not 48 <= data[i] < 58), len(data))
        data[start:end] = dice.choice((b"-1", b"0", b"1", b"65536", b"4294967296", b"9" * 19, b"1e999", b"0.5", b"NaN"))


def json_changed(data, dice):
    """One to three values of a JSON tree replaced, taken out, doubled or given another key."""
    tree = json.loads(bytes(data))
    for _ in range(dice.randint(1, 3)):
        holders = [node for node in nodes(tree) if isinstance(node, (dict, list)) and node]
        if not holders:
            break
        holder = dice.choice(holders)
        key = dice.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = dice.randrange(5)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[str(dice.choice(ODD))[:40]] = holder.pop(key)
        elif change == 2 and isinstance(holder, list):
            holder.insert(dice.randrange(len(holder) + 1), holder[key])
        elif change == 3 and len(others := list(nodes(tree))) > 1:
            holder[key] = json.loads(json.dumps(dice.choice(others)))
        else:
            holder[key] = copy.deepcopy(dice.choice(ODD))
    return bytearray(json.dumps(tree, ensure_ascii=dice.random() < 0.9).encode("utf-8", "surrogatepass"))


def nodes(tree):
    """Every value of a JSON tree."""
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(child)


def png_made_right(data):
    """The same PNG with checksums that fit, as far as it can be walked through."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


# ---------------------------------------------------------------------------------------- the readers


def read_weights(folder):
    """Every tensor, looked at."""
    from minivl.weights import files

    for stored in files.read(folder).values():
        if stored.array.dtype.kind == "f" or stored.dtype == "BF16":
            stored.float32().sum()


def read_config(folder):
    """Every class that may be asked for the file, and the names of the tensors that it describes."""
    from minivl.config import blip2 as config
    from minivl.config import bridgetower as config_bridgetower
    from minivl.errors import ConfigError
    from minivl.weights import names

    errors = []
    for kind, table in ((config.Blip2Config, names.blip2), (config_bridgetower.BridgeTowerConfig, None)):
        try:
            found = kind.from_pretrained(folder)
        except ConfigError as error:
            errors.append(error)
            continue
        json.loads(found.to_json_string())
        if table is not None:
            for entry in table(found):
                assert entry.path
    if len(errors) == 2:
        raise errors[0]


def read_preprocessor(folder):
    from minivl.processors.blip2 import Blip2Processor
    from minivl.processors.bridgetower import BridgeTowerProcessor

    grey = np.zeros((5, 7, 3), np.uint8)
    errors = []
    for kind in (Blip2Processor.image_class, BridgeTowerProcessor.image_class):
        try:
            pixels = kind.from_pretrained(folder)(grey, return_tensors="np").pixel_values
            assert np.isfinite(pixels).all(), "a picture became NaN or infinity"
        except ValueError as error:
            if type(error).__module__ != "minivl.errors":
                raise
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]


def read_tokenizer(folder):
    from minivl.processors.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(folder, "opt")
    ids = tokenizer(["hello he", "a  b"], return_tensors="np", padding=True).input_ids
    for row in ids:
        assert isinstance(tokenizer.decode(row), str)


def read_picture(folder):
    from minivl.processors.blip2 import Blip2Processor
    from minivl.processors.image_processor import open_picture

    picture = open_picture(folder / "picture")
    assert picture.mode == "RGB"
    pixels = Blip2Processor.image_class(size=16)(picture, return_tensors="np").pixel_values
    assert np.isfinite(pixels).all()


READERS = {
    "safetensors": ("model.safetensors", read_weights),
    "index": ("model.safetensors.index.json", read_weights),
    "config": ("config.json", read_config),
    "preprocessor": ("preprocessor_config.json", read_preprocessor),
    "tokenizer": ("tokenizer.json", read_tokenizer),
    "tokenizer_config": ("tokenizer_config.json", read_tokenizer),
    "pickle": ("pytorch_model.bin", read_weights),
    "picture": ("picture", read_picture),
}
BESIDE = {  # what a file of a kind needs beside it
    "index": {"a.safetensors": lambda good: good["safetensors"][0]},
    "tokenizer_config": {"tokenizer.json": lambda good: good["tokenizer"][0]},
}


class Watchman:
    """Notes what reading a file must never do. An audit hook cannot be taken off again: it is off between files."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event.startswith(FORBIDDEN) or writes:
            self.seen.append(f"{event} {arguments!r}"[:200])


def outcome(kind, folder, watchman):
    """(what came of reading the file: "read" or the name of an error, what is wrong with that or None)"""
    from minivl.errors import MinivlError

    watchman.seen.clear()
    began, wrong = time.process_time(), None
    watchman.on = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            READERS[kind][1](folder)
        found = "read"
    except MinivlError as error:
        found = type(error).__name__
        if "\n" in str(error) or not str(error):
            wrong = f"a message of several lines, or none: {str(error)!r}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # PanicException of the tokenizers library is no Exception
        found, wrong = type(error).__name__, f"{type(error).__name__}: {error}"[:300]
    finally:
        watchman.on = False
    took = time.process_time() - began
    if wrong is None and watchman.seen:
        wrong = f"it did {watchman.seen[0]}"
    if wrong is None and took > LIMIT:
        wrong = f"it took {took:.1f} s"
    return found, wrong


def prepared(kind, data, good, folder):
    """A folder with nothing in it but the file and what it needs beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / READERS[kind][0]).write_bytes(data)
    for name, make in BESIDE.get(kind, {}).items():
        (folder / name).write_bytes(make(good))
    return folder


def run(count, seed, kinds=None, only=None, keep=None, tell=None):
    """Read `count` mutants: (how often each kind had each outcome, the findings)."""
    good, watchman = goods(), Watchman()
    kinds = kinds or list(READERS)
    home = Path(keep or tempfile.mkdtemp(prefix="fuzz-"))
    tally, findings = collections.Counter(), []
    for kind in READERS:  # the good files first: whatever is imported late is imported here
        for data in good[kind]:
            found, wrong = outcome(kind, prepared(kind, data, good, home / "good"), watchman)
            if found != "read" and kind != "config":  # a configuration of the Hub may be of another family
                findings.append(f"good {kind}: {found} {wrong}")
                print(findings[-1], flush=True)
    for i in range(count) if only is None else [only]:
        kind = kinds[i % len(kinds)]
        data = mutant(kind, good, random.Random(f"{seed} {i}"))
        found, wrong = outcome(kind, prepared(kind, data, good, home / "mutant"), watchman)
        tally[kind, found] += 1
        if wrong:
            findings.append(f"mutant {i} of seed {seed} ({kind}): {wrong}")
            print(findings[-1], flush=True)
        if tell and i % 1000 == 999:
            print(f"{i + 1} read, {len(findings)} findings", file=sys.stderr, flush=True)
    if not keep:
        shutil.rmtree(home)
    return tally, findings


def main():
    parser = argparse.ArgumentParser(description="Read damaged files by the thousand.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(READERS))
    parser.add_argument("--only", type=int, metavar="I", help="mutant number I alone")
    parser.add_argument("--keep", metavar="FOLDER", help="where the last files are kept")
    arguments = parser.parse_args()
    began = time.perf_counter()
    goods()  # imports what it needs, before the room is measured
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE, taken + MORE))
    tally, findings = run(arguments.count, arguments.seed, arguments.kind, arguments.only, arguments.keep, tell=True)
    for kind in READERS:
        row = {found: n for (name, found), n in sorted(tally.items()) if name == kind}
        if row:
            print(f"{kind:18}" + "  ".join(f"{found} {n}" for found, n in row.items()))
    print(f"{sum(tally.values())} mutants in {time.perf_counter() - began:.0f} s, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
