"""From a run folder to its report."""

from pathlib import Path

from milkit.errors import RunFolderError
from milkit.report.blocks import Page
from milkit.report.html import to_html
from milkit.report.markdown import to_markdown
from milkit.report.sections.cohort import cohort
from milkit.report.sections.few_labels import few_labels
from milkit.report.sections.groups import groups
from milkit.report.sections.making import making
from milkit.report.sections.numbers import numbers
from milkit.report.sections.opening import opening
from milkit.report.sections.pictures import pictures
from milkit.report.sections.probabilities import probabilities_section
from milkit.report.sections.search import search
from milkit.report.sections.segmentation import segmentation
from milkit.report.sections.survival import survival
from milkit.report.source import Source, read_source
from milkit.report.tables import to_csv, to_tex


def write_report(run_folder: Path) -> Path:
    """Write `report.html`, `report.md`, `figures/*.png`, `table.tex` and `table.csv` from the files of a run folder.

    Args:
        run_folder: holds at least `config.json`, `results.json` and `predictions.csv`.

    Returns:
        The path of `report.html`, which needs no other file.

    Raises:
        RunFolderError: a file is missing or damaged, or the report cannot be written.
    """
    folder = Path(run_folder)
    source = read_source(folder)
    try:
        _clear(folder / "figures")
        page = make_page(source)
        for name, text in (
            ("report.md", to_markdown(page)),
            ("table.tex", to_tex(source)),
            ("table.csv", to_csv(source)),
            ("report.html", to_html(page)),
        ):
            _write(folder / name, text)
    except OSError as error:
        raise RunFolderError(
            f"The report of {folder} could not be written: {error.strerror or error}; the numbers in results.json are "
            "untouched. Give it room and permission, then `milkit report` again."
        ) from None
    return folder / "report.html"


def make_page(source: Source) -> Page:
    """All sections in order; draws and saves the figures on the way."""
    blocks = [
        *opening(source),
        *cohort(source),
        *numbers(source),
        *segmentation(source),
        *few_labels(source),
        *survival(source),
        *groups(source),
        *probabilities_section(source),
        *pictures(source),
        *search(source),
        *making(source),
    ]
    return Page(source.name, tuple(blocks))


def _clear(figures: Path) -> None:
    """An older report's figures would stay beside the new ones."""
    figures.mkdir(exist_ok=True)
    for old in (*figures.glob("*.png"), figures / "decision_curve.csv"):
        old.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
