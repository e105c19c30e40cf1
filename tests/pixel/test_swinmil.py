"""Swin-MIL: the authors' arrays; padding, batches, options, finiteness.

The reference is the authors' float64 run (`out64`, `grad64`), against which milkit runs in float64, gradients of the
image and of weights included, and once in float32, as it is used.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.pixel import SwinMIL
from milkit.pixel.swin import SwinTrunk, torch_name
from milkit.types import Batch, Images

EXACT, SINGLE = 1e-9, 1e-5  # relative to the largest value of the array
TINY = SwinMIL.from_scratch(6, heads=(1, 2, 3))


def name_of(path):
    """The authors' name of a parameter of milkit's module."""
    if path[0] == "trunk":
        return f"backbone.{torch_name(path[1:])}"
    return f"decoder{path[1] + 1}.0.{'weight' if path[2] == 'kernel' else 'bias'}"


def laid_out(a):
    return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T if a.ndim == 2 else a


def as_ours(name, a):
    """An array of the authors as milkit keeps it; tables of biases lie the same way."""
    return a if name.endswith("bias_table") else laid_out(a)


def close(got, want, tolerance, what=""):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, what
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=what)


def filled(config, file, dtype):
    """The module's graph and its state with the authors' weights; what no side reads is the only thing left over."""
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(3, 1, rngs=nnx.Rngs(0))))
    left = {k[2:] for k in file.files if k.startswith("w/")}
    for path, leaf in nnx.to_flat_state(state):
        name = name_of(path)
        leaf.set_value(jnp.asarray(as_ours(name, file[f"w/{name}"]), dtype))
        left.remove(name)
    assert all(k.startswith(("backbone.layers.3.", "backbone.layers.2.downsample.")) for k in left)
    return graph, state


def bce(target):
    return lambda z: jax.nn.softplus(z[:, 0]) - target * z[:, 0]


def learn(config, graph, state, images, target, deterministic=True):
    """Loss, output, and gradients of parameters and pixels."""

    def loss(state, x):
        output = nnx.merge(graph, state, copy=True)(
            Images(x, images.mask), deterministic=deterministic, rngs=nnx.Rngs(dropout=0)
        )
        batch = Batch(images, target[:, None], jnp.ones(len(x)), jnp.arange(len(x)))
        values, parts = config.objective(output, batch, bce(target))
        return values.mean(), (output, parts)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, images.x)


def check(file, config, case, dtype):
    graph, state = filled(config, file, dtype)
    tolerance = EXACT if dtype == "float64" else SINGLE
    x = file["in/x_rect" if case.startswith("rect") else "in/x"].transpose(0, 2, 3, 1)
    images = Images(jnp.asarray(x, dtype), jnp.ones(x.shape[:3], bool))
    target = jnp.asarray(file["in/y"].ravel())
    if dtype == "float32":
        output = jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)
    else:
        (value, (output, _)), (of_weights, of_image) = learn(config, graph, state, images, target)
    for name, p in output.extras["maps"].items():
        close(p[..., 0], file[f"out64/{case}/{name}"][:, 0], tolerance, name)
        close(jax.nn.sigmoid(output.extras["map_logits"][name]), file[f"out64/{case}/bag_{name}"], tolerance, name)
    if dtype == "float32":
        return
    close(value, file[f"out64/{case}/loss"], tolerance)
    close(of_image, file[f"grad64/{case}/input"].transpose(0, 2, 3, 1), EXACT, "input")
    names = {name_of(path): leaf[...] for path, leaf in nnx.to_flat_state(of_weights)}
    given = [k.split("/")[2] for k in file.files if k.startswith(f"grad64/{case}/") and not k.endswith("/input")]
    assert len(given) > 10
    for name in given:
        close(names[name], as_ours(name, file[f"grad64/{case}/{name}"]), EXACT, name)


SMALL = SwinMIL(channels=24, depths=(2, 2, 2), compat="authors")
CASES = [
    ("swin_mil_small", SMALL, "eval", "float64"),
    ("swin_mil_small", SMALL, "rect_eval", "float64"),
    ("swin_mil", SwinMIL(compat="authors"), "eval", "float64"),
    ("swin_mil", SwinMIL(compat="authors"), "eval", "float32"),
]


@pytest.mark.parametrize(("name", "config", "case", "dtype"), CASES)
def test_the_authors_numbers(shared, name, config, case, dtype):
    file = np.load(shared / "parity" / "pixel" / f"{name}.npz", allow_pickle=False)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        check(file, config, case, dtype)
