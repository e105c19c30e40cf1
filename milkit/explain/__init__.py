"""Why a model says what it says of a bag: relevance of instances, and whether a relevance is faithful."""

from milkit.explain.faithfulness import Curve, deletion, insertion
from milkit.explain.relevance import (
    attention,
    contributions,
    gradient_times_input,
    instance_scores,
    integrated_gradients,
)

__all__ = [
    "Curve",
    "attention",
    "contributions",
    "deletion",
    "gradient_times_input",
    "insertion",
    "instance_scores",
    "integrated_gradients",
]
