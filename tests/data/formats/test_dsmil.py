"""DSMIL's tables of numbers: a folder a class, labels in tables beside."""

import numpy as np
import pytest
from foreign_arrays import dsmil, dsmil_tables

from milkit.data.features import open_features
from milkit.errors import DataError


@pytest.fixture
def camelyon(folder):
    x = {"n1": [[0.5, -1.25], [2, 0]], "t1": [[3.12345, 4]], "t2": [[5, 6], [7, 8], [9, 10]]}
    for name, values in x.items():
        dsmil(folder / "Camelyon16", "0-normal" if name == "n1" else "1-tumor", name, np.array(values))
    dsmil_tables(folder / "Camelyon16", {"0-normal": ["n1"], "1-tumor": ["t1", "t2"]})
    return folder / "Camelyon16"


def test_slides_of_all_classes_with_their_labels(camelyon):
    source = open_features("Camelyon16")
    assert source.ids == ("n1", "t1", "t2")
    assert source.lengths.tolist() == [2, 1, 3]
    assert source.features == 2
    assert source.labels == {"n1": "0", "t1": "1", "t2": "1"}
    x = source.read("t1").x
    assert x.dtype == np.float32
    assert x.tolist() == [[np.float32(3.1235), 4.0]]  # four digits are written (3.12345 is a little above 3.12345)
    assert source.read("n1").x.tolist() == [[0.5, -1.25], [2, 0]]
    assert source.read("n1").coords_um is None


def test_the_folder_of_one_class(camelyon):
    source = open_features("Camelyon16/1-tumor")
    assert source.ids == ("t1", "t2")
    assert source.labels == {}
    assert open_features("Camelyon16/1-tumor/t2.csv").read("t2").x.shape == (3, 2)


def test_empty_lines_and_windows_lines_are_no_instances(folder):
    (folder / "a.csv").write_bytes(b"0,1\r\n1,2\r\n\r\n3,4\r\n\r\n\r\n")
    source = open_features("a.csv")
    assert source.lengths.tolist() == [2]
    assert source.read("a").x.tolist() == [[1, 2], [3, 4]]
    (folder / "b.csv").write_bytes(b"0,1\n1,2")
    assert open_features("b.csv").lengths.tolist() == [1]
    (folder / "c.csv").write_bytes(b"0,1\n")
    assert open_features(["b.csv", "c.csv"]).lengths.tolist() == [1, 0]


@pytest.mark.parametrize("header", ["0,1,2", "f0,f1,f2", "feature_1,feature_2,feature_3", '"0","1","2"', "x 0,x 1,x 2"])
def test_headers_that_count(folder, header):
    (folder / "a.csv").write_text(f"{header}\n1,2,3\n")
    assert open_features("a.csv").read("a").x.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("header", ["0,2,1", "2,3,4", "f0,g1,f2", "0,1,label", "a,b,c", "0,1,1"])
def test_headers_that_do_not_count_are_no_features(folder, header):
    (folder / "a.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        open_features("a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2\n1,2,3\n1,x,3\n", r"a\.csv, line 3, column 1: 'x' is no number"),
        ("0,1,2\n1,2,3\n1,,3\n", r"a\.csv, line 3, column 1: '' is no number"),
        ("0,1,2\n1,2,3\n\n1,2\n", r"a\.csv, line 4: 2 columns, but the header names 3"),
        ("0,1,2\n1,2,3,4\n", r"a\.csv, line 2: 4 columns, but the header names 3"),
        ("0,1,2\n1,2,nan\n", r"a\.csv: .*holds nan at instance 0, feature 2"),
        ("0,1,2\n1,2,1e99\n", r"a\.csv: .*holds inf at instance 0, feature 2"),
    ],
)
def test_what_is_no_number_is_named_by_line_and_column(folder, text, message):
    (folder / "a.csv").write_text(text)
    source = open_features("a.csv")
    with pytest.raises(DataError, match=message):
        source.read("a")


def test_row_numbers_of_pandas_are_no_feature(folder):
    (folder / "a.csv").write_text(",0,1\n0,1.5,2.5\n")
    with pytest.raises(DataError, match=r"line 1: the first column has no name.*to_csv\(index=False\)"):
        open_features("a.csv")


def test_a_slide_with_two_labels_is_refused(camelyon):
    (camelyon / "other.csv").write_text("0,label\ndatasets/Camelyon16/1-tumor/t1.csv,0\n")
    with pytest.raises(DataError, match=r"other\.csv, line 2: .*t1\.csv' has label '0', but '1' in another row"):
        open_features("Camelyon16")


def test_tables_of_other_things_are_not_taken_for_features(folder):
    (folder / "tables").mkdir()
    (folder / "tables" / "clinical.csv").write_text("case_id,age\n1,60\n2,61\n")
    with pytest.raises(DataError, match="holds no feature file that milkit reads"):
        open_features("tables")
