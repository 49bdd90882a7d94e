"""What each command asks of every picture when it is a job, and the job from the arguments to the exit status."""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ... import __version__, commands, console
from ...pipelines import ImageTextMatching, ImageToText, TextWork
from ...weights.places import find
from . import flow, items
from .items import Item, Items
from .progress import Progress
from .records import Records, fingerprint

DIGITS = 6  # of a score
NOT_SETTINGS = ("out", "resume", "json", "stream", "pictures", "picture", "questions", "best")  # may change on the way


def caption(arguments: argparse.Namespace) -> int:
    """{"picture": ..., "caption": ...} for every picture."""
    return run(arguments, _pictures(arguments.pictures), partial(_writing, arguments, "caption"))[0]


def ask(arguments: argparse.Namespace) -> int:
    """{"picture": ..., "question": ..., "answer": ...} for every picture, or for every line of a file of questions."""
    if arguments.questions is not None:
        asked: Items = partial(items.questions, arguments.questions)
    else:
        asked = items.about(_pictures(arguments.pictures), question=arguments.question)
    return run(arguments, asked, partial(_writing, arguments, "answer"))[0]


def match(arguments: argparse.Namespace) -> int:
    """{"picture": ..., "scores": [{"text": ..., "score": ...}, ...]} for every picture."""
    return run(arguments, _pictures([arguments.picture]), partial(Matching, arguments))[0]


def rank(arguments: argparse.Namespace) -> int:
    """{"text": ..., "picture": ..., "similarity": ...} for every picture; then the best are looked at closely, and
    printed as `minivl rank` prints them.
    """
    found = items.about(_pictures(arguments.pictures), text=arguments.text)
    status, records = run(arguments, found, partial(Finding, arguments))
    near = ((record["similarity"], -place) for place, record in enumerate(records) if "similarity" in record)
    best = {-place: similarity for similarity, place in heapq.nlargest(arguments.best, near)}
    if best:
        matcher = ImageTextMatching(arguments.model, Finding.kind, **commands.loading(arguments))
        chosen = [
            (best[place], item.fields["picture"], matcher.look(item.read()))  # read before the next is asked for
            for place, item in enumerate(items.share(found, arguments.shard)())
            if place in best
        ]
        commands.show_ranking(arguments, matcher, sorted(chosen, key=lambda one: -one[0]))
    return status


def _pictures(names: Sequence[str]) -> Items:
    return partial(items.pictures, names)


def _writing(arguments: argparse.Namespace, name: str) -> TextWork:
    writer = ImageToText(arguments.model, **commands.loading(arguments))
    prompt = partial(commands.prompt, arguments, writer.language)
    return TextWork(writer, name, prompt, **commands.generate_settings(arguments))


class Matching:
    """BridgeTower says how well each of some texts fits pictures."""

    kind, together = "BridgeTowerForImageAndTextRetrieval", True

    def __init__(self, arguments: argparse.Namespace):
        self.texts = arguments.texts
        self.matcher = ImageTextMatching(arguments.model, self.kind, **commands.loading(arguments))
        self.look = self.matcher.look

    def answer(self, chunk: list[Item], pixels: np.ndarray) -> list[flow.Record]:
        fits = np.stack([self.matcher.match([text] * len(chunk), pixels) for text in self.texts], 1)  # (B, texts)
        return [{"scores": [{"text": t, "score": _rounded(s)} for t, s in zip(self.texts, row, strict=True)]}
                for row in fits]  # fmt: skip


class Finding:
    """BridgeTower says how near pictures are to a text, each looked at by itself."""

    kind, together = "BridgeTowerForMatchingAndContrast", True

    def __init__(self, arguments: argparse.Namespace):
        self.matcher = ImageTextMatching(arguments.model, self.kind, **commands.loading(arguments))
        self.look, self.near = self.matcher.look, self.matcher.finder(arguments.text)

    def answer(self, chunk: list[Item], pixels: np.ndarray) -> list[flow.Record]:
        return [{"similarity": _rounded(nearness)} for nearness in self.near(pixels)]


def _rounded(score: Any) -> float:
    return round(float(score), DIGITS)


def run(arguments: argparse.Namespace, all_items: Items, begin: Callable[[], Any]) -> tuple[int, Records]:
    """Do what is left of a job; (exit status, the records). begin() loads what answers, where something is left."""
    mine = items.share(all_items, arguments.shard)
    total, names = items.survey(mine)
    records = Records(arguments.out, _settings(arguments, total, names), mine, arguments.resume)
    if records.done < total or not records.done:
        work = begin()
        console.note_toy(arguments.model)
        with records:
            for answers in _watched(records, total, flow.records(work, mine, arguments.batch, records.done)):
                records.add(answers)
    failed = f", {records.failed} of them errors" if records.failed else ""
    print(f"minivl: {records.done} records in {arguments.out}{failed}", file=sys.stderr)
    return (1 if records.failed else 0), records


def _settings(arguments: argparse.Namespace, total: int, names: str) -> dict[str, Any]:
    """What the records depend on."""
    given = {name: value for name, value in vars(arguments).items() if name not in NOT_SETTINGS}
    known = {"minivl": __version__, "checkpoint": fingerprint(find(arguments.model))}
    return given | known | {"number of pictures": total, "list of pictures": names}


def _watched(records: Records, total: int, batches: Iterator[list[flow.Record]]) -> Iterator[list[flow.Record]]:
    """The same batches; how far the job is, and which pictures failed, goes to standard error."""
    progress = Progress(total, records.done)
    progress.tell(records.done, records.failed)
    for batch in batches:
        yield batch
        for record in batch:
            if "error" in record:
                progress.clear()
                console.complain(record["error"])
        progress.tell(records.done, records.failed)
    progress.clear()
