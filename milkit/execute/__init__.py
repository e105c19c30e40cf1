"""From an experiment to a run folder: prepare, train program by program, predict, assemble."""
