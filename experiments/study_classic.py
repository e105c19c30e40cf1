"""Run the classic table: every cell a study of its own, as many at a time as there are cores, resumable.

    python -m experiments.study_classic                       # what `make study-classic` does
    python -m experiments.study_classic --sets ucsb_breast_features    # the same rows on another classic set
    python -m experiments.study_classic --rows gated attention

A cell that is done is not run again, and one that was interrupted goes on. Each cell is kept to one core: the networks
are small, and two cores on one of them mostly wait for each other.
"""

import argparse
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from experiments import ilse2018_classic

FILE = Path(ilse2018_classic.__file__)


def cells(sets: list[str], rows: list[str]) -> list[str]:
    """Names of the experiments to run: the common hyper-parameters first, those tuned on each set last."""
    known = [(s, n) for s in sets for n in ilse2018_classic.table(s)]
    known += [(n.split("_")[0], n) for n in ilse2018_classic.explanations() if n.split("_")[0] in sets]
    names = [n for s, n in known if not rows or n.removeprefix(f"{s}_") in rows]
    return sorted(names, key=lambda n: "_tuned" in n)


def run_cell(name: str, out: Path) -> bool:
    """Run or resume one cell; whether it has its numbers now. What it says goes to a log beside its folder."""
    if (out / "report.html").exists():
        return True
    again = ["--resume"] if (out / "config.json").exists() else []
    command = [sys.executable, "-m", "milkit", "run", f"{FILE}:{name}", "--out", str(out), *again]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0


def work(core: int, waiting: "queue.SimpleQueue[str]", out: Path, failed: list[str]) -> None:
    """Take cells until none is left."""
    if hasattr(os, "sched_setaffinity"):  # Linux: of this thread, and so of the processes it starts
        os.sched_setaffinity(0, {core})
    while not waiting.empty():
        name = waiting.get()
        start = time.monotonic()
        if not run_cell(name, out / name):
            failed.append(name)
            print(f"{name}: stopped; see {out / name}.log", flush=True)
        else:
            print(f"{name}: done in {(time.monotonic() - start) / 60:.1f} min, {waiting.qsize()} wait", flush=True)


def main() -> int:
    """Run the cells, then collect the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(ilse2018_classic.PAPER), choices=ilse2018_classic.SETS)
    parser.add_argument("--rows", nargs="+", default=[], help="rows such as gated bag_net; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/ilse2018"))
    parser.add_argument("--jobs", type=int, default=None, help="cells at a time; the number of cores by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in cells(options.sets, options.rows):
        waiting.put(name)
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    failed: list[str] = []
    workers = [
        threading.Thread(target=work, args=(allowed[i % len(allowed)], waiting, options.out, failed))
        for i in range(options.jobs or len(allowed))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
