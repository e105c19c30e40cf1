"""Bags of a cohort spread over the machines of a Ray cluster, any of which may die (the extra `ray`).

A bag is a task. Tasks write into a folder that all machines share, the one that a single process would write into; the
one who calls makes the store of it. So nothing of the result depends on where a bag was encoded, and a bag whose
machine died is gone on with on another one, from the last block that it wrote.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.cluster import Cluster
from milkit.cores import VARIABLE, pool_size
from milkit.data.pack.journal import alone
from milkit.data.store_write import StoreDtype
from milkit.embed.cohort import Chosen
from milkit.embed.encode import Clock, Embedded, embed_slide
from milkit.embed.part import part_folder
from milkit.embed.run import Bags, Progress, Report, Told, make_store, settings_for, threads_for
from milkit.embed.settings import Settings, differences, settings_of
from milkit.embed.source import Listed
from milkit.encoders import Encoder, load_encoder
from milkit.encoders.encoder import Precision
from milkit.errors import ConfigError, DataError, MilkitError, WorkerError

RETRIES = 5
"""How often Ray starts a bag again after its machine died."""
PATIENCE_SECONDS = 60.0
"""How long a bag is waited for that a process of a dead machine still holds."""
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder that each machine makes for itself; see `load_encoder`.

    Attributes:
        name: of the encoder.
        weights: a file that all machines see, or a name of the hub.
        batch: tiles at once; 0 chooses.
        precision: of the arithmetic.
        prefix: to be taken off the names of the file's arrays.
    """

    name: str
    weights: str | None = None
    batch: int = 0
    precision: Precision = "float32"
    prefix: str = ""

    def load(self) -> Encoder:
        """The encoder; raises as `load_encoder` does."""
        return load_encoder(
            self.name, self.weights, batch=self.batch, precision=self.precision, prefix=self.prefix
        )  # fmt: skip


