"""Split files of every tool, to the letter of its layout, come out as the split that was written."""

import json

import pytest
from split_files import acmil, clam, lines, mil_baseline, patho_bench, soma, stamp, torchmil, transmil

from milkit.data.protocol import SavedFolds
from milkit.data.splits_of import read_splits
from milkit.errors import ProtocolError
from milkit.task import Binary

ONE = {"train": ["s0", "s1", "s2", "s3"], "val": ["s4", "s5"], "test": ["s6", "s7"]}
OTHER = {"train": ["s4", "s5", "s6", "s7"], "val": ["s2", "s3"], "test": ["s0", "s1"]}
LABELS = {f"s{i}": i % 2 for i in range(8)}
CASES = {f"s{i}": f"case{i}" for i in range(8)}
FOLDS = [
    {"train": [f"s{i}" for i in range(8) if i // 2 != k], "test": [f"s{2 * k}", f"s{2 * k + 1}"]} for k in range(4)
]


def parts_of(split):
    """The split as it was written: part -> ids, sorted."""
    found = {}
    for name, part in split.parts.items():
        found.setdefault(part, []).append(name)
    return {part: sorted(names) for part, names in found.items()}


def numbers(named):
    return [(split.repeat, split.fold, split.inner) for split in named]


def rows_of(split):
    """(train, validation, test) as slide numbers."""
    return tuple(getattr(split, role).tolist() for role in ("train", "validation", "test"))


def stems(split):
    """As `parts_of`, of ids that are paths."""
    return {part: [name.rsplit("/", 1)[-1].split(".")[0] for name in names] for part, names in parts_of(split).items()}


WRITERS = {
    "CLAM": lambda f: [clam(f, i, p, {s: f"class {x}" for s, x in LABELS.items()}) for i, p in enumerate((ONE, OTHER))],
    "TransMIL": lambda f: [transmil(f, i, p, LABELS) for i, p in enumerate((ONE, OTHER))],
    "MIL_BASELINE": lambda f: [mil_baseline(f, i + 1, 2, p, LABELS) for i, p in enumerate((ONE, OTHER))],
    "Patho-Bench": lambda f: patho_bench(f, CASES, LABELS, [ONE, OTHER]),
    "ACMIL": lambda f: [acmil(f, i, p) for i, p in enumerate((ONE, OTHER))],
    "soma": lambda f: soma(f, [{"train": p["train"], "tune": p["val"], "test": p["test"]} for p in (ONE, OTHER)]),
}


@pytest.mark.parametrize("tool", WRITERS)
def test_a_folder_gives_the_splits_that_were_written_in_their_order(tool, tmp_path, eight):
    WRITERS[tool](tmp_path / "splits")
    named = read_splits(tmp_path / "splits")
    assert named.tool == tool
    # two test parts that leave s2 .. s5 untested: redraws
    assert numbers(named) == [(0, 0, 0), (1, 0, 0)]
    val = "tune" if tool == "soma" else "val"
    for split, written in zip(named, (ONE, OTHER), strict=True):
        expected = {"train": written["train"], val: written["val"], "test": written["test"]}
        assert stems(split) == expected
        assert set(split.roles.values()) == {"train", "validation", "test"}
    plan = SavedFolds(str(tmp_path / "splits")).plan(eight, Binary())
    assert [rows_of(split) for split in plan.splits] == [
        ([0, 1, 2, 3], [4, 5], [6, 7]),
        ([4, 5, 6, 7], [2, 3], [0, 1]),
    ]
    assert any("redraws, not a partition" in note for note in plan.notes)
    assert plan.marks == ()


def test_stamp_has_patients_and_no_validation_part(tmp_path, cohort):
    # two slides a patient: the slides are named otherwise than the patients
    labels = {f"s{i}": (i // 2) % 2 for i in range(16)}
    study = cohort(labels, {f"s{i}": f"p{i // 2}" for i in range(16)})
    folds = [{role: [name.replace("s", "p") for name in ids] for role, ids in fold.items()} for fold in FOLDS]
    path = stamp(tmp_path, folds)
    named = read_splits(path)
    assert named.tool == "STAMP"
    assert numbers(named) == [(0, k, 0) for k in range(4)]  # everybody is tested once: the folds of one repeat
    assert {split.of for split in named} == {"patient"}
    plan = SavedFolds(str(path)).plan(study, Binary())
    assert rows_of(plan.splits[1]) == ([0, 1, 2, 3, *range(8, 16)], [], [4, 5, 6, 7])
    assert any("writes down no validation part" in note for note in plan.notes)
    assert not any("redraws" in note for note in plan.notes)
    drawn = SavedFolds(str(path), validation=0.34).plan(study, Binary())
    for split, bare in zip(drawn.splits, plan.splits, strict=True):
        assert split.test.tolist() == bare.test.tolist()
        assert sorted([*split.train, *split.validation]) == bare.train.tolist()
        patients = study.patient[split.validation].tolist()
        assert len(patients) == 4
        assert {patients.count(p) for p in patients} == {2}  # whole patients
    again = SavedFolds(str(path), validation=0.34, seed=1).plan(study, Binary())
    assert SavedFolds(str(path), validation=0.34).plan(study, Binary()).digest() == drawn.digest() != again.digest()


@pytest.mark.parametrize("form", ["list", "one"])
def test_stamp_splits_in_other_wrappings(form, tmp_path, eight):
    value = [{"train_patients": ["s0", "s1"], "test_patients": ["s2", "s3"]}]
    (tmp_path / "splits.json").write_text(json.dumps(value if form == "list" else value[0]))
    assert parts_of(read_splits(tmp_path / "splits.json").splits[0]) == {"train": ["s0", "s1"], "test": ["s2", "s3"]}


def test_torchmil(tmp_path, eight):
    path = torchmil(tmp_path, {"train": ["s0", "s1", "s2", "s3"], "test": ["s4", "s5", "s6", "s7"]})
    named = read_splits(path)
    assert (named.tool, len(named)) == ("torchmil", 1)
    assert rows_of(SavedFolds(str(path)).plan(eight, Binary()).splits[0]) == ([0, 1, 2, 3], [], [4, 5, 6, 7])


def test_clam_true_and_false_alone_are_the_same_splits(tmp_path, eight):
    clam(tmp_path, 0, ONE)
    plain = SavedFolds(str(tmp_path / "splits_0.csv")).plan(eight, Binary())
    boolean = SavedFolds(str(tmp_path / "splits_0_bool.csv")).plan(eight, Binary())
    assert plain.digest() == boolean.digest()


def test_clam_folders_name_what_they_pass_over(tmp_path):
    WRITERS["CLAM"](tmp_path)
    (tmp_path / "dataset.csv").write_text("case_id,slide_id,label\np0,s0,tumor\n")
    (tmp_path / "experiment_task.txt").write_text("{'num_splits': 2, 'task': \"a\n")
    (tmp_path / ".splits_9.csv").write_text("half")
    notes = read_splits(tmp_path).notes
    assert (
        "passed over 2 file(s), CLAM's counts, which hold no split: splits_0_descriptor.csv, splits_1_descriptor.csv"
        in notes
    )
    assert "passed over 2 file(s), the same splits again: splits_0_bool.csv, splits_1_bool.csv" in notes
    assert "passed over 1 file(s), no split file that milkit knows: dataset.csv" in notes
    with pytest.raises(ProtocolError, match=r"splits_0_descriptor.csv: these are CLAM's counts"):
        read_splits(tmp_path / "splits_0_descriptor.csv")


def test_clam_counts_are_told_from_slides_that_are_numbers(tmp_path):
    parts = {"train": ["0", "1"], "val": ["2"], "test": ["3"]}
    clam(tmp_path, 0, parts, {"0": "0", "1": "1", "2": "0", "3": "1"})
    named = read_splits(tmp_path)
    assert len(named) == 1
    assert parts_of(named.splits[0]) == parts
    assert any("CLAM's counts" in note for note in named.notes)


def test_clam_tables_that_contradict_each_other(tmp_path):
    clam(tmp_path, 0, ONE)
    text = (tmp_path / "splits_0_bool.csv").read_text()
    (tmp_path / "splits_0_bool.csv").write_text(text.replace("s0,True,False,False", "s0,False,False,True"))
    with pytest.raises(
        ProtocolError, match=r"do not say the same: 1 slide\(s\) differ, such as 's0' \('train' and 'test'\)"
    ):
        read_splits(tmp_path)


def test_ten_files_are_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        clam(tmp_path, i, {"train": ["a", "b"], "test": [f"t{i}"]})
        (tmp_path / f"splits_{i}_bool.csv").unlink()
    named = read_splits(tmp_path)
    assert [name for split in named for name, role in split.roles.items() if role == "test"] == [
        f"t{i}" for i in range(12)
    ]


def test_test_parts_that_cover_everybody_once_are_folds_of_one_repeat(tmp_path, eight):
    for i, fold in enumerate(FOLDS):
        clam(tmp_path, i, fold)
    plan = SavedFolds(str(tmp_path)).plan(eight, Binary())
    assert [split.key for split in plan.splits] == [(0, k, 0) for k in range(4)]
    assert not any("redraws" in note for note in plan.notes)


def test_a_partition_of_ids_that_pandas_spells_in_two_ways(tmp_path, cohort):
    # 5 slides in 2 folds: the shorter column has padding, so its ids became 4.0 and 5.0
    clam(tmp_path, 0, {"train": ["1", "2", "3"], "test": ["4.0", "5.0"]})
    clam(tmp_path, 1, {"train": ["4.0", "5.0"], "test": ["1", "2", "3"]})
    study = cohort({f"00{i}": i % 2 for i in range(1, 6)})
    plan = SavedFolds(str(tmp_path)).plan(study, Binary())
    assert [split.key for split in plan.splits] == [(0, 0, 0), (0, 1, 0)]
    assert [rows_of(split) for split in plan.splits] == [([0, 1, 2], [], [3, 4]), ([3, 4], [], [0, 1, 2])]


def test_clams_ten_folds_of_its_own_kind_are_redraws(tmp_path, eight):
    # 3 draws that overlap: s6 is tested twice, s3 never
    tests = (["s6", "s7"], ["s0", "s1"], ["s6", "s5"])
    for i, test in enumerate(tests):
        clam(tmp_path, i, {"train": [s for s in LABELS if s not in test], "test": test})
    plan = SavedFolds(str(tmp_path)).plan(eight, Binary())
    assert [split.key for split in plan.splits] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    note = next(note for note in plan.notes if "redraws" in note)
    assert note.startswith("the 3 splits (which it calls folds) are redraws, not a partition")
    assert "a plain t-interval over them, as for folds, is not valid" in note


def test_two_files_of_a_tool_that_writes_all_folds_in_one_are_two_repeats(tmp_path):
    paths = [str(soma(tmp_path / f"seed{i}", FOLDS)) for i in range(2)]
    assert numbers(read_splits(paths)) == [(r, k, 0) for r in range(2) for k in range(4)]
    assert numbers(read_splits(tuple(reversed(paths)))) == [(r, k, 0) for r in range(2) for k in range(4)]


def test_soma_with_several_test_parts_asks_which(tmp_path, eight):
    path = str(
        soma(tmp_path, [{"train": ["s0", "s1"], "tune": ["s2", "s3"], "test": ["s4", "s5"], "test_b": ["s6", "s7"]}])
    )
    with pytest.raises(
        ProtocolError, match=r"2 test parts.*'test' \(2 rows\), 'test_b' \(2 rows\). Say which: test='test'"
    ):
        SavedFolds(path).plan(eight, Binary())
    with pytest.raises(ProtocolError, match=r"no part 'test_c' \(given as test='test_c'\)"):
        SavedFolds(path, test="test_c").plan(eight, Binary())
    plan = SavedFolds(path, test="test_b", allow_missing=True).plan(eight, Binary())
    assert rows_of(plan.splits[0]) == ([0, 1], [2, 3], [6, 7])
    assert any("not used: 'test' (2 rows)" in note for note in plan.notes)


def test_files_without_a_test_part_ask_what_is_tested(tmp_path, eight):
    # what MCAT and its heirs write: train and val, and val is what they report
    path = str(lines(tmp_path / "splits_0.csv", [["", "train", "val"], [0, "s0", "s6"], [1, "s1", "s7"]]))
    with pytest.raises(
        ProtocolError, match=r"no test part; the parts are 'train' \(2 rows\), 'val' \(2 rows\).*test='val'"
    ):
        SavedFolds(path, allow_missing=True).plan(eight, Binary())
    plan = SavedFolds(path, test="val", allow_missing=True).plan(eight, Binary())
    assert rows_of(plan.splits[0]) == ([0, 1], [], [6, 7])


PLAIN = {
    "slide and split": (
        "slide_id,split\ns0,train\ns1,Train\ns2,validation\ns3,TEST\n", "slide", [([0, 1], [2], [3])]
    ),
    "patient and split": (
        "case_id\tsplit\ns0\ttrain\ns1\ttrain\ns2\tval\ns3\ttest\n", "patient", [([0, 1], [2], [3])]
    ),
    "fold numbers": (
        "slide_id;fold\ns0;1\ns1;1\ns2;2\ns3;2.0\n", "slide", [([2, 3], [], [0, 1]), ([0, 1], [], [2, 3])]
    ),
    "split and fold": (
        "slide_id,fold,split\ns0,0,train\ns1,0,test\ns0,1,test\ns1,1,train\n", "slide", [([0], [], [1]), ([1], [], [0])]
    ),
    "fold columns": (
        "slide_id,fold_1,fold_0\ns0,test,train\ns1,train,test\ns2,,val\n", "slide", [([0], [2], [1]), ([1], [], [0])]
    ),
    "repeats and folds": (
        "slide_id,repeat,fold,role\ns0,0,0,train\ns1,0,0,test\ns0,1,0,test\ns1,1,0,dev\n", "slide",
        [([0], [], [1]), ([], [1], [0])],
    ),
    "repeats and the fold that tests": (
        "id,repeat,fold\ns0,0,0\ns1,0,1\ns0,1,1\ns1,1,0\n", "unknown",
        [([1], [], [0]), ([0], [], [1]), ([0], [], [1]), ([1], [], [0])],
    ),
    "a split column of numbers": ("bag_id,split\ns0,1\ns1,2\n", "slide", [([1], [], [0]), ([0], [], [1])]),
    "a fold column of roles": ("slide_id,fold\ns0,train\ns1,test\n", "slide", [([0], [], [1])]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_a_researchers_own_table(name, tmp_path, cohort):
    text, of, expected = PLAIN[name]
    path = tmp_path / "mine.csv"
    path.write_text(text)
    named = read_splits(path)
    assert {split.of for split in named} == {of}
    found = [
        tuple(
            sorted(int(n[1]) for n, r in split.roles.items() if r == role) for role in ("train", "validation", "test")
        )
        for split in named
    ]
    assert found == expected


def test_milkits_own_folds_are_read_with_their_numbers_and_group(tmp_path):
    text = "repeat,fold,inner,role,bag,patient,grouped_by\n1,0,2,train, a ,p,site\n1,0,2,test,b,q,site\n"
    text += "0,3,0,test,a,p,site\n"
    (tmp_path / "folds.csv").write_text(text)
    named = read_splits(tmp_path / "folds.csv")
    assert (named.tool, named.grouped_by, named.notes) == ("milkit", "site", ())
    assert numbers(named) == [(0, 3, 0), (1, 0, 2)]
    assert named.splits[1].parts == {" a ": "train", "b": "test"}
    assert named.splits[1].patients == {" a ": "p", "b": "q"}
