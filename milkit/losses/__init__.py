"""Losses: pure functions that give one value a bag; the caller weights and reduces.

`for_task(task)` gives the loss of a task with one signature for all; `loss_params(...)` computes what it
needs from a run's own training part (class weights, time cuts, the target's scale).
"""

from milkit.losses.pointwise import bce, cross_entropy, focal, focal_multiclass, huber, mse
from milkit.losses.survival import cox, discrete_time_nll, time_bin
from milkit.losses.svm import smooth_top1_svm
from milkit.losses.table import LossParams, LossSpec, for_task, loss_params, unscale

__all__ = [
    "LossParams",
    "LossSpec",
    "bce",
    "cox",
    "cross_entropy",
    "discrete_time_nll",
    "focal",
    "focal_multiclass",
    "for_task",
    "huber",
    "loss_params",
    "mse",
    "smooth_top1_svm",
    "time_bin",
    "unscale",
]
