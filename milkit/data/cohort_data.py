"""Another name of `milkit.data.cohort`, where `Cohort` stands."""

from milkit.data.cohort import Cohort as Cohort
