"""How a study stands, in words: the rows of the live table, and one plain line."""

from typing import Any

from milkit.watch.standing import Standing

_STALE = 60.0


def facts(s: Standing) -> list[tuple[str, str]]:
    """(what, how it stands) of each row of the table; what is not known yet has no row."""
    programs = f"{s.done:,} done, {s.running:,} running, {s.programs:,} in all"
    rows = [("programs", programs), ("runs", f"{s.runs_done:,} done, {s.learning:,} learning, {s.runs:,} in all")]
    if s.epoch is not None:
        least, most = s.epoch
        rows.append(("epoch", f"{most:,} of {s.epochs:,}" if least == most else f"{least:,}-{most:,} of {s.epochs:,}"))
    if s.best is not None:
        low, middle, high = (f"{v:.3f}" for v in s.best)
        name = f"best validation {str(s.criterion).replace('_', ' ')}"
        rows.append((name, f"median {middle}, quartiles {low} and {high}, over {s.best_runs:,} runs"))
    if s.bags_per_second is not None and s.run_steps_per_second is not None:
        rows.append(("speed", f"{s.bags_per_second:,.0f} bags/s, {s.run_steps_per_second:,.0f} run-steps/s"))
    if s.memory_bytes is not None:
        of = f" of {size(s.memory_limit)}" if s.memory_limit else ""
        rows.append(("memory", f"{size(s.memory_bytes)}{of}"))
    cached = f", {s.compiled_cached:,} from the cache" if s.compiled_cached else ""
    rows.append(("compiled", f"{s.compiled:,} functions in {s.compile_seconds:.1f} s{cached}"))
    rows.append(("time", f"{clock(s.seconds)}{_left(s)}"))
    return rows


def line(s: Standing) -> str:
    """The same in one line, for a log."""
    parts = [f"{s.name}: {s.epochs_done:,} of {s.epochs_total:,} epochs", f"{s.done:,} of {s.programs:,} programs done"]
    if s.best is not None:
        parts.append(f"best validation {str(s.criterion).replace('_', ' ')} {s.best[1]:.3f} (median)")
    if s.bags_per_second is not None:
        parts.append(f"{s.bags_per_second:,.0f} bags/s")
    return "; ".join(parts) + _left(s)


def _left(s: Standing) -> str:
    if s.state != "running":
        return f", {s.state}"
    if s.silent > _STALE:
        return f", no sign of life for {clock(s.silent)}"
    return "" if s.seconds_left is None else f", about {clock(s.seconds_left)} left"


def table(s: Standing) -> Any:
    """The live table, for rich."""
    from rich import box
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, show_header=True, pad_edge=False)
    share = s.epochs_done / max(s.epochs_total, 1)
    grid.add_column(Text(s.name), style="cyan", no_wrap=True)
    grid.add_column(f"{100 * share:.0f} %")
    for what, how in facts(s):
        grid.add_row(what, Text(how))
    return Group(grid, ProgressBar(total=1.0, completed=share, width=60))


def clock(seconds: float) -> str:
    """A time that a person reads: 8 s, 3 min 05 s, 2 h 40 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Bytes that a person reads."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
