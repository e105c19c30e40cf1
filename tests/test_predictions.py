"""`predictions.csv`: what is written comes back to the bit, the header says the task, damage is named."""

import csv
import io
import time

import numpy as np
import pytest

from milkit.errors import RunFolderError
from milkit.predictions import META, Predictions, concat
from milkit.predictions.layout import read_header
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival

IDS = ("007", "a,b", 'say "x"', "é;ö 病", " padded ", "line\nbreak", "1e5", "")


def make(task, names, logits, target, *, n=None, run="r0f0s0", **more):
    n = len(logits)
    columns = {
        "experiment": "study",
        "repeat": 0,
        "fold": 1,
        "seed": 2,
        "selection": "validation",
        "role": "test",
        "bag": [f"b{i}" for i in range(n)],
        "patient": [f"p{i}" for i in range(n)],
    }
    return Predictions.of(task, names, np.asarray(logits), np.asarray(target), run=run, **{**columns, **more})


CASES = {
    "Binary": (Binary(), ("no", "yes"), [[0.0], [np.log(3)]], [0, 1]),
    "MultiClass": (MultiClass(), ("a", "b", "c"), np.log([[1, 2, 1], [8, 1, 1]]), [2, 0]),
    "two-class MultiClass": (MultiClass(), ("a", "b"), [[0.0, 1.0], [2.0, 0.0]], [1, 0]),
    "MultiLabel": (MultiLabel(("x", "y")), ("x", "y"), [[0.0, 1.0], [2.0, -3.0]], [[0, 1], [1, 1]]),
    "one-label MultiLabel": (MultiLabel(("x",)), ("x",), [[0.0], [2.0]], [[0], [1]]),
    "Regression": (Regression(("age",)), ("age",), [[0.1], [-0.2]], [[31.5], [60.0]]),
    "nll": (Survival(bins=3), (), [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], [[2.5, 1], [9.25, 0]]),
    "cox": (Survival(loss="cox"), (), [[0.3], [-0.7]], [[2.5, 1], [9.25, 0]]),
}


def cells(path):
    return list(csv.reader(io.StringIO(path.read_text(), newline="")))


