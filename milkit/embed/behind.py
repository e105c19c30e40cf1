"""Writing behind the encoder's back: it goes on with the next block while one is put on the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Behind:
    """One piece of work at a time in a thread; what it raises is raised when the next is given, or waited for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._under_way: Future[Any] | None = None

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Wait for the work before, and begin this."""
        self.wait()
        self._under_way = self._pool.submit(work, *arguments)

    def wait(self) -> None:
        """Wait until nothing is under way."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait, whatever came of it, and end the thread."""
        self._pool.shutdown()
        self._under_way = None
