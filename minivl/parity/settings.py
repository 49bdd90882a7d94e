"""A configuration with some settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError


class ChangedConfig:
    """Stands where a configuration's class is asked to read a folder, and changes what it has read."""

    def __init__(self, kind: Any, settings: Mapping[str, Any]):
        self.kind, self.settings = kind, settings

    def from_pretrained(self, folder: Any) -> Any:
        return changed(self.kind.from_pretrained(folder), self.settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kind, name)


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with {"vision_config.layer_norm_eps": 1e-5}. Raises InputError for a name that it has not."""
    values = config.to_dict()
    for name, value in settings.items():
        *parts, last = name.split(".")
        node: Any = values
        for part in parts:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            known = ", ".join(sorted(node if isinstance(node, dict) else values))
            raise InputError(f"setting {name!r} does not exist: wanted the path of one, as {known}")
        node[last] = value
    return type(config).from_dict(values)
