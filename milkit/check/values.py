"""Values that are no features: NaN and infinity, constant columns, empty rows, and bags far off in length or norm."""

import re

import numpy as np
from jaxtyping import Bool, Float

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural

FAR = 6.0
"""Robust z score (median and 1.4826 x MAD of logarithms) beyond which a bag is far off; a normal law passes it once in
500 million. The MAD counts as at least `LEAST`, so that cohorts of equal bags are not judged by their last tile."""
LEAST = 0.1
REPEATED = 0.2
ALONE = 10.0
"""So many times beyond the next bag is far off too, however widely the others spread."""


def look(e: Evidence) -> list[Finding]:
    """All of them."""
    if e.g is None or not len(e.g.ids):
        return []
    return [f for found in (_refused(e), _broken(e), _constant(e), _empty(e), _far(e)) for f in found]


def _refused(e: Evidence) -> list[Finding]:
    """Slides that their reader refuses: no instance, values that are not finite, damage."""
    assert e.g is not None
    found = []
    for kind, severity, what, advice in (
        ("empty_bag", "warning", "without an instance", "Leave them out and say so."),
        ("non_finite", "error", "with NaN or infinity", "Extract these slides again."),
        ("unreadable", "error", "that cannot be read", "Copy or extract these files again."),
    ):
        bags = {name: said for name, said in e.g.faults.items() if _fault(said) == kind}
        if bags:
            found.append(
                finding(
                    kind,
                    "error" if severity == "error" else "warning",
                    list(bags),
                    f"{plural(len(bags), 'slide')} {what}: {next(iter(bags.values()))}",
                    advice,
                    "certain: the reader refused them",
                )
            )
    return found


def _fault(said: str) -> str:
    if re.search(r"shape \(0,", said):
        return "empty_bag"
    return "non_finite" if re.search(r"\bnan\b|\binf(inity|inite)?\b", said, re.IGNORECASE) else "unreadable"


def _broken(e: Evidence) -> list[Finding]:
    g = e.g
    assert g is not None
    bags = np.flatnonzero(g.broken)
    if not len(bags):
        return []
    columns = np.flatnonzero(g.broken_columns)
    few = ", ".join(map(str, columns[:8].tolist())) + (" ..." if len(columns) > 8 else "")
    return [
        finding(
            "non_finite",
            "error",
            [f"{g.ids[i]} ({g.broken[i]} of {g.lengths[i]} instances)" for i in bags.tolist()],
            f"NaN or infinity in {plural(len(bags), 'bag')} and {plural(len(columns), 'column')} (from 0: {few})",
            "Extract these slides again; one NaN makes a whole bag's prediction NaN.",
            "certain: counted",
        )
    ]


def constant_columns(e: Evidence) -> Bool[np.ndarray, " d"]:
    """Columns with one value in all bags."""
    assert e.g is not None
    use = e.g.usable
    return e.g.high[use].max(0) == e.g.low[use].min(0) if use.any() else np.zeros(e.g.mean.shape[1], bool)


def _constant(e: Evidence) -> list[Finding]:
    constant = np.flatnonzero(constant_columns(e))
    if not len(constant):
        return []
    assert e.g is not None
    d = e.g.mean.shape[1]
    return [
        finding(
            "constant_column",
            "warning" if len(constant) > d / 2 else "note",
            [f"column {j}" for j in constant.tolist()],
            f"{len(constant)} of {d} columns hold one value in all bags",
            "Harmless to training; a scaler that divides by their SD makes NaN. Look for a failed extraction.",
            "certain: counted",
        )
    ]


def _empty(e: Evidence) -> list[Finding]:
    g = e.g
    assert g is not None
    found = []
    none = np.array([i for i in np.flatnonzero(g.lengths == 0).tolist() if g.ids[i] not in g.faults], int)
    if len(none):
        found.append(
            finding(
                "empty_bag",
                "warning",
                [g.ids[i] for i in none.tolist()],
                f"{plural(len(none), 'bag')} without an instance",
                "Leave them out and say so.",
                "certain: counted",
            )
        )
    zero = np.flatnonzero((g.zero_rows > 0) & (g.zero_share < 0.5))
    if len(zero):
        items = [f"{g.ids[i]} ({g.zero_rows[i]} of {g.lengths[i]} instances)" for i in zero.tolist()]
        found.append(
            finding(
                "zero_rows",
                "warning",
                items,
                f"instances that are all zero in {plural(len(zero), 'bag')}",
                "These tiles were padded or failed; extract them again or drop them.",
                "certain: counted",
            )
        )
    again = np.flatnonzero(g.usable & (g.finite >= 8) & (g.distinct < (1 - REPEATED) * g.finite) & (g.zero_rows == 0))
    if len(again):
        found.append(
            finding(
                "repeated_tiles",
                "warning",
                [f"{g.ids[i]} ({g.distinct[i]} distinct of {g.finite[i]} instances)" for i in again.tolist()],
                f"{plural(len(again), 'bag')} with more than {REPEATED:.0%} of instances repeated to the bit",
                "Look at these slides: tiles written twice, or an extraction that failed (all tiles alike).",
                "certain: equal to the bit",
            )
        )
    return found


def _far(e: Evidence) -> list[Finding]:
    g = e.g
    assert g is not None
    found = []
    lengths = robust_z(np.log(np.maximum(g.lengths, 1)))
    for kind, z, value, what in (
        ("bag_length", lengths, g.lengths, "instances"),
        ("bag_norm", robust_z(_log(g.norm)), g.norm, "mean norm of an instance"),
    ):
        far = np.flatnonzero((np.abs(z) > FAR) | _alone(value))
        if len(far):
            middle = float(np.median(value[np.isfinite(value)]))
            far = far[np.argsort(-np.abs(z[far]))]
            found.append(
                finding(
                    kind,
                    "warning",
                    [f"{g.ids[i]} ({value[i]:.4g} against a median of {middle:.4g})" for i in far.tolist()],
                    f"{plural(len(far), 'bag')} far off in {what}",
                    "Look at these slides: another encoder, magnification or scale, or a tiling that failed."
                    if kind == "bag_norm"
                    else "Look at these slides: a tiling that failed, or background taken for tissue.",
                    f"robust z up to {float(np.abs(z[far]).max()):.1f} ({FAR:g} is called far), or {ALONE:g} times "
                    "beyond the next bag",
                )
            )
    return found


def _alone(value: np.ndarray) -> Bool[np.ndarray, " B"]:
    """A bag more than `ALONE` times beyond the next one, on either side."""
    alone = np.zeros(len(value), bool)
    good = np.flatnonzero(np.isfinite(value) & (value > 0))
    if len(good) >= 8:
        order = good[np.argsort(value[good])]
        alone[order[-1]] = value[order[-1]] > ALONE * value[order[-2]]
        alone[order[0]] = ALONE * value[order[0]] < value[order[1]]
    return alone


def _log(x: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    return np.log(np.where(x > 0, x, np.nan))


def robust_z(x: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """Distances from the median in units of 1.4826 x MAD; 0 where a value is not finite, or there are fewer than 8."""
    good = np.isfinite(x)
    if good.sum() < 8:
        return np.zeros(len(x))
    middle = np.median(x[good])
    spread = max(LEAST, 1.4826 * float(np.median(np.abs(x[good] - middle))))
    return np.where(good, (np.where(good, x, middle) - middle) / spread, 0.0)
