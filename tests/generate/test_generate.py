"""generate(): token for token what transformers 4.37.2 answered, what today's OPT answers, and what its rules say.

Sampling has test_sampling.py, streaming and stop strings have test_streaming.py.
"""

import functools
import itertools
import json
import shutil

import numpy as np
import oracle
import pytest
import torch
from oracle import GOLDEN, MODELS, draw_blip2, example, golden_inputs

from minivl import Blip2ForConditionalGeneration
from minivl.errors import InputError
from minivl.generate import Settings, Tokens, beams, run, scores

CASES = [
    pytest.param(path.parent, case, id=f"{path.parent.name}: {case['name']}")
    for path in sorted(GOLDEN.glob("*/generate.json"))
    for case in json.loads(path.read_text())
]
WAYS = [
    pytest.param(path.parent, case, id=f"{path.parent.name}-{number}")
    for path in sorted(GOLDEN.glob("*/ways.json"))
    for number, case in enumerate(json.loads(path.read_text()))
]
PAD, BOS = 1, 2


def model_with(folder, tmp_path, text_config, **how):
    """The model in a golden folder, with some entries of text_config replaced."""
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.npz"))
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= text_config
    path.write_text(json.dumps(config))
    return Blip2ForConditionalGeneration.from_pretrained(tmp_path / "model", **how)


# ---- against 4.37.2 ------------------------------------------------------------------------------
@pytest.mark.parametrize("folder, case", CASES)
def test_same_tokens_as_4_37(folder, case, tmp_path):
    model = model_with(folder, tmp_path, case["text_config"])
    inputs = golden_inputs(folder, case["rows"], case["prompt"], case["masked"])
    got = model.generate(**inputs, **case["arguments"])
    assert got.dtype == np.int64
    assert got.tolist() == case["ids"]


loaded = functools.cache(Blip2ForConditionalGeneration.from_pretrained)


def known_noise(row):
    """The noise of make_generate_goldens.py for a row, step by step."""
    steps = itertools.count()
    return lambda size: np.random.RandomState([next(steps), row]).gumbel(size=size)


@pytest.mark.parametrize("folder, case", WAYS)
def test_same_tokens_as_4_37_however_it_is_asked(folder, case, monkeypatch):
    """Beams, penalties, n-grams, ends and lengths, drawn by make_generate_goldens.py, which knows the noise too."""
    monkeypatch.setattr(scores, "dice", lambda settings, rows: [known_noise(row) for row in range(rows)])
    inputs = golden_inputs(folder, case["rows"], case["prompt"])
    assert loaded(folder).generate(**inputs, **case["arguments"]).tolist() == case["ids"]


def test_the_ways_of_asking_are_various():
    cases = [case.values[1] for case in WAYS]
    assert len(cases) >= 300
    seen = [{**case["arguments"]} for case in cases]
    for name, values in {
        "num_beams": {1, 2, 3, 4, 5},
        "length_penalty": {0, -1, 0.6, 1, 2},
        "early_stopping": {True, False, "never"},
        "repetition_penalty": {0.8, 1.2, 2.0},
        "no_repeat_ngram_size": {1, 2, 3},
        "temperature": {0.5, 0.7, 1.5, 3.0},
    }.items():
        found = [arguments[name] for arguments in seen if name in arguments]
        assert set(found) == values and all(found.count(value) > 8 for value in values)
    assert sum(isinstance(arguments["eos_token_id"], list) for arguments in seen) > 100
    early = sum(len(row) < arguments.get("max_new_tokens", arguments.get("max_length", 20) - 1) + 1
                for case, arguments in zip(cases, seen, strict=True) for row in case["ids"])  # fmt: skip
    assert early > 200  # these ended before they had to


def test_torch_backend_with_beams():
    folder, case = next(case.values for case in WAYS if case.values[1]["arguments"]["num_beams"] == 4)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend="torch")
    inputs = golden_inputs(folder, case["rows"], case["prompt"])
    assert np.asarray(model.generate(**inputs, **case["arguments"])).tolist() == case["ids"]


