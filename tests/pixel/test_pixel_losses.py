"""Losses on image labels of given maps, without a network: weights of maps, several labels, extremes, area."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.errors import ConfigError
from milkit.pixel import CDWSMIL, SAMIL, Baseline
from milkit.pixel.maps import Map, map_of_logits, output_of
from milkit.types import Batch, Images

NAMES = ("fused", "side1", "side2", "side3")


def bce(target):
    """Of several labels: the mean, as `MultiLabel` has it."""
    return lambda z: (jax.nn.softplus(z) - target * z).mean(-1)


def batch_of(target, mask):
    images = Images(jnp.zeros((*mask.shape, 3)), jnp.asarray(mask))
    return Batch(images, jnp.asarray(target), jnp.ones(len(mask)), jnp.arange(len(mask)))


def drawn(labels=1, seed=0):
    """Maps [2, 3, 4, labels] by name, and a mask: the second image has 2 x 4 pixels."""
    mask = np.ones((2, 3, 4), bool)
    mask[1, 2] = False
    p = np.random.default_rng(seed).uniform(0.05, 0.95, (4, 2, 3, 4, labels)) * mask[..., None]
    return dict(zip(NAMES, p, strict=True)), mask


def output_for(maps, mask, r=4.0):
    real = mask[..., None]
    pairs = {k: Map(jnp.asarray(p, "float32"), jnp.asarray((1 - p) * real, "float32")) for k, p in maps.items()}
    return output_of(pairs, jnp.asarray(mask), r)


def entropy_of(p, mask, target, r=4):
    """In float64: binary cross-entropies of the generalised mean of each image's own pixels, [2, labels]."""
    bags = np.stack([(p[i][mask[i]] ** r).mean(0) ** (1 / r) for i in range(len(p))])
    return -(target * np.log(bags) + (1 - target) * np.log(1 - bags))


def test_each_map_has_its_own_weight():
    maps, mask = drawn()
    target = np.array([[1.0], [0.0]], np.float32)
    each = {k: entropy_of(p, mask, target)[:, 0] for k, p in maps.items()}
    weights = (0.5, 0.0, 2.0, 1.0)
    batch, output = batch_of(target, mask), output_for(maps, mask)
    for config in (SAMIL(loss_weights=weights), CDWSMIL(loss_weights=weights, fused_area_weight=0.0)):
        loss, parts = config.objective(output, batch, bce(target))
        for name, weight in zip(NAMES, weights, strict=True):
            np.testing.assert_allclose(parts[name], weight * each[name], rtol=1e-5)
        np.testing.assert_allclose(loss, sum(np.asarray(v, np.float64) for v in parts.values()), rtol=1e-6)
    alone = output_for({"fused": maps["fused"]}, mask)
    loss, _ = Baseline(loss_weights=weights).objective(alone, batch, bce(target))
    np.testing.assert_allclose(loss, 0.5 * each["fused"], rtol=1e-5)
    for wrong in ((0.0,) * 4, (1.0, 1.0, 1.0, -1.0)):
        with pytest.raises(ConfigError, match="loss_weights"):
            SAMIL(loss_weights=wrong)


def test_two_labels_of_an_image():
    """Both present, or one: each label has a map of its own, and the loss is the mean over labels."""
    maps, mask = drawn(labels=2)
    for target in ([[1.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]):
        target = np.array(target, np.float32)
        loss, _ = SAMIL().objective(output_for(maps, mask), batch_of(target, mask), bce(target))
        want = sum(entropy_of(p, mask, target).mean(1) for p in maps.values())
        np.testing.assert_allclose(loss, want, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_maps_of_nothing_and_of_everything_have_finite_gradients(dtype):
    """Logits of +-200 are maps of exactly 1 and 0, of +-8 nearly so; images of two labels say either; r of three kinds.

    Where the map is sure and wrong, up to what the type can tell from 1, a step must still lead away from it.
    """
    mask = jnp.ones((4, 3, 4), bool)
    target = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)

    def total(z, r):
        output = output_of({"fused": map_of_logits(z, mask, mask)}, mask, r)
        return SAMIL().objective(output, batch_of(target, mask), bce(target))[0].sum()

    for r in (1.0, 4.0, np.inf):
        learn = jax.jit(jax.value_and_grad(lambda z, r=r: total(z, r)))
        for logit in (200.0, -200.0, 8.0, -8.0):
            loss, gradient = learn(jnp.full((4, 3, 4, 2), logit, dtype))
            gradient = np.asarray(gradient, np.float32)
            assert np.isfinite(loss)
            assert np.isfinite(gradient).all()
            if abs(logit) == 8:
                wrong = target != (logit > 0)
                of_bags = gradient.sum((1, 2))  # of a mean over two labels: 1/2 each
                np.testing.assert_allclose(of_bags[wrong], np.sign(logit) / 2, rtol=0.02)
                assert (np.abs(of_bags[~wrong]) < 0.01).all()


def test_the_area_constraint_by_hand():
    """Of positive images only, over their real pixels only: eta (mean - a)^2, and 2 eta (mean - a) / n for each."""
    maps, mask = drawn()
    config = CDWSMIL(area=0.3, side_area_weights=(1.0, 2.0, 3.0), fused_area_weight=4.0)
    etas = dict(zip(NAMES, (4.0, 1.0, 2.0, 3.0), strict=True))
    for target in (np.array([1, 0]), np.array([0, 1])):  # of a Binary task
        output, batch = output_for(maps, mask), batch_of(target, mask)

        def area(maps, output=output, batch=batch):
            said = type(output)(output.logits, extras=output.extras | {"maps": maps})
            _, parts = config.objective(said, batch, lambda z: z[:, 0])
            return {k: v for k, v in parts.items() if k.startswith("area_")}

        given = {k: jnp.asarray(p, "float32") for k, p in maps.items()}
        parts, back = jax.vjp(area, given)
        (gradient,) = back(jax.tree.map(jnp.ones_like, parts))
        for name, p in maps.items():
            mean = np.array([p[i][mask[i]].mean() for i in range(2)])
            np.testing.assert_allclose(parts[f"area_{name}"], etas[name] * target * (mean - 0.3) ** 2, rtol=1e-5)
            each = 2 * etas[name] * target * (mean - 0.3) / mask.sum((1, 2))
            want = np.broadcast_to(each[:, None, None], mask.shape) * mask
            np.testing.assert_allclose(gradient[name][..., 0], want, rtol=1e-5)
