"""Temperature scaling: one number, fitted on validation patients, that makes probabilities more or less sure.

It divides the logits. With one logit it moves no probability across 0.5, with several it keeps the most probable
class; so it changes how sure a model is, never whom it calls positive at 0.5, nor (with one bag a patient) AUROC.
"""

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.optimize import minimize_scalar

from milkit.metrics.draws import ONE_CLASS, Undefined, not_finite
from milkit.metrics.pooling import Aggregate, pool
from milkit.task import Binary, MultiClass, probabilities

LOWEST, HIGHEST = 0.1, 10.0
"""Bounds of a temperature: beyond them validation patients say no more than that a model is always, or never, right."""
FEWEST = 5
"""Patients below which no temperature is fitted."""
SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are taken for at least this much in a logarithm, as scikit-learn's log loss does."""

SEPARATED = "every validation patient is on the right side, so that nothing says how sure to be: left at 1"


class Temperature(float):
    """A temperature, with what should be known of it."""

    note: str

    def __new__(cls, value: float, note: str = "") -> "Temperature":
        """The number and its note, "" for none."""
        made = super().__new__(cls, value)
        made.note = note
        return made


def fit_temperature(
    logits: Float[np.ndarray, "n"] | Float[np.ndarray, "n c"],
    target: Num[np.ndarray, "n"],
    patient: Int[np.ndarray, "n"] | None = None,
    aggregate: Aggregate = "mean",
) -> float:
    """The temperature with the least mean negative log-likelihood of validation patients.

    Bags of one patient are pooled after scaling, as they are wherever scores of patients are formed; so what is fitted
    is the likelihood of the patients' own probabilities. Several labels: fit each label by itself.

    Args:
        logits: of validation bags: [n] of the positive class (sigmoid), or [n, c] of c classes (softmax).
        target: class index of each bag.
        patient: number of each bag's patient, 0 to p - 1, all of them present; each bag by itself if None.
        aggregate: how the probabilities of a patient's bags become one.

    Returns:
        A `Temperature` between `LOWEST` and `HIGHEST`; 1 where each bag's own class already has the largest
        probability (the likelihood would grow without end as the temperature falls); its `note` says if one of these
        bounds was met. An `Undefined` with fewer than `FEWEST` patients, one class, or logits that are not finite.

    References:
        Guo et al. (2017), On calibration of modern neural networks, section 4.2.
    """
    if reason := not_finite(logits):
        return Undefined(reason)
    number = np.arange(len(logits)) if patient is None else patient
    count = int(number.max()) + 1 if len(number) else 0
    y = np.zeros(count, np.int64)
    y[number] = target
    if count < FEWEST:
        return Undefined(f"{count} validation patients; a temperature needs at least {FEWEST}")
    if len(np.unique(y)) < 2:
        return Undefined(ONE_CLASS)

    def loss(log_temperature: float) -> float:
        return _nll(logits / np.exp(log_temperature), y, number, aggregate)

    if _separated(logits, y[number]):
        return Temperature(1.0, SEPARATED)
    # pooled likelihoods may have several valleys: look everywhere before going down
    grid = np.linspace(np.log(LOWEST), np.log(HIGHEST), 33)
    best = int(np.argmin([loss(g) for g in grid]))
    if best in (0, len(grid) - 1) and loss(grid[best]) <= loss(grid[best] + (1e-4 if best == 0 else -1e-4)):
        return Temperature(float(np.exp(grid[best])), f"at the bound {np.exp(grid[best]):g}")
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-9})
    return Temperature(float(np.exp(found.x)))


def _nll(logits: np.ndarray, y: np.ndarray, number: np.ndarray, aggregate: Aggregate) -> float:
    score = class_probabilities(logits)
    kind = "Binary" if logits.ndim == 1 else "MultiClass"
    pooled = pool(kind, score, number, len(y), aggregate)
    return float(-np.log(np.clip(pooled[np.arange(len(y)), y], SMALLEST, 1.0)).mean())


def class_probabilities(
    logits: Float[np.ndarray, "n"] | Float[np.ndarray, "n c"],
) -> Float[np.ndarray, "n s"]:
    """Probability of each class: of both for one logit."""
    if logits.ndim > 1:
        return probabilities(MultiClass(), logits)
    # both by their own sigmoid: 1 - p would be 0 long before the logit says so
    return np.concatenate([probabilities(Binary(), -logits[:, None]), probabilities(Binary(), logits[:, None])], 1)


def _separated(logits: np.ndarray, y: np.ndarray) -> bool:
    """Whether every bag's own class has the largest logit."""
    if logits.ndim == 1:
        return bool((np.where(y == 1, logits, -logits) > 0).all())
    own = logits[np.arange(len(y)), y]
    others = np.where(np.arange(logits.shape[1]) == y[:, None], -np.inf, logits).max(1)
    return bool((own > others).all())
