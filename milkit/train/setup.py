"""What a step is given: bags, what is a run's own, what is fixed at compile time; and the loss of a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from milkit.train import optim
from milkit.train.config import Train
from milkit.train.state import Graph
from milkit.types import Batch, Output


class Packed(NamedTuple):
    """All bags of a study, end to end on the device, shared by all runs.

    Attributes:
        x: instances of all bags, [N, d], as stored.
        coords_um: [N, 2] or None.
        offsets: first row of each bag, [B].
        lengths: instances of each bag, [B].
        target: of each bag, see `milkit.task`.
        covariates: of each bag, [B, v] as the table has them, NaN where missing; or None.
        sizes: height and width of each image, [B, 2], where bags are images: their instances are pixels, row by row.
        truth: what each pixel is, uint8 [N] as in `milkit.data.study.Study.pixel_truth`, where masks of training images
            are handed out; else None. Models never see it.
        neighbours: of each instance, as rows of its own bag, -1 for none, int32 [N, j], where a model works on a graph
            of tiles; else None.
    """

    x: Any
    coords_um: Any
    offsets: Any
    lengths: Any
    target: Any
    covariates: Any = None
    sizes: Any = None
    truth: Any = None
    neighbours: Any = None


class Hyper(NamedTuple):
    """What differs between runs besides their data: arrays, so that a grid of values is still one program.

    Attributes:
        rate: the optimiser's continuous choices.
        shift, inverse_scale: affine map of the features, [d] (of the run's own training part), or None.
        loss: the loss's per-run arrays (class weights, time cuts, target scale).
        covariate_shift, covariate_inverse: affine map of the covariates, [v] (likewise), or None.
    """

    rate: optim.Rates
    shift: Any
    inverse_scale: Any
    loss: Any
    covariate_shift: Any = None
    covariate_inverse: Any = None


class Setup(NamedTuple):
    """What is the same for every run of a program and fixed at compile time.

    Attributes:
        graph: the module's static part.
        train: the configuration.
        task: how logits and targets are read.
        loss: `(logits, target, weight, loss_params) -> [b]`.
        objective: the model's own `(output, batch, bag_loss) -> (loss[b], parts)`, or None.
        canvas: height and width that images are shown in, None where bags are no images.
        rate_scales: see `milkit.train.optim.apply`.
    """

    graph: Graph
    train: Train
    task: Any
    loss: Callable[..., Any]
    objective: Callable[..., Any] | None
    canvas: tuple[int, int] | None = None
    rate_scales: tuple[float, ...] = ()


def batch_loss(setup: Setup, hyper: Hyper, output: Output, batch: Batch) -> Float[Array, "b"]:
    """One value a bag; fillers give exactly 0, whatever their output."""

    def bag_loss(logits: Float[Array, "b c"]) -> Float[Array, "b"]:
        return setup.loss(logits, batch.target, batch.weight, hyper.loss)

    if setup.objective is None:
        values = bag_loss(output.logits)
    else:
        values, _ = setup.objective(output, batch, bag_loss)
    return jnp.where(batch.weight > 0, values, 0.0)
