"""torchmil (1.0), HDF5: one file a bag with `features` [N, d], `labels`, `inst_labels` or `patch_labels`, and `coords`.

No attributes. `coords` are often divided to columns and rows already, and no file says whether, so the unit is asked
for; those of frames [N, 1] and volumes [N, 3] are no places on a slide and are left alone. The labels of instances stay
out of the features. A bag's label, where it is one value, is kept for comparison with the cohort table.
"""

from pathlib import Path

import h5py

from milkit.data.formats.header import Header, check_arrays, coords_of, features_of, label_of, sample_of
from milkit.data.formats.layout import Layout

TOOL = "torchmil"
LABEL = "labels"
MARKS = (LABEL, "inst_labels", "patch_labels")


def is_torchmil(path: Path, file: h5py.File) -> bool:
    """Whether `features` without attributes stand beside labels, or alone."""
    features = file.get("features")
    if not isinstance(features, h5py.Dataset) or len(features.attrs):
        return False
    return any(name in file for name in MARKS) or set(file) == {"features"}


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a bag's file says without reading its features.

    Raises:
        DataError: shapes or dtypes that are not torchmil's.
    """
    places = file.get("coords")
    on_a_slide = places is not None and len(places.shape) == 2 and places.shape[1] == 2
    features, coords = check_arrays(path, file, positions="coords" if on_a_slide else "", whole=False)
    header = Header(
        id=path.stem,
        path=path,
        length=features.shape[0],
        width=features.shape[1],
        layout="torchmil-h5",
        unit="",
        positioned=coords is not None,
        label=label_of(file.get(LABEL)),
    )
    return (header,)


LAYOUT = Layout(
    name="torchmil-h5",
    tool=TOOL,
    container="hdf5",
    claims=is_torchmil,
    headers=headers,
    features=features_of("features"),
    positions=coords_of("coords"),
    sample=sample_of("features"),
    lacks={
        "unit": ". torchmil's own examples divide pixels to columns and rows: neighbours are then 1 apart, and "
        "unit='grid' with tile_um= places them"
    },
)
