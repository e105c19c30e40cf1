"""Classic sets as text: three numbers before each instance, and features that are not named are 0."""

import numpy as np
import pytest

from milkit.data.features import open_features
from milkit.data.formats.svm import parse_svm
from milkit.errors import DataError

TEXT = """# instance:bag:label
1:musk-1:1 1:0.5 3:-2
2:musk-2:-1 2:1e-3
3:musk-1:1 1:7 2:.25 4:+1.  # the second of musk-1
4:empty:-1
"""


def test_bags_are_gathered_by_name_and_zeros_filled_in(folder):
    (folder / "set.svm").write_text(TEXT)
    source = open_features("set.svm")
    assert source.ids == ("musk-1", "musk-2", "empty")
    assert source.lengths.tolist() == [2, 1, 1]
    assert source.features == 4
    assert source.labels == {"musk-1": "1", "musk-2": "-1", "empty": "-1"}
    bag = source.read("musk-1")
    assert bag.x.dtype == np.float32
    assert bag.x.tolist() == [[0.5, 0, -2, 0], [7, 0.25, 0, 1]]
    assert source.read("musk-2").x.tolist() == [[0, np.float32(1e-3), 0, 0]]
    assert source.read("empty").x.tolist() == [[0, 0, 0, 0]]
    assert bag.coords_um is None
    assert bag.coords_px is None
    assert not source.needs_mpp


def test_it_is_known_by_its_lines_and_alone_among_other_files(folder):
    (folder / "sets").mkdir()
    (folder / "sets" / "data_100x100.txt").write_text(TEXT)
    (folder / "sets" / "readme.md").write_text("A note: nothing more.\n")
    source = open_features("sets")
    assert source.ids == ("musk-1", "musk-2", "empty")
    assert any("not read in sets: readme.md" in note for note in source.notes)


def test_indices_count_from_0_where_a_0_occurs(folder):
    (folder / "a.svm").write_text("1:1:0 0:3 2:5\n2:2:1 1:4\n")
    whole = parse_svm(folder / "a.svm")
    assert whole.dense(np.array([0, 1])).tolist() == [[3, 0, 5], [0, 4, 0]]


def test_values_keep_the_precision_that_is_asked_for(folder):
    (folder / "a.svm").write_text("1:1:0 1:0.1\n")
    assert parse_svm(folder / "a.svm").of(0, np.float64)[0, 0] == 0.1


def test_a_file_that_changes_is_read_anew(folder):
    (folder / "a.svm").write_text("1:1:0 1:3\n")
    source = open_features("a.svm")
    (folder / "a.svm").write_text("1:other:0 1:3 2:4\n")
    with pytest.raises(DataError, match=r"a\.svm changed since it was opened: no bag '1'"):
        source.read("1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:1:0 1:2\n1:1 1:2\n", r"line 2: begins with '1:1'; expected a line such as"),
        ("1:1:0 1:2\n\n2:1:1 1:2\n", r"line 3: bag '1' has label '1', but '0' on line 1"),
        ("1:1:0 1:2 x:3\n", r"line 1: 'x:3' is no index:value"),
        ("1:1:0 1:2 2:\n", r"line 1: '2:' is no index:value"),
        ("1:1:0 1:2 2:nan\n", r"line 1: '2:nan' is no index:value"),
        ("1:1:0 1:1_0\n", r"line 1: '1:1_0' is no index:value"),
        ("1:1:0 1:1e999\n", r"line 1: '1:1e999' is too large a number"),
        ("1:1:0 1:2 2:1 1:3\n", r"line 1: names feature 1 twice"),
        ("1:1:0 1:2 4294967296:3\n", r"line 1: index 4294967296 is out of range"),
        ("# nothing\n", "holds no instance"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder, text, message):
    (folder / "a.svm").write_text(text)
    with pytest.raises(DataError, match=r"a\.svm.*" + message):
        parse_svm(folder / "a.svm")


def test_an_index_that_claims_the_memory_of_many_files_is_refused(folder):
    (folder / "a.svm").write_text("1:1:0 1:2 2000000000:3\n")
    with pytest.raises(DataError, match="would take 8,000,000,000 bytes, but the file has"):
        open_features("a.svm").read("1")


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / "a.svm").write_bytes(b"1:1:0 1:2\n2:1:0 1:\xff\n")
    with pytest.raises(DataError, match=r"a\.svm: not text in UTF-8"):
        parse_svm(folder / "a.svm")
