"""`predictions.csv`: one row a bag and run, the one source of every reported number."""

from milkit.predictions.layout import META, ROLES, SELECTIONS, TAIL, Kind
from milkit.predictions.table import Predictions, concat
from milkit.predictions.whole import whole_file

__all__ = ["META", "ROLES", "SELECTIONS", "TAIL", "Kind", "Predictions", "concat", "whole_file"]
