"""Packing: any readable features into native stores, in parallel and resumable; and back into other tools' layouts."""

from milkit.data.pack.plan import Asked
from milkit.data.pack.report import PackReport
from milkit.data.pack.run import pack

__all__ = ["Asked", "PackReport", "pack"]
