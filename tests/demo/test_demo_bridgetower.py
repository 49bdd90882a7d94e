"""What is said of toy scenes is true or false as told, and the embedded BridgeTower knows which."""

import itertools
import json
import random

import numpy as np
import pytest

from minivl.demo import evaluate_bridgetower as evaluate
from minivl.demo import pool, statement_pool, statements, world
from minivl.demo.evaluate import BEGIN
from minivl.demo.evaluate import END as STOP
from minivl.demo.statement_pool import END, LONGEST, MASK, PAD
from minivl.weights.places import find


def some_scenes(count, split="test", seed=7):
    return list(itertools.islice(world.scenes(split, seed), count))


# --- statements ------------------------------------------------------------------------------------------------------


def meant(scene, phrase):
    """The things that "small red circle", "red shapes" or "stars" can mean."""
    words = phrase.split()
    if words[-1] not in ("shape", *world.SHAPES):
        words[-1] = words[-1].removesuffix("s") if words[-1] != "crosses" else "cross"
    return [t for t in scene.things if all(w == "shape" or w in (t.size, t.colour, t.shape) for w in words)]


def is_true(scene, text):
    """Worked out from the words of the text and not from the code that made it."""
    words = text.split()
    if words[0] in world.NUMBERS:
        return world.NUMBERS.index(words[0]) == len(meant(scene, text.split(" ", 1)[1]))
    if text.startswith("there is a "):
        return bool(meant(scene, text.removeprefix("there is a ")))
    if words[0] == "the":
        phrase, trait = text.removeprefix("the ").split(" is ")
        found = meant(scene, phrase)
        return len(found) == 1 and trait.removeprefix("a ") in (found[0].size, found[0].colour, found[0].shape)
    for side, apart in ((" left of ", "x"), (" above ", "y"), (" right of ", "x"), (" below ", "y")):
        if side in text:
            first, second = (meant(scene, part.removeprefix("a ")) for part in text.split(side))
            pairs = [(a, b) for a in first for b in second if a is not b]
            if side in (" right of ", " below "):
                pairs = [(b, a) for a, b in pairs]
            return any(getattr(a, apart) < getattr(b, apart) for a, b in pairs)
    names = [name.removeprefix("a ") for name in text.replace(" and ", ", ").split(", ")]
    return names == [t.name for t in sorted(scene.things, key=lambda t: t.x)]


def test_statements_are_true_and_made_false_by_one_change():
    rng, forms, kinds = random.Random(1), set(), set()
    for scene in some_scenes(300):
        for said in statements.several(scene, rng, 8):
            text, wrong = statements.text(said), statements.falsified(said, scene, rng)
            assert is_true(scene, text) and statements.holds(said, scene), text
            other = statements.text(wrong.said)
            assert not is_true(scene, other) and not statements.holds(wrong.said, scene), other
            if wrong.kind != statements.ORDER:
                changed = [(a, b) for a, b in zip(text.split(), other.split(), strict=True) if a != b]
                assert len(changed) == 1, (text, other)
            else:
                assert sorted(other.replace(",", "").split()) == sorted(text.replace(",", "").split())
            forms.add(said.form)
            kinds.add(wrong.kind)
    assert forms == {"list", "count", "there", "relation", "trait"}
    assert kinds == {"size", "colour", "shape", "number", "side", statements.ORDER}


def test_a_caption_taken_apart_is_the_caption():
    for scene in some_scenes(300):
        assert statements.text(statements.caption(scene)) == world.caption(scene)


def test_a_word_is_masked_only_where_one_word_fits():
    rng = random.Random(2)
    kinds = (world.RADII, world.COLOURS, world.SHAPES, [world.plural(shape) for shape in world.SHAPES],
             ("two", "three", "four"), ("left", "right"), ("above", "below"))  # fmt: skip
    for scene in some_scenes(150):
        for said in statements.several(scene, rng, 5):
            for slot in statements.determined(said, scene):
                masked = statements.text(statements.masked(said, slot, MASK))
                word = evaluate.behind(masked, said)
                assert masked.count(MASK) == 1
                same = next(kind for kind in kinds if word in kind)
                assert [other for other in same if is_true(scene, masked.replace(MASK, other))] == [word], masked


