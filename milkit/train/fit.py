"""The loop over epochs: the only part of training that runs on the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from milkit.data.batches import PartLayout
from milkit.train.engine import Engine, EpochLog, Group, initialise
from milkit.train.state import RunState


def start(
    engine: Engine, model: object, in_features: int, out_features: int, group: Group, *, covariates: int = 0
) -> RunState:
    """States of a group before the first epoch; dummies are finished from the start."""
    state = initialise(model, in_features, out_features, engine.setup.train, covariates, group.keys)
    return state._replace(finished=jnp.asarray(~group.active))


def fit(
    engine: Engine,
    group: Group,
    state: RunState,
    validation: PartLayout | None,
    on_epoch: Callable[[int, RunState, EpochLog], None],
    first: int = 0,
) -> RunState:
    """Train a group of runs until its epochs are over or every run has finished.

    Training and validation parts are all it receives; test bags are predicted by the caller, once, afterwards.

    Args:
        engine: compiled functions and packed data.
        group: the runs.
        state: where they stand.
        validation: the part that judges epochs, or None.
        on_epoch: called after each epoch (number, state, log); what it raises ends the training.
        first: epoch to begin with, from 0; above 0 when a study is resumed.
    """
    for epoch in range(first, engine.setup.train.epochs):
        state, log = engine.epoch(group, state, epoch, validation)
        on_epoch(epoch, state, log)
        if (log.finished | log.failed).all():
            break
    return jax.block_until_ready(state)
