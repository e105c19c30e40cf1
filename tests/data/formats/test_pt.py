"""Tensors: what is said without PyTorch (here), and what is read with it (`parity`)."""

import sys
import zipfile

import numpy as np
import pytest
from foreign_arrays import slideflow, soma, tensor
from foreign_files import TILING, clam, grid, trident

from milkit.data.features import open_features
from milkit.errors import DataError

CLAM = "results/features/pt_files"


@pytest.mark.parametrize("beside", ["bags_config.json", "a.meta.json", "nothing.txt"])
def test_without_torch_every_folder_of_tensors_says_how_to_get_it(folder, monkeypatch, beside):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (folder / "f").mkdir()
    (folder / "f" / "a.pt").write_bytes(b"PK\x03\x04")
    (folder / "f" / beside).write_text('{"extractor": {}, "artifact_type": "tile_embeddings"}')
    with pytest.raises(DataError, match=r'a\.pt is a \.pt file, which only PyTorch reads.*"milkit\[formats\]", or '):
        open_features("f")


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("old", [False, True])
def test_a_bare_tensor_of_every_float_new_and_old(folder, features, dtype, old):
    import torch

    x = torch.as_tensor(features(1)).to(getattr(torch, dtype))
    tensor(folder / "f" / "a.pt", x, _use_new_zipfile_serialization=not old)
    source = open_features("f")
    read = source.read("a").x
    assert read.dtype.name == dtype
    assert read.astype(np.float32).tolist() == x.float().tolist()
    assert source.lengths.tolist() == [3]
    assert source.read("a").coords_um is None
    assert not source.needs_mpp


@pytest.mark.parity
def test_a_view_of_a_larger_tensor_is_read_as_it_is(folder):
    import torch

    whole = torch.arange(24.0).reshape(6, 4)
    tensor(folder / "f" / "a.pt", whole[1:5:2])
    tensor(folder / "f" / "b.pt", whole[:2].T.contiguous().T)
    tensor(folder / "f" / "c.pt", torch.nn.Parameter(whole))
    source = open_features("f")
    assert source.read("a").x.tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]
    assert source.read("b").x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert source.read("c").x.shape == (6, 4)


@pytest.mark.parity
@pytest.mark.parametrize("beside", [True, False])
def test_clams_tensors_are_joined_with_positions_and_tile_size(folder, features, beside):
    """512 px of level 0 at 0.25 um are 128 um, whether the positions come from h5_files or from the patches."""
    path = clam(folder / "results", "a", features(1), grid(3), level=1, downsample=(2.0, 2.0))
    tensor(folder / CLAM / "a.pt", features(1))
    if not beside:
        path.unlink()
        path.parent.rmdir()
    source = open_features(CLAM, mpp=0.25)
    bag = source.read("a")
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_px.tolist() == grid(3).tolist()
    assert bag.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert (source.provenance["tool"], bag.tile_um) == ("CLAM", 128.0)


@pytest.mark.parity
def test_clams_tensors_of_another_number_of_tiles_are_refused(folder, features):
    clam(folder / "results", "a", features(1), grid(3))
    tensor(folder / CLAM / "a.pt", features(1, 5))
    with pytest.raises(DataError, match=r"a\.pt holds 5 tiles, but .*a\.h5 lists \(3, 2\)"):
        open_features(CLAM)


@pytest.mark.parity
def test_patches_may_be_named_for_bare_tensors(folder, features):
    clam(folder / "results", "a", features(1), grid(3), size=512)
    tensor(folder / "f" / "a.pt", features(1))
    bag = open_features("f", mpp=0.25, patches="results/patches").read("a")
    assert (bag.tile_um, bag.coords_um.tolist()) == (128.0, [[256, 256], [384, 256], [512, 256]])


@pytest.mark.parity
def test_tridents_tensors_are_joined_with_its_patches(folder, features):
    trident(folder / "job", "a", features(1), grid(3)).unlink()
    tensor(folder / "job" / TILING / "features_uni_v2" / "a.pt", features(1))
    source = open_features(f"job/{TILING}/features_uni_v2", mpp=0.25)
    bag = source.read("a")
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert (source.provenance["tool"], source.provenance["tile_px"], bag.tile_um) == ("TRIDENT", 256, 128.0)


@pytest.mark.parity
def test_slideflows_centres_become_corners(folder, features):
    """128 um at 0.25 um are 512 px, at 0.26 um 492 (and 0.3 of one): the centre is int(width / 2) from the corner."""
    slideflow(folder / "bags", "a", features(1), grid(3))
    source = open_features("bags", mpp=0.25)
    bag = source.read("a")
    assert bag.x.tolist() == features(1).tolist()
    assert bag.coords_px.tolist() == grid(3).tolist()
    assert bag.coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    expected = {"encoder": "UNIFeatures", "tile_um": 128.0, "tile_px": 256, "mpp": 0.5, "normalizer": "reinhard_mask"}
    assert {name: source.provenance[name] for name in expected} == expected
    slideflow(folder / "odd", "a", features(1), grid(3), mpp=0.26)
    assert open_features("odd", mpp=0.26).read("a").coords_px.tolist() == grid(3).tolist()
    # without the mpp of level 0 there is no corner, in pixels neither
    unplaced = open_features("bags").read("a")
    assert (unplaced.coords_px, unplaced.coords_um) == (None, None)


