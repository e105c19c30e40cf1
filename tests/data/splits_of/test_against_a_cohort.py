"""Ids of split files against those of a cohort: leaks, lost zeros, paths, strangers, slides without features."""

import csv
import json

import numpy as np
import pytest
from split_files import acmil, clam, lines, mil_baseline, patho_bench, stamp, transmil

from milkit.bag import Bag
from milkit.data.memory import in_memory
from milkit.data.protocol import SavedFolds
from milkit.data.splits_of import read_splits
from milkit.errors import ProtocolError
from milkit.task import Binary, Regression

ONE = {"train": ["s0", "s1", "s2", "s3"], "val": ["s4", "s5"], "test": ["s6", "s7"]}
LABELS = {f"s{i}": i % 2 for i in range(8)}


def roles(study, plan, number=0):
    split = plan.splits[number]
    return {role: study.bag[getattr(split, role)].tolist() for role in ("train", "validation", "test")}


def test_a_patient_in_train_and_test_is_refused_where_the_table_knows_patients(tmp_path, cohort):
    # MIL_BASELINE draws slides: s0 and s6 are of one patient
    patients = {f"s{i}": f"p{i % 6}" for i in range(8)}
    path = str(mil_baseline(tmp_path, 1, 2, ONE, LABELS))
    slides = cohort(LABELS, patients)
    with pytest.raises(ProtocolError, match=r"2 patients are in two roles: p0 \(train, test\), p1 \(train, test\)"):
        SavedFolds(path).plan(slides, Binary())
    marked = SavedFolds(path, allow_patient_overlap=True).plan(slides, Binary())
    assert marked.marks == ("patients in two roles",)
    # where a bag is a patient, its slides cannot be parted at all
    whole = cohort(LABELS, patients, unit="patient")
    with pytest.raises(
        ProtocolError,
        match=r"2 patient\(s\) have slides in two roles.*p0 \('/data/feats/s0.pt' is train, line 2, column "
        r"'train_slide_path'; '/data/feats/s6.pt' is test, line 8, column 'test_slide_path'\)",
    ):
        SavedFolds(path, allow_patient_overlap=True).plan(whole, Binary())


def test_a_slide_in_two_columns_of_a_file_is_refused_by_line(tmp_path, eight):
    parts = {"train": ["s0", "s1", "s2", "s6"], "val": ["s4", "s5"], "test": ["s6", "s7"]}
    path = clam(tmp_path, 0, parts)
    message = (
        r"splits_0.csv, line 2, column 'test': 's6' has a role in this split already \(train, line 5, column 'train'\) "
        r"and is given another \(test\) \(repeat 0, fold 0\)"
    )
    with pytest.raises(ProtocolError, match=message):
        SavedFolds(str(path)).plan(eight, Binary())
    with pytest.raises(ProtocolError, match=message):
        read_splits(path)
    twice = read_splits(path, allow_twice=True).splits[0].twice
    assert [(one.id, one.parts) for one in twice] == [("s6", ("train", "test"))]


def test_a_slide_that_a_part_repeats_counts_once_and_is_told(tmp_path, eight):
    path = clam(tmp_path, 0, {**ONE, "val": ["s4", "s5", "s4"]})
    plan = SavedFolds(str(path)).plan(eight, Binary())
    assert roles(eight, plan)["validation"] == ["s4", "s5"]
    assert (
        "1 id(s) are repeated within their part and count once: 's4' (splits_0.csv, line 4, column 'val')" in plan.notes
    )


def test_leading_zeros_that_a_program_lost_are_found_where_that_is_clear(tmp_path, cohort):
    study = cohort({f"00{i}": i % 2 for i in range(8)})
    # pandas: whole numbers in the full column, floats in those with padding
    parts = {"train": ["0", "1", "2", "3"], "val": ["4.0", "5.0"], "test": ["6.0", "7.0"]}
    plan = SavedFolds(str(clam(tmp_path, 0, parts))).plan(study, Binary())
    assert roles(study, plan) == {
        "train": ["000", "001", "002", "003"], "validation": ["004", "005"], "test": ["006", "007"]
    }  # fmt: skip
    note = next(note for note in plan.notes if "leading zeros" in note)
    assert note == (
        "8 id(s) of the folds match as numbers, which have lost leading zeros or gained a .0 ('0' is '000')"
    )