def test_torch_backend(tmp_path):
    folder, case = GOLDEN / "base", json.loads((GOLDEN / "base" / "generate.json").read_text())[0]
    model = Blip2ForConditionalGeneration.from_pretrained(folder, backend="torch")
    assert np.asarray(model.generate(**golden_inputs(folder))).tolist() == case["ids"]


# ---- against the transformers of today -----------------------------------------------------------
@pytest.mark.parametrize("seed", range(100, 120))
def test_same_tokens_as_todays_opt(seed, tmp_path):
    """OPT of today, given the same embeddings, returns the new tokens alone."""
    theirs = draw_blip2(seed)
    theirs.save_pretrained(tmp_path)
    pixels, ids, mask = example(theirs, seed=seed)
    embeds, seen = oracle.prompt(theirs, oracle.blip2_trace(theirs, pixels, ids, mask), ids, mask)
    new, least = seed % 10 + 6, seed % 3 * 3
    with torch.no_grad():
        want = theirs.language_model.generate(
            inputs_embeds=torch.tensor(embeds),
            attention_mask=torch.tensor(seen),
            max_new_tokens=new,
            min_new_tokens=least,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=[49, 7, 11],
        )
    model = model_with(tmp_path, tmp_path, {"eos_token_id": [49, 7, 11]})
    got = model.generate(pixels, ids, mask, max_new_tokens=new, min_new_tokens=least)
    assert got.tolist() == np.pad(want.numpy(), ((0, 0), (1, 0)), constant_values=BOS).tolist()


# ---- the same answer by another way --------------------------------------------------------------
@pytest.fixture(scope="module", params=MODELS)
def folder(request):
    return GOLDEN / request.param


def test_left_padded_batch_equals_single_texts(folder):
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = golden_inputs(folder)
    together = model.generate(**inputs)
    for row in range(3):
        kept = inputs["attention_mask"][row] == 1
        alone = model.generate(inputs["pixel_values"][row : row + 1], inputs["input_ids"][row : row + 1, kept])
        assert alone.tolist() == together[row : row + 1].tolist()


def test_right_padded_batch_equals_left_padded(folder):
    """4.37 reads the next token off a padding position here, which is no answer to anything."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = golden_inputs(folder)
    left = model.generate(**inputs)
    order = np.argsort(-inputs["attention_mask"], axis=1, kind="stable")
    right = {name: np.take_along_axis(inputs[name], order, 1) for name in ("input_ids", "attention_mask")}
    assert right["attention_mask"][2].tolist() == [1, 1, 0, 0, 0, 0]
    assert model.generate(inputs["pixel_values"], **right).tolist() == left.tolist()


def test_cached_decoding_equals_reading_everything_again(folder):
    """Each next token by a whole forward pass over the prompt and all tokens so far, without a cache."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = golden_inputs(folder)
    pixels, ids, mask = inputs.values()
    for _ in range(19):
        tokens = model(pixels, ids, mask).logits[:, -1].argmax(-1)
        ids, mask = np.column_stack([ids, tokens]), np.column_stack([mask, np.ones_like(tokens)])
    assert model.generate(**inputs)[:, 1:].tolist() == ids[:, -19:].tolist()


def test_cached_logits_equal_reading_everything_again(folder):
    """The same, measured on the scores."""
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = golden_inputs(folder)
    pixels, ids, mask = inputs.values()
    step = model._reader(pixels, ids, mask).step
    tokens = None
    for _ in range(19):
        got, want = step(tokens), model(pixels, ids, mask).logits[:, -1]
        np.testing.assert_allclose(got, want, atol=1e-5)
        tokens = want.argmax(-1)
        ids, mask = np.column_stack([ids, tokens]), np.column_stack([mask, np.ones_like(tokens)])


def test_picture_alone_is_the_prompt_bos(folder):
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    pixels = golden_inputs(folder)["pixel_values"]
    assert model.generate(pixels).tolist() == model.generate(pixels, np.full((3, 1), BOS)).tolist()


