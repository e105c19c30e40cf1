"""The bags a study runs on, where each came from, and what happened to every row on the way."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from milkit.bag import Bag
from milkit.data.covariates import Covariates
from milkit.data.targets import Targets
from milkit.data.where import and_more
from milkit.errors import DataError

Unit = Literal["patient", "slide"]
ROLES = ("train", "validation", "test", "")
UNKNOWN = 255
"""Of `Study.pixel_truth`: nothing is known of a pixel."""


@dataclass(frozen=True, eq=False)
class GivenSplit:
    """One split that came with the data.

    Attributes:
        repeat: number of the repetition, from 0.
        fold: number of the fold in it, from 0.
        role: what each bag does: "train", "validation", "test" or "" (takes no part), [B].
    """

    repeat: int
    fold: int
    role: np.ndarray

    def __post_init__(self) -> None:
        unknown = sorted({str(r) for r in self.role} - set(ROLES))
        if unknown:
            raise DataError(f"Given split {self.repeat}/{self.fold} has roles {unknown}; expected {ROLES}.")


@dataclass(frozen=True)
class Flow:
    """What happened to every row of the table and every slide of the features; heads every report.

    Attributes:
        rows: rows of the table.
        matched: rows whose slide has features.
        bags: bags of the study.
        patients: patients of the study.
        left_out: (slide id, reason) of every row and every slide of features that the study does not use.
        notes: what a reader should know: which columns were taken, what was assumed.
    """

    rows: int
    matched: int
    bags: int
    patients: int
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many slides were left out for each reason."""
        return dict(Counter(reason for _, reason in self.left_out))

    def __str__(self) -> str:
        """The flow in words, a line each: what came in, what was left out and why, what is left, and the notes."""
        lines = [f"{self.rows} rows in the table, {self.matched} with features"]
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1]):
            ids = [slide for slide, why in self.left_out if why == reason]
            lines.append(f"left out {count}: {reason} ({and_more(ids[:3], count)})")
        lines.append(f"{self.bags} bags of {self.patients} patients")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """The flow as JSON-able values."""
        return {
            "rows": self.rows,
            "matched": self.matched,
            "bags": self.bags,
            "patients": self.patients,
            "left_out": [list(pair) for pair in self.left_out],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class Study:
    """The bags a study runs on: one row a bag, which is a patient (all slides together) or a slide.

    Attributes:
        name: of the cohort.
        unit: what a bag is.
        bag: id of each bag (the patient's or the slide's), text [B], unique.
        slides: ids of the slides of each bag, in the order of their instances.
        patient: id of each bag's patient, text [B]; folds keep a patient's bags together.
        site: text [B], "" where unknown.
        cohort: text [B], "" where unknown.
        lengths: instances of each bag, int64 [B], all >= 1.
        features: width d of an instance.
        targets: one row a bag.
        given: splits that came with the data.
        flow: what was left out and why.
        read: bag number -> its `Bag` (float16, bfloat16 or float32 as stored). In the patient unit the slides
            stand side by side in `coords_um`, so that tiles of two slides are never neighbours.
        columns: the other columns of the table, text [B]; for sub-groups.
        provenance: encoder, mpp, tile size, files and their digests; JSON-able.
        slide_lengths: instances of each slide of each bag, to carry attention back onto slides; () stands for
            bags of one slide.
        own_coords: bag number -> positions as on the slides; None stands for bags of one slide. Use `positions`.
        covariates: columns of the table that are an input of the model, one row a bag; None where there are none.
        sizes: height and width of each image in pixels, int [B, 2], where bags are images: their instances are pixels,
            row by row from the top left, and their features the channels; None where bags are no images.
        pixel_truth: bag number -> what each pixel of an image is, uint8 [h, w]: bit k says label k, `UNKNOWN` that
            nothing is known; None of an image whose mask stays closed, as those of test images do. None where no mask
            is handed out for training.
    """

    name: str
    unit: Unit
    bag: np.ndarray
    slides: tuple[tuple[str, ...], ...]
    patient: np.ndarray
    site: np.ndarray
    cohort: np.ndarray
    lengths: np.ndarray
    features: int
    targets: Targets
    given: tuple[GivenSplit, ...]
    flow: Flow
    read: Callable[[int], Bag]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    slide_lengths: tuple[tuple[int, ...], ...] = ()
    own_coords: Callable[[int], np.ndarray | None] | None = None
    covariates: Covariates | None = None
    sizes: np.ndarray | None = None
    pixel_truth: Callable[[int], np.ndarray | None] | None = None

    def __post_init__(self) -> None:
        n = len(self.bag)
        sized = {
            "slides": self.slides,
            "patient": self.patient,
            "site": self.site,
            "cohort": self.cohort,
            "lengths": self.lengths,
            "targets": self.targets.values,
            **({} if self.covariates is None else {"covariates": self.covariates.values}),
            **({} if self.sizes is None else {"sizes": self.sizes}),
            **{f"column {name!r}": values for name, values in self.columns.items()},
            **{f"given split {g.repeat}/{g.fold}": g.role for g in self.given},
        }
        for what, values in sized.items():
            if len(values) != n:
                raise DataError(f"Study {self.name!r} has {n} bags but {len(values)} rows in {what}.")
        if len(set(self.bag.tolist())) != n:
            twice = [b for b, count in Counter(self.bag.tolist()).items() if count > 1][:5]
            raise DataError(f"Study {self.name!r} holds bag ids more than once: {twice}; ids must be unique.")
        if n and int(self.lengths.min()) < 1:
            empty = str(self.bag[int(self.lengths.argmin())])
            raise DataError(f"Study {self.name!r}: bag {empty!r} has no instance; leave it out.")
        if self.sizes is not None and not np.array_equal(self.sizes.prod(1), self.lengths):
            raise DataError(f"Study {self.name!r}: images have other numbers of pixels than height x width.")

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.bag)

    @property
    def covariate_count(self) -> int:
        """Numbers that the table gives of a bag; 0 without covariates."""
        return 0 if self.covariates is None else len(self.covariates.names)

    def positions(self, i: int) -> np.ndarray | None:
        """Positions of the instances of bag i on their own slides, [n, 2] micrometres, or None.

        For pictures and tables; models see `read(i).coords_um`, where the slides of a patient are moved apart.
        """
        return self.read(i).coords_um if self.own_coords is None else self.own_coords(i)
