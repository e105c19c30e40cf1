"""Searches: all trials of all folds are trained, each fold's is chosen on its validation part, and tested once.

`trials.py` says which configurations each fold tries, `family.py` puts those that differ in continuous values into one
program, `choose.py` chooses, `final.py` predicts what was chosen, `study.py` goes through it all.
"""

from milkit.execute.search.study import grown, search_through

__all__ = ["grown", "search_through"]
