"""The toy world keeps its word, and the embedded model that was trained in it answers as its card says."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivl.demo import evaluate, pool, questions, samples, vocabulary, world
from minivl.weights import places

FOLDER = places.find("demo")
PICTURES = Path(__file__).parents[2] / "tutorials" / "pictures"


def some_scenes(split="test", count=300, seed=7):
    return list(itertools.islice(world.scenes(split, seed), count))


# --- the world -------------------------------------------------------------------------------------------------------


def test_a_scene_and_its_picture_depend_on_seed_and_number_alone():
    first, again = world.scene("test", 3, 41), world.scene("test", 3, 41)
    assert first == again
    assert world.draw(first).tobytes() == world.draw(again).tobytes()
    assert world.scene("test", 4, 41) != first
    assert world.scene("test", 3, 42) != first


@pytest.mark.quick
def test_pictures_show_the_colours_that_scenes_speak_of():
    for scene in some_scenes(count=100):
        seen = np.asarray(world.draw(scene)).astype(int)
        for thing in scene.things:
            if thing.shape != "ring":  # a ring's middle shows the ground
                middle = seen[int(thing.y), int(thing.x)]
                assert abs(middle - thing.rgb).max() <= 2, thing
        assert tuple(seen[0, 0]) == scene.ground or any(t.x - t.radius < 2 and t.y - t.radius < 2 for t in scene.things)


def test_things_keep_apart_and_inside():
    for scene in some_scenes():
        for t in scene.things:
            assert t.radius < t.x < world.SIDE - t.radius and t.radius < t.y < world.SIDE - t.radius
        for a, b in itertools.combinations(scene.things, 2):
            assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius
            assert a.x < b.x - 3.9 and abs(a.y - b.y) > 3.9


def shown(scene):
    """What the hash of `split_of` is taken of, written down a second time."""
    return frozenset((t.size, t.colour, t.shape, int(t.x // 8), int(t.y // 8)) for t in scene.things)


def test_no_scene_of_one_split_is_a_scene_of_another():
    seen = {split: {shown(s) for s in some_scenes(split, 800)} for split in ("train", "choose", "test", "withheld")}
    for one, other in itertools.combinations(seen, 2):
        assert not seen[one] & seen[other], (one, other)
    for split in seen:
        assert all(world.split_of(s) == split for s in some_scenes(split, 50))


def test_split_is_decided_by_what_is_shown_and_not_by_how_it_is_drawn():
    for scene in some_scenes(count=50):
        redrawn = [t._replace(angle=-t.angle, rgb=(1, 2, 3), x=int(t.x / 8) * 8 + 0.5) for t in reversed(scene.things)]
        assert world.split_of(scene._replace(things=tuple(redrawn))) == "test"


def test_withheld_pairs_are_never_shown_or_named_outside_their_split():
    rng = random.Random(0)
    pairs = [f"{colour} {shape}" for colour, shape in world.WITHHELD]
    for scene in some_scenes("train", 500):
        said = [world.caption(scene), *(" ".join(asked) for asked in asked_about(scene, rng).values())]
        assert not any(pair in text for pair in pairs for text in said)
    for scene in some_scenes("withheld", 100):
        assert any((t.colour, t.shape) in world.WITHHELD for t in scene.things)


def test_sample_pictures_are_held_out_scenes_drawn_again():
    for name, scene in samples.samples().items():
        kept = Image.open(PICTURES / name)
        assert np.array_equal(np.asarray(kept), np.asarray(world.draw(scene))), name
        assert world.split_of(scene) == "test"
    assert sorted(samples.samples()) == sorted(path.name for path in PICTURES.glob("*.png"))


# --- its questions ---------------------------------------------------------------------------------------------------


def asked_about(scene, rng):
    asked = {kind: questions.ask(scene, kind, rng) for kind in questions.KINDS}
    return {kind: pair for kind, pair in asked.items() if pair}


def meant(scene, phrase):
    """The things that "small red circle", "red shapes" or "stars" can mean."""
    words = phrase.split()
    words[-1] = {"crosses": "cross"}.get(words[-1], words[-1].removesuffix("s") if words[-1] != "cross" else "cross")
    return [t for t in scene.things if all(w == "shape" or w in (t.size, t.colour, t.shape) for w in words)]


def only(things):
    assert len(things) == 1
    return things[0]


def is_there(a, relation, b):
    return {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[relation]


def derived(scene, question):
    """The answer, worked out from the words of the question and not from the code that made it."""
    text = question.rstrip("?")
    words = text.split()
    if text.startswith("how many"):
        noun = text.removeprefix("how many ").removesuffix(" are there")
        return world.NUMBERS[len(meant(scene, noun))]
    if text.startswith(("what color is the", "what is the color of the")):
        return only(meant(scene, text.split(" the ")[-1])).colour
    if text.startswith("what size is the "):
        return only(meant(scene, text.removeprefix("what size is the "))).size
    if text.startswith("what shape"):
        return only(scene.things).shape
    if text.startswith("what is the "):
        return only(meant(scene, text.removeprefix("what is the "))).shape
    if text.startswith("what is "):
        anchor = only(meant(scene, text.split(" the ")[1]))
        found = only([t for t in scene.things if t is not anchor and is_there(t, words[2], anchor)])
        return f"{found.colour} {found.shape}"
    relation = next((w for w in words if w in ("left", "right", "above", "below")), None)
    if relation:
        first, second = (only(meant(scene, part.split(f" {relation}")[0])) for part in text.split("the ")[1:])
        return "yes" if is_there(first, relation, second) else "no"
    negated = "not" in words or "no" in words
    phrase = text.removesuffix(" in the image").removesuffix(" present").split(" no " if " no " in text else " a ")[1]
    return "yes" if bool(meant(scene, phrase)) != negated else "no"


def test_every_answer_follows_from_its_question():
    rng, heard = random.Random(1), set()
    for scene in some_scenes(count=400):
        for kind, (question, answer) in asked_about(scene, rng).items():
            assert derived(scene, question) == answer, (scene, question)
            heard.add(kind)
    assert heard == set(questions.KINDS)


def test_left_and_above_are_asked_only_where_the_gap_is_clear():
    rng = random.Random(2)
    for scene in some_scenes(count=400):
        for kind, axis in (("left", "x"), ("above", "y")):
            if asked := questions.ask(scene, kind, rng):
                text = asked[0].rstrip("?")
                relation = next(w for w in ("left", "right", "above", "below") if f" {w} " in text)
                a, b = (only(meant(scene, part.split(f" {relation}")[0])) for part in text.split("the ")[1:])
                assert abs(getattr(a, axis) - getattr(b, axis)) >= questions.CLEAR


def test_a_question_alone_gives_little_away():
    """The commonest answer to exactly this question in training scenes is right hardly more often than by chance."""
    blind = evaluate.learn_blindly(evaluate.training_words(1500))
    chance = {"exist": 0.5, "absent": 0.5, "count": 0.2, "count_all": 0.25, "colour": 0.125, "shape": 0.17, "size": 0.5,
              "left": 0.5, "above": 0.5, "beside": 0.03}  # fmt: skip
    rng, right = random.Random(3), {kind: [] for kind in chance}
    for scene in some_scenes(count=600):
        for kind, (question, answer) in asked_about(scene, rng).items():
            right[kind].append(blind.guess(evaluate.Asked(kind, None, question, answer)) == answer)
    for kind, hits in right.items():
        assert np.mean(hits) < chance[kind] + 0.12, kind


def test_a_caption_names_everything_in_its_place():
    for scene in some_scenes(count=300):
        said = world.caption(scene)
        if said.split()[0] in world.NUMBERS:
            thing = scene.things[0]
            assert said == f"{world.NUMBERS[len(scene.things)]} {thing.colour} {world.plural(thing.shape)}"
            assert len({(t.colour, t.shape) for t in scene.things}) == 1
            continue
        names = said.replace(" left of ", ", ").replace(" above ", ", ").replace(" and ", ", ").split(", ")
        order = sorted(scene.things, key=lambda t: t.y if " above " in said else t.x)
        assert names == [f"a {t.size} {t.colour} {t.shape}" for t in order]
        if len(order) == 2:  # the relation is that of the larger distance, and which is larger is clear
            across, down = abs(order[0].x - order[1].x), abs(order[0].y - order[1].y)
            assert down > across + 3.9 if " above " in said else across > down + 3.9


# --- what training reads ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.learn(vocabulary.corpus())


@pytest.mark.quick
def test_words_of_the_world_are_single_tokens_and_any_text_survives(tokenizer):
    for word in [*world.COLOURS, *world.SHAPES, *world.RADII, *world.NUMBERS, "yes", "no"]:
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1, word
    odd = "Grüße, 世界 \t\x00!"
    assert tokenizer.decode(tokenizer.encode(odd).ids) == odd
    assert tokenizer.encode("").ids == [vocabulary.BOS]
    assert json.loads((FOLDER / "tokenizer.json").read_text()) == json.loads(tokenizer.to_str())


def test_pool_keeps_pictures_things_and_texts_together(tokenizer):
    made = pool.of_world(tokenizer, seed=5, count=30, workers=1)
    for i in range(30):
        scene = world.scene("train", 5, i)
        assert np.array_equal(made.pictures[i], np.asarray(world.draw(scene)))
        assert [world.SHAPES[k] for k in made.kinds[i, :4, 0] if k != pool.NOTHING] == [t.shape for t in scene.things]
        rows = made.tokens[made.first[i] : made.first[i + 1]]
        texts = [tokenizer.decode(row[row != vocabulary.PAD]) for row in rows]
        assert texts[0] == world.caption(scene) + "\n"
        for text in texts[1:]:
            question, answer = text.removeprefix("Question: ").removesuffix("\n").split(" Answer: ")
            assert derived(scene, question) == answer


# --- the embedded model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return evaluate.Model("demo")


@pytest.fixture(scope="module")
def held_out():
    return evaluate.from_world("test", 40)


def said_right(model, items):
    said = model.say(items, [item.picture for item in items])
    return np.mean([text == item.answer for text, item in zip(said, items, strict=True)])


def test_captions_are_right(model, held_out):
    assert said_right(model, [item for item in held_out if item.kind == "caption"]) >= 0.9


def test_answers_are_right(model, held_out):
    assert said_right(model, [item for item in held_out if item.kind != "caption"]) >= 0.95


def test_answers_come_from_the_picture(model, held_out):
    items = [item for item in held_out if item.kind == "colour"]
    pictures = [item.picture for item in items]
    said = model.say(items, pictures[1:] + pictures[:1])
    assert np.mean([text == item.answer for text, item in zip(said, items, strict=True)]) < 0.4


def test_the_card_shows_the_measured_numbers():
    results = json.loads(evaluate.RESULTS.read_text())
    assert evaluate.BEGIN + evaluate.markdown(results) + evaluate.END in evaluate.CARD.read_text()
    assert min(row["model"] for row in results["test"].values()) >= 0.95
    assert results["test"]["all questions"]["model"] >= 0.97
    assert results["easy-vqa"]["all questions"]["model"] >= 0.99
    assert all(row["model"] > row["blind"] + 0.15 for group in results.values() for row in group.values())


def test_the_model_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 5_000_000


def test_the_cards_example_prints_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(PICTURES.parents[1])
    code = evaluate.CARD.read_text().split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.strip().split("  # ")[-1]
