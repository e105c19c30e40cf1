"""How many runs stand side by side on an accelerator: as many as its memory holds, found by compiling.

The answer depends on the experiment, the data, the kind of device and the compiler, never on what is free at the
moment; it is written to `config.json`, from which a resumed study and a replay take it. (On a CPU the width is a
constant, see `milkit.execute.prepare`: there the cache decides, and it is small.)
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from milkit.execute.folder import read_json
from milkit.execute.prepare import Prepared, lay_out
from milkit.experiment import Experiment
from milkit.train import engine as program
from milkit.train.streaming import StreamEngine

SHARE = 0.8
"""Of the device's memory that a program may hold; the rest is the allocator's."""
MOST = 512
"""More runs than this do not make a program faster, and its tables are written when all of them are done."""


def device_limit() -> int | None:
    """Bytes that the allocator of an accelerator may use in all; None on a CPU, or where it does not say."""
    if jax.default_backend() == "cpu":
        return None
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats["bytes_limit"]) if "bytes_limit" in stats else None


def fitted(prepared: Prepared, limit: int | None) -> Prepared:
    """The study at the width that its device holds, if the experiment leaves the width open.

    Left as it is: on a CPU (no limit), a study that is read while it trains, whose memory is bounded already, and a
    search, whose configurations differ in size.
    """
    experiment = prepared.experiment
    if limit is None or experiment.train.width is not None or experiment.search is not None:
        return prepared
    if isinstance(prepared.engine, StreamEngine):
        return prepared
    width = widest(lambda w: program_bytes(at_width(prepared, w)), int(SHARE * limit), len(prepared.runs))
    return at_width(prepared, width)


def at_width(prepared: Prepared, width: int) -> Prepared:
    """The same study, its runs laid out anew; the data stay where they are."""
    p = prepared
    return lay_out(p.experiment, p.study, p.plan, width, p.measured, p.few, p.engine.data)


def widest(held: Callable[[int], int], budget: int, runs: int, most: int = MOST) -> int:
    """The largest width whose program holds at most `budget` bytes, made smaller where no program would be saved.

    Args:
        held: bytes of a program of so many runs; about linear, and slow to ask (it compiles).
        budget: bytes.
        runs: of the study; no program is wider.
        most: nor than this.
    """
    width = top = min(runs, most)
    if top > 4 and held(top) > budget:
        small, large = held(2), held(4)
        each = max(1.0, (large - small) / 2)
        width = int(np.clip(2 + (budget - small) // each, 1, top - 1))
    # a line through two points may be too hopeful
    while width > 1 and held(width) > budget:
        width = max(1, width * 3 // 4)
    programs = -(-runs // width)
    return -(-runs // programs)


def program_bytes(prepared: Prepared) -> int:
    """Most bytes that a program of the study holds on its device, by the compiler's own account; nothing is run.

    Counted are the packed data, the states of all runs, and what an epoch of training, or the prediction of the test
    part, needs meanwhile.
    """
    engine, group = prepared.engine, prepared.group(0)
    state = jax.eval_shape(lambda: prepared.first_state(0, group))
    parts = [s.test for s in prepared.splits]
    test = engine.part([prepared.splits[0].test] * prepared.width, parts)
    index, weight = (tuple(b.swapaxes(0, 1) for b in blocks) for blocks in (test.index, test.weight))
    predict = program.predict.lower(
        engine.setup, test.lengths, engine.spread(group), engine.data, group.hyper, state.params, state.buffers, index,
        weight,
    )  # fmt: skip
    whole_state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.dtype != group.keys.dtype)
    return max(_bytes(engine.lower(group, state)), _bytes(predict) + whole_state)


def _bytes(lowered: Any) -> int:
    found = lowered.compile().memory_analysis()
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return int(sum(sizes) - found.alias_size_in_bytes)


def remembered(experiment: Experiment, out: Path) -> Experiment:
    """The experiment at the width and in the mode that its run folder was started with, if it leaves them open."""
    if not (out / "config.json").exists():
        return experiment
    kept, train = read_json(out / "config.json"), experiment.train
    width = kept.get("width") if train.width is None else train.width
    memory = kept.get("memory", "auto") if train.memory == "auto" else train.memory
    return replace(experiment, train=replace(train, width=width, memory=memory))
