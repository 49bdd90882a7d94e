"""Where a checkpoint is: inside minivl, in a folder, or on the Hub.

    python -m minivl.weights.places     writes demo/sha256.json anew: run it after training an embedded model

A single wrong bit in a weight changes answers without a sign. So every process that uses an embedded model compares the
SHA-256 of its files with those that were released, which takes about a hundredth of a second.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..disk import read_json, replacing, show
from ..errors import WeightsError

DEMOS = {"demo": "blip2", "demo-bridgetower": "bridgetower"}
DEMO = Path(__file__).resolve().parents[1] / "demo"  # where the embedded models lie
FILE = DEMO / "sha256.json"


def find(
    id_or_folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    need: str = "weights",
) -> Path:
    """The folder that holds a checkpoint: "demo" and "demo-bridgetower" are inside minivl, then comes a folder of that
    name, then an id on the Hub (the other arguments are for those: see `hub.locate`).
    """
    known = " or ".join(f'"{name}"' for name in DEMOS)
    if not isinstance(id_or_folder, str | os.PathLike) or id_or_folder == "":
        raise WeightsError(f"checkpoint: wanted the path of a folder or {known}, found {show(id_or_folder)}")
    if id_or_folder in DEMOS:
        inside = DEMO / DEMOS[str(id_or_folder)]
        check(inside)
        return inside
    folder = Path(id_or_folder)
    if os.path.isdir(folder):  # Path's own raises for a name that is too long for the system
        return folder
    if "/" in str(id_or_folder) and not os.path.exists(folder):
        from . import hub  # only where no folder was named

        if hub.is_id(id_or_folder):
            where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
            return hub.locate(str(id_or_folder), **where, need=need)
    found = "a file; name the folder that holds it" if os.path.isfile(folder) else "no such folder"
    raise WeightsError(
        f"checkpoint {show(folder)}: wanted an existing folder, an id on the Hub or {known}, found {found}"
    )


# ---- the embedded models -------------------------------------------------------------------------
def measured(folder: Path) -> dict[str, str]:
    """{file name: its checksum} of a folder, without hidden files."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@functools.cache
def check(folder: Path) -> None:
    """WeightsError naming a file that is missing, that nobody released, or that has changed since."""
    wanted, found = read_json(FILE, WeightsError).get(folder.name), measured(folder)
    if not isinstance(wanted, dict):
        raise WeightsError(f"{show(FILE)}: wanted the checksums of {folder.name}, found none")
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = "nothing" if name not in found else "a file of that name" if name not in wanted else "other bytes"
            advice = "install minivl again, or, after training, run python -m minivl.weights.places"
            raise WeightsError(f"{show(folder / name)}: wanted the file that was released, found {what}: {advice}")


def main() -> None:
    """Write the checksums of what is there now."""
    folders = [path for path in sorted(FILE.parent.iterdir()) if (path / "config.json").is_file()]
    with replacing(FILE) as file:
        file.write((json.dumps({folder.name: measured(folder) for folder in folders}, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
