"""Experiments to JSON and back; nothing but milkit's own choices is ever built."""

import json
import re
import subprocess
import sys
import textwrap
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
        ("train=Train(epochs=0)", "train.epochs is 0"),
        ("train=Train(select='c_index')", "MultiClass does not have"),
        ("train=Train(Adam(-1.0))", "train.optimizer.learning_rate is -1.0"),
        ("train=Train(schedule='linear')", r"train\.schedule is 'linear'; there is constant, cosine"),
        ("task=MultiClass(class_weights='balance')", r"task\.class_weights is 'balance'; did you mean 'balanced'"),
        ("unit='patients'", "unit is 'patients'; did you mean 'patient'"),
        ("seeds=0", "seeds is 0"),
        ("seed=2**32", "seed is 4294967296"),
        ("optimistic='last'", "selects nothing"),
        ("model='ABMIL'", "no build"),
        ("model=Loose()", "frozen dataclass"),
        ("task=Survival(loss='cox')", "train.batch_bags is 1"),
        ("task=Survival(bins=0)", "at least 2 time bins"),
        ("data='musk1'", "data is 'musk1'; expected a configuration such as Cohort"),
        ("protocol=5", "protocol is 5; expected"),
        ("train=Train('adam')", "train.optimizer is 'adam'; expected"),
        ("protocol=KFold(validation=0)", "validation=0"),
    ],
)
def test_what_does_not_fit_is_refused_when_written(change, message):
    """As outside of tests, where no signature is checked: what a researcher mistypes must be caught by us."""
    code = textwrap.dedent(f"""
        from dataclasses import dataclass, replace
        from milkit import *
        @dataclass
        class Loose:
            def build(self, in_features, out_features, *, rngs): ...
        study = Experiment(data=Cohort("c.csv", "f.h5"), protocol=KFold(), model=ABMIL(), task=MultiClass())
        replace(study, {change})
    """)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("milkit.errors.")
    assert re.search(message, last)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="cannot hold inf"):
        to_json(replace(STUDY, train=replace(STUDY.train, clip=float("inf"))))
