"""`milkit info` and `milkit pack` as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from foreign_files import clam, grid, table, trident
from foreign_hdf5 import acmil, clam_images

from milkit import cli
from milkit.commands.info import bar, histogram
from milkit.data.open_cohort import open_cohort
from milkit.data.table import read_cohort

LENGTHS = (12, 0, 1, 3, 12)


@pytest.fixture
def features(tmp_path, monkeypatch):
    """Five slides of TRIDENT of 12, 0, 1, 3 and 12 tiles; gives the folder of their features."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i, n in enumerate(LENGTHS):
        path = trident(tmp_path / "job", f"s{i}", rng.normal(size=(n, 6)).astype(np.float32), grid(n))
    return str(path.parent.relative_to(tmp_path))


@pytest.fixture
def said(capsys):
    """Runs a command; gives what it printed, and as JSON where it is."""

    def run(*arguments, status=0):
        assert cli.main([str(a) for a in arguments]) == status
        out, err = capsys.readouterr()
        if status:
            assert not out
            return err
        return json.loads(out) if "--json" in arguments else out

    return run


def test_info_of_features(features, said):
    found = said("info", features, "--json")
    assert (found["path"], found["kind"], found["tool"], found["layout"]) == (
        features,
        "features",
        "TRIDENT",
        "trident",
    )
    assert (found["slides"], found["patients"], found["features"], found["dtype"]) == (5, None, 6, "float32")
    assert found["instances"] == {"total": 28, "min": 0, "median": 3.0, "mean": 5.6, "max": 12, "empty": 1}
    assert found["histogram"] == {"edges": [0, 2, 4, 6, 8, 10, 12, 14], "counts": [2, 1, 0, 0, 0, 0, 2]}
    assert (found["mpp"], found["mpp_level0"], found["tile_um"], found["tile_px"]) == (None, None, None, 256)
    assert (found["encoder"], found["labels"]) == ("uni_v2", {})
    assert [fact["fact"] for fact in found["missing"]] == ["mpp"]
    assert found["missing"][0]["option"].startswith("--mpp")
    assert "s0.h5" in found["missing"][0]["where"]
    assert found["notes"] == ["1 slides hold no instance: s1"]  # what is missing is not said twice
    placed = said("info", features, "--mpp", "0.25", "--json")
    assert (placed["mpp"], placed["mpp_level0"], placed["tile_um"], placed["missing"]) == (0.5, 0.25, 128.0, [])
    text = said("info", features)
    assert "28 in all; a bag: min 0, median 3, mean 5.6, max 12; 1 bags are empty" in text
    assert "--mpp NUMBER" in text


def test_info_asks_for_every_fact_that_clam_lacks(tmp_path, said):
    path = clam(tmp_path, "a", np.zeros((3, 4), np.float32), grid(3), patches=False)
    found = said("info", path.parent, "--json")
    assert {fact["fact"]: fact["option"].split()[0] for fact in found["missing"]} == {
        "encoder": "--encoder", "mpp": "--mpp", "tile_um": "--patches",
    }  # fmt: skip
    whole = said("info", path, "--encoder", "r50", "--mpp", "0.5", "--tile-um", "128", "--json")
    assert (whole["missing"], whole["encoder"], whole["tile_um"]) == ([], "r50", 128.0)


def test_info_of_a_table_and_of_its_slides(features, said):
    rows = [{"slide_id": f"s{i}", "patient_id": f"p{i // 2}", "grade": "ab"[i % 2], "age": 40 + i, "os": ""}
            for i in range(5)]  # fmt: skip
    table("c.csv", rows + [{"slide_id": f"t{i}", "patient_id": "q", "grade": "NA", "age": 90 + i, "os": ""}
                           for i in range(20)])  # fmt: skip
    found = said("info", "c.csv", "--json")
    assert (found["kind"], found["slides"], found["patients"], found["features"]) == ("cohort", 25, 4, None)
    assert found["labels"] == {
        "grade": {"distinct": 2, "missing": 20, "counts": {"a": 3, "b": 2}},
        "age": {"distinct": 25, "missing": 0, "min": 40.0, "median": 97.0, "max": 109.0},
        "os": {"distinct": 0, "missing": 25, "counts": {}},
    }
    assert [fact["fact"] for fact in found["missing"]] == ["features"]
    both = said("info", "c.csv", "--features", features, "--mpp", "0.25", "--json")
    assert (both["kind"], both["slides"], both["patients"], both["encoder"]) == ("cohort", 5, 4, "uni_v2")
    assert (both["rows"], both["instances"]["total"]) == (25, 28)
    assert "'a' 3, 'b' 2, 20 empty" in said("info", "c.csv")


def test_info_of_a_store_and_of_labels_in_files(features, said, tmp_path):
    said("pack", features, "--out", "s.h5", "--mpp", "0.25")
    found = said("info", "s.h5", "--json")
    assert (found["kind"], found["tool"], found["layout"], found["dtype"]) == (
        "store", "TRIDENT", "milkit store", "float16",
    )  # fmt: skip
    assert (found["slides"], found["mpp"], found["mpp_level0"], found["tile_um"]) == (4, 0.5, 0.25, 128.0)
    assert (found["missing"], found["bytes"]) == ([], (tmp_path / "s.h5").stat().st_size)
    slides = {f"s{i}": (np.zeros((2, 3), np.float32), grid(2)) for i in range(3)}
    acmil(tmp_path / "acmil.h5", slides, labels={"s0": 1, "s1": 0, "s2": 1})
    assert said("info", "acmil.h5", "--json")["labels"]["label"]["counts"] == {"1": 2, "0": 1}
    said("pack", "acmil.h5", "--out", "l.h5")
    assert said("info", "l.h5", "--json")["labels"]["label"]["counts"] == {"1": 2, "0": 1}


