"""What every configuration shares: a field says once what values it takes, and the rest follows from that."""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..disk import read_json, replacing, show
from ..errors import ConfigError
from ..weights.places import find

Self = TypeVar("Self", bound="Config")
FILE = "config.json"
MOST_TOKENS = 2**24


@dataclasses.dataclass(frozen=True)
class Config:
    """The base of the frozen dataclasses in config.py.  Creating one checks every field and raises ConfigError.

    Keys that a class does not know (transformers_version, auto_map, _attn_implementation ...) are dropped: nothing
    in a configuration is ever executed, imported or looked up by name.
    """

    model_type: ClassVar[str]
    inside: ClassVar[str] = ""  # the key under which a composite configuration holds this one
    also_written: ClassVar[tuple[str, ...]] = ()  # properties that to_dict writes out for other readers
    aliases: ClassVar[Mapping[str, str]] = {}  # other names of keys

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            key = f"{type(self).__name__}.{field.name}"
            self.settle(field.name, field.metadata["check"](key, getattr(self, field.name)))
        self.check()

    def check(self) -> None:
        """Settle what depends on several fields; a class with such fields overrides this."""

    def settle(self, name: str, value: Any) -> None:
        """Give a field its final value while the object is being made; afterwards it is frozen."""
        object.__setattr__(self, name, value)

    def refusal(self, key: str, wanted: str) -> ConfigError:
        """The error for a field whose value does not go with the others."""
        return refused(f"{type(self).__name__}.{key}", wanted, getattr(self, key))

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """A configuration from the keys of a config.json; absent ones take their default, unknown ones are ignored."""
        if not isinstance(values, Mapping):
            raise refused(cls.__name__, "a dict", values)
        kind = values.get("model_type") or cls.model_type
        if kind != cls.model_type:
            raise refused(f"{cls.__name__}.model_type", f'"{cls.model_type}"', kind)
        known = {field.name for field in dataclasses.fields(cls)}
        named = {cls.aliases.get(key, key): value for key, value in values.items()}
        return cls(**{key: value for key, value in named.items() if key in known})

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | os.PathLike[str]) -> Self:
        """The configuration in a folder's config.json, or its part for this class if the file is a composite one."""
        path = find(folder, need="config") / FILE
        values = read_json(path, ConfigError)
        if values.get("model_type") != cls.model_type and cls.inside in values:
            values = {} if values[cls.inside] is None else values[cls.inside]
        try:
            return cls.from_dict(values)
        except ConfigError as problem:
            raise ConfigError(f"{show(path)}: {problem}") from None

    def to_dict(self) -> dict[str, Any]:
        """Everything written out, defaults too, as plain JSON values."""
        values: dict[str, Any] = {"model_type": self.model_type}
        for name in [*(field.name for field in dataclasses.fields(self)), *self.also_written]:
            value = getattr(self, name)
            plain = value.to_dict() if isinstance(value, Config) else value
            values[name] = list(plain) if isinstance(plain, tuple) else plain
        return values

    def to_json_string(self) -> str:
        """The text of config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json into the folder, made if it is missing; the file appears whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with replacing(Path(folder) / FILE) as file:
            file.write(self.to_json_string().encode())


def refused(key: str, wanted: str, found: object) -> ConfigError:
    """The one line that every refusal has."""
    return ConfigError(f"{key}: wanted {wanted}, found {show(found)}")


def _field(default: Any, check: Callable[[str, Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def is_whole(value: Any) -> bool:
    """Whether this is a whole number, Python's or NumPy's, and not true or false."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(default: int | None, most: int, least: int = 1) -> Any:
    """A field for a whole number from `least` to `most`; None is accepted where it is the default."""

    def check(key: str, value: Any) -> int | None:
        if value is None and default is None:
            return None
        if not is_whole(value) or not least <= value <= most:
            raise refused(key, f"a whole number from {least} to {most}", value)
        return int(value)

    return _field(default, check)


def number(default: float, most: float = 1.0, zero: bool = True) -> Any:
    """A field for a finite number from 0 to `most`, without 0 itself unless `zero`."""

    def inside(value: Any) -> bool:  # False for NaN, which compares with nothing
        return 0 <= value <= most and (zero or value != 0)

    def check(key: str, value: Any) -> float:
        if not isinstance(value, Real) or isinstance(value, bool) or not inside(value):
            raise refused(key, f"a number {'from' if zero else 'above'} 0 up to {most}", value)
        return float(value)

    return _field(default, check)


def flag(default: bool | None) -> Any:
    """A field for true or false; None is accepted where it is the default."""

    def check(key: str, value: Any) -> bool | None:
        if isinstance(value, bool) or (value is None and default is None):
            return value
        raise refused(key, "true or false", value)

    return _field(default, check)


def choice(default: str | None, allowed: Collection[str]) -> Any:
    """A field for one of a few words; None is accepted where it is the default."""

    def check(key: str, value: Any) -> str | None:
        if (isinstance(value, str) and value in allowed) or (value is None and default is None):
            return value
        raise refused(key, f"one of {', '.join(allowed)}", value)

    return _field(default, check)


def token(default: int | None, several: bool = False) -> Any:
    """A field for a token's id or None; where `several` are allowed a list of ids becomes a tuple."""

    def check(key: str, value: Any) -> int | tuple[int, ...] | None:
        if value is None:
            return None
        listed = several and isinstance(value, list | tuple)
        ids = value if listed else [value]
        if not ids or not all(is_whole(one) and 0 <= one < MOST_TOKENS for one in ids):
            raise refused(key, f"a token id below {MOST_TOKENS}{' or a list of them' if several else ''}", value)
        return tuple(int(one) for one in ids) if listed else int(value)

    return _field(default, check)


def part(*kinds: type[Config]) -> Any:
    """A field for a configuration inside this one: an object, a dict (its model_type chooses among kinds) or None."""
    by_name = {kind.model_type: kind for kind in kinds}

    def check(key: str, value: Any) -> Config:
        if value is None:
            return kinds[0]()
        if isinstance(value, kinds):
            return value
        if not isinstance(value, Mapping):
            raise refused(key, f"a dict or a {' or '.join(kind.__name__ for kind in kinds)}", value)
        name = value.get("model_type") or kinds[0].model_type
        if not isinstance(name, str) or name not in by_name:
            raise refused(f"{key}.model_type", f"one of {', '.join(by_name)}", name)
        return by_name[name].from_dict(value)

    return _field(None, check)
