"""Whole processes: a cold start, the loading of a large folder, a model of real size in every form of its weights."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import serialize_file

from ...api.blip2 import Blip2ForConditionalGeneration
from ...config.blip2 import Blip2Config
from ...errors import MinivlError
from ...weights import files, names, tree
from .clock import PAUSE, TOLERANCES, Side, agree, measure
from .machine import free_memory
from .rows import BASE, Plan, blip2_opt, of_4_gb
from .status import surroundings
from .weights import noise, parameters

IMAGE = 50265  # an id that transformers replaces by what the picture says
WORDS = [2, 100, 101]
NEW = 9  # tokens after the first
FORMS: dict[str, tuple[dict[str, Any], float]] = {  # how from_pretrained is told, and bytes for each number
    "minivl bfloat16": ({"dtype": "bfloat16"}, 2),
    "minivl int8": ({"load_in_8bit": True}, 1.2),
    "minivl weight-only": ({"load_in_8bit": "weight-only"}, 1.1),
    "minivl float32": ({}, 4),
    "transformers bfloat16": ({"dtype": "bfloat16"}, 2),
    "transformers float32": ({"dtype": "float32"}, 4),
}


# ---- cold start ------------------------------------------------------------------------------------------------------
def cold(plan: Plan) -> Iterator[dict[str, Any]]:
    """From nothing to a caption: `minivl caption`, and a process that does the same with transformers."""
    from . import demo

    with tempfile.TemporaryDirectory() as room:
        picture, folder = Path(room) / "picture.png", str(Path(room) / "demo")
        demo.picture().save(picture)
        demo.write("demo", Blip2ForConditionalGeneration.from_pretrained("demo"), folder)
        ours = [sys.executable, "-m", "minivl", "caption", str(picture)]
        sides = [Side("minivl float32", "minivl", lambda: spoken(ours), tolerance=0.0)]
        if plan.others:
            command = their_command("caption", folder, str(picture))
            sides.insert(0, Side("transformers float32", "other", lambda: spoken(command, room), tolerance=0.0))
        yield measure("cold", "demo caption, cold start to text, whole process", sides, plan.rounds)


def spoken(command: list[str], where: str | None = None) -> str:
    """What a process prints. Raises MinivlError with its last line of complaint if it fails."""
    done = subprocess.run(command, cwd=where, env=surroundings(where is None), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise MinivlError(f"{' '.join(command[:3])[:60]} ...: wanted exit status 0, found {done.returncode}: {said}")
    return done.stdout.strip()


def their_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", Path(__file__).with_name("theirs.py").read_text(), *arguments]


# ---- loading ---------------------------------------------------------------------------------------------------------
def loading(plan: Plan) -> Iterator[dict[str, Any]]:
    """A float32 folder of 4 GB that lies in the page cache, loaded and run once by processes that take turns."""
    config = of_4_gb(plan.layers)
    size = 4 * parameters(names.blip2(config)) / 1e9
    with folder_of(plan, "loading", config, "F32") as folder:
        reports: dict[str, list[dict[str, Any]]] = {}
        sides = ["transformers float32", "minivl float32"] if plan.others else ["minivl float32"]
        outputs: dict[str, Any] = {}
        for n in range(plan.rounds + 1):  # the first round warms the page cache and is not counted
            for side in sides if n % 2 else sides[::-1]:
                time.sleep(PAUSE)
                told, outputs[side] = run(folder, side, config, "forward")
                reports.setdefault(side, []).append(told)
    made = [Side(name, _whose(name), len, tolerance=TOLERANCES["float32"]) for name in sides]
    differences = agree("loading", made, outputs)
    what = f"folder of {size:.1f} GB, float32, in the page cache"
    phases = {"loading": (1, 2), "loading and the first forward": (1, 3), "a whole process": (None, None)}
    for phase, (begin, end) in phases.items():
        times: list[dict[str, Any]] = [
            {
                "name": side.name,
                "whose": side.whose,
                "seconds": [
                    report["whole"] if end is None else report["marks"][end] - report["marks"][begin]
                    for report in reports[side.name][1:]
                ],
                "work": 0.0,
                "differs": differences[side.name],
            }
            for side in made
        ]
        yield {"kind": "compare", "row": "loading", "what": f"{what}: {phase}", "limit": None, "sides": times}
    yield {"kind": "forms", "row": "loading", "what": what, "sides": [form(n, reports[n][-1]) for n in sides]}


def run(folder: Path, side: str, config: Blip2Config, task: str) -> tuple[dict[str, Any], np.ndarray]:
    """One process of one side: what it tells of itself, with the seconds of the whole, and its output."""
    c = config.vision_config
    with tempfile.TemporaryDirectory() as room:
        pixels, output = f"{room}/pixels.npy", f"{room}/output.npy"
        np.save(pixels, np.random.default_rng(1).normal(size=(1, 3, c.image_size, c.image_size)).astype(np.float32))
        given: dict[str, Any] = {"folder": str(folder.resolve()), "pixels": pixels, "output": output, "task": task}
        given |= {"ids": WORDS if task == "forward" else WORDS[:1], "new": NEW, "image": IMAGE}
        start = time.perf_counter()
        if side.startswith("minivl"):
            given["how"] = FORMS[side][0]
            said = spoken([sys.executable, "-m", "minivl.tools.bench.ours", json.dumps(given)])
        else:
            said = spoken(their_command("run", json.dumps({**given, "dtype": side.split()[1]})), room)
        whole = time.perf_counter() - start
        return {**json.loads(said.splitlines()[-1]), "whole": whole}, np.load(output)


def _whose(name: str) -> str:
    return "minivl" if name.startswith("minivl") else "other"


def form(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """A line about one form of the weights: seconds to load, to the first token and for each after it; bytes."""
    marks = told["marks"]
    steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    each = (steps[4] - steps[3]) / NEW if len(steps) > 3 else None
    sizes = {key: told[key] for key in ("weights", "peak", "mapped")}
    return {"name": name, "whose": _whose(name), "load": steps[1], "first": steps[2], "each": each, **sizes}


# ---- real size -------------------------------------------------------------------------------------------------------
def large(plan: Plan) -> Iterator[dict[str, Any]]:
    """A BLIP-2 as large as Salesforce/blip2-opt-2.7b in every form: can this machine caption with it, and how fast?

    The file is bfloat16, the weights are random, so the texts are nonsense; each form is a process of its own.
    """
    config = blip2_opt(plan.layers)
    numbers = parameters(names.blip2(config))
    told: list[dict[str, Any]] = []
    with folder_of(plan, "large", config, "BF16") as folder:
        for name, (_, each) in FORMS.items():
            needs, free = BASE + each * numbers, free_memory()
            if name.startswith("transformers") and (not plan.others or plan.quick):
                continue
            if free is not None and needs > free:
                reason = f"needs {needs / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
                told.append({"name": name, "whose": _whose(name), "skipped": reason})
                continue
            told.append(form(name, run(folder, name, config, "generate")[0]))
    what = f"BLIP-2 of {numbers / 1e9:.1f} billion parameters, from a bfloat16 file"
    yield {"kind": "forms", "row": "large", "what": what, "sides": told}


@contextmanager
def folder_of(plan: Plan, name: str, config: Blip2Config, code: str) -> Iterator[Path]:
    """A checkpoint with random weights; kept if the plan names a folder, and used again if it fits."""
    numbers = sum(math.prod(entry.shape) for entry in names.blip2(config) if isinstance(entry, tree.Entry))
    needed = numbers * np.dtype(files.DTYPES[code]).itemsize
    home = Path(plan.folder) if plan.folder else Path(tempfile.mkdtemp(prefix="minivl-bench-"))
    try:
        folder = home / f"{name}-{config.text_config.num_hidden_layers}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / files.SINGLE).exists():
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise MinivlError(f"{folder}: wanted {needed / 1e9:.1f} GB of disk, found {free / 1e9:.1f} GB free")
            write(folder, config, code)
        yield folder
    finally:
        if not plan.folder:
            shutil.rmtree(home, ignore_errors=True)


def write(folder: Path, config: Blip2Config, code: str) -> None:
    """Config and weights, each tensor a stretch of the same noise: quick to write, random enough for a clock."""
    config.save_pretrained(folder)
    entries = [entry for entry in names.blip2(config) if isinstance(entry, tree.Entry)]
    most = max(math.prod(entry.shape) for entry in entries)
    ones = files.convert(np.ones(most, np.float32), code)
    random = np.resize(noise(code), most)
    specs = {e.hub: files.spec(code, e.shape, ones if e.init == 1.0 else random) for e in entries}
    serialize_file(specs, folder / "model.part", {"format": "pt"})
    (folder / "model.part").rename(folder / files.SINGLE)
