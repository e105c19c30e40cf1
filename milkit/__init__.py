"""milkit: weakly supervised multiple-instance learning, from an experiment file to numbers that last."""

__version__ = "0.1.0"
