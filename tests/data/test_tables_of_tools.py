"""Cohort tables of other tools, and .xlsx: which column is the slide, what a spreadsheet did to the cells."""

import contextlib
import datetime
import io
import sys
import zipfile

import numpy as np
import openpyxl
import pytest

from milkit.bag import Bag
from milkit.data.cohort import Cohort, read_cohort
from milkit.data.store import write_store
from milkit.errors import CohortError
from milkit.task import Binary


def write(path, *rows, separator=","):
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return path


def sheet(path, *rows, name="Sheet1", formats=None):
    """An .xlsx with a sheet of these rows, and after it an empty one; `formats`: cell -> number format."""
    book = openpyxl.Workbook()
    book.active.title = name
    for row in rows:
        book.active.append(list(row))
    for cell, form in (formats or {}).items():
        book.active[cell].number_format = form
    book.create_sheet("Legend")
    book.save(path)
    return path


TABLES = {
    "CLAM": (",", ["case_id", "slide_id", "label"], ["p0", "s0", "tumor"], "s0", "p0"),
    "MIL_BASELINE": (",", ["slide_path", "label"], ["/data/feats/s0.pt", 1], "s0", "s0"),
    "DSMIL": (",", ["path", "label"], ["datasets/c16/0-normal/s0.csv", 0], "s0", "s0"),
    "DSMIL as it is written": (",", ["0", "label"], ["datasets/c16/0-normal/s0.csv", 0], "s0", "s0"),
    "Patho-Bench": ("\t", ["case_id", "slide_id", "grade", "fold_0"], ["p0", "s0", 1, "train"], "s0", "p0"),
    "soma": (",", ["sample_id", "image_path", "patient_id", "label"], ["s0", "/w/s0.svs", "p0", 1], "s0", "p0"),
    "torchmil": (",", ["bag_name", "split"], ["s0", "train"], "s0", "s0"),
    "ACMIL": (",", ["", "case_id", "slide_id", "full_path"], [0, "p0", "s0", "/w/s0.svs"], "s0", "p0"),
}  # fmt: skip


@pytest.mark.parametrize("tool", TABLES)
def test_the_slide_column_of_every_tool_is_recognised(tool, tmp_path):
    separator, header, row, slide, patient = TABLES[tool]
    table = read_cohort(write(tmp_path / "t.csv", header, row, separator=separator))
    assert (table.slide.tolist(), table.patient.tolist()) == ([slide], [patient])
    assert set(table.columns) == {name for name in header if name}


def test_a_slide_column_goes_before_a_column_of_paths(tmp_path):
    path = write(tmp_path / "t.csv", ["slide_id", "slide_path"], ["a", "/x/b.svs"])
    assert read_cohort(path).slide.tolist() == ["a"]
    assert read_cohort(path, slide="slide_path").slide.tolist() == ["b"]


def test_two_paths_of_one_name_are_two_rows_of_one_slide(tmp_path):
    path = write(tmp_path / "t.csv", ["slide_path", "label"], ["x/a.pt", 0], ["y/a.pt", 1])
    with pytest.raises(
        CohortError, match=r"t.csv, line 3: slide 'a' in column 'slide_path' was already given in line 2"
    ):
        read_cohort(path)


def test_patho_benchs_draws_as_columns_of_the_table_are_repeats(tmp_path):
    # c is tested twice: 2 redraws, as in the same file given to SavedFolds
    header = ["case_id", "slide_id", "label", "fold_0", "fold_1"]
    rows = [["p", "a", 0, "test", "train"], ["q", "b", 1, "train", "test"], ["r", "c", 0, "test", "test"]]
    path = write(tmp_path / "k=all.tsv", header, *rows, separator="\t")
    write_store(tmp_path / "store.h5", [Bag(s, np.ones((2, 3), np.float32)) for s in "abc"])
    study = Cohort(str(path), str(tmp_path / "store.h5")).load(Binary())
    assert [(g.repeat, g.fold, g.role.tolist()) for g in study.given] == [
        (0, 0, ["test", "train", "test"]),
        (1, 0, ["train", "test", "test"]),
    ]
    assert any("test parts overlap, so they are redraws" in note for note in study.flow.notes)


