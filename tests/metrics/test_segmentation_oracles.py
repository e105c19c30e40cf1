"""Segmentation metrics against OpenCV and scikit-image, which are heavy and so only here."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from milkit.metrics import segmentation as seg

pytestmark = pytest.mark.parity


def masks(n: int):
    """Smooth blobs, rags and noise of several sizes, some touching every edge."""
    for i in range(n):
        rng = np.random.default_rng(i)
        shape = tuple(int(v) for v in rng.integers(1, 70, 2))
        noise = rng.normal(size=shape)
        yield (gaussian_filter(noise, 2.5) if i % 3 else noise) > rng.choice([-0.5, 0.0, 0.1, 0.7])


def test_contours_of_opencv():
    cv2 = pytest.importorskip("cv2")
    for mask in masks(120):
        theirs, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        ours = seg.contours(mask)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b[:, 0])


def test_hausdorff_rank_of_opencv():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "createHausdorffDistanceExtractor"):
        pytest.skip(f"OpenCV {cv2.__version__} is built without its shape module")
    extractor = cv2.createHausdorffDistanceExtractor()
    for a, b in zip(masks(40), masks(40), strict=True):
        b = np.roll(b, 2, 0)
        if not (a.any() and b.any()):
            continue
        points = [np.concatenate(seg.contours(m))[:, None].astype(np.int32) for m in (a, b)]
        assert seg.hausdorff(a, b, mode="opencv_rank") == pytest.approx(extractor.computeDistance(*points), rel=1e-6)


def test_labels_and_distances_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    metrics = pytest.importorskip("skimage.metrics")
    for i, mask in enumerate(masks(60)):
        values = mask * np.random.default_rng(i).integers(1, 4, mask.shape)
        np.testing.assert_array_equal(seg.instances(values), measure.label(values, connectivity=2))
        other = np.roll(mask, 3, 1) & (np.random.default_rng(i).uniform(size=mask.shape) < 0.9)
        if mask.any() and other.any():
            assert seg.hausdorff(mask, other) == pytest.approx(metrics.hausdorff_distance(mask, other), rel=1e-12)
