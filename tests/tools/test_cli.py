"""The command line: what it prints, where, with which exit status, and what bad input gets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from run_cli import CIRCLE, PICTURES, run

import minivl
from minivl.api import bridgetower
from minivl.cli import main
from minivl.demo import statement_pool
from minivl.processors.bridgetower import BridgeTowerImageProcessor
from minivl.weights.places import find


def one_line(status, out, err):
    """The single line of complaint of a command that failed."""
    assert (status, out) == (1, [])
    assert len(err) == 1 and err[0].startswith("minivl: "), err
    return err[0]


def test_a_caption_says_what_is_there(capsys):
    status, out, err = run(capsys, "caption", CIRCLE)
    assert (status, err) == (0, [])
    assert len(out) == 1 and "red circle" in out[0] and CIRCLE.name not in out[0]


def test_the_demo_says_that_its_world_is_a_toy(capsys):
    main(["caption", str(CIRCLE)])
    assert "toy world" in capsys.readouterr().err


def test_a_folder_gives_one_named_line_for_each_picture(capsys):
    names = sorted(path.name for path in PICTURES.glob("*.png"))
    status, out, err = run(capsys, "caption", PICTURES)
    assert (status, err) == (0, [])
    assert [line.split(": ")[0] for line in out] == [str(PICTURES / name) for name in names]


def test_json_gives_one_object_for_each_picture(capsys, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    status, out, err = run(capsys, "caption", "--json", CIRCLE, broken, CIRCLE)
    first, second, third = map(json.loads, out)
    assert status == 1 and len(err) == 1
    assert first == third == {"picture": str(CIRCLE), "caption": first["caption"]}
    assert second["picture"] == str(broken) and set(second) == {"picture", "error"}


def test_a_question_is_answered(capsys):
    assert run(capsys, "ask", CIRCLE, "what color is the circle?") == (0, ["red"], [])
    raw = "Question: what color is the circle? Answer:"
    assert run(capsys, "ask", CIRCLE, raw, "--raw") == (0, ["red"], [])
    answer = {"picture": str(CIRCLE), "question": "what color is the circle?", "answer": "red"}
    status, out, _ = run(capsys, "ask", CIRCLE, "what color is the circle?", "--json")
    assert (status, json.loads(out[0])) == (0, answer)


PNG = CIRCLE.read_bytes() if CIRCLE.exists() else b""
BAD_PICTURES = {
    "missing.png": None,
    "text.png": b"hello, I am a text\n",
    "empty.png": b"",
    "cut.png": PNG[: len(PNG) // 2],
    "new\nline.png": b"also no picture",
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_named_in_one_line_and_the_others_are_captioned(capsys, tmp_path, name):
    path = tmp_path / name
    if BAD_PICTURES[name] is not None:
        path.write_bytes(BAD_PICTURES[name])
    status, out, err = run(capsys, "caption", path, CIRCLE)
    assert status == 1 and len(out) == 1 and "red circle" in out[0]
    assert len(err) == 1 and name.split("\n")[0] in err[0] and "Traceback" not in err[0]


def test_an_empty_folder_is_named(capsys, tmp_path):
    status, out, err = run(capsys, "caption", tmp_path, CIRCLE)
    assert status == 1 and len(out) == 1
    assert len(err) == 1 and str(tmp_path) in err[0]
    status, out, err = run(capsys, "caption", "--json", tmp_path)
    assert json.loads(out[0])["picture"] == str(tmp_path)


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo's folder, to be broken."""
    return Path(shutil.copytree(find("demo"), tmp_path / "model"))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_copied_folder_works_as_a_model(capsys, copy):
    assert run(capsys, "caption", CIRCLE, "--model", copy)[:2] == run(capsys, "caption", CIRCLE)[:2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: shutil.rmtree(f), ["model", "no such folder"]),
        (lambda f: (f / "config.json").unlink(), ["config.json"]),
        (lambda f: (f / "config.json").write_text("{"), ["config.json"]),
        (lambda f: change(f / "config.json", model_type="llava"), ["llava", "blip-2"]),
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), ["model.safetensors"]),
        (lambda f: change(f / "config.json", num_query_tokens=3), ["query_tokens", "wrong shape", "(1, 3, "]),
        (lambda f: (f / "tokenizer.json").write_text("[]"), ["tokenizer.json"]),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(capsys, copy, spoil, words):
    spoil(copy)
    line = one_line(*run(capsys, "caption", CIRCLE, "--model", copy))
    assert all(word in line for word in words), line


