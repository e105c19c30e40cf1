"""How many runs share a program, how many of them are computed side by side, and on how many devices.

The second decides bits, and it follows from the experiment, the data and the kind of device, never from what a machine
happens to have free. So does whether there are several devices (XLA compiles another program for them), so a study
keeps the number it was started with; how many blocks a program has changes no bit.
"""

import contextlib
from functools import partial
from typing import Any

import jax

from milkit.data.study import Study
from milkit.execute.chunking import held_by_a_run, instances_at_once
from milkit.execute.memory import memory_of, packed_bytes
from milkit.execute.threads import usable_cores
from milkit.experiment import Experiment
from milkit.train.run_axis import Spread, devices_for
from milkit.train.state import initial_state

GROUP_BYTES = 2 << 30
"""About how much one step of runs side by side may hold on to, by which long bags narrow them."""
CACHE_BYTES = 3 << 20
"""What parameters, gradient and optimiser state of runs side by side may take on a CPU. They are walked over at every
step, so they should stay near the core: MUSK1's attention net with Adam, on one core with 2 MiB of its own, takes 165,
151, 171 and 185 microseconds a run-step at 1, 2, 4 and 8 runs side by side."""
PROGRAM_CPU = 20
"""Runs of a program on a CPU, about: enough that the host's work between epochs does not count."""
SIDE_BY_SIDE_CPU = 8
WIDTH_ACCELERATOR = 64
REPLICATED_BYTES = 8 << 30
"""What the copies of the features that the cores of a CPU hold may take together."""
MOST_CORES = 32


def use_cores() -> None:
    """Let JAX see every usable core of a CPU as a device; without effect once JAX has started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(MOST_CORES, len(usable_cores())))


def default_width(experiment: Experiment, study: Study, runs: int) -> int:
    """How many runs share a program when the experiment does not say."""
    if jax.default_backend() == "cpu" and memory_of(experiment.train, study) == "resident":
        programs = -(-runs // PROGRAM_CPU)
        width = -(-runs // programs)
        # a multiple of four can be cut into blocks of two on two cores; what is left over costs nothing
        return width if width < 4 else 4 * -(-width // 4)
    widest = SIDE_BY_SIDE_CPU if jax.default_backend() == "cpu" else WIDTH_ACCELERATOR
    return max(1, min(widest, runs, _held(experiment, study)))


def spread_of(experiment: Experiment, study: Study, width: int, out_features: int) -> Spread:
    """How the runs of a program are computed: the largest blocks that suit the device, shared by all devices.

    Args:
        experiment, study: the study.
        width: runs of a program.
        out_features: number of logits.
    """
    available = len(jax.devices())
    if jax.default_backend() == "cpu":
        side = min(SIDE_BY_SIDE_CPU, _held(experiment, study), _cached(experiment, study, out_features))
        copies = REPLICATED_BYTES // max(1, packed_bytes(study))  # each device holds the features
        available = max(1, min(available, copies))
    else:
        side = width
        # blocks of one program on several devices, if they can be cut evenly
        side = width // devices_for(width, available)
    side = max(d for d in range(1, max(1, min(side, width)) + 1) if width % d == 0)
    return Spread(side, devices_for(width // side, available))


def _held(experiment: Experiment, study: Study) -> int:
    """Runs whose steps may be held at once."""
    return GROUP_BYTES // held_by_a_run(experiment, study, instances_at_once(experiment, study, GROUP_BYTES))


def _cached(experiment: Experiment, study: Study, out_features: int) -> int:
    """Runs whose parameters, gradient and optimiser state stay in a core's cache; at least one."""
    start = partial(initial_state, experiment.model, study.features, out_features, experiment.train)
    state: Any = jax.eval_shape(start, jax.random.key(0))
    kept = jax.tree.leaves((state.params, state.params, state.optimizer, state.gradient))
    return max(1, CACHE_BYTES // sum(leaf.size * leaf.dtype.itemsize for leaf in kept))
