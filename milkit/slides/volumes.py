"""A volume as a stack of slices: NIfTI in the orientation of the body, or a `.npy` array [slices, h, w]."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.data.formats.guard_numpy import open_npy
from milkit.errors import DataError
from milkit.slides.nifti import MILLIMETRES, Nifti, read_nifti
from milkit.slides.opened import signature
from milkit.slides.stacks import Stack, Stacking

ENDINGS = (".nii.gz", ".nii", ".npy")
PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
"""Towards where slices, rows and columns count. As radiologists look at them: the patient's right is on the left, the
front on top of axial slices, the head on top of the others."""
WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Axis of NIfTI's patient space, and its sense."""
STORED = {"i": (0, 2, 1), "j": (1, 2, 0), "k": (2, 1, 0)}
"""Indices that count slices, rows and columns; as of pictures, the later index counts rows."""
TILTED = 1.0
"""Degrees from which on slices are said to be oblique."""


class Volume(Stack):
    """Slices of an array.

    Args:
        path: of the file.
        stacking: how intensities become pixels.
        values: [slices, h, w] of numbers or of records R, G, B, or [slices, h, w, 3].
        scale: slope and intercept of intensities.
        facts: `spacing_mm`, `notes` and what else is known.
    """

    def __init__(
        self, path: Path, stacking: Stacking, values: np.ndarray, scale: tuple[float, float], facts: Mapping[str, Any]
    ) -> None:
        count, height, width = values.shape[:3]
        if min(count, height, width) < 1:
            raise DataError(f"{path} holds {count} slices of {width} x {height} pixels; there is nothing to encode.")
        self._values, self._scale = values, scale
        self._colours = values.ndim == 4 or values.dtype.names is not None
        self._window = self._limits(path, stacking)
        spacing = facts.get("spacing_mm")
        said = {
            "kind": "volume", "dtype": str(values.dtype), "position": "mm" if spacing else "slice",
            "window": None if self._window is None else list(self._window), **facts,
        }  # fmt: skip
        positions = np.arange(count, dtype=np.float64) * (spacing[0] if spacing else 1)
        super().__init__(path, stacking, positions, (width, height), said)

    def _limits(self, path: Path, stacking: Stacking) -> tuple[float, float] | None:
        """Intensities of black and white; None where numbers are pixels already."""
        slope, inter = self._scale
        plain = self._values.dtype == np.uint8 and self._scale == (1.0, 0.0)
        if self._values.dtype.names is not None or (self._colours and plain):
            return None
        if stacking.window is not None:
            return stacking.window
        if stacking.percentiles is not None:
            low, high = stacking.percentiles if slope > 0 else (100 - p for p in reversed(stacking.percentiles))
            ends = slope * np.percentile(self._values, [low, high]).astype(np.float64) + inter
            if not np.isfinite(ends).all():
                raise DataError(f"{path} holds numbers that are not finite, so it has no percentiles; fill them in.")
            if ends[0] == ends[1]:
                raise DataError(
                    f"{path}: percentiles {low:g} and {high:g} are both {ends[0]:g}; ask for wider ones, or a window."
                )
            return float(ends.min()), float(ends.max())
        if plain:
            return None
        scale = "" if self._scale == (1.0, 0.0) else " with a scale"
        raise DataError(
            f"{path} holds {self._values.dtype}{scale}: which intensities are black and white is not known. Say "
            "--window LOW HIGH (CT: -160 240 for soft tissue), or --percentiles LOW HIGH (MRI: 0.5 99.5, of each "
            "volume by itself)."
        )

    def _picture(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        held = np.array(self._values[index])
        if held.dtype.names is not None:
            return np.stack([held[c] for c in "RGB"], -1)
        if self._window is not None:
            held = self._windowed(held, index)
        return held if self._colours else np.repeat(held[..., None], 3, axis=2)

    def _windowed(self, held: np.ndarray, index: int) -> np.ndarray:
        assert self._window is not None
        (slope, inter), (low, high) = self._scale, self._window
        values = held.astype(np.float64) * slope + inter
        odd = int((~np.isfinite(values)).sum())
        if odd:
            raise DataError(
                f"{self.path}: {odd} numbers of slice {index} are not finite; say what they are (such as air) by "
                "numpy.nan_to_num and save it anew."
            )
        return np.floor(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)

    def close(self) -> None:
        """Let go of the array."""
        self._values = self._values[:0]


def open_volume(path: Path, stacking: Stacking) -> Volume:
    """Open a `.nii`, `.nii.gz` or `.npy` file.

    Raises:
        DataError: damaged, of another kind or shape, or it cannot be cut as asked.
        ConfigError: a NIfTI volume where nibabel is not installed.
    """
    signature(path)
    name = path.name.lower()
    if name.endswith(".npy"):
        return _of_npy(path, stacking)
    if name.endswith(ENDINGS):
        return _of_nifti(path, read_nifti(path), stacking)
    raise DataError(f"{path} is no volume by its ending; expected {', '.join(ENDINGS)}, or a folder of frames.")


def _of_npy(path: Path, stacking: Stacking) -> Volume:
    values = open_npy(path)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype}; expected real numbers.")
    shape = list(values.shape)
    if not (values.ndim == 3 or (values.ndim == 4 and shape[3] == 3)):
        raise DataError(
            f"{path} has the shape {shape}; expected [slices, height, width] or [slices, height, width, 3]."
        )
    if values.ndim == 3 and shape[2] in (3, 4):
        raise DataError(f"{path} has the shape {shape}, that of one picture with colours; put its slices first.")
    return Volume(path, stacking, values, (1.0, 0.0), {"axis": None, "spacing_mm": None, "notes": []})


