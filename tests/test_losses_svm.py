"""The smooth top-k SVM against its authors' arrays, and against all sets of k classes, listed, in float64."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from milkit.errors import ConfigError
from milkit.losses.svm import log_symmetric, smooth_top1_svm, smooth_topk_svm


def listed(scores, target, k, temperature, margin):
    """The loss of one bag from its definition: every set of k classes, with and without the target."""
    sets = [list(s) for s in combinations(range(len(scores)), k)]
    means = np.array([scores[s].mean() for s in sets])
    inside = np.array([target in s for s in sets])
    if temperature == 0:
        return (means + margin * ~inside).max() - means[inside].max()
    every = logsumexp((means + margin * ~inside) / temperature)
    return temperature * (every - logsumexp(means[inside] / temperature))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize(("temperature", "margin"), [(1.0, 1.0), (0.2, 0.5), (0.0, 1.0)])
def test_every_set_listed(k, temperature, margin):
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(2, 5, 7)) * 3, rng.integers(0, 7, (2, 5))
    want = [
        [listed(s, t, k, temperature, margin) for s, t in zip(*pair, strict=True)] for pair in zip(x, y, strict=True)
    ]
    with jax.enable_x64(True):
        got = smooth_topk_svm(jnp.asarray(x), jnp.asarray(y), k=k, temperature=temperature, margin=margin)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    got = smooth_topk_svm(jnp.asarray(x, jnp.float32), jnp.asarray(y), k=k, temperature=temperature, margin=margin)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_small_steps():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), 2
    with jax.enable_x64(True):
        gradient = jax.grad(lambda x: smooth_topk_svm(x, jnp.asarray(y), k=3, temperature=0.7))(jnp.asarray(x))
    steps = 1e-6 * np.eye(6)
    want = [(listed(x + s, y, 3, 0.7, 1.0) - listed(x - s, y, 3, 0.7, 1.0)) / 2e-6 for s in steps]
    np.testing.assert_allclose(gradient, want, atol=1e-8)


def test_the_authors_arrays(shared):
    """Their backward pass approximates where a score is far above the others, as that of 15 is here; ours does not."""
    arrays = np.load(shared / "parity" / "slide" / "losses_smooth_svm.npz", allow_pickle=False)
    x, y = jnp.asarray(arrays["x2"]), jnp.asarray(arrays["y2"])
    for name, options in {"smooth_top3_tau1": {"hard_when_far": True}, "hard_top3": {"temperature": 0.0}}.items():
        value, gradient = jax.value_and_grad(lambda x, o=options: smooth_topk_svm(x, y, k=3, **o).mean())(x)
        np.testing.assert_allclose(value, arrays[f"out64_2/{name}"], rtol=1e-5)
        want = arrays[f"out64_2/d_{name}_dx"].copy()
        if options.get("hard_when_far"):
            row = np.asarray(x[2], np.float64)
            up, down = (listed(row + s * np.eye(6)[0], int(y[2]), 3, 1.0, 1.0) for s in (1e-5, -1e-5))
            exact = (up - down) / 2e-5 / len(x)
            assert row[0] == 15
            assert 0.01 < abs(exact / want[2, 0] - 1) < 0.03  # 2 % off
            want[2, 0] = exact
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_where_the_authors_switch_by_hand():
    """Scores 30, 30 and 0, 0 with k = 2: the gap is above 2 log 1000 = 13.8. The target is one of the lost classes."""
    x, y = jnp.asarray([30.0, 30.0, 0.0, 0.0]), jnp.asarray(2)
    assert smooth_topk_svm(x, y, k=2, hard_when_far=True) == 30 + 1 - 15
    # four sets beside {30, 30} of mean 15 and less: with the target two of mean 15 (and one of 0), without it two
    want = np.log(np.exp(31) + 2 * np.exp(16) + 2 * np.exp(15) + 1) - np.log(2 * np.exp(15) + 1)
    np.testing.assert_allclose(smooth_topk_svm(x, y, k=2), want, rtol=1e-6)


def test_far_scores_are_finite_with_finite_gradients():
    x = jnp.asarray([[1e4, -1e4, 0.0, 3e3, -3e3], [0.0, 0.0, 0.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: smooth_topk_svm(x, jnp.asarray([1, 0]), k=3, temperature=0.1).sum())(
        x
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-5)  # all scores together change nothing


def test_symmetric_polynomials_by_hand():
    """Of 1, 2, 3: 1, 6, 11, 6."""
    x = jnp.log(jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(np.exp(log_symmetric(x, 5)), [1, 6, 11, 6], rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_symmetric(x, 1)), [1, 6], rtol=1e-6)


def test_one_guess_is_the_top_1_loss():
    x, y = jnp.asarray([[0.3, -1.0, 2.0], [4.0, 0.0, 0.5]]), jnp.asarray([0, 2])
    np.testing.assert_allclose(
        smooth_topk_svm(x, y, k=1, temperature=0.5), smooth_top1_svm(x, y, temperature=0.5), rtol=1e-5
    )


def test_as_many_guesses_as_classes_are_refused():
    with pytest.raises(ConfigError, match="k=3 with 3 classes"):
        smooth_topk_svm(jnp.zeros(3), jnp.asarray(0), k=3)
