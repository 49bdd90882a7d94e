"""Every shipped configuration of every kernel, and the command that compiles them for chips that are not here.

    python tests/helpers/compile_matrix.py                         the whole matrix as a table
    python tests/helpers/compile_matrix.py attention --chip sm_90  the configurations with "attention" in their name
    python tests/helpers/compile_matrix.py --write                 into tests/golden/compiled.json and kernels/README.md

A configuration is a call of a wrapper as a model makes it: the arrays have the model's shapes and strides, the wrapper
chooses tiles, warps and stages, and what it launches is compiled. Nothing runs. `compiled.py` says what is counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

SNAPSHOT = Path(__file__).parents[1] / "golden" / "compiled.json"
PAGE = Path(__file__).parents[2] / "kernels" / "README.md"
CHIPS = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True)
class Case:
    """One call. Where it ends in a kernel for tensor cores, `useful` tells the multiply-adds of the formula in one trip
    of that kernel's main loop, from its constants; {name of a kernel: that} where several have such loops."""

    call: Callable[[], object]
    useful: Callable[[dict], int] | dict[str, Callable[[dict], int]] | None = None
    narrow: str = ""  # why single numbers of 2 bytes are loaded, where they are
    lesson: str = ""  # what a configuration shows that does not ship, and is compiled for sm_90 alone
    chips: tuple[str, ...] = CHIPS  # fewer, where another configuration of the same kernels stands for the rest


def cases() -> dict[str, Case]:
    """Name -> call, long compilations first, so that no process is left with one at the end."""
    return {
        **attention_cases(),
        **attention_backward_cases(),
        **product_cases(),
        **decoding_cases(),
        **row_cases(),
        **gradient_cases(),
    }


def heads(T: int, H: int, D: int, dtype: str = "float16", B: int = 2, spare: int = 0):
    """q, k or v as a model has it: a linear layer's result (B, T, H·D), seen as (B, H, T, D); `spare`: longer rows."""
    from minivl.kernels.checking.compiled import HostArray, array

    rows = HostArray(array(B, T, H * D + spare, dtype=dtype).array[..., : H * D], dtype)
    return rows.reshape(B, T, H, D).swapaxes(1, 2)


def attention_cases() -> dict[str, Case]:
    from minivl.kernels import attention_naive
    from minivl.kernels.attention import attention
    from minivl.kernels.checking.compiled import array

    def useful(constants: dict) -> int:
        return constants["BT"] * constants["BS"] * constants["D"] * 2

    def case(T: int, S: int, H: int, D: int, dtype: str = "float16", narrow: str = "", **more) -> Case:
        def call():
            q, k, v = heads(T, H, D, dtype), heads(S, H, D, dtype), heads(S, H, D, dtype)
            return attention(q, k, v, **{name: make() if callable(make) else make for name, make in more.items()})

        return Case(call, useful if dtype != "float32" else None, narrow)

    def one_product(constants: dict) -> int:
        return constants["BT"] * constants["BS"] * constants["D"]

    def weights():
        return attention_naive.attention_weights(heads(325, 12, 64), heads(325, 12, 64))

    def naive():
        return attention_naive.attention(heads(257, 16, 88), heads(257, 16, 88), heads(257, 16, 88))

    def padded():
        with patch("minivl.kernels.attention.parts", lambda D: (128, 0)):
            return attention(heads(257, 16, 88), heads(257, 16, 88), heads(257, 16, 88))

    def of_unknown_stride():
        q, k, v = (heads(257, 16, 88, spare=4) for _ in range(3))
        return attention(q, k, v)

    def keys(S: int):
        return lambda: array(2, 1, 1, S, dtype="bool")

    return {
        "attention, ViT-g": case(257, 257, 16, 88),
        "attention, ViT-g, bfloat16": case(257, 257, 16, 88, "bfloat16"),
        "attention, ViT-g, float32": case(257, 257, 16, 88, "float32"),
        "attention, CLIP ViT-B": case(325, 325, 12, 64),
        "attention, CLIP ViT-B, causal": case(325, 325, 12, 64, causal=True),
        "attention, Q-Former's queries to the image": case(32, 257, 12, 64),
        "attention, RoBERTa's words to the image": case(50, 325, 12, 64, mask=keys(325)),
        "attention, OPT-2.7B, causal, padded on the left": case(
            512, 512, 32, 80, narrow="two booleans of the mask", causal=True, mask=keys(512)
        ),
        "attention, OPT-6.7B, causal": case(512, 512, 32, 128, causal=True),
        "attention, Flan-T5-XL's encoder": case(
            512,
            512,
            32,
            64,
            narrow="two booleans of the mask",
            scale=1.0,
            mask=keys(512),
            bias=lambda: array(1, 32, 512, 512),
        ),  # fmt: skip
        "attention, 80 wide": case(257, 257, 16, 80),
        "attention, 256 wide": case(257, 257, 8, 256),
        "attention weights, CLIP ViT-B": Case(weights, one_product),
        "attention, ViT-g, naive": Case(naive, one_product, lesson="scores three times, weights in memory"),
        "attention, ViT-g, padded to 128": Case(padded, useful, lesson="88 columns in 128"),
        "attention, ViT-g, strides not in eights": Case(of_unknown_stride, useful, lesson="rows that begin anywhere"),
        "attention, any bias": case(
            325, 325, 12, 64, bias=lambda: array(1, 12, 325, 325), narrow="rows of 325 numbers begin anywhere"
        ),
    }


