"""What a heat map can show of a model, and for which class: relevance of the instances of one bag."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from milkit import explain
from milkit.bag import Bag
from milkit.errors import ConfigError, NonFiniteError
from milkit.heatmaps.opened import Model, Scaler
from milkit.task import Binary, Survival, Task
from milkit.train.state import Graph, forward
from milkit.types import Bags, Output

KINDS: dict[str, str] = {
    "attention": "attention, mean over heads",
    "instance": "the model's own score of each tile",
    "contributions": "what each tile adds to the slide's logit",
    "gradient": "gradient times input",
    "integrated": "integrated gradients",
}
"""What each is, in words."""
SIGNED = ("instance", "contributions", "gradient", "integrated")
"""Kinds whose values have a sign, for and against."""
STEPS = 32
"""Points on the line of integrated gradients."""


@dataclass(frozen=True)
class Target:
    """What relevance is relevance for.

    Attributes:
        name: of the class, label or value; "risk" for survival.
        place: its number among the names.
        column: of the logits.
        sign: -1 for the negative class of a binary task, whose logit is the positive one's turned round.
    """

    name: str
    place: int
    column: int
    sign: int = 1


def target_of(task: Task, names: tuple[str, ...], label: str | None) -> Target | None:
    """The class that is asked for; None where there are several and none is named.

    Args:
        task: what is predicted.
        names: classes (binary: negative, positive), labels or values.
        label: one of them; None takes the only one, or a binary task's positive class.

    Raises:
        ConfigError: no such class.
    """
    if label is None:
        if not isinstance(task, Binary) and len(names) > 1:
            return None
        label = names[-1]
    if label not in names:
        raise ConfigError(f"There is no class {label!r}; it has {', '.join(map(repr, names))}. Give one by --label.")
    place = names.index(label)
    if isinstance(task, Binary):
        return Target(label, place, 0, 1 if place else -1)
    return Target(label, place, place)


@dataclass(frozen=True, eq=False)
class Answer:
    """What one model says of one bag.

    Attributes:
        scores: of its instances.
        logits: of the bag, as the model gave them.
        of_class: whether the scores are those of a class.
    """

    scores: Float[np.ndarray, "n"]
    logits: Float[np.ndarray, "c"]
    of_class: bool


def answer(graph: Graph, config: Any, task: Task, model: Model, bags: Bags, kind: str, target: Target | None) -> Answer:
    """Ask a model about a batch of one bag.

    Args:
        graph: the model's static part.
        config: its configuration, for messages and for the least number of instances.
        task: what is predicted.
        model: its weights and scaling.
        bags: as `bags_of` gives them.
        kind: what is asked.
        target: for which class; attention does without.

    Raises:
        ConfigError: the model has no such relevance, or a class has to be named.
        NonFiniteError: what the model says of the bag is not finite.
    """
    arrays, n = model.arrays, int(bags.mask.sum())
    output = _forward(graph, arrays["params"], arrays["buffers"], bags)
    logits = np.asarray(output.logits, np.float64)[0]
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            f"The model {model.name} gives {logits.tolist()} for this bag; nothing can be shown of it."
        )
    there = kinds_of(output, task)
    if kind not in there:
        raise ConfigError(
            f"{type(config).__name__} gives no {'attention' if kind == 'attention' else 'score of each tile'}, so "
            f"--kind {kind} has nothing to show; this model has: {', '.join(there)}."
        )
    if kind == "attention":
        # a model with a branch of attention for each class (CLAM) is asked for the class's own
        if target is not None and len(logits) > 1 and getattr(config, "branch_a_class", False):
            return Answer(np.asarray(output.attention)[0, :n, target.column], logits, True)
        return Answer(np.asarray(explain.attention(lambda _: output, bags))[0, :n], logits, False)
    if target is None:
        raise ConfigError(f"{kind} is relevance for one class: name it by --label.")
    if kind in ("gradient", "integrated"):
        found = _gradients(graph, task, kind, target.column, arrays["params"], arrays["buffers"], bags)
    else:
        of = explain.instance_scores if kind == "instance" else explain.contributions
        found = of(lambda _: output, bags, target.column)
    return Answer(target.sign * np.asarray(found)[0, :n], logits, True)


def bags_of(bag: Bag, model: Model, covariates: Float[np.ndarray, "v"] | None, least: int) -> Bags:
    """One bag as a model reads it: scaled as it was trained, padded to the least number of instances.

    Args:
        bag: of the study.
        model: whose scaling.
        covariates: of the bag, as the table has them.
        least: instances that the model needs.
    """
    n, d = bag.x.shape
    length = max(n, least)
    x, mask = np.zeros((1, length, d), np.float32), np.zeros((1, length), bool)
    x[0, :n], mask[0, :n] = _scaled(np.asarray(bag.x, np.float32), model.features), True
    xy = None
    if bag.coords_um is not None:
        xy = np.zeros((1, length, 2), np.float32)
        xy[0, :n] = bag.coords_um
    beside = None
    if covariates is not None:  # a missing one stands at the training part's mean
        beside = jnp.asarray(np.nan_to_num(_scaled(covariates, model.covariates), nan=0.0)[None], jnp.float32)
    return Bags(jnp.asarray(x), jnp.asarray(mask), None if xy is None else jnp.asarray(xy), covariates=beside)


def _scaled(values: np.ndarray, scaler: Scaler) -> np.ndarray:
    shift, inverse = scaler
    return values if shift is None else (values - np.asarray(shift)) * np.asarray(inverse)


def kinds_of(output: Output, task: Task) -> tuple[str, ...]:
    """What a model with this output can show; contributions only if its logits turn out to be sums.

    Instance logits count where a column of them is a class: those of a survival model with several columns are times.
    """
    scored = output.instance_logits is not None and output.instance_logits.shape[-1] == output.logits.shape[-1]
    times = isinstance(task, Survival) and output.logits.shape[-1] > 1
    return (
        *(("attention",) if output.attention is not None else ()),
        *(("instance", "contributions") if scored and not times else ()),
        "gradient",
        "integrated",
    )


@partial(jax.jit, static_argnums=0)
def _forward(graph: Graph, params: Any, buffers: Any, bags: Bags) -> Output:
    return forward(graph, params, buffers, bags, None)[0]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _gradients(graph: Graph, task: Task, kind: str, column: int, params: Any, buffers: Any, bags: Bags) -> Any:
    def module(some: Bags) -> Output:
        return _with_risk(task, forward(graph, params, buffers, some, None)[0])

    of: Callable[..., Any] = explain.gradient_times_input
    if kind == "integrated":
        of = partial(explain.integrated_gradients, steps=STEPS)
    return of(module, bags, column)


def _with_risk(task: Task, output: Output) -> Output:
    """Of a survival model with several times, its one risk in place of the logits (as `milkit.task.probabilities`)."""
    if not isinstance(task, Survival) or output.logits.shape[-1] == 1:
        return output
    alive = jnp.cumprod(1 - jax.nn.sigmoid(output.logits), -1)
    return replace(output, logits=-alive.sum(-1, keepdims=True))
