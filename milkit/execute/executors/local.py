"""Programs one after the other in this process: the default, and the measure of the others."""

from collections.abc import Sequence
from typing import Any

from milkit.execute.executors.base import Work, run_once


class Local:
    """Runs programs in this process."""

    def run(self, work: Work, programs: Sequence[int]) -> None:
        """See `Executor.run`."""
        for program in programs:
            if work.stop():
                raise KeyboardInterrupt
            run_once(work.prepared, program, work.out, list(work.trackers), work.stop)
            work.finished(program)

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing is held."""
