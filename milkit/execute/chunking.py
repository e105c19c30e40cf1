"""How much a step holds on to, and the chunks in which bags are read that are too long for it."""

from milkit.data.study import Study
from milkit.experiment import Experiment

AT_ONCE = 8192
"""Instances of a chunk where the experiment does not say: large enough for fast matrix products."""


def held_by_a_run(experiment: Experiment, study: Study, at_once: int | None = None) -> int:
    """About how many bytes one run holds in a step: float32, forward and backward of its batch.

    Or forward alone over the longest bag, which evaluation sees whole. Scores, masks and rows of a chunked bag are few
    bytes an instance and left out.
    """
    longest = int(study.lengths.max())
    trained = min(longest, experiment.train.max_instances or longest)
    if at_once is not None:
        longest, trained = min(longest, at_once), min(trained, at_once)
    wide = max(study.features, 512)
    return max(12 * trained * experiment.train.batch_bags * wide, 8 * longest * wide)


def instances_at_once(experiment: Experiment, study: Study, budget: int) -> int | None:
    """The size of the chunks, or None where bags are held whole.

    What the experiment says; else chunks only where a single run would hold more than `budget` bytes and the model can
    do with them. Like the width it depends on the configuration and the data alone, so that bits can be promised.
    """
    said = experiment.train.instances_at_once
    if said is not None or not getattr(experiment.model, "chunked", False):
        return said
    return AT_ONCE if held_by_a_run(experiment, study) > budget else None
