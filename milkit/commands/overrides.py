"""Overriding an experiment's fields on the command line, typed by the experiment itself."""

import dataclasses
from typing import Any

import tyro

from milkit.errors import ConfigError
from milkit.experiment import Experiment


def override(experiment: Experiment, arguments: list[str], program: str) -> Experiment:
    """Apply `--train.epochs 50 --seeds 3` and the like.

    The fields offered are those of the choices that the experiment made (a `Sgd` has a momentum, an `Adam` has none);
    another model or protocol is another experiment, written in a file.

    Raises:
        ConfigError: a value that does not fit its field.
        SystemExit: 0 after `--help`, 2 after an unknown option (tyro names the nearest ones).
    """
    if not arguments:
        return experiment
    plain = _plain(experiment)
    result: Any = tyro.cli(
        type(plain),
        default=plain,
        args=arguments,
        prog=program,
        description=f"Fields of the experiment {experiment.name!r} and the values it states.",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    return _like(experiment, result)


def _plain(value: Any) -> Any:
    """A copy of a nested dataclass whose field types are those of the values it holds.

    Unions of dataclasses would become subcommands; the narrowed type has none. Docstrings come along for `--help`.
    """
    fields: list[tuple[str, Any]] = []
    values: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        if not f.init:
            continue
        item = getattr(value, f.name)
        if dataclasses.is_dataclass(item) and not hasattr(item, "config_json"):
            item = _plain(item)
            fields.append((f.name, type(item)))
        elif hasattr(item, "config_json") or not _simple(item):
            continue
        else:
            fields.append((f.name, f.type))
        values[f.name] = item
    cls = dataclasses.make_dataclass(type(value).__name__, fields, frozen=True)
    cls.__doc__ = type(value).__doc__
    return cls(**values)


def _simple(item: Any) -> bool:
    return item is None or isinstance(item, (bool, int, float, str, tuple))


def _like(original: Any, changed: Any) -> Any:
    """The original's classes with the changed values; checks of `__post_init__` run again."""
    new = {}
    for f in dataclasses.fields(changed):
        value = getattr(changed, f.name)
        before = getattr(original, f.name)
        new[f.name] = _like(before, value) if dataclasses.is_dataclass(value) else value
    try:
        return dataclasses.replace(original, **new)
    except TypeError as error:
        raise ConfigError(f"{type(original).__name__} cannot take these values: {error}.") from error
