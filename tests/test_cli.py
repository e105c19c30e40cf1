"""The command line: help, typos, exit statuses, overrides, replays."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from milkit.cli import COMMANDS, main

EXPERIMENTS = '''
"""Two small studies."""
from dataclasses import replace
from milkit import ABMIL, Classic, Experiment, GivenFolds, Sgd, Train

small = Experiment(
    data=Classic("musk1"), protocol=GivenFolds(validation=0.1, repeats=1),
    model=ABMIL(encoder=(8,), attention=4), train=Train(Sgd(1e-3), epochs=2, standardise=True),
)
other = replace(small, seeds=2)
'''

OWN_MODEL = """
from dataclasses import dataclass
import jax.numpy as jnp
from flax import nnx
from milkit import Classic, Experiment, GivenFolds, Output, Sgd, Train

class MeanModule(nnx.Module):
    def __init__(self, d, c, rngs):
        self.linear = nnx.Linear(d, c, rngs=rngs)
    def __call__(self, bags, *, deterministic=True, rngs=None):
        n = jnp.maximum(bags.mask.sum(1, keepdims=True), 1)
        return Output(self.linear(bags.x.sum(1) / n))

@dataclass(frozen=True)
class Mine:
    scale: float = 1.0
    def build(self, in_features, out_features, *, rngs):
        return MeanModule(in_features, out_features, rngs)

mine = Experiment(data=Classic("musk1"), protocol=GivenFolds(validation=0.1, repeats=1), model=Mine(),
                  train=Train(Sgd(1e-3), epochs=1, standardise=True))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "studies.py"
    path.write_text(EXPERIMENTS)
    return path


