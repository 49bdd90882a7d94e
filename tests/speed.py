"""minivl against transformers, side by side in one run: the same weights in the same memory, float32, two threads each.

    python tests/speed.py [vit] [qformer] [prefill] [decode] [small] [bridgetower] [demo]    without arguments: all

prefill and decode take 12 GB of memory. small is a token in each of the forms that weights can have here.

Sides alternate, with a pause between them because idle BLAS threads keep a core busy for a while. Printed is the median
of the rounds' ratios, transformers' time / ours (above 1 we are faster), and each side's median time. These are ratios
of one machine: name its processor beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import transformers
from transformers.models.blip_2 import modeling_blip_2 as reference
from transformers.models.bridgetower import modeling_bridgetower as reference_towers

import minivl
from minivl import quant
from minivl.config import Blip2QFormerConfig, Blip2VisionConfig, OPTConfig
from minivl.config_bridgetower import BridgeTowerConfig
from minivl.models import opt, qformer, vit
from minivl.ops.numpy_ops import OPS
from minivl.weights import files, names, narrow, tree

torch.set_num_threads(2)
torch.set_grad_enabled(False)
ROUNDS = 5


def compare(what: str, ours: Callable, theirs: Callable, tolerance: float | None = 1e-3) -> None:
    """Print one row of the table. Both functions give an array, and the arrays must agree."""
    a, b = np.asarray(ours()), np.asarray(theirs())  # also the warm-up
    difference = float(np.abs(a - b).max())
    assert tolerance is None or difference < tolerance, f"{what}: the two sides differ by {difference}"
    times: dict[Callable, list[float]] = {ours: [], theirs: []}
    for _ in range(ROUNDS):
        for side in (theirs, ours):
            time.sleep(0.1)
            start = time.perf_counter()
            side()
            times[side].append(time.perf_counter() - start)
    ratios = sorted(t / o for o, t in zip(times[ours], times[theirs], strict=True))
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    our_time, their_time = (f"{statistics.median(times[side]) * 1e3:.1f}" for side in (ours, theirs))
    print(f"| {what} | {ratio} | {our_time} | {their_time} | {difference:.0e} |", flush=True)


def shared(table, module_class, config, std=0.02):
    """The same random weights twice: our tree, and a transformers module whose parameters are views of it."""
    entries = [entry for entry in table if isinstance(entry, tree.Entry)]
    noise = np.random.default_rng(0).normal(0, std, 1 << 22).astype(np.float32)

    def drawn(entry):  # quicker than drawing billions of numbers, and random enough for a clock
        array = np.resize(noise, int(np.prod(entry.shape))).reshape(entry.shape) + np.float32(entry.init or 0)
        return files.Stored("F32", array, entry.hub)

    tensors = {entry.hub: drawn(entry) for entry in entries}
    ours = tree.build(table, tensors, "random weights")
    with torch.device("meta"):
        theirs = module_class(config).eval()
    state = {name: torch.from_numpy(stored.array) for name, stored in tensors.items()}
    if "lm_head.weight" in theirs.state_dict():
        state["lm_head.weight"] = state["model.decoder.embed_tokens.weight"]
    theirs.load_state_dict(state, assign=True, strict=False)
    for name, buffer in list(theirs.named_buffers()):  # numbers of positions and token types are in no file
        owner, _, key = name.rpartition(".")
        filled = torch.arange(buffer.shape[-1]) if key == "position_ids" else torch.zeros(1, dtype=torch.long)
        setattr(theirs.get_submodule(owner), key, filled.expand(buffer.shape).clone())
    return ours, theirs


def speed_vit(layers: int = 39) -> None:
    config = Blip2VisionConfig(num_hidden_layers=layers)
    table = list(names.vit(config))
    ours, theirs = shared(table, reference.Blip2VisionModel, transformers.Blip2VisionConfig(num_hidden_layers=layers))
    pixels = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    tensor = torch.from_numpy(pixels)
    compare(
        f"ViT-g, {layers} layers, one picture",
        lambda: vit.encode(OPS, ours, pixels, config),
        lambda: theirs(tensor).last_hidden_state,
    )


def speed_qformer() -> None:
    config = Blip2QFormerConfig()
    ours, theirs = shared(list(names.qformer(config)), reference.Blip2QFormerModel, transformers.Blip2QFormerConfig())
    rng = np.random.default_rng(1)
    queries, image = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 32, 768), (1, 257, 1408)))
    q, v = torch.from_numpy(queries), torch.from_numpy(image)
    compare(
        "Q-Former, one picture",
        lambda: qformer.encode(OPS, ours, queries, image, config),
        lambda: theirs(query_embeds=q, encoder_hidden_states=v).last_hidden_state,
    )


def size_of_opt(layers: int) -> dict[str, int]:
    """OPT-2.7b's."""
    width = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240}
    return {**width, "num_hidden_layers": layers, "num_attention_heads": 32}


