"""Images as bags of pixels: folders with a table, their masks for scoring, crops and windows."""

from milkit.data.images.cohort import ImageCohort
from milkit.data.images.masks import Masks

__all__ = ["ImageCohort", "Masks"]