def test_help_lists_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys; from milkit.cli import main; main(['--help']); "
        "print([m for m in ('jax', 'numpy', 'tyro') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded = run.stdout.strip().splitlines()
    assert loaded == "[]"
    for name in COMMANDS:
        assert any(line.strip().startswith(name) for line in text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    try:
        status = main([name, "--help"])
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status == 0
    assert "example" in capsys.readouterr().out


def test_a_typo_gets_the_nearest_command(capsys):
    assert main(["rum"]) == 2
    assert "did you mean `milkit run`?" in capsys.readouterr().err


def test_a_missing_file_and_a_wrong_name(file, capsys):
    assert main(["run", str(file.parent / "nothing.py")]) == 2
    assert "nothing.py is not there" in capsys.readouterr().err
    assert main(["run", f"{file}:smal"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'small'?" in error
    assert "small, other" in error


@pytest.mark.slow
def test_overrides_reach_the_experiment_and_the_run_can_be_repeated_to_the_bit(file, tmp_path, capsys):
    out, again = tmp_path / "run", tmp_path / "again"
    arguments = [
        "--train.epochs",
        "3",
        "--seeds",
        "2",
        "--train.optimizer.learning-rate",
        "0.002",
        "--model.attention",
        "5",
    ]
    assert main(["run", f"{file}:small", "--out", str(out), *arguments]) == 0
    assert "report.html" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    stated = config["experiment"]
    assert (stated["train"]["epochs"], stated["seeds"], stated["model"]["attention"]) == (3, 2, 5)
    assert stated["train"]["optimizer"] == {
        "type": "Sgd", "learning_rate": 0.002, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    assert stated["name"] == "small"
    assert main(["run", str(out / "config.json"), "--out", str(again)]) == 0
    assert (again / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    # the report is a function of the predictions
    results = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "results.json").read_bytes() == results
    # and a run that is there is kept
    assert main(["run", f"{file}:small", "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_typo_in_an_override_is_answered_with_the_nearest_field(file, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", f"{file}:small", "--out", str(tmp_path / "run"), "--train.epoch", "3"])
    assert stop.value.code == 2
    assert "--train.epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_value_that_makes_no_sense_is_the_users_mistake(file, tmp_path, capsys):
    assert main(["run", f"{file}:small", "--out", str(tmp_path / "run"), "--train.epochs", "0"]) == 2
    assert "train.epochs is 0" in capsys.readouterr().err


@pytest.mark.slow
def test_all_experiments_of_a_file_get_a_folder_each(file, tmp_path):
    assert main(["run", str(file), "--out", str(tmp_path / "runs"), "--train.epochs", "1"]) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"small", "other"}


@pytest.mark.slow
def test_a_model_of_ones_own_is_replayed_only_when_its_source_is_trusted(tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text(OWN_MODEL)
    out, again = tmp_path / "run", tmp_path / "again"
    assert main(["run", f"{path}:mine", "--out", str(out)]) == 0
    assert main(["run", str(out / "config.json"), "--out", str(again)]) == 2
    assert "--trust-source" in capsys.readouterr().err
    assert main(["run", str(out / "config.json"), "--out", str(again), "--trust-source"]) == 0
    assert (again / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    (out / "source" / "experiment.py").write_text(OWN_MODEL + "\n# changed")
    assert main(["run", str(out / "config.json"), "--out", str(tmp_path / "third"), "--trust-source"]) == 2
    assert "digest differs" in capsys.readouterr().err


@pytest.mark.slow
def test_wandb_offline_writes_a_run_without_a_test_metric(file, tmp_path, monkeypatch):
    """Against the real package, which must not reach for a network."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    out = tmp_path / "run"
    code = (
        "import sys; from milkit.cli import main; "
        f"sys.exit(main(['run', {str(file) + ':small'!r}, '--out', {str(out)!r}, '--track', 'wandb']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (folder,) = (out / "wandb").glob("offline-run-*")
    logged = b"".join(p.read_bytes() for p in folder.glob("*.wandb"))
    names = set(re.findall(rb"[a-z_]+/(?:q25|median|q75)", logged))
    assert names == {b + q for b in (b"train_loss/", b"validation_loss/") for q in (b"q25", b"median", b"q75")}


def test_compiled_programs_are_kept_where_the_user_keeps_caches(file, tmp_path):
    """In a fresh process without the suite's own cache; a cache of the user's own is left alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | {"XDG_CACHE_HOME": str(tmp_path)}
    code = (
        "import jax; from milkit.execute.compiled import keep_compiled; keep_compiled(); "
        "print(jax.config.jax_compilation_cache_dir)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == str(tmp_path / "milkit" / "compiled")
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "mine")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == str(tmp_path / "mine")


@pytest.mark.slow
def test_a_model_from_a_neighbouring_file_is_kept_and_replayed(tmp_path):
    """Its name is that of one of milkit's models: the kept one must win."""
    head, tail = OWN_MODEL.replace("Mine", "ABMIL").split("mine = Experiment")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "neighbour.py").write_text(head)
    path = tmp_path / "mine" / "own.py"
    path.write_text("from milkit import *\nfrom neighbour import ABMIL\nmine = Experiment" + tail)
    out, again = tmp_path / "run", tmp_path / "again"
    run = [sys.executable, "-m", "milkit", "run"]
    subprocess.run([*run, f"{path}:mine", "--out", str(out)], check=True, capture_output=True)
    (tmp_path / "mine" / "neighbour.py").unlink()
    subprocess.run([*run, str(out), "--out", str(again), "--trust-source"], check=True, capture_output=True)
    assert (again / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    assert json.loads((again / "config.json").read_text())["experiment"]["model"] == {"type": "ABMIL", "scale": 1.0}


def test_a_run_is_resumed_and_repeated_by_its_own_folder(file, tmp_path, capsys):
    """The width that was chosen is not taken for another setting than the one that was left open."""
    out = tmp_path / "run"
    assert main(["run", f"{file}:small", "--out", str(out), "--train.epochs", "1"]) == 0
    before = (out / "predictions.csv").read_bytes()
    (out / "programs" / "0000" / "done.json").unlink()  # as if it had been interrupted
    assert main(["run", str(out), "--resume"]) == 0
    assert (out / "predictions.csv").read_bytes() == before
    assert main(["run", str(out / "config.json"), "--out", str(out), "--resume"]) == 0
    assert main(["run", str(out / "config.json"), "--out", str(out)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["run", str(tmp_path)]) == 2
    assert "folder without config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_files_that_are_imported_by_imported_files_are_kept_and_replayed(tmp_path, capsys):
    """In one process, so that the folder's own `deep` must not be taken for the kept one, nor for another folder's."""
    head, tail = OWN_MODEL.split("mine = Experiment")
    kept = {
        "deep.py": "SCALE = 1.0\n",
        "parts/__init__.py": "",
        "parts/model.py": f"from .deeper import SCALE\nimport deep\n{head}",
        "parts/deeper.py": "from deep import SCALE\n",
    }
    for folder in ("one", "two"):
        for name, text in kept.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text.replace("1.0", "2.0") if folder == "two" else text)
        (tmp_path / folder / "unused.py").write_text("")
        (tmp_path / folder / "study.py").write_text(
            "import json\nfrom milkit import *\nfrom parts.model import Mine, SCALE\nmine = Experiment"
            + tail.replace("Mine()", "Mine(SCALE)").replace("GivenFolds(", "Holdout(").replace(", repeats=1", "")
        )
    assert main(["run", *(str(tmp_path / f / "study.py") for f in ("one", "two")), "--out", str(tmp_path / "x")]) == 2
    assert "2 of these experiments would be written to" in capsys.readouterr().err
    for folder, scale in (("one", 1.0), ("two", 2.0)):
        out = tmp_path / "runs" / folder
        assert main(["run", str(tmp_path / folder / "study.py"), "--out", str(out)]) == 0
        config = json.loads((out / "config.json").read_text())
        assert config["experiment"]["model"]["scale"] == scale
        assert config["source"]["file"] == "parts/model.py"
        digests = {n: hashlib.sha256(t.encode()).hexdigest() for n, t in kept.items()}
        assert config["source"]["files"].keys() == {"experiment.py", *kept}
        assert folder == "two" or digests.items() <= config["source"]["files"].items()
        assert {p.relative_to(out / "source").as_posix() for p in (out / "source").rglob("*") if p.is_file()} == set(
            config["source"]["files"]
        )
    (tmp_path / "one" / "deep.py").write_text("SCALE = 3.0\n")
    again = tmp_path / "again"
    assert main(["run", str(tmp_path / "runs" / "one"), "--out", str(again), "--trust-source"]) == 0
    assert (again / "predictions.csv").read_bytes() == (tmp_path / "runs" / "one" / "predictions.csv").read_bytes()
    settings = [json.loads((tmp_path / p / "config.json").read_text()) for p in ("runs/one", "again")]
    assert settings[0]["source"] == settings[1]["source"]


@pytest.mark.parametrize("name", ["..", "../../etc", "/tmp/x", "."])
def test_a_name_never_leads_out_of_runs(tmp_path, name):
    from milkit.api import Stated
    from milkit.commands.run import _folders
    from milkit.demo import EXPERIMENT

    (folder,) = _folders([Stated(name, EXPERIMENT)], None, resume=False)
    assert folder.parent.name == "runs"
    assert folder.name not in ("", ".", "..")


def test_an_unknown_tracker_is_named(file, capsys):
    assert main(["run", f"{file}:small", "--track", "mlflow"]) == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'mlflow'" in error
    assert "`milkit run --help`" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit()\n", "ends the program when it is imported"),
        ("import nothing_like_this\n", r"line 1\): ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("x = 1\ny = = 2\n", r"line 2\): SyntaxError"),
        ("x = 1\n", "holds no experiment"),
        ("from milkit import Train\nTrain(epochs=0)\n", "train.epochs is 0"),
        ("from milkit.demo import EXPERIMENT\n", "holds no experiment"),
    ],
)
def test_a_file_that_cannot_be_used_is_the_users_mistake(tmp_path, capsys, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert main(["run", str(path)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_options_before_the_file_are_answered(file, capsys):
    assert main(["run", "--out", "x", f"{file}:small"]) == 2
    assert "Name an experiment first" in capsys.readouterr().err


def test_no_study_starts_when_an_override_fits_only_some(file, tmp_path):
    file.write_text(file.read_text() + "\nfrom milkit.models import BagNet\nthird = replace(small, model=BagNet())\n")
    with pytest.raises(SystemExit):
        main(["run", str(file), "--out", str(tmp_path / "runs"), "--model.attention", "5"])
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_has_seen_enough_is_no_error():
    code = (
        "import sys, types\n"
        "from milkit import cli\n"
        "def main(arguments):\n"
        "    for _ in range(100_000): print('x' * 80)\n"
        "    return 0\n"
        "sys.modules['milkit.commands.data'] = types.SimpleNamespace(main=main)\n"
        "sys.exit(cli.main(['data']))\n"
    )
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -1', sys.executable, code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_place_that_cannot_be_written_to_is_the_users_mistake(file, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in ("thesis.tex", "thesis.tex/run"):
        assert main(["run", f"{file}:small", "--out", str(tmp_path / out)]) == 2
        assert "cannot be made or written to (a file stands there)" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    for run, found in ((tmp_path / "thesis.tex", "a file"), (tmp_path / "nowhere", "not there")):
        assert main(["report", str(run)]) == 2
        assert f"is {found}; give a run folder" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_no_traceback(monkeypatch, capsys, tmp_path, number):
    def run(*args, **kwargs):
        raise OSError(number, os.strerror(number), "/somewhere/attention.npz")

    monkeypatch.setattr("milkit.api.run", run)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 2
    assert f"/somewhere/attention.npz could not be used: {os.strerror(number)}" in capsys.readouterr().err


def test_labels_without_a_value_are_the_users_mistake(file, tmp_path, capsys):
    file.write_text(file.read_text() + "\nfrom milkit import Regression\nreal = replace(small, task=Regression())\n")
    assert main(["run", f"{file}:real", "--out", str(tmp_path / "run"), "--task.labels"]) == 2
    assert "task.labels is (); name the columns" in capsys.readouterr().err


@pytest.mark.slow
def test_a_ctrl_c_while_the_libraries_are_imported_is_not_lost(tmp_path):
    """JAX drops an exception that is raised inside its callbacks, also while it is imported."""
    code = (
        "import builtins, os, signal, sys; from milkit.cli import main; whole = builtins.__import__\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests may run where Ctrl-C is ignored
        "def late(name, *args, **kwargs):\n"
        "    if name == 'jax':\n"
        "        builtins.__import__ = whole\n"
        "        try: os.kill(os.getpid(), signal.SIGINT)\n"
        "        except KeyboardInterrupt: pass\n"  # as JAX does
        "    return whole(name, *args, **kwargs)\n"
        "builtins.__import__ = late\n"
        f"sys.exit(main(['demo', '--out', {str(tmp_path / 'run')!r}]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 130, run.stderr
    assert "--resume" in run.stderr
    assert not (tmp_path / "run").exists()
