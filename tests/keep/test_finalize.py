"""From a run folder to a model folder: what is kept, that it is the run's, and what is refused."""

import csv
import json
import shutil
import statistics
from dataclasses import replace

import numpy as np
import planted
import pytest
from safetensors.numpy import load_file, save_file

from milkit import api
from milkit.cli import main
from milkit.errors import ConfigError, RunFolderError
from milkit.keep.folder import digest_of, whole_folder
from milkit.predictions import Predictions

PATIENTS = [f"p{i:03d}" for i in range(24)]  # "b007" would stand in some digest by chance


def test_every_member_says_what_its_run_said(home, ensemble):
    """The members' probabilities of their own test patients are those of predictions.csv."""
    kept = api.load_model(ensemble)
    study = _study(home)
    from milkit.keep.speak import speak

    said = speak(kept, study.lengths, study.read)
    rows = Predictions.read(home / "run" / "predictions.csv")
    rows = rows.take((rows.role == "test") & (rows.selection == "validation"))
    row_of = {bag: i for i, bag in enumerate(study.bag.tolist())}
    assert len(kept.members) == 6
    compared = 0
    for m, member in enumerate(kept.members):
        mine = rows.take(rows.run == member["run"])
        there = [row_of[bag] for bag in mine.bag.tolist()]
        np.testing.assert_allclose(said.members[m, there], mine.score, atol=1e-6)
        np.testing.assert_allclose(said.logits[m, there], mine.logits, atol=1e-5)
        compared += len(mine)
    assert compared == 48  # 24 patients, 2 seeds
    np.testing.assert_array_equal(said.score, said.members.mean(0))


def _study(home):
    from milkit.data.cohort import Cohort
    from milkit.task import Binary

    return Cohort(str(home / "home.csv"), str(home / "home.h5")).load(Binary())


def test_an_ensemble_of_one_run_gives_that_runs_predictions(home, tmp_path, make_run):
    from milkit.data.cohort import Cohort
    from milkit.data.protocol import Holdout

    base = planted.experiment(width=1)
    data = Cohort(str(home / "home.csv"), str(home / "home.h5"))
    make_run(replace(base, data=data, protocol=Holdout(test=0.25, validation=0.25), seeds=1), tmp_path / "run")
    api.finalize(tmp_path / "run", tmp_path / "model")
    header, *rows = api.predict(tmp_path / "model", home / "home.h5", cohort=home / "home.csv")
    said = {row[0]: float(row[header.index("prob_1")]) for row in rows}
    trained = {row[0]: row[header.index("in_training")] for row in rows}
    assert all(row[header.index("sd_1")] == "" for row in rows)  # one member has no spread
    table = Predictions.read(tmp_path / "run" / "predictions.csv")
    table = table.take((table.role == "test") & (table.selection == "validation"))
    for patient, score in zip(table.patient.tolist(), table.score[:, 1], strict=True):
        assert said[patient] == pytest.approx(score, abs=1e-6)
        assert trained[patient] == "no"  # a held-out patient was never trained on
    assert sorted(trained.values()) == ["no"] * len(table) + ["yes"] * (24 - len(table))


def test_model_json_holds_what_is_needed_and_no_id(ensemble):
    facts = json.loads((ensemble / "model.json").read_text())
    assert facts["features"] == {
        "encoder": "enc-1", "mpp": 0.5, "tile_um": None, "tile_px": None, "encoder_digest": None, "dtype": "float32",
    }  # fmt: skip
    assert (facts["in_features"], facts["out_features"], facts["names"]) == (6, 1, ["0", "1"])
    assert facts["training"]["counts"]["patients"] == 24
    assert facts["training"]["counts"]["slides"] == 24
    assert len(facts["training"]["seen"]["features"]) == 24
    assert 0 < facts["threshold"]["value"][0] < 1
    assert "validation patients of 6 runs" in facts["threshold"]["from"]
    assert 0.1 <= facts["temperature"]["value"][0] <= 10
    assert facts["expected"]["metrics"]["auroc"]["sampling"] is not None
    everything = "".join(p.read_text(errors="ignore") for p in ensemble.iterdir())
    assert not [name for name in PATIENTS if name in everything]
    assert {p.name for p in ensemble.iterdir()} == {"model.json", "weights.safetensors", "README.md"}
    assert facts["digest"] == digest_of(facts)


