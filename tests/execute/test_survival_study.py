"""Survival studies from planted bags to numbers, for both heads, and tables that cannot be used."""

import csv
import json
from dataclasses import replace

import numpy as np
import planted
import pytest
from lifelines.utils import concordance_index

from milkit import api
from milkit.data.cohort import Cohort
from milkit.data.protocol import KFold
from milkit.data.store import write_store
from milkit.errors import CohortError, ConfigError, ProtocolError
from milkit.execute.prepare import prepare
from milkit.models import EmbeddingPooling
from milkit.predictions import Predictions
from milkit.report.results import write_results
from milkit.task import Survival
from milkit.train.config import Adam, Train
from milkit.types import Bag

N = 120


def cohort(signal):
    """The planted cohort; without signal the same bags belong to other patients' times."""
    xs, rng = planted.bags(N, 3)
    level = rng.normal(size=N)
    for x, v in zip(xs, level, strict=True):
        x[:, 0] = 0.3 * x[:, 0] + v
    level = level if signal else rng.permutation(level)
    time, censored = rng.exponential(np.exp(-1.5 * level)) * 24 + 0.1, rng.exponential(60.0, N)
    rows = [{"time": f"{min(t, c):.4f}", "event": str(int(t <= c))} for t, c in zip(time, censored, strict=True)]
    return planted.cohort(xs, rows)


def experiment(loss, data, validation=0.25, **more):
    return replace(
        planted.experiment(width=3),
        data=data,
        task=Survival(loss=loss),
        protocol=KFold(folds=3, validation=validation),
        model=EmbeddingPooling(),
        train=Train(
            Adam(0.01), epochs=10, batch_bags=1 if loss == "nll" else 16, standardise=True, buckets=1, width=3,
            select="c_index" if validation else "last",
        ),
        seeds=1,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["nll", "cox"])
