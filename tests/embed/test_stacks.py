"""`milkit embed --stacks`: each row's bag is a folder of frames or a volume."""

import json
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from milkit.cli import main
from milkit.data.store import open_store
from milkit.errors import DataError
from milkit.heatmaps.places import places_of


@pytest.fixture
def stacks(tmp_path, monkeypatch):
    """Twelve frames of 9 x 9 pixels in `film`, 3 slices in `v.npy`, 5 in `ct.nii.gz`; features by window -100 155."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from own_encoder import encode

    rng, folder = np.random.default_rng(0), tmp_path / "stacks"
    (folder / "film").mkdir(parents=True)
    frames = rng.integers(0, 256, (12, 9, 9, 3), np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "film" / f"{number + 1}.png")
    array = rng.integers(0, 256, (3, 6, 6), np.uint8)
    np.save(folder / "v.npy", array)
    ct = nibabel.Nifti1Image(rng.integers(-100, 156, (4, 4, 5), np.int16), np.diag([-2.0, -2.0, 5.0, 1.0]))
    ct.header.set_xyzt_units("mm")
    ct.to_filename(folder / "ct.nii.gz")
    (tmp_path / "cohort.csv").write_text("slide_id\nfilm\nv\nct.nii.gz\n")
    monkeypatch.chdir(tmp_path)
    tiles = {
        "film": frames,
        "v": np.repeat(np.minimum(array.astype(int) + 100, 255).astype(np.uint8)[..., None], 3, 3),
        "ct": np.repeat((np.asarray(ct.dataobj).transpose(2, 1, 0) + 100).astype(np.uint8)[..., None], 3, 3),
    }
    yield folder, {name: encode(of).astype(np.float16) for name, of in tiles.items()}
    sys.modules.pop("own_encoder", None)


def embed(*more, out="store.h5"):
    arguments = ["embed", "cohort.csv", "--encoder", "own_encoder:encode", "--out", out, "--batch", "2", *more]
    return main([str(a) for a in arguments])


def test_bags_of_three_kinds(stacks, capsys):
    folder, expected = stacks
    assert embed("--stacks", folder, "--window", "-100", "155") == 0
    assert "3 of 3 slides, 20 tiles x 9 features" in capsys.readouterr().out
    store = open_store("store.h5")
    assert store.ids == ("film", "v", "ct")
    for name, features in expected.items():
        np.testing.assert_array_equal(store.read(name).x, features)
    with h5py.File("store.h5") as file:
        film, _, ct = (json.loads(line) for line in file["slides"].asstr())
    assert (film["kind"], film["positions"]) == ("frames", list(range(1, 13)))
    assert (ct["slide"], ct["window"], ct["spacing_mm"]) == (str(folder / "ct.nii.gz"), [-100, 155], [5, 2, 2])
    assert store.provenance["extra"]["tiling"]["stacks"]["window"] == [-100, 155]
    assert embed("--stacks", folder, "--window", "-100", "155") == 0
    assert "was there already, as asked for" in capsys.readouterr().out
    assert embed("--stacks", folder, "--window", "-100", "200") == 2
    assert "is there already" in capsys.readouterr().err


def test_places_of_slices_are_kept_where_all_have_them(stacks):
    folder, _ = stacks
    (folder.parent / "cohort.csv").write_text("slide_id\nct\n")
    assert embed("--stacks", folder, "--window", "-100", "155", "--side-px", "8") == 0
    bag = open_store("store.h5").read("ct")
    assert bag.coords_um.tolist() == [[0, 0], [5000, 0], [10000, 0], [15000, 0], [20000, 0]]
    assert bag.coords_px is None


def test_what_fails_is_told_and_the_rest_is_embedded(stacks, capsys):
    folder, _ = stacks
    (folder / "film" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder.parent / "cohort.csv").write_text("slide_id\nct\nfilm\nnone\nv\n")
    assert embed("--stacks", folder) == 1
    said = capsys.readouterr()
    assert "ct: failed: " in said.err
    assert "--window LOW HIGH" in said.err
    assert "film: failed: " in said.err
    assert "5.png cannot be decoded" in said.err
    assert "none: failed: " in said.err
    assert open_store("store.h5").ids == ("v",)
    Image.new("RGB", (9, 9)).save(folder / "film" / "5.png")
    assert embed("--stacks", folder, "--window", "0", "9") == 1
    assert open_store("store.h5").ids == ("ct", "film", "v")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "--tiles DIR (slides) or --stacks DIR"),
        (["--stacks", "stacks", "--tiles", "stacks"], "one of them"),
        (["--tiles", "stacks", "--side-px", "8"], "--side-px is for frames and volumes"),
        (["--stacks", "stacks", "--slides", "stacks"], "leave it out with --stacks"),
        (["--stacks", "nowhere"], "There is no folder nowhere"),
        (["--stacks", "stacks", "--window", "3", "2"], "LOW below HIGH"),
        (["--stacks", "stacks", "--axis", "x"], "milkit embed --help"),
    ],
)
def test_mistakes_are_told(stacks, capsys, more, said):
    assert embed(*more) == 2
    assert said in capsys.readouterr().err


def test_a_bag_that_is_listed_twice(stacks, capsys):
    (stacks[0].parent / "cohort.csv").write_text("slide_id\nct\nct.nii.gz\n")
    assert embed("--stacks", "stacks") == 2
    assert "listed twice" in capsys.readouterr().err


def test_another_window_begins_a_bag_anew(stacks, capsys):
    folder, expected = stacks
    (folder.parent / "cohort.csv").write_text("slide_id\nct\nnone\n")
    assert embed("--stacks", folder, "--window", "-9", "9") == 1  # what is encoded is kept, as one failed
    (folder.parent / "cohort.csv").write_text("slide_id\nct\n")
    assert embed("--stacks", folder, "--window", "-100", "155") == 0
    assert "before" not in capsys.readouterr().out
    np.testing.assert_array_equal(open_store("store.h5").read("ct").x, expected["ct"])


def test_what_is_no_slide_has_no_width_and_no_heat_map(stacks, capsys):
    assert embed("--stacks", "stacks", "--window", "-100", "155") == 0
    store = open_store("store.h5")
    for name, kind in [("film", "frames of a folder"), ("ct", "slices of a volume")]:
        for mpp in (None, 0.5):
            with pytest.raises(DataError, match=f"'{name}' is no slide: .* {kind}"):
                places_of(store.read(name), store, mpp)
    capsys.readouterr()
    assert main(["info", "store.h5"]) == 0
    assert "--tile-um" not in capsys.readouterr().out
