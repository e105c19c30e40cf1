"""Classes in the parts of every split: one that is missing, and shares that are far off."""

from collections import Counter

import numpy as np

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural
from milkit.check.folds import ROLES

FAR = 1e-4
"""Chance, over all parts of all splits together, below which a share is far off."""
LEAST = 0.1
"""A share must also be off by as much."""


def look(e: Evidence) -> list[Finding]:
    """Missing and unbalanced classes, one label for a patient, and a cohort of one class."""
    if e.label is None:
        return []
    found = [*_cohort(e), *_patients(e)]
    if len(e.label.names) < 2 or not e.folds.splits:
        return found
    missing, held, far = _parts(e)
    if missing:
        found.append(
            finding(
                "class_missing",
                "error",
                missing,
                f"{plural(len(missing), 'part')} of a split without one class",
                "Draw the folds stratified, or fewer: a class cannot be learnt, or judged, where there is none.",
                "certain: counted",
            )
        )
    if held:
        found.append(
            finding(
                "class_missing",
                "warning",
                held,
                f"{plural(len(held), 'validation or very small part')} without one of the classes",
                "Select by loss, or draw larger parts; judge tests of single slides all together.",
                "certain: counted",
            )
        )
    if far:
        found.append(
            finding(
                "class_balance",
                "warning",
                far,
                f"{plural(len(far), 'part')} with shares of classes far from the cohort's",
                "Draw the folds stratified, or say that they are not.",
                f"by chance alone less than once in {round(1 / FAR):,} cohorts",
            )
        )
    return found


def _cohort(e: Evidence) -> list[Finding]:
    assert e.label is not None
    n = int((e.label.y >= 0).sum())
    found = []
    if len(e.label.names) < 2:
        found.append(
            finding(
                "one_class",
                "error",
                [e.label.column],
                f"column {e.label.column!r} holds {len(e.label.names)} class",
                "Name the column with the labels: --label COLUMN.",
                "certain: counted",
            )
        )
    if n < len(e.label.y):
        found.append(
            finding(
                "missing_label",
                "note",
                e.table.slide[e.label.y < 0].tolist(),
                f"{len(e.label.y) - n} of {len(e.label.y)} rows have no {e.label.column!r}",
                "Nothing, if they are meant to be left out.",
                "certain: the cells are empty",
            )
        )
    return found


def _patients(e: Evidence) -> list[Finding]:
    """Patients whose slides have different labels."""
    assert e.label is not None
    if "patient" not in e.table.used or e.label.numeric:
        return []
    seen: dict[str, set[int]] = {}
    for who, y in zip(e.table.patient.tolist(), e.label.y.tolist(), strict=True):
        if y >= 0:
            seen.setdefault(who, set()).add(y)
    items = [f"{who} ({', '.join(e.label.names[y] for y in sorted(ys))})" for who, ys in seen.items() if len(ys) > 1]
    if not items:
        return []
    return [
        finding(
            "patient_labels_differ",
            "note",
            items,
            f"{plural(len(items), 'patient')} with slides of different labels",
            "Nothing, if labels belong to slides (then use slides as bags); otherwise mend the table.",
            "certain: counted",
        )
    ]


def _parts(e: Evidence) -> tuple[list[str], list[str], list[str]]:
    """Parts without a class (train or test; validation), and parts that are far off."""
    from scipy.stats import hypergeom

    assert e.label is not None
    missing: list[str] = []
    held: list[str] = []
    far: list[str] = []
    names, y = e.label.names, e.label.y
    tests = max(1, len(e.folds.splits) * len(names) * 2)
    for split in e.folds.splits:
        used = (split.role != "") & (y >= 0)
        total = Counter(y[used].tolist())
        for role in ROLES:
            part = y[used & (split.role == role)]
            if not len(part):
                if role != "validation":
                    missing.append(f"{split.name}: no labelled {role} slide")
                continue
            count = Counter(part.tolist())
            for i, name in enumerate(names):
                if not total[i]:
                    continue
                if not count[i]:
                    # a part of fewer slides than classes, as when one is left out, cannot hold them all
                    soft = role == "validation" or (role == "test" and len(part) < len(names))
                    (held if soft else missing).append(f"{split.name}: no {name!r} among {len(part)} {role}")
                    continue
                law = hypergeom(int(used.sum()), total[i], len(part))
                tail = 2 * min(float(law.cdf(count[i])), float(law.sf(count[i] - 1)))
                off = abs(count[i] / len(part) - total[i] / int(used.sum()))
                if tail < FAR / tests and off > LEAST:
                    share = total[i] / int(used.sum())
                    far.append(f"{split.name}: {count[i] / len(part):.0%} {name!r} in {role}, {share:.0%} in all")
    return missing, held, far


def cramers_v(a: np.ndarray, b: np.ndarray) -> float:
    """Cramer's V of two columns of classes: 0 unrelated, 1 each tells the other (Cramer 1946, section 21.9)."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi2 = float(((table - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi2 / (table.sum() * (min(table.shape) - 1))))
