"""Labels that the feature files state against those of the table."""

from collections import Counter

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural


def look(e: Evidence) -> list[Finding]:
    """Slides whose file and whose row say different things."""
    if e.label is None or e.label.numeric or not e.bag_labels:
        return []
    rows = {slide: i for i, slide in enumerate(e.table.slide.tolist())}
    back = {slide: row for row, slide in e.repaired.items()}
    both = [
        (slide, said, str(e.label.text[rows[name]]))
        for slide, said in e.bag_labels.items()
        if (name := back.get(slide, slide)) in rows and e.label.y[rows[name]] >= 0
    ]
    if not both:
        return []
    same = _words(both)
    wrong = [f"{slide} (file: {said}, table: {cell})" for slide, said, cell in both if same.get(said) != cell]
    if not wrong:
        return []
    return [
        finding(
            "label_mismatch",
            "error",
            wrong,
            f"{len(wrong)} of {plural(len(both), 'slide')} have another label in their feature file than in column "
            f"{e.label.column!r}",
            "Find out which is right, and mend the table or the files.",
            "certain: both are written down"
            if all(a == b for a, b in same.items())
            else f"likely: the files' labels were taken to mean {same}, as most slides have them",
        )
    ]


def _words(both: list[tuple[str, str, str]]) -> dict[str, str]:
    """Which cell of the table a file's label stands for: itself if the table has it, else what most slides say."""
    cells = {cell for _, _, cell in both}
    if {said for _, said, _ in both} <= cells:
        return {cell: cell for cell in cells}
    votes: dict[str, Counter[str]] = {}
    for _, said, cell in both:
        votes.setdefault(said, Counter())[cell] += 1
    taken: dict[str, str] = {}
    for said, count in sorted(votes.items(), key=lambda item: -max(item[1].values())):
        free = [cell for cell, _ in count.most_common() if cell not in taken.values()]
        if free:
            taken[said] = free[0]
    return taken
