"""Sampling: texts come as often as their probabilities say, the seed decides, a wrong temperature would be noticed."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import GOLDEN, golden_inputs
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from minivl import Blip2ForConditionalGeneration
from minivl.generate import Settings, Tokens, run, scores

MANY = 6000
LOGITS = np.array([1.9, 1.2, 0.7, 0.4, 0.1, -0.5, -1.1, -2.0])


class Pairs:
    """A language whose next token depends on the last one alone: logits[last] are the scores of the next, token 0
    begins.
    """

    def __init__(self, logits, rows=1):
        self.logits, self.rows = np.asarray(logits), rows

    def step(self, tokens):
        return self.logits[np.zeros(self.rows, int) if tokens is None else tokens]

    def reorder(self, rows):
        self.rows = len(rows)


def always(logits):
    """The same scores whatever came before."""
    return Pairs(np.tile(logits, (len(logits), 1)))


def texts(reader, new, rows=1, **how):
    """The new tokens of MANY samples, as a table of how often each text came."""
    wanted = Settings.of(do_sample=True, max_new_tokens=new, seed=5, **how)
    ids = run(reader, rows, wanted, Tokens(0, None, 0))[:, 1:]
    found, counts = np.unique(ids, axis=0, return_counts=True)
    return {tuple(row): int(count) for row, count in zip(found.tolist(), counts, strict=True)}


def surprise(counts, expected):
    """Pearson's chi-square in units of its own spread: about normal(0, 1) if `expected` is right.

    Infinite if something came that cannot come.
    """
    if set(counts) - {text for text, p in expected.items() if p > 0}:
        return np.inf
    total = sum(counts.values())
    possible = {text: p * total for text, p in expected.items() if p > 0}
    chi = sum((counts.get(text, 0) - want) ** 2 / want for text, want in possible.items())
    freedom = len(possible) - 1
    return (chi - freedom) / max(2 * freedom, 1) ** 0.5


def expected(temperature=1.0, top_k=0, top_p=1.0):
    """Spelled out for eight tokens, which LOGITS has in falling order."""
    p = np.exp(LOGITS / temperature)
    if top_k:
        p[top_k:] = 0
    p /= p.sum()
    for token in range(1, 8):  # what stands before it is enough already
        if p[:token].sum() >= top_p:
            p[token:] = 0
            break
    return {(token,): share for token, share in enumerate(p / p.sum())}


SHAPES = [
    {},
    dict(temperature=0.6),
    dict(temperature=1.7),
    dict(top_k=3),
    dict(top_k=1),
    dict(top_p=0.8),
    dict(top_p=0.3),
    dict(temperature=1.5, top_k=5, top_p=0.7),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_come_as_often_as_they_should_and_no_other_shape_would_pass(shape):
    counts = texts(always(LOGITS), 1, num_return_sequences=MANY, **{"top_k": 0} | shape)
    assert sum(counts.values()) == MANY
    assert abs(surprise(counts, expected(**shape))) < 4
    for other in SHAPES:
        if expected(**other) != expected(**shape):
            assert surprise(counts, expected(**other)) > 20
    if len(counts) > 1:
        for factor in (0.75, 1.3):
            nearby = shape | {"temperature": shape.get("temperature", 1) * factor}
            assert surprise(counts, expected(**nearby)) > 4


def test_the_next_token_is_drawn_given_the_last(rng):
    logits = rng.normal(size=(3, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    counts = texts(Pairs(logits), 3, num_return_sequences=MANY)
    want = {(a, b, c): p[0, a] * p[a, b] * p[b, c] for a, b, c in itertools.product(range(3), repeat=3)}
    assert abs(surprise(counts, want)) < 4
    assert surprise(counts, {text: 1 / 27 for text in want}) > 20


def test_rows_are_drawn_independently():
    """Two rows of a batch, many times over: the pair comes as often as the product of its parts."""
    p = np.exp(LOGITS[:3]) / np.exp(LOGITS[:3]).sum()
    wanted = Settings(do_sample=True, max_new_tokens=1, num_return_sequences=MANY, seed=1)
    ids = run(Pairs(np.tile(LOGITS[:3], (3, 1)), 2), 2, wanted, Tokens(0, None, 0))[:, 1]
    pairs, counts = np.unique(ids.reshape(2, MANY), axis=1, return_counts=True)
    found = {tuple(pair): int(count) for pair, count in zip(pairs.T.tolist(), counts, strict=True)}
    assert abs(surprise(found, {(a, b): p[a] * p[b] for a in range(3) for b in range(3)})) < 4


@pytest.mark.parametrize("shape", [{}, dict(temperature=0.5), dict(top_k=4), dict(top_p=0.9)])
def test_sampled_beams_are_the_best_of_draws_without_putting_back(shape):
    """Two beams, alike at first, draw four different continuations; the text is the likeliest of the four."""
    share = expected(**shape)
    p = np.array([share[token,] for token in range(8)])
    want = dict.fromkeys(share, 0.0)
    both = [*np.flatnonzero(p), *np.flatnonzero(p)]
    for places in itertools.permutations(range(len(both)), 4):
        drawn = [both[place] for place in places]
        left, chance = 2.0, 1.0
        for token in drawn:
            chance, left = chance * p[token] / left, left - p[token]
        want[min(drawn),] += chance
    rows = 1500
    wanted = Settings.of(do_sample=True, num_beams=2, max_new_tokens=1, seed=2, **{"top_k": 0} | shape)
    ids = run(Pairs(np.tile(LOGITS, (8, 1)), rows), rows, wanted, Tokens(0, None, 0))
    found, counts = np.unique(ids[:, 1], return_counts=True)
    got = {(token,): int(count) for token, count in zip(found.tolist(), counts, strict=True)}
    assert abs(surprise(got, want)) < 4
    assert surprise(got, share) > 10


# ---- the shape of chance, beside transformers' own ------------------------------------------------
@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.01, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 7, 30, 100]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999, 1.0]),
    keep=st.integers(1, 4),
)
def test_the_same_tokens_stay_possible_as_in_transformers(seed, temperature, top_k, top_p, keep):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (3, 30)).astype(np.float32)
    logits[0, rng.integers(0, 30, 5)] = -np.inf
    want = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k:
        want = TopKLogitsWarper(top_k, min_tokens_to_keep=keep)(None, want)
    if top_p < 1:
        want = TopPLogitsWarper(top_p, min_tokens_to_keep=keep)(None, want)
    chosen = Settings(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    got = scores.shaped(logits, chosen, keep)
    assert ((got == -np.inf) == (want.numpy() == -np.inf)).all()
    np.testing.assert_allclose(np.exp(scores.log_softmax(got)), want.softmax(-1).numpy(), rtol=1e-4, atol=1e-7)


def test_a_temperature_near_zero_is_greedy():
    for temperature in (1e-3, 1e-8):
        assert texts(always(LOGITS), 2, num_return_sequences=50, temperature=temperature) == {(0, 0): 50}


# ---- the seed ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model():
    return Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")


@pytest.mark.parametrize("how", [{}, dict(num_beams=3), dict(num_return_sequences=2)])
def test_the_seed_decides(model, how):
    inputs = golden_inputs(GOLDEN / "base")
    one, same, other = (model.generate(**inputs, do_sample=True, seed=seed, **how).tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert (
        model.generate(**inputs, do_sample=True, **how).tolist()
        != model.generate(**inputs, do_sample=True, **how).tolist()
    )


def test_a_rows_text_does_not_depend_on_how_many_rows_follow(model):
    alone = model.generate(**golden_inputs(GOLDEN / "base", (0,)), do_sample=True, seed=1)
    together = model.generate(**golden_inputs(GOLDEN / "base"), do_sample=True, seed=1)
    assert alone.tolist() == together[:1].tolist()
    assert len({tuple(row) for row in together.tolist()}) == 3


def test_rules_hold_for_sampling_too(model):
    how = dict(do_sample=True, seed=3, temperature=2.0, top_k=0, num_return_sequences=20, max_new_tokens=20)
    ids = model.generate(**golden_inputs(GOLDEN / "base", (0,)), **how, no_repeat_ngram_size=1, eos_token_id=[3, 4, 5],
                         pad_token_id=0, min_new_tokens=10)  # fmt: skip
    assert ids.shape[0] == 20
    for row in ids.tolist():
        said = row[: next((i for i, token in enumerate(row) if token in (3, 4, 5)), 20) + 1]
        assert len(set(said)) == len(said) > 10
        assert set(row[len(said) :]) <= {0}
