"""From a table and a store to a study: who is a bag, what is left out and why, and what is refused."""

import dataclasses
import json
import time

import numpy as np
import pytest

from milkit.data.cohort import Cohort
from milkit.data.features import open_features
from milkit.data.store import write_store
from milkit.data.study import Flow, GivenSplit, Study
from milkit.data.targets import Targets
from milkit.errors import CohortError, DataError
from milkit.task import Binary, MultiLabel, Regression, Survival
from milkit.types import Bag

TABLE = """slide_id,patient_id,site,cohort,label,sex
a2,p1,north,c1,1,f
b1,p2,south,c1,0,m
a1,p1,north,c1,1,f
c1,p3,south,c2,1,m
d1,p4,,c2,0,f
"""


def bag(name, n=2, d=3, coords=True):
    """Features tell slide and instance: x[i, j] = 100 * number of the slide + 10 * i + j."""
    number = "abcdefgh".find(name[0]) * 2 + int(name[-1])
    x = 100.0 * number + 10 * np.arange(n)[:, None] + np.arange(d)
    return Bag(name, x, np.stack([224.0 * np.arange(n) + 1000, np.full(n, 7.0)], 1) if coords else None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(table=TABLE, slides=("a1", "a2", "b1", "c1", "d1"), name="f.h5", coords=True, **options):
    with open("t.csv", "w") as file:
        file.write(table)
    lengths = {"a2": 3, "c1": 1}
    bags = [bag(s, lengths.get(s, 2), coords=coords) for s in slides]
    write_store(name, bags, overwrite=True, **options)
    return Cohort("t.csv", name)


def test_a_patient_is_all_slides_in_the_order_of_the_table(folder):
    study = save().load(Binary(), "patient")
    assert study.name == "t"
    assert study.unit == "patient"
    assert study.bag.tolist() == study.patient.tolist() == ["p1", "p2", "p3", "p4"]
    assert study.slides == (("a2", "a1"), ("b1",), ("c1",), ("d1",))
    assert study.slide_lengths == ((3, 2), (2,), (1,), (2,))
    assert study.lengths.tolist() == [5, 2, 1, 2]
    assert study.lengths.dtype == np.int64
    assert study.site.tolist() == ["north", "south", "south", ""]
    assert study.cohort.tolist() == ["c1", "c1", "c2", "c2"]
    assert study.targets.values.tolist() == [1, 0, 1, 0]
    assert study.targets.names == ("0", "1")
    assert {name: values.tolist() for name, values in study.columns.items()} == {"sex": ["f", "m", "m", "f"]}
    assert study.features == 3
    assert study.flow == Flow(rows=5, matched=5, bags=4, patients=4, left_out=(), notes=study.flow.notes)
    read = study.read(0)
    assert read.id == "p1"
    # a2 is slide number 2, a1 number 1
    assert read.x.tolist() == [[200, 201, 202], [210, 211, 212], [220, 221, 222], [100, 101, 102], [110, 111, 112]]
    # a2 ends at x = 1448 um; a1, which begins at 1000 in its own file, begins 1 cm further right
    assert read.coords_um.tolist() == [[1000, 7], [1224, 7], [1448, 7], [11448, 7], [11672, 7]]
    assert study.positions(0).tolist() == [[1000, 7], [1224, 7], [1448, 7], [1000, 7], [1224, 7]]


def test_a_slide_can_be_the_bag(folder):
    study = save().load(Binary(), "slide")
    assert study.bag.tolist() == ["a2", "b1", "a1", "c1", "d1"]
    assert study.patient.tolist() == ["p1", "p2", "p1", "p3", "p4"]
    assert study.lengths.tolist() == [3, 2, 2, 1, 2]
    assert study.targets.values.tolist() == [1, 0, 1, 1, 0]
    assert (study.flow.bags, study.flow.patients) == (5, 4)
    for i, name in enumerate(study.bag.tolist()):
        np.testing.assert_array_equal(study.read(i).x, bag(name, int(study.lengths[i])).x)


def test_a_bag_of_one_slide_is_read_without_copying(folder):
    study = save().load(Binary(), "slide")
    assert study.read(0).x.base is not None
    assert not study.read(0).x.flags.writeable


def test_features_without_positions_make_bags_without(folder):
    study = save(coords=False).load(Binary())
    assert study.read(0).coords_um is None
    assert study.positions(0) is None


def test_nothing_is_dropped_in_silence(folder):
    table = "slide,label\na1,1\na2,\nb1,0\nc1,NA\ng1,1\n"
    cohort = save(table, ("a1", "a2", "b1", "c1", "e1"))
    study = cohort.load(Binary())
    assert study.bag.tolist() == ["a1", "b1"]
    assert study.flow.left_out == (
        ("a2", "no value in column 'label'"),
        ("c1", "no value in column 'label'"),
        ("g1", "the table has a row but there are no features"),
        ("e1", "there are features but no row in the table"),
    )
    assert (study.flow.rows, study.flow.matched, study.flow.bags) == (5, 4, 2)
    assert study.flow.reasons["no value in column 'label'"] == 2
    json.dumps(study.flow.as_dict())
    with pytest.raises(CohortError, match=r"strict=True, but 4 slide.*'a2' \(line 3\): no value in column 'label'"):
        dataclasses.replace(cohort, strict=True).load(Binary())


def test_strict_is_silent_where_all_match(folder):
    assert len(dataclasses.replace(save(), strict=True).load(Binary())) == 4


@pytest.mark.parametrize(
    ("slides", "rows", "hint"),
    [
        (
            ("a1", "b1"),
            ("a1.svs", "b1.svs"),
            r"2 of 2 would match after dropping the file extension \('a1.svs' and 'a1'\)",
        ),
        (("a1", "b1"), ("x/a1", "x/b1"), "dropping the folder"),
        (("a1", "b1"), ("A1", "B1"), "upper and lower case"),
        (("a001", "b002"), ("a1", "b2"), "leading zeros"),
        (("12", "13"), ("12.0", "13.0"), r"dropping \.0 at the end"),
        (("a001", "b002"), ("x\\A1.ome.tif", "x\\B2.svs"), "all of"),
        (("a1", "b1"), ("zz", "yy"), "right id column"),
    ],
)
def test_no_match_at_all_shows_both_sides_and_a_hint(folder, slides, rows, hint):
    with pytest.raises(CohortError, match=hint) as caught:
        save("slide,label\n" + "".join(f"{r},{i}\n" for i, r in enumerate(rows)), slides).load(Binary())
    message = str(caught.value)
    assert "none of its 2 slides has features" in message
    assert repr(rows[0]) in message
    assert repr(slides[0]) in message


def test_a_partial_match_notes_the_hint(folder):
    study = save("slide,label\na1,1\nb1,0\nc1.svs,1\n").load(Binary())
    assert "unmatched ids: 1 of 1 would match after dropping the file extension ('c1.svs' and 'c1')" in study.flow.notes


def test_only_missing_labels_is_an_error(folder):
    with pytest.raises(CohortError, match="no row has both features and a value of the target"):
        save("slide,label\na1,\nb1,NA\n").load(Binary())


def test_patients_whose_slides_disagree_are_listed(folder):
    table = "slide,patient,label\na1,p,1\na2,p,0\nb1,q,0\nb2,q,0\nc1,r,0\nc2,r,1\n"
    cohort = save(table, ("a1", "a2", "b1", "b2", "c1", "c2"))
    message = r"2 patient\(s\) have slides with different.*'p' \(line 2: '1', line 3: '0'\), 'r' \(line 6: '0'"
    with pytest.raises(CohortError, match=message):
        cohort.load(Binary(), "patient")
    with pytest.raises(CohortError, match=message + ".*set slide_labels=True"):
        cohort.load(Binary(), "slide")
    study = dataclasses.replace(cohort, slide_labels=True).load(Binary(), "slide")
    assert study.targets.values.tolist() == [1, 0, 0, 0, 0, 1]
    assert "labels belong to slides: 2 patient(s) have slides with different labels" in study.flow.notes
    with pytest.raises(CohortError, match="different"):
        dataclasses.replace(cohort, slide_labels=True).load(Binary(), "patient")


def test_disagreement_is_seen_in_every_column_of_the_task(folder):
    table = "slide,patient,time,event,y\na1,p,5,1,0\na2,p,5,0,0\nb1,q,3,1,1\n"
    cohort = save(table, ("a1", "a2", "b1"))
    with pytest.raises(CohortError, match=r"'p' \(line 2: '5, 1', line 3: '5, 0'\)"):
        cohort.load(Survival())
    with pytest.raises(CohortError, match="'p'"):
        cohort.load(MultiLabel(labels=("y", "event")))
    assert cohort.load(Regression(labels=("time",))).targets.values.tolist() == [[5], [3]]


def test_a_patient_has_one_site(folder):
    table = "slide,patient,group,label\na1,p,x,1\na2,p,y,1\nb1,q,x,0\n"
    cohort = save(table, ("a1", "a2", "b1"))
    with pytest.raises(CohortError, match=r"column 'group' \(the site\) differs.*'p' \(line 2: 'x', line 3: 'y'\)"):
        cohort.load(Binary())
    assert dataclasses.replace(cohort, site="-").load(Binary()).columns["group"].tolist() == ["x|y", "x"]


def test_a_site_known_for_one_slide_is_known_for_the_patient(folder):
    table = "slide,patient,site,label\na1,p,,1\na2,p,x,1\nb1,q,,0\n"
    cohort = save(table, ("a1", "a2", "b1"))
    assert cohort.load(Binary(), "patient").site.tolist() == ["x", ""]
    assert cohort.load(Binary(), "slide").site.tolist() == ["x", "x", ""]


def test_a_column_is_not_both_site_and_target(folder):
    cohort = save("slide,group\na1,x\nb1,y\n", ("a1", "b1"))
    with pytest.raises(CohortError, match="column 'group' is taken for the site and is also the target"):
        cohort.load(Binary(label="group"))
    assert dataclasses.replace(cohort, site="-").load(Binary(label="group")).targets.names == ("x", "y")


def roles(study):
    return [(g.repeat, g.fold, g.role.tolist()) for g in study.given]


def test_a_split_column_of_roles(folder):
    table = "slide,label,split\na1,1,train\nb1,0,Tune\nc1,1,test\nd1,0,\ne1,0,val\nf1,0,validation\n"
    study = save(table, ("a1", "b1", "c1", "d1", "e1", "f1")).load(Binary())
    assert roles(study) == [(0, 0, ["train", "validation", "test", "", "validation", "validation"])]
    assert "split" not in study.columns
    assert "1 given split(s): roles in split" in study.flow.notes


def test_a_fold_column_tests_each_fold_once(folder):
    # as pandas writes whole numbers beside an empty cell
    table = "slide,label,fold\na1,1,2.0\nb1,0,0.0\nc1,1,\nd1,0,2.0\n"
    study = save(table, ("a1", "b1", "c1", "d1")).load(Binary())
    assert roles(study) == [(0, 0, ["train", "test", "", "train"]), (0, 1, ["test", "train", "", "test"])]


def test_one_column_of_roles_a_fold_and_rows_left_out(folder):
    table = "slide,label,fold_10,fold_2\na1,1,train,test\nb1,,val,train\nc1,0,test,train\n"
    study = save(table, ("a1", "b1", "c1")).load(Binary())
    assert roles(study) == [(0, 0, ["test", "train"]), (0, 1, ["train", "test"])]


def test_the_split_can_be_named_or_left_unused(folder):
    table = "slide,label,split,fold,mine\na1,1,train,0,test\nb1,0,test,1,train\n"
    cohort = save(table, ("a1", "b1"))
    with pytest.raises(CohortError, match=r"more than one column could be the split.*split='split', split='fold'"):
        cohort.load(Binary())
    assert roles(dataclasses.replace(cohort, split="mine").load(Binary())) == [(0, 0, ["test", "train"])]
    assert len(dataclasses.replace(cohort, split="fold").load(Binary()).given) == 2
    assert dataclasses.replace(cohort, split="-").load(Binary()).given == ()
    with pytest.raises(CohortError, match=r"no column 'mien'.*Did you mean 'mine'"):
        dataclasses.replace(cohort, split="mien").load(Binary())
    with pytest.raises(CohortError, match="no columns fold_0"):
        dataclasses.replace(cohort, split="fold_*").load(Binary())


def test_wrong_splits_are_refused(folder):
    with pytest.raises(CohortError, match=r"column 'split' is 'trian' in line 3 \(slide 'b1'\); expected train, val"):
        save("slide,label,split\na1,1,test\nb1,0,trian\n").load(Binary())
    with pytest.raises(CohortError, match=r"column 'split' is '1' in line 3"):
        save("slide,label,split\na1,1,test\nb1,0,1\n").load(Binary())
    # one mistyped number among good ones: it alone is named
    with pytest.raises(CohortError, match=r"column 'fold' is 'l' in line 3 \(slide 'b1'\); expected the number"):
        save("slide,label,fold\na1,1,0\nb1,0,l\nc1,0,1\n").load(Binary())
    with pytest.raises(CohortError, match=r"column 'split' is 'trian' or 'tset' in line 3 .*, line 4 "):
        save("slide,label,split\na1,1,test\nb1,0,trian\nc1,0,tset\n").load(Binary())
    with pytest.raises(CohortError, match=r"holds only the fold \[1\]"):
        save("slide,label,fold\na1,1,1\nb1,0,1\n").load(Binary())
    leak = "slide,patient,label,split\na1,p,1,train\na2,p,1,test\nb1,q,0,test\n"
    with pytest.raises(CohortError, match=r"a leak: 'p' \(line 2: 'train', line 3: 'test'\)"):
        save(leak).load(Binary(), "patient")
    # in the slide unit the protocol's own leak check sees both bags
    assert roles(save(leak).load(Binary(), "slide")) == [(0, 0, ["train", "test", "test"])]


def test_several_stores_are_one_cohort(folder):
    save(slides=("a1", "b1"), name="one.h5", encoder="uni", mpp=0.5)
    save(slides=("a2", "c1", "d1"), name="two.h5", encoder="uni", mpp=0.5)
    study = Cohort("t.csv", ("one.h5", "two.h5")).load(Binary())
    assert study.slides == (("a2", "a1"), ("b1",), ("c1",), ("d1",))
    assert study.read(0).x[:, 0].tolist() == [200, 210, 220, 100, 110]
    assert study.provenance["encoder"] == "uni"
    assert [f["file"] for f in study.provenance["files"]] == ["one.h5", "two.h5"]
    json.dumps(dict(study.provenance))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "conch", "mpp": 0.5}, r"must have one encoder; one\.h5: uni, but two\.h5: conch"),
        ({"encoder": "uni", "mpp": 0.25}, r"must have one mpp; one\.h5: 0\.5, but two\.h5: 0\.25"),
        ({"encoder": "uni"}, r"one mpp; one\.h5: 0\.5, but two\.h5: None"),
    ],
)
def test_stores_of_two_kinds_are_not_pooled(folder, options, message):
    save(slides=("a1", "b1"), name="one.h5", encoder="uni", mpp=0.5)
    save(slides=("c1", "d1"), name="two.h5", **options)
    with pytest.raises(DataError, match=message):
        open_features(("one.h5", "two.h5"))


