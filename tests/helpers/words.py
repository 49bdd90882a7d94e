"""RoBERTa's vocabulary for the tests: OPT's words with the mask, whose id is the only one that the two do not share."""

import json
import shutil
from pathlib import Path

OPT_WORDS = Path(__file__).parents[1] / "golden" / "opt_words"


def roberta_folder(path, **files):
    """A folder with RoBERTa's vocab.json and merges.txt, and `files` as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    vocabulary = json.loads((OPT_WORDS / "vocab.json").read_text())
    (path / "vocab.json").write_text(json.dumps({**vocabulary, "<mask>": 50264}))
    shutil.copy(OPT_WORDS / "merges.txt", path)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path
