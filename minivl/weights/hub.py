"""Checkpoints named by their id on the Hugging Face Hub: looked up in the local cache, downloaded only if not there.

The cache is the one that all programs share, so what transformers has downloaded is found:

    $HF_HUB_CACHE or $HF_HOME/hub or ~/.cache/huggingface/hub
        models--ORG--NAME/refs/main                  the commit that a branch stood at
        models--ORG--NAME/snapshots/COMMIT/          its files

Looking up needs no client. A download is done by `huggingface_hub`, with its progress bar.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..disk import show
from ..errors import WeightsError
from .index import shards

ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"[\w./-]+")
CONFIG, TEXTS, WEIGHTS = "config", "texts", "weights"  # what may be needed of a checkpoint, each with what is before it
MOST_OF_A_REF = 256  # bytes
SMALL = ("*.json", "merges.txt", "vocab.txt")  # configurations and tokenizers; an index of weights is a .json as well
SAFETENSORS, PICKLES = ("model*.safetensors",), ("pytorch_model*.bin",)


def is_id(name: object) -> bool:
    """Whether this can be the id of a checkpoint on the Hub, as "Salesforce/blip2-opt-2.7b" is."""
    return isinstance(name, str) and ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def locate(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    need: str = WEIGHTS,
) -> Path:
    """The folder of a checkpoint in the cache, downloaded if it is not there and may be.

    revision   a branch, a tag or a commit; "main" unless given
    need       CONFIG, TEXTS (and the tokenizer) or WEIGHTS (and the tensors): what has to be there
    Raises WeightsError saying where it was looked for and how to get it there.
    """
    if not isinstance(revision, str | None):
        raise WeightsError(f"revision: wanted a branch, a tag or a commit, found {show(revision)}")
    revision, cache = revision or "main", default_cache() if cache_dir is None else Path(os.path.expanduser(cache_dir))
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise WeightsError(f"revision: wanted a branch, a tag or a commit, found {show(revision)}")
    folder = cached(name, revision, cache)
    if folder is not None and complete(folder, need):
        return folder
    if local_files_only or offline():
        found = "nothing" if folder is None else f"only part of it in {show(folder)}"
        why = f"{'local_files_only' if local_files_only else offline()} is set"
        raise WeightsError(
            f"checkpoint {show(name)}: looked in {show(cache)} and found {found}, and {why}; get it there with"
            f" `hf download {name}` on a line that reaches the Hub, or name a folder"
        )
    return download(name, revision, cache, need)


def default_cache() -> Path:
    """Where Hub files are kept, as the environment says."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return written_out(os.environ[variable])
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return written_out(os.environ.get("HF_HOME") or os.path.join(above, "huggingface")) / "hub"


def written_out(folder: str) -> Path:
    """A folder whose name may hold ~ and $VARIABLES, as the Hub's client reads it."""
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def offline() -> str | None:
    """The variable that forbids the network, if one does: HF_HUB_OFFLINE, or where that is unset the older one."""
    variable = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return variable if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE") else None


def cached(name: str, revision: str, cache: Path) -> Path | None:
    """The snapshot of a revision, if the cache has it."""
    home = cache / f"models--{name.replace('/', '--')}"
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            with (home / "refs" / revision).open("rb") as file:
                commit = file.read(MOST_OF_A_REF).decode("ascii", "replace").strip()
        except OSError:
            return None
        if not COMMIT.fullmatch(commit):
            raise WeightsError(
                f"{show(home / 'refs' / revision)}: wanted a commit of 40 hex digits, found {show(commit)}"
            )
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def complete(folder: Path, need: str = WEIGHTS) -> bool:
    """Whether a snapshot holds what is needed: another program may have fetched some of its files only."""
    if not (folder / "config.json").is_file():
        return False
    if need == CONFIG:
        return True
    if need == TEXTS:
        return any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "spiece.model"))
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return True
        if (folder / index).is_file():
            return all(os.path.isfile(folder / shard) for shard in shards(folder / index).values())
    return False


def download(name: str, revision: str, cache: Path, need: str) -> Path:
    """Fetch what is needed and nothing else: safetensors where there are any, pickles only where there are none."""
    try:
        import huggingface_hub  # a second of imports, paid only by a download
    except ModuleNotFoundError as missing:
        raise WeightsError(
            f"checkpoint {show(name)}: not in {show(cache)}, and a download needs the package {missing.name!r}, which"
            " is not installed: pip install huggingface_hub, or name a folder"
        ) from None
    try:
        files = huggingface_hub.HfApi().list_repo_files(name, revision=revision)
        patterns = [*SMALL, *(weight_files(files, name) if need == WEIGHTS else ())]
        folder = huggingface_hub.snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=patterns)
    except WeightsError:
        raise
    except Exception as problem:  # the client's own errors, its network library's, the disk's: each ends here
        first = next(iter(str(problem).splitlines()), "") or type(problem).__name__
        raise WeightsError(
            f"checkpoint {show(name)}: not in {show(cache)}, and the download failed: {show(first, 200)}; get it there"
            f" with `hf download {name}`, or name a folder"
        ) from None
    return Path(folder)


def weight_files(files: Iterable[str], name: str) -> tuple[str, ...]:
    """The patterns of the weights to fetch from a repository that holds these files."""
    at_top = [file for file in files if "/" not in file]
    if any(file.startswith("model") and file.endswith(".safetensors") for file in at_top):
        return SAFETENSORS
    if any(file.startswith("pytorch_model") and file.endswith(".bin") for file in at_top):
        return PICKLES
    raise WeightsError(
        f"checkpoint {show(name)}: wanted model.safetensors or pytorch_model.bin on the Hub, found neither"
    )
