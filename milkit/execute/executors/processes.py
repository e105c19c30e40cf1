"""Programs in several processes of this machine, each on its own share of the cores.

For studies of many programs of few runs, which cannot be shared out over the cores within one process.
"""

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from milkit.cores import VARIABLE, pool_size, usable_cores
from milkit.data.memory import InMemory
from milkit.errors import ConfigError, WorkerError
from milkit.execute.environment import decides_bits, environment
from milkit.execute.executors.base import IN_WORKER, Work, error_of, jax_settings
from milkit.execute.executors.handover import BAGS, bags_to_bytes, can_be_handed_over
from milkit.execute.program import is_done

ATTEMPTS = 3
"""How often a program is given to a worker before its death is taken for the program's fault."""
LOOK_SECONDS = 0.1
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from milkit.execute.executors import worker; worker.main()"
)


def shares(cores: Sequence[int], workers: int) -> list[list[int]]:
    """The cores of each worker: even parts of neighbours; with more workers than cores, one core in turn."""
    if workers > len(cores):
        return [[cores[i % len(cores)]] for i in range(workers)]
    ends = [round(i * len(cores) / workers) for i in range(workers + 1)]
    return [list(cores[a:b]) for a, b in itertools.pairwise(ends)]


class _Worker:
    """A worker process as its starter sees it.

    Attributes:
        program: what it was told to run, or None.
        ready: whether it has built the study.
    """

    def __init__(self, place: int, hello: dict[str, Any], cores: list[int], heard: "queue.Queue[Any]") -> None:
        self.place, self.program, self.ready = place, None, False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the process that started it
            env=os.environ | {VARIABLE: str(pool_size()), IN_WORKER: "1"},
        )  # fmt: skip
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, cores)  # before it has any thread
        self.say(hello)
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    program: int | None

    def _listen(self, heard: "queue.Queue[Any]") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else it died in mid-sentence
                heard.put((self, json.loads(line)))
        heard.put((self, {"ended": self._process.wait()}))

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; a dead worker is noticed by its end, not here."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass

    def end(self) -> None:
        """End it at once; its files are whole or absent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                assert pipe is not None
                pipe.close()
            except OSError:
                pass


class Processes:
    """Runs programs in worker processes, which live until the `with` block ends.

    Args:
        workers: how many; None takes one a usable core.
    """

    def __init__(self, workers: int | None) -> None:
        self._cores = usable_cores()
        self._count = workers or len(self._cores)
        self._workers: dict[int, _Worker] = {}
        self._heard: queue.Queue[Any] = queue.Queue()
        self._folder: Any = None
        self._hello: dict[str, Any] = {}

    def run(self, work: Work, programs: Sequence[int]) -> None:
        """See `Executor.run`."""
        self._refuse(work)
        waiting = deque(p for p in programs if not is_done(work.out, p))
        for program in programs:
            if program not in waiting:
                work.finished(program)
        if waiting:
            self._prepare(work)
            _Round(self, work, waiting).go()

    def _refuse(self, work: Work) -> None:
        backend = jax.default_backend()
        if backend != "cpu":
            raise ConfigError(
                f"Executor 'processes' shares out the cores of a CPU, but this machine computes on its {backend}; use "
                "executor 'local', which keeps it busy, or 'ray' for several machines."
            )
        can_be_handed_over(work.out)

    def _prepare(self, work: Work) -> None:
        """What a worker is told first."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="milkit-")
        data, bags = work.prepared.experiment.data, None
        if isinstance(data, InMemory):
            bags = Path(self._folder.name) / BAGS
            if not bags.exists():
                bags.write_bytes(bags_to_bytes(data))
        self._hello = {
            "out": str(work.out.resolve()),
            "bags": None if bags is None else str(bags),
            "bits": decides_bits(environment()),
            "jax": jax_settings(),
            "tracked": len(work.trackers) > 0,
        }

    def worker(self, place: int) -> _Worker:
        """The worker of a place, started if there is none."""
        if place not in self._workers:
            cores = shares(self._cores, self._count)[place]
            self._workers[place] = _Worker(place, self._hello, cores, self._heard)
        return self._workers[place]

    @property
    def places(self) -> range:
        """One a worker."""
        return range(self._count)

    def hear(self) -> tuple[_Worker, dict[str, Any]] | None:
        """What some worker said next, if any does soon."""
        try:
            return self._heard.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return None

    def lose(self, worker: _Worker) -> None:
        """A worker has ended or must."""
        worker.end()
        if self._workers.get(worker.place) is worker:
            del self._workers[worker.place]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: Any) -> None:
        """End all workers; those that ran a program were stopped before, with checkpoints."""
        for worker in list(self._workers.values()):
            self.lose(worker)
        if self._folder is not None:
            self._folder.cleanup()