def study(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, api.run(experiment(request.param, cohort(True)), out), out


@pytest.mark.slow
def test_planted_risk_is_found(study):
    loss, results, out = study
    table = Predictions.read(out / "predictions.csv")
    rows = table.take((table.role == "test") & (table.selection == "validation"))
    each = [rows.take(rows.fold == f) for f in range(3)]
    expected = np.mean([concordance_index(r.target[:, 0], -r.score[:, 0], r.target[:, 1]) for r in each])
    assert results["metrics"]["c_index"]["value"] == pytest.approx(expected, abs=1e-9)
    assert expected > 0.75
    assert results["metrics"]["c_index_ipcw"]["value"] > 0.7
    found = results["survival"]
    assert found["logrank"]["p"] < 1e-6
    assert found["groups"]["low"]["median"] > 3 * found["groups"]["high"]["median"]
    if loss == "nll":  # and its curves say more of a patient than one curve for all
        brier = results["metrics"]["integrated_brier"]
        assert brier["value"] < 0.8 * brier["kaplan_meier"]
    else:
        assert "integrated_brier" not in results["metrics"]


def test_time_cuts_and_censoring_come_from_the_training_part_only(study):
    loss, _, out = study
    table = Predictions.read(out / "predictions.csv")
    target = dict(zip(table.patient.tolist(), table.target.tolist(), strict=True))
    with open(out / "folds.csv", newline="") as file:
        folds = list(csv.DictReader(file))
    recorded = json.loads((out / "survival.json").read_text())["splits"]
    assert len(recorded) == 3
    for entry in recorded:
        train = [target[r["patient"]] for r in folds if r["fold"] == str(entry["fold"]) and r["role"] == "train"]
        time, event = np.array(train).T
        assert (entry["patients"], entry["events"]) == (len(time), event.sum())
        assert entry["follow_up"] == time.max()
        cuts = np.quantile(time[event == 1], [0.25, 0.5, 0.75]) if loss == "nll" else []
        np.testing.assert_allclose(entry["cuts"], cuts, rtol=1e-6)
        assert entry["runs"] == [f"r0f{entry['fold']}s0"]
    assert len({tuple(e["censoring"]["free"]) for e in recorded}) == 3


def test_the_cut_off_is_the_median_risk_of_the_validation_part(study):
    _, results, out = study
    table = Predictions.read(out / "predictions.csv")
    for selection in ("validation", "last"):
        for f in range(3):
            mine = table.take((table.selection == selection) & (table.fold == f))
            cut = np.median(mine.score[mine.role == "validation", 0])
            np.testing.assert_allclose(mine.threshold[:, 0], cut, rtol=1e-12)
    assert results["survival"]["cutoff"]["rule"] == "median risk of the run's validation part"


def test_numbers_come_again_from_the_folder(study):
    _, results, out = study
    assert write_results(out) == results


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_without_signal_the_c_index_is_about_a_half(loss, tmp_path):
    results = api.run(experiment(loss, cohort(False)), tmp_path / "run")
    entry = results["metrics"]["c_index"]
    assert entry["sampling"][0] < 0.5 < entry["sampling"][1]
    assert abs(entry["value"] - 0.5) < 0.1
    # of its log-rank p nothing is asserted: over pooled folds it is too small too often (docs/survival.md)


@pytest.mark.slow
def test_without_validation_the_cut_off_is_the_training_part_s(tmp_path):
    base = experiment("cox", cohort(True), validation=0.0)
    base = replace(base, train=replace(base.train, epochs=2))
    with_train = replace(base, predict_train=True)
    results = api.run(with_train, tmp_path / "a")
    table = Predictions.read(tmp_path / "a/predictions.csv")
    for f in range(3):
        mine = table.take(table.fold == f)
        np.testing.assert_allclose(mine.threshold[:, 0], np.median(mine.score[mine.role == "train", 0]), rtol=1e-12)
    assert results["survival"]["cutoff"]["rule"] == "median risk of the run's training part"
    again = api.run(base, tmp_path / "b")
    assert again["survival"]["groups"] == results["survival"]["groups"]
    assert set(Predictions.read(tmp_path / "b/predictions.csv").role.tolist()) == {"test"}


def test_cox_with_one_bag_a_step_is_refused():
    with pytest.raises(ConfigError, match="batch_bags"):
        replace(experiment("cox", cohort(True)), train=Train(Adam(0.01), batch_bags=1))


# tables


def from_table(tmp_path, rows):
    """The experiment on a CSV of `time,event` rows."""
    (tmp_path / "c.csv").write_text(
        "slide_id,patient_id,time,event\n" + "".join(f"s{i},p{i},{t},{e}\n" for i, (t, e) in enumerate(rows))
    )
    rng = np.random.default_rng(0)
    write_store(str(tmp_path / "f.h5"), [Bag(f"s{i}", rng.normal(size=(3, 4))) for i in range(len(rows))])
    data = Cohort(str(tmp_path / "c.csv"), str(tmp_path / "f.h5"))
    return experiment("cox", data)


GOOD = [(str(i + 1), str(i % 2)) for i in range(24)]
TABLES = {
    "negative time": ([("-3", "1"), *GOOD], CohortError, "'time' is '-3' in line 2.*above 0"),
    "zero time": ([("0", "1"), *GOOD], CohortError, "'time' is '0' in line 2.*above 0"),
    "text for a time": ([("three", "1"), *GOOD], CohortError, "'time' is 'three' in line 2"),
    "infinite time": ([("inf", "1"), *GOOD], CohortError, "'time' is 'inf' in line 2"),
    "event 2": ([("3", "2"), *GOOD], CohortError, "'event' is '2' in line 2.*0 or 1"),
    "no event": ([(t, "0") for t, _ in GOOD], CohortError, "holds no event"),
    "one patient": ([("3", "1")], ProtocolError, "patient"),
    "one event, so some training part has none": (
        [(t, "1" if t == "5" else "0") for t, _ in GOOD], ProtocolError, "event",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TABLES))
def test_a_table_that_cannot_be_used_is_refused_before_training(tmp_path, case):
    rows, error, message = TABLES[case]
    with pytest.raises(error, match=message) as caught:
        prepare(from_table(tmp_path, rows))
    assert len(str(caught.value)) > 30


def test_an_empty_cell_leaves_the_row_out_and_says_so(tmp_path):
    made = prepare(from_table(tmp_path, [("NaN", "1"), ("", "0"), ("4", "na"), *GOOD]))
    assert len(made.study) == len(GOOD)
    assert json.dumps(made.study.flow.as_dict()).count("time") >= 1


@pytest.mark.slow
def test_test_parts_without_an_event_are_refused_or_undefined_with_a_reason(tmp_path):
    # four events in eight folds: at least four test parts have none
    rows = [(t, "1" if t in ("3", "4", "5", "6") else "0") for t, _ in GOOD]
    made = replace(from_table(tmp_path, rows), protocol=KFold(folds=8, validation=0.1))
    with pytest.raises(ProtocolError, match="the test part holds no event"):
        prepare(made)
    allowed = replace(made, protocol=replace(made.protocol, allow_single_class=True))
    entry = api.run(allowed, tmp_path / "run")["metrics"]["c_index"]
    assert entry["undefined_folds"] >= 4
    assert "no two patients whose order is known" in entry["note"]
