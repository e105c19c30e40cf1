"""From a run folder to what its page can ask."""

from pathlib import Path

from milkit.viewer.files import find_files, named_slides, stores_of
from milkit.viewer.listed import ViewedRun, beside, read_run
from milkit.viewer.maps import Asked, Maps
from milkit.viewer.server import Viewer


def open_viewer(
    folder: Path,
    *,
    slides: Path | None = None,
    store: Path | None = None,
    cohort: Path | None = None,
    mpp: float | None = None,
    trust_source: bool = False,
) -> Viewer:
    """Read a run folder and find its slides; neither slides nor models are opened yet.

    Args:
        folder: of a finished run.
        slides: folder of the slide files; None takes those that the store names.
        store, cohort: features and table, where they have moved.
        mpp: micrometres a pixel of level 0 of all slides, where files and store do not say it.
        trust_source: import the saved source of a model that is not milkit's own, which runs its code.

    Raises:
        MilkitError: no finished run, or a folder or store that was named and cannot be used.
    """
    run = read_run(folder)
    stores = stores_of(run.features, store)
    run = beside(run, named_slides(stores))
    found = find_files([one.slide for one in run.slides], stores, slides, mpp)
    why = _why_no_map(run, bool(stores))
    asked = Asked(folder, store=store, cohort=cohort, mpp=mpp, trust_source=trust_source)
    return Viewer(run, found, why or Maps(asked))


def _why_no_map(run: ViewedRun, any_store: bool) -> str:
    """What is known beforehand; all else the models' data say when they are asked."""
    if any_store:
        return ""
    if run.features:
        return (
            f"No heat maps: the run's features, {', '.join(run.features)}, are not there. Start with --store STORE.h5."
        )
    return "No heat maps: the run's data are not features of slides with positions of tiles."
