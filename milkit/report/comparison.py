"""Models on the same patients: paired differences, their intervals and tests, and a verdict in words.

`docs/comparing.md` says which test is used when and what it cannot tell.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import ConfigError, DataError
from milkit.metrics import Metric, metrics_of, percentile_interval, why
from milkit.metrics.comparison import bootstrap_test, corrected_t_test, delong_test, mcnemar_test
from milkit.metrics.delong import delong
from milkit.metrics.intervals import DRAWS, SEED
from milkit.metrics.verdict import ALPHA, MARGIN, Verdict, Word, holm, t_verdict, word
from milkit.report.comparison_maps import NAMES as MAP_METRICS
from milkit.report.comparison_maps import MapReader, compare_maps, map_marks, maps_of_pair
from milkit.report.contestants import Split, read_contestants
from milkit.report.estimate import Estimates, RunPart, Tested, estimates
from milkit.report.same_patients import Entrant, Field, field
from milkit.report.words import lower_is_better

CORRECTED_T = "corrected resampled t"
BOOTSTRAP = "paired bootstrap"
DELONG = "DeLong"
MCNEMAR = "McNemar, exact"
ALL = "all"
POOLED = "pooled over the folds of each repeat and seed, then averaged"
FIXED_MODELS = "the bootstrap takes the models as they are: it does not see what training on other splits would change"
MAIN: Mapping[str, tuple[str, ...]] = {
    "Binary": ("auroc", "accuracy", "balanced_accuracy", "brier"),
    "MultiClass": ("auroc", "accuracy", "balanced_accuracy", "brier"),
    "MultiLabel": ("auroc", "subset_accuracy", "brier"),
    "Regression": ("mae", "r2", "spearman"),
    "Survival": ("c_index", "c_index_ipcw"),
}
"""What is compared when nothing is asked for; the more is compared, the more Holm's correction costs."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One metric of two runs.

    Attributes:
        metric: its name.
        first, second: names of the runs; every difference is first minus second.
        values: of both, on the splits that were compared.
        found: difference, interval, p and detectable difference, not corrected for several comparisons.
        p_holm: corrected for all comparisons of the call; NaN for no test.
        verdict: after the correction.
        better: name of the better run where the verdict is `different`, else "".
        margin: the smallest difference that matters, on the metric's scale.
        own_scale: the metric has no upper end, so that it shares no axis and its margin is relative.
        test: how p was found.
        sampling: bootstrap of patients or sites, both runs in the same draws; None for none.
        splits: repeat-folds that were compared.
        undefined_splits: left out, because one of the two has no value there.
        marks: what the numbers must be read with.
        notes: likewise, in sentences.
    """

    metric: str
    first: str
    second: str
    values: tuple[float, float]
    found: Verdict
    p_holm: float
    verdict: Word
    better: str
    margin: float
    own_scale: bool
    test: str
    sampling: tuple[float, float] | None
    splits: int
    undefined_splits: int
    marks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def pair(self) -> str:
        """`A vs B`."""
        return f"{self.first} vs {self.second}"

    def json(self) -> dict[str, Any]:
        """As `milkit compare --json` prints it; what is undefined is None."""
        f = self.found
        return {
            "difference": _number(f.difference),
            "low": _number(f.low),
            "high": _number(f.high),
            "p": _number(f.p),
            "verdict": self.verdict,
            "p_holm": _number(self.p_holm),
            "detectable": _number(f.detectable),
            "margin": self.margin,
            "test": self.test,
            "sampling": None if self.sampling is None else list(self.sampling),
            "better": self.better or None,
            "first": self.first,
            "second": self.second,
            "values": [_number(v) for v in self.values],
            "splits": self.splits,
            "undefined_splits": self.undefined_splits,
            "marks": list(self.marks),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """All that was compared in one call.

    Attributes:
        field: the runs.
        rows: pair by pair, metric by metric.
        alpha: two-sided error allowed over all of them.
        margin: as asked.
        draws: bootstrap draws.
    """

    field: Field
    rows: tuple[Compared, ...]
    alpha: float
    margin: float
    draws: int

    def json(self) -> dict[str, Any]:
        """Metrics by name for two runs; for more, `A vs B` by name, each holding its metrics."""
        pairs: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            pairs.setdefault(row.pair, {})[row.metric] = row.json()
        return next(iter(pairs.values())) if len(self.field.entrants) == 2 else pairs


def compare(
    runs: Sequence[Path | str],
    *,
    metrics: Sequence[str] = (),
    selections: Sequence[str] = (),
    reference: Path | str | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Comparison:
    """Compare runs on the same patients, every pair or each with a reference.

    Args:
        runs: run folders, or CSVs of predictions (`milkit.report.foreign` says which).
        metrics: names; none for the main ones of the task (`MAIN`), "all" for all.
        selections: of the predictions: none for the first of validation and last that all have, one, or one a run.
        reference: one of the runs, which all others are compared with; None compares every pair.
        margin: the smallest difference that matters, on the metric's own scale; for errors without an upper end
            (MAE, RMSE) as a share of the second run's value.
        alpha: two-sided error allowed over all that is compared here.
        draws: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        RunFolderError: runs that cannot be compared.
        ConfigError: an unknown metric or reference, a margin below 0 or an alpha outside (0, 1).
    """
    found = field(read_contestants(runs), selections)
    return compare_field(found, metrics, reference=reference, margin=margin, alpha=alpha, draws=draws, seed=seed)


def compare_field(
    found: Field,
    metrics: Sequence[str] = (),
    *,
    reference: Path | str | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Comparison:
    """As `compare`, of runs that were read and found to fit each other."""
    if not 0 < alpha < 1 or not 0 <= margin < math.inf:
        raise ConfigError(f"alpha {alpha} must lie between 0 and 1, and margin {margin} must not be negative.")
    of_maps = [name for name in metrics if name in MAP_METRICS]
    others = [name for name in metrics if name not in MAP_METRICS]
    chosen = _metrics(found, others) if others or not of_maps else []
    cached, reader = Estimator(draws, seed), MapReader()
    rows: list[Compared] = []
    notes: list[str] = []
    for a, b in _pairs(found.entrants, reference):
        rows += [_compare(found, a, b, metric, cached, margin, alpha) for metric in chosen]
        if of_maps or not metrics or ALL in metrics:
            more, note = _compare_maps(reader, a, b, of_maps, margin, alpha, draws, seed)
            rows, notes = rows + more, notes + [note] * bool(note)
    found = replace(found, notes=tuple(dict.fromkeys([*found.notes, *notes])))
    return Comparison(found, _corrected(rows, alpha), alpha, margin, draws)


def _metrics(found: Field, asked: Sequence[str]) -> list[Metric]:
    known = {m.name: m for m in metrics_of(found.kind, found.names, training=found.training, curves=found.curves)}
    if ALL in asked:
        return list(known.values())
    if not asked:
        main = [m for m in known.values() if m.name.partition(":")[0] in MAIN[found.kind]]
        return [m for m in main if found.kind == "Regression" or ":" not in m.name]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"A {found.kind} study has no metric {unknown[0]!r}; it has: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(asked)]


def _pairs(entrants: Sequence[Entrant], reference: Path | str | None) -> list[tuple[Entrant, Entrant]]:
    if reference is None:
        return list(combinations(entrants, 2))
    base = [e for e in entrants if str(reference) in (e.name, str(e.path)) or Path(reference) == e.path]
    if len(base) != 1:
        raise ConfigError(
            f"The reference {str(reference)!r} is {'none' if not base else 'more than one'} of the runs compared: "
            f"{', '.join(e.name for e in entrants)}."
        )
    return [(e, base[0]) for e in entrants if e is not base[0]]


class Estimator:
    """Estimates of one run, metric and set of splits, computed once however many pairs need them."""

    def __init__(self, draws: int, seed: int) -> None:
        self._draws, self._seed = draws, seed
        self._known: dict[tuple[int, str, frozenset[Split]], Estimates] = {}

    def defined(self, study: Tested, metric: Metric) -> set[Split]:
        """Splits in which some run has a value; all of them for pooled metrics."""
        if metric.pooled:
            return set(study.splits)
        return {(r.repeat, r.fold) for r in study.runs if not math.isnan(float(metric.compute(r.part, None)))}

    def __call__(self, study: Tested, metric: Metric, kept: frozenset[Split]) -> Estimates:
        """Estimates on some splits; draws are the same for all studies of a comparison, since their units are."""
        key = (id(study), metric.name, kept)
        if key not in self._known:
            part = replace(study, runs=tuple(r for r in study.runs if (r.repeat, r.fold) in kept))
            self._known[key] = estimates(part, (metric,), self._draws, self._seed)[0]
        return self._known[key]


def _compare(
    found: Field, a: Entrant, b: Entrant, metric: Metric, estimator: Estimator, margin: float, alpha: float
) -> Compared:
    """One metric of one pair, before Holm's correction."""
    every = a.study.splits
    kept = frozenset(estimator.defined(a.study, metric) & estimator.defined(b.study, metric))
    notes = [metric.note] * bool(metric.note) + [POOLED] * metric.pooled
    blank = math.nan
    values, sampling, test = (blank, blank), None, BOOTSTRAP
    result = t_verdict(blank, blank, 0, margin=margin, alpha=alpha)
    if kept:
        of_a, of_b = estimator(a.study, metric, kept), estimator(b.study, metric, kept)
        values = (of_a.value, of_b.value)
        if math.isinf(metric.bounds[1]):
            margin = margin * abs(of_b.value)
            notes.append(f"the margin is a share of {b.name}'s value: {margin:.3g}")
        drawn = of_a.draws - of_b.draws
        interval, note = percentile_interval(drawn, values[0] - values[1], 1 - alpha)
        if len(np.unique(a.study.unit)) < 2:
            interval, note = None, "there is only one patient or site to resample"
        notes += [f"sampling: {note}"] * bool(note)
        sampling = None if interval is None else (interval.low, interval.high)
        test, result = _test(found, a, b, metric, kept, (of_a, of_b), drawn, margin, alpha)
        notes += [FIXED_MODELS] * (test == BOOTSTRAP and len(every) > 1) + _degenerate(result)
    else:
        notes += sorted({r for r in (_reason(e.study, metric) for e in (a, b)) if r}) or ["no split has a value"]
    left_out = len(every) - len(kept)
    if kept and left_out:
        notes.append(f"{left_out} of {len(every)} splits have no value in one of the two and are left out of both")
    return Compared(
        metric=metric.name,
        first=a.name,
        second=b.name,
        values=values,
        found=result,
        p_holm=blank,
        verdict=result.verdict,
        better="",
        margin=float(margin),
        own_scale=math.isinf(metric.bounds[1]),
        test=test,
        sampling=sampling,
        splits=len(kept),
        undefined_splits=left_out,
        marks=tuple(dict.fromkeys([*a.marks, *b.marks])),
        notes=tuple(notes),
    )


