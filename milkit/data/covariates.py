"""Clinical covariates: columns of the cohort table as a second input of a model, beside a bag's instances.

    Cohort("cohort.csv", "features.h5", covariates=("age", "sex", Numeric("psa"), Categorical("grade")))

A column of numbers becomes one number, and another that says whether it is missing where any bag lacks it; a column of
words becomes a 0/1 number for each of its levels, missing being a level. The numbers are kept here as the table has
them, NaN where missing. Each run scales them by its own training part (`affine`), where a missing one stands at 0, the
mean of the training part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from milkit.data.targets import Targets, is_missing
from milkit.data.where import Where, and_more, did_you_mean
from milkit.errors import CohortError, ConfigError
from milkit.fields import check_fields

NEVER_MISSING = "which was never missing in training"
"""Said in a note on a kept model's other cohort."""
MOST_LEVELS = 20
"""A column of words with more distinct ones is free text or ids, unless its levels are written down."""


@dataclass(frozen=True)
class Numeric:
    """A column that is read as numbers; any other cell that is not missing is an error."""

    column: str

    def __post_init__(self) -> None:
        check_fields(self, "data.covariates")


@dataclass(frozen=True)
class Categorical:
    """A column that is read as categories, even if all its cells are numbers."""

    column: str
    levels: tuple[str, ...] = ()
    """The words that may stand in the column; () takes those that do, sorted."""

    def __post_init__(self) -> None:
        check_fields(self, "data.covariates")
        if len(set(self.levels)) != len(self.levels):
            raise ConfigError(f"Categorical({self.column!r}, levels={self.levels}) names a level more than once.")


@dataclass(frozen=True)
class Coding:
    """How one column becomes numbers; what a kept model remembers of it.

    Attributes:
        column: of the table.
        kind: whether it holds numbers or words.
        levels: the words, in the order of their numbers; () for numbers.
        missing: whether there is a 0/1 number that says that the cell is missing.
    """

    column: str
    kind: Literal["numeric", "categorical"]
    levels: tuple[str, ...] = ()
    missing: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """One name a number: `age`, or `sex=f`, `sex=m`; then `age missing` where there is such a number."""
        own = (self.column,) if self.kind == "numeric" else tuple(f"{self.column}={level}" for level in self.levels)
        return (*own, f"{self.column} missing") if self.missing else own


Covariate = str | Numeric | Categorical
"""A column as an experiment names it; a plain name is read as numbers if all its cells are, else as categories."""


