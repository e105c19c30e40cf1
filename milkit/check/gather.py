"""One pass over the features of a cohort: what every look at them needs, in memory that no bag's length moves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from milkit.check.sketch import Sketcher, common_rows
from milkit.errors import DataError

HASHES = 8_000_000
"""Most row hashes kept (64 MB, and 32 MB of bag numbers); beyond, those below a falling limit, the same in all bags."""
KEPT_ROWS = 65_536
"""Most rows of all bags whose projections are compared with each other."""
SAMPLE_VALUES = 2**23
"""Most values of the sample of raw rows (32 MB)."""
SCALE_BAGS = 256
"""Most bags that are read twice, to learn the scale of the columns."""
SCALE_VALUES = 2**23
_BLOCK = 1024


@dataclass(eq=False)
class Gathered:
    """What one pass over the bags left; rows of arrays are bags, in the order they were asked for.

    Attributes:
        ids: of the bags.
        lengths: instances that were read, int64 [B].
        mean, square: mean of each column and of its square over a bag's finite rows, float64 [B, d].
        high, low: largest and smallest value of each column in a bag, float32 [B, d].
        norm: mean length of a bag's rows; norm_low, norm_high: its shortest and longest, float64 [B].
        broken: rows of each bag that hold NaN or infinity, int64 [B].
        broken_columns: values of each column that are NaN or infinite, int64 [d].
        zero_rows: rows of each bag that are all zero, int64 [B].
        distinct: distinct rows of each bag, int64 [B].
        digest: of a bag's rows in any order, uint64 [B].
        hashes, hash_bag: row hashes and their bags, those below `limit`.
        limit: hashes above it were let go.
        kept, kept_bag: projected rows that are compared, float32 [K, w], and their bags.
        sample, sample_bag: some raw rows, float32 [S, d], and their bags.
        zero_share: part of all values that are 0.
        counts: nearly all values are whole numbers from 0, as counts of words are.
        mpp, tile_um: of each bag, NaN where unknown, float64 [B].
        faults: why a bag could not be read, by id; its other entries are as of a bag without instances.
    """

    ids: tuple[str, ...]
    lengths: Int64[np.ndarray, " B"]
    mean: Float64[np.ndarray, "B d"]
    square: Float64[np.ndarray, "B d"]
    high: Float32[np.ndarray, "B d"]
    low: Float32[np.ndarray, "B d"]
    norm: Float64[np.ndarray, " B"]
    norm_low: Float64[np.ndarray, " B"]
    norm_high: Float64[np.ndarray, " B"]
    broken: Int64[np.ndarray, " B"]
    broken_columns: Int64[np.ndarray, " d"]
    zero_rows: Int64[np.ndarray, " B"]
    distinct: Int64[np.ndarray, " B"]
    digest: UInt64[np.ndarray, " B"]
    mpp: Float64[np.ndarray, " B"]
    tile_um: Float64[np.ndarray, " B"]
    hashes: UInt64[np.ndarray, " h"] = field(default_factory=lambda: np.zeros(0, np.uint64))
    hash_bag: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    limit: int = 2**64 - 1
    kept: Float32[np.ndarray, "k w"] = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    kept_bag: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    sample: Float32[np.ndarray, "s d"] = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    sample_bag: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    zero_share: float = 0.0
    counts: bool = False
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> Bool[np.ndarray, " B"]:
        """Bags with a finite row."""
        return self.lengths > self.broken

    @property
    def finite(self) -> Int64[np.ndarray, " B"]:
        """Finite rows of each bag."""
        return self.lengths - self.broken


def gather(source: Any, ids: Sequence[str], tick: Callable[[int], None] = lambda done: None) -> Gathered:
    """Read every bag once (some twice, to learn the columns' scale).

    Args:
        source: a `FeatureSource`.
        ids: bags to read.
        tick: told how many bags are done.
    """
    d, b = int(source.features), len(ids)
    out = _empty(tuple(ids), b, d)
    sketcher, spread = _scale(source, ids, d)
    pass_ = _Pass(out, sketcher, spread, keep=max(16, KEPT_ROWS // max(1, b)), quota=_quota(b, d))
    for i, name in enumerate(ids):
        try:
            pass_.take(i, source.read(name))
        except DataError as fault:  # a slide that a reader refuses is a finding; the others are looked at
            out.faults[name] = str(fault)
        tick(i + 1)
    return pass_.done()


def _quota(bags: int, d: int) -> int:
    return max(1, min(256, SAMPLE_VALUES // max(1, d * bags)))


def _empty(ids: tuple[str, ...], b: int, d: int) -> Gathered:
    nan = np.full(b, np.nan)
    zeros = np.zeros(b, np.int64)
    return Gathered(
        ids,
        zeros.copy(),
        np.full((b, d), np.nan),
        np.full((b, d), np.nan),
        np.full((b, d), np.nan, np.float32),
        np.full((b, d), np.nan, np.float32),
        nan.copy(),
        nan.copy(),
        nan.copy(),
        zeros.copy(),
        np.zeros(d, np.int64),
        zeros.copy(),
        zeros.copy(),
        np.zeros(b, np.uint64),
        nan.copy(),
        nan.copy(),
    )


def _scale(source: Any, ids: Sequence[str], d: int) -> tuple[Sketcher, np.ndarray]:
    """Scale of the columns, and spread of the projections, from some rows of some bags spread over the cohort."""
    rng = np.random.default_rng(0)
    picked = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(SCALE_BAGS, len(ids))).astype(int))]
    most = max(8, SCALE_VALUES // max(1, d * len(picked)))
    rows = []
    for name in picked:
        try:
            x = np.asarray(source.read(name).x)
        except DataError:
            continue
        few = x if len(x) <= most else x[np.sort(rng.choice(len(x), most, replace=False))]
        few = few.astype(np.float32)
        rows.append(few[np.isfinite(few).all(1)])
    sample = np.concatenate(rows) if rows else np.zeros((0, d), np.float32)
    norm = np.linalg.norm(sample.astype(np.float64), axis=1)
    sample = sample[norm <= 10 * np.median(norm)] if len(sample) else np.zeros((1, d), np.float32)  # a bag out of scale
    sketcher = Sketcher.of(sample)
    spread = sketcher.project(sample).std(0)
    return sketcher, np.where(spread > 0, spread, 1).astype(np.float32)


class _Pass:
    """The state of a pass: what is summed up, and what is kept of each bag."""

    def __init__(self, out: Gathered, sketcher: Sketcher, spread: np.ndarray, keep: int, quota: int) -> None:
        self.out, self.sketcher, self.spread, self.keep, self.quota = out, sketcher, spread, keep, quota
        self.rng = np.random.default_rng(1)
        self.hashes: list[tuple[np.ndarray, int]] = []
        self.held, self.limit = 0, np.uint64(2**64 - 1)
        self.kept: list[tuple[np.ndarray, int]] = []
        self.sample: list[tuple[np.ndarray, int]] = []
        self.zeros, self.values, self.whole = 0, 0, 0

    def take(self, i: int, bag: Any) -> None:
        """Add bag i."""
        out = self.out
        out.mpp[i] = getattr(bag, "mpp", None) or np.nan
        out.tile_um[i] = getattr(bag, "tile_um", None) or np.nan
        x = np.ascontiguousarray(bag.x, np.float32)
        out.lengths[i] = len(x)
        with np.errstate(invalid="ignore"):
            clean = bool(np.isfinite(x.sum(dtype=np.float64)))
        if not clean:  # cheap; only then look where
            good = np.isfinite(x)
            out.broken_columns += (~good).sum(0)
            rows = good.all(1)
            out.broken[i] = int((~rows).sum())
            x = x[rows]
        if len(x):
            self._moments(i, x)
            self._marks(i, x)

    def _moments(self, i: int, x: Float32[np.ndarray, "n d"]) -> None:
        out = self.out
        total, square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        norms = []
        for start in range(0, len(x), _BLOCK):
            block = x[start : start + _BLOCK].astype(np.float64)
            total += block.sum(0)
            square += np.einsum("nd,nd->d", block, block)
            norms.append(np.sqrt(np.einsum("nd,nd->n", block, block)))
        norm = np.concatenate(norms)
        out.mean[i], out.square[i] = total / len(x), square / len(x)
        out.high[i], out.low[i] = x.max(0), x.min(0)
        out.norm[i], out.norm_low[i], out.norm_high[i] = norm.mean(), norm.min(), norm.max()
        out.zero_rows[i] = int((norm == 0).sum())
        few = x[:: max(1, len(x) // 64)]
        self.zeros += int((few == 0).sum())
        self.values += few.size
        self.whole += int(((few >= 0) & (few == np.floor(few))).sum())

    def _marks(self, i: int, x: Float32[np.ndarray, "n d"]) -> None:
        h = self.sketcher.hashes(x)
        with np.errstate(over="ignore"):
            self.out.digest[i] = h.sum(dtype=np.uint64)
        self.out.distinct[i] = len(np.unique(h))
        low = h[h <= self.limit]
        self.hashes.append((low, i))
        self.held += len(low)
        while self.held > HASHES:  # the same limit for all bags, so that what they share is kept in all
            self.limit = self.limit >> np.uint64(1)
            self.hashes = [(kept[kept <= self.limit], bag) for kept, bag in self.hashes]
            self.held = sum(len(kept) for kept, _ in self.hashes)
        projected = self.sketcher.project(x)
        self.kept.append((projected[common_rows(projected, self.spread, self.keep)], i))
        rows = np.sort(self.rng.choice(len(x), min(self.quota, len(x)), replace=False))
        self.sample.append((x[rows], i))

    def done(self) -> Gathered:
        """What was gathered."""
        out = self.out
        out.limit = int(self.limit)
        if self.kept:
            out.hashes, out.hash_bag = _stacked(self.hashes)
            out.kept, out.kept_bag = _stacked(self.kept)
            out.sample, out.sample_bag = _stacked(self.sample)
        out.zero_share = self.zeros / max(1, self.values)
        out.counts = self.values > 0 and self.whole >= 0.95 * self.values
        return out


def _stacked(parts: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    bags = np.repeat(np.array([bag for _, bag in parts], np.int32), [len(values) for values, _ in parts])
    return np.concatenate([values for values, _ in parts]), bags
