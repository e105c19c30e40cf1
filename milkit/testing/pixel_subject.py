"""A model of images under test: its module taken apart, its forward pass and gradient compiled once, images to try."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit.train.config import Precision
from milkit.train.precision import lowered, raised
from milkit.types import Batch, Images, Output

CHANNELS = 3
GARBAGE = 30.0  # what padding may hold without changing anything; far from the pixels, which are N(0, 1)
MOVED = 0.05  # deviation by which what starts at 0 or 1 is moved, so that gates are open and statistics count


class Learned(NamedTuple):
    """What a step says of a batch in training mode.

    Attributes:
        values: the objective's loss of each image, [b].
        parts: what it is made of, by name, each [b].
        output: the module's.
        gradient: of the weighted sum of `values`, with respect to parameters and pixels.
    """

    values: Any
    parts: dict[str, Any]
    output: Output
    gradient: Any


Learn = Callable[[Any, Images, Any, Any, Any], Learned]
"""`(state, images, target, weight, key) -> Learned`, jitted."""


@dataclass(frozen=True)
class PixelSubject:
    """A model under test.

    Attributes:
        config: the model's config.
        out_features: labels it was built for.
        graph: the static part of its module.
        state: all arrays of its module, its parameters moved a little.
        forward: jitted `(state, images) -> Output`, deterministic.
        learn, learn_half: a training step's gradient, in float32 and in bfloat16.
        initial: key to another state.
    """

    config: Any
    out_features: int
    graph: Any
    state: Any
    forward: Callable[[Any, Images], Output]
    learn: Learn
    learn_half: Learn
    initial: Callable[[int], Any]

    @property
    def smallest(self) -> int:
        """Pixels of the smallest side of an image."""
        return int(getattr(self.config, "smallest_side", 1))

    @property
    def side(self) -> int:
        """Of the square images: a power of 2, and 1."""
        return max(16, 2 ** int(np.ceil(np.log2(self.smallest)))) + 1

    @property
    def canvas(self) -> int:
        """Side of the square canvas of most checks, in which the smallest image has padding on both sides."""
        return max(self.side, self.smallest + 3)

    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the battery's images: one as narrow as may be, odd and not square, then squares."""
        return [(self.smallest, self.canvas - 2), (self.side, self.side), (self.side - 1, self.side - 1)]

    def images(self, sizes: list[tuple[int, int]], fill: float = 0.0, seed: int = 0) -> Images:
        """Random images in the square canvas, `fill` on its padding; a size of (0, 0) is a filler."""
        rng = np.random.default_rng(seed)
        pixels = [rng.normal(size=(h, w, CHANNELS)) for h, w in sizes]
        return canvas_of(pixels, self.canvas, self.canvas, fill)


def canvas_of(pixels: list[np.ndarray], height: int, width: int, fill: float = 0.0) -> Images:
    """Images in the top-left corners of canvases of one size."""
    x = np.full((len(pixels), height, width, CHANNELS), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, one in enumerate(pixels):
        h, w = one.shape[:2]
        x[i, :h, :w], mask[i, :h, :w] = one, True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def pixel_subject(config: Any, out_features: int) -> PixelSubject:
    """Take a model apart; the result is kept, so that the checks share their compiled functions."""
    try:
        hash(config)
    except TypeError:  # the check of the config itself says what is wrong
        return _make(config, out_features)
    return _cached(config, out_features)


def _make(config: Any, out_features: int) -> PixelSubject:
    def build(key: Any) -> Any:
        return nnx.split(config.build(CHANNELS, out_features, rngs=nnx.Rngs(key)))

    graph = nnx.split(nnx.eval_shape(lambda: build_module(config, out_features)))[0]
    make = jax.jit(lambda key: build(key)[1])

    def initial(seed: int) -> Any:
        # this generator is compiled in a tenth of the default one's time, for as many shapes as a network has
        return moved(make(jax.random.key(seed, impl="rbg")), seed)

    @jax.jit
    def forward(state: Any, images: Images) -> Output:
        return nnx.merge(graph, state, copy=True)(images, deterministic=True)

    learn, learn_half = learner(config, graph, "float32"), learner(config, graph, "bfloat16")
    return PixelSubject(config, out_features, graph, initial(0), forward, learn, learn_half, initial)


_cached = lru_cache(maxsize=2)(_make)


def build_module(config: Any, out_features: int) -> Any:
    """The module of a config for the battery's images."""
    return config.build(CHANNELS, out_features, rngs=nnx.Rngs(0))


def moved(state: Any, seed: int) -> Any:
    """A state in which nothing stands exactly where it started; variances stay above 0."""
    noise = np.random.default_rng(seed)

    def move(a: Any) -> Any:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        old, step = np.asarray(a), MOVED * noise.normal(size=a.shape)
        return jnp.asarray(np.where(old == 1, 1 + abs(step), old + step), a.dtype)

    params, stats, rest = nnx.split_state(state, nnx.Param, nnx.BatchStat, ...)
    return nnx.merge_state(*(jax.tree.map(move, s) for s in (params, stats)), rest)


def learner(config: Any, graph: Any, precision: Precision) -> Learn:
    """A training step's loss and gradient as a jitted function."""

    @jax.jit
    def learn(state: Any, images: Images, target: Any, weight: Any, key: Any) -> Learned:
        params, rest = nnx.split_state(state, nnx.Param, ...)
        batch = Batch(images, target, weight, jnp.arange(len(weight), dtype=jnp.int32))

        def loss(params: Any, x: Any) -> tuple[Any, Any]:
            low, seen = lowered(precision, params, dataclasses.replace(images, x=x))
            module = nnx.merge(graph, low, rest, copy=True)
            output = raised(module(seen, deterministic=False, rngs=nnx.Rngs(key)))
            values, parts = image_losses(config, output, batch)
            return jnp.sum(jnp.where(weight > 0, values, 0) * weight), (values, parts, output)

        (_, said), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, images.x)
        values, parts, output = said
        return Learned(values, parts, output, gradient)

    return learn


def image_losses(config: Any, output: Output, batch: Batch) -> tuple[Any, dict[str, Any]]:
    """One loss an image, [b]: the mean over labels of binary cross-entropies, through the config's `objective`."""

    def bag_loss(logits: jax.Array) -> jax.Array:
        return (jax.nn.softplus(logits) - batch.target * logits).mean(-1)

    if hasattr(config, "objective"):
        values, parts = config.objective(output, batch, bag_loss)
        return values, parts
    return bag_loss(output.logits), {}