def same(a, b):
    assert a.kind == b.kind
    assert a.names == b.names
    for name in (*META, "target", "logits", "score", "selected_epoch", "threshold"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("case", list(CASES))
def test_every_task_survives_the_file_and_is_told_from_its_header(case, tmp_path):
    task, names, logits, target = CASES[case]
    table = make(task, names, logits, target, selected_epoch=7)
    table.write(tmp_path / "predictions.csv")
    same(Predictions.read(tmp_path / "predictions.csv"), table)
    header = cells(tmp_path / "predictions.csv")[0]
    assert header == table.header()
    kind, found, _ = read_header(tmp_path, header)
    assert kind == type(task).__name__
    assert found == (("risk",) if kind == "Survival" else names)


def test_headers_are_as_agreed():
    def middle(case):
        task, names, logits, target = CASES[case]
        header = make(task, names, logits, target).header()
        agreed = "experiment run repeat fold seed selection role bag slide patient site cohort"
        assert " ".join(header[:12]) == agreed
        assert header[-2:] == ["selected_epoch", "threshold"]
        return " ".join(header[12:-2])

    assert middle("Binary") == "target logit_yes prob_no prob_yes"
    assert middle("MultiClass") == "target logit_a logit_b logit_c prob_a prob_b prob_c"
    assert middle("MultiLabel") == "target_x target_y logit_x logit_y prob_x prob_y"
    assert middle("Regression") == "target_age logit_age pred_age"
    assert middle("nll") == "time event logit_0 logit_1 logit_2 risk"


def test_probabilities_by_hand():
    np.testing.assert_allclose(make(*CASES["Binary"]).score, [[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(make(*CASES["MultiClass"]).score, [[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]])
    assert make(*CASES["nll"]).score[0, 0] == -(1 / 2 + 1 / 4 + 1 / 8)
    assert make(*CASES["cox"]).score[:, 0].tolist() == [0.3, -0.7]
    scaled = make(*CASES["Regression"], values=np.array([[33.0], [58.0]]))
    assert scaled.score[:, 0].tolist() == [33.0, 58.0]
    assert scaled.logits[:, 0].tolist() == [0.1, -0.2]


def test_awkward_ids_and_every_digit_survive(tmp_path):
    n = len(IDS)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 1)) * 10.0 ** rng.integers(-300, 300, (n, 1))
    logits[:4] = [[0.1 + 0.2], [5e-324], [-1.7976931348623157e308], [np.pi]]
    ids = np.array(IDS)
    table = make(
        Binary(), ("a,b", 'é"'), logits, [0, 1] * (n // 2), bag=[f"{i}{v}" for i, v in enumerate(IDS)],
        patient=ids, slide=ids[::-1], site=ids, cohort=ids, threshold=0.1 + 0.2,
    )  # fmt: skip
    table.write(tmp_path / "p.csv")
    same(Predictions.read(tmp_path / "p.csv"), table)


def test_thresholds_one_a_label_and_none(tmp_path):
    logits, target = [[0.0, 1.0]] * 2, [[0, 1], [1, 1]]
    task = MultiLabel(("x", "y"))
    for threshold, cell in (([0.25, 0.5], "0.25;0.5"), ([np.nan, 0.5], ";0.5"), (np.nan, "")):
        table = make(task, ("x", "y"), logits, target, threshold=np.array(threshold))
        table.write(tmp_path / "p.csv")
        assert cells(tmp_path / "p.csv")[1][-1] == cell
        same(Predictions.read(tmp_path / "p.csv"), table)


def test_rows_are_joined_and_taken():
    a = make(*CASES["Binary"], run="short")
    b = make(*CASES["Binary"], run="a much longer name")
    both = concat([a, b])
    assert both.run.tolist() == ["short"] * 2 + ["a much longer name"] * 2
    same(both.take(both.run == "short"), a)
    same(both.take(np.array([2, 3])), b)
    with pytest.raises(RunFolderError, match=r"Binary \(no, yes\).*MultiClass|MultiClass.*Binary"):
        concat([a, make(*CASES["MultiClass"])])
    with pytest.raises(RunFolderError, match="no run has finished"):
        concat([])


def test_an_empty_table_survives(tmp_path):
    table = make(*CASES["MultiClass"]).take(np.zeros(2, bool))
    table.write(tmp_path / "p.csv")
    same(Predictions.read(tmp_path / "p.csv"), table)


def test_a_diverged_run_is_kept(tmp_path):
    table = make(Binary(), ("no", "yes"), [[np.nan], [1.0]], [0, 1])
    table.write(tmp_path / "p.csv")
    assert np.isnan(Predictions.read(tmp_path / "p.csv").score[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [0, 2]}, r"row 2 \(bag 'b1'\), column target: found 2.0, expected a class index of 0 to 1"),
        ({"selection": "best"}, "column selection: found 'best', expected validation, last, optimistic"),
        ({"role": "holdout"}, "column role: found 'holdout'"),
        ({"names": ("a", "a")}, "must differ"),
        ({"names": ("a", "b", "c")}, "2 classes"),
        ({"logits": [[0.0, 1.0], [0.0, 1.0]]}, "need 1 columns of logits; found 2"),
    ],
)
def test_columns_that_cannot_be_are_refused(change, message):
    task, names, logits, target = CASES["Binary"]
    change = dict(change)
    names, logits, target = (change.pop(k, v) for k, v in (("names", names), ("logits", logits), ("target", target)))
    with pytest.raises(RunFolderError, match=message):
        make(task, names, logits, target, **change)


def test_censoring_and_times_are_checked():
    with pytest.raises(RunFolderError, match=r"column event: found 2\.0, expected 0 or 1"):
        make(Survival(loss="cox"), (), [[0.0]], [[1.0, 2.0]])
    with pytest.raises(RunFolderError, match="column time: found nan, expected a finite number"):
        make(Survival(loss="cox"), (), [[0.0]], [[np.nan, 1.0]])


def edited(tmp_path, old, new):
    path = tmp_path / "predictions.csv"
    make(*CASES["Binary"]).write(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b1,b1,p1,,,1,", "b1,b1,p1,,,yes,", r"row 2 \(bag 'b1'\), column target: found 'yes', expected a number"),
        ("b1,b1,p1,,,1,", "b1,b1,p1,,,5,", "row 2.*column target: found 5.0"),
        ("r0f0s0,0,1,2", "r0f0s0,0,1.5,2", "row 1.*column fold: found '1.5'"),
        (",test,b0", ",tset,b0", "row 1.*column role: found 'tset'"),
        ("logit_yes", "logit_ja", "lacks logit_yes"),
        ("patient", "case", "lacks patient"),
        ("cohort", "site", "names site twice"),
        ("b1,b1,p1", "b0,b1,p1", "row 2: bag 'b0' stands twice as test of run 'r0f0s0'"),
        ("0.25,", "", r"row 2: found 17 cells, expected 18"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_row_and_column(tmp_path, old, new, message):
    with pytest.raises(RunFolderError, match=message):
        Predictions.read(edited(tmp_path, old, new))


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "predictions.csv"
    make(*CASES["Binary"], threshold=0.125).write(path)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        if whole[:cut].endswith(b"\n"):
            continue  # whole rows only: the counts of runs.csv tell that some are missing
        with pytest.raises(RunFolderError):
            Predictions.read(path)
    path.write_bytes(b"")
    with pytest.raises(RunFolderError):
        Predictions.read(path)
    with pytest.raises(RunFolderError, match=r"There is no .*absent\.csv"):
        Predictions.read(tmp_path / "absent.csv")
    path.write_bytes(whole.replace(b"p1", b"\xff1"))
    with pytest.raises(RunFolderError, match="not UTF-8"):
        Predictions.read(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "predictions.csv"
    make(*CASES["Binary"]).write(path)
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milkit.predictions.whole.os.fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        make(*CASES["Binary"], run="other").write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_carriage_return_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="bag holds a carriage return"):
        make(*CASES["Binary"], bag=["a\rb", "c"]).write(tmp_path / "p.csv")
    assert not list(tmp_path.iterdir())


def test_other_tools_columns_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "p.csv"
    table = make(*CASES["Binary"])
    table.write(path)
    rows = cells(path)
    with open(path, "w", newline="", encoding="utf-8-sig") as f:
        csv.writer(f).writerows([[*rows[0], "note"], *([*row, "x"] for row in rows[1:])])
    same(Predictions.read(path), table)


@pytest.mark.slow
def test_a_large_study_is_written_and_read_in_seconds(tmp_path):
    n = 100_000
    rng = np.random.default_rng(0)
    table = make(Binary(), ("0", "1"), rng.normal(size=(n, 1)), rng.integers(0, 2, n), threshold=0.5, selected_epoch=3)
    start = time.process_time()
    table.write(tmp_path / "p.csv")
    back = Predictions.read(tmp_path / "p.csv")
    assert time.process_time() - start < 8  # about 1.5 s of one core
    same(back, table)


def test_maps_of_images_stand_in_a_column_of_their_own(tmp_path):
    def rows(names, map):
        return Predictions.of(
            Binary(), ("n", "p"), np.zeros((len(names), 1)), np.zeros(len(names)), experiment="e", run="r", repeat=0,
            fold=0, seed=0, selection="last", role="test", bag=names, patient=names, map=map,
        )  # fmt: skip

    table = concat([rows(["a", "b"], ["m/a.png", ""]), rows(["c"], ["m/c.png"])])
    table.write(tmp_path / "p.csv")
    again = Predictions.read(tmp_path / "p.csv")
    assert again.map.tolist() == ["m/a.png", "", "m/c.png"]
    assert again.take(np.array([2])).map.tolist() == ["m/c.png"]
    assert rows(["a"], None).header() == table.header()[:-1]
    rows(["a"], None).write(tmp_path / "q.csv")
    assert Predictions.read(tmp_path / "q.csv").map is None
