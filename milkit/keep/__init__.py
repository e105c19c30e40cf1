"""A model to keep: from a run folder to a model folder, its use on other features, and its evaluation elsewhere."""
