"""generate(): token for token what transformers 4.37.2 answered, what today's OPT answers, and what its rules say."""

import json
import shutil

import numpy as np
import oracle
import pytest
import torch
from oracle import GOLDEN, MODELS, draw_blip2, example, golden_inputs

from minivl import Blip2ForConditionalGeneration, generate
from minivl.errors import InputError

CASES = [
    pytest.param(path.parent, case, id=f"{path.parent.name}: {case['name']}")
    for path in sorted(GOLDEN.glob("*/generate.json"))
    for case in json.loads(path.read_text())
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
    step = model._step(pixels, ids, mask)
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


# ---- the loop itself, over a language model that reads from a list -------------------------------
class Script:
    """A step function whose n-th call makes the n-th column of `said` most probable, and token 8 second."""

    def __init__(self, said, vocabulary=10):
        self.said, self.vocabulary, self.calls = np.array(said), vocabulary, []

    def __call__(self, tokens):
        self.calls.append(None if tokens is None else tokens.tolist())
        logits = np.zeros((len(self.said), self.vocabulary), np.float32)
        logits[:, 8] = 1
        logits[np.arange(len(self.said)), self.said[:, len(self.calls) - 1]] = 2
        logits.flags.writeable = False
        return logits


def greedy(script, most, least=0, eos=9, pad=PAD):
    return generate.greedy(script, len(script.said), generate.Lengths(most, least), bos=BOS, eos=eos, pad=pad).tolist()


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
    ],
)
def test_lengths(given, most, least):
    assert generate.lengths(**given) == (most, least)


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
    ],
)
def test_lengths_that_make_no_sense(given, words):
    with pytest.raises(InputError, match=words):
        generate.lengths(**given)


def test_inputs_that_do_not_fit():
    model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")
    inputs = golden_inputs(GOLDEN / "base")
    with pytest.raises(InputError, match="3 pictures and 2 texts"):
        model.generate(inputs["pixel_values"], inputs["input_ids"][:2])
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(**inputs, max_new_tokens=0)
    with pytest.raises(InputError, match="positions"):
        model.generate(**inputs, max_new_tokens=100)
