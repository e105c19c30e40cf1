"""Frozen dataclasses to JSON and back: what `config.json` holds and how `milkit run RUN/config.json` reads it.

Every dataclass is written as an object with its class in `"type"`. Reading goes through an allow-list, so a config
file can only ever build milkit's own choices; a researcher's class is imported from its saved source file, and only
when the caller says that this source is trusted.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from milkit.errors import ConfigError
from milkit.fields import nearest


def to_json(value: Any) -> Any:
    """A dataclass (nested, with tuples, plain scalars and None) as JSON-able values.

    Raises:
        ConfigError: a value that JSON cannot hold.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "config_json"):  # a choice that holds data stands for itself (InMemory)
            return {"type": type(value).__name__, **value.config_json()}
        # init=False fields are derived
        names = [f.name for f in dataclasses.fields(value) if f.init]
        return {"type": type(value).__name__} | {n: to_json(getattr(value, n)) for n in names}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"A configuration cannot hold {value!r}, which JSON has no word for; use a finite number.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"A configuration cannot hold {value!r} ({type(value).__name__}); use numbers, text or tuples.")


def from_json(data: Any, allowed: Mapping[str, type], where: str = "config") -> Any:
    """The reverse of `to_json`.

    Args:
        data: what `to_json` made.
        allowed: classes by name; nothing else is ever built.
        where: path for error messages.

    Raises:
        ConfigError: an unknown type or field, or a missing field, with its path and the nearest known name.
    """
    if isinstance(data, list):
        return tuple(from_json(v, allowed, f"{where}[{i}]") for i, v in enumerate(data))
    if not isinstance(data, dict):
        return data
    if "type" not in data:
        return {k: from_json(v, allowed, f"{where}.{k}") for k, v in data.items()}
    cls = allowed.get(data["type"])
    if cls is None:
        raise ConfigError(f"{where}: unknown type {data['type']!r}{nearest(data['type'], allowed)}.")
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key != "type" and key not in names:
            raise ConfigError(f"{where}: {data['type']} has no field {key!r}{nearest(key, names)}.")
    values = {k: from_json(v, allowed, f"{where}.{k}") for k, v in data.items() if k != "type"}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {data['type']} cannot be built: {error}.") from error


def members(union: Any) -> tuple[type, ...]:
    """The classes of a union type (`A | B`), or of a single class."""
    if isinstance(union, types.UnionType) or typing.get_origin(union) is typing.Union:
        return tuple(typing.get_args(union))
    return (union,)
