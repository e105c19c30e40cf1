"""What a protocol that picks its epoch on the test part would report, seen on the trajectories of an honest study.

`fit` receives no test bag. An `Onlooker` stands outside it: after each epoch it is shown the state, judges that epoch's
parameters on the test part and remembers the best ones. Nothing flows back, so the trajectory is the honest study's to
the bit, and all that comes of it is marked `optimistic`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from milkit.execute.prepare import Prepared
from milkit.train.engine import Group
from milkit.train.state import RunState

REMEMBERED = ("best_params", "best_buffers", "best_metric", "best_loss", "best_epoch")


class Onlooker:
    """Remembers each run's best epoch on its test part.

    Args:
        prepared: a study with `optimistic` set.
        program: whose runs.
        group: these runs.
        state: where they stand before the first epoch.
    """

    def __init__(self, prepared: Prepared, program: int, group: Group, state: RunState) -> None:
        assert prepared.optimistic is not None
        splits = [prepared.split(run) for run in prepared.members(program)]
        tests = [s.test for s in splits] + [splits[0].test] * (prepared.width - len(splits))
        self._engine, self._group = prepared.optimistic, group
        self._part = self._engine.part(tests, [s.test for s in prepared.plan.splits])
        self.best: dict[str, Any] = {k: jax.tree.map(jnp.copy, getattr(state, k)) for k in REMEMBERED}

    def look(self, epoch: int, state: RunState) -> None:
        """Judge the parameters of an epoch; `state` is left as it is."""
        # a run that patience has ended is judged in its last epoch too; its parameters do not change after that
        shown = state._replace(**self.best, finished=jnp.zeros_like(state.finished))
        judged = self._engine.judge(self._group, shown, epoch, self._part)
        self.best = {k: getattr(judged, k) for k in REMEMBERED}