CLINI = (["PATIENT", "isMSIH", "AGE"], ["p1", "MSIH", 61], ["p2", "MSS", 70], ["p3", "MSS", 55])
SLIDES = (["PATIENT", "FILENAME"], ["p1", "sub/a.h5"], ["p2", "b.h5"], ["p1", "c.h5"], ["p9", "d.h5"])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("form", ["csv", "xlsx", "both"])
def test_the_two_tables_of_stamp_are_joined_by_patient(form, swapped, tmp_path):
    clini = (sheet if form != "csv" else write)(tmp_path / "clini.x", *CLINI)
    slides = (sheet if form == "xlsx" else write)(tmp_path / "slides.x", *SLIDES)
    table = read_cohort((slides, clini) if swapped else (clini, slides))
    assert table.slide.tolist() == ["a", "b", "c", "d"]
    assert table.patient.tolist() == ["p1", "p2", "p1", "p9"]
    assert table.columns["isMSIH"].tolist() == ["MSIH", "MSS", "MSIH", ""]
    assert table.columns["AGE"].tolist() == ["61", "70", "61", ""]
    assert table.where.lines.tolist() == [2, 3, 4, 5]
    assert "1 patient(s) of slides.x have no row in clini.x, so no target: 'p9'" in table.notes
    assert "1 patient(s) of clini.x have no slide in slides.x: 'p3'" in table.notes


def test_a_study_of_stamps_tables_counts_whom_it_leaves_out(tmp_path):
    tables = (str(write(tmp_path / "clini.csv", *CLINI)), str(write(tmp_path / "slides.csv", *SLIDES)))
    store = tmp_path / "store.h5"
    write_store(store, [Bag(s, np.ones((2, 3), np.float32)) for s in "abcd"])
    study = Cohort(tables, str(store)).load(Binary(label="isMSIH"))
    assert study.name == "clini"
    assert study.bag.tolist() == ["p1", "p2"]
    assert study.slides == (("a", "c"), ("b",))
    assert study.flow.left_out == (("d", "no value in column 'isMSIH'"),)
    assert any("have no slide in slides.csv: 'p3'" in note for note in study.flow.notes)


def test_patients_that_lost_leading_zeros_in_one_of_two_tables(tmp_path):
    slides = write(tmp_path / "slides.csv", ["PATIENT", "FILENAME"], ["007", "a.h5"], ["008", "b.h5"])
    clini = sheet(tmp_path / "clini.xlsx", ["PATIENT", "label"], [7, "x"], [8, "y"])
    table = read_cohort((clini, slides))
    assert table.patient.tolist() == ["007", "008"]
    assert table.columns["label"].tolist() == ["x", "y"]
    assert any("match clini.xlsx as numbers, which have lost leading zeros ('007' is '7')" in n for n in table.notes)


