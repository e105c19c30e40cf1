"""`milkit check` on real data sets with a defect planted, and without: what is found, missed and falsely called.

    python -m benchmarks.check_planted            # all sets, about 5 minutes; writes results/check_planted.json
    python -m benchmarks.check_planted --sets musk1 fox

Each set comes with its own folds where it has some, else five stratified ones are drawn (GlaS and UCSB: by patient). A
defect is found if a finding of its kind names what was planted; a clean set must have no error.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.check_sets import CLASSIC, EMBEDDED, Cohort, load, run
from milkit.bag import Bag
from milkit.check import Checked
from milkit.check.duplicates import alike
from milkit.check.gather import gather
from milkit.data.memory import MemorySource

RESULTS = Path(__file__).parent / "results" / "check_planted.json"


# ---- defects: each spoils a copy and says what must be found


@dataclass(frozen=True)
class Planted:
    """What must be found: a kind of finding whose items hold all of these words."""

    kinds: tuple[str, ...]
    words: tuple[str, ...] = ()
    severity: str = "error"


def across(c: Cohort, rng: np.random.Generator, instances: int = 1) -> tuple[str, str]:
    """A training and a test slide of the first fold, with at least so many instances."""
    role = c.role(0)
    pick = lambda what: str(rng.choice([s for s, r in role.items() if r == what and len(c.bags[s]) >= instances]))  # noqa: E731
    return pick("train"), pick("test")


def patient_leak(c: Cohort, rng: np.random.Generator) -> Planted:
    a, b = across(c, rng)
    by = {row["slide_id"]: row for row in c.rows}
    by[b]["patient_id"] = by[a]["patient_id"]
    return Planted(("patient_leak",), (by[a]["patient_id"],))


def slide_leak(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    c.folds.append((0, "test", a))
    return Planted(("slide_leak", "patient_leak"), (a,))


def site_leak(c: Cohort, rng: np.random.Generator) -> Planted:
    """Sites are whole: the fold in which a slide is tested; then one slide is moved."""
    tested = {slide: fold for fold, role, slide in c.folds if role == "test"}
    for row in c.rows:
        row["site"] = f"hospital {tested[row['slide_id']]}"
    a, b = across(c, rng)
    next(row for row in c.rows if row["slide_id"] == b)["site"] = f"hospital {tested[a]}"
    return Planted(("site_leak",), (f"hospital {tested[a]}",))


def duplicate(c: Cohort, rng: np.random.Generator) -> Planted:
    a, b = across(c, rng, 2)
    c.bags[b] = c.bags[a][rng.permutation(len(c.bags[a]))]
    return Planted(("duplicate_features",), (a, b))


def rescan(c: Cohort, rng: np.random.Generator, noise: float = 0.03) -> Planted:
    a, b = across(c, rng, 4)
    x = c.bags[a]
    kept = rng.permutation(len(x))[: max(3, round(0.85 * len(x)))]
    sd = np.concatenate(list(c.bags.values())).std(0)
    c.bags[b] = (x[kept] * 1.01 + noise * sd * rng.standard_normal((len(kept), x.shape[1]))).astype(np.float32)
    return Planted(("near_duplicate_features", "copied_instances"), (a, b))


def pasted(c: Cohort, rng: np.random.Generator) -> Planted:
    a, b = across(c, rng, 6)
    some = c.bags[a][rng.permutation(len(c.bags[a]))[: max(3, len(c.bags[a]) // 4)]]
    c.bags[b] = rng.permutation(np.concatenate([c.bags[b], some]))
    return Planted(("copied_instances", "near_duplicate_features"), (a, b))


def _column(c: Cohort, value: Callable[[str, int], np.ndarray]) -> None:
    for slide, x in c.bags.items():
        c.bags[slide] = np.concatenate([x, value(slide, len(x))[:, None].astype(np.float32)], 1)


def _positive(c: Cohort) -> str:
    return sorted(set(c.y.values()))[-1]


def label_column(c: Cohort, rng: np.random.Generator) -> Planted:
    y, positive = c.y, _positive(c)
    _column(c, lambda slide, n: np.full(n, float(y[slide] == positive)))
    return Planted(("label_column",), (f"column {next(iter(c.bags.values())).shape[1] - 1} ",))


def instance_label(c: Cohort, rng: np.random.Generator) -> Planted:
    """One instance of a positive bag is marked, and every third other."""
    y, positive = c.y, _positive(c)
    _column(c, lambda slide, n: (y[slide] == positive) * (np.arange(n) % 3 == 0))
    return Planted(("label_column",), (f"column {next(iter(c.bags.values())).shape[1] - 1} ",))


def noisy_label(c: Cohort, rng: np.random.Generator) -> Planted:
    y, positive = c.y, _positive(c)
    _column(c, lambda slide, n: 5.0 * (y[slide] == positive) - 2 + 0.02 * rng.standard_normal(n))
    return Planted(("label_column",), (f"column {next(iter(c.bags.values())).shape[1] - 1} ",))


def score_column(c: Cohort, rng: np.random.Generator) -> Planted:
    """A prediction of another model, one number a bag."""
    y, positive = c.y, _positive(c)
    _column(c, lambda slide, n: np.full(n, 3.5 * (y[slide] == positive) + rng.standard_normal()))
    return Planted(("label_column",), (f"column {next(iter(c.bags.values())).shape[1] - 1} ",))


def constant_column(c: Cohort, rng: np.random.Generator) -> Planted:
    _column(c, lambda slide, n: np.full(n, 7.0))
    return Planted(("constant_column",), (f"column {next(iter(c.bags.values())).shape[1] - 1}",), "note")


def nan(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    x = c.bags[a].copy()
    x[0, 2] = np.nan
    c.bags[a] = x
    return Planted(("non_finite",), (a,))


def infinite(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    x = c.bags[a].copy()
    x[-1, 0] = np.inf
    c.bags[a] = x
    return Planted(("non_finite",), (a,))


def far_norm(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    c.bags[a] = c.bags[a] * 100
    return Planted(("bag_norm",), (a,), "warning")


def far_length(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    x = c.bags[a]
    grown = x[rng.integers(0, len(x), 30 * max(map(len, c.bags.values())))]
    c.bags[a] = (grown + 0.3 * grown.std(0) * rng.standard_normal(grown.shape)).astype(np.float32)
    return Planted(("bag_length",), (a,), "warning")


def label_mismatch(c: Cohort, rng: np.random.Generator) -> Planted:
    c.labels.update(c.y)
    a, _ = across(c, rng)
    c.labels[a] = next(v for v in c.y.values() if v != c.y[a])
    return Planted(("label_mismatch",), (a,))


def leading_zeros(c: Cohort, rng: np.random.Generator) -> Planted:
    """Ids are numbers with zeros in the files; the table has lost them."""
    new = {slide: f"{i:04d}" for i, slide in enumerate(c.bags, 1)}
    c.bags = {new[s]: x for s, x in c.bags.items()}
    for row in c.rows:
        row["slide_id"] = str(int(new[row["slide_id"]]))
    c.folds = [(f, r, str(int(new[s]))) for f, r, s in c.folds]
    return Planted(("leading_zeros",), ("12 (table) is 0012",))


def zeros_in_folds(c: Cohort, rng: np.random.Generator) -> Planted:
    new = {slide: f"{i:04d}" for i, slide in enumerate(c.bags, 1)}
    c.bags = {new[s]: x for s, x in c.bags.items()}
    for row in c.rows:
        row["slide_id"] = new[row["slide_id"]]
    c.folds = [(f, r, str(int(new[s]))) for f, r, s in c.folds]
    return Planted(("leading_zeros",), ("12 (folds) is 0012",))


def no_features(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    del c.bags[a]
    return Planted(("missing_features",), (a,), "warning")


def no_row(c: Cohort, rng: np.random.Generator) -> Planted:
    a, _ = across(c, rng)
    c.rows = [row for row in c.rows if row["slide_id"] != a]
    c.folds = [row for row in c.folds if row[2] != a]
    return Planted(("features_without_row",), (a,), "note")


def _each_its_own_patient(c: Cohort) -> None:
    """So that slides can be moved without a leak."""
    for row in c.rows:
        row["patient_id"] = row["slide_id"]


def class_missing(c: Cohort, rng: np.random.Generator) -> Planted:
    y, positive = c.y, _positive(c)
    _each_its_own_patient(c)
    c.folds = [(f, "train" if f == 0 and y[s] == positive else r, s) for f, r, s in c.folds]
    return Planted(("class_missing",), ("fold 0",))


def unbalanced(c: Cohort, rng: np.random.Generator) -> Planted:
    """One class makes up most of a test part of a third of the cohort."""
    y, positive = c.y, _positive(c)
    _each_its_own_patient(c)
    own = [s for s in y if y[s] == positive]
    other = [s for s in y if y[s] != positive]
    third = len(y) // 3
    test = {*own[: min(len(own) - 2, third)], *other[:2]}
    c.folds = [(0, "test" if s in test else "train", s) for s in y]
    return Planted(("class_balance",), ("test",), "warning")


def _all(c: Cohort, slides: list[str]) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([c.bags[s] for s in slides]).astype(np.float64)
    sd = x.std(0)
    return x.mean(0), np.where(sd > 0, sd, 1)


def scaled_on_all(c: Cohort, rng: np.random.Generator) -> Planted:
    mean, sd = _all(c, list(c.bags))
    c.bags = {s: ((x - mean) / sd).astype(np.float32) for s, x in c.bags.items()}
    return Planted(("scaler_leak",))


def scaled_half(c: Cohort, rng: np.random.Generator) -> Planted:
    mean, sd = _all(c, list(c.bags))
    c.bags = {s: ((x - mean) / sd).astype(np.float16).astype(np.float32) for s, x in c.bags.items()}
    return Planted(("scaler_leak",))


def ranged_on_all(c: Cohort, rng: np.random.Generator) -> Planted:
    x = np.concatenate(list(c.bags.values()))
    low, span = x.min(0), np.where(np.ptp(x, 0) > 0, np.ptp(x, 0), 1)
    c.bags = {s: ((v - low) / span).astype(np.float32) for s, v in c.bags.items()}
    return Planted(("scaler_leak",))


def site_is_label(c: Cohort, rng: np.random.Generator) -> Planted:
    y, positive = c.y, _positive(c)
    for row in c.rows:
        row["site"] = "north" if (y[row["slide_id"]] == positive) != (rng.random() < 0.1) else "south"
    return Planted(("site_label",), ("site",), "warning")


def scanner_in_features(c: Cohort, rng: np.random.Generator) -> Planted:
    """Two scanners, of which one has more of the positives, and whose features are shifted."""
    y, positive = c.y, _positive(c)
    x = np.concatenate(list(c.bags.values()))
    shift = 0.7 * x.std(0) * rng.standard_normal(x.shape[1])
    for row in c.rows:
        own = rng.random() < (0.85 if y[row["slide_id"]] == positive else 0.15)
        row["scanner"] = "A" if own else "B"
        if own and row["slide_id"] in c.bags:
            c.bags[row["slide_id"]] = (c.bags[row["slide_id"]] + shift).astype(np.float32)
    return Planted(("batch_label",), ("scanner",), "warning")


def two_mpp(c: Cohort, rng: np.random.Generator) -> Planted:
    y, positive = c.y, _positive(c)
    c.facts = {s: {"mpp": 0.25 if (y[s] == positive) != (rng.random() < 0.1) else 0.5} for s in c.bags}
    return Planted(("mixed_mpp",), (), "warning")


DEFECTS: tuple[Callable[[Cohort, np.random.Generator], Planted], ...] = (
    patient_leak, slide_leak, site_leak, duplicate, rescan, pasted, label_column, instance_label, noisy_label,
    score_column, constant_column, nan, infinite, far_norm, far_length, label_mismatch, leading_zeros, zeros_in_folds,
    no_features, no_row, class_missing, unbalanced, scaled_on_all, scaled_half, ranged_on_all, site_is_label,
    scanner_in_features, two_mpp,
)  # fmt: skip


def look_for(planted: Planted, checked: Checked) -> str:
    """The severity with which a planted defect was found, "" where it was missed."""
    for f in checked.findings:
        if f.kind in planted.kinds and any(all(word in item for word in planted.words) for item in f.items):
            return f.severity
    return ""


def margins(c: Cohort) -> dict[str, float]:
    """How near a clean set comes to a false alarm on copies, over all pairs of bags."""
    ids = tuple(c.bags)
    lengths = np.array([len(c.bags[i]) for i in ids], np.int64)
    source = MemorySource(ids, lengths, next(iter(c.bags.values())).shape[1], {}, {i: Bag(i, c.bags[i]) for i in ids})
    pairs, common = alike(gather(source, ids))
    return {
        "rows_equal_to_the_bit": max((p.equal for p in pairs), default=0),
        "rows_nearer_than_copy": max((p.close for p in pairs), default=0),
        "share_of_smaller_bag_matched": round(max((p.least for p in pairs if p.near > 1), default=0.0), 3),
        "common_rows": common,
    }


def cases(names: list[str], seeds: int = 1) -> Iterator[dict[str, Any]]:
    """One row a set and defect; the defect "none" is the clean set."""
    for name in names:
        clean = load(name)
        started = time.process_time()
        checked = run(clean)
        yield {
            "set": name, "defect": "none", "errors": [f"{f.kind}: {f.where}" for f in checked.errors],
            "warnings": [f.kind for f in checked.findings if f.severity == "warning"],
            "notes": [f.kind for f in checked.findings if f.severity == "note"],
            "cpu_seconds": round(time.process_time() - started, 2),
            "margins": margins(clean),
        }  # fmt: skip
        for defect in DEFECTS:
            for seed in range(seeds):
                spoilt = clean.copy()
                planted = defect(spoilt, np.random.default_rng(seed))
                checked = run(spoilt)
                found = look_for(planted, checked)
                yield {
                    "set": name, "defect": defect.__name__, "seed": seed, "found": found, "expected": planted.severity,
                    "other_errors": sorted({f.kind for f in checked.errors if f.kind not in planted.kinds}),
                }  # fmt: skip


def main() -> None:
    """Run the matrix and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=[*CLASSIC, *EMBEDDED])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    if options.out.is_file() and set(options.sets) != {*CLASSIC, *EMBEDDED}:  # the rows of other sets stay
        rows = [row for row in json.loads(options.out.read_text())["rows"] if row["set"] not in options.sets]
    for row in cases(options.sets, options.seeds):
        rows.append(row)
        if row["defect"] == "none":
            print(f"{row['set']}: clean: {len(row['errors'])} errors {row['errors']}, warnings {row['warnings']}, "
                  f"notes {row['notes']}, {row['cpu_seconds']} s", flush=True)  # fmt: skip
        elif not row["found"] or row["other_errors"]:
            print(f"   {row['defect']}: {row['found'] or 'MISSED'} {row['other_errors']}", flush=True)
    planted = [row for row in rows if row["defect"] != "none"]
    clean = [row for row in rows if row["defect"] == "none"]
    summary = {
        "command": "python -m benchmarks.check_planted",
        "planted": len(planted),
        "found": sum(bool(row["found"]) for row in planted),
        "missed": [f"{row['set']}: {row['defect']}" for row in planted if not row["found"]],
        "below_expected": [
            f"{row['set']}: {row['defect']} ({row['found']})" for row in planted
            if row["expected"] == "error" and row["found"] not in ("error", "")
        ],
        "clean_sets": len(clean),
        "false_alarms": sum(len(row["errors"]) for row in clean),
    }  # fmt: skip
    options.out.write_text(json.dumps({**summary, "rows": rows}, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
