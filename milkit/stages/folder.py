"""A folder of stages, each of which runs once: `stages.json` says what was asked for and which stages have finished."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkit.errors import RunFolderError
from milkit.execute.folder import locked, read_json, write_json

RECORD = "stages.json"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class StageFolder:
    """The folder of a staged study, held against a second writer while it is open.

    Attributes:
        path: where.
        settings: what was asked for, JSON-able.
        finished: what each finished stage said, by name, in the order they ran.
        tell: progress in words.
    """

    path: Path
    settings: Mapping[str, Any]
    finished: dict[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = print

    def stage(self, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Run a stage, unless it has finished before.

        Args:
            name: of the stage and of its folder.
            work: does it, given the stage's folder (what an interrupted attempt left may be in it), and returns what
                it has to say: JSON-able, and the same for the same inputs.

        Returns:
            What it said.
        """
        if name in self.finished:
            self.tell(f"{name}: finished before")
        else:
            self.tell(f"{name}: begins")
            said = json.loads(json.dumps(work(self.path / name), allow_nan=False))
            self.finished[name] = said
            write_json(self.path / RECORD, self._record())
            self.tell(f"{name}: {', '.join(f'{k} {v}' for k, v in said.items() if not isinstance(v, dict))}")
        found: dict[str, Any] = self.finished[name]
        return found

    def _record(self) -> dict[str, Any]:
        return {"format": FORMAT, "settings": self.settings, "finished": self.finished}


@contextlib.contextmanager
def stages(path: Path, settings: Mapping[str, Any], tell: Callable[[str], None] = print) -> Iterator[StageFolder]:
    """Make a folder of stages, or take up an interrupted one.

    Raises:
        RunFolderError: it holds something else, or a study with other settings; another process is writing to it.
    """
    with locked(path):
        folder = StageFolder(path, json.loads(json.dumps(settings)), tell=tell)
        file = path / RECORD
        if file.exists():
            _take_up(folder, read_json(file))
        elif any(p.name != ".lock" for p in path.iterdir()):
            raise RunFolderError(f"{path} is not empty and holds no staged study (no {RECORD}); give another folder.")
        else:
            write_json(file, folder._record())
        yield folder


def _take_up(folder: StageFolder, record: Any) -> None:
    if not isinstance(record, dict) or not {"settings", "finished"} <= record.keys():
        raise RunFolderError(f"{folder.path / RECORD} was not written by a staged study; give another folder.")
    before, now = record["settings"], folder.settings
    differing = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differing:
        raise RunFolderError(
            f"{folder.path} was started with other settings ({', '.join(differing)} differ from its {RECORD}); go on "
            "with the same ones, or give another folder."
        )
    folder.finished.update(record["finished"])
