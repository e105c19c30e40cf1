"""Swin-MIL: the authors' arrays; padding, batches, options, finiteness.

The reference is the authors' float64 run (`out64`, `grad64`), against which milkit runs in float64, gradients of the
image and of weights included, and once in float32, as it is used.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.pixel import SwinMIL
from milkit.pixel.swin import SwinTrunk, WindowAttention, load_trunk, torch_name
from milkit.types import Batch, Images

# half of the time to compile; what runs is small
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
EXACT, SINGLE = 1e-9, 1e-5  # relative to the largest value of the array
TINY = SwinMIL.from_scratch(6, heads=(1, 2, 3))


def name_of(path):
    """The authors' name of a parameter of milkit's module."""
    if path[0] == "trunk":
        return f"backbone.{torch_name(path[1:])}"
    return f"decoder{path[1] + 1}.0.{'weight' if path[2] == 'kernel' else 'bias'}"


def laid_out(a):
    return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T if a.ndim == 2 else a


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
        leaf.set_value(jnp.asarray(laid_out(file[f"w/{name}"]), dtype))
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

    return jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, images.x)


def check(file, config, case, dtype):
    graph, state = filled(config, file, dtype)
    tolerance = EXACT if dtype == "float64" else SINGLE
    x = file["in/x_rect" if case.startswith("rect") else "in/x"].transpose(0, 2, 3, 1)
    images = Images(jnp.asarray(x, dtype), jnp.ones(x.shape[:3], bool))
    target = jnp.asarray(file["in/y"].ravel())
    if dtype == "float32":
        output = jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)
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
        close(names[name], laid_out(file[f"grad64/{case}/{name}"]), EXACT, name)


SMALL = SwinMIL(channels=24, depths=(2, 2, 2), compat="authors")
CASES = [
    ("swin_mil_small", SMALL, "rect_eval", "float64"),
    ("swin_mil_small", SMALL, "eval", "float32"),
    ("swin_mil", SwinMIL(compat="authors"), "eval", "float64"),
]


@pytest.mark.parametrize(("name", "config", "case", "dtype"), CASES)
def test_the_authors_numbers(shared, name, config, case, dtype):
    file = np.load(shared / "parity" / "pixel" / f"{name}.npz", allow_pickle=False)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        check(file, config, case, dtype)


def images_of(*sizes, height, width, fill=0.0):
    """Random images of these sizes in a canvas, `fill` on its padding."""
    rng = np.random.default_rng(0)
    x = np.full((len(sizes), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        x[i, :h, :w], mask[i, :h, :w] = rng.normal(size=(h, w, 3)), True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def spread(config, seed=0):
    """The module with weights so large that attention and biases count."""
    graph, state = nnx.split(nnx.eval_shape(lambda: config.build(3, 2, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    for _, leaf in nnx.to_flat_state(state):
        leaf.set_value(jnp.asarray(rng.normal(size=leaf.shape) * 0.5, jnp.float32))
    return graph, state


def windows_by_loops(module, x, compat):
    """Attention in windows as the paper draws it: every pixel looks for the pixels of its own window, one by one."""
    (h, w, c), n, d = x.shape, module.window, x.shape[-1] // module.heads
    high, wide = (-(-size // n) * n for size in (h, w)) if compat == "authors" else (h, w)
    full = np.zeros((high, wide, c))
    full[:h, :w] = x
    qkv = full @ np.asarray(module.qkv.kernel[...], np.float64) + np.asarray(module.qkv.bias[...], np.float64)
    q, k, v = np.moveaxis(qkv.reshape(high, wide, 3, module.heads, d), 2, 0)
    table = np.asarray(module.relative_position_bias_table[...], np.float64)
    where = [(i, j) for i in range(high) for j in range(wide)]
    window = {(i, j): ((i - module.shift) // n, (j - module.shift) // n) for i, j in where}
    found = np.zeros((h, w, module.heads, d))
    for i in range(h):
        for j in range(w):
            keys = [p for p in where if window[p] == window[i, j]]
            place = [(i - a + n - 1) * (2 * n - 1) + j - b + n - 1 for a, b in keys]
            energy = np.stack([(q[i, j] * k[p]).sum(-1) / np.sqrt(d) for p in keys]) + table[:, place].T
            weight = np.exp(energy - energy.max(0))
            found[i, j] = np.einsum("nk,nkd->kd", weight / weight.sum(0), np.stack([v[p] for p in keys]))
    out = found.reshape(h, w, c) @ np.asarray(module.proj.kernel[...], np.float64)
    return out + np.asarray(module.proj.bias[...], np.float64)


@pytest.mark.parametrize(("shift", "compat"), [(0, "correct"), (1, "correct"), (0, "authors"), (1, "authors")])
def test_windows_are_those_of_the_paper(shift, compat):
    rng = np.random.default_rng(1)
    graph, state = nnx.split(WindowAttention(4, 2, 3, shift, compat, rngs=nnx.Rngs(0)))
    for _, leaf in nnx.to_flat_state(state):
        leaf.set_value(jnp.asarray(rng.normal(size=leaf.shape), jnp.float32))
    module = nnx.merge(graph, state)
    x = rng.normal(size=(5, 7, 4))
    canvas, mask = np.full((2, 8, 7, 4), 1e6, np.float32), np.zeros((2, 8, 7), bool)  # the second is a filler
    canvas[0, :5], mask[0, :5] = x, True
    got = jit(lambda x, mask: module(x, mask))(jnp.asarray(canvas), jnp.asarray(mask))
    np.testing.assert_allclose(got[0, :5], windows_by_loops(module, x, compat), atol=1e-4)
    assert np.isfinite(got).all()


def test_padding_and_company_change_nothing():
    """An odd image alone, and in a canvas of garbage beside a larger one and a filler: the same maps.

    Its windows are cut from its own corner and its map is filled up by itself, so this holds in both forms.
    """
    graph, state = spread(replace(TINY, compat="authors", depths=(2, 1, 1)))
    run = jit(lambda images: nnx.merge(graph, state)(images))
    alone = images_of((33, 50), height=33, width=50)
    both = images_of((33, 50), (62, 61), (0, 0), height=62, width=61, fill=1e6)
    want, got = run(alone), run(both)
    assert want.logits.shape == (1, 2)
    assert list(want.extras["maps"]) == ["fused", "side1", "side2", "side3"]
    np.testing.assert_allclose(got.logits[:1], want.logits, atol=1e-4)
    for name, p in want.extras["maps"].items():
        assert np.ptp(p) > 0.01
        np.testing.assert_allclose(got.extras["maps"][name][:1, :33, :50], p, atol=2e-5)
        assert (np.asarray(got.extras["maps"][name])[~np.asarray(both.mask)] == 0).all()


def test_the_two_forms_agree_where_nothing_is_filled_up():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 6, 9, 4)), jnp.float32)
    forms = [WindowAttention(4, 2, 3, 1, compat, rngs=nnx.Rngs(0)) for compat in ("correct", "authors")]
    a, b = (module(x, jnp.ones(x.shape[:3], bool)) for module in forms)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.ptp(a) > 1e-3


def test_weights_by_their_published_names(shared):
    """All of the trunk is read; a classifier's file has no normalisation of stages, and more besides."""
    file = np.load(shared / "parity" / "pixel" / "swin_mil_small.npz", allow_pickle=False)
    prefix = "w/backbone."
    arrays = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    _, want = filled(SMALL, file, "float32")
    graph, state = nnx.split(nnx.eval_shape(lambda: SMALL.build(3, 1, rngs=nnx.Rngs(0))))
    module = nnx.merge(graph, jax.tree.map(lambda a: jnp.zeros(a.shape), state))
    SMALL.load(module, arrays)
    got = dict(nnx.to_flat_state(nnx.state(module)))
    for path, leaf in nnx.to_flat_state(want):
        if path[0] == "trunk":
            np.testing.assert_array_equal(got[path][...], leaf[...])
    classifier = {k: v for k, v in arrays.items() if not k.startswith("norm")}
    extra = ("norm.weight", "head.bias", "layers.0.blocks.1.attn_mask")
    SMALL.load(module, classifier | dict.fromkeys(extra, np.zeros(3)))
    with pytest.raises(DataError, match=r"missing: patch_embed\.proj\.bias.*unexpected: odd"):
        SMALL.load(module, {k: v for k, v in classifier.items() if k != "patch_embed.proj.bias"} | {"odd": np.zeros(1)})


