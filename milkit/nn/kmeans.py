"""k-means whose centres follow the training instances, bag by bag.

Clusters are not trained by a gradient, and a model sees one batch at a time. So the centres are state of the module, as
batch statistics are: a call that is not deterministic moves them, evaluation leaves them, and as only training bags are
ever given to such a call, no other bag has a say in them. They are kept, selected and saved with the run's parameters.

Each centre is the mean of all instances that were nearest to it when they were seen. In the first epoch that changes
much; the more instances it has, the less one more moves it. This is not Lloyd's algorithm run to its end on all
instances: the centres depend on the order of bags, which the run's seed fixes.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError


class RunningKMeans(nnx.Module):
    """Mini-batch k-means; centres that no instance has been nearest to yet are drawn as k-means++ draws its first ones.

    Attributes:
        centres: [k, d]; random until the first bag has been seen.
        count: how many instances each centre is the mean of, [k].

    References:
        Sculley (2010, WWW), Web-scale k-means clustering, algorithm 1, a batch at once; Arthur & Vassilvitskii (2007,
        SODA), k-means++.
    """

    def __init__(self, clusters: int, features: int, *, rngs: nnx.Rngs):
        self.centres = nnx.BatchStat(jax.random.normal(rngs.params(), (clusters, features)))
        self.count = nnx.BatchStat(jnp.zeros(clusters))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Int[Array, "b n"]:
        """The nearest centre of each instance, 0 to k - 1; anything on padding. Moves the centres first, in training.

        Raises:
            ConfigError: not deterministic, but no `rngs` to draw first centres from.
        """
        x = jax.lax.stop_gradient(jnp.where(mask[..., None], x, 0)).astype(self.centres[...].dtype)
        if not deterministic:
            if rngs is None:
                raise ConfigError(
                    "k-means draws its first centres at random in training; pass rngs=nnx.Rngs(key), or "
                    "deterministic=True."
                )
            self._move(x.reshape(-1, x.shape[2]), mask.reshape(-1), rngs.dropout())
        return nearest(x, self.centres[...])

    def _move(self, x: Float[Array, "m d"], real: Bool[Array, "m"], key: Array) -> None:
        centres, count = self._with_first(x, real, key), self.count[...]
        member = (nearest(x, centres)[:, None] == jnp.arange(len(centres))) & real[:, None]
        number = member.sum(0).astype(count.dtype)
        after = count + number
        total = jnp.matmul(member.T.astype(x.dtype), x)
        self.centres[...] = centres + (total - number[:, None] * centres) / jnp.maximum(after, 1)[:, None]
        self.count[...] = after

    def _with_first(self, x: Float[Array, "m d"], real: Bool[Array, "m"], key: Array) -> Float[Array, "k d"]:
        """Each centre without an instance goes to one drawn by its squared distance from the centres in use."""
        used = self.count[...] > 0
        squared = squared_distances(x, self.centres[...])
        apart = jnp.where(used, squared, jnp.inf).min(1)

        def place(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            centres, apart = carry
            # before the first centre all are as far
            weight = jnp.where(real, jnp.where(jnp.isinf(apart), 1.0, apart), 0.0)
            drawn = jax.random.categorical(jax.random.fold_in(key, i), jnp.log(weight))
            place_here = ~used[i] & (weight > 0).any()
            centre = jnp.where(place_here, x[drawn], centres[i])
            nearer = jnp.minimum(apart, jnp.square(x - centre).sum(1))
            return centres.at[i].set(centre), jnp.where(place_here, nearer, apart)

        return jax.lax.fori_loop(0, len(used), place, (self.centres[...], apart))[0]


def squared_distances(x: Float[Array, "*shape d"], centres: Float[Array, "k d"]) -> Float[Array, "*shape k"]:
    """Squared Euclidean distances to each centre, at least 0; by the binomial formula, so that memory stays small."""
    cross = x @ centres.T
    return jnp.maximum(jnp.square(x).sum(-1, keepdims=True) - 2 * cross + jnp.square(centres).sum(-1), 0)


def nearest(x: Float[Array, "*shape d"], centres: Float[Array, "k d"]) -> Int[Array, "*shape"]:
    """Index of the nearest centre; of equally near ones the first."""
    return (jnp.square(centres).sum(-1) - 2 * (x @ centres.T)).argmin(-1)
