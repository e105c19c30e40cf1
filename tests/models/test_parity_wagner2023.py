"""The transformer encoder against arrays of MIL-Lab's, all cases of a file in one padded batch, and against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners, run
from scipy.special import erf

from milkit.errors import ConfigError, DataError
from milkit.models import Transformer
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def fixture_of(file, config):
    weights = {"patch_embed.0": "encoder", "classifier": "classifier"}
    arrays = {"cls_token": ("class_token", np.ravel)}
    norms = {"norm": "norm"}
    for i in range(config.layers):
        weights[f"blocks.{i}.attention.out_proj"] = f"layers/{i}/attention/out"
        arrays[f"blocks.{i}.attention.in_proj_weight"] = (f"layers/{i}/attention/qkv/kernel", np.transpose)
        arrays[f"blocks.{i}.attention.in_proj_bias"] = (f"layers/{i}/attention/qkv/bias", np.asarray)
        norms[f"blocks.{i}.norm"] = f"layers/{i}/norm"
        if config.mlp:
            weights |= {f"blocks.{i}.mlp.{a}": f"layers/{i}/mlp/{b}" for a, b in ((0, "first"), (3, "second"))}
            norms[f"blocks.{i}.norm2"] = f"layers/{i}/mlp_norm"
    for theirs, ours in norms.items():
        arrays[f"{theirs}.weight"] = (f"{ours}/scale", np.asarray)
        arrays[f"{theirs}.bias"] = (f"{ours}/bias", np.asarray)
    return Fixture(file, config, weights, arrays=arrays)


@pytest.mark.parametrize(
    ("file", "mlp", "at_once"),
    [("millab_transformer", 0, 7), ("millab_transformer_mlp", 40, 0)],  # in blocks of two or three, and all at once
)
def test_outputs_and_gradients(shared, file, mlp, at_once):
    config = Transformer(width=24, heads=4, mlp=mlp, activation="relu", at_once=at_once)
    fixture, reference = fixture_of(file, config), Reference(shared, file)
    module = config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    bags = Bags.of([x for case in reference.cases for x in reference.arrays[f"x{case}"]])
    cotangent = jnp.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    output, grad_w, grad_x = run(module, bags, lambda output: (output.logits * cotangent).sum())
    row, misled = nnx.jit(as_millab_shows_attention)(module, bags)
    for i, case in enumerate(reference.cases):
        names = {"logits", "bag_embedding", "attn_block0", "logits_with_return_attention"}
        assert reference.names("out", case) == names
        n = reference.arrays[f"x{case}"].shape[1]
        close(output.logits[i], reference.get("out", case, "logits"))
        close(output.embedding[i], reference.get("out", case, "bag_embedding"))
        # of one row; theirs is the mean of the heads
        close(row[i, : n + 1].mean(1), reference.get("out", case, "attn_block0")[0, 0])
        assert not np.asarray(row[i, n + 1 :]).any()
        close(misled[i], reference.get("out", case, "logits_with_return_attention"))
        close(grad_x[i, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    for theirs, (ours, rearrange) in partners(fixture, grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum


def as_millab_shows_attention(module, bags):
    """The class token's row in the first layer; and logits as MIL-Lab's become when its attention is asked for.

    Its first layer then adds what the class token gathered to every token.
    """
    x, mask = module.tokens(bags)
    first, second = module.layers
    y, row = first.attention(first.norm(x), mask, first_only=True)
    x = x + y
    x = x if first.mlp is None else x + first.mlp(first.mlp_norm(x))
    x, _ = second(x, mask, first_only=True)
    return row, module.classifier(module.norm(x[:, 0]))


FEATURES, LENGTHS = 5, (9, 1, 6)


def in_numpy(x, xy, w, config):
    """One bag by the formulas, every token of every layer; logits, the class token's row of the last layer."""

    def norm(x, name):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[f"{name}/scale"] + w[
            f"{name}/bias"
        ]

    def layer(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    h, by_class = np.maximum(layer(x, "encoder"), 0), config.pooling == "class"
    distance = np.sqrt(((xy[:, None] - xy) ** 2).sum(-1)) / config.alibi_um
    if by_class:
        h, distance = np.concatenate([w["class_token"][None], h]), np.pad(distance, ((1, 0), (1, 0)))
    slopes = np.array(w.get("slopes", [2.0 ** (-8 * (i + 1) / config.heads) for i in range(config.heads)]))
    size = config.width // config.heads
    for i in range(config.layers):
        qkv = np.split(layer(norm(h, f"layers/{i}/norm"), f"layers/{i}/attention/qkv"), 3, 1)
        each, rows = [], []
        for j in range(config.heads):
            q, k, v = (a[:, j * size : (j + 1) * size] for a in qkv)
            scores = q @ k.T / np.sqrt(size) - (0 if config.alibi == "none" else slopes[j] * distance)
            e = np.exp(scores - scores.max(1, keepdims=True))
            p = e / e.sum(1, keepdims=True)
            each.append(p @ v)
            rows.append(p[0])
        h = h + layer(np.concatenate(each, 1), f"layers/{i}/attention/out")
        z = layer(norm(h, f"layers/{i}/mlp_norm"), f"layers/{i}/mlp/first")
        h = h + layer(z * (1 + erf(z / np.sqrt(2))) / 2, f"layers/{i}/mlp/second")
    return layer(norm(h[0] if by_class else h.mean(0), "norm"), "classifier"), np.array(rows).T


@pytest.mark.parametrize(
    "config",
    [
        Transformer(width=8, heads=2, layers=3, mlp=6, alibi="fixed", alibi_um=300.0),
        Transformer(width=6, heads=3, layers=2, mlp=4, pooling="mean", alibi="learned", at_once=5),
    ],
    ids=["class", "mean"],
)
def test_the_formulas_in_numpy(config):
    module = config.build(FEATURES, 2, rngs=nnx.Rngs(1))
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, FEATURES)) for n in LENGTHS]
    xy = [256.0 * rng.permutation(16)[: 2 * n].reshape(-1, 2) if n < 8 else rng.normal(0, 500, (n, 2)) for n in LENGTHS]
    with jax.enable_x64(True):
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape)), state)
        w = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}
        bags = Bags.of(x, xy)
        pad = [np.pad(a, ((0, max(LENGTHS) - len(a)), (0, 0))) for a in xy]
        bags = Bags(bags.x, bags.mask, jnp.asarray(np.stack(pad)))  # in float64
        output = jax.jit(lambda state, bags: nnx.merge(graph, state)(bags))(state, bags)
        for i, n in enumerate(LENGTHS):
            logits, row = in_numpy(x[i], xy[i], w, config)
            np.testing.assert_allclose(output.logits[i], logits, atol=1e-11)
            if config.pooling == "class":
                np.testing.assert_allclose(output.attention[i, :n], row[1:] / row[1:].sum(0), atol=1e-12)
                np.testing.assert_allclose(output.extras["class_attention"][i], row[0], atol=1e-12)
            else:
                assert output.attention is None


def test_refusals():
    with pytest.raises(ConfigError, match="heads=3 do not share out width=8"):
        Transformer(width=8, heads=3)
    module = Transformer(width=4, heads=2, alibi="fixed").build(FEATURES, 1, rngs=nnx.Rngs(0))
    with pytest.raises(DataError, match=r"alibi='fixed'.*no coordinates \(coords_um\)"):
        module(Bags.of(np.ones((2, FEATURES), np.float32)))
