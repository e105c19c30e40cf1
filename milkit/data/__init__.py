"""The data room: cohort tables, feature stores, the study they make, and public sets."""
