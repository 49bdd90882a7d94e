"""The settings that a folder keeps for its pictures: where they are read, and which values of them have a meaning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..disk import read_json, show
from ..errors import ConfigError

FILE = "preprocessor_config.json"
NEWER_FILE = "processor_config.json"  # transformers 5 nests the same settings in it, under "image_processor"
LONGEST_EDGE = 4096  # pixels; the largest picture that a model of this family reads has 364


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder says about its pictures, or None.  The nested form counts first, as in transformers."""
    if (folder / NEWER_FILE).exists():
        nested = read_json(folder / NEWER_FILE, ConfigError).get("image_processor")
        if isinstance(nested, dict):
            return nested
    return read_json(folder / FILE, ConfigError) if (folder / FILE).exists() else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def triple(name: str, value: Any) -> tuple[float, ...]:
    """One number for each channel; a single one counts for all three."""
    numbers = [value] * 3 if is_number(value) else value
    if not isinstance(numbers, (list, tuple)) or len(numbers) != 3 or not all(is_number(n) for n in numbers):
        raise ConfigError(f"{name}: wanted three finite numbers, one for each channel, found {show(value)}")
    return tuple(float(n) for n in numbers)


def edges(name: str, value: Any, *keys: str) -> dict[str, int]:
    """{key: pixels} for exactly these keys, from a dict that names them, or from one number that stands for all."""
    named = dict.fromkeys(keys, value) if type(value) is int else value
    if (
        not isinstance(named, dict)
        or set(named) != set(keys)
        or not all(type(edge) is int and 1 <= edge <= LONGEST_EDGE for edge in named.values())
    ):
        shape = "{" + ", ".join(f"{key!r}: n" for key in keys) + "}"
        raise ConfigError(f"{name}: wanted n or {shape} with n from 1 to {LONGEST_EDGE}, found {show(value)}")
    return {key: named[key] for key in keys}
