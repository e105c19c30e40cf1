"""Training on cohorts larger than memory: each bag is read once an epoch, and all runs of a program train on it.

The resident engine gives every run its own order of bags, gathered on the device. Here a bag comes from the disk, is
shown to all runs, and is gone: its features have no run axis, so the first layer of all runs is one large product. A
run gives weight 0 to bags that are not in its training part, and a step of weight 0 changes nothing.

Judging an epoch would take a second look at the validation bags. It is done one epoch behind instead: while the pass
of epoch e + 1 trains, it shows the same bags to the parameters as they stood after epoch e. `StreamEngine.epoch` hands
out epoch e when it is judged, and keeps what it has trained ahead for its next call.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from milkit.data.batches import PartLayout
from milkit.data.reading import HELD, Block, Reader, Wanted
from milkit.data.stream_order import StreamLayout, batches_of, draw_order, steps_of
from milkit.train.engine import Engine, EpochLog, Group
from milkit.train.setup import Setup
from milkit.train.state import RunState
from milkit.train.stream_step import Read, end_epoch, go_on, judge_runs, look, stream_step

_SUBSAMPLES = 2**31 - 1  # folded into the experiment's key, where no repeat of a run is numbered so


class Streamed(NamedTuple):
    """A study that stays on the disk; stands where `Packed` does.

    Attributes:
        reader: reads its bags ahead of use.
        lengths: instances of each bag, [B].
        target: of each bag, on the device, see `milkit.task`.
        covariates: of each bag, [B, v] (numpy), NaN where missing; or None.
    """

    reader: Reader
    lengths: Any
    target: Any
    covariates: Any = None


class _Watch(NamedTuple):
    """Whom a pass shows its bags without training.

    Attributes:
        params, buffers: of the runs.
        wants: whether a run is to predict a bag, bool [r, B].
        attention: whether attention is kept too.
        take: given (run, bag, logits [c], attention [n] or None) of each prediction.
    """

    params: Any
    buffers: Any
    wants: np.ndarray
    attention: bool
    take: Callable[[int, int, np.ndarray, np.ndarray | None], None]


class _Ahead(NamedTuple):
    """What was trained while an earlier epoch was judged: it follows upon the very state that was handed out."""

    group: Group
    after: RunState
    epoch: int
    state: RunState
    train_loss: jax.Array


class StreamEngine(Engine):
    """Trains and predicts groups of runs of a study that is read from the disk, each bag once an epoch.

    Args:
        setup: what is fixed at compile time.
        data: the study.
        layout: shape of an epoch; its lengths are also those of evaluation.
        lengths: instances of each bag (numpy).
        seed: the experiment's number.
    """

    def __init__(self, setup: Setup, data: Streamed, layout: StreamLayout, lengths: np.ndarray, seed: int) -> None:
        # not through `Engine`, which puts its data on the device
        self.setup, self.layout, self.rungs, self.lengths, self.seed = setup, layout, layout.rungs, lengths, seed
        self.data: Any = data
        self._ahead: _Ahead | None = None

    @property
    def reader(self) -> Reader:
        """Reads the study."""
        reader: Reader = self.data.reader
        return reader

    def epoch(
        self, group: Group, state: RunState, epoch: int, validation: PartLayout | None
    ) -> tuple[RunState, EpochLog]:
        """Train one epoch and judge it on validation (where there is any); the next one is trained meanwhile."""
        ahead, self._ahead = self._ahead, None
        learning = _learning(state)
        if ahead is None or ahead.group is not group or ahead.after is not state or ahead.epoch != epoch:
            moved, train_loss = self._train_pass(group, state, epoch, None)
        else:
            moved, train_loss = ahead.state, ahead.train_loss
        loss = metric = jnp.full(learning.shape, jnp.nan)
        if validation is not None and learning.any():
            flat = _Flat(validation, len(self.lengths))
            watch = _Watch(moved.params, moved.buffers, flat.wants & learning[:, None], False, flat.take)
            last = epoch + 1 >= self.setup.train.epochs or not _learning(moved).any()
            following = None if last else self._train_pass(group, moved, epoch + 1, watch)
            if following is None:
                self._show_pass(group, watch)
            state, (loss, metric) = self._judge_part(group, moved, epoch, flat)
            if following is not None:
                self._ahead = _Ahead(group, state, epoch + 1, go_on(state, following[0]), following[1])
        else:
            state = moved
        log = EpochLog(train_loss, loss, metric, state.best_epoch, learning, state.finished, state.failed)
        return state, EpochLog(*jax.device_get(tuple(log)))

    def judge(self, group: Group, state: RunState, epoch: int, part: PartLayout) -> RunState:
        """The state with its best epoch so far on a part, which `epoch` may be; reads the part once."""
        flat = _Flat(part, len(self.lengths))
        self._show_pass(group, _Watch(state.params, state.buffers, flat.wants, False, flat.take))
        return self._judge_part(group, state, epoch, flat)[0]

    def predict(
        self, group: Group, params: Any, buffers: Any, part: PartLayout
    ) -> list[list[tuple[int, np.ndarray, np.ndarray | None]]]:
        """Predict every bag of a part once; see `Engine.predict`."""
        runs: list[list[tuple[int, np.ndarray, np.ndarray | None]]] = [[] for _ in group.numbers]

        def take(run: int, bag: int, logits: np.ndarray, attention: np.ndarray | None) -> None:
            seen = None if attention is None else attention[: self.lengths[bag]].copy()
            runs[run].append((bag, logits, seen))

        self._show_pass(group, _Watch(params, buffers, _Flat(part, len(self.lengths)).wants, True, take))
        return [sorted(run, key=lambda p: p[0]) for run in runs]

    def _judge_part(self, group: Group, state: RunState, epoch: int, flat: "_Flat") -> Any:
        return judge_runs(
            self.setup, group.hyper, np.int32(epoch), state, flat.logits(), self.data.target, flat.weight, flat.index
        )

    def _train_pass(
        self, group: Group, state: RunState, epoch: int, watch: _Watch | None
    ) -> tuple[RunState, jax.Array]:
        """Train an epoch, showing its bags to others on the way; `state` itself is left as it is."""
        layout: Any = self.layout
        wanted = draw_order(layout, self.seed, epoch)
        steps = steps_of(wanted, _members(group.train, len(self.lengths)), self.setup.train.accumulate)
        alive = _learning(state)
        trains = steps.weight[:, alive].sum((1, 2)) > 0
        wants = np.zeros(len(self.lengths)) if watch is None else watch.wants.sum(0)
        looks = np.array([wants[list(batch.bags)].any() for batch in wanted])
        moving = jax.tree.map(jnp.copy, state._replace(best_params=(), best_buffers=()))
        zeros = jnp.zeros(len(alive), steps.weight.dtype)
        carry: Any = (moving, zeros, jnp.copy(zeros))
        number = np.int32(epoch)
        shared = jax.random.fold_in(jax.random.key(self.seed), _SUBSAMPLES)
        # what is left out changes nothing: steps keep their number, from which their draws follow
        kept = np.flatnonzero(trains | looks)

        def work(block: Block, read: Read) -> list[Any]:
            nonlocal carry
            at = int(kept[block.number])
            waiting: list[Any] = [] if watch is None else self._look_at(group, watch, block.wanted, read)
            if trains[at]:
                carry, over = stream_step(
                    self.setup, group.hyper, group.keys, shared, carry, (number, np.int32(at)), read,
                    self.data.target, steps.weight[at], steps.update[at],
                )  # fmt: skip
                waiting.append((None, over))
            return waiting

        self._walk([wanted[i] for i in kept], work, watch)
        moved, loss = end_epoch(*carry, number)
        return moved._replace(best_params=state.best_params, best_buffers=state.best_buffers), loss

    def _show_pass(self, group: Group, watch: _Watch) -> None:
        """Read the bags that somebody wants to predict, once."""
        layout: Any = self.layout
        bags = np.flatnonzero(watch.wants.any(0))
        self._walk(batches_of(layout, bags), lambda block, read: self._look_at(group, watch, block.wanted, read), watch)

    def _look_at(self, group: Group, watch: _Watch, wanted: Wanted, read: Read) -> list[Any]:
        """Show a batch to the runs that want it, a fixed number at a time, so that companions change no bit."""
        layout: Any = self.layout
        wants = np.zeros((len(watch.wants), wanted.size), bool)
        wants[:, : len(wanted.bags)] = watch.wants[:, list(wanted.bags)]
        runs = np.flatnonzero(wants.sum(1))
        together = int(np.ceil(layout.share * len(watch.wants)))
        waiting = []
        for i in range(0, len(runs), together):
            some = runs[i : i + together]
            padded = np.resize(some, together)
            weight = wants[padded].astype(np.float32)
            weight[len(some) :] = 0.0
            out = look(
                self.setup, watch.attention, group.hyper, watch.params, watch.buffers,
                padded.astype(np.int32), read, weight,
            )  # fmt: skip
            waiting.append(((some, wants[some], wanted.bags), out))
        return waiting

    def _walk(self, wanted: Sequence[Wanted], work: Callable[[Block, Read], list[Any]], watch: _Watch | None) -> None:
        """Read batches, each while the one before it is worked on; their results are taken as they become ready."""
        flying: deque[tuple[Block, list[Any]]] = deque()

        def land() -> None:
            block, waiting = flying.popleft()
            for who, out in waiting:
                if who is None:
                    jax.block_until_ready(out)
                elif watch is not None:
                    _hand_out(watch, *who, *jax.device_get(out))
            block.release()

        with self.reader.batches(wanted) as blocks:
            for block in blocks:
                read = self._to_device(block)
                flying.append((block, work(block, read)))
                del read
                if len(flying) == HELD:
                    land()
            while flying:
                land()

    def _to_device(self, block: Block) -> Read:
        index = np.zeros(block.wanted.size, np.int32)
        index[: len(block.wanted.bags)] = block.wanted.bags
        beside = None if self.data.covariates is None else self.data.covariates[index]
        return Read(*jax.device_put((block.x, block.coords_um, block.lengths, index, beside)))


def _learning(state: RunState) -> np.ndarray:
    """Whether each run still learns, [r]."""
    return np.asarray(~(state.finished | state.failed))


def _hand_out(
    watch: _Watch, runs: np.ndarray, wants: np.ndarray, bags: tuple[int, ...], logits: Any, attention: Any
) -> None:
    for k, place in np.argwhere(wants).tolist():
        watch.take(int(runs[k]), bags[place], logits[k, place], None if attention is None else attention[k, place])


def _members(parts: Sequence[np.ndarray], bags: int) -> np.ndarray:
    """Whether a bag is in a run's part, bool [r, B]."""
    member = np.zeros((len(parts), bags), bool)
    for row, part in zip(member, parts, strict=True):
        row[part] = True
    return member


