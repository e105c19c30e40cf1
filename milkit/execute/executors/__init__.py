"""Where the programs of a study run: in this process, in several on this machine, or on a Ray cluster.

Programs are independent of each other, so they may run anywhere, in any order and number at a time: each is claimed by
one process, goes on from its checkpoint if it was cut off, and leaves its part of the run folder whole or not at all.
"""

from milkit.execute.executors.base import HERE, IN_WORKER, NAMES, Executor, Where, Work
from milkit.execute.executors.local import Local

__all__ = ["HERE", "IN_WORKER", "NAMES", "Executor", "Where", "Work", "executor"]


def executor(where: Where) -> Executor:
    """The executor of a choice; use it in a `with` block, which ends what it started."""
    if where.executor == "processes":
        from milkit.execute.executors.processes import Processes

        return Processes(where.workers)
    if where.executor == "ray":
        from milkit.execute.executors.on_ray import OnRay

        return OnRay(where.workers, where.ray_address)
    return Local()
