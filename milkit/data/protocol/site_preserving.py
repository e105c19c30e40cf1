"""Site-preserving folds: each site wholly in one fold, the outcome balanced by integer programming.

Slides carry the stain and scanner of the site they come from, and outcomes differ between sites: a model that
meets a test patient's site in training can score by recognising the site.

With n[f, c] the patients of kind c in fold f of K and N[c] all of them, the folds minimise the sum of
(n[f, c] - N[c] / K)^2, the objective of Howard et al., who solve it as a quadratic program with CPLEX. Being
a sum of convex functions of integers, it is here an exact mixed-integer *linear* program, solved by HiGHS.
Two departures: if the optimum leaves a fold without some kind, the program is solved again under the
constraint that each fold has one at least; and a search (greedy, then moves and swaps) runs first, as the
answer where it already reaches the best balance imaginable, and as the fallback where the solver stops.

References:
    Howard et al. (2021), The impact of site-specific digital histology signatures on deep learning model
    accuracy and bias, Nature Communications 12:4423, Methods ("preserved site cross-validation").
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Bool, Int64
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from milkit.data.protocol.rng import shuffled

NODES = 500  # of branch and bound, seconds on a laptop; a count, so that a busy machine gets the same folds
SECONDS = 120.0  # a stop for the pathological; folds that hit it are noted
_LACKING = 10**13  # price of a fold without a required kind, above any sum of squares met here
_RESTARTS = 8
ROUNDS = 10  # of solving again with more lines; one or two do


@dataclass(frozen=True, eq=False)
class Balance:
    """Folds of sites.

    Attributes:
        fold: of each site, int64 [s].
        cost: sum over folds and kinds of (K n - N)^2, an exact integer.
        lacking: pairs of a fold and a required kind that it has none of.
        optimal: whether this is proved to be the best; False where the solver stopped at its limit.
    """

    fold: np.ndarray
    cost: int
    lacking: int
    optimal: bool

    @property
    def key(self) -> tuple[int, int]:
        """What is minimised, most important first."""
        return (self.lacking, self.cost)


def balance(
    counts: Int64[np.ndarray, "s c"], required: Bool[np.ndarray, " c"], folds: int, rng: np.random.Generator
) -> Balance:
    """Deal sites into folds so that every kind of patient is spread as evenly as the sites allow.

    Args:
        counts: patients of each kind at each site.
        required: kinds of which each fold should have at least one.
        folds: at most as many as sites.
        rng: decides between equally good folds, and their numbering.
    """
    order = shuffled(len(counts), rng)
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]  # big sites first; ties as shuffled
    sizes = counts[order]
    best = min((_search(sizes, required, folds, rng) for _ in range(_RESTARTS)), key=lambda found: found.key)
    if best.lacking == 0 and best.cost == _floor(sizes.sum(0), folds):
        best = replace(best, optimal=True)  # no program could do better
    else:
        best = _solved(sizes, required, folds, best)
    fold = np.empty(len(order), np.int64)
    fold[order] = shuffled(folds, rng)[best.fold]
    return replace(best, fold=fold)


def evaluate(
    counts: Int64[np.ndarray, "s c"],
    required: Bool[np.ndarray, " c"],
    folds: int,
    fold: Int64[np.ndarray, " s"],
    optimal: bool = False,
) -> Balance:
    """The exact balance of an assignment."""
    held = _held(counts, folds, fold)
    cost = int(((folds * held - counts.sum(0)) ** 2).sum())
    return Balance(fold, cost, int((held[:, required] == 0).sum()), optimal)


def _held(counts: Int64[np.ndarray, "s c"], folds: int, fold: Int64[np.ndarray, " s"]) -> Int64[np.ndarray, "f c"]:
    """Patients of each kind in each fold."""
    held = np.zeros((folds, counts.shape[1]), np.int64)
    np.add.at(held, fold, counts)
    return held


def _floor(total: Int64[np.ndarray, " c"], folds: int) -> int:
    """The cost if patients could be dealt one by one: no assignment of sites is cheaper."""
    even = total // folds + (np.arange(folds)[:, None] < total % folds)
    return int(((folds * even - total) ** 2).sum())


def _search(
    counts: Int64[np.ndarray, "s c"], required: Bool[np.ndarray, " c"], folds: int, rng: np.random.Generator
) -> Balance:
    """Greedy in the order given (random among equals), then moves and swaps of sites until none helps."""
    total = counts.sum(0)

    def price(held: np.ndarray) -> Any:
        """What folds cost that hold these patients; [..., c] -> [...]."""
        lacking = ((held == 0) & required).sum(-1)
        return ((folds * held - total) ** 2).sum(-1) + _LACKING * lacking

    fold = np.empty(len(counts), np.int64)
    held = np.zeros((folds, counts.shape[1]), np.int64)
    for site, size in enumerate(counts):
        dearer = price(held + size) - price(held)
        fold[site] = np.lexsort((rng.random(folds), dearer))[0]
        held[fold[site]] += size
    improving = True
    while improving:
        improving = False
        for site in shuffled(len(counts), rng).tolist():
            improving |= _improve(site, fold, counts, folds, price)
    return evaluate(counts, required, folds, fold)


def _improve(
    site: int,
    fold: Int64[np.ndarray, " s"],
    counts: Int64[np.ndarray, "s c"],
    folds: int,
    price: Callable[[np.ndarray], Any],
) -> bool:
    """Move a site, or swap it with another, in place, by what saves most; False if nothing saves."""
    held, here, size = _held(counts, folds, fold), int(fold[site]), counts[site]
    # Two folds change in a move or a swap: the one left and the one entered.
    before = price(held[here]) + price(held)
    moved = price(held[here] - size) + price(held + size) - before
    moved[here] = 0
    gained = counts - size  # by the fold left, if `site` goes against each of the others
    swapped = price(held[here] + gained) + price(held[fold] - gained) - before[fold]
    swapped[fold == here] = 0
    if min(moved.min(), swapped.min()) >= 0:
        return False
    if moved.min() <= swapped.min():
        fold[site] = moved.argmin()
    else:
        other = int(swapped.argmin())
        fold[site], fold[other] = fold[other], here
    return True


def _solved(counts: Int64[np.ndarray, "s c"], required: Bool[np.ndarray, " c"], folds: int, start: Balance) -> Balance:
    """The integer program's answer, or the search's where that is better."""
    found = _program(counts, required, folds, np.zeros_like(required))
    if found is None:
        return start
    if found.lacking:
        # A kind at fewer sites than folds cannot be in all of them: asking for it leaves no solution at all.
        can = required & ((counts > 0).sum(0) >= folds)
        whole = _program(counts, required, folds, can)
        candidates = [b for b in (start, found, whole) if b is not None]
        best = min(candidates, key=lambda b: b.key)
        # Proved only if the constrained program, which the best solution must satisfy, was solved to the end.
        proved = whole is not None and whole.optimal and whole.key == best.key
        return Balance(best.fold, best.cost, best.lacking, proved)
    return min((found, start), key=lambda b: b.key)


def _program(
    counts: Int64[np.ndarray, "s c"],
    required: Bool[np.ndarray, " c"],
    folds: int,
    present: Bool[np.ndarray, " c"],
) -> Balance | None:
    """Solve for folds that each hold at least one of the kinds in `present`; None if none were found.

    The squares are replaced by lines below them: at all counts near the target and at few far from it. Where an
    answer lies between lines, its own are added and the program is solved again, so that the last one is exact.
    """
    total = counts.sum(0)
    touched = [_first_touched(int(n), folds) for n in total]
    found = None
    for _ in range(ROUNDS):
        answer = _solve(counts, folds, present, touched)
        if answer.x is None:
            return found
        fold = answer.x[: counts.shape[0] * folds].reshape(-1, folds).argmax(1).astype(np.int64)
        held = _held(counts, folds, fold)
        between = [np.setdiff1d(held[:, kind], points) for kind, points in enumerate(touched)]
        exact = not any(map(len, between))
        found = evaluate(counts, required, folds, fold, optimal=exact and answer.status == 0)
        if exact or answer.status != 0:
            return found
        touched = [np.union1d(points, new) for points, new in zip(touched, between, strict=True)]
    return found


def _solve(
    counts: Int64[np.ndarray, "s c"], folds: int, present: Bool[np.ndarray, " c"], touched: list[np.ndarray]
) -> OptimizeResult:
    """One call of the solver.

    Variables: x[s, f] (site s in fold f), n[f, c] and q[f, c] >= (n - N / K)^2 by lines that touch it.
    """
    sites, kinds = counts.shape
    n_x, n_n = sites * folds, folds * kinds
    eye = sparse.eye_array(n_n)
    one_fold = sparse.kron(sparse.eye_array(sites), np.ones((1, folds)))
    # Row (f, c) of `sums`: the patients of kind c whom x puts into fold f. x is laid out [s, f].
    sums = sparse.hstack([sparse.kron(sparse.eye_array(folds), row[:, None]) for row in counts])
    slope, intercept, pick = _lines(counts.sum(0), folds, touched)
    below = [sparse.csr_array((len(slope), n_x)), -sparse.diags_array(slope) @ pick, pick]
    rows = [
        LinearConstraint(sparse.hstack([one_fold, sparse.csr_array((sites, 2 * n_n))]).tocsr(), 1, 1),
        LinearConstraint(sparse.hstack([sums, -eye, sparse.csr_array((n_n, n_n))]).tocsr(), 0, 0),
        LinearConstraint(sparse.hstack(below).tocsr(), intercept, np.inf),
    ]
    low = np.concatenate([np.zeros(n_x), np.tile(present.astype(float), folds), np.zeros(n_n)])
    high = np.concatenate([np.ones(n_x), np.full(2 * n_n, np.inf)])
    for site in range(min(folds, sites)):  # folds are interchangeable: the first sites open them in turn
        high[site * folds + site + 1 : (site + 1) * folds] = 0
    return milp(
        np.concatenate([np.zeros(n_x + n_n), np.ones(n_n)]),
        constraints=rows,
        bounds=Bounds(low, high),
        integrality=np.concatenate([np.ones(n_x), np.zeros(2 * n_n)]),
        options={"node_limit": NODES, "time_limit": SECONDS, "mip_rel_gap": 0.0},
    )


def _first_touched(n: int, folds: int) -> Int64[np.ndarray, " t"]:
    """Counts at which the lines touch the square at first: 0 .. n, all near n / folds and few far from it."""
    steps = np.unique(np.concatenate([np.arange(32), np.geomspace(32, max(n, 33), 16)]).astype(np.int64))
    return np.unique(np.clip(n // folds + np.concatenate([-steps, steps]), 0, n))


def _lines(
    total: Int64[np.ndarray, " c"], folds: int, touched: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Lines q >= slope * n + intercept for each (f, c), through (n - N/K)^2 at a touched n and at n + 1.

    Returns:
        slope [t], intercept [t], and the matrix [t, f * c] that picks the variable each line is for.
    """
    slope, intercept, of = [], [], []
    for kind, n in enumerate(total.tolist()):
        at, target = touched[kind].astype(np.float64), n / folds
        slope.append(2 * at + 1 - 2 * target)
        intercept.append((at - target) ** 2 - slope[-1] * at)
        of.append(np.full(len(at), kind))
    kinds, column = len(total), np.concatenate(of)
    column = np.concatenate([fold * kinds + column for fold in range(folds)])
    where = (np.arange(len(column)), column)
    pick = sparse.csr_array((np.ones(len(column)), where), shape=(len(column), folds * kinds))
    return np.tile(np.concatenate(slope), folds), np.tile(np.concatenate(intercept), folds), pick
