"""Files that are whole or absent."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milkit.errors import RunFolderError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Any]:
    """A text file to write to, under a temporary name; takes its own name when the block ends well.

    Raises:
        RunFolderError: the disk is full or refuses; what stood at `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be written ({error.strerror}); what stood there is unchanged."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
