"""The layouts that are read: the only list. Where two could claim a file, the earlier one is asked first."""

from milkit.data.formats import (
    acmil,
    clam,
    dsmil,
    groups,
    jld,
    mussel,
    npy,
    npz,
    owkin,
    pt,
    slideflow,
    soma,
    stamp,
    svm,
    torchmil,
    torchmil_h5,
    trident,
)
from milkit.data.formats.layout import Layout

LAYOUTS: tuple[Layout, ...] = (
    jld.LAYOUT,
    mussel.LAYOUT,
    trident.LAYOUT,
    stamp.LAYOUT,
    torchmil_h5.LAYOUT,
    clam.LAYOUT,
    acmil.LAYOUT,
    groups.LAYOUT,
    slideflow.LAYOUT,
    soma.LAYOUT,
    pt.TRIDENT,
    pt.CLAM,
    pt.LAYOUT,
    torchmil.LAYOUT,
    owkin.FOLDER,
    owkin.LAYOUT,
    npy.LAYOUT,
    npz.LAYOUT,
    dsmil.FOLDER,
    dsmil.LAYOUT,
    svm.LAYOUT,
)
"""Every layout, the more particular before the more general."""
BY_NAME = {layout.name: layout for layout in LAYOUTS}


def tools() -> str:
    """The tools whose files are read, in words."""
    names = list(dict.fromkeys(layout.tool for layout in LAYOUTS))
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
