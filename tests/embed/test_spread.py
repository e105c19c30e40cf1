"""Slides spread over a real Ray cluster of two nodes, of which one dies while it encodes. `make ray` runs it."""

import os
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from slide_files import picture

from milkit.cli import main
from milkit.embed.part import DONE, JOURNAL

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
MEMORY = 100 * 2**20
BLOCK = 64
"""Tiles of a block where tiles are small."""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A file that grows by a byte with every tile that a node encodes."""
    path = tmp_path_factory.mktemp("log") / "tiles"
    path.touch()
    return path


@pytest.fixture(scope="module")
def cluster(log):
    """One node of one core, where encoding takes its time."""
    pytest.importorskip("ray")
    before = dict(os.environ)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=path, EMBED_SLEEP="0.04", EMBED_LOG=str(log))
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY})
    yield made
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def four(cohort, monkeypatch):
    """Four slides of 2,400 tiles in all, and the bytes of a store made by one process."""
    for seed, name in enumerate("cd", 2):
        Image.fromarray(picture(300, 200, seed)).save(cohort.folder / f"{name}.png")
    Image.fromarray(picture(300, 200, 1)).save(cohort.folder / "b ü.png")
    assert cohort.tile(cohort.folder, "--force") == 0
    cohort.table.write_text("slide_id\na\nb ü\nc\nd\n", "utf-8")
    with monkeypatch.context() as patch:
        patch.delenv("EMBED_SLEEP", raising=False)
        patch.delenv("EMBED_LOG", raising=False)
        assert cohort.embed() == 0
    whole = cohort.out.read_bytes()
    cohort.out.unlink()
    return whole


def test_a_node_dies_while_it_encodes_and_the_store_is_the_same(cluster, cohort, four, log, capsys):
    second = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    work, before = cohort.root / ".store.h5.embed", log.stat().st_size
    killed = []

    def kill():
        """As soon as both nodes have written a block of a slide and are at the next."""
        while len([j for j in work.glob(f"*/{JOURNAL}") if written(j)]) < 2:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)
        killed.append(second)

    def written(journal):
        """Whether a block of the slide is written, and others are not."""
        return journal.stat().st_size > 0 and not journal.with_name(DONE).exists()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert cohort.embed("--ray-address", cluster.address) == 0
    killer.join(10)
    assert killed
    assert cohort.out.read_bytes() == four
    said = capsys.readouterr().out
    assert "4 of 4 slides, 2400 tiles x 9 features" in said
    again = [line for line in said.splitlines() if "encoded before" in line]
    assert len(again) == 1  # the slide of the dead node, gone on with on the other
    kept = int(again[0].partition("600 tiles (")[2].split()[0])
    assert kept % BLOCK == 0
    assert 0 < kept < 600
    # what was lost is at most the block under way and the one being written
    assert 2400 <= log.stat().st_size - before <= 2400 + 2 * BLOCK
    assert not list(cohort.root.glob(".*"))


def test_what_fails_there_is_told_here(cluster, cohort, capsys):
    (cohort.folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert cohort.embed("--ray-address", cluster.address) == 1
    assert "a: failed: " in capsys.readouterr().err
    assert cohort.embed("--ray-address", cluster.address, encoder="own_encoder:broken", out=cohort.root / "b.h5") == 2
    said = capsys.readouterr().err
    assert "ZeroDivisionError: of mine" in said
    assert "Traceback" not in said
    assert cohort.embed("--ray-address", cluster.address, encoder="own_encoder:sided", out=cohort.root / "c.h5") == 2
    assert "--tile-px 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray-address", "127.0.0.1:1"], "'127.0.0.1:1' cannot be reached"),
        (["--ray-cores", "0"], "--ray-cores is 0"),
        (["--ray-cores", "64"], "No machine of the cluster has the 64 cores"),
    ],
)
def test_clusters_that_cannot_be_had(cluster, cohort, capsys, more, said):
    more = more if "--ray-address" in more else [*more, "--ray-address", cluster.address]
    assert cohort.embed(*more) == 2
    assert said in capsys.readouterr().err


def test_frames_and_a_cluster_of_this_machine(cluster, cohort, capsys):
    """The bags of another kind, and no address: one is started, and ended."""
    for number in range(5):
        (cohort.root / "stacks" / "film").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(20, 20, number)).save(cohort.root / "stacks" / "film" / f"{number}.png")
    cohort.table.write_text("slide_id\nfilm\n")
    arguments = ["embed", cohort.table, "--stacks", "stacks", "--encoder", "own_encoder:encode", "--batch", "8"]
    assert main([str(a) for a in [*arguments, "--out", "one.h5"]]) == 0
    assert main([str(a) for a in [*arguments, "--out", "two.h5", "--ray"]]) == 0
    assert Path("one.h5").read_bytes() == Path("two.h5").read_bytes()