class _Flat:
    """A part of several runs as one row a run, in which predictions are collected as they come.

    Attributes:
        index: rows of the study, [r, v]; fillers hold 0.
        weight: 1 for a bag, 0 for a filler.
        wants: whether a bag is in a run's part, bool [r, B].
    """

    def __init__(self, part: PartLayout, bags: int) -> None:
        self.index = np.concatenate([_by_run(i) for i in part.index], 1)
        self.weight = np.concatenate([_by_run(w) for w in part.weight], 1)
        runs, places = np.nonzero(self.weight > 0)
        self._place = np.full((len(self.index), bags), -1)
        self._place[runs, self.index[runs, places]] = places
        self.wants = self._place >= 0
        self._seen: list[tuple[int, int, np.ndarray]] = []

    def take(self, run: int, bag: int, logits: np.ndarray, attention: np.ndarray | None) -> None:
        """Note a prediction."""
        self._seen.append((run, int(self._place[run, bag]), logits))

    def logits(self) -> np.ndarray:
        """All that was taken, [r, v, c]; 0 where nothing was."""
        first = self._seen[0][2]
        out = np.zeros((*self.index.shape, len(first)), first.dtype)
        for run, place, logits in self._seen:
            out[run, place] = logits
        return out


def _by_run(block: np.ndarray) -> np.ndarray:
    """[s, r, b] to [r, s * b]."""
    return block.swapaxes(0, 1).reshape(block.shape[1], -1)
