"""What the terminal says of a finished run."""

from pathlib import Path

from milkit.commands.show import summary


def metric(value):
    return {"value": value, "sampling": [value - 0.1, value + 0.1], "procedure": None}


def results(metrics, **more):
    counts = {"patients": 9, "bags": 12, "runs": 6}
    selections = {
        "validation": {"metrics": metrics, "marks": ["rows lost: 2"]},
        "optimistic": {"metrics": metrics, "marks": ["rows lost: 2", "optimistic"]},
    }
    return {"experiment": "e", "counts": counts, "marks": ["rows lost: 2"], "selections": selections, **more}


def test_every_value_of_a_regression_is_there():
    text = summary(results({"mae:age": metric(0.5), "mae:grade": metric(0.25), "rmse:age": metric(0.7)}), Path("out"))
    assert "  mae:age                        0.500   0.400 - 0.600" in text
    assert "mae:grade" in text
    assert "rmse" not in text


def test_labels_stand_below_their_mean_and_many_are_counted():
    each = {f"auroc:l{i}": metric(0.5) for i in range(20)}
    lines = summary(results({**each, "auroc": metric(0.6)}), Path("out")).splitlines()
    assert lines[2] == "epoch chosen on validation"
    assert lines[3].split()[0] == "auroc"
    assert "auroc:l11" in lines[15]
    assert lines[16] == "  and 8 more in table.csv"


def test_what_was_left_out_and_what_every_number_is_read_with():
    text = summary(results({}, left_out={"no features": 4, "no row": 2}), Path("out"))
    assert "left out: 6 slides (4: no features; 2: no row)" in text
    assert "epoch chosen on the test part itself: do not quote  (optimistic)" in text
    assert text.count("rows lost: 2") == 1
    assert "marked: rows lost: 2" in text
    assert "left out" not in summary(results({}, left_out={}), Path("out"))
    assert "12 slides of 9 patients" in summary(results({}, measured="slide"), Path("out"))
