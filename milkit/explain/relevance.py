"""Relevance of each instance for one logit of its bag: read off a model, or worked out by its gradient.

All functions take a module (what a config's `build` returns, or anything that is called with bags and returns an
`Output`) and give float[b, n], 0 on padding; higher speaks more for the logit. Nothing is random: modules are asked as
in prediction. They are pure, so a caller may compile them: `jax.jit(lambda bags: gradient_times_input(module, bags))`.

Attention says where a model looked, not what it made of that: an instance may weigh much because it speaks *against*
the class. The gradients' relevance has a sign. `milkit.explain.faithfulness` says which of them to believe.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from milkit.errors import DataError
from milkit.types import Bags, Output

Module = Callable[[Bags], Output]


def attention(module: Module, bags: Bags) -> Float[Array, "b n"]:
    """Attention, the mean over heads; it has no sign and belongs to no class.

    Raises:
        DataError: the model has no attention.
    """
    weights = module(bags).attention
    if weights is None:
        raise DataError("This model gives no attention; ask for gradient_times_input or integrated_gradients.")
    return jnp.where(bags.mask, weights.mean(-1), 0)


def instance_scores(module: Module, bags: Bags, label: int = 0) -> Float[Array, "b n"]:
    """The model's own logit of each instance.

    Raises:
        DataError: the model gives none.
    """
    scores = module(bags).instance_logits
    if scores is None:
        raise DataError("This model gives no instance logits; ask for gradient_times_input or integrated_gradients.")
    return jnp.where(bags.mask, scores[..., label], 0)


def contributions(module: Module, bags: Bags, label: int = 0) -> Float[Array, "b n"]:
    """What each instance adds to the bag's logit, of a model whose logits are such sums (Additive MIL).

    Raises:
        DataError: the model gives no instance logits, or they do not add up to the logits. (Not looked at under jit.)

    References:
        Javed et al. (2022), Additive MIL, NeurIPS.
    """
    output = module(bags)
    if output.instance_logits is None:
        raise DataError("This model gives no instance logits, so it says nothing of what each instance adds.")
    parts = jnp.where(bags.mask, output.instance_logits[..., label], 0)
    if not isinstance(parts, jax.core.Tracer):
        total, logit = np.asarray(parts.sum(1), np.float64), np.asarray(output.logits[:, label], np.float64)
        there = np.asarray(bags.mask.any(1))
        scale = np.asarray(jnp.abs(parts).sum(1), np.float64) + 1
        if not (np.abs(total - logit) <= 1e-4 * scale)[there].all():
            worst = float(np.abs(total - logit)[there].max())
            raise DataError(
                f"Instance logits do not add up to the bag's logit (off by up to {worst:.3g}): this model is not "
                "additive. instance_scores gives them as they are; AdditiveMIL is a model whose logits are sums."
            )
    return parts


def gradient_times_input(
    module: Module, bags: Bags, label: int = 0, baseline: Float[Any, "d"] | None = None
) -> Float[Array, "b n"]:
    """(x - baseline) . d logit / d x of each instance: the first-order change if it became the baseline.

    Args:
        module: the model.
        bags: features as the model reads them (scaled, if its run scaled them).
        label: number of the logit.
        baseline: features of "nothing", such as the training mean; None: zeros, which is the mean of scaled features.

    References:
        Shrikumar et al. (2017), Learning important features through propagating activation differences, section 2.
    """
    away = _away(bags, baseline)
    return jnp.where(bags.mask, (away * _gradient(module, bags, label)).sum(-1), 0)


def integrated_gradients(
    module: Module, bags: Bags, label: int = 0, baseline: Float[Any, "d"] | None = None, steps: int = 32
) -> Float[Array, "b n"]:
    """Gradient times input, the gradient averaged along the straight line from the baseline to the bag.

    All instances move together, so that the sum over instances tends to logit(bag) - logit(bag of baselines) with many
    steps (completeness). The midpoint rule, a step at a time: memory is that of one gradient.

    Args:
        module: the model.
        bags: features as the model reads them.
        label: number of the logit.
        baseline: as in `gradient_times_input`.
        steps: points on the line, at least 1.

    References:
        Sundararajan, Taly & Yan (2017), Axiomatic attribution for deep networks, section 3.
    """
    if steps < 1:
        raise DataError(f"steps is {steps}; expected at least 1.")
    away = _away(bags, baseline)

    def add(total: Array, share: Array) -> tuple[Array, None]:
        between = replace(bags, x=bags.x - (1 - share) * away)
        return total + _gradient(module, between, label) / steps, None

    shares = (jnp.arange(steps, dtype=bags.x.dtype) + 0.5) / steps
    mean, _ = jax.lax.scan(add, jnp.zeros_like(bags.x), shares)
    return jnp.where(bags.mask, (away * mean).sum(-1), 0)


def _away(bags: Bags, baseline: Float[Any, "d"] | None) -> Float[Array, "b n d"]:
    x = bags.x if baseline is None else bags.x - jnp.asarray(baseline, bags.x.dtype)
    return jnp.where(bags.mask[..., None], x, 0)


def _gradient(module: Module, bags: Bags, label: int) -> Float[Array, "b n d"]:
    """Of each bag's logit by its own instances; bags do not see each other, so one backward pass does for all."""
    return jax.grad(lambda x: module(replace(bags, x=x)).logits[:, label].sum())(bags.x)
