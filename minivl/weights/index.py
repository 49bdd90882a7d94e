"""The index of a checkpoint in shards: model.safetensors.index.json or pytorch_model.bin.index.json."""

from pathlib import Path

from ..disk import read_json, show
from ..errors import WeightsError


def shards(index: Path) -> dict[str, str]:
    """Which file holds which tensor, as an index says."""
    named = read_json(index, WeightsError).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise WeightsError(f"{show(index)}: wanted weight_map with a file name for each tensor, found {show(named)}")
    return named
