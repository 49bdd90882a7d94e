"""The file of a job's records: whole lines are added to it, and what a killed job left is gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ...disk import read_json, replacing, show
from ...errors import InputError
from .items import Items

WHOLE = 2**20  # bytes; of a larger file of a checkpoint only both ends are in its digest


class Records:
    """A JSON Lines file at `out`, and beside it `out`.job, where the settings stand that it was begun with.

        with Records(out, settings, items, resume=True) as records:
            records.done, records.failed      records that stand there already, and those of them with an "error"
            records.add([{"picture": "a.png", "caption": "a small red circle"}])

    Nothing is written before the `with`. InputError for a file that is there already, unless it is to be gone on with,
    and then for settings other than those it was begun with, or a line that is not the record of its picture.
    """

    def __init__(self, out: Path, settings: dict[str, Any], items: Items, resume: bool):
        self.out, self.job = out, out.with_name(f"{out.name}.job")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.done, self.failed, self.kept, self.found = 0, 0, 0, 0
        if os.path.lexists(out):
            if not resume:
                raise InputError(f"{show(out)} is there already: go on with --resume, or give another --out")
            self._compare(read_json(self.job, InputError) if self.job.exists() else None)
            self._count(items)

    def _compare(self, begun: dict[str, Any] | None) -> None:
        if begun is None:
            raise InputError(f"{show(self.out)}: wanted {show(self.job)} beside it, to go on: give another --out")
        for name in [*self.settings, *(begun.keys() - self.settings.keys())]:
            was, wanted = begun.get(name), self.settings.get(name)
            if was != wanted:
                found = f"was begun with {name} {show(was)}, not {show(wanted)}"
                raise InputError(f"{show(self.out)} {found}: go on with the same, or give another --out")

    def _count(self, items: Items) -> None:
        """How many whole lines there are; each is compared with the picture that it should be about."""
        expected = items()
        with self.out.open("rb") as file:
            self.found = os.fstat(file.fileno()).st_size
            for line in file:
                if not line.endswith(b"\n"):
                    break  # half a line: the job was killed while it was written
                item = next(expected, None)
                record = _record(line)
                if item is None or record is None or any(record.get(k) != v for k, v in item.fields.items()):
                    wanted = f"the record of {item.fields['picture']}" if item else "no more records"
                    found = show(line[:100].decode(errors="replace").rstrip())
                    raise InputError(f"{show(self.out)}, line {self.done + 1}: wanted {wanted}, found {found}")
                self.done, self.failed = self.done + 1, self.failed + ("error" in record)
                self.kept += len(line)

    def __enter__(self) -> Records:
        try:
            self._file = self.out.open("ab", buffering=0)
        except OSError as problem:
            raise InputError(f"{show(self.out)}: cannot be written: {problem.strerror}") from None
        try:
            self._alone()
            self._file.truncate(self.kept)
            if not self.kept:
                with replacing(self.job) as file:
                    file.write(json.dumps(self.settings, indent=1).encode() + b"\n")
        except BaseException:
            self._file.close()
            raise
        return self

    def _alone(self) -> None:
        """InputError if another process writes to the file, or has written to it since it was read."""
        try:
            import fcntl
        except ImportError:  # not on Windows, where it is not noticed
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{show(self.out)}: another process is writing to it: wait for it") from None
        except OSError:  # a file system without locks
            return
        if os.fstat(self._file.fileno()).st_size != self.found:
            raise InputError(f"{show(self.out)}: another process has written to it just now: try again")

    def add(self, records: list[dict[str, Any]]) -> None:
        """Write these lines to the end of the file."""
        rest = memoryview(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as problem:
            found = f"cannot be written: {problem.strerror}"
            raise InputError(f"{show(self.out)}: {found}; --resume goes on from there") from None
        self.done, self.failed = self.done + len(records), self.failed + sum("error" in r for r in records)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every record that is in the file, one at a time."""
        with self.out.open("rb") as file:
            yield from map(json.loads, file)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def fingerprint(folder: Path) -> str:
    """A digest of a checkpoint: of every file its name and size, what is in it, or of a large one both ends."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            digest.update(file.read(WHOLE))
            file.seek(max(0, size - WHOLE))
            digest.update(file.read(WHOLE))
    return digest.hexdigest()
