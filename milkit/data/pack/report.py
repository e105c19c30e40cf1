"""What a pack did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.pack.rounding import Rounding


@dataclass(frozen=True)
class PackReport:
    """What a pack did.

    Attributes:
        files: the stores written.
        digests: sha256 of the content of each.
        slides: how many they hold.
        instances: of all slides.
        features: width.
        dtype: of the features.
        rounding: what was lost.
        bytes_read: of the source files.
        bytes_written: of the stores.
        left_out: slides without an instance.
        resumed: slides that an earlier, interrupted pack had written.
        missing: facts that the stores lack, with the option that supplies each.
        notes: what a reader should know.
        seconds: time it took.
    """

    files: tuple[Path, ...]
    digests: tuple[str, ...]
    slides: int
    instances: int
    features: int
    dtype: str
    rounding: Rounding
    bytes_read: int
    bytes_written: int
    left_out: tuple[str, ...] = ()
    resumed: int = 0
    missing: tuple[dict[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **{
                name: getattr(self, name) for name in ("slides", "instances", "features", "dtype", "resumed", "seconds")
            },
            **{name: getattr(self, name) for name in ("bytes_read", "bytes_written")},
            "files": [str(path) for path in self.files],
            "content_sha256": list(self.digests),
            "rounding": self.rounding.to_json,
            "left_out": list(self.left_out),
            "missing": list(self.missing),
            "notes": list(self.notes),
        }
