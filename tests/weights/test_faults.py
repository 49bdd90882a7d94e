"""Faults that no input is to blame for: short reads, files cut while in use, flipped bits, full disks, killed
processes, two at once, no writing allowed, no network, no package.

What must hold: a file that we write is the old or the new one, never half; what we read is right or refused.
"""

import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import numpy as np
import pytest
from bare_process import CAPTION, OFFLINE, WITHOUT
from PIL import Image

from minivl import Blip2ForConditionalGeneration, Blip2Processor
from minivl.errors import MinivlError, WeightsError
from minivl.processors.picture_files import read_picture
from minivl.weights import files, places

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and locks as on POSIX")
WATCHMAN = fuzz.Watchman()


def start(code, *arguments, **how):
    """A Python of its own that runs this code."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes, **how)


def run(code, *arguments):
    process = start(code, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def demo_in(folder):
    shutil.copytree(places.find("demo"), folder)
    return folder


# ---------------------------------------------------------------------------------------- reading


class Slow(io.BytesIO):
    """A file that gives at most seven bytes at a time, as a pipe or a network drive may."""

    def read(self, size=-1):
        return super().read(size if 0 <= size < 7 else 7)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_short_reads_of_a_picture_change_nothing_or_are_refused(kind):
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (17, 23, 3), np.uint8)).save(file, kind)
    whole = np.asarray(read_picture(io.BytesIO(file.getvalue()), "x"))
    try:
        assert np.array_equal(np.asarray(read_picture(Slow(file.getvalue()), "x")), whole)
    except MinivlError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_every_length_of_a_file_is_whole_or_refused(name, tmp_path):
    """A download or a copy that stopped anywhere."""
    folder = demo_in(tmp_path / "model")
    data = (folder / name).read_bytes().rstrip()  # a newline at the end may be missing
    spots = {0, 1, 7, 8, 9, len(data) - 1, *random.Random(0).sample(range(len(data)), 12)}
    for length in sorted(spots):
        (folder / name).write_bytes(data[:length])
        with pytest.raises(MinivlError) as caught:
            Blip2ForConditionalGeneration.from_pretrained(folder)
            Blip2Processor.from_pretrained(folder)
        assert "\n" not in str(caught.value)


TRUNCATED = """
import os, sys
from minivl import Blip2ForConditionalGeneration
from minivl.errors import WeightsError
path = os.path.join(sys.argv[1], "model.safetensors")
model = Blip2ForConditionalGeneration.from_pretrained(sys.argv[1])
os.truncate(path, 4096)
try:
    Blip2ForConditionalGeneration.from_pretrained(sys.argv[1])
except WeightsError as error:
    print("refused", error, flush=True)
weight = model.params["language"]["layers"][-1]["mlp"]["down"]["w"]
print("read", float(weight.sum()), flush=True)
"""


@POSIX
def test_a_file_cut_short_while_it_is_mapped_gives_no_numbers(tmp_path):
    """Loading looks at the size first; for who has mapped it already the system ends the process: no wrong answer."""
    Blip2ForConditionalGeneration.from_pretrained("demo").save_pretrained(tmp_path)  # in float32, which stays mapped
    code, out, _ = run(TRUNCATED, tmp_path)
    assert code == -signal.SIGBUS
    assert out.startswith("refused") and "cut short" in out and "\nread" not in out


@pytest.mark.parametrize("model", ["blip2", "bridgetower"])
def test_a_flipped_bit_in_an_embedded_model_is_seen(model, tmp_path, monkeypatch):
    folder = tmp_path / model
    shutil.copytree(places.FILE.parent / model, folder)
    places.check.cache_clear()
    places.check(folder)
    for name in sorted(places.measured(folder)):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        places.check.cache_clear()
        with pytest.raises(WeightsError, match="other bytes.*install minivl again") as caught:
            places.check(folder)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        (folder / name).write_bytes(good)
    (folder / "special_tokens_map.json").write_text("{}")
    with pytest.raises(WeightsError, match="special_tokens_map"):
        places.check(folder)
    (folder / "special_tokens_map.json").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="config.json.*found nothing"):
        places.check(folder)
    places.check.cache_clear()


def test_asking_for_an_embedded_model_looks_at_its_checksums(monkeypatch):
    monkeypatch.setattr(places, "check", lambda folder: (_ for _ in ()).throw(WeightsError(f"looked at {folder}")))
    for name, folder in places.DEMOS.items():
        with pytest.raises(WeightsError, match=f"looked at .*{folder}"):
            places.find(name)


# ---------------------------------------------------------------------------------------- writing


class Full:
    """A file on a disk that has room for `left` more writes."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.left[1]
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"]
)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 40, 399])
def test_a_save_that_stops_at_the_nth_write_leaves_whole_files(n, error, tmp_path, monkeypatch):
    model, processor = Blip2ForConditionalGeneration.from_pretrained("demo"), Blip2Processor.from_pretrained("demo")
    folder = demo_in(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    left, real = [n, error], Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a: Full(real(self, mode, *a), left) if "w" in mode else real(self, mode, *a),
    )
    try:
        model.save_pretrained(folder, "bfloat16")
        processor.save_pretrained(folder)
        done = True
    except (OSError, KeyboardInterrupt) as stopped:
        done = False
        assert stopped is error
    monkeypatch.undo()
    assert done == (left[0] >= 0)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()  # no half-made file is left
    Blip2ForConditionalGeneration.from_pretrained(folder)  # every file is the old one or the new one
    Blip2Processor.from_pretrained(folder)


