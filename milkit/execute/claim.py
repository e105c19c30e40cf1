"""A program is run by one process at a time: whoever runs it holds a file lock in its folder.

The operating system releases the lock when the process ends, however it ends, so no lock is ever stale.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from milkit.errors import RunFolderError

CLAIM = ".claim"
LOOK_SECONDS = 0.05


@contextlib.contextmanager
def claimed(folder: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a program's folder (made if need be) against other processes; waits while another one runs it.

    Args:
        folder: `programs/NNNN` of a run folder.
        stop: asked while waiting; True ends the wait.

    Raises:
        RunFolderError: the folder cannot be made or written to.
        KeyboardInterrupt: `stop` said so before the program was free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / CLAIM, "a")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made or written to ({error.strerror}).") from error
    with handle:
        while not _taken(handle):
            if stop():
                raise KeyboardInterrupt
            time.sleep(LOOK_SECONDS)
        yield


def _taken(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
