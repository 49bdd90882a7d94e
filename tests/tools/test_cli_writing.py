"""caption and ask: how the text is written. Beams, chance, stop strings, streaming, prompts by name."""

import json
import shutil

import pytest
from run_cli import CIRCLE, PICTURES, run

from minivl import Blip2ForConditionalGeneration, Blip2Processor, cli, prompts
from minivl.errors import InputError
from minivl.generate import Settings
from minivl.weights.places import find


@pytest.fixture(scope="module")
def model():
    return Blip2ForConditionalGeneration.from_pretrained("demo")


@pytest.fixture(scope="module")
def processor():
    return Blip2Processor.from_pretrained("demo")


def said(model, processor, text=None, **settings):
    """What the model itself answers about CIRCLE."""
    inputs = processor(images=CIRCLE, text=text, return_tensors="np")
    ids = model.generate(**inputs, **{"max_new_tokens": 40} | settings)
    return " ".join(processor.decode(ids[0], skip_special_tokens=True).split())


@pytest.mark.parametrize(
    "options, settings",
    [
        (["--beams", 3], dict(num_beams=3)),
        (["--max-new-tokens", 4], dict(max_new_tokens=4)),
        (["--sample", "--seed", 7], dict(do_sample=True, seed=7)),
        (["--sample", "--seed", 0], dict(do_sample=True, seed=0)),
        (["--sample", "--seed", 7, "--temperature", 3, "--top-k", 40],
         dict(do_sample=True, seed=7, temperature=3.0, top_k=40)),
        (["--sample", "--seed", 7, "--temperature", 3, "--top-p", 0.2],
         dict(do_sample=True, seed=7, temperature=3.0, top_p=0.2)),
        (["--sample", "--seed", 7, "--beams", 2], dict(do_sample=True, seed=7, num_beams=2)),
    ],
)  # fmt: skip
def test_options_are_the_arguments_of_generate(capsys, model, processor, options, settings):
    assert run(capsys, "caption", CIRCLE, *options) == (0, [said(model, processor, **settings)], [])


def test_each_option_reaches_generate(monkeypatch, capsys):
    """By its own name and with its value, beside what was not asked for."""
    told = []

    def generate(self, pixel_values, **named):
        told.append({name: value for name, value in named.items() if name in Settings.__dataclass_fields__})
        return [[2]]

    monkeypatch.setattr(Blip2ForConditionalGeneration, "generate", generate)
    run(capsys, "caption", CIRCLE)
    run(capsys, "ask", CIRCLE, "what?", "--sample", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.25",
        "--seed", "9", "--beams", "2", "--stop", "a", "--stop", "b c")  # fmt: skip
    for call in told:
        assert hasattr(call.pop("tokenizer"), "decode")
    assert told == [
        dict(max_new_tokens=40, do_sample=False),
        dict(max_new_tokens=40, do_sample=True, temperature=0.5, top_k=3, top_p=0.25, seed=9, num_beams=2,
             stop=["a", "b c"]),
    ]  # fmt: skip


def test_a_stop_string_ends_the_text_and_is_not_shown(capsys):
    whole = run(capsys, "caption", CIRCLE)[1][0]
    assert run(capsys, "caption", CIRCLE, "--stop", "red") == (0, [whole[: whole.index("red")].strip()], [])
    assert run(capsys, "caption", CIRCLE, "--stop", "red", "--stream")[1] == [whole[: whole.index("red")].strip()]
    assert run(capsys, "caption", CIRCLE, "--stop", "zebra", "--stop", "circle")[1] == [whole.split(" circle")[0]]


def test_streaming_prints_the_same_lines_in_pieces(capsys, monkeypatch):
    pieces = []
    plain = run(capsys, "caption", PICTURES)
    monkeypatch.setattr("builtins.print", lambda *words, end="\n", **_: pieces.append("".join(words) + end))
    assert cli.main(["caption", str(PICTURES), "--stream"]) == 0
    pieces = [piece for piece in pieces if piece and "toy world" not in piece]
    assert "".join(pieces).splitlines() == plain[1]
    assert len(pieces) > 4 * len(plain[1])


def test_a_bad_picture_does_not_disturb_a_stream(capsys):
    status, out, err = run(capsys, "caption", "missing.png", CIRCLE, "--stream")
    assert status == 1 and len(out) == 1 and out[0].startswith(f"{CIRCLE}: ") and len(err) == 1