@pytest.mark.slow
def test_the_scalers_are_those_of_each_fold(home, ensemble):
    """Mean of the features over the instances of the member's own training part, by hand."""
    study = _study(home)
    with (home / "run" / "folds.csv").open() as file:
        trained = {row["bag"] for row in csv.DictReader(file) if (row["fold"], row["role"]) == ("1", "train")}
    x = np.concatenate([study.read(i).x for i, bag in enumerate(study.bag.tolist()) if bag in trained])
    arrays = load_file(ensemble / "weights.safetensors")
    place = [m["run"] for m in api.load_model(ensemble).members].index("r0f1s0")
    np.testing.assert_allclose(arrays["shift"][place], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(arrays["inverse_scale"][place], 1 / x.std(0), rtol=1e-4)


def test_a_refit_sees_every_bag_and_stops_at_the_median_epoch(home, tmp_path):
    first = api.finalize(home / "run", tmp_path / "first", how="refit")
    with (home / "run" / "runs.csv").open() as file:
        epochs = [int(row["selected_epoch"]) for row in csv.DictReader(file)]
    median = int(statistics.median(epochs) + 0.5)
    assert [m["epoch"] for m in first["members"]] == [median, median]
    assert [m["seed"] for m in first["members"]] == [0, 1]
    study = _study(home)
    x = np.concatenate([study.read(i).x for i in range(len(study))])
    np.testing.assert_allclose(load_file(tmp_path / "first" / "weights.safetensors")["shift"][0], x.mean(0), atol=1e-5)
    api.finalize(home / "run", tmp_path / "again", how="refit")
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_weights_differ_between_selections(home, ensemble, tmp_path):
    facts = api.finalize(home / "run", tmp_path / "last", selection="last")
    assert {m["epoch"] for m in facts["members"]} == {4}
    with pytest.raises(ConfigError, match=r"--selection best: .* has validation, last"):
        api.finalize(home / "run", tmp_path / "none", selection="best")


def test_what_is_not_finished_is_refused(run, tmp_path):
    lines = (run / "runs.csv").read_text().splitlines()
    (run / "runs.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(RunFolderError, match=r"5 of 6 runs have ended.*--resume"):
        api.finalize(run, tmp_path / "model")


def test_epochs_chosen_on_the_test_part_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="chosen on the test part"):
        api.finalize(run, tmp_path / "model", selection="optimistic")


def test_marks_travel_with_the_model(run, tmp_path):
    results = json.loads((run / "results.json").read_text())
    results["selections"]["validation"]["marks"] = ["patients in two roles"]
    (run / "results.json").write_text(json.dumps(results))
    assert api.finalize(run, tmp_path / "model")["marks"] == ["patients in two roles"]
    assert "patients in two roles" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("how", ["ensemble", "refit"])
def test_data_that_changed_are_refused(run, home, tmp_path, how):
    settings = json.loads((run / "config.json").read_text())
    settings["data_digest"] = "0" * 64
    (run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RunFolderError, match="the table or the features changed since it ran"):
        api.finalize(run, tmp_path / "model", how=how)
    assert not (tmp_path / "model").exists()


def test_a_study_in_memory_can_be_kept_and_not_refitted(tmp_path, make_run):
    base = planted.experiment(width=4)
    make_run(base, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"held in memory.*--ensemble"):
        api.finalize(tmp_path / "run", tmp_path / "model", how="refit")
    facts = api.finalize(tmp_path / "run", tmp_path / "model")
    assert facts["in_features"] == 6  # told from the weights
    assert facts["training"]["counts"]["patients"] == 24
    given = api.finalize(tmp_path / "run", tmp_path / "given", data=base.data)
    assert given["weights_sha256"] == facts["weights_sha256"]
    assert given["training"]["seen"]["patients"] == facts["training"]["seen"]["patients"]


def test_a_scaled_study_in_memory_needs_its_bags(tmp_path, run):
    settings = json.loads((run / "config.json").read_text())
    settings["experiment"]["data"] = {"type": "InMemory", "name": "planted", "bags": 24, "digest": "?"}
    (run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"feature scalers.*data=bags"):
        api.finalize(run, tmp_path / "model")


def test_a_folder_that_is_there_is_not_overwritten(ensemble, home, model, tmp_path):
    with pytest.raises(RunFolderError, match=r"already holds a model.*--force"):
        api.finalize(home / "run", model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    for force in (False, True):
        with pytest.raises(RunFolderError, match="is not a model"):
            api.finalize(home / "run", tmp_path / "full", force=force)
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"
    api.finalize(home / "run", model, force=True)
    for file in ensemble.iterdir():
        if file.name != "README.md":  # the card names the folder in its commands
            assert file.read_bytes() == (model / file.name).read_bytes()


def test_nothing_is_left_when_the_disk_is_full(model, tmp_path):
    before = {p.name: p.read_bytes() for p in model.iterdir()}

    def fill(folder):
        (folder / "model.json").write_text("half")
        raise OSError(28, "No space left on device")

    for out in (model, tmp_path / "new"):
        with pytest.raises(RunFolderError, match="No space left on device"):
            whole_folder(out, fill, "model.json", "a model", force=True)
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith((".part", ".old"))]


def test_an_edited_or_damaged_model_is_refused(model):
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(facts | {"threshold": {"value": [0.1], "from": "me"}}))
    with pytest.raises(RunFolderError, match=r"model.json was edited or damaged"):
        api.load_model(model)
    (model / "model.json").write_text(json.dumps(facts))  # other white space, same facts
    arrays = load_file(model / "weights.safetensors")
    name = next(iter(arrays))
    save_file(arrays | {name: arrays[name] + 1}, model / "weights.safetensors")
    with pytest.raises(RunFolderError, match=r"weights.safetensors is not the file that was written"):
        api.load_model(model)
    (model / "weights.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"weights.safetensors is not there"):
        api.load_model(model)
    (model / "model.json").write_text("{")
    with pytest.raises(RunFolderError, match="not readable JSON"):
        api.load_model(model)


def test_folders_that_are_no_model(home, tmp_path, capsys):
    with pytest.raises(RunFolderError, match="There is no model folder"):
        api.load_model(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="it is a run folder: make a model of it with `milkit finalize"):
        api.load_model(home / "run")
    with pytest.raises(RunFolderError, match=r"has no model.json"):
        api.load_model(tmp_path)
    assert main(["finalize", str(tmp_path), "--out", str(tmp_path / "m")]) == 2
    assert "config.json is not there" in capsys.readouterr().err


OWN_MODEL = """
from dataclasses import dataclass
import jax.numpy as jnp
from flax import nnx
from milkit import Cohort, Experiment, KFold, Output, Sgd, Train

class MeanModule(nnx.Module):
    def __init__(self, d, c, rngs):
        self.linear = nnx.Linear(d, c, rngs=rngs)
    def __call__(self, bags, *, deterministic=True, rngs=None):
        return Output(self.linear(bags.x.sum(1) / jnp.maximum(bags.mask.sum(1, keepdims=True), 1)))

@dataclass(frozen=True)
class Mine:
    def build(self, in_features, out_features, *, rngs):
        return MeanModule(in_features, out_features, rngs)

mine = Experiment(data=Cohort("home.csv", "home.h5"), protocol=KFold(folds=2, validation=0.25), model=Mine(),
                  train=Train(Sgd(0.05), epochs=1))
"""


@pytest.mark.slow
def test_a_model_of_ones_own_asks_for_trust(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (tmp_path / "study.py").write_text(OWN_MODEL)
    assert main(["run", str(tmp_path / "study.py"), "--out", str(tmp_path / "run")]) == 0
    out = str(tmp_path / "model")
    assert main(["finalize", str(tmp_path / "run"), "--out", out]) == 2
    assert "--trust-source" in capsys.readouterr().err
    assert main(["finalize", str(tmp_path / "run"), "--out", out, "--trust-source"]) == 0
    predict = ["predict", out, "other.h5", "--out", str(tmp_path / "p.csv")]
    assert main(predict) == 2
    assert "--trust-source" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run")  # the model folder stands by itself
    assert main([*predict, "--trust-source"]) == 0
    source = next((tmp_path / "model" / "source").iterdir())
    source.write_text(source.read_text() + "\n# edited")
    assert main([*predict, "--trust-source", "--force"]) == 2
    assert "digest differs" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_says_what_it_made(home, tmp_path, capsys):
    assert main(["finalize", str(home / "run"), "--out", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert "ensemble of 6 members, trained on 24 patients" in said
    assert "threshold 0." in said