def test_leading_zeros_that_could_be_two_slides_are_refused(tmp_path, cohort):
    study = cohort({"007": 0, "07": 1, "a": 0, "b": 1, "c": 0, "d": 1})
    path = clam(tmp_path, 0, {"train": ["a", "b", "7"], "test": ["c", "d"]})
    with pytest.raises(
        ProtocolError, match=r"1 slides are not in study 'toy': '7' \(line 4, column 'train'; it could be '007', '07'\)"
    ):
        SavedFolds(str(path)).plan(study, Binary())
    # and 7 beside an 07 that is in the file as well
    study = cohort({"07": 1, "a": 0, "b": 1, "c": 0, "d": 1})
    path = clam(tmp_path, 1, {"train": ["a", "b", "07"], "test": ["c", "d", "7"]})
    with pytest.raises(ProtocolError, match=r"'7' \(line 4, column 'test'; the file also has '07'\)"):
        SavedFolds(str(path)).plan(study, Binary())


@pytest.mark.parametrize("form", ["{}.svs", "/data/feats/{}.pt", r"D:\slides\{}.ndpi", "{}.ome.tiff"])
def test_paths_and_file_extensions(form, tmp_path, cohort):
    study = cohort({f"TCGA-{i}.ABC": i % 2 for i in range(4)})
    names = [form.format(f"TCGA-{i}.ABC") for i in range(4)]
    path = str(clam(tmp_path, 0, {"train": names[:2], "test": names[2:]}))
    plan = SavedFolds(path).plan(study, Binary())
    assert roles(study, plan)["test"] == ["TCGA-2.ABC", "TCGA-3.ABC"]
    assert any(note.startswith("4 id(s) of the folds match without folder and file extension") for note in plan.notes)


def test_slides_without_features_are_counted_and_listed(tmp_path, cohort):
    study = cohort({**LABELS, "s8": 0, "s9": 1, "s10": ""}, no_features=("s8", "s9"))
    parts = {**ONE, "train": ["s0", "s1", "s2", "s3", "s8"], "test": ["s6", "s7", "s9.svs", "s10"]}
    plan = SavedFolds(str(clam(tmp_path, 0, parts))).plan(study, Binary())
    assert roles(study, plan)["test"] == ["s6", "s7"]
    assert (
        "2 slide(s) of the folds are left out of the study, the table has a row but there are no features: s8, s9.svs"
        in plan.notes
    )
    assert "1 slide(s) of the folds are left out of the study, no value in column 'label': s10" in plan.notes


def test_slides_that_the_cohort_does_not_have_are_refused_or_counted(tmp_path, cohort):
    study = cohort(LABELS, no_row=("s8",))
    path = str(clam(tmp_path, 0, {**ONE, "train": ["s0", "s1", "s2", "s3", "s8", "zz"]}))
    with pytest.raises(
        ProtocolError,
        match=r"2 slides are not in study 'toy': 's8' \(line 6, column 'train'; there are features but no row in the "
        r"table\), 'zz' \(line 7, column 'train'\)",
    ):
        SavedFolds(path).plan(study, Binary())
    plan = SavedFolds(path, allow_unknown=True).plan(study, Binary())
    assert "2 slide(s) of the folds are not in the cohort: s8, zz" in plan.notes


def test_slides_of_the_cohort_that_no_split_names_are_refused_or_counted(tmp_path, cohort):
    study = cohort({**LABELS, "s8": 0})
    path = str(clam(tmp_path, 0, ONE))
    with pytest.raises(ProtocolError, match=r"1 bags of study 'toy' have no role in any split: s8"):
        SavedFolds(path).plan(study, Binary())
    plan = SavedFolds(path, allow_missing=True).plan(study, Binary())
    assert "Bags without a role in any split: 1 (s8)." in plan.notes


def test_folds_of_another_cohort(tmp_path, eight):
    path = clam(tmp_path, 0, {"train": ["x0", "x1"], "test": ["x2"]})
    with pytest.raises(
        ProtocolError, match=r"none of its 3 ids is in study 'toy'. Ids of the folds: 'x0', 'x1', 'x2'; sl"
    ):
        SavedFolds(str(path)).plan(eight, Binary())