def attention_backward_cases() -> dict[str, Case]:
    """`useful` counts what a kernel's own sums need: q·k, dout·v and those of dk and dv, or of dq. Two of the five
    products of the formula are computed by both kernels; test_compiled.py counts them once."""
    from minivl.kernels.attention_backward import attention_backward
    from minivl.kernels.checking.compiled import array

    def products(n: int) -> Callable[[dict], int]:
        return lambda constants: n * constants["BT"] * constants["BS"] * constants["D"]

    useful = {"keys_kernel": products(4), "queries_kernel": products(3), "bias_kernel": products(2)}
    fewer = ("sm_80", "sm_90", "gfx942")

    def case(T: int, S: int, H: int, D: int, narrow: str = "", chips: tuple[str, ...] = CHIPS, **more) -> Case:
        def call():
            dout, q, out, k, v = (heads(n, H, D) for n in (T, T, T, S, S))
            how = {name: make() if callable(make) else make for name, make in more.items()}
            return attention_backward(dout, q, k, v, out=out, lse=array(2, H, T, dtype="float32"), **how)

        return Case(call, useful, narrow, chips=chips)

    def keys(S: int):
        return lambda: array(2, 1, 1, S, dtype="bool")

    return {
        "attention backward, CLIP ViT-B": case(325, 325, 12, 64, chips=fewer),
        "attention backward, ViT-g": case(257, 257, 16, 88, chips=fewer),
        "attention backward, OPT-2.7B, causal, padded on the left": case(
            512, 512, 32, 80, "two booleans of the mask", ("sm_80", "sm_90"), causal=True, mask=keys(512)
        ),
        "attention backward, Flan-T5-XL's encoder": case(
            512, 512, 32, 64, "two booleans of the mask", scale=1.0, mask=keys(512), bias=lambda: array(1, 32, 512, 512)
        ),
    }


def product_cases() -> dict[str, Case]:
    from minivl.kernels.checking.compiled import array
    from minivl.kernels.int8 import int8_linear
    from minivl.kernels.linear import gated_linear, linear
    from minivl.kernels.patches import patch_embed

    def useful(constants: dict) -> int:
        return constants["BLOCK_M"] * constants["BLOCK_F"] * constants["BLOCK_C"]

    def case(M: int, C: int, F: int, act=None, dtype="float16") -> Case:
        def call():
            return linear(array(M, C, dtype=dtype), array(F, C, dtype=dtype), array(F, dtype=dtype), act)

        return Case(call, useful if dtype != "float32" else None)

    def gated(M: int, dtype="float16") -> Case:
        def call():
            weights = array(5120, 2048, dtype=dtype), array(5120, 2048, dtype=dtype)
            return gated_linear(array(M, 2048, dtype=dtype), *weights, act="gelu_tanh")

        return Case(call, (lambda constants: 2 * useful(constants)) if dtype != "float32" else None)

    def int8(M: int, threshold: float) -> Case:
        narrow = "the outlier columns lie anywhere" if threshold else ""
        return Case(
            lambda: int8_linear(
                array(M, 2560), array(10240, 2560, dtype="int8"), array(10240, dtype="float32"), array(10240), threshold
            ),
            useful,
            narrow,
        )

    def patches(side: int, P: int, C: int, narrow: str = "") -> Case:
        def multiply_adds(constants: dict) -> int:
            return constants["BLOCK_N"] * constants["BLOCK_C"] * constants["BLOCK_K"]

        return Case(lambda: patch_embed(array(2, 3, side, side), array(C, 3, P, P), array(C)), multiply_adds, narrow)

    return {
        "linear, ViT-g's MLP up": case(514, 1408, 6144, "gelu"),
        "linear, ViT-g's MLP up, float32": case(514, 1408, 6144, "gelu", dtype="float32"),
        "linear, ViT-g's MLP down": case(514, 6144, 1408),
        "linear, Q-Former's MLP up": case(64, 768, 3072, "gelu"),
        "linear, OPT-2.7B's MLP up, 5 beams": case(5, 2560, 10240, "relu"),
        "gated linear, Flan-T5-XL": gated(514),
        "gated linear, Flan-T5-XL, float32": gated(514, "float32"),
        "gated linear, Flan-T5-XL, 5 beams": gated(5),
        "patches, ViT-g": patches(224, 14, 1408),
        "patches, CLIP ViT-B": patches(288, 16, 768),
        "int8 linear, OPT-2.7B's MLP up": int8(514, 6.0),
        "int8 linear, OPT-2.7B's MLP up, 64 tokens": int8(64, 0.0),
        "int8 linear, OPT-2.7B's MLP up, 5 beams": int8(5, 0.0),
    }


