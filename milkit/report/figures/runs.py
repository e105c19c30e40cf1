"""Drawings over folds, seeds and epochs: how much a number moves, and how training went."""

from typing import Any

import numpy as np

from milkit.report.curves import Band, band
from milkit.report.figures.style import BLUE, GRID, MUTED, NARROW, ORANGE, WIDE, Drawing, axes, drawing, plain_log
from milkit.report.words import is_interval, metric_label, plural

MOST_FOLDS = 120
"""Folds drawn one by one; a study with more shows the first ones and says so."""


def spread(name: str, per_run: list[dict[str, Any]], metric: dict[str, Any], *, nested: bool) -> Drawing | None:
    """One metric by fold, a dot a run; None where no run has it or there is one run only.

    Args:
        name: of the metric.
        per_run: entries of `results.json`.
        metric: its value and intervals over the study.
        nested: whether the runs of a fold differ in their inner fold too.
    """
    found: dict[tuple[int, int], list[float]] = {}
    undefined: set[tuple[int, int]] = set()
    for row in per_run:
        key, value = (int(row["repeat"]), int(row["fold"])), run_value(row, name)
        found.setdefault(key, [])
        if value is None:
            undefined.add(key)
        else:
            found[key].append(value)
    keys = sorted(found)[:MOST_FOLDS]
    if len(per_run) < 2 or not any(found[k] for k in keys):
        return None
    wide = len(keys) > 12
    with drawing():
        figure, ax = axes(WIDE if wide else NARROW, 2.9 if wide else 3.3)
        _overall(ax, metric, len(keys))
        _dots(ax, [found[k] for k in keys])
        _fold_axis(ax, keys)
        ax.set_ylabel(metric_label(name))
        figure.legend(loc="outside upper left", ncols=4 if wide else 2)
    return Drawing(
        "spread", figure, f"{metric_label(name)} by fold", _spread_caption(found, keys, undefined, nested), wide
    )


def run_value(row: dict[str, Any], name: str) -> float | None:
    """A metric of one entry of `per_run`; None where it is undefined."""
    value = row.get("metrics", row).get(name)
    value = value.get("value") if isinstance(value, dict) else value
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _overall(ax, metric: dict[str, Any], folds: int) -> None:
    ends = (-0.6, folds - 0.4)
    if is_interval(metric.get("procedure")) and folds > 1:
        ax.fill_between(ends, *metric["procedure"], color=BLUE, alpha=0.12, label="procedure 95 %")
    if isinstance(metric.get("value"), int | float):
        ax.plot(ends, [metric["value"]] * 2, color=BLUE, lw=1.2, label="overall")
    ax.set_xlim(*ends)


def _dots(ax, values: list[list[float]]) -> None:
    """Seeds side by side within a fold, so that equal values stay countable."""
    most = max(len(v) for v in values)
    step = min(0.11, 0.6 / most)
    x = [i + step * (j - (len(v) - 1) / 2) for i, v in enumerate(values) for j in range(len(v))]
    y = [value for v in values for value in v]
    size = 14 if len(values) * most <= 120 else 6
    ax.scatter(x, y, s=size, color=BLUE, alpha=0.55, linewidths=0, label="one run", rasterized=len(x) > 1500)
    half = max(0.28, step * (most + 1) / 2)
    means = [(i, np.mean(v)) for i, v in enumerate(values) if v]
    at, mean = np.array(means).T
    ax.hlines(mean, at - half, at + half, color=ORANGE, lw=1.6, label="mean of a fold")


def _fold_axis(ax, keys: list[tuple[int, int]]) -> None:
    repeats = sorted({r for r, _ in keys})
    every = 1 if len(keys) <= 50 else 5
    ticks = [i for i, (_, fold) in enumerate(keys) if fold % every == 0]
    ax.set_xticks(ticks, [str(keys[i][1]) for i in ticks], size=8 if len(keys) <= 25 else 6.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("Fold" if len(repeats) == 1 else "Fold, within each repeat")
    if len(repeats) == 1:
        return
    places = {r: [i for i, k in enumerate(keys) if k[0] == r] for r in repeats}
    for number, inside in enumerate(places.values()):
        if number % 2:
            ax.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=GRID, alpha=0.5, zorder=0)


