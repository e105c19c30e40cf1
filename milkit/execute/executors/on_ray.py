"""Programs as tasks of a Ray cluster: many machines, any of which may die.

The run folder is the driver's: tasks return their files as bytes and the driver writes them, `done.json` last, so no
machine needs to share a disk for output. A task whose machine dies is started again on another one by Ray, from the
checkpoint that the driver had of it. The cohort's own files must be readable under the same paths on every machine.
"""

import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from milkit.cluster import Cluster
from milkit.cores import VARIABLE, pool_size
from milkit.data.memory import InMemory
from milkit.errors import WorkerError
from milkit.execute.claim import claimed
from milkit.execute.environment import decides_bits, environment
from milkit.execute.executors.base import IN_WORKER, Work, error_of, jax_settings
from milkit.execute.executors.handover import BAGS, bags_to_bytes, can_be_handed_over
from milkit.execute.executors.local import Local
from milkit.execute.executors.remote import run_program_here
from milkit.execute.folder import write_bytes
from milkit.execute.program import CHECKPOINT, is_done, program_folder
from milkit.execute.search.family import Family

RETRIES = 5
"""How often Ray starts a program again after its machine died."""
LOOK_SECONDS = 0.5


class Post:
    """The mailbox: an actor on the driver's machine. See `milkit.execute.executors.remote.Mailbox`."""

    def __init__(self) -> None:
        self._stopping = False
        self._files: dict[int, dict[str, bytes]] = {}
        self._new: list[tuple[int, dict[str, bytes], list[Any]]] = []

    def beat(self, program: int, files: dict[str, bytes], rows: list[Any]) -> bool:
        """See `Mailbox.beat`."""
        self._files.setdefault(program, {}).update(files)
        self._new.append((program, files, rows))
        return self._stopping

    def keep(self, program: int, files: dict[str, bytes]) -> None:
        """Files that the run folder has of a program."""
        self._files[program] = dict(files)

    def kept(self, program: int) -> dict[str, bytes]:
        """See `Mailbox.kept`."""
        return self._files.get(program, {})

    def forget(self, program: int) -> None:
        """A program is over."""
        self._files.pop(program, None)

    def take(self) -> list[tuple[int, dict[str, bytes], list[Any]]]:
        """What came since the last call: (program, files, epochs)."""
        new, self._new = self._new, []
        return new

    def stop(self) -> None:
        """Tell every task to stop."""
        self._stopping = True


class _Calls:
    """The mailbox as a task sees it. When the driver is gone, so is the mailbox, and the task ends."""

    def __init__(self, post: Any) -> None:
        import ray

        self._post, self._ray = post, ray

    def beat(self, program: int, files: Mapping[str, bytes], rows: list[Any]) -> bool:
        return self._ray.get(self._post.beat.remote(program, dict(files), rows))

    def kept(self, program: int) -> dict[str, bytes]:
        return self._ray.get(self._post.kept.remote(program))


def run_task(task: dict[str, Any], handed: dict[str, bytes], post: Any) -> dict[str, Any]:
    """What Ray runs."""
    return run_program_here(task, handed, _Calls(post))