def test_stores_of_two_widths_or_with_one_slide_twice_are_refused(folder):
    write_store("one.h5", [bag("a1", d=3)])
    write_store("two.h5", [bag("b1", d=4)])
    write_store("three.h5", [bag("b1", d=3), bag("a1", d=3)])
    with pytest.raises(DataError, match=r"one features an instance; one\.h5: 3, but two\.h5: 4"):
        open_features(("one.h5", "two.h5"))
    with pytest.raises(DataError, match=r"Slide 'a1' is in one\.h5 and in three\.h5"):
        open_features(("one.h5", "three.h5"))
    with pytest.raises(DataError, match="No feature file"):
        open_features(())


def test_a_study_made_by_hand_must_be_whole():
    parts = {
        "name": "s", "unit": "slide", "bag": np.array(["a", "b"]), "slides": (("a",), ("b",)),
        "patient": np.array(["a", "b"]), "site": np.array(["", ""]), "cohort": np.array(["", ""]),
        "lengths": np.array([1, 2]), "features": 3, "targets": Targets(np.array([0, 1], np.int32), ("0", "1")),
        "given": (), "flow": Flow(2, 2, 2, 2), "read": lambda i: Bag("a", np.zeros((1, 3))),
    }  # fmt: skip
    assert len(Study(**parts)) == 2
    for change, message in [
        ({"bag": np.array(["a", "a"])}, "more than once"),
        ({"site": np.array([""])}, "1 rows in site"),
        ({"lengths": np.array([1, 0])}, "bag 'b' has no instance"),
        ({"given": (GivenSplit(0, 0, np.array(["train"])),)}, "1 rows in given split 0/0"),
    ]:
        with pytest.raises(DataError, match=message):
            Study(**{**parts, **change})
    with pytest.raises(DataError, match="roles"):
        GivenSplit(0, 0, np.array(["trian"]))


def test_ten_thousand_slides_load_fast(folder):
    x = np.zeros((2, 4), np.float16)
    write_store("f.h5", (Bag(f"{i:05d}", x) for i in range(10_000)))
    with open("t.csv", "w") as file:
        file.write("slide,patient,site,label,split\n")
        file.writelines(f"{i:05d},p{i // 2:05d},s{i % 20 // 2},{i // 2 % 2},train\n" for i in range(10_000))
    start = time.process_time()
    study = Cohort("t.csv", "f.h5").load(Binary())
    assert time.process_time() - start < 1.0
    assert len(study) == 5000
