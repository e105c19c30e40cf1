"""HDF5 feature files as STAMP, mussel, torchmil, ACMIL and old CLAM write them: names, dtypes, chunks, attributes."""

import h5py
import ml_dtypes
import numpy as np


def stamp(folder, slide, x, xy_um, *, old=None, name="feats", drop=(), **attributes):
    """A slide of STAMP 2.5: `<folder>/<slide>.h5`; returns its path.

    Args:
        folder: of one extractor.
        slide: its name.
        x: features [n, d], stored as float16.
        xy_um: positions [n, 2], stored as float32; None writes none.
        old: "2.0" writes `tile_size` for `tile_size_um`; "1" what stood there before: whole numbers without a unit, and
            `augmented`.
        name: of the features.
        drop: attributes to leave out.
        attributes: of the file, added or replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide}.h5"
    said = {
        "stamp_version": "2.5.0", "extractor": "uni2", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224,
        "code_hash": "0f3a91bc", "feat_type": "tile",
    }  # fmt: skip
    if old == "2.0":
        said = {"stamp_version": "2.0.0", "extractor": "uni2-0f3a91bc", "unit": "um", "tile_size": 256.0}
    if old == "1":
        said = {"extractor": "ctranspath"}
    with h5py.File(path, "w") as file:
        if xy_um is not None:
            file["coords"] = np.asarray(xy_um, np.int64 if old == "1" else np.float32).reshape(-1, 2)
        file[name] = np.asarray(x, np.float16)
        if old == "1":
            file["augmented"] = np.zeros(len(x), bool)
        for key, value in {**said, **attributes}.items():
            if key not in drop:
                file.attrs[key] = value
    return path


def mussel(folder, slide, x, xy, *, dtype=np.float32, compressed=True, rename=None, drop=(), **attributes):
    """A slide of mussel 1.5: `<folder>/<slide>.features.h5`; returns its path.

    Args:
        folder: of one run.
        slide: its name, kept in the attribute `name`.
        x: features [n, d].
        xy: positions in pixels of level 0, [n, 2].
        dtype: of the features; ml_dtypes.bfloat16 becomes two opaque bytes.
        compressed: gzip and shuffle, in chunks of at least 128 rows.
        rename: the file's name without its ending.
        drop: attributes of `coords` to leave out.
        attributes: of `coords`, added or replaced. 224 px at 0.5 um are 448 px of level 0 at 0.25.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rename or f'{slide}.features'}.h5"
    said = {
        "seg_level": 3, "segment_threshold": 15, "median_blur_ksize": 11, "ref_patch_size": 512, "patch_size": 448,
        "step_size": 448, "patch_size_to_resize_to_for_desired_mpp": 224, "patch_level": 0, "mpp": 0.5,
        "native_mpp": 0.25, "mpp_is_fallback": False, "level_dim": (40_000, 30_000), "name": slide, "overlap": 0,
    }  # fmt: skip
    x, xy = np.asarray(x).astype(dtype), np.asarray(xy, np.int64).reshape(-1, 2)
    how = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compressed else {}
    with h5py.File(path, "w") as file:
        for name, values in (("features", x), ("coords", xy)):
            chunks = (max(128, len(values)), *values.shape[1:])
            kind = "V2" if values.dtype == ml_dtypes.bfloat16 else values.dtype
            shape = (None, *values.shape[1:])
            data = file.create_dataset(name, values.shape, maxshape=shape, chunks=chunks, dtype=kind, **how)
            data[:] = values.view("V2") if kind == "V2" else values
        for key, value in {**said, **attributes}.items():
            if key not in drop:
                file["coords"].attrs[key] = value
    return path


def torchmil(folder, bag, x, xy=None, *, label=None, instances=None, names=("labels", "inst_labels")):
    """A bag of torchmil 1.0, all in one HDF5 file: `<folder>/<bag>.h5`; returns its path.

    Args:
        folder: of the set.
        bag: its name.
        x: features [n, d], stored as float32.
        xy: `coords`, as they are.
        label: of the bag, stored as an array of one.
        instances: labels of instances [n].
        names: of the datasets of labels; TRIDENT's set in torchmil calls the second `patch_labels`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bag}.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.asarray(x, np.float32)
        if xy is not None:
            file["coords"] = xy
        if label is not None:
            file[names[0]] = np.array([label])
        if instances is not None:
            file[names[1]] = np.asarray(instances)
    return path


def acmil(path, slides, *, labels=None):
    """A cohort of ACMIL, one file: `slides` are (features [n, d], positions [n, 2]) by name; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, (slide, (x, xy)) in enumerate(slides.items()):
            group = file.create_group(slide)
            group["feat"] = np.asarray(x).astype(np.float16)
            group["coords"] = np.asarray(xy, np.int64).reshape(-1, 2)
            group.attrs["label"] = i % 2 if labels is None else labels[slide]
    return path


def groups(path, slides, **attributes):
    """A file with a group a slide: `features` and `coords`, whose attributes are `attributes`; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for slide, (x, xy) in slides.items():
            group = file.create_group(slide)
            group["features"] = np.asarray(x)
            group["coords"] = np.asarray(xy, np.int32).reshape(-1, 2)
            group["coords"].attrs.update(attributes)
            group["mask_fraction"] = np.ones(len(x), np.float32)
    return path


def clam_images(folder, slide, xy, size=8):
    """A slide of CLAM as it was: the tiles' pixels, resizable, and their positions; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide}.h5"
    n = len(xy)
    with h5py.File(path, "w") as file:
        chunk = (1, size, size, 3)
        data = file.create_dataset("imgs", (n, size, size, 3), "u1", maxshape=(None, size, size, 3), chunks=chunk)
        data.attrs.update({"patch_level": 0, "wsi_name": slide, "downsample": (1.0, 1.0), "level_dim": (2000, 1500)})
        file.create_dataset("coords", data=np.asarray(xy, np.int32), maxshape=(None, 2), chunks=(1, 2))
    return path
