"""A scaler fitted on more than the training part.

Features that were standardised over a set of slides have column means of 0 and SDs of 1 over exactly that set, to the
precision of their numbers; over any other set they are off by the sampling error. So the moments say over which set the
scaler was fitted: over the training part it is honest, over test slides too it is not. The same holds for ranges that
are exactly 0 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, Severity, finding, plural
from milkit.check.folds import Roles

EXACT = 2e-3
"""Median over columns of |mean| / SD and of |SD - 1|. Rounding to float16 leaves 1e-4, SDs by n - 1 differ by 1 / 2n,
means by summing in float32 by 1e-4."""
TIMES = 5.0
"""The training part must be off by so many times more than the set that the scaler was fitted on."""
COLUMNS = 0.9
"""Share of columns that must have the range."""


@dataclass(frozen=True)
class Fit:
    """How exactly a set of slides has mean 0 and SD 1: medians over columns."""

    mean: float
    sd: float

    @property
    def standard(self) -> bool:
        """Both, to the precision of the numbers."""
        return self.mean < EXACT and self.sd < EXACT

    @property
    def centred(self) -> bool:
        """Means of zero only, as a principal component analysis leaves them."""
        return self.mean < EXACT / 100

    @property
    def off(self) -> float:
        """The larger of both."""
        return max(self.mean, self.sd)


def look(e: Evidence) -> list[Finding]:
    """A scaler that saw test slides, or may have."""
    g = e.g
    if g is None or int(g.usable.sum()) < 8:
        return []
    return _standardised(e) or _ranged(e)


def _standardised(e: Evidence) -> list[Finding]:
    for what, weigh in (("instances", True), ("bag means", False)):
        every = _moments(e, np.ones(len(e.rows), bool), weigh)
        trains = [(s, _bags(e, s.role == "train"), _bags(e, s.role == "test")) for s in e.folds.splits]
        trains = [t for t in trains if t[1].any() and t[2].any()]
        if every is None or _each_bag_alike(e):
            return []
        if every.standard or every.centred:
            return _fitted_on_all(e, every, what, weigh, trains)
        exact = [(s.name, fit) for s, train, _ in trains if (fit := _moments(e, train, weigh)) and fit.standard]
        different = len({train.tobytes() for _, train, _ in trains})
        if exact and different > 1:
            return [_fitted_on_one(exact, what, different)]
        for s, train, test in trains:
            fit = _moments(e, train | test, weigh)
            if fit is not None and fit.standard and (own := _moments(e, train, weigh)) and own.off > TIMES * fit.off:
                return [_leak([s.name], fit, own, what, "training and test slides together", "error")]
    return []


def _fitted_on_all(
    e: Evidence, every: Fit, what: str, weigh: bool, trains: Sequence[tuple[Roles, np.ndarray, np.ndarray]]
) -> list[Finding]:
    own = [(s.name, fit) for s, train, _ in trains if (fit := _moments(e, train, weigh)) is not None]
    worse = [
        (name, fit)
        for name, fit in own
        if (fit.off if every.standard else fit.mean) > TIMES * (every.off if every.standard else every.mean)
    ]
    how = "the whole cohort" + ("" if every.standard else " (means only: centred, or principal components)")
    if worse:
        return [_leak([name for name, _ in worse], every, worse[0][1], what, how, "error")]
    if own:
        return []
    return [_leak([e.table.file], every, None, what, how, "warning")]


def _leak(where: Sequence[str], fit: Fit, own: Fit | None, what: str, over: str, severity: Severity) -> Finding:
    train = "" if own is None else f"; over training parts the mean is off by {own.mean:.2g} SD, the SD by {own.sd:.2g}"
    return finding(
        "scaler_leak",
        severity,
        where,
        f"features were scaled over {over}: column means of {what} are 0 to {fit.mean:.1g} SD, SDs 1 to {fit.sd:.1g}"
        f"{train}",
        "Store the features as the encoder gave them; milkit scales by each split's own training part."
        if severity == "error"
        else "Where folds are drawn, test slides will have had a part in the scaling.",
        "certain as to the set: no other has such moments; how much it matters depends on the cohort's size"
        if own is not None
        else "the moments are exact; no folds are known to compare with",
    )


def _fitted_on_one(exact: Sequence[tuple[str, Fit]], what: str, different: int) -> Finding:
    return finding(
        "scaler_leak",
        "error",
        [name for name, _ in exact],
        f"features were scaled over the training part of {exact[0][0]} (column means of {what} are 0 to "
        f"{exact[0][1].mean:.1g} SD), honest there only; there are {plural(different, 'training part')}",
        "Store the features as the encoder gave them; milkit scales by each split's own training part.",
        "certain as to the set: no other has such moments",
    )


def _bags(e: Evidence, rows: Bool[np.ndarray, " R"]) -> Bool[np.ndarray, " B"]:
    return rows[e.rows]


def _moments(e: Evidence, bags: Bool[np.ndarray, " B"], weigh: bool) -> Fit | None:
    """How near to mean 0 and SD 1 a set of slides is, over instances or over bag means."""
    g = e.g
    assert g is not None
    use = bags & g.usable
    if use.sum() < 4:
        return None
    if weigh:
        n = g.finite[use][:, None].astype(np.float64)
        mean, square = (n * g.mean[use]).sum(0) / n.sum(), (n * g.square[use]).sum(0) / n.sum()
        variance = np.maximum(square - mean**2, 0)
    else:
        mean, variance = g.mean[use].mean(0), g.mean[use].var(0)
    moving = variance > 1e-12 * np.maximum(mean**2, 1e-30)
    if not moving.any():
        return None
    sd = np.sqrt(variance[moving])
    return Fit(float(np.median(np.abs(mean[moving]) / sd)), float(np.median(np.abs(sd - 1))))


def _each_bag_alike(e: Evidence) -> bool:
    """Whether every bag has been centred by itself, which tells nothing of other bags."""
    assert e.g is not None
    use = e.g.usable & (e.g.finite > 1)
    moving = (e.g.high[use] > e.g.low[use]).any(0) if use.any() else np.zeros(0, bool)
    return bool(moving.any()) and float(np.median(np.abs(e.g.mean[use][:, moving]))) < EXACT


def _ranged(e: Evidence) -> list[Finding]:
    """Columns scaled to exactly 0 to 1 (or -1 to 1) over all slides."""
    g = e.g
    assert g is not None
    use = g.usable
    low, high = g.low[use].min(0), g.high[use].max(0)
    moving = high > low
    if not moving.any():
        return []
    two = _two_valued(g.mean[use][:, moving], g.square[use][:, moving], g.finite[use], low[moving], high[moving])
    ends = np.where(np.abs(low[moving]) < 1e-6, 0.0, -1.0)
    exact = (np.abs(low[moving] - ends) < 1e-6) & (np.abs(high[moving] - 1) < 1e-3) & ~two
    if exact.sum() < COLUMNS * max(1, (~two).sum()) or exact.sum() < 3:
        return []
    short = []
    for s in e.folds.splits:
        train, test = _bags(e, s.role == "train") & use, _bags(e, s.role == "test") & use
        if train.any() and test.any():
            inside = (g.high[train].max(0) < high) | (g.low[train].min(0) > low)
            if (inside[moving] & exact).any():
                short.append(
                    f"{s.name} ({int((inside[moving] & exact).sum())} columns reach their ends in others only)"
                )
    if not short and e.folds.splits:
        return []
    return [
        finding(
            "scaler_leak",
            "error" if short else "warning",
            short or [e.table.file],
            f"{int(exact.sum())} columns were scaled to exactly {ends[0]:g} to 1 over the whole cohort",
            "Store the features as the encoder gave them; milkit scales by each split's own training part.",
            "likely: ends that only test slides reach can come from a scaler that saw them only"
            if short
            else "the ranges are exact; no folds are known to compare with",
        )
    ]


def _two_valued(
    mean: Float[np.ndarray, "B k"], square: Float[np.ndarray, "B k"], n: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Bool[np.ndarray, " k"]:
    """Columns of two values, whose range says nothing."""
    total, squares = (n[:, None] * mean).sum(0), (n[:, None] * square).sum(0)
    inside = -squares + (low + high).astype(float) * total - n.sum() * low.astype(float) * high
    return np.abs(inside) <= 1e-9 * n.sum() * np.maximum(low.astype(float) ** 2, high.astype(float) ** 2)