# ---- the loops themselves, over a language model that reads from a list ---------------------------
class Script:
    """A reader whose n-th step makes the n-th column of `said` most probable, and token 8 second."""

    def __init__(self, said, vocabulary=10):
        self.said, self.vocabulary, self.calls = np.array(said), vocabulary, []

    def step(self, tokens):
        self.calls.append(None if tokens is None else tokens.tolist())
        logits = np.zeros((len(self.said), self.vocabulary), np.float32)
        logits[:, 8] = 1
        logits[np.arange(len(self.said)), self.said[:, len(self.calls) - 1]] = 2
        logits.flags.writeable = False
        return logits


def write(reader, rows, ends=9, pad=PAD, **settings):
    return run(reader, rows, Settings.of(**settings), Tokens(BOS, ends, pad)).tolist()


def greedy(script, most, least=0, eos=9, pad=PAD):
    return write(script, len(script.said), eos, pad, max_new_tokens=most, min_new_tokens=least)


def test_step_is_given_the_tokens_it_chose():
    script = Script([[3, 4, 5], [6, 7, 3]])
    assert greedy(script, 3) == [[BOS, 3, 4, 5], [BOS, 6, 7, 3]]
    assert script.calls == [None, [3, 6], [4, 7]]


def test_an_ended_row_goes_on_with_padding_until_all_have_ended():
    script = Script([[3, 9, 5, 5, 5], [6, 7, 3, 9, 5]])
    assert greedy(script, 5) == [[BOS, 3, 9, PAD, PAD], [BOS, 6, 7, 3, 9]]
    assert script.calls == [None, [3, 6], [9, 7], [PAD, 3]]


@pytest.mark.parametrize("least, want", [(0, [9]), (1, [8, 9]), (2, [8, 8, 9]), (3, [8, 8, 8, 9])])
def test_an_end_that_comes_too_early_is_passed_over(least, want):
    assert greedy(Script([[9, 9, 9, 9]]), 4, least) == [[BOS, *want]]


def test_every_end_of_a_list_ends_and_is_passed_over():
    assert greedy(Script([[9, 5, 5], [4, 9, 5]]), 3, eos=[9, 5]) == [[BOS, 9, PAD], [BOS, 4, 9]]
    assert greedy(Script([[9, 5, 5], [4, 9, 5]]), 3, least=2, eos=(9, 5)) == [[BOS, 8, 8, 5], [BOS, 4, 8, 5]]


def test_ends_and_padding_that_are_asked_for_go_before_the_models():
    said = [[3, 9, 5, 5, 5], [6, 7, 3, 9, 5]]
    assert write(Script(said), 2, max_new_tokens=4, eos_token_id=3, pad_token_id=0) == [[2, 3, 0, 0], [2, 6, 7, 3]]
    assert write(Script(said), 2, pad=None, max_new_tokens=3, eos_token_id=[9, 6]) == [[2, 3, 9], [2, 6, 9]]


def test_an_end_that_is_no_token_ends_nothing():
    assert greedy(Script([[3, 9, 5]]), 3, least=2, eos=[-1, 50118]) == [[BOS, 3, 9, 5]]


# ---- the loops over a language whose next token depends on the last one alone ---------------------
class Pairs:
    """A reader: logits[row, last token] are the scores of the next one. Remembers which row stands where."""

    def __init__(self, logits, first=0):
        self.logits, self.rows, self.first = logits, np.arange(len(logits)), first

    def step(self, tokens):
        self.last = np.full(len(self.rows), self.first) if tokens is None else tokens
        return self.logits[self.rows, self.last]

    def reorder(self, rows):
        self.rows, self.last = self.rows[rows], self.last[rows]


