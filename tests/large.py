"""A BLIP-2 as large as Salesforce/blip2-opt-2.7b, with random weights: can this machine caption with it, and how fast?

    python tests/large.py FOLDER        writes it in bfloat16 (7.5 GB) unless it is there, then prints a table

Each row is a process of its own: seconds to load, seconds to the first token (the picture, 33 tokens read) and for each
one after it, and the most memory that the process ever held; `mapped` is what of that are pages of the file, which the
system takes back when it needs them. The texts are nonsense.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minivl import Blip2Config, Blip2ForConditionalGeneration
from minivl.config import OPTConfig
from minivl.weights import files, header, names, tree

SIZE = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "num_hidden_layers": 32}
NEW = 9  # tokens after the first
IMAGE = 50265  # an id that transformers replaces by what the picture says
OURS = {
    "minivl bfloat16": {"dtype": "bfloat16"},
    "minivl int8": {"load_in_8bit": True},
    "minivl weight-only": {"load_in_8bit": "weight-only"},
    "minivl float32": {},
}
THEIRS = {"transformers bfloat16": "bfloat16", "transformers float32": "float32"}


def write(folder: Path) -> None:
    """Config and weights. Every tensor is a stretch of the same noise: quick to write, random enough for a clock."""
    text = OPTConfig(**SIZE, num_attention_heads=32, vocab_size=50272, eos_token_id=50118)
    config = Blip2Config(text_config=text)
    config.save_pretrained(folder)
    entries = [entry for entry in names.blip2(config) if isinstance(entry, tree.Entry)]
    noise = files.convert(np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(np.float32), "BF16")
    ones = files.convert(np.ones(1 << 16, np.float32), "BF16")
    with (folder / "model.part").open("wb") as file:
        file.write(header.write_header((entry.hub, "BF16", entry.shape) for entry in entries))
        for entry in entries:
            left, source = int(np.prod(entry.shape)), ones if entry.init == 1.0 else noise
            while left:
                file.write(source[:left].data)
                left -= min(left, len(source))
    (folder / "model.part").rename(folder / files.SINGLE)


def memory() -> str:
    """The most that this process held, and what of it is mapped now, in GiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, mapped = (int(status[name].split()[0]) / 2**20 for name in ("VmHWM", "RssFile"))
    return f"{peak:.1f} ({mapped:.1f})"


def run(folder: Path, side: str) -> None:
    """One row of the table."""
    pixels = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    start = time.perf_counter()
    if side in OURS:
        model = Blip2ForConditionalGeneration.from_pretrained(folder, **OURS[side])
        loaded = time.perf_counter()

        def generate(count):
            model.generate(pixels, max_new_tokens=count, min_new_tokens=count)
    else:
        import torch
        import transformers

        kind = getattr(torch, THEIRS[side])
        theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(folder, dtype=kind)
        loaded = time.perf_counter()
        theirs.config.image_token_index = IMAGE
        ids = torch.tensor([[IMAGE] * theirs.config.num_query_tokens + [theirs.config.text_config.bos_token_id]])

        def generate(count):
            with torch.inference_mode():
                inputs = {"pixel_values": torch.from_numpy(pixels).to(kind), "input_ids": ids}
                theirs.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)

    generate(1)
    first = time.perf_counter()
    generate(1)
    warm = time.perf_counter()
    generate(1 + NEW)
    end = time.perf_counter()
    token = (end - warm - (warm - first)) / NEW
    print(f"| {side} | {loaded - start:.1f} | {first - loaded:.1f} | {token:.2f} | {memory()} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", choices=[*OURS, *THEIRS], help="one row only, in this process")
    arguments = parser.parse_args()
    if arguments.side:
        return run(arguments.folder, arguments.side)
    if not (arguments.folder / files.SINGLE).exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        write(arguments.folder)
    print(
        "| | loading, s | first token, s | each more, s | peak memory (mapped), GiB |\n|---|---:|---:|---:|---:|",
        flush=True,
    )
    for side in (*OURS, *THEIRS):
        subprocess.run([sys.executable, __file__, str(arguments.folder), "--side", side], check=False)


if __name__ == "__main__":
    main()
