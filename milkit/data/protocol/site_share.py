"""Draw a share of the patients as whole sites, the outcome balanced."""

import numpy as np
from jaxtyping import Bool, Int64

from milkit.data.protocol.rng import shuffled

TRIES = 64
BEST_OF = 4
WIDEST = 2.0  # a part between half and twice the share asked for is taken; sites come in sizes


def draw_sites(
    counts: Int64[np.ndarray, "s c"],
    patients: Int64[np.ndarray, " s"],
    required: Bool[np.ndarray, " c"],
    share: float,
    rng: np.random.Generator,
) -> tuple[Bool[np.ndarray, " s"], bool]:
    """Draw sites that together hold about `share` of every kind of patient.

    Sites are met in random order and taken where that brings the part nearer to its share of each kind (least
    squares). The best of the first few draws that fit is kept; the best of all would be the same sites each time,
    and redraws are meant to differ.

    Args:
        counts: patients of each kind at each site.
        patients: at each site.
        required: kinds of which both sides should have two at least (where there are two).
        share: of the patients, between 0 and 1.
        rng: the stream of this draw.

    Returns:
        The sites drawn, and whether they fit: between half and twice the share, both sides with two required
        kinds. Otherwise it is the draw that came nearest.
    """
    fitting: list[tuple[float, np.ndarray]] = []
    others: list[tuple[float, np.ndarray]] = []
    for _ in range(TRIES):
        drawn = _one(counts, share, rng)
        distance = float(((counts[drawn].sum(0) - share * counts.sum(0)) ** 2).sum())
        if _fits(counts, patients, required, share, drawn):
            fitting.append((distance, drawn))
        elif drawn.any() and not drawn.all():
            others.append((distance, drawn))
        if len(fitting) == BEST_OF:
            break
    if fitting or others:
        return min(fitting or others, key=lambda found: found[0])[1], bool(fitting)
    smallest = np.arange(len(counts)) == np.argmin(patients)  # every site is too big: the smallest is nearest
    return smallest & (len(counts) > 1), False


def _one(counts: Int64[np.ndarray, "s c"], share: float, rng: np.random.Generator) -> Bool[np.ndarray, " s"]:
    missing = share * counts.sum(0)
    drawn = np.zeros(len(counts), bool)
    for site in shuffled(len(counts), rng):
        rest = missing - counts[site]
        if (rest**2).sum() < (missing**2).sum():
            drawn[site], missing = True, rest
    return drawn


def _fits(
    counts: Int64[np.ndarray, "s c"],
    patients: Int64[np.ndarray, " s"],
    required: Bool[np.ndarray, " c"],
    share: float,
    drawn: Bool[np.ndarray, " s"],
) -> bool:
    part, rest = counts[drawn].sum(0), counts[~drawn].sum(0)
    held = int(patients[drawn].sum()) / int(patients.sum())
    enough = share / WIDEST <= held <= share * WIDEST and held < 1
    kinds = min(2, int((counts[:, required].sum(0) > 0).sum()))
    return enough and bool(min((part[required] > 0).sum(), (rest[required] > 0).sum()) >= kinds)
