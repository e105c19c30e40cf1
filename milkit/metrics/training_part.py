"""What a run's training part says about time: censoring, length of follow-up, and the cuts of its time bins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from milkit.metrics.censored import Column
from milkit.metrics.ipcw import Censoring, censoring, survival_before


@dataclass(frozen=True, eq=False)
class TrainingPart:
    """Estimates from training patients, with which test patients are measured.

    Attributes:
        censoring: of the training patients.
        follow_up: their longest time; nothing is known of censoring beyond, so the IPCW C-index ends there.
        cuts: inner bounds of the time bins of a discrete-time model, ascending, [k]; [0] without bins.
        everybody: Kaplan-Meier survival of the training patients just before each cut, [k].
    """

    censoring: Censoring
    follow_up: float
    cuts: Float[np.ndarray, "k"]
    everybody: Float[np.ndarray, "k"]

    @staticmethod
    def of(time: Column, event: Column, cuts: Float[np.ndarray, "k"]) -> "TrainingPart":
        """From the times and events of the training patients, and the cuts that were made of them.

        Raises:
            DataError: no patient, or a time or event that cannot be.
        """
        everybody = survival_before(time, event, cuts)
        return TrainingPart(censoring(time, event), float(np.max(time)), cuts, everybody)

    @property
    def before_cuts(self) -> Float[np.ndarray, "k"]:
        """The last instant of each bin: a time equal to a cut belongs to the later bin, so it is still to come."""
        return np.nextafter(self.cuts, -np.inf)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it; only times at which the censoring estimate changes are kept."""
        free = self.censoring.free
        kept = np.flatnonzero(np.diff(free, prepend=1.0) != 0)
        return {
            "follow_up": self.follow_up,
            "cuts": self.cuts.tolist(),
            "everybody": self.everybody.tolist(),
            "censoring": {"time": self.censoring.time[kept].tolist(), "free": free[kept].tolist()},
        }

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> "TrainingPart":
        """The inverse of `as_dict`."""
        free = entry["censoring"]
        return TrainingPart(
            Censoring(np.array(free["time"], np.float64), np.array(free["free"], np.float64)),
            float(entry["follow_up"]),
            np.array(entry["cuts"], np.float64),
            np.array(entry["everybody"], np.float64),
        )


def survival_at_cuts(logits: Float[np.ndarray, "n bins"]) -> Float[np.ndarray, "n cuts"]:
    """Survival of a discrete-time model at the end of each bin but the last, which has no end: prod (1 - hazard).

    Args:
        logits: of the hazard of each bin.
    """
    # tanh form: no overflow for large logits
    stays = 0.5 * (1.0 - np.tanh(0.5 * np.asarray(logits, np.float64)))
    return np.cumprod(stays, 1)[:, :-1]