def test_a_missing_shard_is_named(capsys, copy):
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"query_tokens": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors" in one_line(*run(capsys, "caption", CIRCLE, "--model", copy))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["caption"],
        ["describe", CIRCLE],
        ["ask", CIRCLE],
        ["ask", CIRCLE, ""],
        ["ask", CIRCLE, "   "],
        ["caption", CIRCLE, "--max-new-tokens", "0"],
        ["caption", CIRCLE, "--max-new-tokens", "many"],
        ["caption", CIRCLE, "--loud"],
        ["match", CIRCLE, "--model", "folder"],
        ["match", CIRCLE, "a red circle", "", "--model", "folder"],
        ["rank", "a red circle", "--model", "folder"],
        ["rank", " ", CIRCLE, "--model", "folder"],
        ["fill", CIRCLE, "nothing to fill", "--model", "folder"],
        ["fill", CIRCLE, "a <mask> circle", "--words", "0", "--model", "folder"],
    ],
)
def test_wrong_usage_is_2(capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, [])
    assert err[-1].startswith("minivl") and "Traceback" not in "".join(err)


def test_as_a_program_it_has_the_same_exit_status():
    program = [sys.executable, "-m", "minivl", "caption"]
    good = subprocess.run([*program, CIRCLE], capture_output=True, text=True)
    bad = subprocess.run([*program, "missing.png"], capture_output=True, text=True)
    assert (good.returncode, bad.returncode) == (0, 1)
    assert "red circle" in good.stdout and "Traceback" not in bad.stderr


def test_a_reader_who_leaves_early_is_no_error_worth_a_traceback():
    many = " ".join([str(PICTURES)] * 3)
    command = f"{sys.executable} -m minivl caption {many} | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 1
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "minivl", "caption", CIRCLE]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == ["minivl: cannot go on: No space left on device"]


@pytest.mark.skipif(os.name != "posix", reason="the shell closes standard error as on POSIX")
def test_without_standard_error_the_answers_stay_by_themselves():
    command = f"{sys.executable} -m minivl caption {CIRCLE} 2>&-"
    assert subprocess.run(command, shell=True, capture_output=True, text=True).stdout == "a small red circle\n"


def test_names_that_are_too_long_for_the_system_are_one_line(capsys):
    assert one_line(*run(capsys, "caption", "x" * 5000)).startswith("minivl: xxx")
    assert one_line(*run(capsys, "caption", CIRCLE, "--model", "x" * 5000)).startswith("minivl: checkpoint xxx")


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_an_interrupt_is_130():
    command = [sys.executable, "-m", "minivl", "caption", *[str(PICTURES)] * 200]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a test run in the background may be deaf to it
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, **pipes, preexec_fn=heard)
    process.stdout.readline()  # it is at work
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_progress_is_shown_on_a_terminal_only(capsys, monkeypatch):
    run(capsys, "caption", CIRCLE, CIRCLE)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, out, err = run(capsys, "caption", CIRCLE, CIRCLE)
    assert len(out) == 2
    assert any("picture 2 of 2" in line for line in err)


def test_version_is_the_packages_own(capsys):
    status, out, _ = run(capsys, "--version")
    assert (status, out) == (0, [f"minivl {minivl.__version__}"])


# ---- BridgeTower, with random weights: what is checked is the form of the answers, and that they are the model's own


