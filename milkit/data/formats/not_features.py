"""HDF5 files that lie beside feature files and hold none: what they are, and what to give instead."""

from dataclasses import dataclass

import h5py


@dataclass(frozen=True)
class NotFeatures:
    """A file of one slide that holds no features.

    Attributes:
        kind: "patches" (where tiles are) or "images" (what tiles look like).
        tool: whose it is, "" where several write it alike.
        count: tiles n.
        advice: what to do, as the end of a sentence.
    """

    kind: str
    tool: str
    count: int
    advice: str

    @property
    def words(self) -> str:
        """What it is and what to do, in words."""
        held = (
            "tile positions but no features (a *patches* file)"
            if self.kind == "patches"
            else "images of tiles, not features"
        )
        by = f" of {self.tool}" if self.tool else ""
        return f"it holds {held}{by}, {self.count} tiles; {self.advice}"


def not_features(file: h5py.File) -> NotFeatures | None:
    """What a file without features is, None where nothing known.

    TRIDENT's patches are `<slide>_patches.h5` with `coords` only, CLAM's `<slide>.h5` likewise; older versions of CLAM
    kept the tiles themselves, `imgs` [N, h, w, 3] uint8 beside `coords`.
    """
    images = file.get("imgs")
    if isinstance(images, h5py.Dataset) and len(images.shape) == 4:
        return NotFeatures(
            "images", "CLAM", images.shape[0], "have its extract_features.py, or another tool, make features of them"
        )
    if set(file) != {"coords"}:
        return None
    coords = file.get("coords")
    if not isinstance(coords, h5py.Dataset) or not coords.shape:
        return None
    attrs = coords.attrs
    if "patch_size_level0" in attrs:
        return NotFeatures("patches", "TRIDENT", coords.shape[0], "give the folder features_<encoder> beside patches")
    if "patch_level" in attrs and "native_mpp" not in attrs:
        advice = "give the folder of the features that were made with it (h5_files)"
        return NotFeatures("patches", "CLAM", coords.shape[0], advice)
    tool = "mussel" if "native_mpp" in attrs else ""
    return NotFeatures("patches", tool, coords.shape[0], "give the folder of the features")
