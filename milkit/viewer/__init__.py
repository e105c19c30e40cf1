"""The viewer: a small local web page of a run's slides, their heat maps and what was predicted."""