def test_ids_of_patients_give_all_their_slides_the_role(tmp_path, cohort):
    labels = {f"s{i}": (i // 2) % 2 for i in range(8)}
    patients = {f"s{i}": f"p{i // 2}" for i in range(8)}
    path = str(clam(tmp_path, 0, {"train": ["p0", "p1"], "test": ["p2", "p3"]}))
    slides, whole = cohort(labels, patients), cohort(labels, patients, unit="patient")
    assert roles(slides, SavedFolds(path).plan(slides, Binary()))["test"] == ["s4", "s5", "s6", "s7"]
    assert roles(whole, SavedFolds(path).plan(whole, Binary()))["test"] == ["p2", "p3"]


def test_ids_that_could_be_slides_or_patients_are_refused_unless_it_is_said(tmp_path, cohort):
    labels = {"1": 0, "2": 1, "3": 0, "4": 1}
    study = cohort(labels, {"1": "2", "2": "1", "3": "4", "4": "3"})
    path = str(clam(tmp_path, 0, {"train": ["1", "2"], "test": ["3", "4"]}))
    # both ways give the same parts but not the same bag for an id, so a file of one slide a part would differ
    with pytest.raises(ProtocolError, match=r"its 4 ids could be slides or patients of study 'toy'; '1' is both"):
        SavedFolds(path).plan(study, Binary())
    assert roles(study, SavedFolds(path, of="slide").plan(study, Binary()))["train"] == ["1", "2"]
    # the patients 1 and 3 are those of the slides 2 and 4
    half = str(clam(tmp_path, 1, {"train": ["1", "2"], "test": ["3"]}))
    by = {
        of: SavedFolds(half, of=of, allow_missing=True, allow_single_class=True).plan(study, Binary())
        for of in ("slide", "patient")
    }
    assert [roles(study, by[of])["test"] for of in ("slide", "patient")] == [["3"], ["4"]]


def test_tables_that_say_what_their_ids_are(tmp_path, cohort):
    study = cohort({"1": 0, "2": 1, "3": 0, "4": 1}, {"1": "2", "2": "1", "3": "4", "4": "3"})
    for of, test in (("slide", ["3", "4"]), ("patient", ["3", "4"])):
        path = lines(
            tmp_path / f"{of}.csv", [[f"{of}_id", "split"], *([i, "train" if i < 3 else "test"] for i in range(1, 5))]
        )
        assert roles(study, SavedFolds(str(path)).plan(study, Binary()))["test"] == test


def test_labels_that_contradict_the_table_are_refused_by_line(tmp_path, eight):
    wrong = {**LABELS, "s6": 1}
    path = str(transmil(tmp_path, 0, ONE, wrong))
    with pytest.raises(
        ProtocolError,
        match=r"fold0.csv, line 2, column 'test': 's6' has the label '1.0', but is '0' in study 'toy'\. One of the two",
    ):
        SavedFolds(path).plan(eight, Binary())


def test_numbers_may_stand_for_the_names_of_classes_but_for_one_each(tmp_path, cohort):
    study = cohort({s: ("normal", "tumour")[label] for s, label in LABELS.items()})
    SavedFolds(str(transmil(tmp_path, 0, ONE, LABELS))).plan(study, Binary())
    path = str(transmil(tmp_path, 1, ONE, {**LABELS, "s7": 0, "s6": 1}))
    with pytest.raises(
        ProtocolError,
        match=r"'s6' has the label '1.0' \(which stands for 'tumour' elsewhere\), but is 'normal'.*, and 1 more",
    ):
        SavedFolds(path).plan(study, Binary())


def test_a_label_without_an_id_is_refused(tmp_path):
    path = lines(tmp_path / "fold0.csv", [["", "train", "train_label", "test", "test_label"], [0, "a", 1, "", 0]])
    with pytest.raises(
        ProtocolError, match=r"fold0.csv, line 2: a label in the columns of 'test' without id beside it"
    ):
        read_splits(path)


def test_patho_bench_labels_and_cases_are_held_against_the_cohort(tmp_path, cohort):
    cases = {s: f"case{i // 2}" for i, s in enumerate(LABELS)}
    labels = {s: (i // 2) % 2 for i, s in enumerate(LABELS)}
    path = str(patho_bench(tmp_path, cases, labels, [ONE]))
    study = cohort(labels, cases)
    folds = SavedFolds(path, allow_single_class=True)
    assert roles(study, folds.plan(study, Binary()))["validation"] == ["s4", "s5"]
    with pytest.raises(
        ProtocolError, match=r"k=all.tsv, line 2, column 'fold_0': slide 's0' is of patient 'case0', but of 'q0'"
    ):
        SavedFolds(path).plan(cohort(labels, {s: f"q{i}" for i, s in enumerate(LABELS)}), Binary())
    flipped = cohort({s: 1 - label if s == "s3" else label for s, label in labels.items()})
    with pytest.raises(ProtocolError, match=r"line 5, column 'fold_0': 's3' has the label '1', but is '0'"):
        SavedFolds(path).plan(flipped, Binary())


def test_patients_that_only_the_split_file_knows_are_checked_too(tmp_path, cohort):
    cases = {s: f"case{i % 4}" for i, s in enumerate(LABELS)}
    path = str(patho_bench(tmp_path, cases, LABELS, [ONE]))
    study = cohort(LABELS)  # no patients
    with pytest.raises(
        ProtocolError, match=r"4 patient\(s\) are in two parts of repeat 0, fold 0: case0 \('s0' train, 's4' val"
    ):
        SavedFolds(path).plan(study, Binary())
    plan = SavedFolds(path, allow_patient_overlap=True).plan(study, Binary())
    assert plan.marks == ("patients in two roles",)


def test_labels_of_other_tasks_are_not_compared(tmp_path):
    bags = [Bag(s, np.ones((1, 2), np.float32)) for s in LABELS]
    task = Regression(labels=("age",))
    study = in_memory(bags, [{"slide_id": s, "age": 40 + i} for i, s in enumerate(LABELS)]).load(task, "slide")
    plan = SavedFolds(str(transmil(tmp_path, 0, ONE, LABELS))).plan(study, task)
    assert len(plan.splits) == 1


def test_the_real_splits_of_camelyon16(shared, cohort):
    folder = shared / "data" / "camelyon16_annotations"
    with (folder / "camelyon16_labels.csv").open() as file:
        table = {row["slide_id"]: row for row in csv.DictReader(file)}
    study = cohort({s: row["label"] for s, row in table.items()}, {s: row["case_id"] for s, row in table.items()})
    plan = SavedFolds(str(folder / "splits")).plan(study, Binary())
    assert [split.key for split in plan.splits] == [(i, 0, 0) for i in range(5)]
    for split in plan.splits:
        # the challenge's own test set
        assert sorted(study.bag[split.test]) == sorted(s for s in table if s.startswith("test"))
        assert len(split.train) + len(split.validation) in (269, 270)
    assert any(note.startswith("the 5 splits share one test part (129 ids)") for note in plan.notes)
    # a fault of the published files: 398 slides, one of them twice
    assert any("1 id(s) are repeated" in note and "'normal_093' (splits_3.csv, line 55" in note for note in plan.notes)
    named = read_splits(folder / "splits")
    assert [len(split.parts) for split in named] == [399, 399, 399, 398, 399]


WRONG = {
    "json that is none": ("a.json", '{"train_names": [', "a.json: not valid JSON"),
    "json of something else": ("a.json", '{"hello": 1}', "a.json: this JSON is of no split file that milkit knows"),
    "json too deep": ("a.json", "[" * 100_000, "a.json: not valid JSON"),
    "a number too long": ("a.json", '{"train_names": [' + "9" * 10_000 + "]}", "a.json: not valid JSON"),
    "no list": ("a.json", '{"train_names": "abc"}', "a.json, train_names: str; expected a list of ids"),
    "no id": ("a.json", '{"train_names": ["a", null]}', r"a.json, train_names\[1\]: 'None'; expected an id"),
    "a key twice": ("a.json", '{"train_names": ["a"], "train_names": []}', "not valid JSON .a key is given twice"),
    "half a split": ("a.json", '{"splits": [{"train_patients": ["a"]}]}', r"splits\[0\]: expected train_patients"),
    "no row": ("a.csv", ",train,val,test\n", "a.csv: the table has a header but no row"),
    "no such part": ("a.csv", "bag_name,split\na,learn\n", "a.csv, line 2: split is 'learn'; expected train, val"),
    "no such fold": ("a.csv", "sample_id,split,fold\na,train,-1\n", "a.csv, line 2: fold is '-1'; expected a whole"),
    "a part in a fold": ("a.csv", "slide_id,case_id,fold_0\na,p,tarin\n", "a.csv, line 2, column 'fold_0': 'tarin'"),
    "a nameless slide": ("a.csv", "slide_id,split\n,train\n", "a.csv, line 2: no id in column 'slide_id'"),
    "a nameless row": ("a.csv", ",train,val,test\n,True,False,False\n", "a.csv, line 2: no slide id in the"),
    "one fold": ("a.csv", "slide_id,fold\na,1\nb,1\n", r"column 'fold' holds the folds \[1\]; expected at least two"),
    "too few cells": ("a.csv", ",train,val,test\n0,a\n", "a.csv, line 2: 2 cells, but the header names 4"),
    "empty": ("a.csv", "", "a.csv: the file is empty"),
    "a spreadsheet": ("a.csv", "PK\x03\x04", "is a spreadsheet, not text"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_refused_in_words(name, tmp_path):
    file, text, message = WRONG[name]
    (tmp_path / file).write_text(text)
    with pytest.raises(ProtocolError, match=message):
        read_splits(tmp_path / file)


def test_folders_that_do_not_hold_one_plan(tmp_path, eight):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProtocolError, match=r"empty holds no file that ends in .csv"):
        read_splits(tmp_path / "empty")
    with pytest.raises(ProtocolError, match=r"give one of the folders in it: empty. Known are"):
        read_splits(tmp_path)
    clam(tmp_path / "mixed", 0, ONE)
    acmil(tmp_path / "mixed", 1, ONE)
    with pytest.raises(ProtocolError, match=r"of 2 layouts: ACMIL \(.*split_1.json\), CLAM \(.*splits_0.csv\)"):
        read_splits(tmp_path / "mixed")
    for i in range(2):
        lines(tmp_path / "own" / f"folds{i}.csv", [["role", "bag"], ["train", "a"], ["test", "b"]])
    with pytest.raises(ProtocolError, match=r"are both milkit's folds.csv, which holds a whole plan; give one"):
        read_splits(tmp_path / "own")
    with pytest.raises(ProtocolError, match="No folds file at"):
        read_splits(tmp_path / "nowhere")
    with pytest.raises(ProtocolError, match=r"No folds file at .*none\.csv"):
        read_splits([tmp_path / "own" / "folds0.csv", tmp_path / "none.csv"])


def test_files_too_large_for_folds_are_not_read(tmp_path, monkeypatch):
    clam(tmp_path, 0, ONE)
    (tmp_path / "splits_0_bool.csv").unlink()
    (tmp_path / "features.csv").write_text("0,1\n" + "0.5,0.25\n" * 100)
    monkeypatch.setattr("milkit.data.text.MOST_BYTES", 200)
    monkeypatch.setattr("milkit.data.splits_of.read.MOST_BYTES", 200)
    assert "passed over 1 file(s), no split file that milkit knows: features.csv" in read_splits(tmp_path).notes
    with pytest.raises(ProtocolError, match=r"features.csv has more than 200 bytes, too many for a folds file"):
        read_splits(tmp_path / "features.csv")


def test_stamp_ids_that_are_numbers_and_ids_in_other_letters(tmp_path, eight):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"splits": [{"train_patients": [1, 2], "test_patients": ["3"]}]}))
    assert read_splits(path).splits[0].roles == {"1": "train", "2": "train", "3": "test"}
    stamp(tmp_path, [{"train": ["Müller", "李"], "test": ["Ω"]}])
    assert read_splits(path).splits[0].roles == {"Müller": "train", "李": "train", "Ω": "test"}
