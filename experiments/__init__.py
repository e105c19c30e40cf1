"""Experiments that follow a paper, one file each, and their results."""
