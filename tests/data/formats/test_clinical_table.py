"""A clinical table as people have it, against a folder of files: what is matched, left out, noted or refused."""

import dataclasses
import json

import numpy as np
import pytest
from foreign_files import TILING, clam, grid, quickstart, trident

from milkit.data.cohort import Cohort
from milkit.data.store import write_store
from milkit.errors import CohortError, DataError
from milkit.task import Binary
from milkit.types import Bag

FOLDER = f"job/{TILING}/features_uni_v2"
HER2 = Binary(label="her2", positive="positive")


def cohort(text, **options):
    with open("t.csv", "w") as file:
        file.write(text)
    return Cohort("t.csv", FOLDER, **options)


@pytest.fixture
def slides(folder, features):
    """Five slides, the last one empty."""
    for i, name in enumerate(("007", "010", "a", "b")):
        trident(folder / "job", name, features(i), grid(3))
    trident(folder / "job", "empty", features(9, 0), grid(0))


TABLE = """slide_id,case_id,her2,sex,age
007,p1,1,F,61
010,p1,1,F,61
a,p2,0,M,
b,p3,,M,50
c,p4,1,F,44
empty,p5,0,F,70
"""


def test_every_row_and_every_file_is_accounted_for(slides, folder, features):
    trident(folder / "job", "z", features(8), grid(3))
    study = cohort(TABLE).load(Binary(label="her2"))
    flow = study.flow
    assert (flow.rows, flow.matched, flow.bags, flow.patients) == (6, 5, 2, 2)
    assert flow.left_out == (
        ("b", "no value in column 'her2'"),
        ("c", "the table has a row but there are no features"),
        ("empty", "its features hold no instance"),
        ("z", "there are features but no row in the table"),
    )
    assert study.slides == (("007", "010"), ("a",))
    assert {name: cells.tolist() for name, cells in study.columns.items()} == {"sex": ["F", "M"], "age": ["61", ""]}
    assert study.read(0).x.tolist() == np.concatenate([features(0), features(1)]).tolist()
    assert study.provenance["encoder"] == "uni_v2"
    assert str(flow).split("\n")[:6] == [
        "6 rows in the table, 5 with features",
        "left out 1: no value in column 'her2' (b)",
        "left out 1: the table has a row but there are no features (c)",
        "left out 1: its features hold no instance (empty)",
        "left out 1: there are features but no row in the table (z)",
        "2 bags of 2 patients",
    ]


def test_without_an_mpp_there_are_no_positions_and_the_flow_says_why(slides):
    study = cohort(TABLE).load(Binary(label="her2"))
    assert study.read(0).coords_um is None
    assert study.positions(0) is None
    assert study.provenance["mpp"] is None
    note = next(note for note in study.flow.notes if note.startswith("positions in micrometres are not known"))
    assert f"{FOLDER}/007.h5" in note
    assert "a rounded level0_magnification of 40" in note
    assert "mpp=0.25 gives one for all slides" in note
    assert "mpp='column'" in note


def test_one_mpp_for_all_slides(slides):
    study = cohort(TABLE, mpp=0.25).load(Binary(label="her2"))
    # 007 begins at 1024 px = 256 um; its three tiles of 128 um; 010 stands 1 cm beyond the last one
    assert study.read(0).coords_um[:, 0].tolist() == [256, 384, 512, 10512, 10640, 10768]
    assert study.positions(0)[:, 0].tolist() == [256, 384, 512, 256, 384, 512]
    assert study.provenance["tile_um"] == 128.0
    assert "positions: pixels of level 0 x mpp 0.25, given for all slides" in study.flow.notes


@pytest.mark.parametrize(("column", "option"), [("mpp", ""), ("MPP_level0", ""), ("resolution", "resolution")])
def test_a_column_gives_each_slide_its_mpp(slides, column, option):
    text = f"slide_id,her2,{column}\n007,1,0.25\na,0,0.2265\nb,,\nc,1,\nempty,1,\n"
    study = cohort(text, mpp=option).load(Binary(label="her2"))
    assert study.positions(0)[1].tolist() == [384, 256]
    np.testing.assert_allclose(study.positions(1)[1], [1536 * 0.2265, 1024 * 0.2265], rtol=1e-6)
    assert f"positions: pixels of level 0 x the mpp of column {column!r}" in study.flow.notes
    assert study.provenance["mpp_level0"] == [0.2265, 0.25]
    without = cohort(text, mpp="-").load(Binary(label="her2"))
    assert without.positions(0) is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", r"t\.csv: column 'mpp' .* has no value in line 3 \(slide 'a'\); .* mpp='-'"),
        ("NA", r"has no value in line 3"),
        ("0,25", r"column 'mpp' is '0,25' in line 3 \(slide 'a'\); expected a number \(write decimals with a point"),
        ("40x", r"column 'mpp' is '40x' in line 3"),
        ("nan ", r"has no value in line 3"),
        ("0.00025", r"column 'mpp' in line 3 \(slide 'a'\): mpp 0\.00025; expected micrometres per pixel"),
    ],
)
def test_a_slide_in_use_needs_its_mpp(slides, cell, message):
    with pytest.raises(CohortError, match=message):
        cohort(f'slide_id,her2,mpp\n007,1,0.25\na,0,"{cell}"\n').load(Binary(label="her2"))


