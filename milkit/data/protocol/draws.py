"""One way to draw for every protocol: by patient or by whole sites, stratified or not."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from milkit.data.protocol.site_preserving import balance
from milkit.data.protocol.site_share import draw_sites
from milkit.data.protocol.sites import Sites, listed, sites_of
from milkit.data.protocol.stratify import deal, draw, size_of_share
from milkit.data.protocol.units import Units, units_of
from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.task import Task

Group = Literal["patient", "site"]
NOT_PROVED = (
    "The balance of the outcome over sites is the best found, not proved to be the best possible: the "
    "integer program stopped at its limit."
)


@dataclass(frozen=True, eq=False)
class Draws:
    """Who is drawn and how.

    Attributes:
        units: patients; or bags, where patients may stand in two roles.
        sites: where sites are kept whole, else None.
    """

    units: Units
    sites: Sites | None

    @property
    def everyone(self) -> Int64[np.ndarray, " u"]:
        """All units."""
        return np.arange(len(self.units), dtype=np.int64)

    def folds(
        self, members: Int64[np.ndarray, " m"], count: int, rng: np.random.Generator, what: str
    ) -> tuple[list[np.ndarray], tuple[str, ...]]:
        """Cut units into folds.

        Args:
            members: the units to cut up.
            count: how many folds.
            rng: the stream of this draw.
            what: the field that asked for them, for messages: "folds" or "inner".

        Returns:
            The units of each fold, and what should be noted.

        Raises:
            ProtocolError: more folds than patients, or than sites.
        """
        if count > len(members):
            raise ProtocolError(
                f"{what}={count} needs at least {count} {self.units.what}s, but there are {len(members)}. "
                f"Take {what}={len(members)} or fewer."
            )
        if self.sites is None:
            fold = deal(self.units.outcome, members, count, rng)
            return [members[fold == f] for f in range(count)], ()
        place, counts, _ = self.sites.tally(members)
        if count > len(counts):
            names = self.sites.name[self.sites.among(members)]
            raise ProtocolError(
                f'{what}={count} with group="site" needs at least {count} sites that share no patient, but '
                f"there are {len(counts)}: {listed(names)}. "
                + (f"Take {what}={len(counts)} (leave one site out), or " if len(counts) > 1 else "Use ")
                + 'group="patient".'
            )
        found = balance(counts, self.sites.required, count, rng)
        fold = found.fold[place]
        return [members[fold == f] for f in range(count)], () if found.optimal else (NOT_PROVED,)

    def inner_folds(
        self, members: Int64[np.ndarray, " m"], count: int, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], tuple[str, ...]]:
        """Cut an outer training part into inner folds: whole sites where there are enough, else patients.

        Raises:
            ProtocolError: more folds than patients.
        """
        if self.sites is not None and len(self.sites.among(members)) < count:
            return Draws(self.units, None).folds(members, count, rng, "inner")
        return self.folds(members, count, rng, "inner")

    def test(self, members: Int64[np.ndarray, " m"], share: float, rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        """Draw a test part: whole sites where sites are kept whole, however their sizes fall.

        Raises:
            ProtocolError: the share yields nobody, or leaves nobody.
        """
        self._check_share("test", share, len(members))
        if self.sites is None:
            return members[draw(self.units.outcome, members, share, rng)]
        place, counts, patients = self.sites.tally(members)
        if len(counts) < 2:
            raise ProtocolError(
                f'group="site" needs at least 2 sites that share no patient, but there is only '
                f'{listed(self.sites.name)}. Use group="patient".'
            )
        drawn, _ = draw_sites(counts, patients, self.sites.required, share, rng)
        return members[drawn[place]]

    def validation(
        self, members: Int64[np.ndarray, " m"], share: float, rng: np.random.Generator
    ) -> Int64[np.ndarray, " k"]:
        """Draw a validation part: whole sites where some fit the share, else patients; nobody if share is 0.

        Raises:
            ProtocolError: the share yields nobody, or leaves nobody.
        """
        if share == 0:
            return members[:0]
        self._check_share("validation", share, len(members))
        if self.sites is not None:
            place, counts, patients = self.sites.tally(members)
            drawn, fits = draw_sites(counts, patients, self.sites.required, share, rng)
            if fits:
                return members[drawn[place]]
        return members[draw(self.units.outcome, members, share, rng)]

    def _check_share(self, what: str, share: float, n: int) -> None:
        size = size_of_share(share, n)
        if size == 0 or size >= n:
            ends = f"no {self.units.what}" if size == 0 else f"all {n}, which leaves none to train on"
            smaller = "larger" if size == 0 else "smaller"
            none = ", or validation=0 (then nothing can be selected)" if what == "validation" else ""
            raise ProtocolError(
                f"{what}={share} of {n} {self.units.what}s yields {ends}. Take a {smaller} share{none}."
            )


def draws_for(study: Study, task: Task, group: Group, stratify: bool, by_bag: bool) -> Draws:
    """Gather what a protocol draws.

    Args:
        study: the bags.
        task: how to read their targets.
        group: "patient", or "site" to keep sites whole.
        stratify: balance the outcome; otherwise draws are plain (sites then balance numbers of patients).
        by_bag: draw bags instead of patients.
    """
    units = units_of(study, task, "bag" if by_bag else "patient")
    units = units if stratify else units.unstratified()
    return Draws(units, sites_of(study, units) if group == "site" else None)