def every_text(logits, most, end):
    """All texts of this language, with their log-probabilities: those that end, and those of `most` tokens."""
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for length in range(1, most + 1):
        for text in itertools.product(range(len(logits)), repeat=length):
            if end not in text[:-1] and (text[-1] == end or length == most):
                yield [0, *text], sum(p[a, b] for a, b in zip([0, *text], text, strict=False))


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_beams_that_never_stop_early_find_the_best_of_all_texts(penalty, rng):
    """With a beam for every beginning nothing is missed, so that the answers are the best of all texts, in order."""
    for _ in range(5):
        logits = rng.normal(0, 1.5, (1, 4, 4))
        texts = sorted(every_text(logits[0], 4, end=3), key=lambda one: -one[1] / (len(one[0]) - 1) ** penalty)
        how = dict(num_beams=64, max_new_tokens=4, early_stopping="never", length_penalty=penalty)
        got = write(Pairs(logits), 1, 3, 9, num_return_sequences=6, **how)
        assert [[token for token in row if token != 9] for row in got] == [[BOS, *text[1:]] for text, _ in texts[:6]]


def test_a_row_of_beams_does_not_mind_its_neighbours(rng):
    logits = rng.normal(0, 1.5, (4, 7, 7))
    how = dict(num_beams=3, max_new_tokens=9, num_return_sequences=2, eos_token_id=[6, 5], no_repeat_ngram_size=2)
    together = write(Pairs(logits), 4, **how)
    for row in range(4):
        alone = write(Pairs(logits[row : row + 1]), 1, **how)
        assert [text[: len(alone[0])] for text in together[2 * row : 2 * row + 2]] == alone
        assert all(token == PAD for text in together[2 * row : 2 * row + 2] for token in text[len(alone[0]) :])


def test_one_beam_is_greedy(rng):
    logits = rng.normal(0, 1.5, (3, 7, 7))
    want = [0] * 3
    greedy = write(Pairs(logits), 3, ends=None, max_new_tokens=6)
    for n in range(6):
        want = logits[np.arange(3), want].argmax(-1)
        assert [row[n + 1] for row in greedy] == want.tolist()


def test_a_text_shows_the_first_end_of_the_list_whichever_it_met():
    """4.37 does so with beams, and only with beams."""
    logits = np.full((1, 5, 5), -20.0)
    logits[0, 0, 1] = logits[0, 1, 4] = 0
    assert write(Pairs(logits), 1, [3, 4], num_beams=2)[0] == [BOS, 1, 3]
    assert write(Pairs(logits), 1, [3, 4]) == [[BOS, 1, 4]]


@pytest.mark.parametrize(
    "early, penalty, worst, total, settled",
    [
        (False, 1.0, -0.3, -1.5, True),  # -1.5 / 3 now
        ("never", 1.0, -0.3, -1.5, False),  # -1.5 / 10 at best
        ("never", -1.0, -6.0, -1.5, False),  # -1.5 · 3 now, and only worse later
        ("never", -1.0, -4.0, -1.5, True),
        (True, 1.0, -99.0, 0.0, True),
    ],
)
def test_when_a_search_is_settled(early, penalty, worst, total, settled):
    how = Settings(num_beams=2, early_stopping=early, length_penalty=penalty, max_new_tokens=10)
    search = beams.Search(how, scores.Endings.of(how, Tokens(BOS, 9, PAD)))
    search.ids = np.zeros((2, 4), int)
    search.ended = [(worst, search.ids[0]), (0.0, search.ids[0])]
    assert search.settled(total) is settled


def test_the_samples_of_a_row_stand_together():
    logits = np.zeros((2, 9, 9))
    logits[0, :, 3] = logits[1, :, 4] = 99
    got = write(Pairs(logits), 2, None, do_sample=True, num_return_sequences=2, max_new_tokens=1)
    assert got == [[BOS, 3], [BOS, 3], [BOS, 4], [BOS, 4]]


# ---- the rules, one by one -----------------------------------------------------------------------
def ruled(logits, ids, **settings):
    endings = scores.Endings.of(Settings.of(**settings), Tokens(BOS, 5, PAD))
    return scores.ruled(np.array(logits), np.array(ids), Settings.of(**settings), endings)


def test_repetition_penalty_divides_what_is_positive_and_multiplies_the_rest():
    got = ruled([[4.0, -4.0, 0.0, 3.0]], [[0, 1, 1, 2]], repetition_penalty=2.0)
    assert got.tolist() == [[2.0, -8.0, 0.0, 3.0]]


