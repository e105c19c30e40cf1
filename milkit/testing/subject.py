"""A model under test: its module taken apart, its forward pass and loss as plain functions, and bags to try."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from milkit.types import Bags, Batch, Output

LENGTHS = (6, 2, 6)  # instances of the battery's bags: unequal, so that every batch has padding
COVARIATES = 3  # of the battery's bags, for a model that takes some
GARBAGE = 30.0  # what padding may hold without changing anything; far from the features, which are N(0, 1)


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes:
        config: the model's config.
        in_features, out_features: sizes it was built for.
        graph: the static part of its module.
        state: all arrays of its module.
        initial: jitted `key -> state`.
        forward: jitted `(state, bags) -> Output`, deterministic.
        train_forward: jitted `(state, bags, key) -> Output`, as in training.
    """

    config: Any
    in_features: int
    out_features: int
    graph: Any
    state: Any
    initial: Callable[[Any], Any]
    forward: Callable[[Any, Bags], Output]
    train_forward: Callable[[Any, Bags, Any], Output]

    def module(self) -> Any:
        """A fresh copy of the module."""
        return nnx.merge(self.graph, self.state, copy=True)

    def bags(self, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Bags:
        """Random bags with coordinates on a grid of tiles; none smaller than the model's `min_instances`."""
        rng = np.random.default_rng(seed)
        smallest = getattr(self.config, "min_instances", 1)
        sizes = [max(n, smallest) for n in lengths]
        x = [rng.normal(size=(n, self.in_features)).astype(np.float32) for n in sizes]
        cells = [rng.permutation(n + 3)[:n] for n in sizes]
        beside = rng.normal(size=(len(x), COVARIATES)).astype(np.float32) if takes_covariates(self.config) else None
        return Bags.of(x, [np.stack([c % 3, c // 3], 1).astype(np.float32) * 256 for c in cells], beside)


def again(like: Any, data: Any) -> Any:
    """`data`, which JSON gave of a config, with the types that `like` has; also where it holds other dataclasses."""
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        names = [f.name for f in dataclasses.fields(like) if f.init]
        return type(like)(**{name: again(getattr(like, name), data[name]) for name in names})
    return tuple(again(a, b) for a, b in zip(like, data, strict=True)) if isinstance(like, tuple) else data


def takes_covariates(config: Any) -> bool:
    """Whether a model reads what the table says of a bag."""
    return bool(getattr(config, "takes_covariates", False))


def subject(config: Any, in_features: int, out_features: int) -> Subject:
    """Take a model apart; the result is kept, so that the checks share their compiled functions."""
    try:
        hash(config)
    except TypeError:  # the check of the config itself says what is wrong
        return _make(config, in_features, out_features)
    return _cached(config, in_features, out_features)


def _make(config: Any, in_features: int, out_features: int) -> Subject:
    beside = {"covariates": COVARIATES} if takes_covariates(config) else {}

    def build(key: Any) -> Any:
        return nnx.split(config.build(in_features, out_features, rngs=nnx.Rngs(key), **beside))

    graph = nnx.split(nnx.eval_shape(lambda: config.build(in_features, out_features, rngs=nnx.Rngs(0), **beside)))[0]
    initial = jax.jit(lambda key: build(key)[1])  # op by op it takes many times as long

    @jax.jit
    def forward(state: Any, bags: Bags) -> Output:
        return nnx.merge(graph, state, copy=True)(bags, deterministic=True)

    @jax.jit
    def train_forward(state: Any, bags: Bags, key: Any) -> Output:
        return nnx.merge(graph, state, copy=True)(bags, deterministic=False, rngs=nnx.Rngs(key))

    state = initial(jax.random.key(0))
    return Subject(config, in_features, out_features, graph, state, initial, forward, train_forward)


_cached = lru_cache(maxsize=4)(_make)


def batch_of(bags: Bags, out_features: int) -> Batch:
    """A batch with alternating labels (one logit: 0/1; several: class indices)."""
    index = np.arange(bags.x.shape[0], dtype=np.int32)
    target = index % max(out_features, 2)
    return Batch(bags, jnp.asarray(target), jnp.asarray(np.ones(len(index), np.float32)), jnp.asarray(index))


def bag_losses(config: Any, output: Output, batch: Batch) -> jax.Array:
    """One loss a bag, [b]: binary or softmax cross-entropy, through the config's `objective` where it has one."""

    def bag_loss(logits: jax.Array) -> jax.Array:
        if logits.shape[1] == 1:
            return optax.sigmoid_binary_cross_entropy(logits[:, 0], batch.target.astype(logits.dtype))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.target)

    if hasattr(config, "objective"):
        return config.objective(output, batch, bag_loss)[0]
    return bag_loss(output.logits)


def with_padding(bags: Bags, extra: int, fill: float) -> Bags:
    """The same bags in rows that are longer by `extra`, with all padding (also that which was there) set to `fill`."""
    grow = [(0, 0), (0, extra)]
    mask = np.pad(bags.mask, grow)

    def pad(a: Any) -> jax.Array:
        return jnp.asarray(np.where(mask[..., None], np.pad(a, [*grow, (0, 0)]), np.float32(fill)))

    xy = None if bags.coords_um is None else pad(bags.coords_um)
    return dataclasses.replace(bags, x=pad(bags.x), mask=jnp.asarray(mask), coords_um=xy)


def alone(bags: Bags, i: int, rows: Any) -> Bags:
    """Bag i by itself, without padding; `rows` are its instances."""
    one: Bags = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a)[i : i + 1, rows]), dataclasses.replace(bags, covariates=None)
    )
    beside = None if bags.covariates is None else bags.covariates[i : i + 1]
    return dataclasses.replace(one, covariates=beside)


def reordered(bags: Bags, order: Any) -> Bags:
    """The same bags with their rows in another order, [b, n]."""
    rows = np.arange(len(order))[:, None]
    mixed: Bags = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a)[rows, order]), dataclasses.replace(bags, covariates=None)
    )
    return dataclasses.replace(mixed, covariates=bags.covariates)


def instances_of(output: Output, i: int, rows: Any) -> dict[str, Any]:
    """What an output says about bag i, its instances in the order of `rows`."""
    said = {"logits": np.asarray(output.logits)[i]}
    if output.embedding is not None:
        said["embedding"] = np.asarray(output.embedding)[i]
    if output.attention is not None:
        said["attention"] = np.asarray(output.attention)[i, rows]
    if output.instance_logits is not None:
        said["instance_logits"] = np.asarray(output.instance_logits)[i, rows]
    return said


def expect_close(contract: str, where: str, got: dict[str, Any], want: dict[str, Any]) -> None:
    """Compare two answers field by field at float32 precision; raises AssertionError naming the contract."""
    for name, value in want.items():
        a, b = np.asarray(got[name], np.float64), np.asarray(value, np.float64)
        if a.shape != b.shape:
            raise AssertionError(f"{contract}: {name} of {where} has shape {a.shape}, expected {b.shape}.")
        gap = np.abs(a - b)
        if not (gap <= 1e-5 + 1e-4 * np.abs(b)).all():  # not (<=) is also true for NaN
            raise AssertionError(f"{contract}: {name} of {where} differs by up to {np.nanmax(gap):.3g}.")


def expect_finite(contract: str, where: str, tree: Any) -> None:
    """Every floating number of a tree is finite; raises AssertionError naming the contract and the leaf.

    In numpy, as every other comparison here: under JAX each shape would be compiled for.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            name = jax.tree_util.keystr(path)
            raise AssertionError(f"{contract}: {name} of {where} has NaN or infinite values.")
