"""How good is the embedded model?  python -m minivl.demo.evaluate          (NumPy only; --quick for a small sample)

The model answers by generating text, as any user's program would have it do, and a whole answer counts or nothing does.
Beside it stand three baselines that see less:

    blind     the commonest answer to exactly this question in 20,000 training scenes, the picture unseen
    majority  the commonest answer to this kind of question there
    shuffled  the model itself, shown the picture that belongs to another question (200 of each kind)

Held-out scenes are those whose hash no training scene can have; "withheld" ones hold a pair of colour and shape that
training never showed or named. easy-VQA's test questions are asked if that package is installed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minivl.demo import questions, world
from minivl.demo.questions import KINDS

HERE = Path(__file__).parent
RESULTS, CARD = HERE / "results.json", HERE / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
SEED = 2024  # of the scenes asked about; training uses another
BLIND_SCENES = 20_000
SHUFFLED = 200  # of each kind are asked again with another's picture
TITLES = {"test": "held-out scenes", "withheld": "scenes with a withheld pair", "easy-vqa": "easy-VQA, test questions"}


class Asked(NamedTuple):
    """One thing to be said about a picture; a caption has no question."""

    kind: str
    picture: Image.Image
    question: str
    answer: str


class Blind(NamedTuple):
    """What can be guessed without eyes: the commonest answer to a question, and to a kind of question."""

    of_question: dict[str, str]
    of_kind: dict[str, str]

    def guess(self, asked: Asked) -> str:
        return self.of_question.get(asked.question, self.of_kind[asked.kind])


class Model:
    """The model as its users call it: pictures and questions in, texts out."""

    def __init__(self, folder: str):
        from minivl import Blip2ForConditionalGeneration, Blip2Processor

        self.processor = Blip2Processor.from_pretrained(folder)
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder)

    def say(self, items: list[Asked], pictures: list[Image.Image], batch: int = 128) -> list[str]:
        """What it says about each picture, in order. Captions and questions must not be mixed."""
        said = []
        for start in range(0, len(items), batch):
            now = slice(start, start + batch)
            texts = [questions.prompt(item.question) for item in items[now]] if items[0].question else None
            inputs = self.processor(images=pictures[now], text=texts, padding=True, return_tensors="np")
            ids = self.model.generate(**inputs, max_new_tokens=22)
            said += self.processor.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in said]


def from_world(split: str, count: int) -> list[Asked]:
    """A caption and up to one question of every kind for each of `count` scenes."""
    rng = random.Random(f"{split} {SEED}")
    items = []
    for scene in islice(world.scenes(split, SEED), count):
        picture = world.draw(scene)
        items.append(Asked("caption", picture, "", world.caption(scene)))
        asked = ((kind, questions.ask(scene, kind, rng)) for kind in KINDS)
        items += [Asked(kind, picture, *pair) for kind, pair in asked if pair]
    return items


def from_easy_vqa(train: bool = False, most: int | None = None) -> list[Asked]:
    """easy-VQA's questions; its three kinds are told by their answers."""
    import easy_vqa

    part = "train" if train else "test"
    paths = getattr(easy_vqa, f"get_{part}_image_paths")()
    triples = list(zip(*getattr(easy_vqa, f"get_{part}_questions")(), strict=True))
    pictures = {i: Image.open(paths[i]).convert("RGB") for i in {i for _, _, i in triples[:most]}}
    return [Asked(_easy_kind(answer), pictures[i], question, answer) for question, answer, i in triples[:most]]


def _easy_kind(answer: str) -> str:
    return "yes or no" if answer in ("yes", "no") else "colour" if answer in world.COLOURS else "shape"