# ---- prompts -------------------------------------------------------------------------------------
def test_a_caption_may_begin_with_given_words(capsys, model, processor):
    begun = said(model, processor, "a small")
    assert run(capsys, "caption", CIRCLE, "--prompt", "a small") == (0, [begun], [])
    assert begun != said(model, processor)


def test_presets_are_the_papers_prompts(capsys, model, processor):
    assert prompts.PROMPTS == {
        "caption": "a photo of",
        "vqa-opt": "Question: {} Answer:",
        "vqa-t5": "Question: {} Short answer:",
    }
    assert prompts.prompt("caption") == "a photo of"
    assert prompts.prompt("vqa-t5", " a {} b? ") == "Question: a {} b? Short answer:"
    assert run(capsys, "caption", CIRCLE, "--preset", "caption")[1] == [said(model, processor, "a photo of")]
    question = "what color is the circle?"
    for preset, words in (("vqa-opt", "Answer:"), ("vqa-t5", "Short answer:")):
        want = said(model, processor, f"Question: {question} {words}")
        assert run(capsys, "ask", CIRCLE, question, "--preset", preset) == (0, [want], [])
    plain = run(capsys, "ask", CIRCLE, question)
    assert plain == run(capsys, "ask", CIRCLE, question, "--preset", "vqa-opt") == (0, ["red"], [])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["poem"], "no prompt called 'poem': there are caption, vqa-opt, vqa-t5"),
        (["caption", "what?"], "'caption' takes no question"),
        (["vqa-t5"], "'vqa-t5' needs a question"),
    ],
)
def test_prompts_that_there_are_not(arguments, words):
    with pytest.raises(InputError, match=words):
        prompts.prompt(*arguments)


# ---- what does not go together -------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["caption", CIRCLE, "--temperature", "0.5"], "--temperature needs --sample"),
        (["caption", CIRCLE, "--top-k", "5"], "--top-k needs --sample"),
        (["ask", CIRCLE, "what?", "--top-p", "0.5"], "--top-p needs --sample"),
        (["caption", CIRCLE, "--seed", "0"], "--seed needs --sample"),
        (["caption", CIRCLE, "--sample", "--seed", "-1"], "seed"),
        (["caption", CIRCLE, "--sample", "--seed", "x"], "'x' is not a whole number"),
        (["caption", CIRCLE, "--sample", "--temperature", "0"], "'0' is not a number above 0"),
        (["caption", CIRCLE, "--sample", "--temperature", "nan"], "'nan' is not a number above 0"),
        (["caption", CIRCLE, "--sample", "--temperature", "warm"], "'warm' is not a number above 0"),
        (["caption", CIRCLE, "--sample", "--top-p", "1.5"], "'1.5' is above 1"),
        (["caption", CIRCLE, "--beams", "0"], "'0' is not a whole number above 0"),
        (["caption", CIRCLE, "--stop", ""], "--stop needs a text"),
        (["caption", CIRCLE, "--stream", "--json"], "--stream shows one text"),
        (["caption", CIRCLE, "--stream", "--beams", "2"], "--stream shows one text"),
        (["caption", CIRCLE, "--prompt", "a", "--preset", "caption"], "not allowed with"),
        (["caption", CIRCLE, "--preset", "vqa-opt"], "invalid choice"),
        (["caption", CIRCLE, "--prompt", " "], "the text is empty"),
        (["ask", CIRCLE, "what?", "--raw", "--preset", "vqa-opt"], "not allowed with"),
        (["ask", CIRCLE, "what?", "--preset", "caption"], "invalid choice"),
    ],
)
def test_wrong_usage(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, []) and words in err[-1]


def test_one_beam_may_be_streamed(capsys):
    assert run(capsys, "caption", CIRCLE, "--stream", "--beams", 1) == run(capsys, "caption", CIRCLE)


def test_json_has_no_stop_string_either(capsys, tmp_path):
    copy = shutil.copytree(find("demo"), tmp_path / "model")
    line = run(capsys, "caption", CIRCLE, "--json", "--stop", "red", "--model", copy)[1][0]
    assert "red" not in json.loads(line)["caption"]
