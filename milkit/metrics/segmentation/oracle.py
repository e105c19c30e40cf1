"""What an unsupervised segmentation would score if somebody who knows the mask chose its foreground.

A mixture or a clustering parts an image into components and does not say which is foreground. Publications choose, in
each image, the component that fits the mask best: that is a number of the choice as much as of the method, rises with
the number of components, and no one can have it on an image without a mask. So it stands apart from `dice`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import DataError
from milkit.metrics.draws import Value, Weight, finish
from milkit.metrics.segmentation.masks import as_images, as_mask
from milkit.metrics.segmentation.pixels import NEITHER, Average, dice_of, image_terms
from milkit.metrics.segmentation.terms import mean_of, summed

Components = Sequence[Float[np.ndarray, "_ _ _"]] | Float[np.ndarray, "n h w k"]
"""Of each image the share of each component in each pixel, [h, w, k]."""


def oracle_dice(
    components: Components, truth: Sequence[np.ndarray] | np.ndarray, *, average: Average = "image",
    empty: float = 1.0, weight: Weight = None,
) -> Value:  # fmt: skip
    """Dice of the component that fits each image's mask best: chosen WITH the mask, an upper bound. Range 0 to 1.

    A pixel belongs to the component with the largest share in it.

    Args:
        components: shares of the components.
        truth: masks of 0 and 1, [h, w] each.
        average: `image` is the mean over images, as published; `pooled` adds the pixels of all images, each with its
            own choice, before dividing.
        empty: `image` only: value of an image without foreground in which some component has no pixel.
        weight: of images, [n] or [draws, n].

    Raises:
        DataError: sizes that differ, or values that are no shares.

    References:
        Nan et al. (2022), IEEE TMI 41:3799: the evaluation of unsupervised methods in the authors' code.
    """
    matrix, _ = _best(components, truth, empty)
    if average == "image":
        return mean_of(image_terms(matrix, 1, "dice", empty), weight, NEITHER)
    return finish(dice_of(summed(matrix.reshape(-1, 4), weight).reshape(-1, 2, 2))[:, 1], weight, NEITHER)


def oracle_component(components: Components, truth: Sequence[np.ndarray] | np.ndarray) -> Int[np.ndarray, "n"]:
    """The component that `oracle_dice` chooses in each image; of equal ones the first."""
    return _best(components, truth, 1.0)[1]


def _best(
    components: Components, truth: Sequence[np.ndarray] | np.ndarray, empty: float
) -> tuple[Float[np.ndarray, "n 2 2"], Int[np.ndarray, "n"]]:
    """Of each image the confusion matrix of the component with the highest Dice, and which that is."""
    truths = as_images(truth, "truth")
    if len(components) != len(truths):
        raise DataError(f"Components of {len(components)} images, but {len(truths)} truth masks; give one mask each.")
    matrices, chosen = [], []
    for i, (shares, mask) in enumerate(zip(components, truths, strict=True)):
        shares = np.asarray(shares)
        if shares.ndim != 3 or shares.shape[:2] != mask.shape:
            raise DataError(
                f"Image {i}: components are {shares.shape}, its truth {mask.shape}; expected [height, width, "
                "components] of the truth's size."
            )
        if not (shares.min() >= 0 and shares.max() <= 1 + 1e-6):  # NaN fails both
            raise DataError(f"Image {i}: shares go from {shares.min()} to {shares.max()}; expected 0 to 1.")
        true, k = as_mask(mask, 0.5, f"Truth {i}"), shares.shape[2]
        called = shares.argmax(-1)
        hit, false = np.bincount(called[true], minlength=k), np.bincount(called[~true], minlength=k)
        each = np.stack([(~true).sum() - false, false, true.sum() - hit, hit], 1).reshape(k, 2, 2).astype(np.float64)
        value = dice_of(each)[:, 1]
        value = np.where(np.isnan(value), empty if np.isfinite(empty) else -1.0, value)
        chosen.append(int(value.argmax()))
        matrices.append(each[chosen[-1]])
    return np.stack(matrices), np.array(chosen)
