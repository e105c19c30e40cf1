"""Weights that the authors' code of a model, or another library, left: which array of theirs is which of milkit's.

One file a paper, as in `milkit.models`; `known.py` lists them. A naming recognises its files, reads the model's sizes
off the shapes of the arrays, and says where each array goes (`Names`). `placed.py` puts them there: every array of
either side must find its partner.
"""

from milkit.foreign_weights.known import Layout, models, recognised
from milkit.foreign_weights.names import Found, Names, Shapes
from milkit.foreign_weights.placed import partners, place

__all__ = ["Found", "Layout", "Names", "Shapes", "models", "partners", "place", "recognised"]
