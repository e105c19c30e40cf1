"""Blocks that two or more models share."""

from milkit.nn.attention import AttentionPool
from milkit.nn.chunks import LongBags, over_instances
from milkit.nn.dropout import Dropout, Rate, dropout_or_none
from milkit.nn.initialisers import Init, linear, torch_bias, torch_kernel
from milkit.nn.masked import (
    Pooling,
    gm_of_probabilities,
    lse_of_probabilities,
    masked_gm,
    masked_lse,
    masked_max,
    masked_mean,
    masked_sd,
    masked_softmax,
    masked_topk,
)
from milkit.nn.mlp import MLP
from milkit.nn.running import LogMeanExp, Max, Mean, PowerMean, Rule, SoftmaxSum, TopMean, TopRows

__all__ = [
    "MLP",
    "AttentionPool",
    "Dropout",
    "Init",
    "LogMeanExp",
    "LongBags",
    "Max",
    "Mean",
    "Pooling",
    "PowerMean",
    "Rate",
    "Rule",
    "SoftmaxSum",
    "TopMean",
    "TopRows",
    "dropout_or_none",
    "gm_of_probabilities",
    "linear",
    "lse_of_probabilities",
    "masked_gm",
    "masked_lse",
    "masked_max",
    "masked_mean",
    "masked_sd",
    "masked_softmax",
    "masked_topk",
    "over_instances",
    "torch_bias",
    "torch_kernel",
]