def test_withheld_pairs_are_never_named_in_training():
    rng = random.Random(3)
    pairs = [f"{colour} {shape}" for colour, shape in world.WITHHELD]
    for scene in some_scenes(400, "train"):
        for said in statements.several(scene, rng, 6):
            for one in (said, statements.falsified(said, scene, rng).said):
                assert statements.sayable(one) and not any(pair in statements.text(one) for pair in pairs)


# --- what training reads ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return statement_pool.learn_words()


def test_words_are_single_tokens_and_special_ones_are_robertas(tokenizer):
    assert [tokenizer.token_to_id(t) for t in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    for word in [*world.COLOURS, *world.SHAPES, *world.RADII, *world.NUMBERS[2:], "left", "above", "is"]:
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1, word
    ids = tokenizer.encode("a <mask> circle").ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["<s>", "a", MASK, "Ġcircle", "</s>"]  # the blank went with it


def test_pool_keeps_pictures_and_statements_together(tokenizer):
    made = statement_pool.of_world(tokenizer, seed=5, count=20, workers=1)
    for i in range(20):
        scene = world.scene("train", 5, i)
        assert np.array_equal(made.pictures[i], np.asarray(world.draw(scene)))
        assert np.array_equal(made.kinds[i], pool.labels(scene)[0])
        assert tokenizer.decode(made.true[i, 0]) == world.caption(scene)
        for true, false, changed, certain in zip(
            made.true[i], made.false[i], made.changed[i], made.certain[i], strict=True
        ):
            text, other = tokenizer.decode(true), tokenizer.decode(false)
            assert is_true(scene, text) and not is_true(scene, other)
            assert tokenizer.encode(text).ids == true[true != PAD].tolist() and len(true) == LONGEST
            differ = np.flatnonzero(true != false)
            assert differ.tolist() == [changed] if changed != statement_pool.SEVERAL else len(differ) > 1
            assert not certain[np.isin(true, (0, END, PAD))].any()


def test_right_states_tell_what_covers_each_patch():
    losses = pytest.importorskip("minivl.demo.bridgetower_losses")
    torch = pytest.importorskip("torch")
    shown = some_scenes(60, "train")
    kinds, places = (torch.from_numpy(np.stack(part)) for part in zip(*map(pool.labels, shown), strict=True))
    seen = losses.look(kinds.long(), places)
    for i, scene in enumerate(shown):
        assert seen.middle[i].sum() == len({(t.x // 8, t.y // 8) for t in scene.things})
        for thing in scene.things:
            at = int(thing.y // 8) * 8 + int(thing.x // 8)
            names = world.SHAPES.index(thing.shape), pool.COLOURS.index(thing.colour), pool.SIZES.index(thing.size)
            assert seen.middle[i, at] and tuple(seen.covering[i, at].tolist()) == names
            alike = [sum(map(same, scene.things)) - 1 for same in (
                lambda t, thing=thing: t.shape == thing.shape,
                lambda t, thing=thing: t.colour == thing.colour,
                lambda t, thing=thing: (t.colour, t.shape) == (thing.colour, thing.shape),
                lambda t: True,
            )]  # fmt: skip
            assert seen.alike[i, at].tolist() == alike
            told = seen.states[i, 1 + at] @ losses.KINDS.T  # the three it is stand out from all others
            first = losses.FIRST
            assert set(told.topk(3).indices.tolist()) == {n + f for n, f in zip(names, first, strict=True)}
    moved = losses.look(kinds.long(), places * 0.9).summary
    assert torch.equal(moved, seen.summary) and len(moved.unique(dim=0)) > 30  # what there is, not where


def test_a_third_of_the_texts_is_true_a_third_false_and_a_third_masked(tokenizer):
    train = pytest.importorskip("minivl.demo.train_bridgetower")
    made = statement_pool.of_world(tokenizer, seed=6, count=30, workers=1)
    task = train.Lessons(made, tokenizer, 0).task(np.arange(30), 4)
    assert [int((task.true == turn).sum()) for turn in (0, 1, -100)] == [40, 40, 40]
    scenes, masked = [world.scene("train", 6, i) for i in range(30) for _ in range(4)], 0
    for scene, ids, words, wrong, true, caption in zip(
        scenes, task.ids, task.words, task.wrong, task.true, task.caption, strict=True
    ):
        text = tokenizer.decode(ids.tolist())
        masks = ids == tokenizer.token_to_id(MASK)
        filled = tokenizer.decode(words.where(words >= 0, ids).tolist())
        if true == -100:
            assert ((words >= 0) == masks).all() and is_true(scene, filled)
            masked += bool(masks.any())
        else:
            assert not masks.any() and is_true(scene, text) == bool(true)
            assert not caption or (true and text == world.caption(scene))
            assert ((wrong == 1) == (words >= 0)).all()
            assert not (words >= 0).any() or is_true(scene, filled)
    assert masked > 30  # some texts have no word that is certain


def test_other_pictures_captions_are_false_ones(tokenizer):
    train = pytest.importorskip("minivl.demo.train_bridgetower")
    made = statement_pool.of_world(tokenizer, seed=6, count=400, workers=1)
    lessons, which = train.Lessons(made, tokenizer, 0), np.arange(60)
    shown, common, part = [world.scene("train", 6, i) for i in range(400)], 0, 0
    for own, other in zip(which.repeat(3), lessons.strangers(which, 3), strict=True):
        scene = shown[own]
        assert not is_true(scene, world.caption(shown[other]))
        mine = {(t.colour, t.shape) for t in scene.things}
        common += any((t.colour, t.shape) in mine for t in shown[other].things)
        part += len(shown[other].things) == 1 and shown[other].things[0].name in {t.name for t in scene.things}
    assert common > 90 and part > 30  # of 180: rather those that could be mistaken for it
    task = lessons.task(which, 4, strange=1.0)
    told, owner = [world.caption(scene) for scene in shown], np.repeat(which, 4)
    for i in np.flatnonzero(task.true.numpy() == 0):
        text = tokenizer.decode(task.ids[i].tolist())
        assert text in told and not is_true(shown[owner[i]], text) and not task.caption[i]
        assert (task.words[i] == -100).all() and (task.wrong[i] == -100).all()


# --- the embedded model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return evaluate.Model("demo-bridgetower")


def right(model, items, pictures=None):
    said = model.say(items, pictures or [item.picture for item in items])
    return np.mean([text == item.answer for text, item in zip(said, items, strict=True)])


def test_true_and_nearly_true_texts_are_told_apart(model):
    items = list(evaluate.matching(evaluate.drawn("test", 11, 40), random.Random(0), False))
    assert right(model, items) >= 0.95
    pictures = [item.picture for item in items]
    assert right(model, items, pictures[60:] + pictures[:60]) < 0.65  # another scene's picture


def test_masked_words_are_read_off_the_picture(model):
    items = list(evaluate.masks(evaluate.drawn("test", 12, 40), random.Random(0), False))
    assert right(model, items) >= 0.95
    pictures = [item.picture for item in items]
    assert right(model, items, pictures[30:] + pictures[:30]) < 0.6


def test_pictures_and_captions_find_each_other(model):
    pictures, texts = evaluate.candidates(50)
    found = evaluate.retrieved(model, pictures[:40], texts[:40])
    assert (found[:, 2] >= 0.9).all() and (found[:, 1] >= found[:, 0]).all()


def test_candidates_are_true_of_one_picture_each():
    _, texts = evaluate.candidates(0)
    assert len(set(texts)) == evaluate.CANDIDATES


def test_the_card_shows_the_measured_numbers():
    results = json.loads(evaluate.RESULTS.read_text())
    assert BEGIN + evaluate.markdown(results) + STOP in evaluate.CARD.read_text()
    assert all(results[f"{task}, test"]["all questions"]["model"] >= 0.97 for task in ("matching", "masks"))
    assert all(row["after matching, first"] >= 0.95 for row in results["retrieval"].values())


def test_the_model_is_small_and_its_tokenizer_is_the_one_that_training_learned(tokenizer):
    assert sum(file.stat().st_size for file in find("demo-bridgetower").iterdir()) < 5_000_000
    assert json.loads((find("demo-bridgetower") / "tokenizer.json").read_text()) == json.loads(tokenizer.to_str())
