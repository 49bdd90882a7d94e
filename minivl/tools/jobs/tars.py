"""Tar shards in the usual layout of webdataset: the files of a sample stand together and share a name up to the ending.

    000017.jpg   000017.json   000018.png   000018.txt

Pictures are read where they lie. No member is ever written to disk, so what it is called, "../../etc/passwd" say, is
nothing but a name; links, devices and files with holes are passed over or refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...disk import show
from ...errors import ImageError
from ...processors.picture_files import Clamped, read_picture

ENDING = ".tar"


def pictures(shard: Path, endings: set[str]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(name, key, how to read it) of every picture in a shard, in its order.

    The key is the name without its ending, as in webdataset: all from the first dot of its last part. A picture can be
    read until the next is asked for. ImageError, at the place where it is met, for what is no tar or is cut short.
    """
    try:
        with shard.open("rb", buffering=0) as raw, tarfile.open(fileobj=Clamped(raw), mode="r:") as tar:
            size = shard.stat().st_size
            last = "its start"
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it remembers every one
                name, last = PurePosixPath(member.name), member.name
                if member.isreg() and name.suffix.lower() in endings:
                    key = member.name.removesuffix(name.name) + name.name.partition(".")[0]
                    yield member.name, key, partial(_read, tar, member, size, show(shard / "x")[:-1] + member.name)
            raw.seek(tar.offset)
            if (end := raw.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):  # tarfile takes damage for the end
                raise tarfile.TarError(f"{'something else' if end else 'nothing'} behind {show(last)}")
    except OSError as problem:
        raise ImageError(f"{show(shard)}: cannot be read: {problem.strerror or problem}") from None
    except (tarfile.TarError, ValueError) as problem:
        wanted = "a complete tar file that is not compressed"
        raise ImageError(f"{show(shard)}: wanted {wanted}, found damage ({problem})") from None


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int, name: str) -> Any:
    if member.issparse() or member.offset_data + member.size > size:
        raise ImageError(f"{name}: wanted a picture inside its tar file, found one with holes or cut off")
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    with file:
        return read_picture(file, name)  # type: ignore[arg-type]