def learn_blindly(items: Iterable[Asked]) -> Blind:
    """Count the answers of training questions."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        by_question[item.question][item.answer] += 1
        by_kind[item.kind][item.answer] += 1
    return Blind(_commonest(by_question), _commonest(by_kind))


def _commonest(table: dict[str, Counter[str]]) -> dict[str, str]:
    return {key: count.most_common(1)[0][0] for key, count in table.items()}


def training_words(count: int) -> Iterable[Asked]:
    """Captions and questions of training scenes, undrawn."""
    rng, nothing = random.Random(0), Image.new("RGB", (1, 1))
    for scene in islice(world.scenes("train", seed=0), count):
        yield Asked("caption", nothing, "", world.caption(scene))
        asked = ((kind, questions.ask(scene, kind, rng)) for kind in KINDS)
        yield from (Asked(kind, nothing, *pair) for kind, pair in asked if pair)


Table = dict[str, dict[str, float]]  # kind -> how many were asked, and each one's share of right answers


def measure(model: Model, items: list[Asked], blind: Blind) -> Table:
    """For each kind, which share of whole answers was right: the model's, and its baselines'."""
    table: Table = {}
    for kind in dict.fromkeys(item.kind for item in items):
        some = [item for item in items if item.kind == kind]
        pictures, half = [item.picture for item in some], len(some) // 2
        few, others = some[:SHUFFLED], (pictures[half:] + pictures[:half])[:SHUFFLED]
        guesses = {
            "model": model.say(some, pictures), "blind": [blind.guess(item) for item in some],
            "majority": [blind.of_kind[kind]] * len(some), "shuffled": model.say(few, others),
        }  # fmt: skip
        table[kind] = {"asked": len(some), **{who: share_right(said, some) for who, said in guesses.items()}}
    return {**table, **_overall(table)}


def share_right(said: list[str], items: list[Asked]) -> float:
    return round(float(np.mean([text == item.answer for text, item in zip(said, items, strict=False)])), 4)


def _overall(table: Table) -> Table:
    """All questions together (captions apart)."""
    rows = [row for kind, row in table.items() if kind != "caption"]
    asked = sum(row["asked"] for row in rows)
    mean = {who: round(sum(row[who] * row["asked"] for row in rows) / asked, 4) for who in rows[0] if who != "asked"}
    return {"all questions": {"asked": asked, **mean}}


def markdown(results: dict[str, Table]) -> str:
    lines = ["| pictures | kind | asked | model | blind | majority | shuffled |", "|---|---|---:|---:|---:|---:|---:|"]
    for group, table in results.items():
        for kind, row in table.items():
            shares = " | ".join(f"{100 * row[who]:.2f} %" for who in ("model", "blind", "majority", "shuffled"))
            lines.append(f"| {TITLES[group]} | {kind} | {row['asked']:,} | {shares} |")
    return "\n".join(lines) + "\n"


def write_card(results: dict[str, Table], tables: str, file: Path, card: Path) -> None:
    """Keep the numbers in a file beside the model, and put the tables into its card."""
    file.write_text(json.dumps(results, indent=1) + "\n")
    before, rest = card.read_text().split(BEGIN)
    card.write_text(before + BEGIN + tables + END + rest.split(END)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help='a folder, or "demo"')
    parser.add_argument("--quick", action="store_true", help="a small sample")
    parser.add_argument("--card", action="store_true", help="write results.json and the card's table")
    plan = parser.parse_args()
    scenes, blind_scenes, easy = (60, 2000, 300) if plan.quick else (2000, BLIND_SCENES, None)
    model, blind = Model(plan.model), learn_blindly(training_words(blind_scenes))
    sizes = {"test": scenes, "withheld": scenes // 4}
    results = {split: measure(model, from_world(split, count), blind) for split, count in sizes.items()}
    try:
        results["easy-vqa"] = measure(model, from_easy_vqa(most=easy), learn_blindly(from_easy_vqa(train=True)))
    except ModuleNotFoundError:
        print("easy-VQA is left out: pip install easy-vqa")
    print(markdown(results))
    if plan.card:
        write_card(results, markdown(results), RESULTS, CARD)


if __name__ == "__main__":
    main()