def _compare_maps(
    reader: MapReader, a: Entrant, b: Entrant, asked: Sequence[str], margin: float, alpha: float, draws: int, seed: int
) -> tuple[list[Compared], str]:
    """Rows of the maps of one pair, before Holm's correction; or why there are none.

    Raises:
        ConfigError: they were asked for, and there are none.
    """
    maps = maps_of_pair(reader, a, b)
    if not isinstance(maps, str):
        try:
            differences = compare_maps(*maps, asked, margin=margin, alpha=alpha, draws=draws, seed=seed)
        except DataError as error:
            maps, differences = f"maps of {a.name} and {b.name} are not compared: {error}", []
    if isinstance(maps, str):
        if asked:
            raise ConfigError(f"{', '.join(asked)} cannot be compared: {maps or 'the runs hold no maps with masks'}.")
        return [], maps
    about: dict[str, Any] = {"first": a.name, "second": b.name, "p_holm": math.nan, "better": "", "own_scale": False}
    marks = tuple(dict.fromkeys(mark for e in (a, b) for mark in (*e.marks, *map_marks(e))))
    return [
        Compared(
            metric=d.metric,
            values=d.values,
            found=d.found,
            verdict=d.found.verdict,
            margin=margin,
            test=CORRECTED_T if d.over_splits else BOOTSTRAP,
            sampling=d.sampling,
            splits=d.splits,
            undefined_splits=0,
            marks=marks,
            notes=tuple([FIXED_MODELS] * (not d.over_splits) + _degenerate(d.found)),
            **about,
        )
        for d in differences
    ], ""


