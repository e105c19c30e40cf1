"""How slides were made, confounded with what is on them: sites, scanners, encoders, magnifications.

Two questions. Does a column that says how a slide was made (site, scanner, encoder, mpp ...) tell the label? Cramer's V
over patients, with a permutation test. Do the features tell that column? Nearest centroid of standardised bag means,
cross-validated over patients, with a permutation test. A model can only learn the site instead of the label where both
hold (Howard et al. 2021, on sites in TCGA).
"""

import numpy as np
from jaxtyping import Float, Int64

from milkit.check.balance import cramers_v
from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding
from milkit.data.targets import is_missing

PERMUTATIONS = 999
DEALS = 99
P = 0.01
STRONG = 0.3
"""Cramer's V from which an association is called strong."""
COMPLETE = 0.95
FOLDS = 5


def look(e: Evidence) -> list[Finding]:
    """One finding for each column that matters, and one for facts of files that differ."""
    found = [*_mixed(e)]
    for name, cells in e.batch.items():
        found += _column(e, name, cells)
    return found


def _column(e: Evidence, name: str, cells: np.ndarray) -> list[Finding]:
    known = ~is_missing(cells)
    v, p = _with_label(e, cells, known)
    told = _features_tell(e, cells, known)
    groups = len(set(cells[known].tolist()))
    seen = (
        ""
        if told is None
        else (
            f"; features tell it in {told[0]:.0%} of held-out slides (balanced; chance {told[1]:.0%}, p {told[2]:.2g})"
        )
    )
    sure = f"permutation tests: p {p:.3g} for the label" + ("" if told is None else f", {told[2]:.2g} for the features")
    kind = "site_label" if name == e.table.used.get("site") else "batch_label"
    if p <= P and v >= STRONG:
        whole = v >= COMPLETE
        return [
            finding(
                kind,
                "error" if whole else "warning",
                [f"column {name!r} ({groups} values)"],
                f"{name} tells the label (Cramer's V {v:.2f}){seen}",
                "The two cannot be told apart in these data: find cases and controls of one site."
                if whole
                else "Draw folds that keep sites whole, report each site by itself, and compare with a model of the "
                "site alone.",
                sure,
            )
        ]
    if told is not None and told[2] <= P:
        return [
            finding(
                "features_tell_site" if kind == "site_label" else "features_tell_batch",
                "note",
                [f"column {name!r} ({groups} values)"],
                f"Cramer's V of {name} with the label {v:.2f} (p {p:.2g}){seen}",
                "Expected of most encoders; it matters where the column tells the label too, or new sites are claimed.",
                sure,
            )
        ]
    return []


def _with_label(e: Evidence, cells: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Cramer's V with the label over patients, and its permutation p."""
    if e.label is None:
        return 0.0, 1.0
    use = known & (e.label.y >= 0)
    if use.sum() < 8:
        return 0.0, 1.0
    first = _counted_once(e, np.flatnonzero(use), cells)
    _, a = np.unique(cells[first], return_inverse=True)
    _, b = np.unique(e.label.y[first], return_inverse=True)
    v = cramers_v(a, b)
    rng = np.random.default_rng(0)
    as_high = sum(cramers_v(a, rng.permutation(b)) >= v - 1e-12 for _ in range(PERMUTATIONS))
    return v, (1 + as_high) / (1 + PERMUTATIONS)


def _counted_once(e: Evidence, rows: Int64[np.ndarray, " r"], cells: np.ndarray) -> Int64[np.ndarray, " k"]:
    """One row a patient where all slides of each patient say the same; else all rows."""
    assert e.label is not None
    said = {(e.table.patient[i], int(e.label.y[i]), cells[i]) for i in rows}
    first = np.unique(e.table.patient[rows], return_index=True)[1]
    return rows[first] if len(said) == len(first) else rows


def _features_tell(e: Evidence, cells: np.ndarray, known: np.ndarray) -> tuple[float, float, float] | None:
    """Balanced accuracy of the nearest centroid, that of chance, and the permutation p; None if it cannot be asked."""
    g = e.g
    if g is None:
        return None
    use = np.flatnonzero(g.usable & known[e.rows])
    rows = e.rows[use]
    _, patient = np.unique(e.table.patient[rows], return_inverse=True)
    names, group = np.unique(cells[rows], return_inverse=True)
    patients = [len(np.unique(patient[group == c])) for c in range(len(names))]
    big = np.array([c for c, n in enumerate(patients) if n >= 3])
    if len(big) < 2:
        return None
    keep = np.isin(group, big)
    x = g.mean[use][keep]
    sd = x.std(0)
    x = (x[:, sd > 0] - x[:, sd > 0].mean(0)) / sd[sd > 0]
    _, group = np.unique(group[keep], return_inverse=True)
    patient = patient[keep]
    rng = np.random.default_rng(0)
    fold = rng.permutation(int(patient.max()) + 1)[patient] % FOLDS
    reached = _centroids(x, group, fold)
    dealt = []
    _, first, of = np.unique(patient, return_index=True, return_inverse=True)
    for _ in range(DEALS):  # a patient's slides keep one site
        dealt.append(_centroids(x, rng.permutation(group[first])[of], fold))
    p = (1 + sum(d >= reached - 1e-12 for d in dealt)) / (1 + DEALS)
    return reached, float(np.mean(dealt)), p


def _centroids(x: Float[np.ndarray, "b d"], group: Int64[np.ndarray, " b"], fold: Int64[np.ndarray, " b"]) -> float:
    """Balanced accuracy of the nearest centroid, cross-validated."""
    total = int(group.max()) + 1
    own = np.eye(total)[group]
    right = np.zeros(len(x), bool)
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        counts = own[train].sum(0)
        centre = (own[train].T @ x[train]) / np.maximum(counts, 1)[:, None]
        score = x[test] @ centre.T - 0.5 * (centre**2).sum(1) + np.where(counts > 0, 0, -np.inf)
        right[test] = score.argmax(1) == group[test]
    return float(np.mean([right[group == c].mean() for c in range(total) if (group == c).any()]))


def _mixed(e: Evidence) -> list[Finding]:
    """Encoders, mpp or tile widths that differ between the slides of one cohort, as their files say."""
    g = e.g
    if g is None:
        return []
    found = []
    facts = {"mpp": g.mpp, "tile_um": g.tile_um}
    encoder = np.array([e.encoders.get(name, "") for name in g.ids], np.str_)
    texts = {what: np.array([f"{v:.3g}" if np.isfinite(v) else "" for v in values]) for what, values in facts.items()}
    for what, cells in {**texts, "encoder": encoder}.items():
        kinds = sorted(set(cells.tolist()) - {""})
        if len(kinds) < 2:
            continue
        values = np.full(len(e.table), "", "U64")
        values[e.rows] = cells
        v, p = _with_label(e, values, values != "")
        tied = p <= P and v >= STRONG
        items = [
            f"{kind}: {int((cells == kind).sum())} slides, such as {g.ids[int(np.argmax(cells == kind))]}"
            for kind in kinds
        ]
        found.append(
            finding(
                f"mixed_{what}",
                "error" if tied and (v >= COMPLETE or what == "encoder") else "warning",
                items,
                f"slides differ in {what}"
                + (f", and it tells the label (Cramer's V {v:.2f}, p {p:.2g})" if tied else ""),
                "Extract all slides alike; a model may learn how a slide was made.",
                "certain: the files say so",
            )
        )
    return found
