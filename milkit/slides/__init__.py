"""Slides: pixels of whole-slide images, asked for in micrometres."""

from milkit.slides.open import Reader, open_slide
from milkit.slides.slide import Level, Slide

__all__ = ["Level", "Reader", "Slide", "open_slide"]
