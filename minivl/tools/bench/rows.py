"""The rows of the table: what they are called, where their work is written, and the memory that they need.

Rows of one group share their weights, and so a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from ...config.blip2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config
from ...config.bridgetower import BridgeTowerConfig
from ...weights import names
from . import sizes
from .weights import parameters

BASE = 1_300_000_000  # bytes: Python with NumPy, torch and transformers, and what a forward takes beside the weights
TABLE = 4 * 50272 * 2560  # bytes of OPT's words in float32: torch keeps them beside 8 bits, and rounds a copy


class Plan(NamedTuple):
    """What is to be measured, and how."""

    rows: tuple[str, ...]
    layers: int | None = None  # of every stack; None: the real model's
    rounds: int = 5
    threads: int = 2
    others: bool = True  # whether torch and transformers are there
    folder: str | None = None  # where checkpoints of real size are written; None: somewhere temporary
    quick: bool = False


class Row(NamedTuple):
    """One row; a group may give several lines of the table for it."""

    name: str
    group: str
    about: str


ROWS = (
    Row("limits", "limits", "what the machine can do: large products, reading memory"),
    Row("vit", "vision", "ViT-g, one picture"),
    Row("qformer", "vision", "Q-Former, one picture"),
    Row("blip2", "vision", "ViT-g, Q-Former and projection, one picture"),
    Row("prefill", "opt", "OPT-2.7b, reading 40 tokens, float32 and bfloat16"),
    Row("decode", "opt", "OPT-2.7b, a token after them, float32 and bfloat16"),
    Row("prefill-8bit", "opt-8bit", "OPT-2.7b, reading 40 tokens, weights in 8 bits"),
    Row("decode-8bit", "opt-8bit", "OPT-2.7b, a token after them, weights in 8 bits"),
    Row("t5-decode", "t5", "Flan-T5-XL, a token after 40, float32 and bfloat16"),
    Row("bridgetower", "bridgetower", "BridgeTower base, the trunk, 1 and 8 pairs"),
    Row("bridgetower-match", "bridgetower", "BridgeTower base, matching head, 1 and 8 pairs"),
    Row("bridgetower-fill", "bridgetower", "BridgeTower base, masked words, 1 and 8 pairs"),
    Row("bridgetower-contrast", "bridgetower", "BridgeTower base, contrastive heads, 1 and 8 pairs"),
    Row("demo", "demo", "the tiny models inside minivl, in a running process"),
    Row("cold", "cold", "a caption by the tiny model, a whole process"),
    Row("loading", "loading", "a folder of 4 GB, to the first forward"),
    Row("large", "large", "a BLIP-2 of 2.7 billion parameters in every form: loading, tokens, peak memory"),
    Row("sweep", "sweep", "how cost grows with pictures and with tokens"),
)
GROUPS = {  # the module and the function of each group
    "limits": ("machine", "limits"),
    "vision": ("vision", "rows"),
    "opt": ("language", "opt_rows"),
    "opt-8bit": ("language", "opt_8bit_rows"),
    "t5": ("language", "t5_rows"),
    "bridgetower": ("towers", "rows"),
    "demo": ("demo", "rows"),
    "cold": ("processes", "cold"),
    "loading": ("processes", "loading"),
    "large": ("processes", "large"),
    "sweep": ("sweep", "rows"),
}
ALONE = ("cold", "loading", "large")  # they start processes of their own, and need no torch themselves


def work(group: str) -> Callable[[Plan], Iterator[dict[str, Any]]]:
    """The function that measures the rows of a group; what it imports is imported only now."""
    module, function = GROUPS[group]
    return getattr(import_module(f".{module}", __package__), function)


def grouped(rows: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The wanted rows of each group, in the order of the table."""
    found: dict[str, tuple[str, ...]] = {}
    for row in ROWS:
        if row.name in rows:
            found[row.group] = (*found.get(row.group, ()), row.name)
    return found


# ---- configurations --------------------------------------------------------------------------------------------------
def eyes(layers: int | None) -> Blip2Config:
    """BLIP-2 with a language model of no size: the part that looks."""
    return _blip2(sizes.vit(layers), sizes.qformer(layers), {**sizes.opt(1), "vocab_size": 16})


def eyes_table(config: Blip2Config) -> list[Any]:
    return [entry for entry in names.blip2(config) if not entry.path.startswith("language.")]


def of_4_gb(layers: int | None) -> Blip2Config:
    """A BLIP-2 whose float32 file has 4 GB, nearly all of it the language model's."""
    return _blip2(sizes.vit(2), sizes.qformer(2), sizes.opt_of_4_gb(layers))


def blip2_opt(layers: int | None) -> Blip2Config:
    """Salesforce/blip2-opt-2.7b's."""
    return _blip2(sizes.vit(layers), sizes.qformer(layers), {**sizes.opt(layers), "eos_token_id": 50118})


def _blip2(vision: sizes.Size, qformer: sizes.Size, text: sizes.Size) -> Blip2Config:
    return Blip2Config(Blip2VisionConfig(**vision), Blip2QFormerConfig(**qformer), OPTConfig(**text))


# ---- memory ----------------------------------------------------------------------------------------------------------
def memory(group: str, layers: int | None) -> int:
    """The bytes of memory that a group needs: weights in every form that is there at the same time, and BASE.

    Where sides share weights they are counted once; files are counted where they are to stay in the page cache.
    "large" says of each form by itself whether there is room for it.
    """
    needs: dict[str, Callable[[], float]] = {
        "vision": lambda: 6 * parameters(eyes_table(eyes(layers))),
        "opt": lambda: 6 * parameters(names.opt(OPTConfig(**sizes.opt(layers)))),
        "opt-8bit": lambda: 5.1 * parameters(names.opt(OPTConfig(**sizes.opt(layers)))) + 2 * TABLE,
        "t5": lambda: 6 * parameters(names.t5(T5Config(**sizes.t5(layers)))),
        "bridgetower": lambda: 6.5 * parameters(names.bridgetower(BridgeTowerConfig(**sizes.bridgetower(layers)))),
        "loading": lambda: 8 * parameters(names.blip2(of_4_gb(layers))),
        "sweep": lambda: 4 * (parameters(eyes_table(eyes(2))) + parameters(names.opt(OPTConfig(**sizes.opt(2))))),
    }
    return BASE + int(needs.get(group, lambda: 0)())


def disk(group: str, layers: int | None) -> int:
    """The bytes of disk that a group writes."""
    needs: dict[str, Callable[[], int]] = {
        "loading": lambda: 4 * parameters(names.blip2(of_4_gb(layers))),
        "large": lambda: 2 * parameters(names.blip2(blip2_opt(layers))),
    }
    return needs.get(group, lambda: 0)()
