"""Following a study elsewhere while it runs: the lines of `history.jsonl`, and wandb when asked.

Nothing here ever sees a test label: epochs carry training loss and validation criteria only.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from milkit.errors import ConfigError


@runtime_checkable
class Tracker(Protocol):
    """What a study tells while it runs."""

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """One epoch of a program: a row a run."""

    def close(self) -> None:
        """The study ended, however it ended."""


def history_lines(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines; what is not finite becomes null, which JSON can hold."""
    clean = [{k: _jsonable(v) for k, v in row.items()} for row in rows]
    return "".join(json.dumps(row) + "\n" for row in clean)


def _jsonable(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


class WandbTracker:
    """Epoch summaries to Weights & Biases: offline unless `WANDB_MODE` asks otherwise.

    Args:
        folder: run folder; wandb's own files go to `folder/wandb`.
        name: of the experiment.
        settings: the resolved configuration.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("--track wandb needs the wandb package; install it with `pip install wandb`.") from error
        # wandb writes below its `dir` and puts names of the machine's user in its files: keep all in the run folder
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(
            project="milkit",
            name=name,
            dir=str(folder),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", disable_git=True, save_code=False),
        )
        self._step = 0

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """Log median and quartiles over the runs of a program."""
        summary: dict[str, float] = {}
        for name in sorted({k for row in rows for k in row if k == "train_loss" or k.startswith("validation_")}):
            values = np.array([row[name] for row in rows if row.get(name) is not None], float)
            values = values[np.isfinite(values)]
            if len(values):
                low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
                summary |= {f"{name}/q25": low, f"{name}/median": middle, f"{name}/q75": high}
        first = rows[0]
        summary |= {"epoch": first["epoch"], "program": first["program"], "runs": len(rows)}
        self._run.log(summary, step=self._step)
        self._step += 1

    def close(self) -> None:
        """Finish the wandb run."""
        self._run.finish()


@contextmanager
def tracking(trackers: list[Tracker]) -> Iterator[None]:
    """Close everything, whatever happens inside."""
    try:
        yield
    finally:
        for tracker in trackers:
            tracker.close()
