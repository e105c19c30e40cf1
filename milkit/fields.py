"""What a researcher writes into a configuration, held against the types of its fields and their ranges.

Python checks no annotation, so `Train(epochs="2")` or `encoder=8` would fail much later, in the middle of a program.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable
from typing import Any

from milkit.errors import ConfigError


def check_fields(config: Any, where: str = "", *, skip: tuple[str, ...] = (), **ranges: str) -> None:
    """Refuse a value that is not of its field's type or outside its range; to be called in `__post_init__`.

    A number of another kind (an int for a float, NumPy's scalars) and a path for text are converted, so that equal
    configurations are equal, hash alike and can be written as JSON.

    Args:
        config: a frozen dataclass.
        where: the field that holds it in an experiment, such as `train.optimizer`; "" for the experiment itself.
        skip: fields that are checked elsewhere.
        ranges: intervals of numbers, such as `dropout="[0, 1)"`; of a tuple, for each of its values.

    Raises:
        ConfigError: names the field, what was found, what is expected, and an example.
    """
    cls: Any = type(config)
    for field, hint in _hints(cls).items():
        if field.name in skip:
            continue
        path = f"{where}.{field.name}" if where else field.name
        value = getattr(config, field.name)
        try:
            fitting = _fit(value, hint)
        except TypeError:
            raise ConfigError(f"{path} is {_said(value)}{_help(value, hint, field)}.") from None
        object.__setattr__(config, field.name, fitting)
        interval = ranges.get(field.name, "")
        each = fitting if isinstance(fitting, tuple) else (fitting,)
        if interval and any(isinstance(v, (int, float)) and not _inside(v, interval) for v in each):
            raise ConfigError(f"{path} is {_said(value)}; expected {_in_words(hint)}, {_range_in_words(interval)}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a mistyped name: the nearest known one, and all there are."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}? There is {', '.join(known)}" if close else f"; there is {', '.join(known)}"


@functools.cache
def _hints(cls: Any) -> dict[Any, Any]:
    hints = typing.get_type_hints(cls)
    return {f: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _fit(value: Any, hint: Any) -> Any:
    """The value as its type wants it.

    Raises:
        TypeError: it does not fit.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for part in parts:
            try:
                return _fit(value, part)
            except TypeError:
                continue
        raise TypeError
    if origin is typing.Literal:
        fits = isinstance(value, (str, int)) and value in parts
    elif origin is tuple:
        return _fit_tuple(value, parts)
    elif hint is float or hint is int:
        fits = isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
        fits = fits and math.isfinite(value)
        value = hint(value) if fits else value
    elif hint is str:
        fits = isinstance(value, (str, os.PathLike))
        value = os.fspath(value) if fits else value
    else:
        fits = not isinstance(hint, type) or isinstance(value, hint)
    if not fits:
        raise TypeError
    return value


def _fit_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise TypeError
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_fit(v, parts[0]) for v in value)
    if len(parts) != len(value):
        raise TypeError
    return tuple(_fit(v, part) for v, part in zip(value, parts, strict=True))


def _inside(value: float | int, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _range_in_words(interval: str) -> str:
    low, high = (end.strip() for end in interval[1:-1].split(","))
    if high == "inf":
        return f"at least {low}" if interval[0] == "[" else f"above {low}"
    return f"in {interval}"


def _said(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _help(value: Any, hint: Any, field: Any) -> str:
    """What is expected instead, and how to write what was probably meant."""
    choices = [str(v) for v in _literals(hint)]
    if choices and isinstance(value, str):
        return nearest(value, choices)
    if isinstance(value, type):
        return f"; write {value.__name__}(...), with brackets"
    said = f"; expected {_in_words(hint)}"
    for meant in _meant(value):
        try:
            return f"{said}: write {_fit(meant, hint)!r}"
        except TypeError:
            continue
    example = field.default
    return said if example in (None, dataclasses.MISSING, "", ()) else f"{said} such as {example!r}"


def _meant(value: Any) -> list[Any]:
    """What a value of the wrong type may stand for: a list for a tuple, one for a tuple of one, text for a number."""
    meant: list[Any] = [tuple(value)] if isinstance(value, list) else [(value,)]
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            meant.append(ast.literal_eval(value))
    return meant


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also of an optional one or a tuple of them; () for other types."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return tuple(v for part in typing.get_args(hint) for v in _literals(part))


def _in_words(hint: Any, several: bool = False) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(part) for part in parts)
    if origin is tuple:
        return f"a tuple of {_in_words(parts[0], several=True)}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, parts))}"
    words = {
        int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("text", "text"),
        bool: ("True or False", "True or False"), type(None): ("None", "None"),
    }  # fmt: skip
    return words[hint][several] if hint in words else getattr(hint, "__name__", str(hint))
