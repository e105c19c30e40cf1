"""Experiments to JSON and back; nothing but milkit's own choices is ever built."""

import json
from dataclasses import replace

import pytest

from milkit import ABMIL, Adam, Cohort, Experiment, KFold, MultiClass, Train
from milkit.config import from_json, to_json
from milkit.errors import ConfigError
from milkit.experiment import allowed_types

STUDY = Experiment(
    name="study",
    data=Cohort("cohort.csv", features=("a.h5", "b.h5")),
    protocol=KFold(folds=4, validation=0.2),
    model=ABMIL(encoder=(32, 16), gated=False),
    train=Train(Adam(1e-3, weight_decay=1e-2), epochs=7, clip=1.0, schedule="cosine", warmup_epochs=1.0),
    task=MultiClass("stage", classes=("I", "II", "III"), class_weights="balanced"),
    seeds=3,
)


def test_round_trip():
    text = json.dumps(to_json(STUDY))
    assert from_json(json.loads(text), allowed_types()) == STUDY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(type="ABMILL"), r"config\.model: unknown type 'ABMILL'; did you mean 'ABMIL'\?"),
        (lambda d: d["train"].update(epoch=3), r"config\.train: Train has no field 'epoch'; did you mean 'epochs'\?"),
        (lambda d: d.pop("data"), "Experiment cannot be built"),
        (lambda d: d["model"].update(type="os.system"), "unknown type 'os.system'"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(change, message):
    data = to_json(STUDY)
    change(data)
    with pytest.raises(ConfigError, match=message):
        from_json(data, allowed_types())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"epochs": 0}}, "train.epochs is 0"),
        ({"train": {"select": "c_index"}}, "MultiClass does not have"),
        ({"seeds": 0}, "seeds is 0"),
        ({"optimistic": "last"}, "selects nothing"),
        ({"model": "ABMIL"}, "no build"),
    ],
)
def test_what_does_not_fit_is_refused_when_written(change, message):
    if "train" in change:
        with pytest.raises(ConfigError, match=message):
            replace(STUDY, train=replace(STUDY.train, **change["train"]))
    elif "model" in change:
        with pytest.raises(Exception, match="model"):
            replace(STUDY, **change)
    else:
        with pytest.raises(ConfigError, match=message):
            replace(STUDY, **change)
