"""Corrected criss-cross attention against oracles of its own: pixel by pixel in numpy, and dense in PyTorch.

Sizes and seeds are others than those of the arrays in `test_parity_samil.py`, lines of one pixel among them. The dense
form lets every pixel attend to the whole image and forbids what is not in its row or column: no rows, no columns, and
no running maximum, so that it has nothing in common with the code under test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.nn.criss_cross import CrissCross

SIZES = [(7, 4, 11, 2), (1, 9, 16, 3), (6, 1, 8, 2), (13, 10, 24, 1)]  # height, width, channels, times applied
TOLERANCE = 1e-5  # relative to the largest value, in float32


def drawn(height, width, channels, seed):
    """Arrays of the projections (as matrices, biases after them), gamma, an image and a direction, in float64."""
    rng = np.random.default_rng(seed)
    narrow = max(1, channels // 8)
    shapes = {"query": narrow, "key": narrow, "value": channels}
    weights = {k: rng.normal(size=(channels, n)) / np.sqrt(channels) for k, n in shapes.items()}
    biases = {k: rng.normal(size=n) for k, n in shapes.items()}
    return weights, biases, 0.7, *rng.normal(size=(2, height, width, channels))


def module_of(weights, biases, gamma, dtype):
    channels = weights["value"].shape[0]
    graph, state = nnx.split(nnx.eval_shape(lambda: CrissCross(channels, rngs=nnx.Rngs(0))))
    for path, leaf in nnx.to_flat_state(state):
        a = gamma if path[0] == "gamma" else (weights if path[1] == "kernel" else biases)[path[0]]
        leaf.set_value(jnp.asarray(np.broadcast_to(a, leaf.shape), dtype))
    return nnx.merge(graph, state)


def pixel_by_pixel(weights, biases, gamma, x, times):
    """Each pixel gathers its row and its column, itself once; nothing is vectorised over pixels."""
    height, width, _ = x.shape
    for _ in range(times):
        q, k, v = (x @ weights[n] + biases[n] for n in ("query", "key", "value"))
        found = np.empty_like(x)
        for i in range(height):
            for j in range(width):
                seen = [(i, b) for b in range(width)] + [(a, j) for a in range(height) if a != i]
                energy = np.array([q[i, j] @ k[p] for p in seen])
                share = np.exp(energy - energy.max())
                found[i, j] = share / share.sum() @ np.array([v[p] for p in seen])
        x = x + gamma * found
    return x


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_pixel_by_pixel(size):
    """Outputs in float32; in float64 also the derivative along a direction, by a central difference of the oracle."""
    height, width, channels, times = size
    weights, biases, gamma, x, direction = drawn(height, width, channels, sum(size))
    want = pixel_by_pixel(weights, biases, gamma, x, times)
    step = 1e-5
    ahead, behind = (pixel_by_pixel(weights, biases, gamma, x + s * direction, times) for s in (step, -step))
    slope = (ahead - behind) / (2 * step)

    def run(dtype):
        module = module_of(weights, biases, gamma, dtype)

        def call(x):
            for _ in range(times):
                x = module(x, jnp.ones(x.shape[:3], bool))
            return x

        given = [jnp.asarray(a[None], dtype) for a in (x, direction)]
        return jax.jit(lambda x, along: jax.jvp(call, (x,), (along,)))(*given)

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        exact, moved = run("float64")
        single, _ = run("float32")
    scale = np.abs(want).max()
    np.testing.assert_allclose(exact[0], want, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(moved[0], slope, rtol=0, atol=1e-7 * np.abs(slope).max())
    np.testing.assert_allclose(single[0], want, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_dense_in_torch(size, seed):
    """Outputs and gradients of the image and of every parameter."""
    torch = pytest.importorskip("torch", reason="parity needs torch (make parity)")
    height, width, channels, times = size
    weights, biases, gamma, x, cotangent = drawn(height, width, channels, 100 * seed + sum(size))
    leaves = {f"{n}/kernel": torch.tensor(weights[n], requires_grad=True) for n in weights}
    leaves |= {f"{n}/bias": torch.tensor(biases[n], requires_grad=True) for n in biases}
    leaves["gamma"] = torch.tensor([gamma], dtype=torch.float64, requires_grad=True)
    leaves["x"] = torch.tensor(x, requires_grad=True)
    rows, columns = (a.reshape(-1) for a in np.indices((height, width)))
    cross = torch.tensor((rows[:, None] == rows) | (columns[:, None] == columns))
    y = leaves["x"].reshape(-1, channels)
    for _ in range(times):
        q, k, v = (y @ leaves[f"{n}/kernel"] + leaves[f"{n}/bias"] for n in ("query", "key", "value"))
        y = y + leaves["gamma"] * (torch.softmax((q @ k.T).masked_fill(~cross, -torch.inf), 1) @ v)
    (y * torch.tensor(cotangent).reshape(-1, channels)).sum().backward()

    with jax.enable_x64(True):
        graph, state = nnx.split(module_of(weights, biases, gamma, "float64"))

        def total(state, x):
            y = x
            for _ in range(times):
                y = nnx.merge(graph, state)(y, jnp.ones(y.shape[:3], bool))
            return (y * cotangent).sum(), y

        (_, got), (of_weights, of_x) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(
            state, jnp.asarray(x[None], "float64")
        )
    pairs = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(of_weights)}
    pairs = {name: (a, leaves[name].grad) for name, a in pairs.items()} | {"x": (of_x, leaves["x"].grad)}
    pairs["y"] = (got, y.detach())
    largest = max(np.abs(b.numpy()).max() for _, b in pairs.values())
    for name, (a, b) in pairs.items():  # the key's bias moves all energies alike: 0 but for rounding
        want = b.numpy()
        scale = max(np.abs(want).max(), 1e-4 * largest)
        np.testing.assert_allclose(np.asarray(a).reshape(want.shape), want, rtol=0, atol=1e-9 * scale, err_msg=name)
