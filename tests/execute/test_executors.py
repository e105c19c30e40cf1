"""Programs run anywhere, any number at a time, and leave the bytes that one process leaves."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import planted
import pytest
from flax import nnx

from milkit import api
from milkit.cli import main
from milkit.data.memory import InMemory, in_memory
from milkit.errors import ConfigError, DataError, NonFiniteError, RunFolderError
from milkit.execute.claim import claimed
from milkit.execute.environment import decides_bits, environment
from milkit.execute.executors import Where
from milkit.execute.executors.handover import bags_from, bags_to_bytes, rebuild
from milkit.execute.executors.processes import shares
from milkit.execute.folder import locked, open_folder, sweep
from milkit.execute.prepare import prepare
from milkit.execute.run import execute, execute_part
from milkit.execute.subset import chosen
from milkit.execute.threads import pool_size
from milkit.train.config import Sgd
from milkit.types import Bag, Output

TWO = Where("processes", workers=2)


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    execute(experiment, out)
    return out


def files(out):
    """Everything that may not differ between two runs, by name."""
    names = ["predictions.csv", "history.jsonl", "runs.csv", "top_instances.csv", "attention.json", "cohort.json"]
    paths = [out / name for name in names] + sorted((out / "weights").iterdir())
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


@pytest.mark.slow
def test_two_processes_leave_the_bytes_of_one(experiment, finished, tmp_path):
    execute(experiment, tmp_path / "run", where=TWO)
    assert files(tmp_path / "run") == files(finished)


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_error_of_the_study(experiment, tmp_path):
    wild = replace(experiment, train=replace(experiment.train, optimizer=Sgd(1e30, momentum=0.0)))
    said = []
    for name, where in (("run", Where()), ("run", TWO)):  # one place, as the message names it
        with pytest.raises(NonFiniteError) as error:
            execute(wild, tmp_path / name, where=where, force=True)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.slow
def test_parts_of_a_study_in_one_folder_at_the_same_time(experiment, finished, tmp_path):
    """As a Slurm array runs them: separate processes, one folder, started at once, none of which made it before."""
    out = tmp_path / "run"
    code = (
        "import sys, planted; from pathlib import Path; from milkit.execute.run import execute_part\n"
        "print(execute_part(planted.experiment(2), Path(sys.argv[1]), sys.argv[2]))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(planted.__file__).parent), *sys.path])}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(out), part], stdout=subprocess.PIPE, env=env)
        for part in ("0/2", "1")
    ]
    left = [int(p.communicate()[0].split()[-1]) for p in started]
    assert [p.returncode for p in started] == [0, 0]
    assert min(left) == 0
    assert not (out / "predictions.csv").exists()
    execute(experiment, out, resume=True)
    assert files(out) == files(finished)


def test_parts_share_a_folder_and_whole_studies_do_not(experiment, tmp_path):
    with locked(tmp_path / "run", shared=True):
        with locked(tmp_path / "run", shared=True):
            pass
        with pytest.raises(RunFolderError, match="Another process is writing"):
            execute(experiment, tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(RunFolderError, match="Another process is writing"):
        execute_part(experiment, tmp_path / "run", "0")


def test_a_part_names_programs_that_there_are():
    assert chosen("3", 5) == [3]
    assert chosen("0-2,4", 5) == [0, 1, 2, 4]
    assert chosen("1/3", 8) == [1, 4, 7]
    assert chosen("7/8", 3) == []
    assert sorted(p for i in range(3) for p in chosen(f"{i}/3", 8)) == list(range(8))
    for text, said in (("5", "5 programs, numbered from 0 to 4"), ("3-1", "backwards"), ("a", "cannot be read"),
                       ("2/2", "from 0 to 1"), ("", "cannot be read")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            chosen(text, 5)


def test_each_worker_has_its_share_of_the_cores():
    assert shares([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert shares([4, 5, 6], 2) == [[4, 5], [6]]
    assert shares([0, 1], 3) == [[0], [1], [0]]
    assert sorted(core for share in shares(range(7), 3) for core in share) == list(range(7))


def test_what_does_not_fit_together_is_refused():
    for arguments, said in (
        ({"executor": "spark"}, "choose one of local, processes, ray"),
        ({"executor": "processes", "workers": 0}, "1 or more"),
        ({"workers": 2}, "name one of them"),
        ({"executor": "processes", "ray_address": "auto"}, "for executor 'ray'"),
    ):
        with pytest.raises(ConfigError, match=said):
            Where(**arguments)


def test_a_claim_goes_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from milkit.execute.claim import claimed\n"
        "with claimed(Path(sys.argv[1]), lambda: False): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "0000")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        looks = iter([False, False, True])
        with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "0000", lambda: next(looks)):
            pass
        holder.kill()
        with claimed(tmp_path / "0000", lambda: False):
            pass
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("dtype", ["float16", "float64", jnp.bfloat16])
def test_bags_in_memory_are_handed_over_to_the_bit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    made = in_memory(
        [
            Bag("a", rng.normal(size=(3, 2)).astype(dtype)),
            Bag(
                "b",
                rng.normal(size=(1, 2)).astype(dtype),
                np.array([[1.5, -2.0]], np.float32),
                np.array([[6, -8]]),
                64.0,
                0.25,
            ),
        ],
        [{"label": 0, "site": "ü,\n"}, {"label": 1, "site": None}],
        name="two",
    )
    (tmp_path / "bags").write_bytes(bags_to_bytes(made))
    again = bags_from(tmp_path / "bags")
    assert isinstance(again, InMemory)
    assert (again.name, again.rows, again.digest) == (made.name, made.rows, made.digest)
    assert again.bags[0].x.dtype == made.bags[0].x.dtype
    assert again.bags[0].coords_um is None
    assert again.bags[0].coords_px is None
    assert again.bags[1].coords_px.tolist() == [[6, -8]]
    assert (again.bags[1].tile_um, again.bags[1].mpp) == (64.0, 0.25)
    moved = replace(made, bags=(made.bags[0], replace(made.bags[1], mpp=0.5)))
    assert moved.digest != made.digest


def test_a_worker_refuses_other_data_and_another_environment(experiment, finished, tmp_path):
    bits = json.loads(json.dumps(decides_bits(environment())))
    bags = tmp_path / "bags"
    bags.write_bytes(bags_to_bytes(experiment.data))
    assert rebuild(finished, bags, bits).programs == prepare(experiment).programs
    with pytest.raises(RunFolderError, match="threads 99 there"):
        rebuild(finished, bags, bits | {"threads": 99})
    bags.write_bytes(bags_to_bytes(planted.binary(shift=2.0)))
    with pytest.raises(DataError, match="data_digest differs"):
        rebuild(finished, bags, bits)


@dataclass(frozen=True)
class Means:
    """A model of one's own."""

    def build(self, in_features, out_features, *, rngs):
        return MeansModule(in_features, out_features, rngs)


