"""What `milkit compare` does, as a function."""

from collections.abc import Sequence
from pathlib import Path

from milkit.metrics.intervals import DRAWS
from milkit.metrics.verdict import ALPHA, MARGIN
from milkit.report import comparison
from milkit.report.comparison_page import claim, write_comparison


def compare(
    runs: Sequence[str | Path],
    *,
    metrics: Sequence[str] = (),
    selections: Sequence[str] = (),
    reference: str | Path | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    out: str | Path | None = None,
    force: bool = False,
) -> comparison.Comparison:
    """Compare runs on the same patients, and write page, forest plot and tables where asked to.

    Args:
        runs: run folders, or CSVs of predictions (`milkit.report.foreign` says which).
        metrics: names; none for the main ones of the task, "all" for all.
        selections: none for the first of validation and last that all have, one for all, or one a run.
        reference: one of the runs, which all others are compared with; None compares every pair.
        margin: the smallest difference that matters, on the metric's own scale; a share of the second run's value for
            metrics without an upper end.
        alpha: two-sided error allowed over all that is compared.
        draws: bootstrap draws.
        out: folder to write; None writes nothing.
        force: write to a folder that holds files; others in it stay.

    Returns:
        All differences with their verdicts; `.json()` is what `milkit compare --json` prints.

    Raises:
        RunFolderError: runs that cannot be compared, or a folder that cannot be written.
        ConfigError: an unknown metric or reference, or a margin or alpha that cannot be.
    """
    if out is not None:
        claim(Path(out), force=force)
    found = comparison.compare(
        runs, metrics=metrics, selections=selections, reference=reference, margin=margin, alpha=alpha, draws=draws
    )
    if out is not None:
        write_comparison(found, Path(out))
    return found
