"""The sum of patches: which instances are read, by hand, and what becomes of them, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from parity import close

from milkit.models.schaumberg2020 import SumOfPatches, spread, z_code
from milkit.types import Bags


def test_by_order_the_middles_of_equal_runs_are_read():
    """Of 10 instances in 4 runs: the middles lie at 1.25, 3.75, 6.25, 8.75. Three instances are read whole."""
    mask = np.zeros((3, 12), bool)
    mask[0, :10] = mask[1, [2, 5, 11]] = True
    assert spread(jnp.asarray(mask), None, 4).tolist() == [[1, 3, 6, 8], [2, 5, 11, -1], [-1, -1, -1, -1]]


def test_the_z_curve_by_hand():
    """Corners of a square: top left, top right, bottom left, bottom right; one instance is at the start."""
    xy = jnp.asarray(
        [[[100.0, 300.0], [300.0, 300.0], [100.0, 500.0], [300.0, 500.0]], [[7.0, 7.0]] + [[0.0, 0.0]] * 3]
    )
    mask = jnp.asarray([[True] * 4, [True] + [False] * 3])
    code = z_code(xy, mask)
    whole = (1 << 20) - 1
    odd, even = whole // 3 * 2, whole // 3
    assert code[0].tolist() == [0, even, odd, whole]
    assert code[1, 0] == 0


def test_a_square_of_tiles_gives_one_of_each_block():
    """16 x 16 tiles and 16 patches: one of each block of 4 x 4, whatever the order of the rows or the padding."""
    y, x = np.divmod(np.arange(256), 16)
    xy = np.stack([x, y], 1)[np.random.default_rng(0).permutation(256)].astype(np.float32)
    padded = np.concatenate([np.full((1, 7, 2), 9e5, np.float32), 224 * xy[None]], 1)
    mask = np.arange(263)[None] >= 7
    rows = np.asarray(spread(jnp.asarray(mask), jnp.asarray(padded), 16))[0] - 7
    blocks = xy[rows].astype(int) // 4
    assert len({tuple(b) for b in blocks.tolist()}) == 16
    again = np.asarray(spread(jnp.ones((1, 256), bool), jnp.asarray(224 * xy[None, ::-1]), 16))[0]
    assert sorted(map(tuple, xy[::-1][again].tolist())) == sorted(map(tuple, xy[rows].tolist()))


def test_the_sum_against_the_formulas():
    config = SumOfPatches(patches=3, width=5)
    graph, state = nnx.split(config.build(4, 2, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(2)
    x = [rng.normal(size=(n, 4)).astype(np.float32) for n in (7, 2)]
    with jax.default_matmul_precision("highest"):
        output = jax.jit(lambda state: nnx.merge(graph, state)(Bags.of(x)))(state)
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(state)}
    assert output.extras["rows"].tolist() == [[1, 3, 5], [0, 1, -1]]
    for b, rows in enumerate(([1, 3, 5], [0, 1])):
        z = np.maximum(x[b][rows] @ w["encoder/layers/0/kernel"] + w["encoder/layers/0/bias"], 0).sum(0)
        close(output.embedding[b], z)
        close(output.logits[b], z @ w["classifier/kernel"] + w["classifier/bias"])
