"""From tiles of slides to a store of features: `milkit embed`; see `docs/slides.md`."""

from milkit.embed.encode import Clock, Embedded, embed_bags, embed_slide
from milkit.embed.part import StopError
from milkit.embed.settings import Settings, settings_of
from milkit.embed.slides import TiledSlide
from milkit.embed.source import Opener, Source

__all__ = [
    "Clock",
    "Embedded",
    "Opener",
    "Settings",
    "Source",
    "StopError",
    "TiledSlide",
    "embed_bags",
    "embed_slide",
    "settings_of",
]
