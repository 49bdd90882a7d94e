"""Long jobs: the records are those of single pictures, and a job that was stopped anywhere ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest

from minivl import Blip2ForConditionalGeneration
from minivl.cli import main
from minivl.errors import ImageError, InputError
from minivl.tools.jobs import flow, items, progress, records, work
from minivl.tools.jobs.items import Item

PICTURES = Path("tutorials/pictures")
CIRCLE = PICTURES / "red_circle.png"
TEXTS = ["a large red circle", "there is a black ring"]


@pytest.fixture
def folder(tmp_path):
    """Pictures with a broken one, an empty one and odd names among them."""
    here = Path(shutil.copytree(PICTURES, tmp_path / "pictures"))
    (here / "c_broken.png").write_bytes(b"no picture")
    (here / "r_empty.png").write_bytes(b"")
    shutil.copy(CIRCLE, here / "été 日\n.png")
    return here


@pytest.fixture
def loaded(monkeypatch):
    """Each model once for all jobs of a test."""
    monkeypatch.setattr(work, "ImageToText", lru_cache(work.ImageToText))
    monkeypatch.setattr(work, "ImageTextMatching", lru_cache(work.ImageTextMatching))


def run(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def said(capsys, *arguments):
    """(exit status, objects on standard output, lines of standard error but the note about the demo)"""
    status = run(*arguments)
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], [x for x in err.splitlines() if "toy" not in x]


def read(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# ---- what is written


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_captions_are_those_of_the_pictures_alone(folder, tmp_path, capsys, loaded, batch):
    out = tmp_path / "captions.jsonl"
    status, wanted, _ = said(capsys, "caption", folder, "--json")
    assert said(capsys, "caption", folder, "--out", out, "--batch", batch)[:2] == (status, []) == (1, [])
    assert read(out) == wanted and len(wanted) == len(list(folder.iterdir()))
    assert [Path(one["picture"]).name for one in wanted if "error" in one] == ["c_broken.png", "r_empty.png"]


def test_answers_are_those_of_the_pictures_alone(folder, tmp_path, capsys, loaded):
    question = ["what color is it?", "--preset", "vqa-t5"]
    wanted = said(capsys, "ask", folder, *question, "--json")[1]
    assert run("ask", folder, *question, "--out", tmp_path / "a") == 1
    assert read(tmp_path / "a") == wanted


def test_each_line_of_a_file_of_questions_is_answered(folder, tmp_path, capsys, loaded):
    asked = [("red_circle.png", "what color is the circle?"), ("c_broken.png", "what?"),
             (str(PICTURES.resolve() / "black_ring.png"), "is there a ring in it, or is there none?"),
             ("red_circle.png", "how many shapes are there?")]  # fmt: skip
    lines = [json.dumps({"picture": p, "question": q, "id": 7}) for p, q in asked]
    (folder / "q.jsonl").write_text("\n\n".join(lines))
    assert run("ask", "--questions", folder / "q.jsonl", "--out", tmp_path / "a", "--batch", 3) == 1
    found = read(tmp_path / "a")
    assert [(one["picture"], one["question"]) for one in found] == asked
    capsys.readouterr()
    for one, (picture, question) in zip(found, asked, strict=True):
        alone = said(capsys, "ask", folder / picture, question, "--json")[1][0]
        assert {**one, "picture": ""} == {**alone, "picture": ""}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"red_circle.png\twhat?", ["line 2", "JSON"]),
        (b"[]", ["line 2", "JSON object"]),
        (b'{"picture": "a.png"}', ["line 2", '"question"']),
        (b'{"picture": "a.png", "question": " "}', ["line 2", '"question"']),
        (b'{"picture": 3, "question": "what?"}', ["line 2", '"picture"']),
        (b"\xff", ["line 2", "UTF-8"]),
        (b" " * 3 + b'{"picture": "' + b"x" * items.MOST_OF_A_LINE, ["line 2", "bytes"]),
    ],
    ids=range(7),
)
def test_a_bad_line_of_a_file_of_questions_is_told_before_anything_is_done(tmp_path, capsys, line, words):
    (tmp_path / "q").write_bytes(b'{"picture": "a.png", "question": "what?"}\n' + line + b"\n")
    status, out, err = said(capsys, "ask", "--questions", tmp_path / "q", "--out", tmp_path / "a")
    assert (status, out, len(err)) == (1, [], 1) and all(word in err[0] for word in words), err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", [None, b"", b"\n \n"])
def test_a_file_without_questions_is_told(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "q").write_bytes(content)
    status, _, err = said(capsys, "ask", "--questions", tmp_path / "q", "--out", tmp_path / "a")
    assert status == 1 and len(err) == 1 and str(tmp_path / "q") in err[0]


def test_every_text_is_matched_with_every_picture(folder, tmp_path, capsys, loaded):
    assert run("match", folder, *TEXTS, "--out", tmp_path / "m", "--batch", 5) == 1
    capsys.readouterr()
    found = {Path(one["picture"]).name: one for one in read(tmp_path / "m")}
    assert set(found["c_broken.png"]) == {"picture", "error"}
    for name in ("red_circle.png", "black_ring.png", "yellow_rectangle.png"):
        alone = {one["text"]: one["score"] for one in said(capsys, "match", folder / name, *TEXTS, "--json")[1]}
        assert [one["text"] for one in found[name]["scores"]] == TEXTS
        assert {one["text"]: one["score"] for one in found[name]["scores"]} == pytest.approx(alone, abs=2e-6)


def test_pictures_are_ranked_at_the_end_of_the_job(folder, tmp_path, capsys, loaded):
    options = ["a small red circle", folder, "--best", "4", "--json"]
    wanted = said(capsys, "rank", *options)[1]
    status, shown, _ = said(capsys, "rank", *options, "--out", tmp_path / "r", "--batch", 5)
    best = [one for one in wanted if one.get("score") is not None]
    assert status == 1 and len(best) == 4
    assert [one["picture"] for one in shown] == [one["picture"] for one in best]
    for one, other in zip(shown, best, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)
    assert {one["picture"] for one in read(tmp_path / "r")} == {one["picture"] for one in wanted}
    assert said(capsys, "rank", *options, "--out", tmp_path / "r", "--batch", 5, "--resume")[1] == shown


def test_with_chance_each_picture_gets_what_it_gets_alone(tmp_path, capsys, loaded):
    options = ["caption", PICTURES, "--sample", "--temperature", "3", "--seed", "5"]
    wanted = said(capsys, *options, "--json")[1]
    assert run(*options, "--out", tmp_path / "c", "--batch", 5) == 0
    assert read(tmp_path / "c") == wanted


@pytest.mark.parametrize("parts", [1, 4, 20])
def test_the_parts_one_after_the_other_are_the_whole(folder, tmp_path, loaded, parts):
    run("caption", folder, "--out", tmp_path / "whole")
    for part in range(1, parts + 1):
        run("caption", folder, "--out", tmp_path / f"{part}", "--shard", f"{part}/{parts}")
    each = [(tmp_path / f"{part}").read_bytes() for part in range(1, parts + 1)]
    assert b"".join(each) == (tmp_path / "whole").read_bytes()
    lengths = [one.count(b"\n") for one in each]
    assert max(lengths) - min(lengths) <= 1


def test_an_empty_folder_is_a_record_too(tmp_path, capsys, loaded):
    (tmp_path / "none").mkdir()
    assert run("caption", tmp_path / "none", CIRCLE, "--out", tmp_path / "c") == 1
    first, second = read(tmp_path / "c")
    assert set(first) == {"picture", "error"} and first["picture"] == str(tmp_path / "none") and "caption" in second


def test_a_picture_that_the_model_cannot_do_leaves_its_neighbours_alone(tmp_path, monkeypatch, capsys, loaded):
    run("caption", PICTURES, "--out", tmp_path / "whole")
    real, red = Blip2ForConditionalGeneration.generate, work.ImageToText("demo", dtype="auto").look(CIRCLE)

    def generate(self, pixel_values, **settings):
        if any(np.array_equal(red, one) for one in pixel_values):
            raise InputError("not this one")
        return real(self, pixel_values, **settings)

    monkeypatch.setattr(Blip2ForConditionalGeneration, "generate", generate)
    assert run("caption", PICTURES, "--out", tmp_path / "c", "--batch", 5) == 1
    for one, wanted in zip(read(tmp_path / "c"), read(tmp_path / "whole"), strict=True):
        assert one == ({"picture": str(CIRCLE), "error": "not this one"} if "red_circle" in one["picture"] else wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "weight-only"])
def test_weights_are_kept_as_was_asked_for(tmp_path, capsys, dtype):
    assert run("caption", CIRCLE, "--dtype", dtype, "--out", tmp_path / "c") == 0
    assert "red circle" in read(tmp_path / "c")[0]["caption"]
    capsys.readouterr()
    assert run("caption", CIRCLE, "--dtype", dtype) == run("match", CIRCLE, *TEXTS, "--dtype", dtype) == 0
    assert run("rank", TEXTS[0], CIRCLE, "--dtype", dtype) == run("fill", CIRCLE, "a <mask>", "--dtype", dtype) == 0
    assert "red circle" in capsys.readouterr().out


# ---- stopping and going on


def test_cut_anywhere_it_ends_with_the_same_bytes(folder, tmp_path, capsys, loaded):
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = [folder, "--batch", "4", "--max-new-tokens", "2"]
    run("caption", *options, "--out", whole)
    wanted = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(wanted) if byte == ord("\n")]
    shutil.copy(f"{whole}.job", f"{out}.job")
    chance = random.Random(0)
    for cut in [0, *ends, *[end - 1 for end in ends], 1, *chance.sample(range(len(wanted)), 8)]:
        out.write_bytes(wanted[:cut])
        assert run("caption", *options, "--out", out, "--resume") == 1
        assert out.read_bytes() == wanted, cut


@pytest.mark.parametrize(
    "command", [["match", PICTURES, *TEXTS], ["rank", TEXTS[0], PICTURES], ["ask", PICTURES, "what color is it?"]],
    ids=lambda c: c[0],
)  # fmt: skip
def test_scores_and_answers_are_gone_on_with(tmp_path, command, capsys, loaded):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(*command, "--batch", "5", "--out", whole) == 0
    shown, wanted = capsys.readouterr().out, whole.read_bytes()
    shutil.copy(f"{whole}.job", f"{out}.job")
    for lines in (3, 5, 11):
        out.write_bytes(b"".join(wanted.splitlines(True)[:lines]) + b'{"pict')
        assert run(*command, "--batch", "5", "--out", out, "--resume") == 0
        assert out.read_bytes() == wanted and capsys.readouterr().out == shown


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_a_job_that_is_killed_at_any_moment_ends_with_the_same_bytes(tmp_path, loaded):
    many = [*[str(PICTURES)] * 10, "--batch", "3"]
    run("caption", *many, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "minivl", "caption", *many, "--out", str(tmp_path / "out"), "--resume"]
    chance, stopped = random.Random(1), 0
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a test run in the background may be deaf to it
    for number in signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None:
        before = (tmp_path / "out").stat().st_size if (tmp_path / "out").exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heard)
        if number is not None:
            end = time.monotonic() + 30
            while (not (tmp_path / "out").exists() or (tmp_path / "out").stat().st_size <= before) and (
                process.poll() is None and time.monotonic() < end
            ):
                time.sleep(0.002)
            time.sleep(chance.random() * 0.03)
            process.send_signal(number)
        status = process.wait(timeout=60)
        stopped += status != 0
        if number == signal.SIGINT and status:
            assert status == 130
    assert status == 0 and stopped >= 2
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="the size of a file is limited as on POSIX")
def test_a_full_disk_is_a_line_and_afterwards_it_goes_on(tmp_path, loaded):
    run("caption", PICTURES, PICTURES, "--out", tmp_path / "whole", "--batch", "2")
    command = f"{sys.executable} -m minivl caption {PICTURES} {PICTURES} --batch 2 --resume --out {tmp_path / 'out'}"
    result = subprocess.run(["bash", "-c", f"ulimit -f 1; {command}"], capture_output=True, text=True)
    assert result.returncode == 1 and (tmp_path / "out").stat().st_size == 1024
    assert "cannot be written" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
    assert subprocess.run(command.split(), stderr=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def begun(tmp_path, *options):
    """A job that stands after its first three records."""
    out = tmp_path / "out"
    assert run("caption", PICTURES, "--out", out, "--batch", "4", *options) == 0
    out.write_bytes(b"".join(out.read_bytes().splitlines(True)[:3]))
    return out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--batch", "5"], "batch"),
        (["--beams", "2"], "beams"),
        (["--max-new-tokens", "9"], "max_new_tokens"),
        (["--prompt", "a"], "prompt"),
        (["--preset", "caption"], "preset"),
        (["--dtype", "float32"], "dtype"),
        (["--shard", "1/2"], "shard"),
        (["--stop", "red"], "stop"),
        (["--sample", "--seed", "1"], "sample"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_with_other_settings_it_does_not_go_on(tmp_path, capsys, loaded, options, word):
    out = begun(tmp_path)
    before = out.read_bytes()
    capsys.readouterr()
    status, _, err = said(capsys, "caption", PICTURES, "--batch", "4", *options, "--out", out, "--resume")
    assert (status, len(err)) == (1, 1) and str(out) in err[0] and word in err[0], err
    assert out.read_bytes() == before


def test_with_another_checkpoint_it_does_not_go_on(tmp_path, capsys, loaded):
    from minivl.weights.places import find

    model = Path(shutil.copytree(find("demo"), tmp_path / "model"))
    out = begun(tmp_path, "--model", model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    capsys.readouterr()
    err = said(capsys, "caption", PICTURES, "--batch", "4", "--model", model, "--out", out, "--resume")[2]
    assert len(err) == 1 and "checkpoint" in err[0]


def test_with_other_pictures_it_does_not_go_on(folder, tmp_path, capsys, loaded):
    run("caption", folder, "--out", tmp_path / "out")
    rename, add = (folder / "red_circle.png").rename, partial(shutil.copy, CIRCLE)
    for change, word in ((rename, "list of pictures"), (add, "number of pictures")):
        change(folder / f"{word}.png")
        capsys.readouterr()
        status, _, err = said(capsys, "caption", folder, "--out", tmp_path / "out", "--resume")
        assert status == 1 and len(err) == 1 and word in err[0]


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b'{"picture": "x.png", "caption": "a"}\n'])
def test_lines_that_are_not_its_records_are_left_alone(tmp_path, capsys, loaded, line):
    out = begun(tmp_path)
    lines = out.read_bytes().splitlines(True)
    out.write_bytes(lines[0] + line + lines[2])
    before = out.read_bytes()
    capsys.readouterr()
    status, _, err = said(capsys, "caption", PICTURES, "--batch", "4", "--out", out, "--resume")
    assert status == 1 and len(err) == 1 and f"{out}, line 2" in err[0]
    assert out.read_bytes() == before


def test_nothing_that_is_there_is_overwritten(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    for options in ([], ["--resume"]):
        status, _, err = said(capsys, "caption", CIRCLE, "--out", tmp_path / "out", *options)
        assert status == 1 and len(err) == 1 and "another --out" in err[0]
    assert (tmp_path / "out").read_text() == "mine"
    status, _, err = said(capsys, "caption", CIRCLE, "--out", tmp_path / "nowhere" / "out")
    assert status == 1 and len(err) == 1 and "nowhere" in err[0]


def test_a_job_that_is_done_loads_no_model_and_says_again_what_came_of_it(folder, tmp_path, monkeypatch, capsys):
    assert run("caption", folder, "--out", tmp_path / "out") == 1
    before = (tmp_path / "out").read_bytes()
    monkeypatch.setattr(work, "ImageToText", None)
    assert run("caption", folder, "--out", tmp_path / "out", "--resume") == 1
    assert (tmp_path / "out").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="files are locked as on POSIX")
def test_two_processes_do_not_write_to_one_file(tmp_path, capsys, loaded):
    import fcntl

    out = begun(tmp_path)
    before = out.read_bytes()
    capsys.readouterr()
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        status, _, err = said(capsys, "caption", PICTURES, "--batch", "4", "--out", out, "--resume")
    assert status == 1 and "another process" in err[0]
    assert out.read_bytes() == before


def test_what_was_written_since_it_was_read_is_noticed(tmp_path, loaded):
    out = begun(tmp_path)
    settings = json.loads(Path(f"{out}.job").read_text())
    waiting = records.Records(out, settings, partial(items.pictures, [str(PICTURES)]), resume=True)
    with out.open("ab") as other:
        other.write(b"{}\n")
    if os.name == "posix":
        with pytest.raises(InputError, match="just now"), waiting:
            pass


# ---- how it flows


class Slowly:
    """Work of which each answer waits until the picture of the next batch is read, if that is ever done."""

    together = True

    def __init__(self, last):
        self.seen, self.looked, self.last, self.ahead = [], [threading.Event() for _ in range(last + 1)], last, 0

    def look(self, picture):
        self.looked[picture].set()
        return np.zeros((3, 1, 1))

    def answer(self, chunk, pixels):
        first = chunk[0].fields["picture"]
        if first + 2 <= self.last:
            assert self.looked[first + 2].wait(20), "the next batch was not read while the model was at work"
        time.sleep(0.01)
        self.ahead = max(self.ahead, sum(event.is_set() for event in self.looked) - first)
        return [{"answer": item.fields["picture"] ** 2} for item in chunk]


def test_one_batch_is_read_ahead_and_never_more():
    job = Slowly(19)
    numbered = [Item({"picture": i}, partial(int, i)) for i in range(20)]
    found = [one for batch in flow.records(job, lambda: iter(numbered), 2) for one in batch]
    assert [one["answer"] for one in found] == [i**2 for i in range(20)]
    assert job.ahead == 4  # the two of this batch and the two of the next


def test_an_error_that_is_no_pictures_ends_the_job():
    def explode():
        raise RuntimeError("no such luck")

    with pytest.raises(RuntimeError, match="no such luck"):
        list(flow.records(Slowly(5), lambda: iter([Item({"picture": 1}, explode)]), 2))


MEMORY = """
import sys
from minivl.cli import main
assert main(["caption", sys.argv[1], "--out", sys.argv[2], "--batch", "8", "--max-new-tokens", "1"]) == 0
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    sizes = []
    for number in (40, 440):
        folder = tmp_path / str(number)
        folder.mkdir()
        for i in range(number):
            shutil.copy(CIRCLE, folder / f"{i}.png")
        command = [sys.executable, "-c", MEMORY, folder, tmp_path / f"{number}.jsonl"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        sizes.append(int(result.stdout) / 1024)
    assert sizes[1] - sizes[0] < 8, sizes  # MB; the pixels of 400 pictures are 20


# ---- what is told


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (774, "12 min 54 s"), (12000, "3 h 20 min"), (190000, "2 d 4 h")],
)
def test_durations_in_two_units(seconds, words):
    assert progress.duration(seconds) == words