def _spread_caption(found: dict, keys: list, undefined: set, nested: bool) -> str:
    runs = max(len(v) for v in found.values())
    parts = [f"One dot a run ({plural(runs, 'run')} a fold), a bar for the mean of each fold."]
    if len(keys) < len(found):
        parts.append(f"The first {len(keys)} of {len(found)} folds.")
    repeats = len({r for r, _ in keys})
    if repeats > 1:
        parts.append(f"{repeats} repeats, alternately shaded.")
    if undefined:
        parts.append(f"Undefined in {plural(len(undefined), 'fold')} (such as a test part of one class): no dot there.")
    by = "the seed and the inner fold" if nested else "the seed alone"
    parts.append(f"Folds differ because their patients do; dots within a fold differ by {by}.")
    return " ".join(parts)


def training(history: tuple[dict[str, Any], ...], epochs: np.ndarray) -> list[Drawing]:
    """Training and validation loss by epoch, and the criterion that chose the epoch where it is another one."""
    rows = [r for r in history if r.get("fit", "validation") == "validation" and "epoch" in r]
    if not rows:
        return []
    epoch = np.array([int(r["epoch"]) for r in rows])
    chosen = epochs[np.isfinite(epochs)]
    made = []
    losses = {"train_loss": "training", "validation_loss": "validation"}
    bands = {label: _band(rows, epoch, key) for key, label in losses.items()}
    drawn = {label: b for label, b in bands.items() if b is not None}
    if drawn:
        made.append(_epochs("training", "Training curves", "Loss", drawn, chosen, len({r.get("run") for r in rows})))
    others = sorted({k for r in rows for k in r if k.startswith("validation_")} - {"validation_loss"})
    for key in others:
        found = _band(rows, epoch, key)
        if found is not None:
            label = f"{metric_label(key.removeprefix('validation_'))}, validation"
            runs = len({r.get("run") for r in rows})
            made.append(_epochs(key, "The criterion that chose the epoch", label, {"validation": found}, chosen, runs))
    return made


def _band(rows: list[dict[str, Any]], epoch: np.ndarray, key: str) -> Band | None:
    value = np.array([np.nan if r.get(key) is None else float(r[key]) for r in rows])
    return band(epoch, value)


def _epochs(name: str, title: str, y: str, bands: dict[str, Band], chosen: np.ndarray, runs: int) -> Drawing:
    looks = {"training": (BLUE, "-"), "validation": (ORANGE, "--")}
    few = 0
    with drawing():
        figure, ax = axes(NARROW, 3.3)
        for label, b in bands.items():
            color, dash = looks[label]
            end = int((b.runs * 2 >= runs).sum())  # runs only ever stop, so the first epochs have the most
            few = max(few, len(b.epoch) - end)
            ax.fill_between(b.epoch[:end], b.low[:end], b.high[:end], color=color, alpha=0.15)
            ax.plot(b.epoch[:end], b.median[:end], color=color, ls=dash, label=label)
            ax.plot(b.epoch[max(end - 1, 0) :], b.median[max(end - 1, 0) :], color=color, lw=0.7, alpha=0.7, zorder=1)
        if len(chosen):
            # ticks stand on the frame, below whatever the curves do
            heights = np.full(len(chosen), 0.0)
            ax.plot(
                chosen, heights, "|", color=MUTED, ms=9, mew=1, alpha=0.6, clip_on=False,
                transform=ax.get_xaxis_transform(), label="epoch kept by a run",
            )  # fmt: skip
        _range(ax, bands)
        ax.set(xlabel="Epoch", ylabel=y)
        ax.set_xlim(left=0)
        figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2)
    caption = f"Median over {runs} runs; the band holds the middle half of them." if runs > 1 else "The one run."
    if few:
        caption += " Thin, without band: fewer than half of the runs still train, so the median is over other runs."
    if len(chosen):
        caption += f" Ticks: epoch kept by each run (median {np.median(chosen):.0f})."
    return Drawing(name, figure, title, caption)


def _range(ax, bands: dict[str, Band]) -> None:
    """Logarithmic where a loss falls over more than two orders of magnitude; a few wild epochs do not set the scale."""
    every = np.concatenate([b.median for b in bands.values()])
    low, high = every.min(), every.max()
    if low > 0 and high / low > 100:
        ax.set_yscale("log")
        plain_log(ax.yaxis)
        return
    top = max(np.quantile(np.concatenate([b.high for b in bands.values()]), 0.98), np.quantile(every, 0.98))
    top = high if high < 1.5 * top else top
    bottom = min(b.low.min() for b in bands.values())
    room = 0.06 * (top - bottom) or 0.05
    ax.set_ylim(min(bottom, every.min()) - room, top + room)
