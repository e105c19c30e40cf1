"""A validation part for splits that came without one."""

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.draws import Draws
from milkit.data.protocol.rng import Purpose, stream


def with_validation(
    draws: Draws,
    train: Int64[np.ndarray, " t"],
    held: Int64[np.ndarray, " v"],
    share: float,
    seed: int,
    number: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Take a validation part from a training part, unless there is one.

    Args:
        draws: whose units are drawn.
        train: rows of the training part.
        held: rows of the validation part; kept as it is, if there is any.
        share: of the training part's units.
        seed: of the draw.
        number: (repeat, fold) of the split, which with the seed decides the draw.

    Returns:
        Rows that train and rows that validate.
    """
    if len(held) == 0 and len(train) > 0 and share > 0:
        rng = stream(seed, *number, Purpose.VALIDATION)
        held = draws.units.rows(draws.validation(draws.units.of_rows(train), share, rng))
        held = np.intersect1d(held, train)  # a patient with bags outside training gives those in it only
    return np.setdiff1d(train, held), held
