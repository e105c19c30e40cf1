"""Slide files as the data of an experiment: tiled and embedded once, then a cohort like any other."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slide_files import picture

from milkit import Binary, Cohort, SlideCohort
from milkit.api import experiments, replay
from milkit.cli import main
from milkit.data.store import open_store
from milkit.errors import ConfigError, DataError
from milkit.viewer.opened import open_viewer

STUDY = """
from milkit import ABMIL, AdamW, Binary, Cohort, Experiment, KFold, SlideCohort, Train

small = Experiment(
    SlideCohort(
        Cohort("cohort.csv", "store.h5"), ("slides", "more/new one.png"), "own_encoder:encode",
        tile_um=20.0, tile_px=8, tissue=0.0, mpp=2.0, heatmaps=("s0", "new one"),
    ),
    KFold(folds=2, validation=0.25), ABMIL(encoder=(), attention=2),
    Train(AdamW(1e-2), epochs=2, batch_bags=4, standardise=True),
)
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Eight slides of 40 x 30 pixels with labels, another one without a row; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for i in range(8):
        slide(Path("slides") / f"s{i}.png", i)
    slide(Path("more") / "new one.png", 9)
    rows = [f"s{i},p{i},{i % 2}" for i in range(8)]
    Path("cohort.csv").write_text("\n".join(["slide_id,patient,label", *rows, ""]))
    files = ("slides", "more/new one.png")
    return SlideCohort(
        Cohort("cohort.csv", "store.h5"), files, "own_encoder:encode", tile_um=20.0, tile_px=8, tissue=0.0, mpp=2.0
    )


def slide(path, seed):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(40, 30, seed)).save(path)


def test_slides_become_a_cohort_once(data, monkeypatch, expected, capsys):
    study = data.load(Binary("label"))
    assert study.bag.tolist() == [f"p{i}" for i in range(8)]
    assert study.lengths.tolist() == [12] * 8  # 4 x 3 tiles of 10 pixels
    store = open_store("store.h5")
    assert list(store.ids) == [*(f"s{i}" for i in range(8)), "new one"]
    places = store.read("new one").coords_px
    np.testing.assert_allclose(store.read("new one").x, expected(Path("more/new one.png"), places), rtol=1e-3)
    assert "9 slides" in capsys.readouterr().out
    # the second time nothing is read but manifests
    before = Path("store.h5").stat()
    monkeypatch.setattr("milkit.embed.slides.open_slide", None)
    data.load(Binary("label"))
    assert (Path("store.h5").stat().st_mtime_ns, Path("store.h5").stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_read_is_left_out_or_refused(data, capsys):
    Path("slides/s1.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    Path("slides/s2.png").unlink()
    with pytest.raises(DataError, match="'s2' cannot be used, and the cohort is strict: no file of this name"):
        replace(data, cohort=replace(data.cohort, strict=True)).load(Binary("label"))
    shutil.rmtree("store.tiles", ignore_errors=True)
    study = data.load(Binary("label"))
    assert study.bag.tolist() == ["p0", "p3", "p4", "p5", "p6", "p7"]
    said = capsys.readouterr().out
    assert "s2: left out: no file" in said
    assert "s1: left out:" in said


def test_each_slide_has_its_own_mpp(data):
    given = replace(data, mpp=(("s[0-3]", 2.0), ("*one", 4.0)))
    rows = [f"s{i},p{i},{i % 2},{'' if i < 4 else 1}" for i in range(8)]
    Path("cohort.csv").write_text("\n".join(["slide_id,patient,label,mpp", *rows, ""]))
    given.load(Binary("label"))
    store = open_store("store.h5")
    assert dict(zip(store.ids, store.mpp.tolist(), strict=True)) == {
        **{f"s{i}": 2 if i < 4 else 1 for i in range(8)}, "new one": 4
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": (("*", -1.0),)}, "mpp has"),
        ({"tile_um": 0.0}, "tile_um is 0"),
        ({"tissue": 2.0}, "tissue is 2"),
        ({"cohort": Cohort("cohort.csv", ("a.h5", "b.h5"))}, "one store to make"),
    ],
)
def test_mistakes_are_told_at_once(data, changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(data, **changes)


def test_one_command_from_slides_to_heat_maps(data, capsys):
    Path("study.py").write_text(STUDY)
    assert main(["run", "study.py", "--out", "run"]) == 0
    assert "heat map of new one: run/heatmaps/new one.png" in capsys.readouterr().out
    for name in ("s0", "new one"):
        ends = {p.suffix for p in Path("run/heatmaps").glob(f"{name}.*")}
        assert ends == {".png", ".geojson", ".tif", ".h5", ".html"}
    page = Path("run/heatmaps/new one.html").read_text()
    assert "this slide is not in the study" in page
    assert "seen" not in page
    viewer = open_viewer(Path("run"))  # finds the store, and the slide beside the study
    assert [one.slide for one in viewer.run.slides] == [*(f"s{i}" for i in range(8)), "new one"]
    assert all(file.path for file in viewer.found.values())
    shown = viewer.answer("/slide/8/map", {"kind": ["attention"]})
    assert shown.status == 200
    assert b"not in the study" in shown.body
    (stated,) = experiments(Path("study.py")).values()
    assert replay(Path("run/config.json")).experiment.data == stated.data
