"""The tiny models inside minivl, in a process that has loaded them already."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...api.blip2 import Blip2ForConditionalGeneration
from ...api.bridgetower import BridgeTowerForImageAndTextRetrieval
from ...processors.blip2 import Blip2Processor
from ...processors.bridgetower import BridgeTowerProcessor
from ...weights import places
from . import others
from .clock import Side, measure
from .rows import Plan

LONGEST = 40  # tokens of a caption, as `minivl caption` has it
TEXTS = ["a red circle", "a blue star"]


def picture() -> Image.Image:
    """A red circle on a light ground."""
    image = Image.new("RGB", (64, 64), (240, 240, 230))
    ImageDraw.Draw(image).ellipse((20, 20, 42, 42), fill=(250, 10, 10))
    return image


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """A caption, and whether two texts fit."""
    yield measure("demo", "demo caption, in a running process", _caption(plan), plan.rounds)
    yield measure("demo", "demo match of two texts, in a running process", _match(plan), plan.rounds)


def write(name: str, model: Any, folder: str) -> None:
    """One of our models and its small files, as transformers reads them."""
    model.save_pretrained(folder)
    for file in places.find(name).iterdir():
        if file.suffix == ".json" and not (Path(folder) / file.name).exists():
            shutil.copy(file, folder)


def _caption(plan: Plan) -> list[Side]:
    model = Blip2ForConditionalGeneration.from_pretrained("demo")
    pixels = Blip2Processor.from_pretrained("demo")(images=picture(), return_tensors="np").pixel_values
    sides = [Side("minivl float32", "minivl", lambda: model.generate(pixels, max_new_tokens=LONGEST)[0, 1:])]
    if plan.others:
        import torch
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            write("demo", model, folder)
            theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        x, queries = torch.from_numpy(pixels), model.config.num_query_tokens

        def run():
            return theirs.generate(pixel_values=x, max_new_tokens=LONGEST, do_sample=False)[0, queries + 1 :]

        sides.insert(0, Side("transformers float32", "other", others.frozen(run), tolerance=0.0))
        sides[1] = sides[1]._replace(tolerance=0.0)  # token for token
    return sides


def _match(plan: Plan) -> list[Side]:
    name = "demo-bridgetower"
    model = BridgeTowerForImageAndTextRetrieval.from_pretrained(name)
    inputs = BridgeTowerProcessor.from_pretrained(name)([picture()] * 2, TEXTS, padding=True, return_tensors="np")
    sides = [Side("minivl float32", "minivl", lambda: model(**inputs).logits)]
    if plan.others:
        import torch
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            write(name, model, folder)
            theirs = transformers.BridgeTowerForImageAndTextRetrieval.from_pretrained(folder).eval()
        given = {key: torch.from_numpy(np.asarray(value)) for key, value in inputs.items() if key != "pixel_mask"}
        sides.insert(0, Side("transformers float32", "other", others.frozen(lambda: theirs(**given).logits)))
    return sides
