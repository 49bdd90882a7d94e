"""A record (record.AttentionTrace) as one HTML page: page.html with its style, its script and the data put in. Nothing
is fetched, ever: the page forbids itself to.
"""

from __future__ import annotations

import io
import json
import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .pack import packed

HERE = Path(__file__).parent


def page(record: Any) -> str:
    """The player of a record."""
    data = json.dumps(content(record), separators=(",", ":")).replace("<", "\\u003c")  # no </script> from a caption
    parts = {"title": escape(record.text or "minivl step"), "data": data}
    parts |= {"style": _file("page.css"), "script": _file("player.js"), "maps": _file("maps.js")}
    return re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], _file("page.html"))


def content(record: Any) -> dict[str, Any]:
    """Everything that the script reads."""
    notes: list[str] = []
    return {
        "kind": "bridgetower" if record.kind == "bridgetower" else "blip2",
        "model": record.model,
        "text": record.text,
        "prompt": record.prompt,
        "picture": picture(record),
        "pixels": record["pixels"].shape[1:],
        "grid": record.grid,
        "patch": record.patch,
        "maps": bridgetower_maps(record, notes) if record.kind == "bridgetower" else blip2_maps(record, notes),
        "places": [shown(place) for place in record.places],
        "words": [_word(word) for word in record.words],
        "answers": record.answers,
        "looks": [layer + 1 for layer in record.looks],
        "stages": [stage.to_dict() for stage in record.stages],
        "notes": notes,
    }


def blip2_maps(record: Any, notes: list[str]) -> dict[str, Any]:
    """What each part looked at. A language model's maps are cut to the rows that a word was chosen in."""
    queries, rows = record["qformer.attention"].shape[-1], [word.row for word in record.words]
    maps = {
        "vision": packed("The patches among themselves", record["vision.attention"], notes),
        "visionRollout": packed("Their rollout", record["vision.rollout"], notes),
        "queries": packed("The queries over the picture", record["qformer.cross_attention"], notes),
        "queriesRollout": packed("Their rollout", record["qformer.rollout"][:, queries:], notes),
        "amongQueries": packed("The queries among themselves", record["qformer.attention"], notes),
    }
    if record.kind == "t5":
        cross, own = record["language.cross_attention"], record["language.attention"]
        written = len(rows)
        rollout = np.roll(record["language.rollout"], -written, 1)  # what was read first, then the own words
        maps["words"] = packed("The words over what was read", cross, notes)
        maps["wordsOwn"] = packed("The words over the words before", own, notes)
        maps["wordsRollout"] = packed("Their rollout", rollout, notes)
    else:
        maps["words"] = packed("The words over what stood before", record["language.attention"][:, :, rows], notes)
        maps["wordsRollout"] = packed("Their rollout", record["language.rollout"][rows], notes)
    return maps


def bridgetower_maps(record: Any, notes: list[str]) -> dict[str, Any]:
    """What text and picture looked at."""
    T = len(record.places)
    return {
        "wordsOverPatches": packed("The words over the patches", record["text_over_patches"], notes),
        "wordsOverWords": packed("The words among themselves", record["text_over_text"], notes),
        "patchesOverWords": packed("The patches over the words", record["patches_over_text"], notes),
        "patchesOverPatches": packed("The patches among themselves", record["patches_over_patches"], notes),
        "wordsOverPatchesRollout": packed("Rollout", record["text.rollout"][:, T:], notes),
        "wordsOverWordsRollout": packed("Rollout", record["text.rollout"][:, :T], notes),
        "patchesOverWordsRollout": packed("Rollout", record["patches.rollout"][:, :T], notes),
        "patchesOverPatchesRollout": packed("Rollout", record["patches.rollout"][:, T:], notes),
    }


def picture(record: Any) -> str:
    """The picture as the model got it, as a data: address of a PNG."""
    from PIL import Image

    mean, std = (np.array(three, np.float32)[:, None, None] for three in (record.image_mean, record.image_std))
    levels = np.clip((record["pixels"] * std + mean) * 255, 0, 255)
    file = io.BytesIO()
    Image.fromarray(np.rint(levels).astype(np.uint8).transpose(1, 2, 0)).save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def shown(text: str) -> str:
    """A token as it can be seen: blanks around it go, and a line break gets a sign."""
    return text.strip() or text.replace("\n", "⏎").replace(" ", "␣")


def _word(word: Any) -> dict[str, Any]:
    likely = [[shown(text), float(f"{p:.4g}")] for text, p in word.likely]
    return {"text": shown(word.text), "row": word.row, "likely": likely, "soFar": word.so_far}


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
