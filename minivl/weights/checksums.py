"""Whether the embedded models are the ones that were released: the SHA-256 of each of their files.

    python -m minivl.weights.checksums     writes sha256.json anew, which whoever trains them does afterwards

A single wrong bit in a weight changes answers without a sign, so every process that uses a model looks once; it takes
about a hundredth of a second.
"""

import functools
import hashlib
import json
from pathlib import Path

from ..disk import read_json, replacing, show
from ..errors import WeightsError

DEMO = Path(__file__).resolve().parents[1] / "demo"  # where the embedded models lie
FILE = DEMO / "sha256.json"


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
            advice = "install minivl again, or, after training, run python -m minivl.weights.checksums"
            raise WeightsError(f"{show(folder / name)}: wanted the file that was released, found {what}: {advice}")


def main() -> None:
    """Write the checksums of what is there now."""
    folders = [path for path in sorted(FILE.parent.iterdir()) if (path / "config.json").is_file()]
    with replacing(FILE) as file:
        file.write((json.dumps({folder.name: measured(folder) for folder in folders}, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
