"""Hostile and damaged files for every reader: valid ones, ways to spoil them, and one read in a process of its own."""