def decoding_cases() -> dict[str, Case]:
    from minivl.kernels.checking.compiled import array
    from minivl.kernels.decode_attention import decode_attention
    from minivl.kernels.weight_only import weight_only_linear

    def one_query(H: int, D: int, S: int, narrow: str = "", **more) -> Case:
        def call():
            q, k, v = array(2, H, 1, D), array(2, H, S, D), array(2, H, S, D)
            return decode_attention(q, k, v, **{name: make() for name, make in more.items()})

        return Case(call, narrow=narrow)

    def case(M: int) -> Case:
        def call():
            w, scale = array(10240, 2560, dtype="int8"), array(10240, dtype="float32")
            return weight_only_linear(array(M, 2560), w, scale, array(10240))

        return Case(call)

    return {
        "attention of one query, OPT-2.7B": one_query(32, 80, 544, mask=lambda: array(2, 1, 1, 544, dtype="bool")),
        "attention of one query, OPT-6.7B": one_query(32, 128, 2048, lengths=lambda: array(2, dtype="int64")),
        "attention of one query, Flan-T5-XL": one_query(
            32, 64, 40, narrow="one number of the bias for each key", bias=lambda: array(1, 32, 1, 40)
        ),
        "weight-only, OPT-2.7B's MLP up, 1 token": case(1),
        "weight-only, OPT-2.7B's MLP up, 5 beams": case(5),
        "weight-only, OPT-2.7B's MLP up": case(72),
    }


def row_cases() -> dict[str, Case]:
    from minivl.kernels.activations import gelu
    from minivl.kernels.checking.compiled import array
    from minivl.kernels.cross_entropy import cross_entropy
    from minivl.kernels.embeddings import embed
    from minivl.kernels.layer_norm import add_layer_norm, layer_norm, rms_norm
    from minivl.kernels.layer_norm_naive import layer_norm_naive
    from minivl.kernels.softmax import softmax

    def norm(C: int, dtype: str = "float16") -> Case:
        return Case(lambda: layer_norm(array(514, C, dtype=dtype), array(C, dtype=dtype), array(C, dtype=dtype), 1e-6))

    def loss(V: int) -> Case:
        return Case(lambda: cross_entropy(array(40, V), array(40, dtype="int64")))

    return {
        "layer norm, 768": norm(768),
        "layer norm, 1408": norm(1408),
        "layer norm, 1408, float32": norm(1408, "float32"),
        "layer norm, 1408, naive": Case(
            lambda: layer_norm_naive(array(514, 1408), array(1408), array(1408), 1e-6),
            lesson="three loops over the row",
        ),
        "layer norm, 4096": norm(4096),
        "layer norm, 5120, wider than a block": norm(5120),
        "add layer norm, 768": Case(
            lambda: add_layer_norm(array(650, 768), array(650, 768), array(768), array(768), 1e-5)
        ),
        "rms norm, 2048": Case(lambda: rms_norm(array(512, 2048), array(2048), 1e-6)),
        "softmax, 257": Case(lambda: softmax(array(16, 257, 257)), narrow="rows of 257 numbers begin anywhere"),
        "softmax, 50272": Case(lambda: softmax(array(5, 50272))),
        "cross entropy, 50304": loss(50304),
        "embeddings, OPT-2.7B": Case(lambda: embed(array(2, 32, dtype="int64"), array(50304, 2560))),
        "gelu": Case(lambda: gelu(array(514, 6144))),
    }


