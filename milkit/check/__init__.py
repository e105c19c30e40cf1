"""A leak and health scanner: what is wrong with a cohort, before a model is trained on it. One defect a module."""

from milkit.check.cohort import Checked, check_cohort
from milkit.check.finding import Finding

__all__ = ["Checked", "Finding", "check_cohort"]
