"""MC-ViT against its formulas in numpy, each bag by itself, in float64: of three scales, of two and of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf, softmax

from milkit.errors import ConfigError
from milkit.models import MCViT
from milkit.nn.class_token import on_instances
from milkit.testing.subject import with_padding
from milkit.types import Bags

FEATURES, LENGTHS = 6, (7, 1, 4)


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def in_numpy(x, xy, w, config):
    """Logits of one bag, the class token's attention [n, heads], and the probabilities of its patches' classes."""

    def layer(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)

    def norm(x, name):
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * w[f"{name}/scale"] + w[f"{name}/bias"]

    def head(x, i):
        return np.split(x, config.heads, -1)[i]

    def asked(rows):  # one instance: its scales' vectors
        q, k, v = zip(
            *(np.split(layer(norm(h, f"cross/norms/{s}"), f"cross/qkv/{s}"), 3) for s, h in enumerate(rows)),
            strict=True,
        )
        answers = []
        for s in range(len(rows)):
            others, found = [t for t in range(len(rows)) if t != s], []
            for i in range(config.heads):
                scores = np.array([head(q[s], i) @ head(k[t], i) for t in others])
                weight = softmax(scores / np.sqrt(config.width / config.heads))
                found.append(sum(a * head(v[t], i) for a, t in zip(weight, others, strict=True)))
            answers.append(rows[s] + layer(np.concatenate(found), f"cross/out/{s}"))
        return answers

    columns = np.split(x, np.cumsum(config.sets or (FEATURES,))[:-1], 1)
    h = [np.maximum(layer(c, f"encoders/{s}/layers/0"), 0) for s, c in enumerate(columns)]
    if len(h) == 2:
        swapped = [layer(norm(h[1 - s], f"cross/norms/{1 - s}"), f"cross/qkv/{1 - s}") for s in (0, 1)]
        h = [h[s] + layer(swapped[s], f"cross/out/{s}") for s in (0, 1)]
    if len(h) == 3:
        h = np.swapaxes([asked(rows) for rows in zip(*h, strict=True)], 0, 1)
    patch = np.mean(h, 0)
    classes = softmax(layer(patch, "patch_classifier"), 1)
    z = layer(patch, "projection") + classes @ w["class_embedding"]
    if xy is not None:
        place = (xy - xy.min(0)) / config.position_um
        turns = [10_000 ** (-i / (config.width // 4)) for i in range(config.width // 4)]
        waves = [[f(p * t) for axis in (0, 1) for f in (np.sin, np.cos) for t in turns for p in [row[axis]]]
                 for row in place]  # fmt: skip
        z = z + np.array(waves) @ w["position/kernel"]
    z = np.concatenate([w["class_token"][None], z])
    for i in range(config.layers):
        name = f"layers/{i}"
        q, k, v = np.split(layer(norm(z, f"{name}/norm"), f"{name}/attention/qkv"), 3, 1)
        weights = [
            softmax(head(q, j) @ head(k, j).T / np.sqrt(config.width / config.heads), 1) for j in range(config.heads)
        ]
        z = z + layer(np.concatenate([a @ head(v, j) for j, a in enumerate(weights)], 1), f"{name}/attention/out")
        if config.mlp:
            y = layer(norm(z, f"{name}/mlp_norm"), f"{name}/mlp/first")
            z = z + layer(y * (1 + erf(y / np.sqrt(2))) / 2, f"{name}/mlp/second")
    taken = np.array([a[0, 1:] for a in weights]).T
    return layer(norm(z[0], "norm"), "classifier"), taken / taken.sum(0), classes


@pytest.mark.parametrize(
    ("config", "placed"),
    [
        (MCViT(sets=(2, 1, 3), width=8, heads=2, classes=3, mlp=5, position_um=200.0, at_once=6), True),
        (MCViT(sets=(4, 2), width=4, heads=1, classes=2, layers=1, mlp=0), True),
        (MCViT(width=4, heads=2, classes=2, layers=1, mlp=3), False),
    ],
    ids=["three_scales", "two_scales", "one_scale_no_places"],
)
def test_the_formulas_in_numpy(config, placed):
    module, rng = config.build(FEATURES, 2, rngs=nnx.Rngs(1)), np.random.default_rng(0)
    x = [rng.normal(size=(n, FEATURES)) for n in LENGTHS]
    xy = [rng.integers(5, 40, (n, 2)) * 128.0 for n in LENGTHS] if placed else None
    with jax.enable_x64(True):
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape)), state)
        w = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}
        bags = with_padding(Bags.of(x, xy), 2, 30.0)
        output = jax.jit(lambda state, bags: nnx.merge(graph, state)(bags))(state, bags)
        for i, n in enumerate(LENGTHS):
            logits, attention, classes = in_numpy(x[i], xy[i] if placed else None, w, config)
            np.testing.assert_allclose(output.logits[i], logits, atol=1e-11)
            np.testing.assert_allclose(output.attention[i, :n], attention, atol=1e-11)
            np.testing.assert_allclose(output.extras["patch_classes"][i, :n], classes, atol=1e-12)
            assert not np.asarray(output.extras["patch_classes"][i, n:]).any()


def test_weights_on_instances_by_hand():
    """.2 and .6 of what the class token left become 1/4 and 3/4; where it left nothing all weigh alike."""
    weights = jnp.asarray([[[0.2, 0.0], [0.6, 0.0], [0.5, 0.5]]])
    got = on_instances(weights.at[:, 2].set(0), jnp.asarray([[True, True, False]]))
    np.testing.assert_allclose(got, [[[0.25, 0.5], [0.75, 0.5], [0, 0]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sets": (6,)}, "one scale"), ({"width": 6, "heads": 3}, "multiple of 4"), ({"heads": 3}, "divisor")],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError, match=message):
        MCViT(**options)
    with pytest.raises(ConfigError, match="adds up to 5"):
        MCViT(sets=(2, 3)).build(6, 1, rngs=nnx.Rngs(0))