class OnRay:
    """Runs programs as Ray tasks, one core (or one GPU) each.

    Args:
        workers: at most so many at a time; None takes what the cluster has.
        address: of a running cluster; None takes `$RAY_ADDRESS`, or starts one on this machine.
    """

    def __init__(self, workers: int | None, address: str | None) -> None:
        self._workers, self._cluster = workers, Cluster(address, workers)

    def run(self, work: Work, programs: Sequence[int]) -> None:
        """See `Executor.run`."""
        can_be_handed_over(work.out)
        waiting = deque(p for p in programs if not is_done(work.out, p))
        for program in programs:
            if program not in waiting:
                work.finished(program)
        here = [p for p in waiting if _reads_other_programs(work, p)]
        waiting = deque(p for p in waiting if p not in here)
        if waiting:
            _Round(self._cluster.ray, work, waiting, self._workers).go()
        Local().run(work, here)

    def __enter__(self) -> "OnRay":
        self._cluster.__enter__()  # before JAX has threads: a cluster of this machine is started by forking
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the cluster, or end the one that was started here."""
        self._cluster.__exit__(*error)


def _reads_other_programs(work: Work, program: int) -> bool:
    """Whether a program predicts with the weights of others, as the chosen runs of a search; the driver has these."""
    return work.prepared.experiment.search is not None and not isinstance(work.prepared.of(program), Family)


def handed_over(work: Work) -> dict[str, bytes]:
    """The files of a run folder that a task needs, and the bags of a study in memory."""
    names = [work.out / "config.json", *(work.out / "source").rglob("*"), *(work.out / "search").glob("round_*.json")]
    found = {p.relative_to(work.out).as_posix(): p.read_bytes() for p in names if p.is_file()}
    data = work.prepared.experiment.data
    return found | ({BAGS: bags_to_bytes(data)} if isinstance(data, InMemory) else {})


class _Round:
    """Some programs handed out as tasks until all are done, one fails, or the study is to stop."""

    def __init__(self, ray: Any, work: Work, waiting: "deque[int]", workers: int | None) -> None:
        self._ray, self._work, self._waiting, self._workers = ray, work, waiting, workers
        here = ray.get_runtime_context().get_node_id()
        pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        self._post = ray.remote(Post).options(num_cpus=0, scheduling_strategy=pinned).remote()
        self._gpu = jax.default_backend() == "gpu"
        needs: dict[str, Any] = {"num_gpus": 1} if self._gpu else {"num_cpus": 1}
        variables = {k: v for k, v in os.environ.items() if k.startswith("MILKIT_")}
        needs["runtime_env"] = {"env_vars": variables | {VARIABLE: str(pool_size()), IN_WORKER: "1"}}
        self._task = ray.remote(run_task).options(max_retries=RETRIES, scheduling_strategy="SPREAD", **needs)
        self._handed = ray.put(handed_over(work))
        self._said = {
            "bits": decides_bits(environment()), "jax": jax_settings(), "folder": os.getcwd(),
            "tracked": len(work.trackers) > 0,
        }  # fmt: skip
        self._running: dict[Any, int] = {}
        self._claims = contextlib.ExitStack()
        self._failures: dict[int, Exception] = {}
        self._stopping, self._where = False, ""

    def go(self) -> None:
        with self._claims:
            try:
                while self._running or (self._waiting and not self._stopping):
                    if not self._stopping and (self._failures or self._work.stop()):
                        self._stopping = True
                        self._ray.get(self._post.stop.remote())
                    if not self._stopping:
                        self._hand_out()
                    over = self._ray.wait(list(self._running), timeout=LOOK_SECONDS)[0] if self._running else []
                    self._hear()
                    for reference in over:
                        self._take(self._running.pop(reference), reference)
            finally:
                for reference in self._running:
                    self._ray.cancel(reference, force=True)
                self._ray.kill(self._post)
        if self._failures:
            raise self._failures[min(self._failures)]
        if self._stopping:
            raise KeyboardInterrupt(self._where)

    def _hand_out(self) -> None:
        room = self._workers or max(1, int(self._ray.cluster_resources().get("GPU" if self._gpu else "CPU", 1)))
        while self._waiting and len(self._running) < room:
            program = self._waiting.popleft()
            folder = program_folder(self._work.out, program)
            self._claims.enter_context(claimed(folder, self._work.stop))
            names = (CHECKPOINT, "history.jsonl")
            kept = {f"{folder.relative_to(self._work.out)}/{n}": (folder / n).read_bytes()
                    for n in names if (folder / CHECKPOINT).exists() and (folder / n).exists()}  # fmt: skip
            self._ray.get(self._post.keep.remote(program, kept))
            reference = self._task.remote(self._said | {"program": program}, self._handed, self._post)
            self._running[reference] = program

    def _hear(self) -> None:
        """Keep the checkpoints that came, and tell trackers of the epochs."""
        for _, files, rows in self._ray.get(self._post.take.remote()):
            self._write(files)
            for tracker in self._work.trackers:
                for each in rows:
                    tracker.epoch(each)

    def _write(self, files: Mapping[str, bytes]) -> None:
        """A checkpoint after its history, and `done.json` last of all: the order in which they may be read."""
        late = (CHECKPOINT, "done.json")
        for name in sorted(files, key=lambda name: (Path(name).name in late, name)):
            write_bytes(self._work.out / name, files[name])

    def _take(self, program: int, reference: Any) -> None:
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._failures[program] = RuntimeError(f"a Ray task failed in program {program}:\n{error}")
            return
        except self._ray.exceptions.RayError as error:
            self._failures[program] = WorkerError(
                f"Ray could not run program {program} ({type(error).__name__}: {str(error).splitlines()[0]}). Finished "
                "programs are kept; go on with --resume."
            )
            return
        self._write(said["files"])
        self._ray.get(self._post.forget.remote(program))
        if "stopped" in said:
            self._where = self._where or said["stopped"]
        elif "error" in said:
            self._failures[program] = error_of(*said["error"])
        else:
            (program_folder(self._work.out, program) / CHECKPOINT).unlink(missing_ok=True)
            self._work.finished(program)
