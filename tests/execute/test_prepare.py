"""What programs are made of: stored dtypes, widths, and memory that is not there."""

import json
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit import Bag, Binary, Cohort
from milkit.data.store import write_store
from milkit.errors import ConfigError, DataError
from milkit.execute import prepare as module
from milkit.execute.prepare import pack, prepare
from milkit.execute.run import execute
from milkit.execute.spreading import default_width, spread_of
from milkit.metrics import youden_threshold
from milkit.models import ABMIL
from milkit.predictions import Predictions
from milkit.train.run_axis import devices_for


@pytest.fixture
def files(tmp_path):
    """A store of a dtype and a table; returns the data of an experiment."""
    xs, _ = planted.bags(24)
    for i in range(1, 24, 2):
        xs[i][0, 0] += 3.0
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,patient_id,label\n" + "".join(f"s{i},p{i},{i % 2}\n" for i in range(24)))

    def make(dtype):
        write_store(tmp_path / f"{dtype}.h5", [Bag(f"s{i}", x) for i, x in enumerate(xs)], dtype=dtype)
        return Cohort(str(table), str(tmp_path / f"{dtype}.h5"))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_features_stay_as_stored_on_the_device_and_train(files, experiment, tmp_path, dtype):
    data = files(dtype)
    assert str(pack(data.load(Binary(), "patient")).x.dtype) == dtype
    execute(replace(experiment, data=data, seeds=1), tmp_path / "run")
    p = Predictions.read(tmp_path / "run" / "predictions.csv")
    assert np.isfinite(p.logits).all()
    # float32 is exact; half precision moves logits by its rounding and no more
    if dtype != "float32":
        execute(replace(experiment, data=files("float32"), seeds=1), tmp_path / "exact")
        exact = Predictions.read(tmp_path / "exact" / "predictions.csv")
        np.testing.assert_allclose(p.logits, exact.logits, atol={"float16": 0.05, "bfloat16": 0.3}[dtype])


def test_width_follows_from_experiment_and_data(experiment):
    free = replace(experiment, train=replace(experiment.train, width=None))
    study = free.data.load(free.task, free.unit)
    # one program of up to 64, then even ones, filled up to a multiple of four: 500 runs are eight of 63
    assert [default_width(free, study, runs=n) for n in (1, 3, 5, 20, 50, 70, 500)] == [1, 3, 8, 20, 52, 36, 64]
    assert spread_of(free, study, 20).width == 5  # 20 in blocks of at most 8
    long = replace(study, lengths=np.full(len(study), 200_000))
    assert spread_of(free, long, 20).width == 1
    some = replace(free, train=replace(free.train, max_instances=1000))
    # training is light then, but evaluation sees 200,000 instances: 8 bytes x 512 wide x 200,000 = .76 GiB a run
    assert spread_of(some, long, 20).width == 2
    # and an epoch is dear: 200,000 instances a bag x 30 bags x 6 x some 100 parameters: fewer runs a program
    assert default_width(replace(free, model=ABMIL(encoder=(512,))), long, runs=50) == 4
    # weights, gradient and Adam's two moments of 6 x 50,000 parameters: 4.8 MB, more than one run's share of a cache
    wide = replace(free, model=ABMIL(encoder=(50_000,), attention=1))
    assert spread_of(wide, study, 20).width == 1


@pytest.mark.parametrize(
    ("blocks", "devices", "shared_by"), [(10, 2, 2), (10, 4, 2), (7, 2, 1), (1, 8, 1), (12, 96, 12)]
)
def test_blocks_are_cut_evenly_over_devices(blocks, devices, shared_by):
    assert devices_for(blocks, devices) == shared_by


@pytest.mark.slow
def test_selection_needs_a_validation_part_in_given_folds_too(experiment, tmp_path):
    from milkit import GivenFolds
    from milkit.data.datasets import Classic

    given = replace(experiment, data=Classic("musk1"), protocol=GivenFolds(validation=0.0))
    with pytest.raises(ConfigError, match="there is none"):
        prepare(given)
    execute(replace(given, protocol=GivenFolds(validation=0.1, repeats=1), seeds=1), tmp_path / "run")


def slides_with_their_own_labels(tmp_path):
    """Every other patient has a negative and a positive slide, the others two negative ones."""
    xs, _ = planted.bags(24)
    for x in xs[3::4]:
        x[0, 0] += 3.0
    write_store(tmp_path / "s.h5", [Bag(f"s{i:02d}", x) for i, x in enumerate(xs)])
    sexes = ["f", "m", "f", ""]
    rows = "".join(f"s{i:02d},p{i // 2:02d},{int(i % 4 == 3)},{sexes[i // 2 % 4]}\n" for i in range(24))
    (tmp_path / "c.csv").write_text("slide_id,patient_id,label,sex\n" + rows)
    return Cohort(str(tmp_path / "c.csv"), str(tmp_path / "s.h5"), slide_labels=True)


@pytest.mark.slow
def test_slides_may_have_labels_of_their_own(experiment, tmp_path):
    data = slides_with_their_own_labels(tmp_path)
    study = replace(experiment, data=data, unit="slide", seeds=1)
    prepared = execute(study, tmp_path / "run")
    assert prepared.measured == "slide"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["measured"] == "slide"
    p = Predictions.read(tmp_path / "run" / "predictions.csv")
    for run in set(p.run.tolist()):
        mine = (p.run == run) & (p.role == "validation") & (p.selection == "validation")
        # of slides; pooled to patients, one of whom has both labels, it would be another
        assert p.threshold[mine][0, 0] == youden_threshold(p.target[mine, 0], p.score[mine, 1])
    lines = (tmp_path / "run" / "columns.csv").read_text().splitlines()
    assert lines[:3] == ["bag,patient,sex", "s00,p00,f", "s01,p00,f"]
    assert len(lines) == 25


@pytest.mark.slow
def test_patients_have_one_target_where_bags_are_patients(experiment, tmp_path):
    study = slides_with_their_own_labels(tmp_path).load(Binary(), "slide")
    assert module.measured_unit(study, False) == "slide"
    with pytest.raises(DataError, match="Bags of patient 'p01' differ"):
        module.measured_unit(replace(study, unit="patient"), False)
    same = replace(study, targets=replace(study.targets, values=np.zeros(24, np.int64)))
    assert module.measured_unit(same, False) == "patient"
    assert module.measured_unit(same, True) == "slide"
