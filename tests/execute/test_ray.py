"""A real Ray cluster of two nodes, of which one dies in mid-study. `make ray` runs it."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import planted
import pytest

from milkit.errors import Interrupted, NonFiniteError, WorkerError
from milkit.execute.executors import Where
from milkit.execute.interrupt import SIGNALS, interruptible
from milkit.execute.run import execute
from milkit.train.config import Sgd

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
MEMORY = 100 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(planted.__file__).parent), path])
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY})
    yield made
    made.shutdown()
    os.environ["PYTHONPATH"] = path


def longer(experiment):
    """Six programs of some seconds each."""
    return replace(experiment, seeds=4, train=replace(experiment.train, epochs=600))


def files(out):
    names = ["predictions.csv", "history.jsonl", "runs.csv", "top_instances.csv", "attention.json"]
    paths = [out / name for name in names] + sorted((out / "weights").iterdir())
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


def attempts(out):
    """The processes that started each program."""
    rows = [
        [json.loads(line) for line in f.read_text().splitlines()] for f in sorted(out.glob("programs/*/progress.jsonl"))
    ]
    return [[r["pid"] for r in program if r["event"] == "start"] for program in rows]


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    execute(longer(experiment), out)
    return out


def test_a_node_dies_in_mid_study_and_the_study_ends_complete(experiment, cluster, whole, tmp_path, monkeypatch):
    study = longer(experiment)
    monkeypatch.setenv("MILKIT_CHECKPOINT_SECONDS", "0.3")
    out, second = tmp_path / "run", cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    killed = []

    def kill():
        """As soon as a program is done and both nodes have another in work, with a checkpoint."""
        while len(list(out.glob("programs/*/done.json"))) < 1 or len(list(out.glob("programs/*/checkpoint.*"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        killed.append(len(list(out.glob("programs/*/done.json"))))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    execute(study, out, where=Where("ray", ray_address=cluster.address))
    killer.join(10)
    assert killed
    assert killed[0] < 6
    assert files(out) == files(whole)
    started = attempts(out)
    assert len(started) == 6
    again = [pids for pids in started if len(pids) == 2]  # the program of the dead node, taken over elsewhere
    assert len(again) == 1
    assert again[0][0] != again[0][1]
    assert not list(out.rglob("checkpoint.safetensors"))


def test_sigterm_brings_the_checkpoints_home(experiment, cluster, whole, tmp_path, monkeypatch):
    study, out = longer(experiment), tmp_path / "run"
    monkeypatch.setenv("MILKIT_CHECKPOINT_SECONDS", "0.3")

    def signal_us():
        while not list(out.glob("programs/*/checkpoint.safetensors")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=signal_us, daemon=True)
    sender.start()
    with pytest.raises(Interrupted, match="after epoch") as stop:
        execute(study, out, where=Where("ray", ray_address=cluster.address))
    assert stop.value.status == 143
    assert list(out.glob("programs/*/checkpoint.safetensors"))
    execute(study, out, resume=True)
    assert files(out) == files(whole)


def test_an_error_on_another_machine_is_the_error_of_the_study(experiment, cluster, tmp_path):
    wild = replace(experiment, train=replace(experiment.train, optimizer=Sgd(1e30, momentum=0.0)))
    with pytest.raises(NonFiniteError, match=r"Run r0f\ds\d .*finite in epoch \d+.*learning rate"):
        execute(wild, tmp_path / "run", where=Where("ray", ray_address=cluster.address))


def test_ray_leaves_sigterm_to_us(cluster):
    """Ray's own handler would end the process where it stands."""
    from milkit.execute.executors.on_ray import OnRay

    with interruptible() as stop, OnRay(None, cluster.address):
        assert [signal.getsignal(number) for number in SIGNALS] == [stop.arrived] * len(SIGNALS)


def test_a_cluster_that_is_not_there_is_named(experiment, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(WorkerError, match=r"'127.0.0.1:1' cannot be reached.*--ray-address"):
        execute(experiment, tmp_path / "run", where=Where("ray", ray_address="127.0.0.1:1"))
