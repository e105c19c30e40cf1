"""What a search leaves to read: every trial's validation figures, and what was chosen. Never a test figure."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from milkit import config
from milkit.execute.prepare import Prepared
from milkit.execute.search.choose import Found
from milkit.execute.search.family import Family
from milkit.execute.search.trials import Place
from milkit.search import space_of


def cell(value: Any) -> Any:
    """A value as it stands in a table: plain, or as JSON."""
    plain = config.to_json(value)
    return json.dumps(plain) if isinstance(plain, (list, dict)) else plain


def trials_csv(
    base: Prepared,
    found: Mapping[Place, Sequence[Found]],
    families: Sequence[Family],
    chosen: Mapping[Place, int] | None = None,
) -> str:
    """One row a trial, fold and seed; `chosen` is yes, no, or empty while nothing is chosen yet."""
    search: Any = base.experiment.search
    fields = [name for name, _ in space_of(search)]
    criterion = base.experiment.train.select
    figures = ["validation_loss"] + ([] if criterion == "loss" else [f"validation_{criterion}"])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    places = ("trial", "repeat", "fold", "inner", "seed")
    table.writerow([*places, *fields, "selected_epoch", *figures, "status", "chosen"])
    values = _values(families)
    for place, trials in found.items():
        for trial in trials:
            keep = "" if chosen is None else "yes" if chosen.get(place) == trial.trial else "no"
            for row in trial.rows:
                own = {"validation_loss": row["best_validation_loss"]}
                own[f"validation_{criterion}"] = row["best_validation_loss" if criterion == "loss" else _METRIC]
                judged = row["selected_epoch"] > 0  # a run may fail before its first epoch is judged
                table.writerow(
                    [
                        *(row[name] for name in places),
                        *(cell(values[place, trial.trial][name]) for name in fields),
                        row["selected_epoch"] if judged else "",
                        *(own[name] if judged else "" for name in figures),
                        row["status"],
                        keep,
                    ]
                )
    return text.getvalue()


_METRIC = "best_validation_metric"


def _values(families: Sequence[Family]) -> dict[tuple[Place, int], dict[str, Any]]:
    return {key: c.trial.values for family in families for key, c in (family.candidates or {}).items()}


def search_json(
    base: Prepared,
    families: Sequence[Family],
    found: Mapping[Place, Sequence[Found]],
    chosen: Mapping[str, Mapping[Place, int]],
) -> dict[str, Any]:
    """How many configurations were tried, and what each fold chose by which validation figures."""
    search: Any = base.experiment.search
    values = _values(families)
    whole = [
        {
            "repeat": place[0],
            "fold": place[1],
            "trial": trial,
            "values": {name: config.to_json(v) for name, v in values[place, trial].items()},
            "validation_criterion": _figure(base, _of(found[place], trial)),
            "validation_loss": _of(found[place], trial).loss,
        }
        for place, trial in chosen["validation"].items()
    ]
    made = {
        "kind": type(search).__name__,
        "criterion": base.experiment.train.select,
        "tried": search.trials,
        "shared": type(search).__name__ != "Tpe",
        "trainings": sum(len(t.rows) for trials in found.values() for t in trials),
        "failed": sum(t.failed for trials in found.values() for t in trials),
        "space": {name: config.to_json(of) for name, of in space_of(search)},
        "compiled": len({(f.experiment.model, f.experiment.train) for f in families}),
        "chosen": whole,
    }
    if "optimistic" in chosen:
        made["optimistic"] = [
            {"repeat": place[0], "fold": place[1], "trial": trial} for place, trial in chosen["optimistic"].items()
        ]
    return made


def _of(trials: Sequence[Found], number: int) -> Found:
    return next(t for t in trials if t.trial == number)


def _figure(base: Prepared, found: Found) -> float | None:
    """The criterion as a reader knows it; None where it was undefined (a part of one class)."""
    if base.experiment.train.select == "loss":
        return found.loss
    return found.metric if found.metric > float("-inf") else None