def of_a_classifier(naming):
    """Shapes of a Swin of two stages of one block in a naming, written out by hand; and what lies above."""
    c = 4
    block = {"norm1.weight": (c,), "norm1.bias": (c,), "attn.qkv.weight": (3 * c, c), "attn.qkv.bias": (3 * c,)}
    block |= {"attn.proj.weight": (c, c), "attn.proj.bias": (c,), "attn.relative_position_bias_table": (9, 2)}
    block |= {"attn.relative_position_index": (16,), "norm2.weight": (c,), "norm2.bias": (c,)}
    fc1, fc2 = ("mlp.0", "mlp.3") if naming == "torchvision" else ("mlp.fc1", "mlp.fc2")
    block |= {f"{fc1}.weight": (4 * c, c), f"{fc1}.bias": (4 * c,), f"{fc2}.weight": (c, 4 * c), f"{fc2}.bias": (c,)}
    merge = {"norm.weight": (4 * c,), "norm.bias": (4 * c,), "reduction.weight": (2 * c, 4 * c)}
    twice = {k: tuple(2 * n for n in s) if "relative" not in k else s for k, s in block.items()}
    patch, first, merging, second, head = {
        "published": ("patch_embed.{}", "layers.0.blocks.0", "layers.0.downsample", "layers.1.blocks.0", "head"),
        "timm": ("patch_embed.{}", "layers.0.blocks.0", "layers.1.downsample", "layers.1.blocks.0", "head.fc"),
        "torchvision": ("features.0.{}", "features.1.0", "features.2", "features.3.0", "head"),
    }[naming]
    last = {"published": "layers.1.downsample", "timm": "layers.2.downsample", "torchvision": "features.4"}[naming]
    conv, norm = ("0", "2") if naming == "torchvision" else ("proj", "norm")
    shapes = {patch.format(conv) + ".weight": (c, 3, 4, 4), patch.format(conv) + ".bias": (c,)}
    shapes |= {f"{patch.format(norm)}.{leaf}": (c,) for leaf in ("weight", "bias")}
    for at, part in ((first, block), (merging, merge), (second, twice), (last, {"reduction.weight": (9, 9)})):
        shapes |= {f"{at}.{k}": s for k, s in part.items()}
    return shapes | {"norm.weight": (9,), f"{head}.weight": (9, 9)}