def speed_small(layers: int = 4) -> None:
    size, tokens = size_of_opt(layers), range(100, 124)
    config = OPTConfig(**size)
    table = list(names.opt(config))
    plain, theirs = shared(table, transformers.OPTForCausalLM, transformers.OPTConfig(**size))
    stored = {name: files.Stored("F32", array, name) for name, array in tree.flatten(table, plain).items()}
    modes = {mode: tree.build(table, stored, "", keep=narrow.keeper(mode)) for mode in narrow.MODES}

    def write(ops, p):
        cache = opt.new_cache(p)
        for n, token in enumerate(tokens, 1):
            x = ops.embed(np.array([[token]]), p["tokens"])
            *_, x = opt.states(ops, p, x, np.ones((1, n), np.int64), config, cache)
            logits = opt.logits(ops, p, x[:, -1])
        return logits

    def their_write():
        cache = None
        for token in tokens:
            out = theirs(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
        return out.logits[:, -1]

    for mode, p in {"float32": plain, **modes}.items():
        ops = OPS if mode == "float32" else quant.reading(OPS)
        what = f"OPT-2.7b size ({layers} layers and head), {len(tokens)} tokens one by one, ours in {mode}"
        compare(what, partial(write, ops, p), their_write, tolerance=None)


def speed_opt(parts: list[str], layers: int = 32) -> None:
    size = size_of_opt(layers)
    config = OPTConfig(**size)
    ours, theirs = shared(list(names.opt(config)), transformers.OPTForCausalLM, transformers.OPTConfig(**size))
    embeds = np.random.default_rng(1).normal(size=(1, 40, 2560)).astype(np.float32)
    tokens = np.arange(100, 112)

    def our_prefill():
        cache = opt.new_cache(ours)
        *_, x = opt.states(OPS, ours, embeds, np.ones((1, 40), np.int64), config, cache)
        return opt.logits(OPS, ours, x[:, -1]), cache

    def their_prefill():
        out = theirs(inputs_embeds=torch.from_numpy(embeds), use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.past_key_values

    def our_decode():
        logits, cache = our_prefill()
        start = time.perf_counter()
        for n, token in enumerate(tokens, 41):
            x = OPS.embed(np.array([[token]]), ours["tokens"])
            *_, x = opt.states(OPS, ours, x, np.ones((1, n), np.int64), config, cache)
            logits = opt.logits(OPS, ours, x[:, -1])
        return logits, time.perf_counter() - start

    def their_decode():
        logits, cache = their_prefill()
        start = time.perf_counter()
        for token in tokens:
            out = theirs(input_ids=torch.tensor([[int(token)]]), past_key_values=cache, use_cache=True)
            logits, cache = out.logits[:, -1], out.past_key_values
        return logits, time.perf_counter() - start

    if "prefill" in parts:
        compare(
            f"OPT-2.7b size ({layers} layers), reading 40 tokens", lambda: our_prefill()[0], lambda: their_prefill()[0]
        )
    if "decode" in parts:
        compare(f"OPT-2.7b size ({layers} layers), 40 tokens and then {len(tokens)} more one by one",
                lambda: our_decode()[0], lambda: their_decode()[0])  # fmt: skip


def speed_bridgetower() -> None:
    config = BridgeTowerConfig()
    table = list(names.bridgetower(config))
    ours, theirs = shared(table, reference_towers.BridgeTowerModel, transformers.BridgeTowerConfig())
    model = minivl.BridgeTowerModel(config, ops=OPS, params=ours)
    rng = np.random.default_rng(1)
    for batch in (1, 8):
        pixels = rng.normal(size=(batch, 3, 288, 288)).astype(np.float32)
        ids = rng.integers(4, 50000, (batch, 16))
        inputs = {"input_ids": torch.from_numpy(ids), "pixel_values": torch.from_numpy(pixels)}
        compare(
            f"BridgeTower base, batch {batch}",
            lambda ids=ids, pixels=pixels: model(ids, pixel_values=pixels).pooler_output,
            lambda inputs=inputs: theirs(**inputs).pooler_output,
        )


def speed_demo() -> None:
    processor = minivl.Blip2Processor.from_pretrained("demo")
    model = minivl.Blip2ForConditionalGeneration.from_pretrained("demo")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    picture = "tutorials/pictures/" + sorted(os.listdir("tutorials/pictures"))[0]
    pixels = processor(images=picture, return_tensors="np").pixel_values
    queries, text = model.config.num_query_tokens, model.config.text_config
    ids = torch.tensor([[model.config.image_token_index or 0] * queries + [text.bos_token_id]])

    def reference_caption():
        out = theirs.generate(pixel_values=torch.from_numpy(pixels), input_ids=ids, max_new_tokens=40, do_sample=False)
        return out[0, ids.shape[1] :]

    compare(
        "demo caption, in a running process",
        lambda: model.generate(pixels, max_new_tokens=40)[0, 1:],
        reference_caption,
    )
    command = [sys.executable, "-m", "minivl", "caption", picture]
    starts = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        starts.append(time.perf_counter() - start)
    print(
        f"\n`minivl caption`, cold start to text: median {statistics.median(starts):.2f} s, worst {max(starts):.2f} s"
    )


def main() -> None:
    every = ["vit", "qformer", "prefill", "decode", "small", "bridgetower", "demo"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*every, []])
    parser.add_argument("--layers", type=int, help="fewer layers, for machines with less memory")
    arguments = parser.parse_args()
    parts, layers = arguments.parts or every, {"layers": arguments.layers} if arguments.layers else {}
    print("| work | ratio (spread) | minivl, ms | transformers, ms | largest difference |\n|---|---|---|---|---|")
    if "vit" in parts:
        speed_vit(**layers)
    if "qformer" in parts:
        speed_qformer()
    if {"prefill", "decode"} & set(parts):
        speed_opt(parts, **layers)
    if "small" in parts:
        speed_small(**layers)
    if "bridgetower" in parts:
        speed_bridgetower()
    if "demo" in parts:
        speed_demo()


if __name__ == "__main__":
    main()
