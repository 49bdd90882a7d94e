"""`minivl finetune`: read the pictures and the texts, take the steps, write a folder like those on the Hub."""

from __future__ import annotations

import argparse
import math
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ...disk import show
from ...errors import InputError, OpsError

METADATA = "metadata.jsonl"


def options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `minivl finetune`."""
    parser.description = (
        "Teach a BLIP-2 one's own pictures. Vision tower and language model stay as they are; the queries, the Q-Former"
        " and the projection learn. Needs the extra torch."
    )
    add = parser.add_argument
    add("pictures", metavar="FOLDER", type=Path, help="the pictures")
    about = f'a line for each text: {{"file_name": ..., "text": ..., "prompt": ...}} (default: FOLDER/{METADATA})'
    add("texts", metavar="TEXTS", type=Path, nargs="?", help=about)
    add("--out", metavar="DIR", type=Path, required=True, help="folder for the trained model and, before, checkpoints")
    add("--model", default="demo", metavar="ID_OR_FOLDER", help="what to start from (default: demo, a tiny model)")
    add("--resume", action="store_true", help="go on with the training that DIR holds a checkpoint of, if it does")
    add("--epochs", type=_count, default=3, metavar="N", help="how often each text is learned from (default: 3)")
    add("--batch", type=_count, default=8, metavar="N", help="texts in a step (default: 8)")
    add("--rate", type=_positive, default=1e-4, metavar="X", help="highest learning rate (default: 1e-4)")
    add("--decay", type=_positive_or_zero, default=0.05, metavar="X", help="weight decay of matrices (default: 0.05)")
    add("--seed", type=_whole, default=0, metavar="N", help="of the order of the texts (default: 0)")
    add("--checkpoint", type=_whole, default=300, metavar="SECONDS", help="between two checkpoints (default: 300)")
    about = "triton: our own kernels, which were never run on a GPU (default: torch)"
    add("--backend", choices=["torch", "triton"], default="torch", help=about)
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="to compute in (default: float32)")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, ... (default: the GPU if there is one)")
    about = "how the trained model is stored (default: float32)"
    add("--store", choices=["float32", "float16", "bfloat16"], default="float32", help=about)


def run(arguments: argparse.Namespace) -> int:
    """Train, from the beginning or from a checkpoint; exit status 0, or 130 where it was asked to stop."""
    try:
        from . import training
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        raise OpsError(
            "finetune needs the package 'torch', which is not installed: pip install 'minivl[torch]'"
        ) from None
    from ...api.blip2 import Blip2ForConditionalGeneration
    from ...processors.blip2 import Blip2Processor
    from ...weights import places
    from . import examples

    checkpoint = arguments.out / training.CHECKPOINT
    _check_out(arguments.out, checkpoint, arguments.resume)
    where = places.find(arguments.model)
    texts = arguments.texts or arguments.pictures / METADATA
    processor = Blip2Processor.from_pretrained(where)
    config: Any = Blip2ForConditionalGeneration.config_class.from_pretrained(where)
    told = examples.read(texts, arguments.pictures, processor, config)
    how = {"backend": arguments.backend, "dtype": arguments.dtype}
    model = Blip2ForConditionalGeneration.from_pretrained(where, **how, device=arguments.device)
    numbers = {name: getattr(arguments, name) for name in ("epochs", "batch", "rate", "decay", "seed")}
    plan = training.Plan(str(arguments.model), examples.digest(texts), len(told), **numbers, **how)
    learner = training.Learner(model, plan)
    if checkpoint.exists():
        learner.resume(checkpoint)
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress, saved = training.Progress(plan, learner.step), time.monotonic()
    rest = islice(examples.order(len(told), plan.batch, plan.epochs, plan.seed), learner.step, None)
    with training.asked_to_stop() as signals:
        for chosen in rest:
            loss = learner.learn(examples.batch([told[i] for i in chosen], processor, config))
            progress.tell(learner.step, loss)
            if signals or time.monotonic() - saved >= arguments.checkpoint:
                learner.save(checkpoint)
                saved = time.monotonic()
            if signals:
                progress.out.write(f"\nstopped after step {learner.step}; go on with --resume\n")
                return 128 + signals[0]
        learner.save(checkpoint)
        learner.finish().save_pretrained(arguments.out, arguments.store)
        processor.save_pretrained(arguments.out)
        checkpoint.unlink()
    print(arguments.out)
    return 0


def _check_out(out: Path, checkpoint: Path, resume: bool) -> None:
    """Nothing that somebody made is overwritten unasked."""
    if checkpoint.exists():
        if not resume:
            raise InputError(f"{show(out)} holds an unfinished training: go on with --resume, or give another --out")
    elif (out / "config.json").exists():
        raise InputError(f"{show(out)} holds a model already: give another --out")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive_or_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return value


def _positive(text: str) -> float:
    value = _positive_or_zero(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is not a number above 0")
    return value
