"""Whether a study's instances are packed on the device, or read from the disk while they are trained on."""

import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from milkit.data.protocol import Plan
from milkit.data.reading import Reader
from milkit.data.stream_order import stream_layout
from milkit.data.study import Study
from milkit.errors import DataError
from milkit.train.config import Train
from milkit.train.setup import Setup
from milkit.train.streaming import Streamed, StreamEngine

Memory = Literal["resident", "stream"]


def memory_of(train: Train, study: Study) -> Memory:
    """The mode of a study: what the experiment says; else resident while the packed study takes at most half.

    It depends on sizes only: of the study, and of the machine's and the device's memory, never on what is free.
    """
    if train.memory != "auto":
        return train.memory
    return "resident" if 2 * packed_bytes(study) <= min(machine_bytes(), device_bytes()) else "stream"


def packed_bytes(study: Study) -> int:
    """Bytes of all features, if all bags have the dtype of the first one."""
    return int(study.lengths.sum()) * study.features * study.read(0).x.dtype.itemsize


def machine_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_bytes() -> int:
    """Memory that JAX may use of the first device; the machine's where it has none of its own."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", machine_bytes()))


def check_fits(needed: int, study: Study) -> None:
    """Raise where the packed study would not fit the machine while it is loaded.

    Raises:
        DataError: so many bytes are too many; says what to do.
    """
    have = machine_bytes()
    if 2 * needed > have:  # once in NumPy, once on the device
        raise DataError(
            f"The features of {study.name!r} take {needed / 2**30:.1f} GiB, which train.memory='resident' holds in "
            f"memory twice while loading, but the machine has {have / 2**30:.1f} GiB. Set train.memory='stream' to "
            "read them while they are trained on, or store float16 features."
        )


def streamed(study: Study, positions: bool) -> Streamed:
    """A study that stays where it is.

    Args:
        study: whose bags.
        positions: whether the model looks at where instances lie; left out if a bag does not know.
    """
    known = positions and all(study.positions(i) is not None for i in range(len(study)))
    target = study.targets.values
    return Streamed(
        reader=Reader(study, coords=known),
        lengths=jnp.asarray(study.lengths, jnp.int32),
        target=jnp.asarray(target, jnp.int32 if target.ndim == 1 else jnp.float32),
        covariates=None if study.covariates is None else study.covariates.values,
    )


def stream_engine(
    setup: Setup, data: Streamed, rungs: tuple[int, ...], study: Study, plan: Plan, seed: int
) -> StreamEngine:
    """The engine of a study that is read while it is trained on; `rungs` hold the longest bag."""
    parts: dict[str, Any] = {r: [getattr(s, r) for s in plan.splits] for r in ("train", "validation", "test")}
    layout = stream_layout(np.asarray(study.lengths), rungs, setup.train.batch_bags, **parts)
    return StreamEngine(setup, data, layout, study.lengths, seed)