@pytest.mark.parametrize(
    "size, ids, gone",
    [
        (1, [2], {2}),
        (1, [2, 4, 4], {2, 4}),
        (2, [2], set()),
        (2, [2, 2], {2}),
        (2, [3, 4, 0, 3], {4}),
        (2, [3, 4, 3, 0, 3], {4, 0}),
        (3, [3, 4, 0, 3, 4], {0}),
        (3, [3, 4, 0, 1, 4], set()),
        (4, [3, 4], set()),
        (4, [3, 4, 0], set()),
        (4, [1, 1, 1, 1], {1}),
    ],
)
def test_no_repeat_ngram_size_forbids_the_last_token_of_what_was_there(size, ids, gone):
    got = ruled(np.zeros((1, 6)), [ids], no_repeat_ngram_size=size)[0]
    assert set(np.flatnonzero(got == -np.inf)) == gone and not got[got != -np.inf].any()


def test_rules_leave_the_scores_that_they_are_given_alone():
    logits = np.ones((1, 6), np.float32)
    logits.flags.writeable = False
    how = dict(repetition_penalty=2.0, no_repeat_ngram_size=1, min_new_tokens=5)
    assert ruled(logits, [[0, 1]], **how).dtype == np.float32
    assert scores.ruled(
        logits.astype(np.float16), np.array([[0]]), Settings(), scores.Endings.of(Settings(), Tokens(0, 5, 1))
    ).dtype == np.float32  # fmt: skip


@pytest.mark.parametrize("beams", [1, 2])
def test_when_everything_is_forbidden_that_is_said(beams):
    with pytest.raises(InputError, match="no token is left to come after 3: no_repeat_ngram_size"):
        write(Pairs(np.zeros((1, 4, 4))), 1, None, no_repeat_ngram_size=1, num_beams=beams)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_not_taken_for_an_answer(beams, bad):
    logits = np.zeros((1, 4, 4))
    logits[0, 2, 3] = bad
    logits[0, 0, 2] = 9
    with pytest.raises(InputError, match="float32"):
        write(Pairs(logits), 1, num_beams=beams)


# ---- what can be asked ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "given, most, least",
    [
        ({}, 19, 0),
        (dict(max_new_tokens=7), 7, 0),
        (dict(max_length=7), 6, 0),
        (dict(max_new_tokens=3, max_length=30), 3, 0),
        (dict(max_new_tokens=30, max_length=3), 30, 0),
        (dict(min_length=5), 19, 4),
        (dict(min_length=1), 19, 0),
        (dict(min_length=0), 19, 0),
        (dict(min_new_tokens=5), 19, 5),
        (dict(min_new_tokens=5, min_length=5), 19, 5),
        (dict(min_new_tokens=5, min_length=7), 19, 6),
        (dict(min_new_tokens=4, max_new_tokens=4), 4, 4),
        (dict(min_length=9, max_length=9), 8, 8),
        (dict(max_new_tokens=np.int64(5)), 5, 0),
        (dict(max_new_tokens=None, max_length=None, min_length=None, min_new_tokens=None), 19, 0),
    ],
)
def test_lengths(given, most, least):
    settings = Settings.of(**given)
    assert (settings.most, settings.least) == (most, least)


