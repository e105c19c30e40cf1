"""Answers for bags and images that are changed at random: shares and turns by hand, variances from sampling theory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.errors import ConfigError
from milkit.monte_carlo import kept, monte_carlo_tta, turned, turned_images
from milkit.testing.subject import with_padding
from milkit.types import Bags, Images

KEY = jax.random.key(5)


def mean_of(bags):
    return jnp.where(bags.mask[..., None], bags.x, 0).sum(1) / bags.mask.sum(1)[:, None]


def one_column(*bags):
    return Bags.of([np.array(b, np.float32)[:, None] for b in bags])


def test_the_variance_of_a_mean_without_replacement():
    """Of k out of n it is S^2 / k * (1 - k / n): 5/3 / 2 * 1/2 of 1, 2, 3, 4 at a half; a bag of one has none."""
    said = jax.jit(lambda bags: monte_carlo_tta(mean_of, bags, 20_000, KEY, keep=0.5))(one_column([1, 2, 3, 4], [7]))
    variance = 5 / 3 / 2 / 2
    np.testing.assert_allclose(said.mean[0], 2.5, atol=5 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(said.variance[0], variance, rtol=0.03)
    assert (said.mean[1], said.variance[1]) == (7, 0)


def test_how_many_stay():
    """.1 of 30 are 3, of 31 are 4, of 4 is 1; at least 2 of each, and no more than there are."""
    bags = one_column(range(30), range(31), range(4), range(1))
    count = [kept(bags, KEY, 0.1, least).mask.sum(1).tolist() for least in (1, 2)]
    assert count == [[3, 4, 1, 1], [3, 4, 2, 1]]


def test_what_is_left_out_becomes_padding_and_is_nobodys_neighbour():
    rng = np.random.default_rng(0)
    bags = Bags.of([rng.normal(1, 0.1, (6, 2))], [rng.uniform(1, 9, (6, 2))])
    near = jnp.asarray([[[1, 2], [0, -1], [3, 4], [4, 5], [5, 0], [0, 1]]])
    got = kept(dataclasses.replace(bags, neighbours=near), KEY, 0.5)
    stays = np.asarray(got.mask[0])
    assert stays.sum() == 3
    for field in ("x", "coords_um"):
        want = np.where(stays[:, None], np.asarray(getattr(bags, field))[0], 0)
        np.testing.assert_array_equal(getattr(got, field)[0], want)
    rows = np.asarray(near[0])
    np.testing.assert_array_equal(got.neighbours[0], np.where((rows >= 0) & stays[rows] & stays[:, None], rows, -1))


def test_the_eight_turns_against_matrices():
    """Signed permutations of the plane, moved back to where the smallest x and y were; all eight differ."""
    xy = np.array([[10.0, 20.0], [13.0, 20.0], [10.0, 25.0], [11.0, 27.0]])
    bags = Bags.of([np.ones((4, 1)), np.ones((2, 1))], [xy, xy[:2] + 5])
    found = set()
    for how in range(8):
        got = turned(with_padding(bags, 1, 30.0), jnp.int32(how))
        matrix = np.diag([1 - (how & 2), 1 - (how & 4) / 2]) @ (np.eye(2)[::-1] if how & 1 else np.eye(2))
        for b, own in enumerate((xy, xy[:2] + 5)):
            want = own @ matrix.T
            np.testing.assert_array_equal(got.coords_um[b, : len(own)], want - want.min(0) + own.min(0))
            assert not np.asarray(got.coords_um[b, len(own) :]).any()
        found.add(np.asarray(got.coords_um[0]).tobytes())
    assert len(found) == 8


def test_turns_are_drawn_evenly():
    """What is said is the x of one corner, which takes its four values equally often: 0, 2, 5, 7 of a box of 7 x 7."""
    xy = np.array([[0.0, 2.0], [7.0, 7.0], [5.0, 0.0]])
    bags = Bags.of([np.ones((3, 1))], [xy])
    said = jax.jit(lambda bags: monte_carlo_tta(lambda b: b.coords_um[:, 0, :1], bags, 8000, KEY))(bags)
    np.testing.assert_allclose(said.mean[0, 0], 3.5, atol=0.2)  # (0 + 7 + 2 + 5) / 4
    np.testing.assert_allclose(said.variance[0, 0], (3.5**2 + 1.5**2) / 2, rtol=0.05)


def test_a_bag_is_answered_for_as_if_it_were_alone():
    rng = np.random.default_rng(1)
    x, xy = ([rng.normal(size=(n, 2)).astype(np.float32) for n in (7, 4)] for _ in range(2))
    both = with_padding(Bags.of(x, xy), 3, 30.0)

    def predict(bags):
        return mean_of(bags) + jnp.where(bags.mask[..., None], bags.coords_um, 0).max(1)

    together = monte_carlo_tta(predict, both, 5, KEY, keep=0.6)
    again = monte_carlo_tta(predict, both, 5, KEY, keep=0.6)
    alone = monte_carlo_tta(predict, Bags.of(x[1], xy[1]), 5, KEY, keep=0.6)
    other = monte_carlo_tta(predict, both, 5, jax.random.key(6), keep=0.6)
    np.testing.assert_array_equal(together, again)
    np.testing.assert_allclose(np.array(together)[:, 1], np.array(alone)[:, 0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(together, other)


def test_images_take_all_eight_positions_whatever_the_canvas():
    """A picture of 2 x 3 pixels in canvases of 2 x 3 and 4 x 5, the latter with rubbish around."""
    picture = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    mask = np.zeros((1, 4, 5), bool)
    mask[0, :2, :3] = True
    large = np.full((1, 4, 5, 1), 9, np.float32)
    large[0, :2, :3] = picture
    want = {np.rot90(p, k)[..., 0].tobytes() for p in (picture, picture[:, ::-1]) for k in range(4)}
    turn, found = jax.jit(turned_images), set()
    for i in range(40):
        key = jax.random.fold_in(KEY, i)
        big = turn(Images(jnp.asarray(large), jnp.asarray(mask)), key)
        rows, columns = np.asarray(big.mask[0]).any(1).sum(), np.asarray(big.mask[0]).any(0).sum()
        assert np.asarray(big.mask).sum() == 6
        own = np.ascontiguousarray(big.x[0, :rows, :columns, 0])
        found.add(own.tobytes())
        assert np.asarray(big.x).sum() == 15
        small = turn(Images(jnp.asarray(picture[None]), jnp.ones((1, 2, 3), bool)), key)
        np.testing.assert_array_equal(small.x[0, :rows, :columns, 0], own)
    assert found == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1, "keep": 0.5}, "at least 2"),
        ({"draws": 5, "keep": 0.0}, "share in"),
        ({"draws": 5}, "Every draw would be the same"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError, match=message):
        monte_carlo_tta(mean_of, one_column([1, 2]), key=KEY, **options)
    images = Images(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2), bool))
    with pytest.raises(ConfigError, match="pixels"):
        monte_carlo_tta(lambda i: i.x[:, 0, 0], images, 5, KEY, keep=0.5)
