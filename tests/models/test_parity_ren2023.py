"""IIB-MIL against arrays of torchmil 1.0.2, and the authors' network, labels and prototypes against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import Fixture, Reference, bags_of, check_gradients, close, load, run

from milkit.errors import ConfigError
from milkit.models.ren2023 import IIBMIL, moved, soft_labels
from milkit.train.state import forward
from milkit.types import Bags, Batch, Output

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


ENCODER, DECODER = "encoder.layers.0", "decoder.layers.0"
FIXTURE = Fixture(
    "torchmil_iibmil",
    IIBMIL(16, stages=1, layers=1, heads=2, compat="torchmil"),
    {
        f"{ENCODER}.att_module.qkv_nn": "encoder/0/qkv",
        f"{ENCODER}.att_proj": "encoder/0/skip",
        f"{ENCODER}.mlp_module.0": "encoder/0/mlp/first",
        f"{ENCODER}.mlp_module.3": "encoder/0/mlp/second",
        f"{DECODER}.att_module.qkv_nn": "decoder/0/qkv",
        "inst_classifier": "instance_classifier",
        "bag_classifier": "classifier",
    },
    mask="mask",
    arrays={
        "cls_token": ("asking", lambda token: token[0]),
        "prototypes": ("prototypes", np.asarray),
        **norm(f"{ENCODER}.norm1", "encoder/0/norm"),
        **norm(f"{ENCODER}.norm2", "encoder/0/mlp_norm"),
        **norm(f"{DECODER}.norm1", "decoder/0/norm"),
        **norm("encoder.norm", "norm"),
        **norm("decoder.norm", "bag_norm"),
    },
    unused=("feat_proj.weight", "feat_proj.bias", f"{DECODER}.norm2.weight", f"{DECODER}.norm2.bias"),
)


def bag_loss_of(target):
    return lambda logits: optax.sigmoid_binary_cross_entropy(logits[:, 0], target.astype(logits.dtype))


def test_torchmil(shared):
    reference = Reference(shared, FIXTURE.file)
    module = load(reference, FIXTURE, 32, 1)
    for case in reference.cases:
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        assert set(of) - {"prototypes_after"} == {"logits", "inst_logits", "encoded", "inst_loss"}
        bags, cotangent = bags_of(reference, FIXTURE, case), jnp.asarray(reference.arrays[f"cotangent{case}"])
        output, grad_w, grad_x = run(module, bags, lambda output, c=cotangent: (output.logits[:, 0] * c).sum())
        real = np.asarray(bags.mask)[..., None]
        close(output.logits, of["logits"])
        close(output.instance_logits, np.where(real, of["inst_logits"][..., None], 0))
        close(output.extras["encoded"], np.where(real, of["encoded"], 0))
        target = jnp.zeros(len(bags.x), int)  # their instances' labels do not ask for it
        batch = Batch(bags, target, jnp.ones(len(bags.x)), target)
        _, parts = FIXTURE.config.objective(output, batch, bag_loss_of(target))
        close(parts["instances"].mean(), of["inst_loss"])
        check_gradients(reference, FIXTURE, case, grad_w, grad_x)
        before = np.asarray(module.prototypes[...])
        after = module.followed(output.extras["encoded"], output.instance_logits, bags.mask)
        if "prototypes_after" in of:
            close(after, of["prototypes_after"])
        else:
            np.testing.assert_array_equal(after, before)  # one instance: a tenth of it is none


def test_prototypes_by_hand():
    """Of 21 places 20 are real, so that two instances are followed by each class: the surest first."""
    h, sure = np.zeros((21, 2)), np.zeros((21, 2))
    h[3], h[7], h[9], h[20] = (1, 0), (0, 1), (8, 8), (100, 100)
    sure[3], sure[7], sure[9], sure[20] = (5, -1), (3, 7), (-9, 4), (99, 99)
    real = np.arange(21) < 20
    found = moved(jnp.asarray([[4.0, 0.0], [0.0, 4.0]]), *map(jnp.asarray, (h, sure, real)), 0.5)
    # class 0: (4, 0) and (1, 0) make (2.5, 0), with (0, 1) then (1.25, .5); class 1: (0, 4), (0, 1), then (8, 8)
    np.testing.assert_allclose(found, [[1.25, 0.5], [4.0, 5.25]])
    few = moved(jnp.zeros((2, 2)), *map(jnp.asarray, (h[:4], sure[:4], real[:4])), 0.5)
    np.testing.assert_allclose(few[0], [0.5, 0])  # fewer than ten instances: still one
    none = moved(jnp.ones((2, 2)), *map(jnp.asarray, (h, sure, real & False)), 0.5)
    np.testing.assert_allclose(none, 1)


def test_labels_by_hand():
    """Scores of ln 1, ln 2 and ln 5; bags of class 0, 1 and 2."""
    scores = jnp.log(jnp.asarray([1.0, 2.0, 5.0])) * jnp.ones((3, 1, 1))
    found = soft_labels(scores, jnp.arange(3), True)[:, 0]
    np.testing.assert_allclose(found, [[1, 0, 0], [1 / 3, 2 / 3, 0], [1 / 6, 0, 5 / 6]], rtol=1e-6)
    np.testing.assert_allclose(soft_labels(scores, jnp.arange(3), False)[:, 0], np.eye(3))


def test_training_moves_prototypes_and_prediction_does_not():
    config = IIBMIL(4, 1, 8, 2, 1, 2, dropout=0.0)
    graph, params, buffers = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)
    bags = Bags.of(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    output, after = forward(graph, params, buffers, bags, jax.random.key(0))
    surest = [int(output.instance_logits[0, :, 0].argmin()), int(output.instance_logits[0, :, 0].argmax())]
    close(after["prototypes"][...], 0.01 * np.asarray(output.extras["encoded"])[0, surest])
    assert (forward(graph, params, after, bags, None)[1]["prototypes"][...] == after["prototypes"][...]).all()


class InNumpy:
    """The authors' network in float64, of one bag."""

    def __init__(self, module):
        self.m = module

    def layer(self, linear, x):
        bias = 0 if linear.bias is None else np.asarray(linear.bias[...], np.float64)
        return x @ np.asarray(linear.kernel[...], np.float64) + bias

    def norm(self, norm, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * norm.scale[...] + norm.bias[...]

    def attend(self, attention, asking, x):
        q, k, v = self.layer(attention.query, asking), self.layer(attention.key, x), self.layer(attention.value, x)
        width, found, weights = q.shape[1] // attention.heads, [], []
        for h in range(attention.heads):
            e = slice(h * width, (h + 1) * width)
            a = np.exp(q[:, e] @ k[:, e].T / np.sqrt(width))
            weights.append((a / a.sum(1, keepdims=True)).mean(0))
            found.append(a / a.sum(1, keepdims=True) @ v[:, e])
        return self.layer(attention.out, np.concatenate(found, 1)), np.stack(weights, 1)

    def wide(self, wide, x):
        return self.norm(wide.norm, x + self.layer(wide.second, np.maximum(self.layer(wide.first, x), 0)))

    def __call__(self, x):
        m, h = self.m, x
        for stage in m.encoder:
            for layer, norm in zip(stage.layers, stage.norms, strict=True):
                h = self.norm(norm, np.tanh(self.layer(layer, h)))
            h = self.wide(stage.wide, self.norm(stage.norm, h + self.attend(stage.attention, h, h)[0]))
            h = h + np.maximum(self.layer(stage.beside, x), 0)
        instances, asking = self.layer(m.instance_classifier, self.norm(m.norm, h)), np.asarray(m.asking[...])
        for layer in m.decoder:
            asking = self.norm(layer.among_norm, asking + self.attend(layer.among, asking, asking)[0])
            found, weights = self.attend(layer.across, asking, h)
            asking = self.wide(layer.wide, self.norm(layer.across_norm, asking + found))
        return self.layer(m.classifier, asking.ravel()), instances, weights


def test_the_authors_network_in_numpy():
    """Bags of 4 and 1 instances, of 3 classes."""
    module, rng = IIBMIL(8, 2, 6, 3, 2, 4).build(5, 3, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    x = [rng.normal(size=(n, 5)).astype(np.float32) for n in (4, 1)]
    output = nnx.jit(lambda module, bags: module(bags))(module, Bags.of(x))
    for i, one in enumerate(x):
        logits, instances, weights = InNumpy(module)(one.astype(np.float64))
        close(output.logits[i], logits)
        close(output.instance_logits[i, : len(one)], instances)
        close(output.attention[i, : len(one)], weights)


def test_the_loss_by_hand():
    """A positive bag of one instance, and padding; a negative bag of two."""
    config = IIBMIL(2, instance_weight=0.5, heads=1)
    bags = Bags.of([np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)])
    scores = jnp.asarray([[[np.log(3.0), 0.0], [9, 9]], [[5.0, 1.0], [2.0, 0.0]]], jnp.float32)
    logits = jnp.asarray([[[np.log(2.0)], [7.0]], [[np.log(2.0)], [0.0]]], jnp.float32)
    output = Output(jnp.zeros((2, 1)), instance_logits=logits, extras={"prototype_scores": scores})
    target = jnp.asarray([1, 0])
    total, parts = config.objective(output, Batch(bags, target, jnp.ones(2), target), bag_loss_of(target))
    # labels (3/4, 1/4) against (1/3, 2/3); in the negative bag all are negative: (1/3, 2/3) and (1/2, 1/2)
    want = [-0.75 * np.log(1 / 3) - 0.25 * np.log(2 / 3), (np.log(3) + np.log(2)) / 2]
    np.testing.assert_allclose(parts["instances"], want, rtol=1e-6)
    np.testing.assert_allclose(total, np.log(2) + 0.5 * np.asarray(want), rtol=1e-6)
    times = jnp.ones((2, 2))  # survival: no classes
    assert set(config.objective(output, Batch(bags, times, jnp.ones(2), target), bag_loss_of(target))[1]) == {"bag"}


def test_torchmil_has_one_logit():
    with pytest.raises(ConfigError, match="has one logit, but the task needs 3"):
        IIBMIL(compat="torchmil").build(4, 3, rngs=nnx.Rngs(0))