NO_ROOM = """
import errno, resource, signal, sys
from minivl import Blip2ForConditionalGeneration
model = Blip2ForConditionalGeneration.from_pretrained("demo")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    model.save_pretrained(sys.argv[1])
except OSError as error:
    assert error.errno == errno.EFBIG, error
    print(error)
"""


@POSIX
@pytest.mark.parametrize("room", [10_000, 1_000_000, 4_000_000])  # bytes a file may have, of the 9 MB that it needs
def test_weights_that_find_no_room_leave_the_old_file(room, tmp_path):
    """The library writes the weights by itself, where no test can stand in for the file; a limit of the system can."""
    folder = demo_in(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = run(NO_ROOM, folder, room)
    assert (code, err) == (0, "") and "File too large" in out and out.count("model.safetensors") == 1
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() and after["model.safetensors"] == before["model.safetensors"]


@POSIX
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_saved_model_may_be_read_by_whoever_may_read_other_new_files(mask, tmp_path):
    old = os.umask(mask)
    try:
        files.save(tmp_path, {"a": np.ones(3, np.float32)})
    finally:
        os.umask(old)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


@POSIX
def test_what_takes_the_name_has_reached_the_disk(tmp_path, monkeypatch):
    """Not only the file that was opened first: the library puts one of its own in its place."""
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), real(file)))
    files.save(tmp_path, {"a": np.ones(3, np.float32)})
    assert synced == [(tmp_path / "model.safetensors").stat().st_ino]


SAVING = """
import sys
from minivl import Blip2ForConditionalGeneration, Blip2Processor
models = [Blip2ForConditionalGeneration.from_pretrained("demo"), Blip2ForConditionalGeneration.from_pretrained("demo")]
models[1].params["queries"] = models[1].params["queries"] + 1
processor = Blip2Processor.from_pretrained("demo")
print("begin", flush=True)
for i in range(int(sys.argv[2])):
    models[i % 2].save_pretrained(sys.argv[1])
    processor.save_pretrained(sys.argv[1])
"""


def whole_model(folder, queries):
    """What is in the folder is one of the two models that are written into it, to the last weight."""
    found = Blip2ForConditionalGeneration.from_pretrained(folder)
    assert any(np.array_equal(found.params["queries"], q) for q in (queries, queries + 1))
    for name, array in files.read(folder).items():
        if name != "query_tokens":
            assert np.array_equal(array.array, whole_model.weights[name]), name
    Blip2Processor.from_pretrained(folder)


@POSIX
def test_a_save_that_is_killed_at_any_moment_leaves_a_model(tmp_path):
    folder, dice = demo_in(tmp_path / "model"), random.Random(0)
    demo = Blip2ForConditionalGeneration.from_pretrained("demo")
    whole_model.weights = {name: stored.array for name, stored in files.read(places.find("demo")).items()}
    for _ in range(4):
        process = start(SAVING, folder, 1000)
        assert process.stdout.readline() == "begin\n"
        time.sleep(dice.uniform(0.001, 0.08))
        process.kill()
        process.communicate()
        whole_model(folder, demo.params["queries"])


