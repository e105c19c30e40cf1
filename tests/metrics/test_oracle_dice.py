"""Dice of the best component, by hand."""

import numpy as np
import pytest

from milkit.errors import DataError
from milkit.metrics.segmentation import dice, oracle_component, oracle_dice


def shares(labels, k=3):
    """Component maps whose largest share lies where `labels` says."""
    return 0.2 + 0.4 * np.eye(k)[np.array(labels)]


# two images of 2 x 3; in the first component 1 is the foreground but for a pixel, in the second component 2 exactly
COMPONENTS = [shares([[1, 1, 0], [0, 2, 0]]), shares([[2, 0, 0], [2, 1, 1]])]
TRUTHS = [np.array([[1, 1, 1], [0, 0, 0]]), np.array([[1, 0, 0], [1, 0, 0]])]


def test_each_image_has_its_own_choice():
    assert oracle_component(COMPONENTS, TRUTHS).tolist() == [1, 2]
    # first image: 2 of 3 found, none false: 2 * 2 / (3 + 2) = .8; second: 1
    assert oracle_dice(COMPONENTS, TRUTHS) == pytest.approx(0.9)
    assert oracle_dice(COMPONENTS, TRUTHS, average="pooled") == pytest.approx(2 * 4 / (5 + 4))
    np.testing.assert_allclose(oracle_dice(COMPONENTS, TRUTHS, weight=np.array([[1, 0], [1, 3]])), [0.8, 3.8 / 4])


def test_it_is_no_less_than_any_one_component():
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(4), (5, 6)) for _ in range(7)]
    truths = [rng.random((5, 6)) < 0.4 for _ in maps]
    each = [dice([m.argmax(-1) == k for m in maps], truths, average="image") for k in range(4)]
    pairs = list(zip(maps, truths, strict=True))
    per_image = [max(dice([m.argmax(-1) == k], [t], average="image") for k in range(4)) for m, t in pairs]
    assert oracle_dice(maps, truths) == pytest.approx(np.mean(per_image))
    assert oracle_dice(maps, truths) > max(each)


def test_an_image_without_foreground():
    """A component that nobody belongs to is right about it; where all have pixels each is wrong."""
    blank = np.zeros((2, 3), int)
    assert oracle_dice([shares([[0, 1, 0], [0, 0, 0]])], [blank]) == 1
    assert oracle_dice([shares([[0, 1, 0], [0, 0, 2]])], [blank]) == 0
    both = [COMPONENTS[1], shares([[0, 1, 0], [0, 0, 0]])]
    assert oracle_dice(both, [TRUTHS[1], blank], empty=np.nan) == pytest.approx(0.5)  # the nobody's has no value


@pytest.mark.parametrize(
    ("components", "truth", "said"),
    [
        (COMPONENTS[:1], TRUTHS, "1 images, but 2"),
        ([COMPONENTS[0][:, :2]], TRUTHS[:1], r"\(2, 2, 3\), its truth \(2, 3\)"),
        ([COMPONENTS[0] * 9], TRUTHS[:1], "expected 0 to 1"),
        ([COMPONENTS[0] * np.nan], TRUTHS[:1], "expected 0 to 1"),
    ],
)
def test_refused(components, truth, said):
    with pytest.raises(DataError, match=said):
        oracle_dice(components, truth)
