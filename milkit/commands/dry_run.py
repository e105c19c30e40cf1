"""What `milkit run --dry-run` says."""

from milkit.execute.forecast import Forecast
from milkit.watch.table import clock, size


def words(f: Forecast) -> str:
    """A forecast as a page of text."""
    runs = f"{f.runs:,}: {f.splits:,} splits x {f.seeds:,} seeds"
    if f.few_label_runs:
        runs += f"; and {f.few_label_runs:,} with few labels"
    if f.trials:
        runs += f"; a search trains them for each of {f.trials:,} configurations"
    mode = "all instances on the device" if f.memory == "resident" else "instances are read while it trains"
    ladder = ", ".join(f"{r.length:,} ({r.steps:,} steps, {100 * r.waste:.0f} % padding)" for r in f.rungs)
    held = "bounded by the batches that are read ahead" if f.bytes_held is None else f"about {size(f.bytes_held)}"
    if f.bytes_limit:
        held += f" of {size(f.bytes_limit)}"
    rows = [
        (f.name, "a dry run: nothing is kept or written"),
        ("data", f"{f.bags:,} bags, {f.instances:,} instances of {f.features:,} features; {mode}"),
        ("runs", runs),
        ("programs", f"{f.programs:,} of {f.width:,} runs{' for each round' if f.trials else ''}"),
        ("devices", f.devices),
        ("model", f"{f.parameters:,} parameters a run"),
        ("lengths", ladder),
        (
            "epoch",
            f"{f.steps:,} steps, {100 * f.waste:.1f} % of the instances are padding; {f.epochs:,} epochs at most",
        ),
        ("memory", f"{held} for a program"),
        ("compiling", f"{f.compile_seconds:.1f} s now; kept for the run itself where a cache is on"),
        ("an epoch", f"{1000 * f.epoch_seconds:,.1f} ms for all runs of a program"),
        ("all of it", f"about {clock(f.seconds)}, an estimate from steps timed just now on this machine"),
    ]
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {how}" for what, how in rows)
