"""Bags of words: histograms and residuals by hand, trained words in numpy, a k-means dictionary of training bags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import close
from scipy.spatial.distance import cdist
from scipy.special import softmax

from milkit.errors import ConfigError
from milkit.models.bag_of_words import BagOfWords, vlad
from milkit.types import Bags

X = [np.array([[0.0, 1.0], [4.0, 0.0], [0.0, 3.0], [1.0, 0.0]], np.float32), np.array([[5.0, 1.0]], np.float32)]
CENTRES = np.array([[0.0, 0.0], [4.0, 1.0], [-9.0, -9.0]])


def with_words(config, centres=CENTRES):
    module = config.build(2, 2, rngs=nnx.Rngs(0))
    if config.dictionary == "kmeans":
        module.dictionary.kmeans.centres[...] = jnp.asarray(centres, jnp.float32)
    else:
        module.dictionary.centres[...] = jnp.asarray(centres, jnp.float32)
    return module


def weights(module):
    return {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(module))}


def test_a_histogram_by_hand():
    """Of four instances three are nearest to the first word, one to the second; three words."""
    module = with_words(BagOfWords(words=3))
    output = module(Bags.of(X))
    np.testing.assert_allclose(output.embedding, [[3 * 0.75, 3 * 0.25, 0], [0, 3, 0]], rtol=1e-6)
    w = weights(module)
    word = np.eye(3)[[0, 1, 0, 0]]
    close(output.instance_logits[0], 3 * word @ w["classifier/kernel"] + w["classifier/bias"])
    close(output.logits[0], np.mean(output.instance_logits[0], 0))  # a linear classifier of a mean


def test_residuals_by_hand():
    """First word: (0,1) + (0,3) + (1,0) = (1,4); second: (0,-1); third: none. Lengths sqrt 17 and 1, then sqrt 2."""
    output = with_words(BagOfWords(words=3, code="vlad"))(Bags.of(X))
    first = np.array([1, 4]) / np.sqrt(17) / np.sqrt(2)
    np.testing.assert_allclose(output.embedding[0], [*first, 0, -1 / np.sqrt(2), 0, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(output.embedding[1], [0, 0, 1, 0, 0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("code", ["histogram", "vlad"])
def test_trained_words_against_the_formulas(code):
    module = with_words(BagOfWords(words=3, dictionary="trained", code=code, head=(4,)))
    if code == "histogram":
        module.dictionary.log_width[...] = jnp.asarray([0.5, 0.0, 2.0])
    with jax.default_matmul_precision("highest"):
        output = module(Bags.of(X))
    w = weights(module)
    dense = lambda h, name: h @ w[f"{name}/kernel"] + w[f"{name}/bias"]  # noqa: E731
    for b, bag in enumerate(np.asarray(x, np.float64) for x in X):
        if code == "histogram":
            share = softmax(-cdist(bag, CENTRES) / np.exp([0.5, 0, 2]), 1)
            z = 3 * share.mean(0)
        else:
            share = softmax(dense(bag, "dictionary/assign"), 1)
            sums = np.stack([(share[:, k, None] * (bag - c)).sum(0) for k, c in enumerate(CENTRES)])
            z = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).reshape(-1)
            z = z / np.linalg.norm(z)
        close(output.embedding[b], z)
        close(output.logits[b], dense(np.maximum(dense(z, "head/layers/0"), 0), "classifier"))


def test_an_instance_on_a_word_has_a_finite_gradient():
    module = with_words(BagOfWords(words=3, dictionary="trained"))
    graph, state = nnx.split(module)
    x = jnp.asarray(CENTRES[None], jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: nnx.merge(graph, state)(Bags(x, jnp.ones((1, 3), bool))).logits.sum()))
    assert np.isfinite(gradient(x)).all()


def test_what_rounding_leaves_of_a_residual_is_not_blown_up():
    x = jnp.asarray([[[1000.0, 1.0], [3.0, 4.0]]])
    words = jnp.asarray([[1000.0, np.nextafter(np.float32(1), np.float32(2))], [3.0, 3.0]])
    code = vlad(x, jnp.ones((1, 2), bool), jnp.eye(2)[None], words)
    np.testing.assert_allclose(code, [[0, 0, 0, 1]], atol=1e-4)


def test_the_dictionary_is_learned_in_training_only():
    module = BagOfWords(words=2).build(2, 1, rngs=nnx.Rngs(0))
    before = np.asarray(module.dictionary.kmeans.centres[...])
    bags = Bags.of([np.array([[9.0, 9.0], [9.0, 9.0], [-7.0, 0.0]], np.float32)])
    module(bags)
    np.testing.assert_array_equal(module.dictionary.kmeans.centres[...], before)
    module(bags, deterministic=False, rngs=nnx.Rngs(1))
    assert sorted(np.asarray(module.dictionary.kmeans.centres[...]).tolist()) == [[-7, 0], [9, 9]]
    np.testing.assert_allclose(sorted(module(bags).embedding[0].tolist()), [2 / 3, 4 / 3], rtol=1e-6)


def test_a_single_word_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        BagOfWords(words=1)