def test_info_says_what_holds_no_features(features, said, tmp_path):
    found = said("info", "job/20x_256px_0px_overlap/patches", "--json")
    assert (found["kind"], found["tool"], found["slides"], found["instances"]["total"]) == ("patches", "TRIDENT", 5, 28)
    clam(tmp_path / "out", "a", np.zeros((3, 4), np.float32), grid(3))
    one = said("info", "out/patches/a.h5", "--json")
    assert (one["kind"], one["tool"], one["instances"]["total"]) == ("patches", "CLAM", 3)
    clam_images(tmp_path / "old", "a", grid(2))
    assert said("info", "old/a.h5", "--json")["kind"] == "images"
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    assert said("info", "x.png", "--json")["kind"] == "image"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"experiment": {"name": "mine"}}')
    (tmp_path / "run" / "folds.csv").write_text("")
    assert "of experiment 'mine', not finished" in said("info", "run")


def test_info_of_splits_and_of_columns_that_could_be_two_things(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    Path("splits_0.csv").write_text(",train,val,test\n0,a,b,c\n1,d,,e\n")
    found = said("info", "splits_0.csv", "--json")
    assert (found["kind"], found["tool"]) == ("splits", "CLAM")
    assert found["splits"] == [{"repeat": 0, "fold": 0, "inner": 0, "train": 2, "validation": 1, "test": 2}]
    table("c.csv", [{"image": f"i{i}", "slide": f"s{i // 2}", "label": i % 2} for i in range(4)])
    assert "slide='image'" in said("info", "c.csv", status=2)
    assert said("info", "c.csv", "--slide", "image", "--json")["slides"] == 4


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(30), b"no table", b"\x80\x04\x95"])
def test_info_refuses_in_words(tmp_path, said, content):
    for name in ("x.h5", "x.csv", "x"):
        (tmp_path / name).write_bytes(content)
        assert f"{tmp_path / name}" in said("info", tmp_path / name, "--json", status=2)
    assert "There is nothing at" in said("info", tmp_path / "none", status=2)


def test_pack_for_a_cohort(features, said, tmp_path):
    """From TRIDENT's files to a store that a table's slides are found in."""
    table("c.csv", [{"slide_id": f"s{i}.svs", "label": i % 2} for i in (0, 3, 4)])
    report = said("pack", features, "--out", "s.h5", "--cohort", "c.csv", "--dtype", "float32", "--json")
    assert (report["slides"], report["instances"], report["dtype"], report["rounding"]["values"]) == (
        3,
        27,
        "float32",
        0,
    )
    with h5py.File(tmp_path / "s.h5") as file:
        assert report["content_sha256"] == [file.attrs["content_sha256"]]
    _, source, _ = open_cohort(read_cohort("c.csv"), "s.h5", mpp=0.25)
    np.testing.assert_array_equal(source.read("s3").coords_um, grid(3) * 0.25)
    text = said("pack", features, "--out", "t.h5")
    assert "left out, as they hold no instance: 1 (s1)" in text
    assert "largest error" in text
    assert "--mpp NUMBER" in text


def test_pack_refuses_in_words(features, said, tmp_path):
    (tmp_path / "s.h5").write_bytes(b"mine")
    assert "--overwrite replaces it" in said("pack", features, "--out", "s.h5", status=2)
    assert (tmp_path / "s.h5").read_bytes() == b"mine"
    assert "--help" in said("pack", features, status=2)
    assert "shard_gib=-1" in said("pack", features, "--out", "t.h5", "--shard-gib", "-1", status=2)
    assert "--overlap goes with --to" in said("pack", features, "--out", "t.h5", "--overlap", "0", status=2)
    assert "--dtype goes with a store" in said(
        "pack", features, "--out", "t", "--to", "clam", "--dtype", "float32", status=2
    )
    assert "cannot be made" in said("pack", features, "--out", "s.h5/x/t.h5", status=2)
    assert "cannot be written" in said("pack", features, "--to", "clam", "--out", "s.h5/t", "--mpp", "0.25", status=2)
    assert "workers=0" in said("pack", features, "--out", "t.h5", "--workers", "0", status=2)


def test_back_to_another_tool(features, said):
    said("pack", features, "--out", "s.h5", "--mpp", "0.25")
    report = said("pack", "s.h5", "--to", "stamp", "--out", "st", "--json")
    assert (report["features"], report["slides"]) == ("st", 4)
    found = said("info", "st", "--json")
    assert (found["tool"], found["instances"]["total"], found["tile_um"], found["missing"]) == ("STAMP", 28, 128.0, [])


def test_bars_to_an_eighth():
    assert [bar(share, 2) for share in (0.0, 1 / 1000, 1 / 16, 1 / 2, 9 / 16, 1.0)] == ["", "▏", "▏", "█", "█▏", "██"]
    assert histogram(["1-2", "3"], [0, 2])[0].split() == ["1-2", "0"]


def test_info_needs_no_jax(features):
    code = f"import sys; from milkit import cli; cli.main(['info', {features!r}]); print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
