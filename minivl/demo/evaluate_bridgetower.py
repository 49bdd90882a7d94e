"""How good is the tiny BridgeTower?  python -m minivl.demo.evaluate_bridgetower     (NumPy only; --quick for a sample)

Three tasks, on held-out scenes, whose hash no training scene can have:

    matching   is this text true of this picture?  Every statement is asked about twice: as it is, true, and with one
               word changed (or two neighbours of a list exchanged) such that it is false.
    masked     which word belongs where the mask is?  Asked where the picture allows exactly one.
    retrieval  which of 100 captions belongs to this picture, and which of 100 pictures to this caption?  The
               contrastive heads choose 16, the matching head decides. No caption is true of two of the pictures.

The baselines see less (evaluate.py says how): blind, majority, and shuffled, the model shown another scene's picture.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from minivl.demo import evaluate, statements, world
from minivl.demo.evaluate import BLIND_SCENES, HERE, SEED, Asked, Table, learn_blindly, measure, write_card
from minivl.demo.statements import Said

RESULTS, CARD = HERE / "results_bridgetower.json", HERE / "BRIDGETOWER.md"
EACH = 6  # statements about a scene
CANDIDATES, RERANKED = 100, 16
MASK = "<mask>"
NOTHING = Image.new("RGB", (1, 1))
Vectors = tuple[np.ndarray, np.ndarray]  # of texts and of pictures


class Model(evaluate.Model):
    """The model as its users call it: pictures and texts in, answers out."""

    def __init__(self, folder: str):
        from minivl import BridgeTowerForMaskedLM, BridgeTowerForMatchingAndContrast, BridgeTowerProcessor

        self.processor: Any = BridgeTowerProcessor.from_pretrained(folder)
        self.compare: Any = BridgeTowerForMatchingAndContrast.from_pretrained(folder)
        self.fill: Any = BridgeTowerForMaskedLM.from_pretrained(folder)

    def say(self, items: list[Asked], pictures: list[Image.Image], batch: int = 64) -> list[str]:
        """The word behind the mask for texts with one, true or false for the others. They must not be mixed."""
        texts = [item.question for item in items]
        if MASK in texts[0]:
            return list(self.words(pictures, texts, batch))
        return ["true" if yes > no else "false" for no, yes in self.matches(pictures, texts, batch)]

    def matches(self, pictures: list[Image.Image], texts: list[str], batch: int = 64) -> np.ndarray:
        """Scores of no and yes for each pair, (n, 2)."""
        batches = self._batches(pictures, texts, batch)
        return np.concatenate([self.compare(**inputs).matching.logits for inputs in batches])

    def vectors(self, pictures: list[Image.Image], texts: list[str], batch: int = 64) -> Vectors:
        """The contrastive vectors of texts and of pictures, (n, K) each."""
        outputs = [self.compare(**inputs).contrast for inputs in self._batches(pictures, texts, batch)]
        return np.concatenate([o.text_embeds for o in outputs]), np.concatenate([o.image_embeds for o in outputs])

    def words(self, pictures: list[Image.Image], texts: list[str], batch: int = 64) -> Iterator[str]:
        """The word that fits best where each text has its mask."""
        mask = self.processor.tokenizer(MASK, add_special_tokens=False)["input_ids"][0]
        for inputs in self._batches(pictures, texts, batch):
            best = self.fill(**inputs).logits.argmax(-1)
            for row, ids in zip(best, inputs["input_ids"], strict=True):
                yield self.processor.decode(row[ids == mask]).strip()

    def _batches(self, pictures: list[Image.Image], texts: list[str], size: int) -> Iterator:
        for start in range(0, len(texts), size):
            now = slice(start, start + size)
            yield self.processor(images=pictures[now], text=texts[now], padding=True, return_tensors="np")


# --- matching and masks ----------------------------------------------------------------------------------------------


def matching(shown: Iterable[tuple[world.Scene, Image.Image]], rng: random.Random, withheld: bool) -> Iterator[Asked]:
    """Each true statement, and the false one made of it."""
    for scene, picture in shown:
        for said in statements.several(scene, rng, EACH):
            wrong = statements.falsified(said, scene, rng, withheld)
            if wrong is not None:
                yield Asked(wrong.kind, picture, statements.text(said), "true")
                yield Asked(wrong.kind, picture, statements.text(wrong.said), "false")


def masks(shown: Iterable[tuple[world.Scene, Image.Image]], rng: random.Random, _withheld: bool) -> Iterator[Asked]:
    """Each statement with one of the words masked that the picture determines."""
    for scene, picture in shown:
        for said in statements.several(scene, rng, EACH):
            slots = statements.determined(said, scene)
            if slots:
                slot = rng.choice(slots)
                asked = statements.text(statements.masked(said, slot, MASK))
                yield Asked(slot[1], picture, asked, behind(asked, said))


def behind(asked: str, said: Said) -> str:
    """The word that the mask of a text hides."""
    pairs = zip(asked.split(), statements.text(said).split(), strict=True)
    return next(word.strip(",") for hidden, word in pairs if MASK in hidden)


def drawn(split: str, seed: int, count: int) -> Iterator[tuple[world.Scene, Image.Image]]:
    return ((scene, world.draw(scene)) for scene in islice(world.scenes(split, seed), count))


def undrawn(count: int) -> Iterator[tuple[world.Scene, Image.Image]]:
    return ((scene, NOTHING) for scene in islice(world.scenes("train", seed=0), count))


def measured(model: Model, scenes: int, blind_scenes: int) -> dict[str, Table]:
    """Both tasks, on held-out scenes and on ones with a withheld pair, beside the baselines."""
    results = {}
    for task in (matching, masks):
        blind = learn_blindly(task(undrawn(blind_scenes), random.Random(0), False))
        for split, count in (("test", scenes), ("withheld", scenes // 4)):
            items = list(task(drawn(split, SEED, count), random.Random(f"{split} {SEED}"), split == "withheld"))
            results[f"{task.__name__}, {split}"] = measure(model, items, blind)
    return results


# --- retrieval -------------------------------------------------------------------------------------------------------


def candidates(number: int) -> tuple[list[Image.Image], list[str]]:
    """Pictures and their captions, of which each is true of its own picture and of no other."""
    chosen: list[tuple[world.Scene, Said]] = []
    for scene in world.scenes("test", SEED + 1 + number):
        caption = statements.caption(scene)
        if not any(statements.holds(caption, other) or statements.holds(said, scene) for other, said in chosen):
            chosen.append((scene, caption))
        if len(chosen) == CANDIDATES:
            break
    return [world.draw(scene) for scene, _ in chosen], [statements.text(said) for _, said in chosen]


def retrieved(model: Model, pictures: list[Image.Image], texts: list[str]) -> np.ndarray:
    """Shares found, for each direction: first by contrast alone, among the best 16, first after matching.   (2, 3)"""
    text, image = model.vectors(pictures, texts)
    closeness = image @ text.T  # (pictures, texts)
    found = []
    for scores, picture_first in ((closeness, True), (closeness.T, False)):
        best = np.argsort(-scores, axis=1)[:, :RERANKED]  # (queries, 16)
        query, other = np.repeat(np.arange(len(best)), RERANKED), best.reshape(-1)
        rows, columns = (query, other) if picture_first else (other, query)
        no, yes = model.matches([pictures[i] for i in rows], [texts[j] for j in columns]).T
        winner = best[np.arange(len(best)), (yes - no).reshape(best.shape).argmax(1)]
        right = np.arange(len(best))
        found.append([np.mean(best[:, 0] == right), np.mean((best == right[:, None]).any(1)), np.mean(winner == right)])
    return np.array(found)


def retrieval(model: Model, rounds: int) -> Table:
    """The mean over several sets of candidates."""
    found = np.mean([retrieved(model, *candidates(number)) for number in range(rounds)], axis=0)
    names = ("contrast alone, first", f"contrast alone, among {RERANKED}", "after matching, first")
    return {
        direction: {"asked": rounds * CANDIDATES, **dict(zip(names, map(float, row.round(4)), strict=True))}
        for direction, row in zip(("picture to text", "text to picture"), found, strict=True)
    }


# --- the table --------------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Table]) -> str:
    """A table for each task with the same columns."""
    lines: list[str] = []
    columns: list[str] = []
    for group, table in results.items():
        for kind, row in table.items():
            if list(row) != columns:
                columns = list(row)
                lines += ["", f"| task | kind | {' | '.join(columns)} |", "|---|---|" + "---:|" * len(columns)]
            asked, *shares = row.values()
            lines.append(f"| {group} | {kind} | {asked:,} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |")
    return "\n".join(lines[1:]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo-bridgetower", help='a folder, or "demo-bridgetower"')
    parser.add_argument("--quick", action="store_true", help="a small sample")
    parser.add_argument("--card", action="store_true", help="write results_bridgetower.json and the card's tables")
    plan = parser.parse_args()
    model = Model(plan.model)
    results = measured(model, *((40, 2000) if plan.quick else (1000, BLIND_SCENES)))
    results["retrieval"] = retrieval(model, 1 if plan.quick else 5)
    print(markdown(results))
    if plan.card:
        write_card(results, markdown(results), RESULTS, CARD)


if __name__ == "__main__":
    main()