def study_text(work: Work) -> str:
    """Says which state of a study a worker must have built: it changes when a study gets more programs."""
    return f"{work.prepared.programs} programs"


class _Round:
    """Some programs handed out to workers until all are done, one fails, or the study is to stop."""

    def __init__(self, pool: Processes, work: Work, waiting: "deque[int]") -> None:
        self._pool, self._work, self._waiting = pool, work, waiting
        self._busy: set[_Worker] = set()
        self._attempts: dict[int, int] = {}
        self._failures: dict[int, Exception] = {}
        self._stopping, self._where = False, ""

    def go(self) -> None:
        while self._busy or (self._waiting and not self._stopping):
            if not self._stopping and (self._failures or self._work.stop()):
                self._stop()
            if not self._stopping:
                self._hand_out()
            heard = self._pool.hear()
            if heard is not None and heard[0] in self._busy:
                self._take(*heard)
        if self._failures:
            raise self._failures[min(self._failures)]
        if self._stopping:
            raise KeyboardInterrupt(self._where)

    def _hand_out(self) -> None:
        idle = (place for place in self._pool.places if all(w.place != place for w in self._busy))
        for place in idle:
            if not self._waiting:
                return
            worker = self._pool.worker(place)
            worker.program = self._waiting.popleft()
            self._attempts[worker.program] = self._attempts.get(worker.program, 0) + 1
            worker.say({"program": worker.program, "study": study_text(self._work)})
            self._busy.add(worker)

    def _stop(self) -> None:
        """Let what runs write a checkpoint; a worker that is not there yet has nothing to keep."""
        self._stopping = True
        for worker in list(self._busy):
            if worker.ready:
                worker.say({"stop": True})
            else:
                self._drop(worker)

    def _take(self, worker: _Worker, message: dict[str, Any]) -> None:
        program = worker.program
        assert program is not None
        if "ready" in message:
            worker.ready = True
        elif "epoch" in message:
            for tracker in self._work.trackers:
                tracker.epoch(message["epoch"])
        elif "done" in message:
            self._busy.discard(worker)
            self._work.finished(program)
            if self._stopping:
                self._pool.lose(worker)
        else:
            self._drop(worker)
            self._ended(program, message)

    def _drop(self, worker: _Worker) -> None:
        self._busy.discard(worker)
        self._pool.lose(worker)

    def _ended(self, program: int, message: dict[str, Any]) -> None:
        """A worker that gave up or died; a dead one's program goes on from its checkpoint in another."""
        if "stopped" in message:
            self._where = self._where or message["stopped"]
        elif "error" in message:
            name, text = message["error"]
            self._failures[program] = error_of(name, text)
        elif "bug" in message:
            self._failures[program] = RuntimeError(f"a worker failed in program {program}:\n{message['bug']}")
        elif is_done(self._work.out, program):
            self._work.finished(program)
        elif self._attempts[program] < ATTEMPTS:
            self._waiting.appendleft(program)
        else:
            self._failures[program] = WorkerError(
                f"{ATTEMPTS} worker processes died while running program {program} (last by {_cause(message['ended'])})"
                ". If the machine ran out of memory, use fewer --workers: each holds the data once. Finished programs "
                "are kept; go on with --resume."
            )


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return signal.Signals(-status).name
