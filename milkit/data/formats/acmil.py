"""ACMIL: one HDF5 file a cohort, `/<slide>/feat` and `/<slide>/coords`, attribute `label` of `/<slide>`.

`groups.py` reads it. The slides of its patches (CLAM's files) have the tile size; ACMIL does not copy it.
"""

from milkit.data.formats.groups import of_groups

LAYOUT = of_groups(
    "feat",
    "acmil",
    "ACMIL",
    "ACMIL leaves it in CLAM's patches files (patch_size x downsample pixels of level 0); tile_um= gives it",
)