def _test(
    found: Field,
    a: Entrant,
    b: Entrant,
    metric: Metric,
    kept: frozenset[Split],
    of: tuple[Estimates, Estimates],
    drawn: np.ndarray,
    margin: float,
    alpha: float,
) -> tuple[str, Verdict]:
    """The test that fits: over splits under cross-validation, over patients on one held-out set."""
    limits: dict[str, Any] = {"margin": margin, "alpha": alpha}
    if len(a.study.splits) > 1 and not metric.pooled and found.n_train:
        sizes = {(r.repeat, r.fold): len(r.patient) for r in a.study.runs}
        n_test = np.array([sizes[split] for split in sorted(kept)], np.float64)
        n_train = np.array([found.n_train[split] for split in sorted(kept)], np.float64)
        assert of[0].splits is not None
        assert of[1].splits is not None  # only pooled metrics have none
        over_splits = corrected_t_test(of[0].splits - of[1].splits, n_test, n_train, **limits)
        if not math.isnan(over_splits.p):
            return CORRECTED_T, over_splits
    if len(a.study.splits) == 1 and len(np.unique(a.study.unit)) == len(a.study.unit):  # rows are independent
        exact = _held_out(found.kind, a.study.runs, b.study.runs, metric, drawn, limits)
        if exact is not None and not math.isnan(exact[1].p):
            return exact
    return BOOTSTRAP, bootstrap_test(of[0].value - of[1].value, drawn, len(np.unique(a.study.unit)), **limits)