@dataclass(frozen=True, eq=False)
class Covariates:
    """The covariates of a study, one row a bag.

    Attributes:
        codings: how each column was read.
        values: float32 [B, v]; numbers in the unit of the table, NaN where missing; 0 or 1 for levels.
    """

    codings: tuple[Coding, ...]
    values: Float[np.ndarray, "B v"]

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the v numbers is."""
        return tuple(name for coding in self.codings for name in coding.names)

    @property
    def measured(self) -> np.ndarray:
        """Which of the v numbers are in a unit and get scaled, bool [v]; the others are 0 or 1."""
        return np.array([c.kind == "numeric" and i == 0 for c in self.codings for i in range(len(c.names))], bool)


def affine(covariates: Covariates, rows: Int[np.ndarray, "k"]) -> tuple[Float[np.ndarray, "v"], Float[np.ndarray, "v"]]:
    """Shift and inverse scale by which a run reads covariates, from the bags of its training part.

    Numbers in a unit get mean 0 and standard deviation 1 (divided by the count, as the scaler of features); levels
    stay 0 or 1. What is the same in all of these bags gets an inverse scale of 0: nothing can be learned about it, and
    a weight that was never trained must not speak on a test patient.

    Args:
        covariates: of the study.
        rows: bags of the training part.
    """
    x = covariates.values[rows].astype(np.float64)
    shift, inverse = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for j, measured in enumerate(covariates.measured):
        known = x[~np.isnan(x[:, j]), j]
        varies = len(known) > 0 and known.min() < known.max()
        if measured and len(known):
            shift[j] = known.mean()
        if varies:
            inverse[j] = 1.0 / known.std() if measured else 1.0
    return shift.astype(np.float32), inverse.astype(np.float32)


def read_covariates(
    wanted: Sequence[Covariate | Coding],
    columns: Mapping[str, np.ndarray],
    groups: Sequence[Sequence[int]],
    where: Where,
    taken: Mapping[str, str],
) -> tuple[Covariates | None, tuple[str, ...]]:
    """The covariates of some bags, from the rows of their slides.

    Args:
        wanted: the columns, or the codings of a model that is kept.
        columns: the table's, text [R].
        groups: rows of each bag.
        where: origin of the rows.
        taken: columns that may not be covariates -> what they hold, such as "the target".

    Returns:
        The covariates (None if none are wanted), and notes that say how each column was read.

    Raises:
        CohortError: no such column, one that is taken, no value at all, a cell that cannot be read or is of an unknown
            level, slides of one bag that disagree.
    """
    names = [w if isinstance(w, str) else w.column for w in wanted]
    parts, notes = [], []
    for name, want in zip(names, wanted, strict=True):
        _check_column(name, names, columns, where, taken)
        cells = _of_bags(name, columns[name], groups, where)
        first = where.take(np.array([group[0] for group in groups]))
        coding = want if isinstance(want, Coding) else _coding(want, cells, first)
        parts.append((coding, _numbers_of(coding, cells, first)))
        notes.append(_note(coding, cells, isinstance(want, str)))
    if not parts:
        return None, ()
    return Covariates(tuple(c for c, _ in parts), np.concatenate([v for _, v in parts], 1)), tuple(notes)


def _check_column(
    name: str, names: Sequence[str], columns: Mapping[str, np.ndarray], where: Where, taken: Mapping[str, str]
) -> None:
    if name in taken:
        raise CohortError(
            f"{where.file}: column {name!r} holds {taken[name]} and cannot be a covariate: a model that is shown it "
            "has been told what it is to find out, or who it is about. Take it out of covariates."
        )
    if name not in columns:
        raise CohortError(
            f"{where.file}: no column {name!r}, which covariates names. The columns are {list(columns)}."
            f"{did_you_mean(name, columns)}"
        )
    if list(names).count(name) > 1:
        raise CohortError(f"covariates names the column {name!r} more than once; name it once.")


def _of_bags(name: str, cells: np.ndarray, groups: Sequence[Sequence[int]], where: Where) -> np.ndarray:
    """The cell of each bag: that of its slides, which must agree where they are not missing."""
    missing = is_missing(cells)
    out, differ = [], []
    for group in groups:
        known = dict.fromkeys(str(cells[i]) for i in group if not missing[i])
        out.append(next(iter(known), ""))
        if len(known) > 1:
            differ.append(", ".join(f"{where.line_word} {where.lines[i]}: {str(cells[i])!r}" for i in group[:4]))
    if differ:
        raise CohortError(
            f"{where.file}: covariate {name!r} differs between slides of one patient in {len(differ)} patient(s): "
            f"{and_more(differ[:5], len(differ))}. A bag is a patient, who has one value; correct the cells, or set "
            'unit="slide".'
        )
    return np.array(out, np.str_)


def _coding(want: Covariate, cells: np.ndarray, where: Where) -> Coding:
    name = want if isinstance(want, str) else want.column
    missing = is_missing(cells)
    if missing.all():
        raise CohortError(f"{where.file}: covariate {name!r} has no value in any row in use; take it out.")
    odd = np.flatnonzero(~missing & np.isnan(_numbers(cells))).tolist()
    if isinstance(want, Numeric) or (isinstance(want, str) and not odd):
        return Coding(name, "numeric", (), bool(missing.any()))
    levels = want.levels if isinstance(want, Categorical) else ()
    if not levels:
        levels = tuple(_sorted(set(cells[~missing].tolist())))
        if len(levels) > MOST_LEVELS:
            first = f"{str(cells[odd[0]])!r} in {where.rows(odd[:1])}"
            raise CohortError(
                f"{where.file}: covariate {name!r} holds {len(levels)} different words (the first that is no number: "
                f"{first}); more than {MOST_LEVELS} are free text or ids. If it is a number, correct such cells and "
                f"write Numeric({name!r}); if not, write its levels down: Categorical({name!r}, levels=(...))."
            )
    return Coding(name, "categorical", levels, bool(missing.any()))


def _numbers_of(coding: Coding, cells: np.ndarray, where: Where) -> Float[np.ndarray, "B w"]:
    """The numbers of one column."""
    missing = is_missing(cells)
    last = [missing.astype(np.float32)] if coding.missing else []
    if coding.kind == "numeric":
        values = _numbers(cells)
        wrong = np.flatnonzero(np.isnan(values) & ~missing).tolist()
        if wrong:
            raise CohortError(
                f"{where.file}: covariate {coding.column!r} is {str(cells[wrong[0]])!r} in {where.rows(wrong)}; "
                "expected a finite number (decimals with a point), or an empty cell where it is not known."
            )
        return np.stack([values.astype(np.float32), *last], 1)
    unknown = [i for i, cell in enumerate(cells.tolist()) if not missing[i] and cell not in coding.levels]
    if unknown:
        cell = str(cells[unknown[0]])
        raise CohortError(
            f"{where.file}: covariate {coding.column!r} is {cell!r} in {where.rows(unknown)}; the known levels are "
            f"{', '.join(coding.levels)}.{did_you_mean(cell, coding.levels)} Write one of them, or empty the cell, "
            "which reads as missing."
        )
    return np.stack([*[(cells == level).astype(np.float32) for level in coding.levels], *last], 1)


def _note(coding: Coding, cells: np.ndarray, recognised: bool) -> str:
    said = "numbers" if coding.kind == "numeric" else f"categories ({', '.join(coding.levels)})"
    lacking = int(is_missing(cells).sum())
    gone = f", missing in {lacking} bag(s)" if lacking else ""
    if lacking and not coding.missing:
        gone += f", {NEVER_MISSING}: read there as " + (
            "the mean of the training part" if coding.kind == "numeric" else "none of the levels"
        )
    known = set(cells.tolist()) - {""}
    constant = "; the same in all bags, so it says nothing" if len(known) == 1 and not lacking else ""
    return f"covariate {coding.column!r} {'is' if recognised else 'was said to be'} read as {said}{gone}{constant}"


def telling(covariates: Covariates, targets: Targets) -> tuple[str, ...]:
    """Notes on covariates that tell a target without an error, as a consequence of it or its copy would.

    A number that parts the classes by cuts counts where chance would do so in less than one cohort of a thousand, and
    levels count where there are at least four bags to each.

    Args:
        covariates: of the bags.
        targets: of the bags.
    """
    values = targets.values if targets.values.ndim == 2 else targets.values[:, None]
    at, notes = 0, []
    for coding in covariates.codings:
        own = covariates.values[:, at : at + len(coding.names)]
        at += len(coding.names)
        x = own[:, 0] if coding.kind == "numeric" else own.argmax(1).astype(np.float32)
        known = ~np.isnan(x)
        for j in range(values.shape[1]):
            if _tells(x[known], values[known, j], ordered=coding.kind == "numeric"):
                of = f" {targets.names[j]!r}" if values.shape[1] > 1 else ""
                notes.append(
                    f"covariate {coding.column!r} tells the target{of} without an error in all {int(known.sum())} bags "
                    "that have it: is it a consequence of the target, or its copy?"
                )
    return tuple(notes)


def _tells(x: np.ndarray, y: np.ndarray, *, ordered: bool) -> bool:
    """Whether y follows from x beyond chance."""
    classes, of = np.unique(y, return_inverse=True)
    if len(classes) < 2 or len(x) < 4:
        return False
    if len(classes) > MOST_LEVELS:  # a number: is one an (inverse) ordering of the other?
        return ordered and len(np.unique(x)) > MOST_LEVELS and abs(_rank_correlation(x, y)) > 0.999
    levels, level = np.unique(x, return_inverse=True)
    pure = all(len(np.unique(of[level == k])) == 1 for k in range(len(levels)))
    if not pure or not ordered:
        return pure and len(x) >= 4 * len(levels)
    changes = int((np.diff(of[np.argsort(x, kind="stable")]) != 0).sum())
    sizes = np.bincount(of)
    chance = math.lgamma(len(sizes) + 1) + sum(math.lgamma(n + 1) for n in sizes) - math.lgamma(len(x) + 1)
    return changes == len(classes) - 1 and chance < math.log(1e-3)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    a, b = (np.unique(v, return_inverse=True)[1].astype(np.float64) for v in (x, y))
    return float(np.corrcoef(a, b)[0, 1])


def _numbers(cells: np.ndarray) -> Float[np.ndarray, "B"]:
    """The cells as numbers, NaN where they are none; Python's own 1_000 is not taken for a number."""
    values = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells.tolist()):
        try:
            value = math.nan if "_" in cell else float(cell)
        except ValueError:
            continue
        values[i] = value if abs(value) <= float(np.finfo(np.float32).max) else math.nan
    return values


def _sorted(words: set[str]) -> list[str]:
    """By value when all are numbers (2 before 10), else as text."""
    names = sorted(words)
    return names if np.isnan(_numbers(np.array(names, np.str_))).any() else sorted(names, key=float)
