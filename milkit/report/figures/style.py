"""One look for all drawings: sizes, a colour-blind-safe palette, and SVG that follows the page's light or dark scheme.

Colours are those of Okabe & Ito, which people with the common colour deficiencies can tell apart; lines that share a
plot differ in dash or marker too. A PNG is drawn on white for papers. In the SVG each colour becomes a CSS variable,
so that the page decides what ink is.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milkit.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2934", "#66717c", "#e1e5e9"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b0569b"
AMBER, SKY, BROWN = "#c98a00", "#3a9fdc", "#7d5a3c"
LINES = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, BROWN)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BLUE: "c1",
    ORANGE: "c2",
    GREEN: "c3",
    PURPLE: "c4",
    AMBER: "c5",
    SKY: "c6",
    BROWN: "c7",
}

NARROW, HEIGHT = 3.9, 3.3  # inches: at the width of a phone the text stays readable
WIDE = 8.0

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in somebody's id is a dollar sign
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.6,
    "patch.linewidth": 0.0,
    "svg.fonttype": "path",  # text as laid out, whatever fonts the reader has
    "savefig.dpi": 200,
    "figure.dpi": 100,
}


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure and what to say about it.

    Attributes:
        name: of its files, without suffix.
        figure: what was drawn.
        title: a few words.
        caption: what is drawn, of how many, and what is not.
        wide: needs the full width of the page.
    """

    name: str
    figure: "Figure"
    title: str
    caption: str
    wide: bool = False


@contextmanager
def drawing() -> Iterator[None]:
    """The look of milkit while something is drawn or saved; the caller's own settings come back afterwards."""
    import matplotlib

    settings: Any = _SETTINGS  # matplotlib's stubs list every key there is
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # ids in scripts that the font lacks are drawn as boxes; that is no reason to lose a report
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def axes(width: float = NARROW, height: float = HEIGHT, **grid: Any) -> tuple["Figure", Any]:
    """A figure outside pyplot's global state, with one pair of axes or a grid of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**grid)


def unit_axes(ax: "Axes", x: str, y: str) -> None:
    """Both axes from 0 to 1, square."""
    ax.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel=x, ylabel=y, aspect="equal")
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])


def plain_log(axis: Any) -> None:
    """Logarithmic labels as plain numbers: matplotlib's own are mathematics, which is switched off for ids' sake."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    subs = (1.0, 3.0) if _decades(axis) < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=15))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _decades(axis: Any) -> float:
    low, high = axis.get_view_interval()
    return math.log10(high / low)


def save(made: Drawing, run_folder: Path) -> Picture:
    """Write `figures/NAME.png` and give the picture for the page."""
    import matplotlib

    png = Path("figures") / f"{made.name}.png"
    with drawing():
        made.figure.savefig(run_folder / png, facecolor="white", metadata={"Software": "milkit"})
        matplotlib.rcParams["svg.hashsalt"] = made.name  # ids differ between figures, and not between two reports
        buffer = io.StringIO()
        made.figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    return Picture(png, themed(buffer.getvalue(), made.name), made.title, made.caption, made.wide)


def themed(svg: str, name: str) -> str:
    """An SVG file as an element of a page: no header, no outside address, its colours as CSS variables."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # a page knows both names already
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r'id="(figure|patch|axes|text|line2d|xtick|ytick|matplotlib\.axis)_\d+"', "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable},{colour})")
    return re.sub(r"\n\s*", "\n", svg)
