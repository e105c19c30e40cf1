"""Top tiles against the rule in numpy, float64: which are chosen, their loss and its gradient, in chunks too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.models.campanella2019 import TopTiles
from milkit.nn import LongBags
from milkit.testing.subject import bag_losses, batch_of, with_padding
from milkit.types import Bags

FEATURES, LENGTHS = 4, (7, 2, 5, 3)


def in_numpy(x, kernel, bias, k, label):
    """Logits of one bag, the mean loss of its chosen tiles, and the gradient of that in the kernel."""
    logits = x @ kernel + bias
    losses, gradient, classes = [], np.zeros_like(kernel), logits.shape[1]
    for column in logits.T:
        for i in np.argsort(-column)[:k]:
            if classes == 1:
                p = 1 / (1 + np.exp(-logits[i]))
                losses.append(-np.log(p if label else 1 - p)[0])
                wrong = p - label
            else:
                p = np.exp(logits[i]) / np.exp(logits[i]).sum()
                losses.append(-np.log(p[label]))
                wrong = p - np.eye(classes)[label]
            gradient += np.outer(x[i], wrong)
    return logits.max(0), np.mean(losses), gradient / len(losses)


@pytest.mark.parametrize(("k", "classes"), [(1, 1), (3, 3)])
def test_the_rule_in_numpy(k, classes):
    config, rng = TopTiles(k=k, encoder=()), np.random.default_rng(3)
    x = [rng.normal(size=(n, FEATURES)) for n in LENGTHS]
    with jax.enable_x64(True):
        graph, state = nnx.split(config.build(FEATURES, classes, rngs=nnx.Rngs(0)))
        state = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), state)
        bags = with_padding(Bags.of(x), 2, 30.0)
        batch = batch_of(bags, classes)

        def read(rows, mask):
            return jnp.where(mask[..., None], jnp.take_along_axis(bags.x, rows[..., None], 1), 0)

        rows = jnp.broadcast_to(jnp.arange(bags.mask.shape[1]), bags.mask.shape)

        @partial(jax.jit, static_argnums=1)
        def say(state, chunked):
            def losses(state):
                output = nnx.merge(graph, state)(LongBags(read, rows, bags.mask, 4) if chunked else bags)
                return bag_losses(config, output, batch), output

            each, pull, output = jax.vjp(losses, state, has_aux=True)
            return output, each, jax.vmap(pull)(jnp.eye(len(each)))[0]

        output, losses, gradients = say(state, False)
        kernel, bias = (np.asarray(state["classifier"][name][...]) for name in ("kernel", "bias"))
        for i, own in enumerate(x):
            logits, loss, gradient = in_numpy(own, kernel, bias, k, int(batch.target[i]))
            np.testing.assert_allclose(output.logits[i], logits, atol=1e-12)
            np.testing.assert_allclose(losses[i], loss, atol=1e-12)
            np.testing.assert_allclose(gradients["classifier"]["kernel"][...][i], gradient, atol=1e-12)
        assert output.extras["chosen"].sum(1).tolist() == [min(k, n) for n in LENGTHS]

        in_chunks = say(state, True)
        for got, want in zip(jax.tree.leaves(in_chunks), jax.tree.leaves((output, losses, gradients)), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)


def test_a_place_that_a_bag_has_not_holds_its_highest_and_weighs_nothing():
    """A loss that compares bags (here: subtracts the batch's mean) reads 5 and 1, then 4 and 1, of bags of 3 and 1."""
    config = TopTiles(k=2, encoder=())
    module = config.build(1, 1, rngs=nnx.Rngs(0))
    module.classifier.kernel[...], module.classifier.bias[...] = jnp.ones((1, 1)), jnp.zeros(1)
    bags = Bags.of([np.array([[4.0], [5.0], [-2.0]], np.float32), np.array([[1.0]], np.float32)])
    loss, parts = config.objective(module(bags), batch_of(bags, 1), lambda z: z[:, 0] - z[:, 0].mean())
    assert loss.tolist() == parts["tiles"].tolist() == [(2 + 1.5) / 2, -2]


def test_dropout_needs_a_layer():
    with pytest.raises(ConfigError, match="encoder"):
        TopTiles(encoder=(), dropout=0.5)
