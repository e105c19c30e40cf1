"""Images as bags of pixels: folders with a table, their masks for scoring, crops and windows."""

from milkit.data.images.cohort import ImageCohort
from milkit.data.images.crops import ImageCrops
from milkit.data.images.known import KnownImages
from milkit.data.images.masks import Masks
from milkit.data.images.windows import stitch, windows

ImageSet = ImageCohort | ImageCrops | KnownImages
"""What an experiment's `data` may be where bags are images."""

__all__ = ["ImageCohort", "ImageCrops", "ImageSet", "KnownImages", "Masks", "stitch", "windows"]
