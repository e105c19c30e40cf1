"""Pixel-level models: an image is a bag, its pixels the instances. One paper a file."""