def test_rate_and_time_left_come_from_what_is_done_now():
    told = progress.Progress(1000, 200)
    assert told.text(200, 0, 0.0) == "200 of 1000 pictures"
    assert told.text(300, 2, 50.0) == "300 of 1000 pictures, 2 a second, 5 min 50 s left, 2 failed"


def test_a_log_gets_a_line_now_and_then(tmp_path, capsys, monkeypatch, loaded):
    quiet = said(capsys, "caption", PICTURES, "--out", tmp_path / "a")[2]
    assert quiet == [f"minivl: 12 records in {tmp_path / 'a'}"]
    monkeypatch.setattr(progress, "NOW_AND_THEN", 0)
    lines = said(capsys, "caption", PICTURES, "--out", tmp_path / "b")[2]
    assert lines[0] == "0 of 12 pictures" and lines[1].startswith("8 of 12 pictures, ") and "left" in lines[1]


def test_a_person_sees_a_line_that_overwrites_itself(folder, tmp_path, capsys, monkeypatch, loaded):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "OFTEN", 0)
    run("caption", folder, "--out", tmp_path / "c", "--batch", "5")
    err = capsys.readouterr().err
    assert "\r\033[K5 of 15 pictures, " in err and ", 2 failed\r" in err
    assert all(line.startswith(("\r\033[K", "minivl: ")) for line in err.rstrip("\n").split("\n"))
    assert err.count("\n") == 1 + 2 + 1  # the toy world, two pictures that failed, the end


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption", CIRCLE, "--batch", "4"],
        ["caption", CIRCLE, "--shard", "1/2"],
        ["caption", CIRCLE, "--resume"],
        ["caption", CIRCLE, "--out", "x", "--batch", "0"],
        ["caption", CIRCLE, "--out", "x", "--stream"],
        ["caption", CIRCLE, "--out", "x", "--sample"],
        *[["caption", CIRCLE, "--out", "x", "--shard", part] for part in ("0/2", "3/2", "1", "1/0", "a/b", "/")],
        ["caption", CIRCLE, "--dtype", "float64"],
        ["ask", "--questions", "q.jsonl"],
        ["ask", "--out", "x"],
        ["ask", CIRCLE, "--questions", "q.jsonl", "--out", "x"],
        ["ask", CIRCLE, "what?", "--questions", "q.jsonl", "--out", "x"],
        ["fill", CIRCLE, "a <mask>", "--out", "x"],
    ],
)
def test_wrong_usage_is_2(capsys, arguments):
    assert run(*arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("minivl")
    assert not Path("x").exists()


def test_what_answers_are_drawn_from_is_the_job(tmp_path):
    """A setting that is added to the command line is compared unless it is known to change nothing."""
    arguments = Namespace(model="demo", brand_new=3, out=tmp_path, resume=True, json=False)
    settings = work._settings(arguments, 1, "abc")
    assert settings["brand_new"] == 3 and not {"out", "resume", "json"} & set(settings)


def test_items_that_cannot_be_read_say_why():
    (item,) = items.pictures([str(Path(__file__).parents[1] / "golden")])
    with pytest.raises(ImageError, match="golden"):
        item.read()
