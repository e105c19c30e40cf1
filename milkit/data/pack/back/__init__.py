"""From any readable features back into the layouts of TRIDENT, CLAM, STAMP and torchmil."""

from milkit.data.pack.back.write import WRITERS, BackReport, write_back

__all__ = ["WRITERS", "BackReport", "write_back"]