@pytest.mark.parametrize("naming", ["published", "timm", "torchvision"])
def test_three_namings_of_the_same_weights(naming):
    """Each array gets a constant of its own; a few are looked up where they belong."""
    shapes = of_a_classifier(naming)
    arrays = {k: np.full(s, i + 1, np.float32) for i, (k, s) in enumerate(shapes.items())}
    make = lambda: SwinTrunk(3, 4, (1, 1), (2, 2), window=2, rngs=nnx.Rngs(0))  # noqa: E731
    trunk = nnx.eval_shape(make)
    load_trunk(trunk, arrays)
    fc2 = "features.3.0.mlp.3.weight" if naming == "torchvision" else "layers.1.blocks.0.mlp.fc2.weight"
    merging = {"published": "layers.0.downsample", "timm": "layers.1.downsample", "torchvision": "features.2"}[naming]
    got = trunk.layers[1].blocks[0].mlp.fc2.kernel[...], trunk.layers[0].downsample.reduction.kernel[...]
    want = arrays[fc2].T, arrays[f"{merging}.reduction.weight"].T
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert trunk.layers[0].blocks[0].attn.relative_position_bias_table.shape == (2, 9)
    gone = {k: v for k, v in arrays.items() if k != fc2}
    with pytest.raises(DataError, match=f"missing: {fc2}"):
        load_trunk(nnx.eval_shape(make), gone)


def test_training_in_half_precision_is_finite():
    """With stochastic depth, an image smaller than a token, and a filler."""
    images, target = images_of((30, 32), (9, 3), (0, 0), height=30, width=32), jnp.array([1.0, 0.0, 1.0])
    config = replace(TINY, drop_path=0.5, depths=(1, 1, 1))
    graph, state = spread(config)
    state = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state)
    pixels = Images(images.x.astype(jnp.bfloat16), images.mask)
    found = learn(config, graph, state, pixels, target, deterministic=False)
    assert all(np.isfinite(np.asarray(a, np.float32)).all() for a in jax.tree.leaves(found))


def test_computing_again_changes_nothing():
    """The same random numbers drop the same blocks."""
    x, mask = images_of((16, 16), (16, 9), height=16, width=16).x, jnp.ones((2, 16, 16), bool)
    found = []
    for remat in (False, True):
        trunk = SwinTrunk(3, 4, (2,), (2,), window=3, drop_path=0.5, remat=remat, rngs=nnx.Rngs(0))
        graph, state = nnx.split(trunk)

        def total(state, graph=graph):
            (features,) = nnx.merge(graph, state)(x, mask, deterministic=False, rngs=nnx.Rngs(dropout=1))
            return jnp.sin(features.x).sum()

        found.append(jit(jax.value_and_grad(total))(state))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_stochastic_depth_keeps_the_mean():
    """Rates rise from 0 as if the fourth stage were there; what is kept is scaled by 1 / (1 - rate)."""
    trunk = nnx.eval_shape(lambda: SwinMIL(channels=6, heads=(1, 1, 1)).build(3, 1, rngs=nnx.Rngs(0))).trunk
    np.testing.assert_allclose(trunk.rates, np.arange(10) * 0.2 / 11)
    shares = trunk._shares(4000, nnx.Rngs(dropout=0))
    assert shares[0] is None
    np.testing.assert_allclose(np.unique(shares[9]), [0, 1 / (1 - 1.8 / 11)], rtol=1e-6)
    np.testing.assert_allclose(shares[9].mean(), 1, atol=0.02)
    with pytest.raises(ConfigError, match="rngs"):
        trunk._shares(2, None)


def test_learning_rates_of_heads():
    assert SwinMIL().learning_rate_scale(("heads", "0", "kernel")) == 0.001
    assert SwinMIL().learning_rate_scale(("trunk", "norms", "0", "scale")) == 1
    assert SwinMIL.from_scratch().learning_rate_scale(("heads", "0", "kernel")) == 1
    assert SwinMIL.pretrained("swin.npz").learning_rate_scale(("trunk", "norms", "0", "scale")) == 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [({"heads": (5, 6, 12)}, "5 heads"), ({"fusion_weights": (0.5, 0.5, 0.5)}, "sum to 1"), ({"window": 1}, "window")],
)
def test_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        SwinMIL(**change)