@POSIX
def test_two_processes_that_write_one_folder_and_a_third_that_reads_it(tmp_path):
    folder = demo_in(tmp_path / "model")
    demo = Blip2ForConditionalGeneration.from_pretrained("demo")
    whole_model.weights = {name: stored.array for name, stored in files.read(places.find("demo")).items()}
    writers = [start(SAVING, folder, 6) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        whole_model(folder, demo.params["queries"])
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert sorted(path.name for path in folder.iterdir()) == sorted(places.measured(places.find("demo")))


# ---------------------------------------------------------------------------------------- the cache


def cache_with(home):
    """A cache of the Hub's layout that holds the tiny model under the id someone/tiny."""
    snapshot = home / "models--someone--tiny/snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(places.find("demo"), snapshot)
    (home / "models--someone--tiny/refs").mkdir()
    (home / "models--someone--tiny/refs/main").write_text("a" * 40)
    return snapshot


def test_a_cache_is_only_read(tmp_path):
    """So a cache on a disk that may not be written serves as well as any."""
    cache_with(tmp_path)
    where = dict(cache_dir=tmp_path, local_files_only=True)
    Blip2ForConditionalGeneration.from_pretrained("demo")
    WATCHMAN.seen.clear()
    WATCHMAN.on = True
    try:
        model = Blip2ForConditionalGeneration.from_pretrained("someone/tiny", **where)
        processor = Blip2Processor.from_pretrained("someone/tiny", **where)
    finally:
        WATCHMAN.on = False
    assert WATCHMAN.seen == []
    inputs = processor(images="tutorials/pictures/red_circle.png", return_tensors="np")
    assert "red circle" in processor.batch_decode(model.generate(**inputs))[0]


AS_NOBODY = """
import os, sys
os.umask(0)
sys.path.insert(0, sys.argv[2])
from minivl import Blip2ForConditionalGeneration
try:
    open(sys.argv[1] + "/probe", "w")
    print("could write")
except OSError:
    Blip2ForConditionalGeneration.from_pretrained("someone/tiny", cache_dir=sys.argv[1], local_files_only=True)
    print("read")
"""


@POSIX
def test_a_cache_that_may_not_be_written_is_read(tmp_path):
    cache_with(tmp_path / "cache")
    for path in sorted((tmp_path / "cache").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "cache").chmod(0o555)
    code, out, err = run(AS_NOBODY, tmp_path / "cache", Path(__file__).parents[2])
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        path.chmod(0o755)
    if out == "could write\n":
        pytest.skip("this user may write everywhere")
    assert (code, out) == (0, "read\n"), err


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_what_a_stopped_download_left_is_not_taken_for_a_model(gone, tmp_path, monkeypatch):
    """The client writes blobs/*.incomplete and links a file into the snapshot when it is whole."""
    snapshot = cache_with(tmp_path)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    (blobs / "0123.incomplete").write_bytes((snapshot / gone).read_bytes()[:999])
    (snapshot / gone).unlink()
    with pytest.raises(WeightsError, match="only part of it") as caught:
        Blip2ForConditionalGeneration.from_pretrained("someone/tiny", cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(caught.value)
    (snapshot / gone).symlink_to("../../blobs/0123")  # and a link whose end is not there yet
    with pytest.raises(WeightsError):
        Blip2ForConditionalGeneration.from_pretrained("someone/tiny", cache_dir=tmp_path, local_files_only=True)


# ---------------------------------------------------------------------------------------- what is not there

NEEDS = {
    "PIL": "needs the package 'PIL'",
    "tokenizers": "needs the package 'tokenizers'",
    "huggingface_hub": "",
    "torch": "",
    "triton": "",
    "transformers": "",
    "safetensors": "needs the package 'safetensors'",
    "matplotlib": "",
}


@pytest.mark.parametrize("package", NEEDS)
def test_without_one_package_a_caption_is_made_or_one_line_says_what_is_missing(package):
    code, out, err = run("import sys\n" + WITHOUT.format(packages=[package]) + OFFLINE + CAPTION)
    if NEEDS[package]:
        complaints = [line for line in err.splitlines() if "toy world" not in line]
        assert code == 1 and out == "" and len(complaints) == 1 and NEEDS[package] in complaints[0]
    else:
        assert code == 0 and "red circle" in out, err


def test_without_the_hubs_client_an_id_is_refused_in_a_line(tmp_path):
    code = """
from minivl.cli import main
sys.exit(main(["caption", "tutorials/pictures/red_circle.png", "--model", "someone/none"]))
"""
    environment = "import os\nos.environ['HF_HOME'] = " + repr(str(tmp_path))
    status, out, err = run("import sys\n" + environment + WITHOUT.format(packages=["huggingface_hub"]) + OFFLINE + code)
    assert (status, out) == (1, "") and len(err.splitlines()) == 1 and "pip install huggingface_hub" in err


def test_no_command_on_local_files_opens_a_socket(tmp_path):
    demo_in(tmp_path / "model")
    commands = [
        ["ask", "tutorials/pictures/red_circle.png", "what color is it?", "--model", str(tmp_path / "model")],
        ["match", "tutorials/pictures/red_circle.png", "a red circle"],
        ["fill", "tutorials/pictures/red_circle.png", "a small <mask> circle"],
        ["rank", "a red circle", "tutorials/pictures/red_circle.png"],
        ["inspect", "demo"],
    ]
    code = f"\nfrom minivl.cli import main\nsys.exit(max(main(command) for command in {commands}))"
    status, out, err = run("import sys\n" + OFFLINE + code)
    assert status == 0 and len(out.splitlines()) > 8, err


def test_memory_that_runs_out_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    files.save(tmp_path, {"a": np.ones(3)})
    monkeypatch.setattr(files, "convert", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        files.save(tmp_path, {"a": np.zeros(3)})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["model.safetensors"] and files.read(tmp_path)["a"].array.tolist() == [1, 1, 1]
