"""TransMIL as the paper has it, against the formulas in numpy, each bag by itself, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.models import TransMIL
from milkit.nn.squares import squares_of, take_rows
from milkit.types import Bags

SMALL = TransMIL(width=8, heads=2, landmarks=6, residual=5, iterations=4)
FEATURES, LENGTHS = 5, (13, 4, 1)


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, w, name):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w[f"{name}/scale"] + w[
        f"{name}/bias"
    ]


def nystrom(x, w, name, config):
    """Attention of one bag's tokens, dense; its tokens, and the first token's row of each head."""
    n, m, width = len(x), config.landmarks, config.width // config.heads
    # a segment is not empty: with fewer tokens than landmarks there are as many landmarks as tokens
    pieces = np.array_split(np.arange(n), min(n, m)) if n <= m else [
        [t for t in range(n) if t * m // n == j] for j in range(m)
    ]  # fmt: skip
    qkv = np.split(x @ w[f"{name}/qkv/kernel"], 3, 1)
    ys, rows = [], []
    for h in range(config.heads):
        q, k, v = (a[:, h * width : (h + 1) * width] for a in qkv)
        q = q * width**-0.5
        p, of_keys = (np.stack([a[piece].mean(0) for piece in pieces]) for a in (q, k))
        a = softmax(p @ of_keys.T)
        z = a.T / (a.sum(0).max() * a.sum(1).max())
        for _ in range(config.iterations):
            az, one = a @ z, np.eye(len(a))
            z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
        weights = softmax(q @ of_keys.T) @ z @ softmax(p @ k.T)
        taps, half = w[f"{name}/residual"][:, h], config.residual // 2
        around = np.pad(v, ((half, half), (0, 0)))
        ys.append(weights @ v + sum(t * around[i : i + n] for i, t in enumerate(taps)))
        rows.append(weights[0])
    return np.concatenate(ys, 1) @ w[f"{name}/out/kernel"] + w[f"{name}/out/bias"], np.stack(rows, 1)


def ppeg(x, w, cells):
    """Convolutions of tokens that lie in cells (row, column), zeros elsewhere."""
    place = {tuple(cell): i for i, cell in enumerate(cells)}
    y = x.copy()
    for k, size in enumerate((7, 5, 3)):
        y += w[f"ppeg/biases/{k}"]
        for i, (row, column) in enumerate(cells):
            for a in range(size):
                for b in range(size):
                    other = place.get((row + a - size // 2, column + b - size // 2))
                    if other is not None:
                        y[i] += w[f"ppeg/kernels/{k}"][a, b, 0] * x[other]
    return y


def expected(x, w, config, cells=None):
    """Logits of one bag, and the class token's weights of its instances."""
    n = len(x)
    side = int(np.ceil(np.sqrt(n)))
    h = np.maximum(x @ w["encoder/kernel"] + w["encoder/bias"], 0)
    if cells is None:
        h = np.concatenate([h, h[: side**2 - n]])
        cells = [(i // side, i % side) for i in range(side**2)]
    t = np.concatenate([w["class_token"][None], h])
    for i in range(config.layers):
        y, row = nystrom(norm(t, w, f"layers/{i}/norm"), w, f"layers/{i}/attention", config)
        t = t + y
        if i == 0:
            t = np.concatenate([t[:1], ppeg(t[1:], w, cells)])
    again = row[1 + n :]
    weights = row[1 : 1 + n]
    weights[: len(again)] += again
    return norm(t, w, "norm")[0] @ w["classifier/kernel"] + w["classifier/bias"], weights


def compare(config, bags, xs, cells):
    module = config.build(FEATURES, 2, rngs=nnx.Rngs(1))
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    w = {"/".join(map(str, path)): np.asarray(leaf[...], np.float64) for path, leaf in flat}
    output = jax.jit(lambda: module(bags))()
    for i, x in enumerate(xs):
        logits, weights = expected(x.astype(np.float64), w, config, cells[i])
        np.testing.assert_allclose(output.logits[i], logits, rtol=0, atol=1e-5 * np.abs(logits).max())
        got = np.asarray(output.extras["class_attention"][i])
        np.testing.assert_allclose(got[: len(x)], weights, rtol=0, atol=1e-5)
        assert not got[len(x) :].any()
        positive = np.maximum(weights, 0)
        np.testing.assert_allclose(output.attention[i, : len(x)], positive / positive.sum(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [10_000, 20], ids=["whole", "chunks"])
def test_each_bag_of_a_batch_is_the_papers_formula(at_once):
    """16 + 1, 4 + 1 and 1 + 1 tokens: more than the landmarks and not their multiple, and fewer."""
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(n, FEATURES)).astype(np.float32) for n in LENGTHS]
    bags = Bags.of(xs)
    config = TransMIL(**{**vars(SMALL), "at_once": at_once})
    compare(config, bags, xs, [None] * len(xs))


def test_tiles_at_their_own_places():
    """Scattered tiles, a little off their cells and in no order; rows and columns do not run into each other."""
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(n, FEATURES)).astype(np.float32) for n in LENGTHS]
    numbers = [rng.choice(36, n, replace=False) for n in LENGTHS]
    cells = [[(int(c) // 6, int(c) % 6) for c in number] for number in numbers]
    um = [(np.array(c)[:, ::-1] * 112 + 1000 + rng.uniform(-20, 20, (len(c), 2))).astype(np.float32) for c in cells]
    config = TransMIL(**{**vars(SMALL), "positions": "grid", "tile_um": 112.0})
    compare(config, Bags.of(xs, um), xs, cells)


def test_instances_between_padding_are_those_before_it():
    """Which rows are padding does not matter, nor what they hold: the order of instances does."""
    x = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    apart = np.full((1, 6, FEATURES), 9.0, np.float32)
    apart[0, [1, 2, 5]] = x
    mask = jnp.asarray(np.isin(np.arange(6), [1, 2, 5])[None])
    module = SMALL.build(FEATURES, 1, rngs=nnx.Rngs(0))
    forward = jax.jit(lambda bags: module(bags))
    between, alone = forward(Bags(jnp.asarray(apart), mask)), forward(Bags.of(x))
    np.testing.assert_allclose(between.logits, alone.logits, atol=1e-6)
    np.testing.assert_allclose(between.attention[0, [1, 2, 5]], alone.attention[0], atol=1e-6)
    assert not between.attention[0, [0, 3, 4]].any()


def test_squares_by_hand():
    """Five instances are nine tokens, the first four of them twice; two are four; a filler has none."""
    mask = jnp.asarray([[True] * 5, [True, False, True, False, False], [False] * 5])
    squares = squares_of(mask)
    assert squares.side.tolist() == [3, 2, 0]
    assert squares.rows.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3], [0, 2, 0, 2] + [-1] * 5, [-1] * 9]
    assert squares.tokens[0].tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, -1]]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(3, 9, 2)), jnp.float32)
    got = jax.grad(lambda x: (take_rows(x, squares.rows[..., None], squares.tokens) * weight).sum())(x)
    want = np.zeros((3, 5, 2), np.float32)
    for b, t in np.argwhere(np.asarray(squares.rows) >= 0):
        want[b, squares.rows[b, t]] += weight[b, t]
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3, "width": 8}, "divisor"),
        ({"residual": 4}, "odd"),
        ({"positions": "grid"}, "tile_um"),
        ({"tile_um": 112.0}, "positions='grid' only"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ConfigError, match=message):
        TransMIL(**options)


def test_what_is_missing_is_asked_for():
    with pytest.raises(ConfigError, match="width=5"):
        TransMIL(width=8, heads=2, encoder=False).build(5, 1, rngs=nnx.Rngs(0))
    module = TransMIL(width=8, heads=2, landmarks=2, positions="grid", tile_um=112.0).build(5, 1, rngs=nnx.Rngs(0))
    with pytest.raises(DataError, match="coords_um"):
        jax.eval_shape(module, Bags.of(np.ones((3, 5), np.float32)))
