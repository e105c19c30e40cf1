"""JSON lines that grow while others read them: appended whole, read up to the last whole line."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line in one write, so that no reader and no second writer sees half of it.

    A disk that is full stops no study here: what a study needs is written elsewhere, and says so.
    """
    line = json.dumps(row, allow_nan=False) + "\n"
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks; then an empty line may slip in, no more
                fcntl.flock(handle, fcntl.LOCK_EX)  # or the end of a line that is being written looks like a cut one
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # a process was killed in the middle of its last line
                line = "\n" + line
            os.write(handle, line.encode())
        finally:
            os.close(handle)


class Tail:
    """The lines of a file, read once each, as they come.

    Args:
        path: the file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines since the last call; what is no JSON object (a line cut by a kill) is passed over."""
        try:
            with open(self._path, "rb") as f:
                f.seek(self._read)
                data = f.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._read += end
        rows = []
        for line in data[:end].splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
        return rows
