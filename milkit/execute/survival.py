"""`survival.json`: what each run's training part says about time, kept because no other file of a run holds it.

The report needs it for the IPCW metrics (the censoring of the training part), for the survival curves of a
discrete-time model (its time cuts), and to say where the cut-off between low and high risk comes from.
"""

from typing import Any

import numpy as np

from milkit.execute.prepare import Prepared
from milkit.metrics import TrainingPart
from milkit.task import Survival


def cuts_on_training(prepared: Prepared) -> bool:
    """Whether risk groups have to be cut at the median risk of training patients, for want of validation ones."""
    return isinstance(prepared.experiment.task, Survival) and not prepared.plan.has_validation


def survival_json(prepared: Prepared, task: Survival) -> dict[str, Any]:
    """What `survival.json` holds, one entry a split; patients count once, whatever their number of bags."""
    study = prepared.study
    splits = []
    for i, split in enumerate(prepared.plan.splits):
        # one row a patient; where labels belong to slides, one row a slide that differs
        targets = [tuple(target) for target in study.targets.values[split.train].tolist()]
        rows = dict.fromkeys(zip(study.patient[split.train].tolist(), targets, strict=True))
        time, event = np.array([target for _, target in rows], np.float64).T
        part = TrainingPart.of(time, event, np.asarray(prepared.loss[i].cuts, np.float64))
        splits.append(
            {
                "repeat": split.repeat,
                "fold": split.fold,
                "inner": split.inner,
                "runs": [run.name for run in prepared.runs if run.split == i],
                "patients": len(time),
                "events": int(event.sum()),
                "cutoff": "validation" if len(split.validation) else "train",
                **part.as_dict(),
            }
        )
    return {"time": task.time, "event": task.event, "splits": splits}
