"""The state of a run as one pytree, and the only place where Flax modules are split and merged.

Modules are taken apart once into a static graph and arrays; steps work on the arrays under plain JAX. (Measured with
flax 0.12: 0.27 ms a step this way against 1.28 ms through `nnx.jit` and `nnx.Optimizer`.)
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from milkit.data.arrays import read_arrays
from milkit.errors import ConfigError
from milkit.train import optim
from milkit.train.config import Precision, Train
from milkit.train.precision import lowered, raised
from milkit.types import Bags, Images, Output

Graph = Any


class RunState(NamedTuple):
    """Everything that training one run changes. Many runs: the same tree with a leading run axis.

    Attributes:
        params: trained arrays.
        buffers: the module's other arrays (batch statistics, dropout rates).
        optimizer: of `milkit.train.optim`.
        gradient: summed gradient of the update under way; empty when every step is an update.
        gradient_weight: weight of the bags in it.
        updates: updates made.
        best_params, best_buffers: of the best epoch on validation so far.
        best_metric, best_loss, best_epoch: its criterion, loss and number (from 0; -1 before the first).
        finished: patience ran out; nothing changes any more.
        failed: a loss was not finite; nothing changes any more.
        failed_epoch, failed_step, failed_bag: where; -1 if nowhere.
    """

    params: Any
    buffers: Any
    optimizer: Any
    gradient: Any
    gradient_weight: Any
    updates: Any
    best_params: Any
    best_buffers: Any
    best_metric: Any
    best_loss: Any
    best_epoch: Any
    finished: Any
    failed: Any
    failed_epoch: Any
    failed_step: Any
    failed_bag: Any


def build(model: Any, in_features: int, out_features: int, covariates: int, rngs: nnx.Rngs) -> Any:
    """A model's module. Only one that is to read covariates is told how many there are."""
    beside = {"covariates": covariates} if covariates else {}
    return model.build(in_features, out_features, rngs=rngs, **beside)


def graph_of(
    model: Any, in_features: int, out_features: int, covariates: int = 0, canvas: tuple[int, int] | None = None
) -> Graph:
    """The static part of a model's module, found without computing anything.

    Args:
        model: its configuration.
        in_features, out_features: features of an instance, and logits.
        covariates: numbers that the table gives of a bag; 0 where the model is shown none.
        canvas: height and width of images, for a model that reads them.

    Raises:
        ConfigError: the module keeps random state of its own, or does not return what the contract says.
    """
    abstract = nnx.eval_shape(lambda: build(model, in_features, out_features, covariates, nnx.Rngs(0)))
    name = type(model).__name__
    if jax.tree.leaves(nnx.state(abstract, nnx.RngState)):
        raise ConfigError(
            f"{name} keeps a random state of its own (a layer built with rngs=, such as nnx.Dropout(rate, rngs=rngs)), "
            "which would not follow the run's seed. Build it without, and pass the rngs of __call__ to the layer."
        )
    parts: Any = nnx.split(abstract, nnx.Param, ...)
    graph, params, buffers = parts
    n = max(2, getattr(model, "min_instances", 1))

    def one_batch(params: Any, buffers: Any) -> Output:
        if canvas is not None:
            images = Images(jnp.zeros((2, *canvas, in_features)), jnp.ones((2, *canvas), bool))
            return forward(graph, params, buffers, images, None)[0]
        beside = jnp.zeros((2, covariates)) if covariates else None
        bags = Bags(jnp.zeros((2, n, in_features)), jnp.ones((2, n), bool), jnp.zeros((2, n, 2)), covariates=beside)
        return forward(graph, params, buffers, bags, None)[0]

    output = jax.eval_shape(one_batch, params, buffers)
    if not isinstance(output, Output):
        raise ConfigError(f"{name} returned a {type(output).__name__}; a module returns a milkit.types.Output.")
    if output.logits.shape != (2, out_features):
        raise ConfigError(
            f"{name} gives logits of shape {output.logits.shape} for 2 bags; the task needs {(2, out_features)}. "
            "(A binary task has one logit; use MultiClass for a model with two.)"
        )
    if output.attention is not None and output.attention.shape[:2] != (2, n):
        raise ConfigError(
            f"{name} gives attention of shape {output.attention.shape} for 2 bags of {n}; expected [2, {n}, heads]."
        )
    return graph


def rate_scales(model: Any, in_features: int, out_features: int, covariates: int = 0) -> tuple[float, ...]:
    """Factor on the learning rate of each parameter, as the model's `learning_rate_scale(path)` says; () without one.

    A path is the names that lead to a parameter, such as `("side1", "kernel")`.
    """
    said = getattr(model, "learning_rate_scale", None)
    if said is None:
        return ()
    abstract = nnx.eval_shape(lambda: build(model, in_features, out_features, covariates, nnx.Rngs(0)))
    leaves = jax.tree.leaves_with_path(nnx.state(abstract, nnx.Param))
    paths = [tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path) for path, _ in leaves]
    scales = tuple(float(said(tuple(name for name in path if name != "value"))) for path in paths)
    return scales if any(scale != 1.0 for scale in scales) else ()


def initial_arrays(
    model: Any, in_features: int, out_features: int, key: Key[Array, ""], covariates: int = 0
) -> tuple[Any, Any]:
    """Fresh parameters and buffers of one run; from the file of weights that the model names, if it names one."""
    module = build(model, in_features, out_features, covariates, nnx.Rngs(key))
    weights = getattr(model, "weights", "")
    if weights and isinstance(weights, str) and hasattr(model, "load"):
        model.load(module, read_arrays(Path(weights)))
    parts: Any = nnx.split(module, nnx.Param, ...)
    return parts[1], parts[2]


def initial_state(
    model: Any, in_features: int, out_features: int, train: Train, key: Key[Array, ""], covariates: int = 0
) -> RunState:
    """The state of one run before its first step."""
    params, buffers = initial_arrays(model, in_features, out_features, key, covariates)
    zero = jnp.zeros((), jnp.int32)
    return RunState(
        params=params,
        buffers=buffers,
        optimizer=optim.start(train, params),
        gradient=jax.tree.map(jnp.zeros_like, params) if train.accumulate > 1 else (),
        gradient_weight=jnp.zeros((), jnp.float32),
        updates=zero,
        best_params=params,
        best_buffers=buffers,
        best_metric=jnp.full((), -jnp.inf, jnp.float32),
        best_loss=jnp.full((), jnp.inf, jnp.float32),
        best_epoch=zero - 1,
        finished=jnp.zeros((), bool),
        failed=jnp.zeros((), bool),
        failed_epoch=zero - 1,
        failed_step=zero - 1,
        failed_bag=zero - 1,
    )


def forward(
    graph: Graph,
    params: Any,
    buffers: Any,
    bags: Bags | Images,
    key: Key[Array, ""] | None,
    precision: Precision = "float32",
) -> tuple[Output, Any]:
    """The module's output on some bags, and its buffers afterwards.

    Args:
        graph, params, buffers: the parts of the module.
        bags: a padded batch.
        key: draws of this step; None evaluates (deterministic).
        precision: what the module computes in; the output is float32 either way.
    """
    params, bags = lowered(precision, params, bags)
    # copy: without it Flax refuses to write batch statistics under a gradient
    module = nnx.merge(graph, params, buffers, copy=True)
    if key is None:
        return raised(module(bags, deterministic=True)), buffers
    output = module(bags, deterministic=False, rngs=nnx.Rngs(key))
    after = nnx.state(module, nnx.Not(nnx.Param))
    return raised(output), jax.tree.map(lambda new, old: new.astype(old.dtype), after, buffers)
