"""The run folder: made once, locked against a second writer, every file whole or absent.

config.json environment.json cohort.json folds.csv runs.csv history.jsonl predictions.csv
survival.json top_instances.csv attention.json results.json report.md report.html table.tex figures/ weights/
programs/NNN/     what each finished program left; the files above are assembled from these
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milkit.errors import RunFolderError


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`; a full disk leaves the old file as it was and no half-written one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunFolderError(
            f"{path} could not be written ({error.strerror}); what stood there is unchanged. Programs that had "
            "finished are kept: free some space and go on with --resume."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted indentation, so that two folders can be compared line by line."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file of a run folder.

    Raises:
        RunFolderError: it is not there or cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is not there; is {path.parent} a run folder that milkit wrote?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read ({getattr(error, 'strerror', 'not text')}).") from error
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is not readable JSON (line {error.lineno}): {error.msg}.") from error


_OURS = (
    *("config.json", "environment.json", "cohort.json", "folds.csv", "runs.csv", "history.jsonl", "predictions.csv"),
    *("top_instances.csv", "attention.json", "results.json", "report.md", "report.html", "table.tex", "table.csv"),
    *("figures", "weights", "programs", "source", "survival.json", "columns.csv", "progress.jsonl"),
    *("few_labels", "label_curve.json", "label_curve.csv", "search", "trials.csv", "search.json"),
)
_FOLDERS = ("programs", "weights", "source", "figures", "few_labels", "search")
_GONE = ".gone"
_HIDDEN = (".lock", ".begin", _GONE)
_BEFORE_CONFIG = (
    *("programs", "weights", "environment.json", "cohort.json", "columns.csv", "folds.csv", "survival.json", "source"),
    "few_labels",
)


def open_folder(out: Path, settings: dict[str, Any], *, resume: bool, force: bool) -> bool:
    """Make the folder, or take up an interrupted one.

    Args:
        out: the run folder.
        settings: what the caller will write to `config.json`; a folder is resumed by the same settings only.
        resume: go on where an interrupted study stopped.
        force: throw away what is there (only if it is a run folder).

    Returns:
        True if there is something to resume.

    Raises:
        RunFolderError: it exists and neither option was given, it is not a run folder, or it holds another experiment.
    """
    old = out / "config.json"
    if not old.exists():
        sweep(out)  # nobody writes anything else into a folder without config.json
    if any(p.name not in _HIDDEN for p in out.iterdir()):
        # a folder that was killed before its config.json holds nothing but what a start writes
        started = {p.name for p in out.iterdir()} <= {*_HIDDEN, *_BEFORE_CONFIG}
        if old.exists() and "experiment" not in read_json(old):
            raise RunFolderError(f"{old} was not written by milkit, so {out} is no run folder; give another --out.")
        if not old.exists() and not started:
            raise RunFolderError(f"{out} is not empty and is no run folder (no config.json); give another --out.")
        if force or started:
            _empty(out)
        elif not resume:
            raise RunFolderError(
                f"{out} already holds a run; go on with it by --resume, replace it by --force, or give another --out."
            )
        else:
            _same_settings(old, settings)
            _make_folders(out)  # a --force that was killed may have taken them away
            return True
    _make_folders(out)
    return False


def _make_folders(out: Path) -> None:
    (out / "programs").mkdir(exist_ok=True)
    (out / "weights").mkdir(exist_ok=True)


def sweep(out: Path) -> None:
    """Take away what killed processes left half-written; nobody else may be writing to the folder."""
    shutil.rmtree(out / _GONE, ignore_errors=True)
    own = "|".join(map(re.escape, _OURS))
    here = re.compile(rf"\.?({own})\.(\d+\.)?tmp|\.({own})\.\w+\.part")
    inside = [p for name in _FOLDERS for p in (out / name).rglob("*.tmp")]
    for path in [*(p for p in out.iterdir() if here.fullmatch(p.name)), *inside]:
        path.unlink(missing_ok=True)


def _empty(out: Path) -> None:
    """Take away what milkit wrote, and nothing else that lies there."""
    if (out / "programs").exists():
        shutil.rmtree(out / _GONE, ignore_errors=True)
        (out / "programs").rename(out / _GONE)  # at once: a part of it must not be taken for a finished program
    # config.json late and environment.json last: a folder without the one is a start, and neither lacks the other
    late = ("config.json", "environment.json")
    names = [name for name in _OURS if name not in late]
    for path in (out / name for name in (*names, *late, _GONE) if (out / name).exists()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _same_settings(old: Path, settings: dict[str, Any]) -> None:
    before = _flat(read_json(old))
    now = _flat(json.loads(json.dumps(settings)))
    own_model = "source.model" in now
    differing = sorted(
        k for k in before.keys() | now.keys()
        if before.get(k) != now.get(k)
        # the width that was chosen stands beside the one that was asked for, and a replay asks for it
        and k not in ("digest", "experiment.train.width", "experiment.train.memory", "source.file")
        # the settings say all of an experiment, unless it has a model of one's own
        and (own_model or not k.startswith("source.files"))
    )  # fmt: skip
    if differing:
        shown = "; ".join(f"{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in differing[:8])
        raise RunFolderError(
            f"{old.parent} was started with other settings ({shown}); resume it with the same ones, or give another "
            "--out."
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}".strip(".")).items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{path}[{i}]").items()}
    return {path: value}


@contextlib.contextmanager
def locked(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Make the folder and hold it against a second writer; the lock goes with the process, however it ends.

    Args:
        out: the run folder.
        shared: share it with others that say so too, each of which writes other programs.

    Raises:
        RunFolderError: it cannot be made or written to, or another process is writing to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        why = "a file stands there" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise RunFolderError(f"{out} cannot be made or written to ({why}); give another folder.") from error
    with lock as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"Another process is writing to {out}; wait for it, or give another --out.") from error
        yield


@contextlib.contextmanager
def beginning(out: Path) -> Iterator[None]:
    """Among processes that share a folder, one at a time makes it or reads what another made; waits its turn."""
    with open(out / ".begin", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
