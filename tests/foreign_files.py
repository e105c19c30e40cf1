"""Feature files as TRIDENT and CLAM write them: paths, datasets, dtypes, chunks and attributes."""

import csv
import json

import h5py
import numpy as np

TILING = "20x_256px_0px_overlap"


def _grow(file, name, values, chunk):
    """A resizable dataset of rows, `chunk` rows a chunk."""
    shape = values.shape
    return file.create_dataset(
        name, shape=shape, maxshape=(None, *shape[1:]), chunks=(chunk, *shape[1:]), dtype=values.dtype, data=values
    )


def _attributes(data, values):
    """None becomes the text 'None', dicts become JSON."""
    for name, value in values.items():
        data.attrs[name] = "None" if value is None else json.dumps(value) if isinstance(value, dict) else value


def trident(
    job, slide, x, xy, *, encoder="uni_v2", level0=40, target=20, size=256, tiling=TILING, rename=None, **attributes
):
    """A slide of a TRIDENT job: its patches file and its features file; returns the latter's path.

    Args:
        job: the job's folder.
        slide: its name.
        x: features, [n, d] of the encoder's dtype ([d] for a slide encoder).
        xy: positions in pixels of level 0, [n, 2].
        encoder: None writes 'None'; "" leaves the attribute out, as older versions did.
        level0, target, size: magnifications and patch size at the target.
        tiling: name of the folder.
        rename: name of the features file, where it is not the slide's.
        attributes: of `coords`, added or replaced.
    """
    folder = job / tiling
    xy = np.asarray(xy, np.int64).reshape(-1, 2)
    on_coords = {
        "patch_size": size,
        "patch_size_level0": size * level0 // target,
        "level0_magnification": level0,
        "target_magnification": target,
        "overlap": 0,
        "name": slide,
        "savetodir": str(folder),
        "level0_width": 40_000,
        "level0_height": 30_000,
        **attributes,
    }
    (folder / "patches").mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "patches" / f"{slide}_patches.h5", "w") as file:
        _attributes(_grow(file, "coords", xy, 1), on_coords)
    features = folder / f"{'slide_' if np.ndim(x) == 1 else ''}features_{encoder or 'old'}"
    features.mkdir(exist_ok=True)
    path = features / f"{rename or slide}.h5"
    with h5py.File(path, "w") as file:
        one_vector = np.ndim(x) == 1
        data = file.create_dataset("features", data=x) if one_vector else _grow(file, "features", np.asarray(x), 1)
        said = {"name": slide, "savetodir": str(features), "encoder": encoder}
        _attributes(data, {k: v for k, v in said.items() if (k, v) != ("encoder", "")})
        _attributes(_grow(file, "coords", xy, 1), on_coords)
    return path


def clam(results, slide, x, xy, *, size=256, level=0, downsample=(1.0, 1.0), patches=True, rows=None, coords=np.int32):
    """A slide of CLAM: `patches/<slide>.h5` and `features/h5_files/<slide>.h5`; returns the latter's path.

    Args:
        results: the folder that holds both.
        slide: its name.
        x: features [n, d].
        xy: positions in pixels of level 0, [n, 2].
        size, level, downsample: of the patches.
        patches: whether the patches file is there.
        rows: how many rows were appended before the extraction was interrupted.
        coords: their dtype.
    """
    xy = np.asarray(xy).reshape(-1, 2)
    if patches:
        (results / "patches").mkdir(parents=True, exist_ok=True)
        with h5py.File(results / "patches" / f"{slide}.h5", "w") as file:
            said = {
                "patch_size": size, "patch_level": level, "downsample": np.array(downsample),
                "downsampled_level_dim": np.array([20_000, 15_000]), "level_dim": np.array([20_000, 15_000]),
                "name": slide, "save_path": str(results / "patches"),
            }  # fmt: skip
            _attributes(_grow(file, "coords", xy.astype(np.int64), 1), said)
    folder = results / "features" / "h5_files"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slide}.h5"
    with h5py.File(path, "w") as file:
        _grow(file, "features", np.asarray(x, np.float32)[:rows], 32)
        _grow(file, "coords", xy.astype(coords)[:rows], 32)
    return path


def grid(n, step=512):
    """Positions of n tiles, eight a row, that touch each other."""
    row, column = np.divmod(np.arange(n), 8)
    return np.stack([column * step, row * step], 1) + 1024


def table(path, rows):
    """A CSV from dicts of one set of keys."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# What the quickstart's cohort holds; the test and the page state these counts.
PATIENTS = 36
WIDTH = 16


def quickstart(folder, seed=0):
    """The cohort of docs/quickstart.md: clinical.csv, trident_out/ and clam_out/ with the same features.

    36 patients with one to three slides; HER2-positive ones have some tiles that are shifted in three features. The
    table names slides with `.svs`, two labels are missing, two slides have no features, one slide is empty, and two
    files have no row.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(PATIENTS):
        positive = p % 2
        for s in range(1 + (p % 4 == 0) + (p % 12 == 0)):
            slide = f"{p + 1:03d}-{'ABC'[s]}"
            n = 0 if slide == "024-A" else int(rng.integers(12, 33))
            x = rng.normal(size=(n, WIDTH)).astype(np.float32)
            x[: n // 4, :3] += 1.2 * positive
            if slide not in ("008-A", "031-A"):  # the table has a row, but the slide was never embedded
                trident(folder / "trident_out", slide, x, grid(n))
                if n:  # CLAM writes no file for a slide without tissue
                    clam(folder / "clam_out", slide, x, grid(n), size=256, level=1, downsample=(2.0, 2.0))
            label = {5: "", 16: "NA"}.get(p, "positive" if positive else "negative")
            rows.append(
                {"case_id": f"P{p + 1:03d}", "slide_id": f"{slide}.svs", "her2": label, "sex": "FM"[p // 2 % 2],
                 "age": 40 + p, "site": "north" if p % 3 else "south"}
            )  # fmt: skip
    for slide in ("900-A", "901-A"):  # other patients of the same scanner
        x = rng.normal(size=(12, WIDTH)).astype(np.float32)
        trident(folder / "trident_out", slide, x, grid(12))
        clam(folder / "clam_out", slide, x, grid(12), size=256, level=1, downsample=(2.0, 2.0))
    table(folder / "clinical.csv", rows)
