"""A patient, a slide or a site that stands on both sides of a split."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural
from milkit.check.folds import ROLES, Roles

EVIDENT = 1e-3
"""Chance below which sites that stand whole are taken to be meant so."""

_BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?=-|$)", re.IGNORECASE)


def look(e: Evidence) -> list[Finding]:
    """Slides, patients and sites in two roles."""
    return [f for found in (_slides(e), _patients(e), _spelled(e), _sites(e)) for f in found]


def _slides(e: Evidence) -> list[Finding]:
    items = [f"{name} ({', '.join(roles)}; {s.name})" for s in e.folds.splits for name, roles in s.twice]
    if not items:
        return []
    kind = "slide_leak" if e.folds.level == "slide" else "patient_leak"
    what = "slide" if e.folds.level == "slide" else "patient"
    many = len({item.partition(" (")[0] for item in items})
    return [
        finding(
            kind,
            "error",
            items,
            f"{plural(many, what)} given two roles in one split of {e.folds.file}",
            f"Give each {what} one role in a split; a test part that holds training {what}s measures memory.",
            "certain: the ids are equal",
        )
    ]


def _patients(e: Evidence) -> list[Finding]:
    patient = e.table.patient if "patient" in e.table.used else _told(e)
    items = _crossing(e.folds.splits, patient, e.table.slide)
    sure = "certain: the patient ids are equal"
    if not items and "patient" not in e.table.used:
        barcodes = [_BARCODE.match(name) for name in e.table.slide.tolist()]
        patient = np.array([m.group() if m else s for m, s in zip(barcodes, e.table.slide.tolist(), strict=True)])
        items = _crossing(e.folds.splits, patient, e.table.slide)
        sure = "likely: the slide ids are TCGA barcodes, whose first twelve characters name the patient"
    if not items:
        return []
    return [
        finding(
            "patient_leak",
            "error",
            [f"{name} {how}" for name, how in items.items()],
            f"{plural(len(items), 'patient')} with slides in two roles of one split",
            "Keep all slides of a patient in one role: draw the folds by patient, or move these slides.",
            sure,
        )
    ]


def _told(e: Evidence) -> np.ndarray:
    """The patients that the folds name, where the table names none."""
    return np.where(e.folds.patient != "", e.folds.patient, e.table.slide) if len(e.folds.patient) else e.table.patient


def _crossing(
    splits: Sequence[Roles], name: np.ndarray, slide: np.ndarray, sides: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Names in two roles of a split, each with the first split and a slide of each role."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    _, number = np.unique(name, return_inverse=True)
    total = int(number.max()) + 1 if len(number) else 0
    for split in splits:
        sided = {role: (sides or {}).get(role, role) for role in ROLES}
        held = {side: np.zeros(total, bool) for side in dict.fromkeys(sided.values())}
        for role in ROLES:
            held[sided[role]][number[split.role == role]] = True
        both = np.flatnonzero(sum(there.astype(int) for there in held.values()) > 1)
        for one in both.tolist():
            rows = np.flatnonzero((number == one) & (split.role != ""))
            who = str(name[rows[0]])
            if who not in found and who:
                of = {sided[str(split.role[i])]: str(slide[i]) for i in rows[::-1]}
                said = "; ".join(f"{role}: {s}" if s != who else role for role, s in of.items())
                found[who] = f"({split.name}: {said}"
            counts[who] = counts.get(who, 0) + 1
    more = {who: f", and {counts[who] - 1} more splits)" if counts[who] > 1 else ")" for who in found}
    return {who: text + more[who] for who, text in found.items()}


def _spelled(e: Evidence) -> list[Finding]:
    """Patients that differ in leading zeros, case or blanks only, and stand in two roles."""
    if "patient" not in e.table.used:
        return []
    plain = np.array([_plain(p) for p in e.table.patient.tolist()], np.str_)
    spellings: dict[str, set[str]] = {}
    for short, full in zip(plain.tolist(), e.table.patient.tolist(), strict=True):
        spellings.setdefault(short, set()).add(full)
    double = {short: sorted(names) for short, names in spellings.items() if len(names) > 1}
    if not double:
        return []
    crossing = _crossing(e.folds.splits, plain, e.table.slide)
    items = [f"{' and '.join(names)} {crossing.get(short, '')}".strip() for short, names in double.items()]
    across = any(short in crossing for short in double)
    return [
        finding(
            "patient_spelled_twice",
            "warning",
            items,
            f"{plural(len(double), 'patient')} spelled in two ways (zeros, case or blanks)"
            + (", in two roles of a split" if across else ""),
            "If they are one person, give one spelling and draw the folds again.",
            "likely: the ids differ in form only",
        )
    ]


def _plain(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"[\s_\-]+", "", name.casefold()))


def _sites(e: Evidence) -> list[Finding]:
    site = e.table.site
    if "site" not in e.table.used or len(set(site.tolist()) - {""}) < 2 or not e.folds.splits:
        return []
    sides = {"train": "train or validation", "validation": "train or validation", "test": "test"}
    known = np.where(site == "", "", site)
    splits = [Roles(s.name, np.where(known == "", "", s.role)) for s in e.folds.splits]
    items = _crossing(splits, known, e.table.slide, sides)
    items.pop("", None)
    if not items:
        return []
    said = e.folds.grouped_by == "site"
    chance = _chance_whole(splits, known, e.table.patient)
    meant = said or chance < EVIDENT
    total = len(set(site.tolist()) - {""})
    why = "the folds say that they keep sites whole" if said else f"the other sites stand whole (chance {chance:.1g})"
    return [
        finding(
            "site_leak",
            "error" if meant else "note",
            [f"{name} {how}" for name, how in items.items()],
            f"{len(items)} of {plural(total, 'site')} on both sides of a split" + (f", though {why}" if meant else ""),
            "Keep each site on one side, or say that the numbers speak of new patients of known sites only."
            if meant
            else "Nothing, if the claim is about new patients of known sites; for new sites draw folds by site.",
            "certain: the names are equal" if meant else "certain, but folds need not keep sites whole",
        )
    ]


def _chance_whole(splits: Iterable[Roles], site: np.ndarray, patient: np.ndarray) -> float:
    """Chance that as many sites of several patients stand whole in a split, were patients dealt without regard to them.

    The smallest over splits, times their number. A site of m patients stands whole with p^m + (1 - p)^m, where p is the
    share of patients tested; the number of whole sites is then a sum of independent trials.
    """
    splits = list(splits)
    least = 1.0
    for split in splits:
        used = split.role != ""
        first = np.unique(patient[used], return_index=True)[1]
        test, where = split.role[used][first] == "test", site[used][first]
        p = float(test.mean()) if len(test) else 0.0
        odds, whole = np.ones(1), 0
        for name in set(where.tolist()) - {""}:
            members = test[where == name]
            if len(members) > 1:
                one = p ** len(members) + (1 - p) ** len(members)
                odds = np.convolve(odds, [1 - one, one])
                whole += int(members.all() or not members.any())
        least = min(least, float(odds[whole:].sum()))
    return min(1.0, least * len(splits))