def embed_on_ray(
    chosen: Chosen,
    encoder: EncoderChoice,
    out: Path | str,
    *,
    address: str | None = None,
    cores: int = 1,
    dtype: StoreDtype = "float16",
    workers: int | None = None,
    overwrite: bool = False,
    anew: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> Report:
    """As `embed_chosen`, each bag by a task of a Ray cluster; the store is the same, byte by byte.

    Args:
        chosen: the bags; their files, and the folder of `out`, are under the same paths on all machines.
        encoder: what makes the features.
        out: the store.
        address: of a running cluster; None takes `$RAY_ADDRESS`, or starts one on this machine.
        cores: of a machine that a bag takes; where the cluster has GPUs it takes one of these as well.
        dtype: of the features in the store.
        workers: threads of a bag that read tiles; None takes as many as its cores, 2 at least.
        overwrite, anew, told, progress: see `embed`.

    Raises:
        ConfigError: Ray is not installed, and as `embed`; or machines that would give different bits.
        WorkerError: the cluster cannot be reached, or a bag was given up after its machines died.
        DataError: as `embed`.
        StopError: as `embed`.
    """
    threads = threads_for(workers if workers is not None else max(2, cores))
    out = Path(out).expanduser().absolute()
    with Cluster(address) as cluster:
        tasks = _Tasks(cluster.ray, cores)
        settings = tasks.result(tasks.start(_settings, chosen, encoder, dtype))

        def spread(bags: Sequence[Listed], work: Path, clock: Clock, count: Callable[[int], None]) -> Bags:
            waiting = deque(bags)
            running: dict[Any, Listed] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < tasks.room():
                        bag = waiting.popleft()
                        running[tasks.start(_encode, bag, encoder, work, settings, threads)] = bag
                    for reference in tasks.over(list(running)):
                        bag = running.pop(reference)
                        found: Embedded = tasks.result(reference, bag.id)
                        done = (found.tiles or 0) - found.kept
                        if done > 0:
                            clock.add(done, 0.0, 0.0)
                        count(found.tiles or 0)
                        yield found
            finally:
                tasks.cancel(list(running))

        return make_store(
            chosen, settings, spread, out, overwrite=overwrite, anew=anew, told=told, progress=progress
        )  # fmt: skip


class _Tasks:
    """Functions run by the cluster, each with its share of a machine."""

    def __init__(self, ray: Any, cores: int) -> None:
        if cores < 1:
            raise ConfigError(f"--ray-cores is {cores}; expected 1 or more.")
        self._ray, self._cores = ray, cores
        self._gpu = ray.cluster_resources().get("GPU", 0) > 0
        variables = {k: v for k, v in os.environ.items() if k.startswith("MILKIT_")}
        # of one size everywhere: XLA cuts sums by it
        environment = {"env_vars": variables | {VARIABLE: str(pool_size())}}
        self._options: dict[str, Any] = {
            "num_cpus": cores, "num_gpus": int(self._gpu), "max_retries": RETRIES, "runtime_env": environment,
            "scheduling_strategy": "SPREAD",
        }  # fmt: skip
        if not any(node["Resources"].get("CPU", 0) >= cores for node in ray.nodes() if node["Alive"]):
            raise ConfigError(f"No machine of the cluster has the {cores} cores that a bag takes (--ray-cores).")

    def room(self) -> int:
        """Tasks at a time: what the cluster has now, as machines come and go."""
        held = self._ray.cluster_resources()
        return max(1, int(held.get("GPU", 0) if self._gpu else held.get("CPU", 0) // self._cores))

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hand out a call; gives a reference to its result."""
        folder = os.getcwd()
        return self._ray.remote(_told).options(**self._options).remote(folder, function, arguments)

    def over(self, references: list[Any]) -> list[Any]:
        """Those of the calls that have ended, after some waiting."""
        return self._ray.wait(references, num_returns=1, timeout=LOOK_SECONDS)[0]

    def result(self, reference: Any, bag: str = "") -> Any:
        """What a call gave; an error of milkit's is raised as it was there."""
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a Ray task failed{bag and f' in {bag!r}'}:\n{error}") from None
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"Ray could not encode {bag!r} ({type(error).__name__}: {str(error).splitlines()[0]}). What is encoded "
                "is kept; repeat the command to go on."
            ) from error
        if isinstance(found, MilkitError):
            raise found
        return found

    def cancel(self, references: list[Any]) -> None:
        """End calls that are under way; what they wrote is kept."""
        for reference in references:
            self._ray.cancel(reference, force=True)


def _told(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What Ray runs: a call in a folder, whose errors of milkit's are given back rather than raised."""
    try:
        os.chdir(folder)
        return function(*arguments)
    except FileNotFoundError as error:
        return DataError(f"A machine of the cluster does not see {error.filename}; all need the same paths.")
    except MilkitError as error:
        return error


_made: dict[EncoderChoice, Encoder] = {}
"""Of this process: Ray gives it one bag after another."""


def _encoder(choice: EncoderChoice) -> Encoder:
    if choice not in _made:
        _made.clear()
        _made[choice] = choice.load()
    return _made[choice]


def _settings(chosen: Chosen, choice: EncoderChoice, dtype: StoreDtype) -> Settings:
    """The settings of the machines, which need not be those of the one who asks."""
    return settings_for(chosen, _encoder(choice), dtype)


def _encode(bag: Listed, choice: EncoderChoice, work: Path, settings: Settings, threads: int) -> Embedded:
    """Encode a bag, or go on with it where another machine was ended."""
    encoder = _encoder(choice)
    own = settings_of(encoder, settings.dtype, settings.tile_um, settings.tile_px)
    if other := differences(settings.flat, own.flat):
        raise ConfigError(f"The machines of the cluster differ: {other}. Use machines of one kind.")
    if not work.is_dir():
        raise DataError(f"A machine of the cluster does not see {work}; all need the same paths.")
    _wait(part_folder(work, bag.id))
    return embed_slide(bag, encoder, work, settings, workers=threads)


def _wait(folder: Path) -> None:
    """Wait until nobody holds a bag's folder: where a machine is lost, its processes end a little later."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            with alone(folder, ""):
                return
        except DataError:
            time.sleep(0.2)