def gradient_cases() -> dict[str, Case]:
    """The backward kernels but attention's. A case launches no kernel twice: `wanted` leaves one product out."""
    from minivl.kernels.activations import gelu_backward
    from minivl.kernels.checking.compiled import array
    from minivl.kernels.cross_entropy import cross_entropy_backward
    from minivl.kernels.embeddings import embed_backward
    from minivl.kernels.layer_norm import add_layer_norm_backward, layer_norm_backward, rms_norm_backward
    from minivl.kernels.linear import gated_slopes, linear_backward
    from minivl.kernels.patches import patch_embed_backward
    from minivl.kernels.softmax import softmax_backward

    def product(constants: dict) -> int:
        return constants["BLOCK_R"] * constants["BLOCK_J"] * constants["BLOCK_K"]

    def before_the_curve(constants: dict) -> int:
        return constants["BLOCK_M"] * constants["BLOCK_F"] * constants["BLOCK_C"]

    def of_patches(constants: dict) -> int:
        return constants["BLOCK_N"] * constants["BLOCK_C"] * constants["BLOCK_K"]

    both = {"patch_pixels_kernel": of_patches, "patch_weights_kernel": of_patches}
    fewer = ("sm_80", "sm_90", "gfx942")

    def norm(C: int) -> Case:
        rows, columns = array(514, C), array(C)
        return Case(lambda: layer_norm_backward(rows, rows, columns, columns, 1e-6))

    def add_norm():
        rows, columns = array(650, 768), array(768)
        return add_layer_norm_backward(rows, rows, rows, columns, columns, 1e-5)

    def linear(wanted: tuple[bool, bool, bool], act: str | None = None, dtype: str = "float16") -> Case:
        def call():
            given = [array(*shape, dtype=dtype) for shape in ((514, 6144), (514, 1408), (6144, 1408), (6144,))]
            return linear_backward(*given, act, wanted=wanted)

        if dtype == "float32":
            return Case(call, chips=fewer)
        return Case(call, {"dz_kernel": before_the_curve, "product_kernel": product})

    to_x, to_w = (True, False, False), (False, True, False)
    pictures = array(2, 256, 1408), array(2, 3, 230, 230), array(1408, 3, 14, 14), array(1408)
    return {
        "linear backward, ViT-g's MLP up, to its tokens": linear(to_x, "gelu"),
        "linear backward, ViT-g's MLP up, to its weights": linear(to_w),
        "linear backward, ViT-g's MLP up, to its tokens, float32": linear(to_x, "gelu", "float32"),
        "linear backward, ViT-g's MLP up, to its weights, float32": linear(to_w, dtype="float32"),
        "gated linear backward, Flan-T5-XL, its slopes": Case(
            lambda: gated_slopes(*[array(514, 5120)] * 3, "gelu_tanh")
        ),
        "patches backward, ViT-g": Case(lambda: patch_embed_backward(*pictures, wanted=(True, True, False)), both),
        "layer norm backward, 1408": norm(1408),
        "layer norm backward, 5120": norm(5120),
        "add layer norm backward, 768": Case(add_norm, chips=fewer),
        "rms norm backward, 2048": Case(
            lambda: rms_norm_backward(array(512, 2048), array(512, 2048), array(2048), 1e-6)
        ),
        "softmax backward, 257": Case(
            lambda: softmax_backward(array(16, 257, 257), array(16, 257, 257)),
            narrow="rows of 257 numbers begin anywhere",
        ),
        "cross entropy backward, 50304": Case(
            lambda: cross_entropy_backward(array(dtype="float32"), array(40, 50304), array(40, dtype="int64"))
        ),
        "embeddings backward, OPT-2.7B": Case(
            lambda: embed_backward(array(2, 32, 2560), array(2, 32, dtype="int64"), array(50304, 2560))
        ),
        "gelu backward": Case(lambda: gelu_backward(array(514, 6144), array(514, 6144))),
    }


def compile_one(name: str, chip: str) -> list[dict]:
    """The facts of every launch of one case on one chip; of the main loop also the share that is useful."""
    from minivl.kernels.checking.compiled import compile_call, main_loop, useful

    case = cases()[name]
    launches = compile_call(case.call, chip)
    counted = case.useful if isinstance(case.useful, dict) else {launches[-1]["kernel"]: case.useful}
    for facts in launches if case.useful else []:
        if multiply_adds := counted.get(facts["kernel"]):
            loop = main_loop(facts)  # None where the compiler has written all trips out
            facts["useful"] = round(useful(loop, multiply_adds(facts["constants"])), 3) if loop else None
    notes = {"name": name, "chip": chip, "narrow": case.narrow, "lesson": case.lesson}
    return [{**notes, **facts} for facts in launches]


