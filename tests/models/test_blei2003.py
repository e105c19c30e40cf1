"""Topic mixtures: the mixture against a numerical optimum, the likelihood by hand, planted topics found again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.optimize import minimize
from scipy.special import softmax

from milkit.errors import ConfigError
from milkit.models.blei2003 import TopicMixture, mean_log_likelihood, mixture_of
from milkit.types import Bags


@pytest.mark.parametrize("prior", [1.1, 3.0])
def test_the_mixture_is_the_most_probable_one(prior):
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.ones(6), 3) + 1e-3
    counts = np.array([[5.0, 0, 2, 1, 0, 9], [0, 1, 0, 0, 0, 0]])
    found = mixture_of(jnp.asarray(counts, jnp.float32), jnp.asarray(topics, jnp.float32), 2000, prior)
    for b, count in enumerate(counts):

        def loss(z, count=count):
            mixture = softmax(z)
            return -(count @ np.log(mixture @ topics) + (prior - 1) * np.log(mixture).sum())

        want = softmax(minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x)
        np.testing.assert_allclose(found[b], want, atol=2e-4)


def test_one_round_and_the_likelihood_by_hand():
    """Two topics over two words, (3/4, 1/4) and (1/4, 3/4); three first words and one second; no prior.

    From (1/2, 1/2) both words have chance 1/2: topic 1 takes 3 * 3/4 + 1/4 = 5/2 of the four. Then the first word has
    chance 5/8 * 3/4 + 3/8 * 1/4 = 9/16.
    """
    topics, counts = jnp.asarray([[0.75, 0.25], [0.25, 0.75]]), jnp.asarray([[3.0, 1.0], [0.0, 0.0]])
    mixture = mixture_of(counts, topics, 1, 1.0)
    np.testing.assert_allclose(mixture, [[5 / 8, 3 / 8], [1 / 2, 1 / 2]], rtol=1e-6)
    want = [(3 * np.log(9 / 16) + np.log(7 / 16)) / 4, 0]
    np.testing.assert_allclose(mean_log_likelihood(counts, mixture, topics), want, rtol=1e-5)


def test_a_word_that_no_topic_has_gives_finite_numbers():
    topics, counts = jnp.asarray([[1.0, 0.0], [1.0, 0.0]]), jnp.asarray([[1.0, 5.0]])
    mixture = mixture_of(counts, topics, 4, 1.1)
    np.testing.assert_allclose(mixture, [[0.5, 0.5]], rtol=1e-6)
    assert np.isfinite(mean_log_likelihood(counts, mixture, topics)).all()


def test_planted_topics_are_found_without_labels():
    """Four words far apart; topic A has the first two, B the others. The mixture found follows the planted one."""
    rng = np.random.default_rng(3)
    planted = np.linspace(0.05, 0.95, 16)
    places = 10 * np.eye(4, dtype=np.float32)
    words = [np.where(rng.random(60) < p, rng.integers(0, 2, 60), rng.integers(2, 4, 60)) for p in planted]
    bags = Bags.of([places[w] for w in words])
    config = TopicMixture(topics=2, words=4)
    module = config.build(4, 1, rngs=nnx.Rngs(0))
    module.kmeans.centres[...] = jnp.asarray(places)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    optimizer = optax.adam(0.05)

    def loss(params):
        return -nnx.merge(graph, params, rest)(bags).extras["log_likelihood"].mean()

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, opt = carry
            updates, opt = optimizer.update(jax.grad(loss)(params), opt)
            return (optax.apply_updates(params, updates), opt), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 300)
        return nnx.merge(graph, params, rest)(bags).embedding

    first = np.asarray(fit(params))[:, 0] / 2
    assert abs(np.corrcoef(first, planted)[0, 1]) > 0.97


@pytest.mark.parametrize("supervised", [False, True])
def test_labels_reach_the_topics_only_if_asked(supervised):
    module = TopicMixture(topics=3, words=4, rounds=3, supervised=supervised).build(2, 1, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    bags = Bags.of(np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32))
    gradient = jax.jit(jax.grad(lambda params: nnx.merge(graph, params, rest)(bags).logits.sum()))(params)
    assert bool(np.asarray(gradient["topics"][...]).any()) is supervised
    assert np.asarray(gradient["classifier"]["kernel"][...]).any()


def test_a_prior_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        TopicMixture(prior=0.5)
