"""What a checkpoint holds and how much memory it will take, from its configuration and its headers: no weight is read.

The peak of one caption (for BridgeTower: of one look at a picture and a text) is estimated as

    peak = BASE + weights in the mode + the larger of what the picture and what the text take while they are read
    read = 4 · (2·T·C + max(6·T·C + 3·H·T², 3·T·F))        the sum and its norm; q, k, v and scores, or the MLP
    text = the same, and 8·L·T·C for keys and values, and 16·V for scores of words

in bytes, with T tokens, C width, H heads, F MLP width, L layers, V vocabulary. It counts what the process touches,
pages of the mapped file too, which the system takes back when memory runs short. In the mode "int8" tables are counted
in 16 bits, as they are with dtype "float16".
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.base import FILE
from ..config.blip2 import Blip2Config
from ..config.bridgetower import BridgeTowerConfig
from ..console import answer
from ..disk import read_json
from ..errors import ConfigError
from ..weights import files, hub, places, tree
from ..weights import quantise as narrow

BASE = 50_000_000  # bytes: Python, NumPy, Pillow, tokenizers, and the room that BLAS works in
SPOKEN = 60  # tokens of a prompt and an answer together
WORDS = 40  # of a text that BridgeTower reads
MODES = ("float32", *narrow.MODES)
Pair = tuple[tree.Entry, "files.Stored | None"]


def inspect(name: str) -> dict[str, Any]:
    """The parts of a checkpoint with their parameters and their bytes in the file by dtype, and the peaks by mode.

    name   a folder, "demo" or an id on the Hub; of one that is not in the cache only the small files are fetched, and
           then nothing is said about bytes in the file
    Raises ConfigError or WeightsError for what is no checkpoint, as from_pretrained does.
    """
    path = places.find(name, need=hub.CONFIG)
    of_bridgetower = read_json(path / FILE, ConfigError).get("model_type") == BridgeTowerConfig.model_type
    config: Any = (BridgeTowerConfig if of_bridgetower else Blip2Config).from_pretrained(path)
    absent = path != Path(name) and name not in places.DEMOS and not hub.complete(path)
    tensors = None if absent else files.read(path)
    pairs = list((_bridgetower if of_bridgetower else _blip2)(config, tensors, str(path)))
    parts: dict[str, dict[str, Any]] = {}
    for entry, stored in pairs:
        part = parts.setdefault(_part(entry.path), {"parameters": 0, "bytes": Counter()})
        part["parameters"] += math.prod(entry.shape)
        if stored is not None:
            part["bytes"][stored.dtype] += stored.array.nbytes
    work = _pair_of_towers(config) if of_bridgetower else max(_picture(config), _text(config))
    language = config.text_config.model_type
    peak = {mode: BASE + work + sum(narrow.nbytes(mode, entry, language) for entry, _ in pairs) for mode in MODES}
    return {"model": name, "model_type": config.model_type, "language": language, "parts": parts, "peak": peak}


def _blip2(config: Any, tensors: Any, where: str) -> Iterator[Pair]:
    """Each tensor of the model and what the file has for it."""
    from ..api.blip2 import Blip2ForConditionalGeneration as Model

    yield from _paired(Model, config, tensors, where)


def _bridgetower(config: Any, tensors: Any, where: str) -> Iterator[Pair]:
    """The trunk, and the heads that the file has."""
    from ..api.bridgetower import HEADS, BridgeTowerModel

    yield from _paired(BridgeTowerModel, config, tensors, where)
    for head in HEADS.values():
        for entry in head(config):
            if isinstance(entry, tree.Entry) and entry.hub in (tensors or ()):
                yield entry, tensors[entry.hub]


def _paired(model: Any, config: Any, tensors: Any, where: str) -> list[Pair]:
    table = list(model.table(config))
    if tensors is None:
        return [(entry, None) for entry in table if isinstance(entry, tree.Entry) and entry.required]
    pairs: list[Pair] = []
    found = model.adapted(tensors, config, where)
    tree.build(table, found, where, ignored=model.ignored, keep=lambda *pair: pairs.append(pair))
    return pairs


def _part(path: str) -> str:
    """The part of the model that a weight belongs to."""
    first = path.partition(".")[0]
    if first in ("mlm", "itm", "itc"):
        return f"head {first}"
    return "cross-modal layers" if first.startswith(("text_", "image_", "token_types")) else first


# ---- what one pass takes ---------------------------------------------------------------------------------------------
def _layer(T: int, C: int, F: int, H: int) -> int:
    return 4 * (2 * T * C + max(6 * T * C + 3 * H * T * T, 3 * T * F))


def _picture(config: Any) -> int:
    c = config.vision_config
    return _layer((c.image_size // c.patch_size) ** 2 + 1, c.hidden_size, c.intermediate_size, c.num_attention_heads)


def _text(config: Any) -> int:
    c, T = config.text_config, config.num_query_tokens + SPOKEN
    if c.model_type == "t5":
        C, F, H, L = max(c.d_model, c.num_heads * c.d_kv), c.d_ff, c.num_heads, 2 * c.num_decoder_layers
    else:
        C, F, H, L = c.hidden_size, c.ffn_dim, c.num_attention_heads, c.num_hidden_layers
    return _layer(T, C, F, H) + 8 * L * T * C + 16 * c.vocab_size


def _pair_of_towers(config: Any) -> int:
    """The states of both towers are kept until the bridges have read them."""
    v, t = config.vision_config, config.text_config
    N = (v.image_size // v.patch_size) ** 2 + 1
    heads = max(v.hidden_size // 64, config.num_attention_heads)
    kept = 4 * (v.depth * N * v.hidden_size + t.num_hidden_layers * WORDS * t.hidden_size)
    return kept + _layer(N, v.hidden_size, 4 * v.hidden_size, heads) + 16 * t.vocab_size


# ---- the command ---------------------------------------------------------------------------------
def options(parser: argparse.ArgumentParser) -> None:
    """What `minivl inspect` takes."""
    about = "demo, a folder in the Hub's layout, or an id on the Hub"
    parser.add_argument("model", metavar="ID_OR_FOLDER", help=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print what a checkpoint consists of, and the memory that it will take."""
    found = inspect(arguments.model)
    if arguments.json:
        answer(arguments, "", **found)
        return 0
    for name, part in found["parts"].items():
        kept = ", ".join(f"{_size(n)} of {dtype}" for dtype, n in sorted(part["bytes"].items()))
        print(f"{name:20}{part['parameters']:>16,} parameters  {kept}".rstrip())
    print(f"{'together':20}{sum(part['parameters'] for part in found['parts'].values()):>16,} parameters")
    print("peak memory of one picture, about:")
    for mode, n in found["peak"].items():
        print(f"  {mode:18}{_size(n):>16}")
    return 0


def _size(n: int) -> str:
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if n >= pair[0]), (1e3, "kB"))
    return f"{n / unit:.2f} {name}"
