"""Decision curves: net benefit of a model against treating all and treating none, over threshold probabilities."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.metrics import bootstrap_blocks, net_benefit, net_benefit_of_treating_all
from milkit.metrics.decision import THRESHOLDS
from milkit.metrics.intervals import SEED
from milkit.report.reliability import DRAWS

COLUMNS = ("class", "threshold", "net_benefit", "low", "high", "treat_all", "treat_none", "net_benefit_scaled")


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit a patient at each threshold probability; treating none has 0.

    Attributes:
        thresholds: [t].
        model: acting on the model's probability, [t].
        low: lower bound of its 95 % interval over patients, [t].
        high: upper bound, [t].
        treat_all: [t].
        scaled: acting on the probability after temperature scaling, [t]; None without temperatures.
        prevalence: share of positives.
    """

    thresholds: Float[np.ndarray, "t"]
    model: Float[np.ndarray, "t"]
    low: Float[np.ndarray, "t"]
    high: Float[np.ndarray, "t"]
    treat_all: Float[np.ndarray, "t"]
    scaled: Float[np.ndarray, "t"] | None
    prevalence: float

    @property
    def useful(self) -> Bool[np.ndarray, "t"]:
        """Where the model is worth more than both treating all and treating none."""
        return self.model > np.maximum(self.treat_all, 0.0) + 1e-12


def decision_curve(
    positive: Bool[np.ndarray, "n"],
    probability: Float[np.ndarray, "n"],
    patient: Int[np.ndarray, "n"],
    unit: Int[np.ndarray, "p"] | None = None,
    thresholds: Float[np.ndarray, "t"] = THRESHOLDS,
    draws: int = DRAWS,
) -> DecisionCurve:
    """The curve of one class; every patient counts once, as the mean over the runs that tested it.

    Args:
        positive: truth of each row.
        probability: of the class.
        patient: number of each row's patient, 0 to p - 1; a patient may have no row.
        unit: number of each patient's resampling unit; the patient itself if None.
        thresholds: threshold probabilities, from 0 to below 1.
        draws: bootstrap draws of patients (or of their sites) with all their rows.

    References:
        Vickers & Elkin (2006), Decision curve analysis; bootstrap: Vickers et al. (2008), Extensions to decision
        curve analysis.
    """
    count = int(patient.max()) + 1
    unit = np.arange(count) if unit is None else unit
    weight = 1.0 / np.bincount(patient)[patient]
    truth = positive.astype(np.int64)
    odds = thresholds / (1.0 - thresholds)
    treated = probability[:, None] >= thresholds
    gain = weight[:, None] * np.where(positive[:, None], treated, -odds * treated)
    own = np.zeros((len(unit), len(thresholds)))
    np.add.at(own, patient, gain)
    there = np.bincount(patient, weight, minlength=len(unit))  # 1, or 0 for a patient without a row
    drawn = []
    for block in bootstrap_blocks(int(unit.max()) + 1, draws, SEED):
        counts = block[:, unit]
        size = (counts @ there)[:, None]
        drawn.append(np.divide(counts @ own, size, out=np.full((len(counts), len(odds)), np.nan), where=size > 0))
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    return DecisionCurve(
        thresholds=thresholds,
        model=net_benefit(truth, probability, thresholds, weight),
        low=low,
        high=high,
        treat_all=net_benefit_of_treating_all(truth, thresholds, weight),
        scaled=None,
        prevalence=float((weight * truth).sum() / weight.sum()),
    )


def decision_csv(curves: Mapping[str, DecisionCurve]) -> str:
    """The numbers of the drawing, one row a class and threshold, at full precision."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name, curve in curves.items():
        scaled = [""] * len(curve.thresholds) if curve.scaled is None else curve.scaled.tolist()
        rows = (curve.thresholds, curve.model, curve.low, curve.high, curve.treat_all)
        for *numbers, last in zip(*(r.tolist() for r in rows), scaled, strict=True):
            table.writerow([name, *numbers, 0.0, last])
    return text.getvalue()
