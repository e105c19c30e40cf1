"""Experiments to JSON and back; nothing but milkit's own choices is ever built."""

import json
import subprocess
import sys
import textwrap

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


REFUSED = {
    # ranges
    "train=Train(epochs=0)": "train.epochs is 0; expected a whole number, at least 1.",
    "train=Train(patience=-1)": "train.patience is -1; expected a whole number or None, at least 1.",
    "train=Train(instance_dropout=1.0)": "train.instance_dropout is 1.0; expected a number, in [0, 1).",
    "train=Train(clip=0.0)": "train.clip is 0.0; expected a number or None, above 0.",
    "train=Train(clip=float('inf'))": "train.clip is inf; expected a number or None.",
    "train=Train(Adam(-1.0))": "train.optimizer.learning_rate is -1.0; expected a number, at least 0.",
    "train=Train(Adam(b1=1.0))": "train.optimizer.b1 is 1.0; expected a number, in [0, 1).",
    "train=Train(AdamW(b2=1))": "train.optimizer.b2 is 1; expected a number, in [0, 1).",
    "train=Train(Sgd(momentum=1.5))": "train.optimizer.momentum is 1.5; expected",
    "seeds=0": "seeds is 0; expected a whole number, at least 1.",
    "seed=2**32": "seed is 4294967296; expected a whole number, in [0, 4294967296).",
    "task=Survival(bins=0)": "task.bins is 0; expected a whole number, in [2, 100].",
    "task=Survival(bins=10**6)": "task.bins is 1000000; expected",
    "model=ABMIL(encoder=(8, -4))": "model.encoder is (8, -4); expected a tuple of whole numbers, at least 1.",
    "model=ABMIL(dropout=1.0)": "model.dropout is 1.0; expected a number, in [0, 1).",
    "model=BagNetRC(widths=(0, 0))": "model.widths is (0, 0); expected",
    "model=EmbeddingPooling(head=(-1,))": "model.head is (-1,); expected",
    # types
    "train=Train(epochs='2')": "train.epochs is '2'; expected a whole number: write 2.",
    "train=Train(epochs=2.5)": "train.epochs is 2.5; expected a whole number such as 50.",
    "train=Train(Adam('1e-3'))": "train.optimizer.learning_rate is '1e-3'; expected a number: write 0.001.",
    "train=Train(standardise='yes')": "train.standardise is 'yes'; expected True or False such as False.",
    "seeds=[1, 2]": "seeds is [1, 2]; expected a whole number such as 1.",
    "seeds=True": "seeds is True; expected a whole number such as 1.",
    "model=ABMIL(8, 4)": "model.encoder is 8; expected a tuple of whole numbers: write (8,).",
    "model=ABMIL([8, 4])": "model.encoder is [8, 4]; expected a tuple of whole numbers: write (8, 4).",
    "model=ABMIL((8, 'x'))": "model.encoder is (8, 'x'); expected a tuple of whole numbers such as (512,).",
    "model=BagStatistics(('mean', 'median'))": "model.statistics is ('mean', 'median'); expected a tuple of",
    "model=InstancePooling('median')": "model.pooling is 'median'; did you mean 'mean'?",
    "task=MultiLabel('tp53')": "task.labels is 'tp53'; expected a tuple of text: write ('tp53',).",
    "task=MultiLabel(())": "task.labels is (); name the columns that hold 0 or 1, at least one",
    "task=Regression(())": "task.labels is (); name the columns that hold the values",
    "task=Regression(('a', 'a'))": "none twice",
    "protocol=KFold('5')": "protocol.folds is '5'; expected a whole number: write 5.",
    "protocol=KFold(group='hospital')": "protocol.group is 'hospital'; there is patient, site.",
    "protocol=SavedFolds(3)": "protocol.path is 3; expected text or a tuple of text.",
    "data=Cohort('c.csv', ['a.h5', 'b.h5'])": "expected text or a tuple of text or Aligned: write ('a.h5', 'b.h5')",
    "data=Classic(1)": "data.name is 1; expected text.",
    "data=Cohort('c.csv', 'f.h5', covariates='age')": "data.covariates is 'age'; expected a tuple of ",
    "model=ABMIL(covariates='early')": "model.covariates is 'early'; there is concatenate, late, none",
    # choices
    "train=Train(schedule='linear')": "train.schedule is 'linear'; there is constant, cosine, exponential",
    "task=MultiClass(class_weights='balance')": "task.class_weights is 'balance'; did you mean 'balanced'",
    "unit='patients'": "unit is 'patients'; did you mean 'patient'",
    # parts
    "model=ABMIL": "model is the class ABMIL; write ABMIL(...), with brackets.",
    "protocol=KFold": "protocol is the class KFold; write KFold(...)",
    "train=Train(Adam)": "train.optimizer is the class Adam; write Adam(...)",
    "train=Train(100)": "train.optimizer is 100; expected Sgd or Adam or AdamW such as Adam(",
    "model='ABMIL'": "no build",
    "model=Loose()": "frozen dataclass",
    "data='musk1'": "data is 'musk1'; expected a configuration such as Cohort",
    "protocol=5": "protocol is 5; expected",
    "train=Train('adam')": "train.optimizer is 'adam'; expected",
    # what does not fit together
    "train=Train(select='c_index')": "MultiClass does not have",
    "optimistic='last'": "selects nothing",
    "task=Survival(loss='cox')": "train.batch_bags is 1",
    "protocol=KFold(validation=0)": "validation=0",
    "protocol=KFold(validation=0), optimistic='auroc'": "train.select='last' (optimistic works beside it: it needs no",
}


@pytest.fixture(scope="module")
def messages():
    """What each change is answered, outside of the tests' own signature checks: as a researcher meets it."""
    code = textwrap.dedent(f"""
        import json
        from dataclasses import dataclass, replace
        from milkit import *
        from milkit.models import *
        from milkit.errors import MilkitError
        @dataclass
        class Loose:
            def build(self, in_features, out_features, *, rngs): ...
        study = Experiment(data=Cohort("c.csv", "f.h5"), protocol=KFold(), model=ABMIL(), task=MultiClass())
        answers = {{}}
        for change in {list(REFUSED)!r}:
            try:
                eval(f"replace(study, {{change}})")
            except MilkitError as error:
                answers[change] = str(error)
            except Exception as error:
                answers[change] = f"not ours: {{error!r}}"
        print(json.dumps(answers))
    """)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("change", REFUSED)
def test_what_does_not_fit_is_refused_when_written(messages, change):
    assert REFUSED[change] in messages.get(change, "nothing was raised")


def test_numbers_and_paths_of_other_kinds_become_the_fields_own():
    """NumPy's scalars and whole numbers for real ones: equal choices are equal, and JSON can hold them."""
    code = (
        "import numpy as np, json; from pathlib import Path; from milkit import *; from milkit.config import to_json\n"
        "train = Train(Adam(np.float32(0.5)), epochs=np.int64(7), clip=1)\n"
        "same = Train(Adam(0.5), epochs=7, clip=1.0); assert train == same and hash(train) == hash(same)\n"
        "table = Cohort(Path('c.csv'), 'f').table\n"
        "print(json.dumps(to_json((train.optimizer.learning_rate, train.epochs, train.clip, table))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [0.5, 7, 1.0, "c.csv"]
    assert ", 7, 1.0, " in run.stdout


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="cannot hold inf"):
        to_json({"clip": float("inf")})