def _held_out(
    kind: str,
    first: Sequence[RunPart],
    second: Sequence[RunPart],
    metric: Metric,
    drawn: np.ndarray,
    limits: Mapping[str, Any],
) -> tuple[str, Verdict] | None:
    """DeLong or McNemar on one held-out set; None where neither applies (or a score is not finite)."""
    if not all(np.isfinite(r.part.score).all() for r in (*first, *second)):
        return None
    if metric.name == "auroc" and kind == "Binary":
        columns = [np.stack([r.part.score[:, 1] for r in runs], 1) for runs in (first, second)]
        found = delong(first[0].part.y, *columns)
        return None if found is None else (DELONG, delong_test(found, **limits))
    if metric.name == "accuracy" and len(first) == len(second) == 1 and kind in ("Binary", "MultiClass"):
        a, b = (_called(kind, r.part.score) == r.part.y for r in (first[0], second[0]))
        return MCNEMAR, mcnemar_test(a, b, drawn, **limits)
    return None


def _called(kind: str, score: np.ndarray) -> np.ndarray:
    return score[:, 1] >= 0.5 if kind == "Binary" else score.argmax(1)


def _reason(study: Tested, metric: Metric) -> str:
    """Why the first run without a value has none."""
    found = (metric.compute(run.part, None) for run in study.runs)
    return next((r for r in (why(v) for v in found) if r), "")  # type: ignore[arg-type]


def _degenerate(found: Verdict) -> list[str]:
    """A word where there is nothing to test by."""
    if found.p == 1.0 and found.detectable == 0:
        return ["both have the same value throughout; that is no proof that they would elsewhere"]
    if math.isnan(found.detectable) and not math.isnan(found.difference):
        return ["the difference does not vary: what could have been detected is not known"]
    return []


def _corrected(rows: Sequence[Compared], alpha: float) -> tuple[Compared, ...]:
    """Verdicts after Holm's correction over all rows."""
    out = []
    for row, p in zip(rows, holm([r.found.p for r in rows]).tolist(), strict=True):
        said = word(p, row.found.detectable, row.margin, alpha)
        first_is_better = (row.found.difference > 0) != lower_is_better(row.metric)
        better = (row.first if first_is_better else row.second) if said == "different" else ""
        out.append(replace(row, p_holm=p, verdict=said, better=better))
    return tuple(out)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
