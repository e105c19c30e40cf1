"""What every executor is given and what it promises."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from milkit import errors
from milkit.errors import ConfigError, MilkitError
from milkit.execute.claim import claimed
from milkit.execute.prepare import Prepared
from milkit.execute.program import is_done, program_folder, run_program
from milkit.track import Tracker

NAMES = ("local", "processes", "ray")
IN_WORKER = "MILKIT_WORKER"
"""Environment variable that worker processes carry: inside them no study may be started."""


@dataclass(frozen=True)
class Where:
    """Where programs run.

    Attributes:
        executor: "local" (this process), "processes" (several on this machine) or "ray" (a Ray cluster).
        workers: how many programs run at a time; None takes one a usable core, or what the cluster has.
        ray_address: of a running cluster; None takes `$RAY_ADDRESS`, or starts one on this machine.
    """

    executor: str = "local"
    workers: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in NAMES:
            raise ConfigError(f"There is no executor {self.executor!r}; choose one of {', '.join(NAMES)}.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; give 1 or more.")
        if self.workers is not None and self.executor == "local":
            raise ConfigError("workers are those of executor 'processes' or 'ray'; name one of them.")
        if self.ray_address is not None and self.executor != "ray":
            raise ConfigError("ray_address is a cluster's, for executor 'ray'; name that executor too.")


HERE = Where()


@dataclass(frozen=True)
class Work:
    """A study whose programs are to be run.

    Attributes:
        prepared: the study.
        out: its run folder, with `config.json` written.
        trackers: told every epoch.
        finished: called once a program is whole, also if it was so before.
        stop: asked at every safe point; True ends the study with checkpoints.
    """

    prepared: Prepared
    out: Path
    trackers: Sequence[Tracker] = field(default=())
    finished: Callable[[int], None] = lambda program: None
    stop: Callable[[], bool] = lambda: False


@runtime_checkable
class Executor(Protocol):
    """Runs programs of a study. Results are the same bits whichever executor ran them, and however many workers."""

    def run(self, work: Work, programs: Sequence[int]) -> None:
        """Run these programs now, leaving out those that are done; returns when all are.

        May be called again with others, also after `work.prepared` got more programs (rounds of a search).

        Raises:
            MilkitError: of the program that failed; what others had finished stays, those that ran left checkpoints.
            KeyboardInterrupt: `work.stop` said so; programs that ran left checkpoints.
        """

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *error: Any) -> None: ...


def run_once(prepared: Prepared, program: int, out: Path, trackers: list[Tracker], stop: Callable[[], bool]) -> None:
    """Run a program unless it is done, from its checkpoint if it has one, held against any other process."""
    if is_done(out, program):
        return
    with claimed(program_folder(out, program), stop):
        if not is_done(out, program):  # by the process that held it until now
            run_program(prepared, program, out, trackers, stop)


def jax_settings() -> dict[str, Any]:
    """How JAX is set here, as another process must set it for the same bits and the same cache."""
    settings: Any = jax.config  # its flags are attributes that type checkers cannot see
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_x64",
             "jax_default_matmul_precision", "jax_num_cpu_devices")  # fmt: skip
    return {name: getattr(settings, name) for name in names}


def set_jax(settings: Mapping[str, Any]) -> None:
    """Set JAX as `jax_settings` of the process that started this one says."""
    for name, value in settings.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)
    # of an entry that another worker is writing at this moment: it is compiled here, too
    warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")


def error_of(name: str, text: str) -> MilkitError:
    """The error that a worker reported, as what it was there."""
    found = getattr(errors, name, MilkitError)
    return found(text) if isinstance(found, type) and issubclass(found, MilkitError) else MilkitError(text)
