"""From test rows to estimates: the value of a metric over a study's runs, and its two intervals.

A run's metric compares the patients of its own test part only. Its values are averaged within each split (repeat and
fold) over seeds and inner splits, and then over splits: with equally many runs a split that is the mean over runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import RunFolderError
from milkit.metrics import Aggregate, Metric, TestPart, bootstrap_blocks, censoring, pool, why
from milkit.metrics.draws import mean_of_defined
from milkit.predictions import Predictions

Measured = Literal["patient", "slide"]
Resample = Literal["patient", "site"]


@dataclass(frozen=True, eq=False)
class RunPart:
    """The test part of one run, a row a patient (a row a slide where labels belong to slides).

    Attributes:
        name, repeat, fold, seed: what was trained.
        patient: numbers of the patients (or slides) in the study, [n].
        part: their truth and scores.
    """

    name: str
    repeat: int
    fold: int
    seed: int
    patient: Int[np.ndarray, "n"]
    part: TestPart


@dataclass(frozen=True, eq=False)
class Tested:
    """All test parts of one selection.

    Attributes:
        runs: in the order of their names' first rows.
        patients: ids of the patients, or of the slides where labels belong to slides, [p].
        unit: number of each one's resampling unit (the patient or the site), [p].
        target: truth of each, [p, t].
    """

    runs: tuple[RunPart, ...]
    patients: np.ndarray
    unit: Int[np.ndarray, "p"]
    target: Float[np.ndarray, "p t"]

    @property
    def splits(self) -> list[tuple[int, int]]:
        """(repeat, fold) of every split, in order."""
        return sorted({(run.repeat, run.fold) for run in self.runs})


@dataclass(frozen=True, eq=False)
class Estimates:
    """One metric over a study.

    Attributes:
        runs: value of each run, [r] (pooled metrics: of each repeat and seed); NaN where undefined.
        splits: mean over the runs of each split, [s]; None for pooled metrics.
        value: the estimate.
        draws: the estimate in each bootstrap draw.
        reasons: why each run has no value; "" where it has one.
        seed_sd: SD over seeds within a split (a repeat for pooled metrics), averaged; NaN with one seed.
    """

    runs: Float[np.ndarray, "r"]
    splits: Float[np.ndarray, "s"] | None
    value: float
    draws: Float[np.ndarray, "d"]
    reasons: tuple[str, ...]
    seed_sd: float


def tested(
    rows: Predictions,
    aggregate: Aggregate,
    resample: Resample,
    measured: Measured = "patient",  # noqa: PT028 (no test, whatever its name)
) -> Tested:
    """Group the test rows of one selection by run, and the bags of a patient to one row.

    Args:
        rows: test rows of one selection.
        aggregate: how the scores of a patient's bags become one.
        resample: unit of the bootstrap.
        measured: `slide` where labels belong to slides: each bag is a row of its own, and a patient is resampled with
            all of them.

    Raises:
        RunFolderError: a patient (slide) with two truths, or without a site where sites are resampled.
    """
    who_is = rows.bag if measured == "slide" else rows.patient
    patients, first, patient = np.unique(who_is, return_index=True, return_inverse=True)
    target = rows.target[first]
    differs = (rows.target != target[patient]).any(1)
    if differs.any():
        i = int(np.flatnonzero(differs)[0])
        raise RunFolderError(
            f"{measured.capitalize()} {who_is[i]!s} has the target {target[patient[i]].tolist()} in one row and "
            f"{rows.target[i].tolist()} in that of bag {rows.bag[i]!s}; a {measured} has one truth: mend the table."
        )
    unit = np.unique(rows.patient[first], return_inverse=True)[1]
    if resample == "site":
        sites = rows.site[first]
        if (sites == "").any():
            raise RunFolderError(
                f"{measured.capitalize()} {patients[sites == ''][0]!s} has no site, but folds are grouped by site; "
                "fill in the column."
            )
        unit = np.unique(sites, return_inverse=True)[1]
    known = censoring(target[:, 0], target[:, 1]) if rows.kind == "Survival" else None
    _, first_row, run = np.unique(rows.run, return_index=True, return_inverse=True)
    runs = []
    for number in np.argsort(first_row, kind="stable"):
        mine = np.flatnonzero(run == number)
        who, at, group = np.unique(patient[mine], return_index=True, return_inverse=True)
        score = pool(rows.kind, rows.score[mine], group, len(who), aggregate)
        part = TestPart(target[who], score, rows.threshold[mine][at, 0], known)
        i = mine[0]
        runs.append(RunPart(str(rows.run[i]), int(rows.repeat[i]), int(rows.fold[i]), int(rows.seed[i]), who, part))
    return Tested(tuple(runs), patients, unit, target)


def estimates(study: Tested, metrics: Sequence[Metric], draws: int, seed: int) -> list[Estimates]:
    """Value, spread and bootstrap draws of every metric.

    One set of bootstrap draws serves all metrics. In a draw each patient (or each patient of a drawn site) stands in
    every test part that holds it as often as it was drawn; a split without a value in a draw is left out of that
    draw.
    """
    pools = _pools(study)
    values, reasons = {}, {}
    for metric in metrics:
        parts = [p.part for p in (pools if metric.pooled else study.runs)]
        found = [metric.compute(part, None) for part in parts]
        values[metric.name] = np.array([float(v) for v in found])
        reasons[metric.name] = tuple(why(v) for v in found)  # type: ignore[arg-type]
    drawn = _bootstrap(study, pools, metrics, draws, seed)
    out = []
    for metric in metrics:
        parts_of = pools if metric.pooled else study.runs
        keys = [(p.repeat, 0 if metric.pooled else p.fold) for p in parts_of]
        each = values[metric.name]
        by_split = _by_group(each, keys)
        out.append(
            Estimates(
                runs=each,
                splits=None if metric.pooled else by_split,
                value=float(mean_of_defined(by_split)),
                draws=drawn[metric.name],
                reasons=reasons[metric.name],
                seed_sd=_seed_sd(each, keys, [p.seed for p in parts_of]),
            )
        )
    return out


def _bootstrap(
    study: Tested, pools: Sequence[RunPart], metrics: Sequence[Metric], draws: int, seed: int
) -> dict[str, Float[np.ndarray, "d"]]:
    """The estimate of every metric in every draw."""
    units = int(study.unit.max()) + 1
    out: dict[str, list[np.ndarray]] = {metric.name: [] for metric in metrics}
    cells = max(1, 2_000_000 * units // len(study.unit))  # blocks hold a row of patients, of whom a site has many
    for block in bootstrap_blocks(units, draws, seed, cells):
        counts = block[:, study.unit]
        for pooled, parts in ((False, study.runs), (True, pools)):
            wanted = [m for m in metrics if m.pooled == pooled]
            if not wanted:
                continue
            each: dict[str, list] = {m.name: [] for m in wanted}
            for run in parts:
                weight = counts[:, run.patient]
                for metric in wanted:
                    each[metric.name].append(metric.compute(run.part, weight))
            keys = [(p.repeat, 0 if pooled else p.fold) for p in parts]
            for name, found in each.items():
                out[name].append(mean_of_defined(_by_group(np.stack(found), keys)))
    return {name: np.concatenate(blocks) for name, blocks in out.items()}


def _by_group(values: Float[np.ndarray, "r *d"], keys: Sequence[tuple]) -> Float[np.ndarray, "g *d"]:
    """Mean of the defined values of each group, groups in sorted order."""
    groups: dict[tuple, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return np.stack([mean_of_defined(values[groups[key]]) for key in sorted(groups)])


def _seed_sd(values: Float[np.ndarray, "r"], keys: Sequence[tuple], seeds: Sequence[int]) -> float:
    """SD over seeds within a group, averaged over groups; inner splits of a seed are averaged first."""
    by_seed = _by_group(values, [(*key, seed) for key, seed in zip(keys, seeds, strict=True)])
    owner = [key[:-1] for key in sorted({(*key, seed) for key, seed in zip(keys, seeds, strict=True)})]
    spread = []
    for group in sorted(set(owner)):
        own = by_seed[[o == group for o in owner]]
        own = own[~np.isnan(own)]
        if len(own) > 1:
            spread.append(own.std(ddof=1))
    return float(np.mean(spread)) if spread else float("nan")


def _pools(study: Tested) -> tuple[RunPart, ...]:
    """Test parts of all folds of one repeat and seed together."""
    groups: dict[tuple[int, int], list[RunPart]] = {}
    for run in study.runs:
        groups.setdefault((run.repeat, run.seed), []).append(run)
    return tuple(
        RunPart(
            name="",
            repeat=repeat,
            fold=-1,
            seed=seed,
            patient=np.concatenate([r.patient for r in runs]),
            part=TestPart(
                np.concatenate([r.part.target for r in runs]),
                np.concatenate([r.part.score for r in runs]),
                np.concatenate([r.part.threshold for r in runs]),
            ),
        )
        for (repeat, seed), runs in sorted(groups.items())
    )
