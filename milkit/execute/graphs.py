"""The graph of tiles that an experiment's models read: worked out once for a study, not at every step."""

from collections.abc import Sequence

from milkit.data.neighbours import MOST_NEIGHBOURS, Nearest
from milkit.experiment import Experiment


def nearest_wanted(experiments: Sequence[Experiment]) -> Nearest | None:
    """The neighbours that models ask for by their fields `neighbours` and `radius_um`.

    None where no model asks, or several ask for different ones: a model that is handed none finds them itself.
    """
    wanted = {
        Nearest(count, getattr(e.model, "radius_um", None))
        for e in experiments
        if isinstance(count := getattr(e.model, "neighbours", None), int) and count <= MOST_NEIGHBOURS
    }
    return wanted.pop() if len(wanted) == 1 else None
