"""The example that trains in NumPy alone: its optimizer against torch's, its lessons, and that it learns."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minivl.demo import train_numpy, world
from minivl.demo.train_numpy import AdamW
from minivl.ops import tape
from minivl.weights import tree


def test_adamw_of_torch(rng):
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(6, 3, 4)) * [[10.0], [1.0], [1e-6]]
    ours, theirs = tape.Array(start), torch.tensor(start, requires_grad=True)
    mine = AdamW([ours], betas=(0.8, 0.95), decay=0.3)
    other = torch.optim.AdamW([theirs], betas=(0.8, 0.95), weight_decay=0.3)
    for step, gradient in enumerate(gradients):
        ours.grad, theirs.grad = gradient, torch.tensor(gradient)
        rate = 0.1 / (step + 1)
        other.param_groups[0]["lr"] = rate
        mine.step(rate)
        other.step()
        assert ours.grad is None
        np.testing.assert_allclose(ours.value, theirs.detach().numpy(), rtol=1e-12)


def test_hidden_words():
    rng = random.Random(0)
    caption = "a large red ring, a small blue star and a small red star"
    hidden = {train_numpy.hide_a_word(caption, rng) for _ in range(400)}
    assert len(hidden) == len(caption.split()) - 1  # every word but the first
    assert all(text.startswith("a ") and text.count("<mask>") == 1 and "," in text for text in hidden)
    assert "a large red <mask>, a small blue star and a small red star" in hidden


@pytest.mark.parametrize("name", train_numpy.STUDENTS)
def test_it_learns_and_every_weight_moves(name, capsys):
    student = train_numpy.STUDENTS[name](train_numpy.places.find(train_numpy.FOLDERS[name]), seed=1)
    flat: list = []
    tree.map_leaves(flat.append, student.params)
    before = [leaf.value for leaf in flat]
    losses = train_numpy.learn(student, train_numpy.lessons(1, 4), 12, 2e-3)
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3]), losses
    still = sum(np.array_equal(leaf.value, old) for leaf, old in zip(flat, before, strict=True))
    assert still == (0 if name == "blip2" else 2)  # the text tower's own pooler is never read
    assert "step 12/12" in capsys.readouterr().out


def test_lessons_are_of_the_training_split():
    batch = train_numpy.lessons(5, 3)
    (pictures, captions), (others, _) = batch(), batch()
    assert len(pictures) == len(captions) == 3 and pictures[0].tobytes() != others[0].tobytes()
    assert captions == [world.caption(world.scene("train", 5, i)) for i in range(3)]


def test_it_needs_neither_torch_nor_triton():
    code = (
        "import sys; from minivl.demo import train_numpy; train_numpy.main(['blip2', '--steps', '1', '--batch', '2']);"
        "assert not {'torch', 'triton', 'transformers'} & set(sys.modules)"
    )
    root = Path(train_numpy.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 1/1  0 s  loss "), done.stdout