JOINS = {
    "no patients": ((["ID", "y"], ["p", 1]), (["PATIENT", "FILENAME"], ["p", "a.h5"]), "c.csv: no column with patient"),
    "two of slides": ((["PATIENT", "slide"], ["p", "a"]), (["PATIENT", "FILENAME"], ["p", "a"]), "both have one"),
    "none of slides": ((["PATIENT", "y"], ["p", 1]), (["PATIENT", "z"], ["p", 1]), "neither has one"),
    "two rows": (
        (["PATIENT", "y"], ["p", 1], ["p", 0]), (["PATIENT", "FILENAME"], ["p", "a"]),
        r"c.csv, line 3: patient 'p' has a row already \(line 2\) with another 'y' \('1' and '0'\)",
    ),
    "a column in both": (
        (["PATIENT", "y"], ["p", 1]), (["PATIENT", "FILENAME", "y"], ["p", "a", 1]), "both have a column 'y'"
    ),
    "nobody": ((["PATIENT", "y"], ["p-1", 1]), (["PATIENT", "FILENAME"], ["q", "a"]), "have no patient in common"),
    "a nameless patient": (
        (["PATIENT", "y"], ["", 1]), (["PATIENT", "FILENAME"], ["q", "a"]), "c.csv, line 2: no id in 'PATIENT'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_two_tables_that_do_not_go_together(name, tmp_path):
    one, other, message = JOINS[name]
    with pytest.raises(CohortError, match=message):
        read_cohort((write(tmp_path / "c.csv", *one), write(tmp_path / "s.csv", *other)))


def test_rows_of_a_patient_that_say_the_same_are_one(tmp_path):
    clini = write(tmp_path / "c.csv", ["PATIENT", "y"], ["p", 1], ["p", 1])
    table = read_cohort((clini, write(tmp_path / "s.csv", ["PATIENT", "FILENAME"], ["p", "a"])))
    assert table.columns["y"].tolist() == ["1"]


def test_the_cells_of_a_spreadsheet_read_as_they_are_shown(tmp_path):
    path = sheet(
        tmp_path / "t.xlsx",
        ["slide_id", "n", "f", "yes", "day", "time", "moment", "blank", None],
        ["a", 3.0, 0.25, True, datetime.date(2024, 1, 2), datetime.time(3, 4), datetime.datetime(2024, 1, 2, 3, 4)],
        [None, None],
        [" b ", 12345678901, 1e300, False, None, None, None, " "],
    )  # fmt: skip
    table = read_cohort(path)
    assert table.slide.tolist() == ["a", "b"]
    assert table.where.lines.tolist() == [2, 4]
    assert table.where.line_word == "row"
    cells = {name: values.tolist() for name, values in table.columns.items()}
    assert cells == {
        "slide_id": ["a", "b"], "n": ["3", "12345678901"], "f": ["0.25", "1e+300"], "yes": ["True", "False"],
        "day": ["2024-01-02", ""], "time": ["03:04:00", ""], "moment": ["2024-01-02T03:04:00", ""], "blank": ["", ""],
    }  # fmt: skip
    assert table.dates["day"] == "row 2: 2024-01-02"
    assert "t.xlsx: sheet 'Sheet1' was read, not 'Legend'" in table.notes


def test_ids_that_a_spreadsheet_holds_as_numbers_are_told(tmp_path):
    table = read_cohort(sheet(tmp_path / "t.xlsx", ["slide_id", "patient", "y"], [7, "p", 1], ["x8", "q", 0]))
    assert table.slide.tolist() == ["7", "x8"]
    assert (
        "the spreadsheet holds numbers as ids (slide 'slide_id'): leading zeros, if they had any, are gone"
        in table.notes
    )
    # shown with zeros: they are in the cell's format
    shown = read_cohort(sheet(tmp_path / "u.xlsx", ["slide_id"], [7], [12], formats={"A2": "0000", "A3": "0000"}))
    assert shown.slide.tolist() == ["0007", "0012"]


def test_a_named_sheet(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["notes"])
    book.create_sheet("slides").append(["slide_id"])
    book["slides"].append(["a"])
    book.save(tmp_path / "t.xlsx")
    assert read_cohort(tmp_path / "t.xlsx", sheet="slides").slide.tolist() == ["a"]
    with pytest.raises(CohortError, match=r"no sheet 'slide'; the sheets are \['Sheet', 'slides'\]"):
        read_cohort(tmp_path / "t.xlsx", sheet="slide")
    with pytest.raises(CohortError, match=r"t.csv is no .xlsx file, so it has no sheet 'slides'"):
        read_cohort(write(tmp_path / "t.csv", ["slide_id"], ["a"]), sheet="slides")


def test_dates_are_no_targets(tmp_path):
    store = tmp_path / "store.h5"
    write_store(store, [Bag(s, np.ones((2, 3), np.float32)) for s in "ab"])
    path = sheet(tmp_path / "t.xlsx", ["slide_id", "label"], ["a", "3-4"], ["b", datetime.date(2024, 2, 1)])
    with pytest.raises(CohortError, match=r"column 'label', a target, holds dates \(row 3: 2024-02-01\)"):
        Cohort(str(path), str(store)).load(Binary())


SHEETS = {
    "an error": ((["slide_id", "y"], ["a", "#DIV/0!"]), r"sheet 'Sheet1', row 2, column 'y': the error #DIV/0!"),
    "a formula": ((["slide_id", "y"], ["a", "=1+1"]), r"row 2, column 'y': a formula whose value was not saved"),
    "a column twice": ((["slide_id", "y", "y"], ["a", 1, 2]), "the header names column 'y' more than once"),
    "a cell outside": ((["slide_id", "y"], ["a", 1, 2]), "row 2: a cell beyond the 2 columns of the header"),
    "nothing": ((), "the table is empty"),
}


@pytest.mark.parametrize("name", SHEETS)
def test_sheets_that_cannot_be_used(name, tmp_path):
    rows, message = SHEETS[name]
    with pytest.raises(CohortError, match=message):
        read_cohort(sheet(tmp_path / "t.xlsx", *rows))


def test_missing_values_of_a_spreadsheet_are_empty_and_told(tmp_path):
    table = read_cohort(sheet(tmp_path / "t.xlsx", ["slide_id", "y"], ["a", "#N/A"], ["b", 1]))
    assert table.columns["y"].tolist() == ["", "1"]
    assert "t.xlsx: 1 cell(s) with #N/A are taken for empty" in table.notes


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/worksheets/sheet1.xml", bytes(80 << 20))
    with pytest.raises(
        CohortError, match=r"bytes unpack to 83886080, more than the [0-9]+ that a table of this size may"
    ):
        read_cohort(tmp_path / "t.xlsx")


def test_a_cell_at_the_end_of_the_world_does_not_make_a_million_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("milkit.data.spreadsheet.MOST_CELLS", 1000)
    book = openpyxl.Workbook()
    book.active.append(["slide_id"])
    book.active["B2000"] = "far"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(CohortError, match="more than 1000 cells, empty ones included"):
        read_cohort(tmp_path / "t.xlsx")


def test_damaged_workbooks_are_refused_in_words_and_never_changed(tmp_path):
    whole = sheet(tmp_path / "t.xlsx", ["slide_id", "y"], ["a", 1], ["b", 0]).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.xlsx"
    for i in range(60):
        if i < 20:
            raw = whole[: max(4, len(whole) * i // 20)]
        else:
            flipped = bytearray(whole)
            for place in rng.integers(4, len(whole), 8):
                flipped[place] ^= 1 << rng.integers(8)
            raw = bytes(flipped)
        path.write_bytes(raw)
        with contextlib.suppress(CohortError):  # anything else fails the test
            assert len(read_cohort(path)) <= 2
        assert path.read_bytes() == raw


def test_a_zip_that_is_no_workbook(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escape.txt", "x")
    (tmp_path / "t.xlsx").write_bytes(buffer.getvalue())
    with pytest.raises(CohortError, match="cannot be read as a spreadsheet"):
        read_cohort(tmp_path / "t.xlsx")
    assert [p.name for p in tmp_path.iterdir()] == ["t.xlsx"]


def test_one_long_cell_does_not_widen_a_whole_table(tmp_path, monkeypatch):
    monkeypatch.setattr("milkit.data.cells.MOST_BYTES", 1 << 20)
    path = write(
        tmp_path / "t.csv", ["slide_id", "remark"], *([f"s{i}", "x" * (3000 if i == 41 else 1)] for i in range(200))
    )
    with pytest.raises(CohortError, match=r"t.csv, line 43: a cell of 3000 characters in column 'remark'"):
        read_cohort(path)


def test_without_openpyxl_a_spreadsheet_is_refused_with_the_way_to_read_it(tmp_path, monkeypatch):
    path = sheet(tmp_path / "t.xlsx", ["slide_id"], ["a"])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(
        CohortError, match=r"reading it needs openpyxl: pip install 'milkit\[tables\]'; or save it as CSV"
    ):
        read_cohort(path)
