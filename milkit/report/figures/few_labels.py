"""A label-budget curve: one metric against the number of labelled patients, with both intervals."""

from collections.abc import Sequence
from typing import Any

from milkit.report.figures.style import BLUE, HEIGHT, INK, MUTED, ORANGE, WIDE, Drawing, axes, drawing
from milkit.report.words import is_interval, metric_label, plural

ROOM = 0.055  # between the two intervals of a point, in doublings


def curve_figure(name: str, curves: Sequence[tuple[str, dict[str, Any]]]) -> Drawing | None:
    """One metric of one study or of several; None where no budget has a value.

    Args:
        name: of the metric.
        curves: label and `label_curve.json` of each study.
    """
    curves = [(label, curve) for label, curve in curves if len(_values(curve, name)) > 1]
    if not curves:
        return None
    several = len(curves) > 1
    with drawing():
        figure, ax = axes(WIDE * 0.72, HEIGHT)
        for i, (label, curve) in enumerate(curves):
            if several:
                _plain(ax, name, curve, i, label)
            else:
                _whole(ax, name, curve)
        _labels_axis(ax, [curve for _, curve in curves])
        ax.set_ylabel(metric_label(name))
        figure.legend(loc="outside upper left", ncols=3 if several else 5, columnspacing=1.2)
    return Drawing(
        f"label_curve_{_file(name)}", figure, f"{metric_label(name)} with few labels", _caption(curves), True
    )


def _values(curve: dict[str, Any], name: str) -> list[tuple[float, dict[str, Any]]]:
    """Place (labelled training patients a class) and metric of each point that has a value."""
    found = zip(places(curve), curve["points"], strict=True)
    return [(x, p["metrics"][name]) for x, p in found if p["metrics"].get(name, {}).get("value") is not None]


def places(curve: dict[str, Any]) -> list[float]:
    """Training patients a class of each point; of the whole training part their mean over classes."""
    points = curve["points"]
    few = [p for p in points if p["labels"] != "all"]
    classes = max(1.0, few[0]["train_patients"] / few[0]["labels"]) if few else 1.0
    return [p["train_patients"] / classes if p["labels"] == "all" else float(p["labels"]) for p in points]


def _whole(ax: Any, name: str, curve: dict[str, Any]) -> None:
    """One study: both intervals side by side at each point, each draw alone as a small mark, and the line of all."""
    found = _values(curve, name)
    ax.plot([x for x, _ in found], [m["value"] for _, m in found], "o-", color=BLUE, ms=5, label="mean", zorder=4)
    looks = (("sampling", -ROOM, BLUE, 1.8, ""), ("procedure", ROOM, ORANGE, 1.2, "_"))
    for kind, shift, colour, width, cap in looks:
        shown = [(x * 2**shift, m[kind]) for x, m in found if is_interval(m.get(kind))]
        for i, (x, bounds) in enumerate(shown):
            label = f"{kind} 95 %" if i == 0 else None
            ax.plot([x, x], bounds, color=colour, lw=width, marker=cap or None, ms=6, mew=1.2, label=label, zorder=3)
    each = [(x, v) for x, m in found if len(m.get("by_draw", ())) > 1 for v in m["by_draw"] if v is not None]
    if each:
        at = [x * 2 ** (3 * ROOM) for x, _ in each]
        ax.scatter(at, [v for _, v in each], s=9, color=MUTED, lw=0, alpha=0.8, label="one draw", zorder=3)
    every = [m["value"] for p, m in zip(curve["points"], (m for _, m in found), strict=False) if p["labels"] == "all"]
    if every:
        ax.axhline(every[-1], color=INK, lw=0.9, ls="--", label="all labels", zorder=2)


def _plain(ax: Any, name: str, curve: dict[str, Any], i: int, label: str) -> None:
    """One of several studies: values and procedure intervals, a little apart."""
    from milkit.report.figures.style import DASHES, LINES

    found, shift = _values(curve, name), 2.0 ** (1.5 * ROOM * i)
    colour = LINES[i % len(LINES)]
    ax.plot(
        [x * shift for x, _ in found], [m["value"] for _, m in found], "o", ls=DASHES[i % len(DASHES)], color=colour,
        ms=5, label=label,
    )  # fmt: skip
    for x, m in found:
        if is_interval(m.get("procedure")):
            ax.plot([x * shift] * 2, m["procedure"], color=colour, lw=1.0, alpha=0.7)


def _labels_axis(ax: Any, curves: Sequence[dict[str, Any]]) -> None:
    """A tick at every budget; "all" where the whole training part stands."""
    ticks: dict[float, str] = {}
    for curve in curves:
        for x, point in zip(places(curve), curve["points"], strict=True):
            ticks[x] = f"all\n({x:.0f})" if point["labels"] == "all" else str(point["labels"])
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xticks([], minor=True)
    ax.grid(axis="x", visible=False)
    per_class = any(p["train_patients"] > p["labels"] for c in curves for p in c["points"] if p["labels"] != "all")
    ax.set_xlabel("Labelled training patients " + ("of each class" if per_class else "in all") + " (log scale)")


def _file(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _caption(curves: Sequence[tuple[str, dict[str, Any]]]) -> str:
    few = [p for p in curves[0][1]["points"] if p["labels"] != "all"]
    text = f"Each point is the mean over {plural(few[0]['splits'], 'split')}" if few else "Each point is a mean"
    if few:
        text += f", {plural(few[0]['draws'], 'draw')} of the labelled patients and {plural(few[0]['seeds'], 'seed')}."
    if len(curves) > 1:
        return text + " Bars: procedure 95 %. The same test patients at every point of a study."
    text += " Blue bars: other patients to test on (sampling). Orange bars: other splits, draws and seeds (procedure)."
    return text + " Grey dots: what each draw alone would have given. The same test patients at every point."