def _of_nifti(path: Path, read: Nifti, stacking: Stacking) -> Volume:
    axis = stacking.axis
    notes = []
    if axis in PLANES:
        if read.affine is None:
            raise DataError(
                f"{path} does not state how it lies in the body (sform and qform are not set), so {axis} slices are "
                "not known; take them along an index as stored: --axis k (or i, j)."
            )
        order, flips, tilt = orientation(read.affine, PLANES[axis])
        if tilt >= TILTED:
            notes.append(f"slices are tilted by {tilt:.0f} degrees against the {axis} plane and are taken as they are")
    else:
        order, flips = STORED[axis], (1, 1, 1)
    spacing = None
    unit = read.unit or stacking.unit
    if not all(0 < width < np.inf for width in read.spacing):
        notes.append(f"the file states a spacing of {read.spacing}, so positions are counted in slices")
    elif not unit:
        notes.append("the file does not name the unit of its spacing (--unit), so positions are counted in slices")
    else:
        spacing = [read.spacing[i] * MILLIMETRES[unit] for i in order]
        if abs(spacing[1] - spacing[2]) > 0.01 * spacing[2]:
            notes.append(f"pixels are not square: {spacing[2]:.4g} x {spacing[1]:.4g} mm")
    values = read.values.transpose(order)[:: flips[0], :: flips[1], :: flips[2]]
    facts = {"axis": axis, "spacing_mm": spacing, "notes": notes}
    return Volume(path, stacking, values, (float(read.slope), float(read.inter)), facts)


def orientation(affine: np.ndarray, towards: str) -> tuple[tuple[int, int, int], tuple[int, int, int], float]:
    """Which stored index counts slices, rows and columns, whether backwards (-1), and how far slices are tilted.

    Args:
        affine: from indices to patient space (right, anterior, superior).
        towards: where the three are to count to, as letters: S, P, L is axial.

    Returns:
        The indices, their senses, and the angle in degrees between the normal of the slices and the body's axis.
    """
    from nibabel.orientations import io_orientation

    nearest = io_orientation(affine)  # of each index: the axis that it runs along most, and its sense
    order, flips = [], []
    for letter in towards:
        world, sense = WORLD[letter]
        index = int(np.flatnonzero(nearest[:, 0] == world)[0])
        order.append(index)
        flips.append(int(sense * nearest[index, 1]))
    rows, columns = affine[:3, order[1]], affine[:3, order[2]]
    normal = np.cross(rows, columns)
    cosine = abs(normal[WORLD[towards[0]][0]]) / np.linalg.norm(normal)
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    return (order[0], order[1], order[2]), (flips[0], flips[1], flips[2]), tilt