def test_columns_of_mpp_that_are_not_there_or_two(slides):
    with pytest.raises(CohortError, match=r"no column 'mmp' \(given as mpp='mmp'\).*Did you mean 'mpp'.*mpp=0\.25"):
        cohort("slide_id,her2,mpp\n007,1,0.25\na,0,0.25\n", mpp="mmp").load(Binary(label="her2"))
    with pytest.raises(CohortError, match=r"\['mpp', 'level0_mpp'\] could each be the mpp; say which: mpp='mpp'"):
        cohort("slide_id,her2,mpp,level0_mpp\n007,1,1,1\na,0,1,1\n").load(Binary(label="her2"))
    with pytest.raises(DataError, match=r"about 0\.25 um a pixel, but mpp 0\.5 is given"):
        cohort("slide_id,her2,mpp\n007,1,0.5\na,0,0.25\n").load(Binary(label="her2"))


def test_a_store_has_its_positions_in_micrometres_already(folder, features):
    write_store("s.h5", [Bag("a", features(1)), Bag("b", features(2))])
    with open("t.csv", "w") as file:
        file.write("slide_id,her2,mpp\na,1,0.25\nb,0,0.25\n")
    study = Cohort("t.csv", "s.h5").load(Binary(label="her2"))
    assert study.columns["mpp"].tolist() == ["0.25", "0.25"]
    for mpp in (0.25, "mpp"):
        with pytest.raises(DataError, match=r"is a milkit store that holds no positions; leave out the mpp"):
            Cohort("t.csv", "s.h5", mpp=mpp).load(Binary(label="her2"))


def test_extensions_in_the_table_do_not_count(slides):
    study = cohort("slide_id,her2\n007.svs,1\n010.ome.tif,1\na,0\n").load(Binary(label="her2"))
    assert study.slides == (("007",), ("010",), ("a",))
    # without a patient column a slide is its own patient, under the name of its file
    assert study.patient.tolist() == ["007", "010", "a"]
    assert "2 slide ids match their files without the extension ('007.svs' is '007')" in study.flow.notes


def test_extensions_of_the_files_do_not_count_either(folder, features):
    for i, name in enumerate(("x.svs", "y.svs")):
        trident(folder / "job", name, features(i), grid(3))
    study = cohort("slide_id,patient_id,her2\nx,p1,1\ny,p2,0\n").load(Binary(label="her2"))
    assert study.slides == (("x.svs",), ("y.svs",))
    assert study.patient.tolist() == ["p1", "p2"]


def test_what_could_be_meant_in_two_ways_is_left_out_and_said(slides):
    study = cohort("slide_id,her2\n007.svs,1\n007.tif,1\na,0\na.svs,0\nb,1\n").load(Binary(label="her2"))
    assert study.slides == (("a",), ("b",))
    out = dict(study.flow.left_out)
    assert out["007.svs"] == out["007.tif"] == out["a.svs"] == "the table has a row but there are no features"
    assert any("would match after dropping the file extension" in note for note in study.flow.notes)


@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        (("7", "10"), r"2 of 2 would match after dropping leading zeros .*\('7' and '007'\)"),
        (("slides/007", "slides/010"), "2 of 2 would match after dropping the folder"),
        (("7.svs", "10.svs"), "leading zeros"),
    ],
)
def test_ids_that_a_spreadsheet_changed_are_not_matched_by_guess(slides, ids, hint):
    with pytest.raises(CohortError, match=hint):
        cohort(f"slide_id,her2\n{ids[0]},1\n{ids[1]},0\n").load(Binary(label="her2"))


def test_a_table_of_patients_is_told_that_it_is_one(folder, features):
    for i, name in enumerate(("TCGA-A1-A0SB-01Z", "TCGA-A1-A0SD-01Z")):
        trident(folder / "job", name, features(i), grid(3))
    message = r"2 of 2 are only the beginning of a slide's id \('TCGA-A1-A0SB' and .*\); are they patients\?"
    with pytest.raises(CohortError, match=message):
        cohort("case_id,slide,her2\np1,TCGA-A1-A0SB,1\np2,TCGA-A1-A0SD,0\n").load(Binary(label="her2"))


def test_ids_of_digits_keep_their_zeros(slides):
    study = cohort("slide_id,her2\n007,1\n010,0\n").load(Binary(label="her2"))
    assert study.bag.tolist() == ["007", "010"]


def test_strict_refuses_what_would_be_left_out(slides):
    with pytest.raises(CohortError, match=r"strict=True, but 3 slide.*'b' \(line 5\): no value in column 'her2'"):
        cohort(TABLE, strict=True).load(Binary(label="her2"))


def test_clam_names_no_encoder_and_takes_one(folder, features):
    for i, name in enumerate("ab"):
        clam(folder / "results", name, features(i), grid(3))
    with open("t.csv", "w") as file:
        file.write("slide_id,her2\na,1\nb,0\n")
    data = Cohort("t.csv", "results/features", encoder="uni_v1", mpp=0.25)
    assert data.load(Binary(label="her2")).provenance["encoder"] == "uni_v1"
    (folder / "results" / "patches").rename(folder / "tiles")
    assert data.load(Binary(label="her2")).provenance["tile_um"] is None
    study = dataclasses.replace(data, patches="tiles").load(Binary(label="her2"))
    assert study.provenance["tile_um"] == 64.0
    json.dumps(dict(study.provenance))


@pytest.mark.slow
def test_the_quickstart_cohort_is_the_same_from_both_tools(folder):
    quickstart(folder)
    one = Cohort("clinical.csv", f"trident_out/{TILING}/features_uni_v2", mpp=0.25).load(HER2)
    two = Cohort("clinical.csv", "clam_out/features", mpp=0.25).load(HER2)
    assert one.slides == two.slides
    assert one.provenance["tile_um"] == two.provenance["tile_um"] == 128.0
    for i in range(len(one)):
        np.testing.assert_array_equal(one.read(i).x, two.read(i).x)
        np.testing.assert_array_equal(one.read(i).coords_um, two.read(i).coords_um)
