"""A search: the right configuration is chosen on validation, it is the plain study's to the bit, and tested once."""

import csv
import json
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit.data.protocol import KFold, Nested
from milkit.errors import NonFiniteError
from milkit.execute import program as program_module
from milkit.execute.executors import Where
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.execute.search.choose import Found, best
from milkit.execute.search.study import grown
from milkit.nn.dropout import Rate
from milkit.predictions import Predictions
from milkit.search import Choice, Grid, LogUniform, Random, Tpe, Uniform, stated
from milkit.train.config import Adam, Sgd
from milkit.train.engine import Engine, train_epoch

RATE, DROPOUT, GATED = "train.optimizer.learning_rate", "model.dropout", "model.gated"


def base(width=4, **changes):
    e = planted.experiment(width)
    model = replace(e.model, dropout=0.2)
    train = replace(e.train, epochs=2)
    return replace(e, model=model, train=train, protocol=KFold(folds=2, validation=0.25), **changes)


def table(file):
    with open(file, newline="") as f:
        return list(csv.DictReader(f))


def predicted(out, **only):
    p = Predictions.read(out / "predictions.csv")
    keep = np.ones(len(p), bool)
    for name, value in only.items():
        keep &= getattr(p, name) == value
    return p.take(keep)


MIXED = Random({RATE: LogUniform(0.001, 0.2), DROPOUT: Uniform(0.1, 0.5), GATED: Choice(True, False)}, 4)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Continuous fields and a discrete one: four configurations in two compilations."""
    out = tmp_path_factory.mktemp("search") / "mixed"
    execute(base(search=MIXED), out)
    return out


@pytest.mark.slow
def test_the_choice_is_that_of_plain_studies_run_one_by_one_to_the_bit(searched, tmp_path):
    """The oracle knows nothing of searches: four studies, the best mean validation loss of each fold."""
    plain = base()
    trials = [(v[RATE], v[DROPOUT], v[GATED]) for v in stated(MIXED)]
    assert {gated for _, _, gated in trials} == {True, False}
    losses = np.zeros((len(trials), 2, 2))
    for i, (rate, dropout, gated) in enumerate(trials):
        train = replace(plain.train, optimizer=replace(plain.train.optimizer, learning_rate=rate))
        execute(
            replace(plain, train=train, model=replace(plain.model, dropout=dropout, gated=gated)), tmp_path / str(i)
        )
        for row in table(tmp_path / str(i) / "runs.csv"):
            losses[i, int(row["fold"]), int(row["seed"])] = float(row["best_validation_loss"])
    chosen = losses.mean(2).argmin(0)
    for fold, trial in enumerate(chosen):
        ours, its = predicted(searched, fold=fold), predicted(tmp_path / str(trial), fold=fold)
        for field in ("run", "selection", "role", "bag", "seed", "selected_epoch"):
            assert getattr(ours, field).tolist() == getattr(its, field).tolist()
        assert ours.logits.tobytes() == its.logits.tobytes()
        rows = [r for r in table(searched / "runs.csv") if int(r["fold"]) == fold]
        assert {int(r["trial"]) for r in rows} == {trial}
        values = dict(zip((RATE, DROPOUT, GATED), map(str, trials[trial]), strict=True))
        assert all(r[name] == value for r in rows for name, value in values.items())
    # every trial's figures are those of its plain study, not the chosen ones' only
    for row in table(searched / "trials.csv"):
        own = losses[int(row["trial"]), int(row["fold"]), int(row["seed"])]
        assert float(row["validation_loss"]) == own


def test_tables_of_trials_hold_no_test_figure(searched):
    rows = table(searched / "trials.csv")
    assert list(rows[0]) == [
        "trial", "repeat", "fold", "inner", "seed", RATE, DROPOUT, GATED,
        "selected_epoch", "validation_loss", "status", "chosen",
    ]  # fmt: skip
    assert len(rows) == 4 * 2 * 2
    assert sum(row["chosen"] == "yes" for row in rows) == 2 * 2
    for file in [searched / "history.jsonl", *searched.glob("programs/*/history.jsonl")]:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert all("trial" in line and not [k for k in line if "test" in k] for line in lines)
    assert "test" not in (searched / "search.json").read_text()
    assert not list(searched.glob("programs/*/optimistic.json"))


def test_only_programs_of_chosen_runs_have_predictions(searched):
    said = json.loads((searched / "search.json").read_text())
    assert (said["tried"], said["trainings"], said["compiled"], said["failed"]) == (4, 16, 2, 0)
    tested = [f.parent for f in searched.glob("programs/*/predictions.csv")]
    rows = [row for f in tested for row in json.loads((f / "done.json").read_text())]
    assert sorted(r["run"] for r in rows) == ["r0f0s0", "r0f0s1", "r0f1s0", "r0f1s1"]
    assert len(list(searched.glob("programs/*"))) == len(tested) + _programs(16)


def _programs(runs, width=4):
    """Of the trials: gated ones and others have programs of their own."""
    gated = sum(v[GATED] for v in stated(MIXED)) * runs // 4
    return -(-gated // width) + -(-(runs - gated) // width)


def test_no_test_bag_is_ever_shown_to_a_trial_that_was_not_chosen(tmp_path, monkeypatch):
    """Every forward pass outside training goes through two doors; both are watched."""
    seen = []
    whole = Engine.predict

    def watched(self, group, params, buffers, part):
        blocks = list(zip(part.index, part.weight, strict=True))
        bags = [{b for i, w in blocks for b in i[:, r][w[:, r] > 0].tolist()} for r in range(len(group.numbers))]
        classifier = np.asarray(params["classifier"]["kernel"][...])
        seen.extend(zip(group.numbers, bags, classifier, strict=True))
        return whole(self, group, params, buffers, part)

    def judged(*_):
        raise AssertionError("the onlooker belongs to optimistic studies")

    monkeypatch.setattr(Engine, "predict", watched)
    monkeypatch.setattr(Engine, "judge", judged)
    experiment = base(search=Grid({RATE: Choice(0.001, 0.01, 0.1)}), seeds=1)
    execute(experiment, tmp_path)
    plan = prepare(experiment).plan
    kept = {tuple(row[k] for k in ("repeat", "fold", "inner", "seed")): row for row in _done(tmp_path, tested=True)}
    shown = 0
    for numbers, bags, classifier in seen:
        if bags & set(plan.splits[numbers[1]].test.tolist()):
            row = kept[numbers]
            own = [_weight(tmp_path, row, s, "params/classifier/kernel/value") for s in ("validation", "last")]
            assert any(np.array_equal(classifier, w) for w in own)
            shown += 1
    assert shown >= 4  # both folds, both selections


def _done(out, tested):
    files = [f for f in out.glob("programs/*/done.json") if (f.parent / "predictions.csv").exists() == tested]
    return [row for f in files for row in json.loads(f.read_text())]


def _weight(out, row, selection, name):
    from safetensors import safe_open

    with safe_open(out / "weights" / f"{row['program']:04d}.safetensors", framework="numpy") as f:
        return f.get_tensor(f"{selection}/{name}")[row["slot"]]


def test_all_continuous_values_are_one_compilation(tmp_path):
    e = base(seeds=1)
    e = replace(
        e, train=replace(e.train, optimizer=Sgd(0.01, weight_decay=1e-3), clip=1.0, epochs=1, warmup_epochs=0.5)
    )
    space = {
        RATE: LogUniform(1e-3, 1e-1), "train.optimizer.weight_decay": LogUniform(1e-5, 1e-2),
        "train.optimizer.momentum": Uniform(0.5, 0.9), "train.clip": Uniform(0.5, 2.0),
        "train.warmup_epochs": Uniform(0.1, 1.0), DROPOUT: Uniform(0.1, 0.5),
    }  # fmt: skip
    before = train_epoch._cache_size()
    execute(replace(e, search=Random(space, 6)), tmp_path)
    assert train_epoch._cache_size() == before + 1
    rows = _done(tmp_path, tested=False)
    assert len({row["learning_rate"] for row in rows}) == len({row["weight_decay"] for row in rows}) == 6


def test_each_run_has_the_dropout_rate_of_its_trial(tmp_path):
    study = grown(prepare(base(search=Grid({DROPOUT: Choice(0.1, 0.3, 0.45)}), seeds=1)), tmp_path)
    family = study.of(0)
    state = family.first_state(0, family.group(0))
    leaves = _rates(state.buffers)
    assert len(leaves) == 1
    wanted = [{0: 0.1, 1: 0.3, 2: 0.45}[run.trial] for run in family.members(0)]
    assert np.asarray(leaves[0]).tolist() == np.float32(wanted).tolist()
    # paired: the trials of a fold start from the same parameters
    start = np.asarray(state.params["classifier"]["kernel"][...])
    first = {run.fold: i for i, run in reversed(list(enumerate(family.members(0))))}
    assert all(np.array_equal(start[i], start[first[run.fold]]) for i, run in enumerate(family.members(0)))
    assert len(first) == 2
    assert not np.array_equal(start[first[0]], start[first[1]])


def _rates(buffers):
    import jax

    return [
        leaf[...] for leaf in jax.tree.leaves(buffers, is_leaf=lambda x: isinstance(x, Rate)) if isinstance(leaf, Rate)
    ]


def test_values_that_change_what_is_compiled_are_families_of_their_own():
    """No decay, no dropout and no clipping are other programs; other optimisers and lengths of training too."""
    space = {
        "train.optimizer": Choice(Sgd(0.1), Adam(0.1)), RATE: Choice(0.1, 0.2),
        "train.optimizer.weight_decay": Choice(0.0, 1e-3, 1e-2), "train.clip": Choice(None, 1.0, 2.0),
    }  # fmt: skip
    from pathlib import Path

    study = grown(prepare(base(search=Grid(space))), Path("nowhere"))
    assert len(study.parts) == 2 * 2 * 2
    assert sum(len(p.runs) for p in study.parts) == 2 * 2 * 3 * 3 * 4


def test_the_best_trial_by_criterion_then_loss_then_number():
    def one(trial, metric, loss, failed=False):
        return Found(trial, metric, loss, failed, ())

    assert best([one(0, 0.7, 0.5), one(1, 0.8, 0.9)], (0, 0)).trial == 1
    assert best([one(0, 0.8, 0.5), one(1, 0.8, 0.4), one(2, 0.8, 0.4)], (0, 0)).trial == 1
    assert best([one(0, 0.9, 0.1, failed=True), one(1, 0.2, 3.0)], (0, 0)).trial == 1
    assert best([one(0, float("-inf"), 0.1), one(1, 0.2, 3.0)], (0, 0)).trial == 1
    # .9 + .7 and .8 + .8 are the same accuracy, though not in float32
    a, b = float(np.mean(np.float32([0.9, 0.7]).astype(float))), float(np.mean(np.float32([0.8, 0.8]).astype(float)))
    assert a != b
    assert (
        best([one(0, a, 0.5), one(1, b, 0.6)], (0, 0)).trial
        == best([one(0, b, 0.5), one(1, a, 0.6)], (0, 0)).trial
        == 0
    )
    with pytest.raises(NonFiniteError, match="All 1 trials of repeat 0, fold 1"):
        best([one(0, 0.9, 0.1, failed=True)], (0, 1))


def test_a_trial_that_diverges_has_lost_and_is_listed(tmp_path):
    execute(base(search=Grid({RATE: Choice(1e30, 0.05)}), seeds=1), tmp_path)
    rows = table(tmp_path / "trials.csv")
    assert {(r["trial"], r["status"], r["chosen"]) for r in rows} == {("0", "failed", "no"), ("1", "finished", "yes")}
    assert json.loads((tmp_path / "search.json").read_text())["failed"] == 2


def test_a_search_whose_trials_all_diverge_says_so(tmp_path):
    with pytest.raises(NonFiniteError, match=r"All 2 trials of repeat 0, fold 0 .*trials\.csv"):
        execute(base(search=Grid({RATE: Choice(1e30, 1e31)}), seeds=1), tmp_path)
    assert {r["status"] for r in table(tmp_path / "trials.csv")} == {"failed"}


class Killed(BaseException):
    """Stands for a kill."""


def _killed_after(monkeypatch, epochs):
    whole, count = Engine.epoch, [0]

    def epoch(self, *args):
        count[0] += 1
        if count[0] == epochs:
            raise Killed
        return whole(self, *args)

    monkeypatch.setattr(program_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Engine, "epoch", epoch)


def _same(a, b):
    """Byte for byte, but for times and machine."""
    for name in ("predictions.csv", "trials.csv", "runs.csv", "history.jsonl", "search.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_search_resumes_to_the_same_bits(searched, tmp_path, monkeypatch):
    for attempt, epochs in enumerate((3, 4)):
        with monkeypatch.context() as patch:
            _killed_after(patch, epochs)
            with pytest.raises(Killed):
                execute(base(search=MIXED), tmp_path, resume=attempt > 0)
    execute(base(search=MIXED), tmp_path, resume=True)
    _same(searched, tmp_path)


TPE = Tpe({RATE: LogUniform(1e-3, 1e-1), GATED: Choice(True, False)}, trials=5, batch=2)


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "tpe"
    execute(base(search=TPE, seeds=1), out)
    return out


@pytest.mark.slow
def test_tpe_searches_each_fold_on_its_own(adaptive):
    rows = table(adaptive / "trials.csv")
    drawn = {fold: [(r[RATE], r[GATED]) for r in rows if r["fold"] == fold] for fold in "01"}
    assert len(drawn["0"]) == len(drawn["1"]) == 5
    assert not set(drawn["0"]) & set(drawn["1"])
    assert all(1e-3 <= float(r[RATE]) <= 1e-1 for r in rows)
    for fold in "01":
        mine = [r for r in rows if r["fold"] == fold]
        least = min(mine, key=lambda r: float(r["validation_loss"]))
        assert [r["trial"] for r in mine if r["chosen"] == "yes"] == [least["trial"]]


def test_the_journal_is_one_that_optuna_reads(adaptive):
    import optuna

    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(adaptive / "search" / "optuna.journal"))
    )
    study = optuna.load_study(study_name="repeat 0 fold 1", storage=journal)
    rows = [r for r in table(adaptive / "trials.csv") if r["fold"] == "1"]
    assert [t.value for t in study.trials] == [-float(r["validation_loss"]) for r in rows]


@pytest.mark.slow
def test_tpe_killed_in_any_round_goes_on_with_the_same_proposals(adaptive, tmp_path, monkeypatch):
    for attempt, epochs in enumerate((2, 3)):
        with monkeypatch.context() as patch:
            _killed_after(patch, epochs)
            with pytest.raises(Killed):
                execute(base(search=TPE, seeds=1), tmp_path, resume=attempt > 0)
    execute(base(search=TPE, seeds=1), tmp_path, resume=True)
    _same(adaptive, tmp_path)


def test_nested_folds_choose_over_their_inner_folds(tmp_path):
    search = Grid({RATE: Choice(0.001, 0.1)})
    execute(
        base(search=search, seeds=1) and replace(base(search=search, seeds=1), protocol=Nested(folds=2, inner=2)),
        tmp_path,
    )
    rows = table(tmp_path / "trials.csv")
    for fold in "01":
        mean = [
            np.mean([float(r["validation_loss"]) for r in rows if r["fold"] == fold and r["trial"] == t]) for t in "01"
        ]
        kept = {r["trial"] for r in rows if r["fold"] == fold and r["chosen"] == "yes"}
        assert kept == {str(np.argmin(mean))}
    assert len(table(tmp_path / "runs.csv")) == 4


@pytest.mark.slow
def test_an_optimistic_choice_is_made_on_the_test_part_and_only_then(tmp_path):
    """Trial and epoch of the best test accuracy: no trial's every epoch does better."""
    search = Grid({RATE: Choice(0.001, 0.1)})
    honest, paper = base(search=search, seeds=1), base(search=search, seeds=1, optimistic="accuracy")
    execute(honest, tmp_path / "honest")
    execute(paper, tmp_path / "paper")
    a, b = predicted(tmp_path / "honest"), predicted(tmp_path / "paper")
    b_honest = b.take(b.selection != "optimistic")
    assert a.logits.tobytes() == b_honest.logits.tobytes()
    assert (tmp_path / "honest" / "trials.csv").read_bytes() == (tmp_path / "paper" / "trials.csv").read_bytes()

    def accuracy(out, fold, selection):
        p = predicted(out, fold=fold, selection=selection, role="test")
        return float(((p.logits[:, 0] > 0) == (p.target[:, 0] > 0)).mean())

    for rate in (0.001, 0.1):
        train = replace(honest.train, optimizer=replace(honest.train.optimizer, learning_rate=rate))
        execute(replace(honest, search=None, optimistic="accuracy", train=train), tmp_path / str(rate))
    for fold in (0, 1):
        single = [accuracy(tmp_path / str(rate), fold, "optimistic") for rate in (0.001, 0.1)]
        assert accuracy(tmp_path / "paper", fold, "optimistic") == max(single)


@pytest.mark.slow
def test_worker_processes_leave_the_same_bytes(adaptive, tmp_path):
    """Each round of proposals reaches the worker through the folder alone."""
    execute(base(search=TPE, seeds=1), tmp_path, where=Where("processes", 1))
    _same(adaptive, tmp_path)
