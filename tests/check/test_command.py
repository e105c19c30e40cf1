"""`milkit check` from the command line: what it prints and how it exits."""

import csv
import json

import foreign_files
import numpy as np
import pytest

from benchmarks import check_planted as planting
from milkit.bag import Bag
from milkit.cli import main
from milkit.data.store import write_store


@pytest.fixture
def files(tmp_path):
    """Writes a cohort's table, store and folds; returns the arguments."""

    def write(c):
        write_store(tmp_path / "store.h5", [Bag(i, x) for i, x in c.bags.items()], dtype="float32", overwrite=True)
        with (tmp_path / "cohort.csv").open("w", newline="") as file:
            out = csv.DictWriter(file, list(c.rows[0]))
            out.writeheader()
            out.writerows(c.rows)
        with (tmp_path / "folds.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["fold", "role", "slide_id"], *c.folds])
        return [
            str(tmp_path / "cohort.csv"),
            "--store",
            str(tmp_path / "store.h5"),
            "--folds",
            str(tmp_path / "folds.csv"),
        ]

    return write


def test_clean_exits_0_and_prints_a_list_only(files, capsys):
    assert main(["check", *files(planting.load("musk1")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    assert {f["severity"] for f in found} <= {"note"}


def test_a_leak_exits_1_and_says_who_and_where(files, capsys, tmp_path):
    c = planting.load("musk1").copy()
    wanted = planting.patient_leak(c, np.random.default_rng(0))
    planting.label_column(c, np.random.default_rng(0))
    arguments = files(c)
    assert main(["check", *arguments, "--json", "--out", str(tmp_path / "page")]) == 1
    text = capsys.readouterr().out
    found = {f["kind"]: f for f in json.loads(text) if f["severity"] == "error"}
    assert set(found) == {"patient_leak", "label_column"}
    assert wanted.words[0] in found["patient_leak"]["where"]
    assert "fold 0" in found["patient_leak"]["where"]
    assert "column 166" in found["label_column"]["where"]
    assert all({"kind", "severity", "where", "detail", "advice", "sure"} <= f.keys() for f in found.values())
    assert json.loads((tmp_path / "page" / "check.json").read_text()) == json.loads(text)
    assert main(["check", *arguments]) == 1
    said = capsys.readouterr().out
    assert "ERROR    patient_leak" in said
    assert said.rstrip().endswith("2 errors, 1 note")
    assert "## error: label_column" in (tmp_path / "page" / "check.md").read_text()


def test_without_features_and_folds_it_says_what_was_not_looked_at(files, capsys):
    table = files(planting.load("musk1"))[0]
    assert main(["check", table, "--json"]) == 0
    assert {f["where"] for f in json.loads(capsys.readouterr().out) if f["kind"] == "not_checked"} == {
        "features",
        "folds",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [({0: "none.csv"}, "No cohort table"), ({2: "none.h5"}, "not there"), ({4: "none.csv"}, "No folds file")],
)
def test_files_that_are_not_there_exit_2(files, capsys, change, said):
    arguments = files(planting.load("musk1"))
    for place, name in change.items():
        arguments[place] = name
    assert main(["check", *arguments, "--json"]) == 2
    caught = capsys.readouterr()
    assert said in caught.err
    assert caught.out == ""


def test_a_label_that_is_not_a_column_is_a_users_mistake(files, capsys):
    assert main(["check", *files(planting.load("musk1")), "--label", "lable"]) == 2
    assert "Did you mean 'label'?" in capsys.readouterr().err


def test_a_slide_with_two_rows_is_a_finding(files, capsys):
    c = planting.load("musk1").copy()
    c.rows.append({**c.rows[4], "label": "1" if c.rows[4]["label"] == "0" else "0"})
    assert main(["check", *files(c), "--json"]) == 1
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["kind"] == "slide_twice"]
    assert c.rows[4]["slide_id"] in found["where"]


def test_a_slide_that_its_reader_refuses_is_a_finding(tmp_path, capsys):
    folder = tmp_path / "job"
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        x = rng.normal(size=(0 if i == 3 else 9, 8)).astype(np.float32)
        if i == 5:
            x[2, 1] = np.nan
        path = foreign_files.trident(folder, f"S{i:02d}", x, foreign_files.grid(len(x)))
        rows.append({"slide_id": f"S{i:02d}.svs", "case_id": f"P{i}", "her2": "pos" if i % 2 else "neg"})
    foreign_files.table(tmp_path / "cohort.csv", rows)
    assert main(["check", str(tmp_path / "cohort.csv"), "--store", str(path.parent), "--label", "her2", "--json"]) == 1
    found = {f["kind"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["empty_bag"]["where"] == "S03"
    assert found["non_finite"]["severity"] == "error"
    assert "S05" in found["non_finite"]["where"]


def test_stores_that_differ_in_encoder_and_mpp(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = []
    for k, encoder in enumerate(("uni", "conch")):
        bags = [Bag(f"s{k}{i:02d}", rng.normal(size=(6, 8)).astype(np.float32), mpp=0.25 * (k + 1)) for i in range(15)]
        write_store(tmp_path / "both" / f"{encoder}.h5", bags, encoder=encoder)
        rows += [{"slide": b.id, "grade": "high" if (k == 1) != (i < 2) else "low"} for i, b in enumerate(bags)]
    foreign_files.table(tmp_path / "cohort.csv", rows)
    assert main(["check", str(tmp_path / "cohort.csv"), "--store", str(tmp_path / "both"), "--json"]) == 1
    found = {f["kind"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["mixed_encoder"]["severity"] == "error"
    assert "uni: 15 slides" in found["mixed_encoder"]["where"]
    assert "0.25: 15 slides" in found["mixed_mpp"]["where"]


def test_labels_that_a_store_has_kept_are_compared(files, capsys, tmp_path):
    c = planting.load("musk1").copy()
    arguments = files(c)
    words = {s: "musk" if y == "1" else "other" for s, y in c.y.items()}
    wrong = next(s for s, y in c.y.items() if y == "1")
    words[wrong] = "other"
    bags = [Bag(i, x) for i, x in c.bags.items()]
    write_store(tmp_path / "store.h5", bags, dtype="float32", overwrite=True, provenance={"labels": words})
    assert main(["check", *arguments, "--json"]) == 1
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["kind"] == "label_mismatch"]
    assert found["where"] == f"{wrong} (file: other, table: 1)"


def test_leave_one_out_is_no_error(files, capsys):
    c = planting.load("musk1").copy()
    few = [row["slide_id"] for row in c.rows[:6] + c.rows[-6:]]
    c.rows = [row for row in c.rows if row["slide_id"] in few]
    c.folds = [(i, "test" if s == t else "train", s) for i, t in enumerate(few) for s in few]
    assert main(["check", *files(c), "--json"]) == 0
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["kind"] == "class_missing"]
    assert (found["severity"], found["count"]) == ("warning", 12)
