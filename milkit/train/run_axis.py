"""The run axis: the one place where functions of one run become functions of many.

The runs of a program lie on the leading axis of every per-run array. They are shared out over devices, a device goes
through its share block by block, and the runs of a block are computed side by side (`vmap`). How many runs stand in a
block (the *width*) and how many devices there are decide the bits; how many blocks there are does not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "runs"
SHARED = None


class Spread(NamedTuple):
    """How the runs of a program are spread; hashable, so a compiled function can be made for it.

    Attributes:
        width: runs side by side in one block.
        devices: that share the blocks.
    """

    width: int
    devices: int = 1

    def mesh(self) -> Mesh:
        """The devices that are used: the first ones."""
        return Mesh(np.asarray(jax.devices()[: self.devices]), (AXIS,))

    @property
    def axes(self) -> int:
        """Run axes of a block's arrays: none where a block is a single run."""
        return int(self.width > 1)

    def put(self, value: Any, axis: int | None = None) -> Any:
        """Arrays onto the devices: copied to each, or cut along `axis`; abstract ones say that they lie there."""
        spec = PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXIS)
        place = NamedSharding(self.mesh(), spec)
        if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(value)):
            return jax.device_put(value, place)
        return jax.tree.map(
            lambda x: (
                jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
                if isinstance(x, jax.ShapeDtypeStruct)
                else jax.device_put(x, place)
            ),
            value,
        )


def devices_for(blocks: int, available: int) -> int:
    """The most devices that share so many blocks evenly."""
    return max(d for d in range(1, max(1, min(blocks, available)) + 1) if blocks % d == 0)


def side_by_side(spread: Spread, f: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """A function of one run, as one of the runs of a block: `vmap`, or itself where a block is a single run.

    A run alone has no run axis: taking it off and putting it on within a loop would make XLA copy parameters and
    optimiser state at every step.

    Args:
        spread: how many runs a block has.
        f: of one run.
        in_axes: 0 for per-run arguments, None for shared ones.
    """
    return f if spread.width == 1 else jax.vmap(f, in_axes)


def over_blocks(spread: Spread, f: Callable[..., Any], shared: int) -> Callable[..., Any]:
    """A function of one block, as a function of all runs of a program.

    Args:
        spread: width and devices.
        f: takes `shared` values that are the same for all runs, then per-run values, and gives such values back;
            they have a leading axis of `spread.width`, or no run axis where that is 1.
        shared: how many.

    Returns:
        The same with a leading axis of any multiple of the width, cut over the devices.
    """

    def local(*values: Any) -> Any:
        common, own = values[:shared], values[shared:]
        blocks = jax.tree.leaves(own)[0].shape[0] // spread.width

        def one_block(block: Any) -> Any:
            # The barriers, and the loop even around a single block, keep XLA from fusing a block with what is around
            # it, which would make bits depend on how many blocks there are.
            return jax.lax.optimization_barrier(f(*common, *jax.lax.optimization_barrier(block)))

        if spread.width == 1:
            return jax.lax.map(one_block, own)
        cut = jax.tree.map(lambda x: x.reshape(blocks, spread.width, *x.shape[1:]), own)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(one_block, cut))

    def everywhere(*values: Any) -> Any:
        per_value = (PartitionSpec(),) * shared + (PartitionSpec(AXIS),) * (len(values) - shared)
        shards = jax.shard_map(
            local, mesh=spread.mesh(), in_specs=per_value, out_specs=PartitionSpec(AXIS), check_vma=False
        )
        return shards(*values)

    return everywhere
