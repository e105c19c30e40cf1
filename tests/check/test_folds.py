"""Folds are read from whatever a table looks like, and leaks in them are kept."""

import numpy as np
import pytest

from milkit.check.folds import read_folds
from milkit.data.table import table_of
from milkit.errors import ProtocolError


def table(slides, patients=None):
    cells = {"slide_id": np.array(slides), **({"patient_id": np.array(patients)} if patients else {})}
    return table_of("cohort.csv", cells, np.arange(len(slides)))


def written(path, text):
    path.write_text(text)
    return path


FOUR = table(["a", "b", "c", "d"], ["p", "p", "q", "r"])
TR, VA, TE = "train", "validation", "test"


LAYOUTS = [
    ("slide_id,split|a,train|b,val|c,test|d,test", [[TR, VA, TE, TE]]),
    ("slide_id,set|a,Train|b,valid|c,TEST|d,", [[TR, VA, TE, ""]]),
    ("slide_id,fold|a,0|b,0|c,1|d,1", [[TE, TE, TR, TR], [TR, TR, TE, TE]]),
    (
        "repeat,fold,slide_id,role|0,0,a,train|0,0,b,test|0,1,a,test|0,1,b,train",
        [[TR, TE, "", ""], [TE, TR, "", ""]],
    ),
    (
        "repeat,fold,inner,role,bag,patient,grouped_by|0,0,0,train,a,p,patient|0,0,0,test,c,q,patient",
        [[TR, "", TE, ""]],
    ),
    (
        "slide_id,repeat,fold|a,0,0|b,0,1|a,1,1|b,1,0",
        [[TE, TR, "", ""], [TR, TE, "", ""], [TR, TE, "", ""], [TE, TR, "", ""]],
    ),
    ("case,cv_fold|p,1|q,2|r,2", [[TE, TE, TR, TR], [TR, TR, TE, TE]]),
    ("case_id,slide_id,fold,split|p,a,1,train|q,c,1,tune|r,d,1,test", [[TR, "", VA, TE]]),
    ("patient_id,split|p,train|q,test|r,test", [[TR, TR, TE, TE]]),
    (",train,val,test|0,a,c,d|1,b,,", [[TR, TR, VA, TE]]),
    (
        "slide_id,fold_0,fold_1|a,train,test|b,train,test|c,val,train|d,test,train",
        [[TR, TR, VA, TE], [TE, TE, TR, TR]],
    ),
]


@pytest.mark.parametrize(("text", "expected"), LAYOUTS)
def test_layouts(tmp_path, text, expected):
    folds = read_folds(written(tmp_path / "folds.csv", text.replace("|", "\n") + "\n"), FOUR)
    assert [s.role.tolist() for s in folds.splits] == expected


def test_an_id_in_two_roles_is_kept_and_tests(tmp_path):
    folds = read_folds(written(tmp_path / "f.csv", "slide_id,split\na,train\na,test\nb,train\n"), FOUR)
    assert folds.splits[0].twice == (("a", ("train", "test")),)
    assert folds.splits[0].role.tolist() == ["test", "train", "", ""]
    assert folds.without == ("c", "d")


def test_ids_that_lost_zeros_are_laid_where_they_belong(tmp_path):
    folds = read_folds(written(tmp_path / "f.csv", "slide_id,split\n1,train\n12,test\nx,test\n"), table(["001", "012"]))
    assert dict(folds.repaired) == {"1": "001", "12": "012"}
    assert "leading zeros" in folds.how
    assert folds.splits[0].role.tolist() == ["train", "test"]
    assert folds.unknown == ("x",)


def test_slides_without_their_zeros_are_not_taken_for_patients_called_by_numbers(tmp_path):
    cohort = table(["0001", "0002", "0003"], ["1", "2", "2"])
    folds = read_folds(written(tmp_path / "f.csv", "slide_id,split\n1,train\n2,test\n3,train\n"), cohort)
    assert (folds.level, folds.splits[0].role.tolist()) == ("slide", ["train", "test", "train"])


def test_what_is_no_folds_says_so(tmp_path):
    with pytest.raises(ProtocolError):
        read_folds(written(tmp_path / "f.csv", "colour,shape\nred,round\n"), FOUR)
    with pytest.raises(ProtocolError, match="No folds file"):
        read_folds(tmp_path / "none.csv", FOUR)
