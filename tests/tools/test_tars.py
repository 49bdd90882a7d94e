"""Tar shards: pictures are read where they lie, and what a member is called is nothing but a name."""

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from minivl.cli import main
from minivl.errors import ImageError
from minivl.tools.jobs import items, tars

PICTURES = sorted(Path("tutorials/pictures").glob("*.png"))
BYTES = PICTURES[0].read_bytes() if PICTURES else b""


def shard(path, members):
    """A tar file of (name, bytes) or of TarInfos without content."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def kept(path):
    """What of a shard becomes records: names and keys."""
    return [
        (item.fields["picture"].removeprefix(f"{path}/"), item.fields.get("key")) for item in items.pictures([path])
    ]


def test_a_shard_of_samples_is_captioned_like_its_pictures(tmp_path):
    samples = [(f"set/{i:06}.{kind}", content) for i, picture in enumerate(PICTURES) for kind, content in
               (("json", b"{}"), ("png", picture.read_bytes()), ("txt", b"some words"))]  # fmt: skip
    first, second = shard(tmp_path / "a.tar", samples[:15]), shard(tmp_path / "b.tar", samples[15:])
    assert main(["caption", *map(str, PICTURES), "--out", str(tmp_path / "pictures")]) == 0
    assert main(["caption", str(first), str(second), "--out", str(tmp_path / "shards"), "--batch", "7"]) == 0
    found = [json.loads(line) for line in (tmp_path / "shards").open()]
    wanted = [json.loads(line) for line in (tmp_path / "pictures").open()]
    assert [one["caption"] for one in found] == [one["caption"] for one in wanted]
    assert [one["key"] for one in found] == [f"set/{i:06}" for i in range(len(PICTURES))]
    assert found[0]["picture"] == f"{first}/set/000000.png"


def test_a_job_over_shards_is_gone_on_with(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{i}.png", picture.read_bytes()) for i, picture in enumerate(PICTURES)])
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "a.tar")  # a folder of shards will do
    command = ["caption", str(tmp_path / "folder"), "--batch", "4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    wanted = (tmp_path / "out").read_bytes()
    for cut in (1, 500, len(wanted) - 1):
        (tmp_path / "out").write_bytes(wanted[:cut])
        assert main([*command, "--resume"]) == 0
        assert (tmp_path / "out").read_bytes() == wanted


def test_keys_are_those_of_webdataset(tmp_path):
    names = ["a.jpg", "dir/b.seg.png", "./c.JPEG", "d.x/e.webp", "f.json", "g", "png"]
    found = kept(shard(tmp_path / "a.tar", [(name, BYTES) for name in names]))
    assert found == [("a.jpg", "a"), ("dir/b.seg.png", "dir/b"), ("./c.JPEG", "./c"), ("d.x/e.webp", "d.x/e")]


@pytest.mark.parametrize(
    "name", ["../../escape.png", "/tmp/absolute.png", "a/../../b.png", "new\nline.png", "é\udcff.png"]
)
def test_a_name_is_only_a_name(tmp_path, name):
    inside = tmp_path / "x" / "y"
    inside.mkdir(parents=True)
    path = shard(inside / "a.tar", [(name, BYTES)])
    before = sorted(map(str, tmp_path.rglob("*")))
    (item,) = items.pictures([path])
    assert item.fields["picture"] == f"{path}/{name}"
    assert next(items.pictures([path])).read is not None
    for item in items.pictures([path]):
        assert item.read().size == (64, 64)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_links_and_devices_are_passed_over(tmp_path):
    odd = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        info = tarfile.TarInfo("trap.png")
        info.type, info.linkname = kind, str(PICTURES[0].resolve())
        odd.append(info)
    assert kept(shard(tmp_path / "a.tar", [*odd, ("good.png", BYTES)])) == [("good.png", "good")]


def errors(path):
    found = []
    for item in items.pictures([str(path)]):
        try:
            item.read()
        except ImageError as error:
            found.append((item.fields["picture"], str(error)))
    return found


def test_a_bad_picture_in_a_shard_is_named(tmp_path):
    path = shard(tmp_path / "a.tar", [("a.png", b"no"), ("b.png", BYTES), ("c.png", BYTES[:90]), ("d.png", b"")])
    found = errors(path)
    assert [name for name, _ in found] == [f"{path}/{name}.png" for name in "acd"]
    assert all(name in text and "\n" not in text for name, text in found)


@pytest.mark.parametrize("kind", ["text", "gzip", "empty", "missing", "folder", "header"])
def test_what_is_no_tar_is_one_error_and_the_others_go_on(tmp_path, kind):
    path = tmp_path / "bad.tar"
    good = shard(tmp_path / "good.tar", [("a.png", BYTES)])
    content = {"text": b"hello " * 200, "gzip": gzip.compress(good.read_bytes()), "empty": b"",
               "header": good.read_bytes()[:100]}  # fmt: skip
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(content[kind])
    found = errors(path)
    assert len(found) == 1 and str(path) in found[0][1] and "\n" not in found[0][1], found
    last = list(items.pictures([str(path), str(good)]))[-1]
    assert last.fields["picture"] == f"{good}/a.png"


def test_a_shard_that_is_cut_short_gives_what_is_whole(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{i}.png", BYTES) for i in range(4)])
    whole = path.read_bytes()
    each = 512 + -(-len(BYTES) // 512) * 512  # bytes of a member
    for cut in (each, each + 100, 2 * each + 512 + len(BYTES) // 2, 4 * each):
        path.write_bytes(whole[:cut])
        found = errors(path)
        assert found and all(str(path) in text for _, text in found), cut
        assert len(kept(path)) - len(found) == cut // each


def test_damage_between_two_members_is_no_silent_end(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{i}.png", BYTES) for i in range(4)])
    whole = bytearray(path.read_bytes())
    whole[512 + -(-len(BYTES) // 512) * 512] ^= 1  # the first byte of the second header
    path.write_bytes(whole)
    found = errors(path)
    assert len(kept(path)) == 2 and len(found) == 1 and "0.png" in found[0][1], found


LARGE = """
import sys
from minivl.errors import ImageError
from minivl.tools.jobs import items
for item in items.pictures([sys.argv[1]]):
    try:
        item.read()
    except ImageError as error:
        print(error)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_size_that_is_claimed_takes_no_memory(tmp_path, kind):
    info = tarfile.TarInfo("a.png")
    info.size, info.type = 2**35, kind
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + BYTES + b"\0" * 1024)
    limit = 4 * 2**30

    def small():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [sys.executable, "-c", LARGE, tmp_path / "a.tar"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=small, env=environment)
    assert result.returncode == 0, result.stderr
    *said, peak = result.stdout.splitlines()
    assert said and all(str(tmp_path / "a.tar") in line for line in said) and int(peak) < 200 * 1024


def test_the_list_of_members_is_not_kept(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{i}.png", b"") for i in range(50)])
    for _, _, read in tars.pictures(path, {".png"}):
        tar = read.args[0]
        assert len(tar.members) <= 1
