"""Folds written to a table and read back are the same folds; a table with a fault is refused by line."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from milkit.data.protocol import GivenFolds, KFold, MonteCarlo, Nested, Plan, SavedFolds, Split
from milkit.data.study import GivenSplit
from milkit.errors import ProtocolError
from milkit.task import Binary


def assert_same(a: Plan, b: Plan) -> None:
    assert len(a.splits) == len(b.splits)
    for one, other in zip(a.splits, b.splits, strict=True):
        assert one.key == other.key
        for role in ("train", "validation", "test"):
            x, y = getattr(one, role), getattr(other, role)
            assert x.dtype == y.dtype == np.int64
            assert x.tolist() == y.tolist()
    assert (a.grouped_by, a.marks, a.notes, a.digest()) == (b.grouped_by, b.marks, b.notes, b.digest())


@pytest.mark.parametrize(
    "protocol",
    [
        KFold(4, repeats=2),
        KFold(3, group="site"),
        KFold(3, validation=0.0),
        KFold(3, allow_patient_overlap=True),
        MonteCarlo(12),
        Nested(3, inner=3),
    ],
    ids=repr,
)
def test_a_round_trip_gives_the_same_plan(protocol, random_study, tmp_path):
    study = random_study(1)
    plan = protocol.plan(study, Binary())
    plan.save(tmp_path / "folds.csv", study)
    overlap = protocol.allow_patient_overlap
    again = SavedFolds(str(tmp_path / "folds.csv"), allow_patient_overlap=overlap).plan(study, Binary())
    assert_same(plan, again)


def test_a_saved_leak_must_be_allowed_again(random_study, tmp_path):
    study = random_study(1)
    KFold(3, allow_patient_overlap=True).plan(study, Binary()).save(tmp_path / "folds.csv", study)
    with pytest.raises(ProtocolError, match="in two roles"):
        SavedFolds(str(tmp_path / "folds.csv")).plan(study, Binary())


def test_ids_with_commas_quotes_and_leading_zeros_survive(study, tmp_path):
    cohort = study([0, 1, 0, 1], bag=["007", "a,b", 'say "hi"', " padded "])
    plan = KFold(2, validation=0.0).plan(cohort, Binary())
    plan.save(tmp_path / "folds.csv", cohort)
    assert_same(plan, SavedFolds(str(tmp_path / "folds.csv")).plan(cohort, Binary()))


def test_bags_without_a_role_come_back_on_request(study, tmp_path):
    role = np.array(["train", "train", "", "", "test", "test"])
    cohort = study([0, 1] * 3, given=[GivenSplit(2, 5, role)])
    plan = GivenFolds(validation=0.0).plan(cohort, Binary())
    plan.save(tmp_path / "folds.csv", cohort)
    path = str(tmp_path / "folds.csv")
    with pytest.raises(ProtocolError, match=r"2 bags of study 'toy' have no role in any split: b002, b003"):
        SavedFolds(path).plan(cohort, Binary())
    assert_same(plan, SavedFolds(path, allow_missing=True).plan(cohort, Binary()))


def test_the_table_is_for_people(study, tmp_path):
    rows = [np.array(r) for r in ([2, 0], [1], [3])]
    plan = Plan((Split(1, 2, 0, *rows),), "patient")
    plan.save(tmp_path / "folds.csv", study([0, 1, 0, 1], patient=["p", "q", "r", "s"]))
    with (tmp_path / "folds.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["repeat", "fold", "inner", "role", "bag", "patient", "grouped_by"],
            ["1", "2", "0", "train", "b000", "p", "patient"],
            ["1", "2", "0", "train", "b002", "r", "patient"],
            ["1", "2", "0", "validation", "b001", "q", "patient"],
            ["1", "2", "0", "test", "b003", "s", "patient"],
        ]


def test_a_researchers_own_table_needs_two_columns(study, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("\ufeffbag,role\r\nb000,train\r\nb001, train\r\n\r\nb002,test\r\nb003,test\r\n", encoding="utf-8")
    split = SavedFolds(str(path)).plan(study([0, 1, 0, 1]), Binary()).splits[0]
    assert (split.key, split.train.tolist(), split.test.tolist()) == ((0, 0, 0), [0, 1], [2, 3])


def test_a_saved_file_is_replaced_whole_and_nothing_else_is_left(random_study, tmp_path):
    study = random_study(0)
    path = tmp_path / "folds.csv"
    for protocol in (KFold(3), KFold(4)):
        protocol.plan(study, Binary()).save(path, study)
    assert os.listdir(tmp_path) == ["folds.csv"]
    assert len(SavedFolds(str(path)).plan(study, Binary()).splits) == 4


def test_a_write_that_fails_leaves_the_old_file(random_study, tmp_path, monkeypatch):
    study = random_study(0)
    path = tmp_path / "folds.csv"
    plan = KFold(3).plan(study, Binary())
    plan.save(path, study)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProtocolError, match="No space left on device"):
        KFold(4).plan(study, Binary()).save(path, study)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["folds.csv"]


def test_a_folder_that_is_not_there(random_study, tmp_path):
    study = random_study(0)
    with pytest.raises(ProtocolError, match="could not be written"):
        KFold(3).plan(study, Binary()).save(tmp_path / "nowhere" / "folds.csv", study)


HEAD = "repeat,fold,inner,role,bag,patient,grouped_by\n"
GOOD = HEAD + "".join(
    f"0,0,0,{role},{bag},{bag},patient\n"
    for role, bag in [("train", "b000"), ("train", "b001"), ("test", "b002"), ("test", "b003")]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file is empty\. Known are: milkit's folds\.csv"),
        ("bag,weight\nb000,1\n", r"the header \['bag', 'weight'\] is of no split file that milkit knows\. Known are"),
        ("bag,fold\nb000,1\n", r"column 'fold' holds the folds \[1\]; expected at least two"),
        ("bag,role,role\nb000,train,train\n", r"line 1: the header names column 'role' more than once"),
        (HEAD, r"header but no row"),
        (GOOD + "0,0,0,train\n", r"line 6: 4 cells, but the header names 7 columns"),
        (GOOD.replace("test,b003,b003", "val,b003,b003"), r"line 5: role is 'val'; expected one of train, validation"),
        (GOOD.replace("0,0,0,test,b003", "0,x,0,test,b003"), r"line 5: fold is 'x'; expected a whole number from 0"),
        (GOOD.replace("0,0,0,test,b003", "0,0,-1,test,b003"), r"line 5: inner is '-1'"),
        (
            GOOD.replace("b003,b003", "b003,b000"),
            r"line 5: bag 'b003' is of patient 'b000', but of 'b003' in the study",
        ),
        (GOOD + "0,0,0,test,b000,b000,patient\n", r"line 6: 'b000' has a role in this split already \(train, line 2\)"),
        (GOOD + "0,0,0,test,zzz,zzz,patient\n", r"1 bags are not in study 'toy': 'zzz' \(line 6\)"),
        (GOOD.replace("0,0,0,test,b003,b003,patient\n", ""), r"1 bags of study 'toy' have no role.*: b003"),
        (GOOD.replace("b003,patient", "b003,site"), r"grouped_by holds \['patient', 'site'\]"),
        (GOOD.replace(",patient\n", ",centre\n"), r"grouped_by holds \['centre'\]"),
        (GOOD.replace("b003,b003,patient", 'b003,b003,"patient'), r"line 5: not valid CSV \(unexpected end of data\)"),
    ],
)
def test_a_table_with_a_fault_is_refused_by_line(text, message, study, tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(ProtocolError, match=message):
        SavedFolds(str(path)).plan(study([0, 1, 0, 1]), Binary())


def test_the_good_table_is_good(study, tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text(GOOD)
    assert len(SavedFolds(str(path)).plan(study([0, 1, 0, 1]), Binary()).splits) == 1


def test_a_file_that_is_not_there(study):
    with pytest.raises(ProtocolError, match=r"No folds file at nowhere\.csv"):
        SavedFolds("nowhere.csv").plan(study([0, 1]), Binary())


def test_a_file_that_is_not_text(study, tmp_path: Path):
    path = tmp_path / "folds.csv"
    path.write_bytes(b"bag,role\n\xff\xfe\x00,train\n")
    with pytest.raises(ProtocolError, match="line 2: not UTF-8 text"):
        SavedFolds(str(path)).plan(study([0, 1]), Binary())


def test_sites_said_to_be_whole_are_checked(study, tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text(GOOD.replace(",patient\n", ",site\n"))
    unknown, shared = study([0, 1, 0, 1]), study([0, 1, 0, 1], site=["A", "B", "B", "C"])
    with pytest.raises(ProtocolError, match="4 have none"):
        SavedFolds(str(path)).plan(unknown, Binary())
    with pytest.raises(ProtocolError, match="1 site is in two roles: B"):
        SavedFolds(str(path)).plan(shared, Binary())
    assert SavedFolds(str(path)).plan(study([0, 1, 0, 1], site=list("AABB")), Binary()).grouped_by == "site"


def test_a_split_cannot_be_changed_after_it_is_made(study):
    split = KFold(2, validation=0.0).plan(study([0, 1, 0, 1]), Binary()).splits[0]
    with pytest.raises(ValueError, match="read-only"):
        split.train[0] = 3


def test_the_digest_tells_splits_apart(study):
    def plan(train, test, grouped_by="patient"):
        return Plan((Split(0, 0, 0, np.array(train), np.array([], int), np.array(test)),), grouped_by)

    digests = {plan([0, 1], [2]).digest(), plan([0], [1, 2]).digest(), plan([0, 1], [2], "site").digest()}
    assert len(digests) == 3
    assert plan([1, 0], [2]).digest() == plan([0, 1], [2]).digest()  # order within a role means nothing


def test_the_advice_on_folds_of_a_table_is_to_mend_the_table(study, tmp_path):
    """Not to draw other folds, which they are not."""
    path = tmp_path / "folds.csv"
    path.write_text("role,bag\ntrain,b000\ntrain,b001\ntest,b002\ntest,b003\n")
    with pytest.raises(ProtocolError, match=r"one class only .*Mend that fold in its table; or set allow_single_class"):
        SavedFolds(str(path)).plan(study([0, 1, 0, 0]), Binary())


def test_few_sites_are_noted(study, tmp_path):
    def notes(sites):
        return KFold(2, group="site", validation=0.0).plan(study([0, 1] * 12, site=sites), Binary()).notes

    assert any(note.startswith("Only 4 sites: the bootstrap") for note in notes(list("ABCD") * 6))
    assert not any("bootstrap" in note for note in notes(list("ABCDEFGHIJKL") * 2))
