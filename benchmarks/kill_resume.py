"""Does a study that is killed again and again end with the bytes of one that was not? Real kills (SIGKILL).

    python -m benchmarks.kill_resume --kills 20 --out benchmarks/results/kill_resume.json      # 6 minutes on two cores

A small study is run once undisturbed. Then `milkit run FILE --out DIR --resume` is started again and again: it is
killed after a random time, or at the moment when a certain file appears (a checkpoint, a half-written file, a table, a
figure of the report), or one of its workers is; each start takes another executor and number of workers. Once it ends
by itself, its files are compared with those of the undisturbed run, and another study is begun until there were enough
kills.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMPARED = ("predictions.csv", "history.jsonl", "runs.csv", "results.json", "top_instances.csv", "attention.json",
            "cohort.json", "folds.csv", "columns.csv", "table.csv")  # fmt: skip
EXECUTORS = (("local",), ("processes", "--workers", "1"), ("processes", "--workers", "2"))
MOMENTS = (
    "at random", "at random", "at random", "at random, a worker",
    "programs/*/checkpoint.safetensors", "*.tmp", "programs/*/*.tmp", "weights/*.tmp", "weights/*.safetensors",
    "programs/*/predictions.csv", "programs/*/done.json", "environment.json", "config.json",
    "results.json", "figures/*", "report.md",
)  # fmt: skip
"""When to kill: after a random time, or as soon as there is a new file of such a name."""
EARLY = ("config.json", "environment.json")
"""Moments that only the first start of a study has."""
MARKS = ("config.json", "predictions.csv", "results.json", "report.html")
STUDY = '''"""A small study, on bags made here."""

import numpy as np

from milkit import ABMIL, Adam, Bag, Experiment, KFold, Train, in_memory

rng = np.random.default_rng(3)
xs = [rng.normal(size=(rng.integers(3, 40), 24)).astype(np.float32) for _ in range(40)]
for i in range(1, 40, 2):
    xs[i][0, 0] += 3.0
study = Experiment(
    data=in_memory(
        [Bag(f"b{{i:02d}}", x) for i, x in enumerate(xs)],
        [{{"slide_id": f"b{{i:02d}}", "patient_id": f"p{{i:02d}}", "label": i % 2}} for i in range(40)],
    ),
    protocol=KFold(folds=4, validation=0.25),
    model=ABMIL(encoder=(32,), attention=16),
    train=Train(Adam(1e-3), epochs={epochs}, width=2, buckets=2),
    seeds={seeds},
)
'''


def start(file: Path, out: Path, executor: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    """`milkit run FILE --out OUT --resume` in the background, checkpoints every fifth of a second."""
    command = [sys.executable, "-m", "milkit", "run", str(file), "--out", str(out), "--resume", "--executor", *executor]
    env = os.environ | {"MILKIT_CHECKPOINT_SECONDS": "0.2"}
    with open(log, "ab") as end:
        return subprocess.Popen(command, stdout=end, stderr=end, env=env)


def children(pid: int) -> list[int]:
    """Processes that a process started (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether these processes end within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill_once(process: subprocess.Popen[bytes], out: Path, moment: str, seconds: float) -> dict[str, Any] | None:
    """Kill a study, or a worker of it, at a moment; None if it ended before.

    Args:
        process: the study.
        out: its run folder.
        moment: one of `MOMENTS`.
        seconds: for random moments, how long to wait.
    """
    until, before = time.monotonic() + seconds, set() if "random" in moment else set(out.glob(moment))
    while time.monotonic() < until if "random" in moment else not set(out.glob(moment)) - before:
        if process.poll() is not None:
            return None
        time.sleep(0.001 if "random" not in moment else 0.01)
    workers = children(process.pid)
    if moment.endswith("a worker") and workers:
        os.kill(workers[0], signal.SIGKILL)
        return {"killed": "a worker", "workers_gone": None}
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {"killed": "the study", "workers_gone": gone(workers) if workers else None}


def standing(out: Path) -> dict[str, Any]:
    """What a killed study had."""
    return {
        "programs_done": len(list(out.glob("programs/*/done.json"))),
        "checkpoints": len(list(out.glob("programs/*/checkpoint.safetensors"))),
        "half_written": sorted(p.name.split(".")[0] or p.name for p in out.rglob("*.tmp")),
        "has": [name for name in MARKS if (out / name).exists()],
    }


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must not differ."""
    files = [*(out / name for name in COMPARED), *sorted((out / "weights").iterdir())]
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def endure(
    folder: Path, kills: int, seed: int, epochs: int, seeds: int, moments: tuple[str, ...] = MOMENTS
) -> dict[str, Any]:
    """Run one study undisturbed, then kill studies until there were enough kills, comparing each in the end."""
    rng, file, log = random.Random(seed), folder / "planted.py", folder / "log.txt"
    file.write_text(STUDY.format(epochs=epochs, seeds=seeds))
    began = time.monotonic()
    assert start(file, folder / "whole", ("local",), log).wait() == 0, log.read_text()
    whole, expected = time.monotonic() - began, digests(folder / "whole")
    done: list[dict[str, Any]] = []
    studies: list[dict[str, Any]] = []
    left: list[str] = []
    while len(done) < kills or not studies or "differing" not in studies[-1]:
        out = folder / f"killed{len(studies)}"
        studies.append({"starts": 0})
        while True:
            studies[-1]["starts"] += 1
            executor = EXECUTORS[rng.randrange(len(EXECUTORS))]
            process = start(file, out, executor, log)
            found = None
            if len(done) < kills:
                left = left or rng.sample(moments, len(moments))
                first = not (out / "config.json").exists()
                moment = next((m for m in left if first or m not in EARLY), "at random")
                left = [m for m in left if m != moment] if moment in left else left
                seconds = rng.uniform(0, 1.2 * whole)
                found = kill_once(process, out, moment, seconds)
            if found is not None:
                done.append({"moment": moment, "executor": " ".join(executor), **found, **standing(out)})
            if found is None or found["killed"] == "a worker":
                assert process.wait() == 0, log.read_text()
                break
        ended = digests(out)
        studies[-1]["differing"] = sorted(k for k in expected | ended if expected.get(k) != ended.get(k))
        studies[-1]["left_over"] = sorted(str(p.relative_to(out)) for p in out.rglob("*.tmp"))
        shutil.rmtree(out)
    return {
        "kills": len(done), "undisturbed_seconds": round(whole, 1), "files_compared": sorted(expected),
        "studies": studies, "each": done,
        "orphans": sum(kill["workers_gone"] is False for kill in done),
        "studies_that_differ": sum(bool(study["differing"]) for study in studies),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = endure(Path(folder), options.kills, options.seed, options.epochs, options.seeds)
    found["environment"] = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    found["command"] = f"python -m benchmarks.kill_resume --kills {options.kills} --seed {options.seed}"
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: found[k] for k in ("kills", "studies_that_differ", "orphans", "undisturbed_seconds")}))


if __name__ == "__main__":
    main()