class MeansModule(nnx.Module):
    def __init__(self, in_features, out_features, rngs):
        self.last = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, bags, *, deterministic=True, rngs=None):
        mean = jnp.where(bags.mask[..., None], bags.x, 0).sum(1) / jnp.maximum(bags.mask.sum(1)[:, None], 1)
        return Output(logits=self.last(mean))


def test_a_model_without_a_file_is_refused_before_any_worker_starts(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("milkit.execute.source.file_of", lambda model: None)
    with pytest.raises(ConfigError, match=r"'Means' was defined where no file could be kept.*local"):
        execute(replace(experiment, model=Means()), tmp_path / "run", where=TWO)


def test_a_file_that_starts_its_study_when_imported_is_told_so(tmp_path):
    """The model's class comes from a script, which each worker has to import."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(planted.__file__).parent)!r})\n"
        "import planted; from dataclasses import replace, dataclass; from milkit.execute.run import execute\n"
        "from milkit.execute.executors import Where; from milkit.models import ABMIL; from pathlib import Path\n"
        "from milkit.errors import MilkitError\n"
        "@dataclass(frozen=True)\nclass Own(ABMIL):\n"
        "    def build(self, *a, **k): return super().build(*a, **k)\n"
        "study = replace(planted.experiment(2), model=Own(encoder=(8,), attention=4))\n"
        f"execute(study, Path({str(tmp_path / 'run')!r}), where=Where('processes', 1))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "ConfigError: A worker imports the experiment's file, which starts a study" in run.stderr


def test_a_study_goes_on_with_the_threads_that_it_began_with(experiment, tmp_path):
    """XLA cuts sums by the size of its thread pool, so another one gives other bits; cores do not matter."""
    out = tmp_path / "run"
    small = replace(experiment, seeds=1, train=replace(experiment.train, epochs=1))
    execute(small, out)
    env = json.loads((out / "environment.json").read_text())
    assert env["threads"] == pool_size()
    (out / "environment.json").write_text(json.dumps(env | {"threads": 77}))
    with pytest.raises(RunFolderError, match=rf"threads 77 then, {pool_size()} now"):  # JAX has begun here
        execute(small, out, resume=True)
    code = (
        "from milkit.execute.threads import same_pool, pool_size; import sys\n"
        "same_pool({'threads': 77}); import jax; jax.devices(); same_pool({'threads': 5}); sys.exit(pool_size() != 77)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_a_kill_leaves_is_swept_and_nothing_else(tmp_path):
    (tmp_path / "programs" / "0000").mkdir(parents=True)
    (tmp_path / "figures").mkdir()
    left = ["environment.json.12.tmp", ".predictions.csv.7.tmp", ".report.html.tmp", ".folds.csv.x1_y.part",
            "programs/0000/done.json.3.tmp", "figures/.roc.svg.4.tmp"]  # fmt: skip
    kept = ["notes.tmp", "predictions.csv.bak", "my.thesis.part", "programs/0000/done.json"]
    for name in left + kept:
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_force_that_is_killed_leaves_a_folder_that_can_be_started(tmp_path, monkeypatch, steps):
    """Killed after each removal in turn: afterwards no part of the old run is taken for one of the new."""
    for name in ("environment.json", "config.json", "predictions.csv", "results.json"):
        (tmp_path / name).write_text('{"experiment": 1}')
    (tmp_path / "programs" / "0000").mkdir(parents=True)
    (tmp_path / "programs" / "0000" / "done.json").write_text("[]")
    (tmp_path / "weights").mkdir()

    class Killed(BaseException):
        pass

    whole, count = Path.unlink, [0]

    def unlink(self, **kwargs):
        count[0] += 1
        if count[0] == steps:
            raise Killed
        return whole(self, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        try:
            open_folder(tmp_path, {"experiment": 2}, resume=False, force=True)
        except Killed:
            assert not list(tmp_path.glob("programs/*/done.json"))
    assert not open_folder(tmp_path, {"experiment": 2}, resume=False, force=True)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("programs", "weights")]


@pytest.mark.slow
def test_a_model_of_ones_own_is_built_by_workers_from_the_kept_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        f"import sys; sys.path.insert(0, {str(Path(planted.__file__).parent)!r})\n"
        "import planted; from dataclasses import replace, dataclass; from milkit.models import ABMIL\n"
        "@dataclass(frozen=True)\nclass Own(ABMIL):\n"
        "    def build(self, *a, **k): return super().build(*a, **k)\n"
        "small = planted.experiment(2)\n"
        "study = replace(small, model=Own(encoder=(8,), attention=4), seeds=1, train=replace(small.train, epochs=2))\n"
    )
    study = api.experiments(file)["study"]
    execute(study, tmp_path / "here", source=file)
    execute(study, tmp_path / "there", source=file, where=Where("processes", workers=1))
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_the_command_line_names_what_does_not_fit(tmp_path, capsys):
    file = tmp_path / "none.py"
    for options, said in (
        (["--executor", "spark"], "choose one of local, processes, ray"),
        (["--workers", "2"], "name one of them"),
        (["--executor", "processes", "--workers", "two"], "--workers"),
        (["--programs", "1", "--force"], "neither --force nor --track"),
    ):
        assert main(["run", str(file), *options]) == 2
        assert said in capsys.readouterr().err
