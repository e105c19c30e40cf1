"""What a check found: one defect, where it is, how sure, and what to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from milkit.data.where import and_more

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MOST_ITEMS = 200
"""Offenders that a finding lists one by one; their number is always given."""


@dataclass(frozen=True)
class Finding:
    """One defect.

    Attributes:
        kind: which, one word such as "patient_leak"; docs/check.md lists them.
        severity: "error": numbers made with these data mean something else than they say. "warning": likely a slip,
            or harmless in few studies only. "note": a reader should know.
        where: the offenders in words: split, patients, slides, columns.
        detail: what was seen.
        advice: what to do.
        sure: how sure, in words.
        items: the offenders one by one, the first `MOST_ITEMS`.
        count: how many there are.
    """

    kind: str
    severity: Severity
    where: str
    detail: str
    advice: str
    sure: str
    items: tuple[str, ...] = ()
    count: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON-able values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "where": self.where,
            "detail": self.detail,
            "advice": self.advice,
            "sure": self.sure,
            "count": self.count,
            "items": list(self.items),
        }


def finding(
    kind: str, severity: Severity, items: Iterable[str], detail: str, advice: str, sure: str, shown: int = 8
) -> Finding:
    """A finding whose `where` names the first offenders and says how many more there are."""
    every = list(items)
    return Finding(
        kind, severity, and_more(every[:shown], len(every)), detail, advice, sure, tuple(every[:MOST_ITEMS]), len(every)
    )


def by_severity(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; otherwise in the order they were found."""
    return tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))


def plural(count: int, word: str) -> str:
    """`1 slide`, `3 slides`, `2 classes`."""
    ending = "" if count == 1 else "es" if word.endswith(("s", "x")) else "s"
    return f"{count:,} {word}{ending}"
