"""A configuration with some settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

from ...errors import InputError


class ChangedConfig:
    """Stands where a configuration's class is asked to read a folder, and changes what it has read."""

    def __init__(self, kind: Any, settings: Mapping[str, Any]):
        self.kind, self.settings = kind, settings

    def from_pretrained(self, folder: Any) -> Any:
        return changed(self.kind.from_pretrained(folder), self.settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kind, name)


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with {"vision_config.layer_norm_eps": 1e-5}. Raises InputError for a name that it has not.

    What follows from a setting follows it: T5's dense_act_fn goes with feed_forward_proj, unless it was another before.
    """
    values = config.to_dict()
    for name, value in settings.items():
        *parts, last = name.split(".")
        node, part = values, config
        for key in parts:
            node, part = (node.get(key), getattr(part, key, None)) if isinstance(node, dict) else (None, None)
        if not isinstance(node, dict) or last not in node:
            known = ", ".join(sorted(node if isinstance(node, dict) else values))
            raise InputError(f"setting {name!r} does not exist: wanted the path of one, as {known}")
        node[last] = value
        for key in _followers(part):
            if ".".join([*parts, key]) not in settings:
                node.pop(key, None)
    return type(config).from_dict(values)


def consequences(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and what else `changed` changes because of them, by the same kind of name."""
    after, found = changed(config, settings), dict(settings)
    for name in settings:
        *parts, _ = name.split(".")
        old, new = (reduce(getattr, parts, one) for one in (config, after))
        moved = [key for key in sorted(_followers(old)) if getattr(old, key) != getattr(new, key)]
        found |= {".".join([*parts, key]): getattr(new, key) for key in moved}
    return found


def _followers(part: Any) -> set[str]:
    """The fields whose values a configuration has worked out from its other fields, or might have."""
    values = part.to_dict()
    unsaid = [field.name for field in fields(part) if field.default is None and values.get(field.name) is not None]
    settled = type(part).from_dict({key: value for key, value in values.items() if key not in unsaid})
    return {name for name in unsaid if getattr(settled, name) == getattr(part, name)}