def test_none_is_the_default_and_turns_top_k_off():
    everything = dict.fromkeys(Settings.__dataclass_fields__)
    assert Settings.of(**everything) == Settings(top_k=0)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(max_new_tokens=0), "max_new_tokens"),
        (dict(max_new_tokens=-1), "max_new_tokens"),
        (dict(max_new_tokens=2.5), "max_new_tokens"),
        (dict(max_new_tokens=True), "max_new_tokens"),
        (dict(max_length=1), "max_length"),
        (dict(max_length="20"), "max_length"),
        (dict(min_length=-1), "min_length"),
        (dict(min_new_tokens=-1), "min_new_tokens"),
        (dict(max_new_tokens=3, min_new_tokens=4), "4 .* 3"),
        (dict(max_length=5, min_length=6), "5 .* 4"),
        (dict(min_new_tokens=20), "20 .* 19"),
        (dict(num_beams=0), "num_beams must be a whole number of at least 1 and at most 65536, not 0"),
        (dict(num_beams=2.0), "num_beams"),
        (dict(num_return_sequences=0), "num_return_sequences"),
        (dict(num_return_sequences=2), "num_return_sequences=2 and num_beams=1"),
        (dict(num_beams=3, num_return_sequences=4), "num_return_sequences=4 and num_beams=3"),
        (dict(num_beams=3, num_return_sequences=4, do_sample=True), "num_return_sequences=4 and num_beams=3"),
        (dict(num_beams=2, early_stopping="often"), 'early_stopping: wanted True, False or "never"'),
        (dict(num_beams=2, early_stopping=1), "early_stopping"),
        (dict(num_beams=2, length_penalty=np.nan), "length_penalty"),
        (dict(num_beams=2, length_penalty=1000), "length_penalty .* at most 32"),
        (dict(num_beams=2, length_penalty="1"), "length_penalty"),
        (dict(length_penalty=2.0), "length_penalty=2.0 has no effect without num_beams"),
        (dict(early_stopping=True), "early_stopping=True has no effect without num_beams"),
        (dict(do_sample="yes"), "do_sample: wanted True or False"),
        (dict(do_sample=True, temperature=0), "temperature must be a number above 1e-09, not 0"),
        (dict(do_sample=True, temperature=-1.0), "temperature"),
        (dict(do_sample=True, temperature=np.inf), "temperature"),
        (dict(do_sample=True, top_p=0.0), "top_p must be a number above 0 and at most 1"),
        (dict(do_sample=True, top_p=1.5), "top_p"),
        (dict(do_sample=True, top_k=-1), "top_k"),
        (dict(do_sample=True, seed=-1), "seed"),
        (dict(do_sample=True, seed=0.5), "seed"),
        (dict(temperature=0.5), "temperature=0.5 has no effect without do_sample=True"),
        (dict(top_k=5), "top_k=5 has no effect without do_sample=True"),
        (dict(num_beams=4, top_p=0.9), "top_p=0.9 has no effect without do_sample=True"),
        (dict(repetition_penalty=0), "repetition_penalty must be a number above 0"),
        (dict(repetition_penalty=True), "repetition_penalty"),
        (dict(no_repeat_ngram_size=-1), "no_repeat_ngram_size"),
        (dict(eos_token_id="</s>"), "eos_token_id"),
        (dict(eos_token_id=[2, -1]), "eos_token_id"),
        (dict(eos_token_id=2**63), "eos_token_id"),
        (dict(pad_token_id=2**63), "pad_token_id"),
        (dict(pad_token_id=-1), "pad_token_id"),
        (dict(stop=["."]), "tokenizer=processor.tokenizer"),
        (dict(stop=["."], tokenizer="gpt2"), "tokenizer=processor.tokenizer"),
        (dict(stop=[""], tokenizer=PAD), "stop: wanted a text"),
        (dict(stop=5, tokenizer=PAD), "stop: wanted a text"),
        (dict(streamer=print), "streamer: wanted an object with put"),
        (dict(num_beam=3), "no argument 'num_beam': did you mean num_beams"),
        (dict(colour="red"), "no argument 'colour': there are max_new_tokens"),
    ],
)
def test_wishes_that_make_no_sense(given, words):
    with pytest.raises(InputError, match=words) as caught:
        Settings.of(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given", [dict(temperature=1.0, top_k=50, top_p=1.0, seed=3), dict(top_k=0), dict(length_penalty=1)]
)
def test_defaults_may_be_spelled_out(given):
    assert Settings.of(**given).num_beams == 1


def test_inputs_that_do_not_fit():
    model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")
    inputs = golden_inputs(GOLDEN / "base")
    with pytest.raises(InputError, match="3 pictures and 2 texts"):
        model.generate(inputs["pixel_values"], inputs["input_ids"][:2])
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(**inputs, max_new_tokens=0)
    with pytest.raises(InputError, match="did you mean temperature"):
        model.generate(**inputs, temprature=0.5)
    with pytest.raises(InputError, match="positions"):
        model.generate(**inputs, max_new_tokens=100)