def compile_all(words: str, chips: tuple[str, ...]) -> Iterator[dict]:
    """The facts of every launch of the cases with `words` in their name, two at a time, nothing reused."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # read by the processes that compile
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            wanted = pool.submit(names_with, words, chips).result()
            jobs = [pool.submit(compile_one, name, chip) for name, chip in wanted]
            for job in jobs:
                yield from job.result()


def names_with(words: str, chips: tuple[str, ...]) -> list[tuple[str, str]]:
    named = {name: case for name, case in cases().items() if words in name}
    return [
        (name, chip)
        for name, case in named.items()
        for chip in (("sm_90",) if case.lesson else chips)
        if chip in case.chips
    ]


def as_text(launches: list[dict]) -> str:
    """The snapshot: JSON with one line for each launch, so that a change is a line of the diff."""
    import triton

    lines = ",\n".join(json.dumps(facts, ensure_ascii=False) for facts in launches)
    return f'{{"triton": "{triton.__version__}", "launches": [\n{lines}\n]}}\n'


def line_of(facts: dict) -> str:
    """Registers, stack and shared bytes, occupancy, and the main loop's counts, under HEAD."""
    line = f"    {facts['kernel']:26}{facts['chip']:>8}{facts['registers']:>6}{facts['stack']:>7}"
    line += f"{facts['shared']:>8}{facts['occupancy']:>8.0%}{facts['instructions']:>7}"
    if facts["loops"]:
        from minivl.kernels.checking.compiled import main_loop

        loop = main_loop(facts)
        pipe, clocks = max(loop["bounds"].items(), key=lambda item: item[1])
        line += f"{loop['instructions']:>6}  {pipe} {clocks}"
        line += f", {facts['useful']:.0%}" if facts.get("useful") else ""
    return line


def with_rows(page: str, launches: list[dict]) -> str:
    """The page with fresh rows in its tables of counts.

    One has rows that begin with a configuration; attention's backward has rows that begin with a kernel and one.
    """
    from minivl.kernels.checking.compiled import main_loop

    rows = {}
    for facts in launches:
        if facts["chip"] == "sm_90" and (loop := main_loop(facts)):
            pipe, clocks = max(loop["bounds"].items(), key=lambda item: item[1])
            useful = f"{facts['useful']:.0%}" if facts.get("useful") else ""
            sizes, trip = (
                [facts["registers"], f"{facts['shared']:,}"],
                [loop["instructions"], f"{pipe} {clocks}", useful],
            )
            name, short = facts["name"], facts["name"].removeprefix("attention backward, ")
            if name == short:
                rows[f"| {name} |"] = [name, *sizes, f"{facts['occupancy']:.0%}", *trip]
            else:
                rows[f"| `{facts['kernel']}` | {short} |"] = [f"`{facts['kernel']}`", short, *sizes, *trip]
    lines = page.split("\n")
    for i, line in enumerate(lines):
        for start, cells in rows.items():
            if line.startswith(start):
                lines[i] = f"| {' | '.join(map(str, cells))} |"
    return "\n".join(lines)


HEAD = f"{'':30}{'chip':>8}{'regs':>6}{'stack':>7}{'shared':>8}{'occup.':>8}{'code':>7}{'trip':>6}  bound, useful"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the kernels' shipped configurations; nothing is run.")
    parser.add_argument("words", nargs="?", default="", help="only configurations with these words in their name")
    parser.add_argument("--chip", action="append", help=f"one of chips.py, may be repeated; all of {', '.join(CHIPS)}")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    parser.add_argument("--write", action="store_true", help=f"write the whole matrix to {SNAPSHOT.name}")
    given = parser.parse_args()
    if given.write and (given.words or given.chip):
        sys.exit("--write writes the whole matrix: leave out the words and --chip")
    os.environ["TRITON_INTERPRET"] = "0"
    for name in [name for name in os.environ if name.startswith("TRITON_") and name != "TRITON_INTERPRET"]:
        del os.environ[name]  # options of the compiler that would change the counts
    launches: list[dict] = []
    print(HEAD)
    for facts in compile_all(given.words, tuple(given.chip or CHIPS)):
        if not launches or launches[-1]["name"] != facts["name"]:
            print(facts["name"])
        print(line_of(facts), flush=True)
        launches.append(facts)
    for path in [given.json] * bool(given.json) + [SNAPSHOT] * given.write:
        path.write_text(as_text(launches))
    if given.write:
        PAGE.write_text(with_rows(PAGE.read_text(), launches))


if __name__ == "__main__":
    main()