class AllHeads(bridgetower.BridgeTower):
    heads = tuple(bridgetower.HEADS)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A folder with a small BridgeTower of every head, and the toy world's words."""
    folder = tmp_path_factory.mktemp("towers")
    words = statement_pool.learn_words()
    width = {"hidden_size": 64, "num_hidden_layers": 2}
    text = {**width, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": words.get_vocab_size()}
    vision = {**width, "image_size": 64, "patch_size": 16}
    config = minivl.BridgeTowerConfig(
        hidden_size=64, num_hidden_layers=2, text_config=text, vision_config=vision, initializer_factor=20
    )
    AllHeads(config, seed=3).save_pretrained(folder)
    BridgeTowerImageProcessor(size=64).save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    return folder


def asked(towers, text):
    """The probability that a text fits CIRCLE, straight from the model."""
    processor = minivl.BridgeTowerProcessor.from_pretrained(towers)
    inputs = processor(CIRCLE, text, return_tensors="np")
    no, yes = minivl.BridgeTowerForImageAndTextRetrieval.from_pretrained(towers)(**inputs).logits[0]
    return 1 / (1 + np.exp(no - yes))


def test_match_puts_the_most_probable_text_first(capsys, towers):
    texts = ["a small blue circle", "a small red circle", "a large star and a ring"]
    status, out, err = run(capsys, "match", CIRCLE, *texts, "--model", towers)
    assert (status, err) == (0, [])
    wanted = sorted(((asked(towers, text), text) for text in texts), reverse=True)
    assert out == [f"{score:.3f}  {text}" for score, text in wanted]


def test_match_in_json(capsys, towers):
    status, out, _ = run(capsys, "match", CIRCLE, "a red circle", "a blue circle", "--json", "--model", towers)
    first, second = map(json.loads, out)
    assert set(first) == {"picture", "text", "score"} and first["picture"] == str(CIRCLE)
    assert status == 0 and first["score"] >= second["score"]


def test_match_names_a_bad_picture(capsys, tmp_path, towers):
    assert "missing.png" in one_line(*run(capsys, "match", tmp_path / "missing.png", "a circle", "--model", towers))


def test_rank_puts_the_picture_that_fits_best_first(capsys, towers):
    status, out, err = run(capsys, "rank", "a small red circle", PICTURES, "--model", towers)
    scores = [float(line.split("  ")[0]) for line in out]
    assert (status, err) == (0, []) and scores == sorted(scores, reverse=True)
    assert len(out) == len(list(PICTURES.glob("*.png")))
    assert f"{asked(towers, 'a small red circle'):.3f}  {CIRCLE}" in out


def test_rank_looks_closely_at_the_best_only_and_names_what_failed(capsys, tmp_path, towers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    options = ["--best", "2", "--json", "--model", towers]
    status, out, err = run(capsys, "rank", "a small red circle", PICTURES, broken, *options)
    results = [json.loads(line) for line in out]
    failed = [r for r in results if "error" in r]
    assert status == 1 and len(err) == 1 and [r["picture"] for r in failed] == [str(broken)]
    ranked = [r for r in results if "error" not in r]
    assert [r["score"] is None for r in ranked] == [False] * 2 + [True] * (len(ranked) - 2)
    closeness = [r["similarity"] for r in ranked[2:]]
    assert closeness == sorted(closeness, reverse=True)
    assert min(r["similarity"] for r in ranked[:2]) >= closeness[0]


def test_fill_gives_the_best_words_with_their_probabilities(capsys, towers):
    status, out, err = run(capsys, "fill", CIRCLE, "a small <mask> circle", "--model", towers)
    probabilities = [float(line.split("  ")[0]) for line in out]
    assert (status, err) == (0, []) and len(out) == 5
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1


def test_fill_in_json_has_an_object_for_each_mask(capsys, towers):
    text = "a small <mask> <mask>"
    status, out, _ = run(capsys, "fill", CIRCLE, text, "--json", "--words", "2", "--model", towers)
    first, second = map(json.loads, out)
    assert status == 0 and (first["mask"], second["mask"]) == (1, 2)
    assert len(first["words"]) == 2 and set(first["words"][0]) == {"word", "probability"}
    assert first["words"] != second["words"]


# ---- and with the tiny model inside minivl: the answers are right


def test_match_knows_which_text_is_true(capsys):
    status, out, err = run(capsys, "match", CIRCLE, "a small blue circle", "a small red circle", "two red circles")
    assert (status, err) == (0, []) and out[0].endswith("  a small red circle")
    assert float(out[0].split("  ")[0]) > 0.9 > 0.1 > float(out[1].split("  ")[0])


@pytest.mark.parametrize("best", [16, 3])
def test_rank_finds_the_picture(capsys, best):
    status, out, err = run(capsys, "rank", "a red triangle above a yellow star", PICTURES, "--best", best)
    assert (status, err) == (0, []) and out[0].endswith("red_triangle_above_yellow_star.png")


def test_fill_reads_the_word_off_the_picture(capsys):
    rings = PICTURES / "two_teal_rings.png"
    cases = [(CIRCLE, "a small <mask> circle", "red"), (CIRCLE, "a small red<mask>", "circle")]
    cases.append((rings, "<mask> teal rings", "two"))
    for picture, text, word in cases:
        status, out, err = run(capsys, "fill", picture, text, "--words", 1)
        assert (status, err) == (0, []) and out[0].split("  ")[1] == word, (text, out)


def test_the_tiny_bridgetower_says_that_its_world_is_a_toy(capsys):
    main(["fill", str(CIRCLE), "a <mask> circle"])
    assert "toy world" in capsys.readouterr().err


def test_the_wrong_family_is_one_line(capsys, towers):
    assert "bridgetower" in one_line(*run(capsys, "match", CIRCLE, "a circle", "--model", "demo"))
    assert "blip-2" in one_line(*run(capsys, "caption", CIRCLE, "--model", towers))
