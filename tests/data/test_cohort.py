"""Reading cohort tables: what a careful reader would take from the file, and an error that says where it is wrong."""

import hashlib

import numpy as np
import pytest

from milkit.data.cohort import read_cohort
from milkit.errors import CohortError


def write(tmp_path, text, name="cohort.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_everything_is_text_and_columns_are_recognised(tmp_path):
    text = "Slide ID,patient-id,Hospital,cohort,label,age\n007,01,A,tcga,1,063\n1e3, 02 ,NA,,0,\n"
    path = write(tmp_path, text)
    table = read_cohort(path)
    assert table.slide.tolist() == ["007", "1e3"]
    assert table.patient.tolist() == ["01", "02"]
    assert table.site.tolist() == ["A", ""]
    assert table.cohort.tolist() == ["tcga", ""]
    assert table.columns["label"].tolist() == ["1", "0"]
    assert table.columns["age"].tolist() == ["063", ""]
    assert dict(table.used) == {
        "slide": "Slide ID", "patient": "patient-id", "site": "Hospital", "cohort": "cohort"
    }  # fmt: skip
    assert table.where.lines.tolist() == [2, 3]
    assert table.digest == hashlib.sha256(text.encode()).hexdigest()
    assert "1 of 2 rows have no 'Hospital'" in table.notes


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_separators_byte_order_marks_and_line_ends(tmp_path, separator, encoding, newline):
    lines = [["slide_id", "label", "remark"], ["s1", "tumör", '"a, b; c"'], ["s2", "normal", ""]]
    path = write(tmp_path, newline.join(separator.join(line) for line in lines) + newline, encoding=encoding)
    table = read_cohort(path)
    assert table.slide.tolist() == ["s1", "s2"]
    assert table.columns["label"].tolist() == ["tumör", "normal"]
    assert table.columns["remark"].tolist() == ["a, b; c", ""]


def test_a_single_column_is_a_table(tmp_path):
    assert read_cohort(write(tmp_path, "slide\na\nb\n")).slide.tolist() == ["a", "b"]


def test_without_a_patient_column_each_slide_is_its_own_patient(tmp_path):
    table = read_cohort(write(tmp_path, "slide,label\na,1\nb,0\n"))
    assert table.patient.tolist() == ["a", "b"]
    assert "no patient column: each slide counts as its own patient" in table.notes


def test_columns_can_be_named_or_left_unused(tmp_path):
    path = write(tmp_path, "image,slide,who,group\na,x,p,treated\nb,y,p,control\n")
    table = read_cohort(path, slide="image", patient="who", site="-")
    assert table.slide.tolist() == ["a", "b"]
    assert table.patient.tolist() == ["p", "p"]
    assert table.site.tolist() == ["", ""]
    with pytest.raises(CohortError, match=r"\['image', 'slide'\] could each be the slide; say which: slide='image'"):
        read_cohort(path)
    with pytest.raises(CohortError, match=r"no column 'hwo' \(given as patient='hwo'\).*Did you mean 'who'"):
        read_cohort(path, slide="image", patient="hwo")
    with pytest.raises(CohortError, match="'image' is given for two things"):
        read_cohort(path, slide="image", patient="image")


def test_lines_are_those_of_the_file_even_with_blank_lines_and_long_cells(tmp_path):
    text = 'slide,remark,label\n\na,"two\nlines",1\n\nb,,0\n'
    assert read_cohort(write(tmp_path, text)).where.lines.tolist() == [3, 6]


def test_an_index_column_without_a_name_is_not_read(tmp_path):
    table = read_cohort(write(tmp_path, ",slide_id,label\n0,a,1\n1,b,0\n"))
    assert list(table.columns) == ["slide_id", "label"]
    assert "cohort.csv: a column without a name is not read" in table.notes


WRONG = {
    "no rows": ("slide,label\n", "the table is empty"),
    "nothing": ("", "the table is empty"),
    "too many cells": ("slide,label\na,1\nb,0,9\n", r"cohort\.csv, line 3: 3 cells, but the header names 2"),
    "too few cells": ("slide,label\n\na\n", r"cohort\.csv, line 3: 1 cells"),
    "header twice": ("slide,label,label\na,1,1\n", "line 1: the header names column 'label' more than once"),
    "no slide column": ("case,label\na,1\n", "no column with slide ids; the columns are .'case', 'label'."),
    "missing id": ("slide,label\na,1\n,0\n", r"cohort\.csv, line 3: no id in column 'slide'"),
    "missing patient": (
        "slide,patient\na,p\nb,NA\n",
        r"cohort\.csv, line 3: no id in column 'patient' \('NA' stands for",
    ),
    "duplicate": (
        "slide,label\na,1\nb,0\na,0\n",
        r"cohort\.csv, line 4: slide 'a' in column 'slide' was already given in line 2",
    ),
    "open quote": ('slide,label\na,"1\nb,0\n', "line 2: not valid CSV"),
    "not utf-8": ("slide,label\na,1\nb,ü\n".encode("latin-1"), r"cohort\.csv, line 3: not UTF-8"),
    "utf-16": ("slide,label\na,1\n".encode("utf-16"), "is UTF-16 text"),
    "spreadsheet": (b"PK\x03\x04....", "is a damaged spreadsheet"),
    "old spreadsheet": (b"\xd0\xcf\x11\xe0....", "is a spreadsheet, not text; save it as"),
    "zero byte": (b"slide,label\na,\x00\n", "line 2: holds a zero byte"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_refused_with_file_and_line(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(CohortError, match=message) as caught:
        read_cohort(write(tmp_path, text))
    assert "cohort.csv" in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(CohortError, match="No cohort table at"):
        read_cohort(tmp_path / "none.csv")
    with pytest.raises(CohortError, match="cannot be read"):
        read_cohort(tmp_path)


def test_the_published_camelyon_table_reads(shared):
    table = read_cohort(shared / "data" / "camelyon16_annotations" / "camelyon16_labels.csv")
    assert len(table) == 399
    assert table.used["patient"] == "case_id"
    labels, counts = np.unique(table.columns["label"], return_counts=True)
    assert dict(zip(labels.tolist(), counts.tolist(), strict=True)) == {"normal_tissue": 239, "tumor_tissue": 160}
