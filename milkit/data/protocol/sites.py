"""Sites of units: which sites share patients and so cannot be parted, and what is balanced over them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from milkit.data.protocol.units import Outcome, Units
from milkit.data.study import Study
from milkit.errors import ProtocolError

REGRESSION_BINS = 4  # quartiles: enough to keep the folds' distributions alike, few enough to be attainable


@dataclass(frozen=True, eq=False)
class Sites:
    """Blocks of sites that must stay together, and the patients in them.

    Attributes:
        name: of each block ("A", or "A+B" where patients were seen at both), text [s].
        of_unit: block of each unit, int64 [u].
        kinds: what is balanced over sites, 0/1 for each unit, int64 [u, c].
        required: kinds of which every part should hold at least one, bool [c].
    """

    name: np.ndarray
    of_unit: np.ndarray
    kinds: np.ndarray
    required: np.ndarray

    def among(self, members: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " s"]:
        """Blocks that have a unit among `members`, rising."""
        return np.unique(self.of_unit[members])

    def tally(
        self, members: Int64[np.ndarray, " m"]
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, "s c"], Int64[np.ndarray, " s"]]:
        """For the blocks among `members`: each member's place in them, units of each kind, and all units."""
        blocks, place = np.unique(self.of_unit[members], return_inverse=True)
        counts = np.zeros((len(blocks), self.kinds.shape[1]), np.int64)
        np.add.at(counts, place, self.kinds[members])
        return place.astype(np.int64), counts, np.bincount(place, minlength=len(blocks)).astype(np.int64)


def sites_of(study: Study, units: Units) -> Sites:
    """Gather the sites of a study.

    Raises:
        ProtocolError: a site is unknown.
    """
    unknown = np.unique(study.patient[study.site == ""])
    if len(unknown):
        raise ProtocolError(
            f'group="site" needs the site of every patient, but {len(unknown)} have none: {listed(unknown)}. '
            'Fill the site column of the cohort table, or use group="patient".'
        )
    names, site = np.unique(study.site, return_inverse=True)
    block_of_site = _joined(site.astype(np.int64), units.of_bag, len(names), len(units))
    joined = ["+".join(names[block_of_site == b]) for b in range(int(block_of_site.max()) + 1)]
    of_unit = np.zeros(len(units), np.int64)
    of_unit[units.of_bag] = block_of_site[site]
    kinds, required = _kinds(units.outcome)
    return Sites(np.array(joined), of_unit, kinds, required)


def _joined(
    site: Int64[np.ndarray, " b"], unit: Int64[np.ndarray, " b"], n_sites: int, n_units: int
) -> Int64[np.ndarray, " s"]:
    """Block of each site: sites that share a unit have one block."""
    n = n_sites + n_units
    links = coo_array((np.ones(len(site)), (site, n_sites + unit)), shape=(n, n))
    component = connected_components(links, directed=False)[1][:n_sites]
    return np.unique(component, return_inverse=True)[1].astype(np.int64)


def _kinds(outcome: Outcome) -> tuple[Int64[np.ndarray, "u c"], Bool[np.ndarray, " c"]]:
    """Indicator of what is balanced over sites, and which of it every part should have."""
    if outcome.kind == "labels" and outcome.labels is not None:
        everyone = np.ones((len(outcome.labels), 1), np.int64)  # labels overlap, so sizes are balanced apart
        kinds = np.concatenate([outcome.labels, everyone], axis=1)
        return kinds, np.ones(kinds.shape[1], bool)
    if outcome.kind == "values":
        ranks = np.argsort(np.argsort(outcome.spread, kind="stable"), kind="stable")
        bins = REGRESSION_BINS if np.ptp(outcome.spread) > 0 else 1
        kinds = (ranks[:, None] * bins // len(ranks) == np.arange(bins)).astype(np.int64)
        return kinds, np.zeros(bins, bool)
    kinds = (outcome.stratum[:, None] == np.arange(len(outcome.names))).astype(np.int64)
    required = np.ones(kinds.shape[1], bool)
    if outcome.kind == "events":
        required[0] = False  # a fold in which nobody is censored is fine
    return kinds, required


def listed(names: np.ndarray | list[str], most: int = 10) -> str:
    """Up to ten names, and how many more there are."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