@pytest.mark.parity
def test_slideflows_magnification_is_no_width(folder, features):
    slideflow(folder / "bags", "a", features(1), grid(3), tile_um="20x")
    source = open_features("bags", mpp=0.25)
    assert source.read("a").coords_um is None
    assert any("centres of tiles" in note and "tile_um= gives" in note for note in source.notes)
    placed = open_features("bags", mpp=0.25, tile_um=128.0)
    assert placed.read("a").coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]


@pytest.mark.parity
def test_slideflows_files_that_contradict_each_other_are_refused(folder, features):
    slideflow(folder / "bags", "a", features(1), grid(5))
    with pytest.raises(DataError, match=r"a\.index\.npz: positions have shape \(5, 2\), but there are 3 rows"):
        open_features("bags")
    slideflow(folder / "bags", "a", features(1), grid(3), num_features=1024)
    with pytest.raises(DataError, match=r"a\.pt holds 4 features a tile, but .* says num_features 1024"):
        open_features("bags")


@pytest.mark.parity
def test_somas_tensors(folder, features):
    import torch

    soma(folder / "run", "a", features(1), grid(3), ending="pt")
    assert open_features("run").read("a").coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    packed = {"sample_ids": ["a", "b"], "features": torch.zeros(2, 4)}
    torch.save(packed, folder / "run" / "tile_embeddings" / "packed_features.pt")
    assert open_features("run").ids == ("a",)
    with pytest.raises(DataError, match=r"packed_features\.pt holds one vector for each of many samples"):
        open_features("run/tile_embeddings/packed_features.pt")


@pytest.mark.parity
def test_a_dict_is_read_where_the_features_can_be_told(folder, features):
    import torch

    x, xy = torch.as_tensor(features(1)), torch.as_tensor(grid(3))
    (folder / "f").mkdir()
    torch.save({"features": x, "coords": xy, "slide": "a"}, folder / "f" / "a.pt")
    torch.save({"bag": x, "label": torch.tensor(1)}, folder / "f" / "b.pt")
    source = open_features("f", unit="px", mpp=0.25)
    assert source.read("a").coords_um.tolist() == [[256, 256], [384, 256], [512, 256]]
    assert source.read("b").x.tolist() == features(1).tolist()
    torch.save({"uni": x, "conch": x}, folder / "f" / "b.pt")
    with pytest.raises(DataError, match=r"b\.pt holds a dict in which the features cannot be told: .*'uni' \(3, 4\)"):
        open_features("f")


class Evil:
    """Would write a file, if it were unpickled."""

    def __reduce__(self):
        return open, ("evil.txt", "w")


@pytest.mark.parity
@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_not_run(folder, features, old):
    import torch

    (folder / "f").mkdir()
    torch.save(
        {"features": torch.zeros(3, 4), "x": Evil()}, folder / "f" / "a.pt", _use_new_zipfile_serialization=not old
    )
    with pytest.raises(DataError, match=r"a\.pt holds Python objects beside tensors.*reads tensors only"):
        open_features("f")
    assert not (folder / "evil.txt").exists()


@pytest.mark.parity
def test_tensors_that_claim_more_than_the_file_are_refused(folder):
    """One row repeated ten million times by a stride of 0; a zip whose parts are compressed."""
    import torch

    tensor(folder / "f" / "a.pt", torch.zeros(1, 1024).expand(10_000_000, 1024))
    with pytest.raises(DataError, match=r"\(10000000, 1024\) claims more than the file's"):
        open_features("f")
    tensor(folder / "g" / "a.pt", torch.zeros(1000, 1024))
    with zipfile.ZipFile(folder / "g" / "a.pt") as whole, zipfile.ZipFile(folder / "b.pt", "w", 8) as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(DataError, match=r"is compressed, which torch\.save never does"):
        open_features("b.pt")


@pytest.mark.parity
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("cut", range(1, 8))
def test_a_tensor_cut_anywhere_is_refused(folder, features, old, cut):
    path = tensor(folder / "f" / "a.pt", features(1, 200), _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * cut // 8])
    with pytest.raises(DataError, match=r"a\.pt"):
        open_features("f").read("a")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.arange(8), r"one vector for the whole slide|features have shape \(8,\)"),
        (lambda t: t.zeros(2, 2, 2), r"shape \(2, 2, 2\); expected \[tiles, features\]"),
        (lambda t: t.zeros(3, 4, dtype=t.int64), r"features are torch\.int64"),
        (lambda t: t.zeros(3, 4).to_sparse(), r"sparse"),
        (lambda t: [t.zeros(3, 4)], r"holds a list; expected one tensor"),
        (lambda t: {"epoch": 3}, r"the features cannot be told: tensors none, keys 'epoch'"),
    ],
)
def test_what_is_no_matrix_is_refused(folder, make, message):
    import torch

    (folder / "f").mkdir()
    torch.save(make(torch), folder / "f" / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt.*" + message):
        open_features("f")
