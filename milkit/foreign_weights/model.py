"""From a checkpoint of others to a module with its weights, and a trial of it on a bag."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.fields import nearest
from milkit.foreign_weights.file import Checkpoint
from milkit.foreign_weights.known import Layout, recognised
from milkit.foreign_weights.names import Found, Shapes
from milkit.foreign_weights.placed import fitting, partners, place
from milkit.types import Bags

TRIED = 12
"""Instances of the bag that a model is tried on."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A model with weights of others.

    Attributes:
        found: the model, its sizes, and where the arrays went.
        layout: the naming that the file has.
        module: with the weights.
        left: names of the file's arrays that milkit has no need of.
    """

    found: Found
    layout: Layout
    module: Any
    left: tuple[str, ...]


def model_of(checkpoint: Checkpoint, model: str, stated: Mapping[str, Any], where: str) -> Placed:
    """Put a checkpoint's arrays into the model that they are of.

    Args:
        checkpoint: what was read.
        model: name of its configuration class.
        stated: fields of the configuration that are in no array, such as heads; the rest is read off or as the
            authors have it.
        where: the file, for messages.

    Raises:
        ConfigError: files of no such model are known, or a field of it that there is not.
        DataError: arrays that are missing, unexpected, of other shapes or not finite.
    """
    arrays = checkpoint.arrays
    layout = recognised(model, arrays, where)
    found = layout.read(Shapes({name: array.shape for name, array in arrays.items()}))
    config = _stated(found.config, stated)
    found = dataclasses.replace(found, config=config)
    where = f"{where}, as {layout},"
    build = partial(config.build, found.in_features, found.out_features)
    # sizes of some arrays make others: nothing is made before all are known to fit
    fitting(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), arrays, found.names, where)
    module = build(rngs=nnx.Rngs(0))
    place(module, arrays, found.names, where)
    mine = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module))}
    left = tuple(sorted(arrays.keys() - partners(found.names, mine).keys()))
    return Placed(found, layout, module, left)


def _stated(config: Any, stated: Mapping[str, Any]) -> Any:
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    for name in stated:
        if name not in fields:
            raise ConfigError(f"--set {name}: {type(config).__name__} has no such field{nearest(name, fields)}.")
    return dataclasses.replace(config, **stated)


def try_on_noise(placed: Placed, where: str) -> None:
    """Let a model answer for a bag of noise.

    Args:
        placed: the model.
        where: its file, for messages.

    Raises:
        DataError: what it says is not finite, so its weights are of a training that went wrong.
    """
    found = placed.found
    n = max(TRIED, getattr(found.config, "min_instances", 1))
    x = jax.random.normal(jax.random.key(0), (1, n, found.in_features), jnp.float32)
    bags = Bags(x, jnp.ones((1, n), bool), jnp.zeros((1, n, 2), jnp.float32))
    logits = nnx.jit(lambda module, bags: module(bags).logits)(placed.module, bags)
    if not jnp.isfinite(logits).all():
        raise DataError(f"{where} gives {logits[0]} for a bag of noise; its weights are of a training that went wrong.")
