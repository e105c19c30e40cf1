"""Metrics of segmentation and localisation, in NumPy and SciPy; they know no files.

Each metric takes predictions and truths of one image or many and `weight` [n] or [draws, n] of images, as all of
`milkit.metrics`. For a whole test set use `image_statistics` image by image, then `stack`, `summarise` and
`segmentation_estimates`. Definitions, averages and empties in one table: `docs/segmentation_metrics.md`.
"""

from milkit.metrics.segmentation.contours import contours
from milkit.metrics.segmentation.curves import (
    auroc_bounds,
    histograms,
    pixel_auprc,
    pixel_auroc,
    pixel_prevalence,
)
from milkit.metrics.segmentation.distance import hausdorff
from milkit.metrics.segmentation.label_threshold import LabelThreshold, label_threshold
from milkit.metrics.segmentation.localisation import froc, instance_auprc, instance_pointing, pointing_game
from milkit.metrics.segmentation.objects import aji, instances, object_dice, object_hausdorff, object_iou
from milkit.metrics.segmentation.oracle import oracle_component, oracle_dice
from milkit.metrics.segmentation.paired import PairedDifference, from_confusion, paired
from milkit.metrics.segmentation.pixels import accuracy, confusions, dice, f1_neg, f1_pos, iou, miou
from milkit.metrics.segmentation.points import at_points, point_estimates, point_statistics
from milkit.metrics.segmentation.statistics import (
    ImageStatistics,
    Wanted,
    image_statistics,
    per_patient,
    stack,
    summarise,
)
from milkit.metrics.segmentation.study import (
    SegmentationDifference,
    SegmentationEstimate,
    SegmentationRun,
    compare_segmentations,
    segmentation_estimates,
)

__all__ = [
    "ImageStatistics",
    "LabelThreshold",
    "PairedDifference",
    "SegmentationDifference",
    "SegmentationEstimate",
    "SegmentationRun",
    "Wanted",
    "accuracy",
    "aji",
    "at_points",
    "auroc_bounds",
    "compare_segmentations",
    "confusions",
    "contours",
    "dice",
    "f1_neg",
    "f1_pos",
    "froc",
    "from_confusion",
    "hausdorff",
    "histograms",
    "image_statistics",
    "instance_auprc",
    "instance_pointing",
    "instances",
    "iou",
    "label_threshold",
    "miou",
    "object_dice",
    "object_hausdorff",
    "object_iou",
    "oracle_component",
    "oracle_dice",
    "paired",
    "per_patient",
    "pixel_auprc",
    "pixel_auroc",
    "pixel_prevalence",
    "point_estimates",
    "point_statistics",
    "pointing_game",
    "segmentation_estimates",
    "stack",
    "summarise",
]
