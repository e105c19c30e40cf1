"""Files that the tools themselves write, and the tools' own reading of the files that the tests write."""

import importlib
import importlib.metadata
import sys
import types

import numpy as np
import pytest
from foreign_arrays import torchmil

from milkit.data.features import open_features

pytestmark = pytest.mark.parity


def test_torchmil_reads_the_folder_alike(folder, features):
    data = pytest.importorskip("torchmil.datasets")
    places = np.array([[0, 0], [1, 0], [0, 2]])
    for number, name in enumerate(("a", "b")):
        torchmil(folder / "set", name, features(number), label=[number], coords=places, tiles=[0, number, 0])
    theirs = data.ProcessedMILDataset(
        *(str(folder / "set" / part) for part in ("features", "labels", "patch_labels", "coords")),
        bag_keys=["X", "Y", "coords"],
        verbose=False,
    )
    ours = open_features("set", unit="grid", tile_um=1.0)
    assert theirs.get_bag_names() == list(ours.ids)
    for name, bag in zip(ours.ids, theirs, strict=True):
        assert ours.read(name).x.tolist() == bag["X"].tolist()
        assert ours.labels[name] == str(int(bag["Y"]))
        assert ours.read(name).coords_um.tolist() == np.asarray(bag["coords"]).tolist()


@pytest.fixture
def modules(monkeypatch):
    """Loads modules of a package without its `__init__`, which asks for a whole stack of encoders."""

    def load(distribution, package, *names):
        try:
            root = importlib.metadata.distribution(distribution).locate_file("")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{distribution} is not installed")
        parents = {package, *(f"{package}.{name}".rpartition(".")[0] for name in names)}
        parents |= {f"{package}.{extra}" for extra in ("runtime", "wsi", "extract") if package != "milkit"}
        for parent in sorted(parents):
            bare = types.ModuleType(parent)
            bare.__path__ = [str(root / parent.replace(".", "/"))]
            monkeypatch.setitem(sys.modules, parent, bare)
        return [importlib.import_module(f"{package}.{name}") for name in names]

    return load


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["pt", "npz"])
def test_what_somas_extractor_and_tiler_write(folder, modules, ending):
    """hs2p tiles a slide of 0.25 um a pixel at 0.5 um, 256 px (512 of level 0), and slide2vec writes the features."""
    generate, result, files = modules("hs2p", "hs2p", "tiling.generate", "tiling.result", "tiling.io")
    (artifacts,) = modules("slide2vec", "slide2vec", "artifacts")
    square = np.array([[[0, 0]], [[1023, 0]], [[1023, 1535]], [[0, 1535]]], np.int32)
    tissue = result.ContourResult(contours=[square], holes=[[]], mask=np.full((96, 64), 255, np.uint8))
    tiles = generate.generate_tiles(
        (2048, 3072), tissue, requested_tile_size_px=256, requested_spacing_um=0.5, base_spacing_um=0.25,
        level_downsamples=[1.0], min_tissue_fraction=0.1,
    )  # fmt: skip
    whole = result.TilingResult(
        tiles=tiles, sample_id="s-1", image_path="s-1.svs", backend="asap", requested_backend="auto", tolerance=0.05,
        step_px_lv0=512, tissue_method="hsv", requested_seg_downsample=64, seg_downsample=64, seg_level=0,
        seg_spacing_um=16.0, seg_sthresh=8, seg_sthresh_up=255, seg_mthresh=7, seg_close=4, ref_tile_size_px=16,
        a_t=4, a_h=2, filter_white=False, filter_black=False, white_threshold=220, black_threshold=25,
        fraction_threshold=0.9,
    )  # fmt: skip
    paths = files._save_tiling_result(whole, folder / "run" / "tiles")
    n = len(tiles.x)
    assert n > 2
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    said = {"encoder_name": "uni2", "tile_size_lv0": 512, "requested_tile_size_px": 256, "requested_spacing_um": 0.5,
            "coordinates_npz_path": str(paths["npz"]), "coordinates_meta_path": str(paths["meta"])}  # fmt: skip
    artifacts.write_tile_embeddings("s-1", x, output_dir=folder / "run", output_format=ending, metadata=said)
    source = open_features("run")
    bag = source.read("s-1")
    assert bag.x.tolist() == x.tolist()
    assert bag.coords_px.tolist() == np.stack([tiles.x, tiles.y], 1).tolist()
    assert (bag.mpp, bag.tile_um, source.provenance["encoder"], source.provenance["mpp"]) == (0.25, 128.0, "uni2", 0.5)


@pytest.mark.filterwarnings("ignore")
def test_somas_own_source_serves_the_same_features(folder, modules, features):
    from foreign_arrays import soma
    from foreign_files import grid

    soma(folder / "run", "a", features(1), grid(3), ending="pt")
    soma(folder / "run", "b", features(2, 5), grid(5), ending="pt")
    modules("slide2vec", "slide2vec", "artifacts")
    modules("hs2p", "hs2p", "tiling.result")
    cached, places = modules("soma-pathology", "soma", "data.cached", "extract.cache.io")
    sys.modules["soma.extract.cache"].resolve_feature_payload_dir = places.resolve_feature_payload_dir
    theirs = cached.CachedSetSource(folder / "run")
    ours = open_features("run")
    assert sorted(theirs._index) == list(ours.ids)
    for name in ours.ids:
        assert ours.read(name).x.tolist() == np.asarray(theirs._read_file(theirs._index[name])).tolist()
