"""Feature files as torchmil, Owkin, soma (slide2vec, hs2p), DSMIL and slideflow write them, and bare tensors."""

import json
import pickle
import zipfile

import numpy as np


def torchmil(root, bag, x, *, label=None, coords=None, tiles=None, features="features"):
    """A bag of a torchmil folder: one `.npy` each; returns the path of its features."""
    parts = {features: x, "labels": label, "coords": coords, "patch_labels": tiles}
    for name, values in parts.items():
        if values is not None:
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f"{bag}.npy", np.asarray(values))
    return root / features / f"{bag}.npy"


def owkin(root, slide, x, address, *, level=16):
    """A slide of HistoSSLscaling: level, column and row stand before the features; returns the path."""
    folder = root / slide
    folder.mkdir(parents=True)
    before = np.concatenate([np.full((len(x), 1), level), np.asarray(address).reshape(-1, 2)], 1)
    np.save(folder / "features.npy", np.concatenate([before.astype(np.float32), np.asarray(x, np.float32)], 1))
    return folder / "features.npy"


def dsmil(root, kind, slide, x):
    """A slide of DSMIL: pandas' to_csv(index=False, float_format='%.4f'); returns the path."""
    (root / kind).mkdir(parents=True, exist_ok=True)
    path = root / kind / f"{slide}.csv"
    rows = [",".join(map(str, range(x.shape[1])))] + [",".join(f"{v:.4f}" for v in row) for row in x]
    path.write_text("\n".join(rows) + "\n")
    return path


def dsmil_tables(root, kinds):
    """DSMIL's tables: `<class>.csv` each, and all together as `<set>.csv`; slides by class, the label is its number."""
    whole = ["0,label"]
    for label, (kind, slides) in enumerate(kinds.items()):
        rows = [f"datasets/{root.name}/{kind}/{slide}.csv,{label}" for slide in slides]
        (root / f"{kind}.csv").write_text("\n".join(["0,label", *rows]) + "\n")
        whole += rows
    (root / f"{root.name}.csv").write_text("\n".join(whole) + "\n")


def soma_tiles(tiles, sample, xy, *, mpp=0.25, width=512, name=None):
    """What hs2p writes of a slide's tiles; returns the paths of the positions and of what is said of them."""
    tiles.mkdir(parents=True, exist_ok=True)
    xy = np.asarray(xy).reshape(-1, 2)
    archive = tiles / f"{name or sample}.coordinates.npz"
    np.savez_compressed(
        archive,
        tile_index=np.arange(len(xy), dtype=np.int32),
        x=xy[:, 0].astype(np.int64),
        y=xy[:, 1].astype(np.int64),
        tissue_fractions=np.ones(len(xy), np.float32),
    )
    meta = tiles / f"{name or sample}.coordinates.meta.json"
    held = {
        "provenance": {"sample_id": sample, "image_path": f"{sample}.svs", "mask_path": None, "backend": "asap",
                       "requested_backend": "auto", "spacing_at_level_0": None, "mask_backend": None,
                       "requested_mask_backend": None},
        "slide": {"dimensions": [40_000, 30_000], "base_spacing_um": mpp, "level_downsamples": [[1.0, 1.0]]},
        "tiling": {"requested_tile_size_px": 256, "requested_spacing_um": 0.5, "read_level": 0,
                   "read_tile_size_px": width, "read_spacing_um": mpp, "tile_size_lv0": width, "tolerance": 0.05,
                   "step_px_lv0": width, "overlap": 0.0, "min_tissue_fraction": 0.1, "is_within_tolerance": True,
                   "n_tiles": len(xy)},
        "segmentation": {}, "filtering": {},
        "artifact": {"coordinate_space": "level0_px", "tile_order": "column_major", "annotation": None,
                     "selection_strategy": None, "output_mode": None},
    }  # fmt: skip
    meta.write_text(json.dumps(held, indent=2, sort_keys=True) + "\n")
    return archive, meta


def soma(run, sample, x, xy, *, ending="npz", kind="tile_embeddings", mpp=0.25, width=512, tiles=None, **said):
    """A slide of a run of soma (slide2vec): its features, the sidecar, and hs2p's files; returns the features' path."""
    archive, meta = soma_tiles(tiles or run / "tiles", sample, xy, mpp=mpp, width=width)
    (run / kind).mkdir(parents=True, exist_ok=True)
    path = run / kind / f"{sample}.{ending}"
    if ending == "pt":
        import torch

        torch.save(torch.as_tensor(x), path)
    else:
        np.savez_compressed(path, features=x, tile_index=np.arange(len(x), dtype=np.int32))
    held = {
        "sample_id": sample, "artifact_type": kind, "format": ending, "feature_dim": int(np.shape(x)[-1]),
        "num_tiles": len(x), "encoder_name": "uni2", "encoder_level": "tile", "coordinates_npz_path": str(archive),
        "coordinates_meta_path": str(meta), "tiles_tar_path": "", "image_path": f"{sample}.svs", "mask_path": None,
        "tile_size_lv0": width, "backend": "asap", "read_tile_size_px": width, "requested_tile_size_px": 256,
        "encoder_input_size_px": 224, "requested_spacing_um": 0.5, "compatibility": {"version": 1},
        "annotation": "tissue", **said,
    }  # fmt: skip
    (run / kind / f"{sample}.meta.json").write_text(json.dumps(held, indent=2, sort_keys=True))
    return path


def pickled(path, x):
    """A NumPy array given to torch.save, as TRIDENT does it: the same bytes, without torch; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(x, protocol=2))
        archive.writestr(f"{path.stem}/byteorder", "little")
        archive.writestr(f"{path.stem}/version", "3\n")
    return path


def tensor(path, x, **how):
    """A bare tensor, as CLAM, TRIDENT and slideflow save it; returns the path."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.as_tensor(x), path, **how)
    return path


def slideflow(bags, slide, x, corners, *, tile_um=128, mpp=0.25, tile_px=256, index=True, **config):
    """A slide of slideflow's bags, with the centres that its tiles have at this mpp; returns the path."""
    path = tensor(bags / f"{slide}.pt", np.asarray(x, np.float32))
    if index:
        width = int(tile_um / mpp) if not isinstance(tile_um, str) else 512
        centres = [[int(a + width / 2), int(b + width / 2)] for a, b in np.asarray(corners).tolist()]
        np.savez(bags / f"{slide}.index", arr_0=np.array(centres, np.int64).reshape(-1, 2))
    held = {
        "extractor": {"class": "slideflow.model.extractors.vit.UNIFeatures", "kwargs": {"center_crop": True}},
        "normalizer": {"method": "reinhard_mask", "fit": {"target_means": [1.0], "target_stds": [2.0]}},
        "num_features": int(np.shape(x)[1]), "tile_px": tile_px, "tile_um": tile_um, **config,
    }  # fmt: skip
    (bags / "bags_config.json").write_text(json.dumps(held, indent=1))
    return path
