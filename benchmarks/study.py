"""A whole study end to end, from the start of the process to its report, against a PyTorch loop over its runs.

    python -m benchmarks.study --quick                                    # within 3 minutes; needs torch and torchmil
    python -m benchmarks.study --out benchmarks/results/study.json        # the whole study

The study is the gated attention net of `experiments/ilse2018_classic.py` on MUSK1: 5 x 10 folds, 10 seeds, 100 epochs,
one bag a step, which is 500 runs. milkit runs it as a user does (`milkit run`, in a process of its own, with an empty
compilation cache): it also chooses each run's epoch on validation, predicts, bootstraps and writes the report. The loop
does none of that, it only trains; its time is a measured share of its steps, times the steps of the study. `--quick`
runs the first of the five repeats with 5 seeds (50 runs) and 50 epochs, and scales training by the steps and predicting
by the runs, nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.peers import torch_loop, torchmil_trainer

ROOT = Path(__file__).resolve().parents[1]
STUDY = "experiments/ilse2018_classic.py:musk1_gated"
RUNS, EPOCHS, QUICK_EPOCHS = 500, 100, 50
LOOP_EPOCHS, TRAINER_EPOCHS = 4, 2
THREADS = (1, 2)


def milkit_run(out: Path, cache: Path, *overrides: str) -> tuple[float, dict[str, Any], list[dict[str, Any]]]:
    """Seconds of a `milkit run`, what it says of its times, and the last progress line of each program."""
    command = [sys.executable, "-m", "milkit", "run", STUDY, "--out", str(out), "--optimistic", "None", *overrides]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    times = json.loads((out / "environment.json").read_text())["times"]
    lines = [(f.parent.name, f.read_text().splitlines()[-1]) for f in out.glob("programs/*/progress.jsonl")]
    return seconds, times, [json.loads(line) for _, line in sorted(lines)]


def start_seconds(times: dict[str, Any]) -> float:
    """What passes before the first step that is not the study's own work."""
    return round(times["import"] + times["prepare"] + times["compile"], 2)


def study(folder: Path, quick: bool) -> dict[str, Any]:
    """Of milkit: cold, and a start with the compilations kept."""
    share = ("--protocol.repeats", "1", "--seeds", "5") if quick else ("--seeds", "10")
    epochs = QUICK_EPOCHS if quick else EPOCHS
    seconds, times, programs = milkit_run(folder / "cold", folder / "cache", *share, "--train.epochs", str(epochs))
    _, warm, _ = milkit_run(folder / "warm", folder / "cache", *share, "--train.epochs", "1")
    runs, steps = sum(p["runs"] for p in programs), sum(p["run_steps"] for p in programs)
    more_runs, more_steps = RUNS / runs, RUNS * EPOCHS / (runs * epochs)
    rest = times["train"] * (more_steps - 1) + times["predict"] * (more_runs - 1)
    return {
        "milkit_us_per_run_step": round(1e6 * times["train"] / steps, 1),
        "runs": runs,
        "run_steps": steps,
        # the first program compiles for all others
        "recompiles": sum(p["compiles"] for p in programs[1:]),
        "milkit_seconds": round(seconds, 1),
        "milkit_times": times,
        "milkit_start_seconds": {"cold": start_seconds(times), "warm": start_seconds(warm)},
        "whole_study_runs": RUNS,
        "whole_study_run_steps": round(steps * more_steps),
        "milkit_whole_study_seconds": round(seconds + rest, 1),
        "milkit_whole_study_is": "measured"
        if not quick
        else f"extrapolated: training of {runs} runs and {epochs} epochs "
        f"x {more_steps:g}, predicting x {more_runs:g}, the rest as measured",
    }


def peers(repeats: int) -> dict[str, Any]:
    """The loops' side: the best of a few shares and thread counts."""
    from milkit import Binary, Classic

    data = Classic("musk1").load(Binary(), "patient")
    bags = [np.asarray(data.read(i).x, np.float32) for i in range(len(data))]
    labels = [int(v) for v in data.targets.values]
    loop = {
        t: min(
            torch_loop(bags, labels, epochs=LOOP_EPOCHS, threads=t, optimizer="sgd", gated=True) for _ in range(repeats)
        )
        for t in THREADS
    }
    trainer = {t: torchmil_trainer(bags, labels, epochs=TRAINER_EPOCHS, threads=t) for t in THREADS}
    steps = LOOP_EPOCHS * len(bags)
    return {
        "torch_loop_us_per_step": round(min(loop.values()), 1),
        "torch_loop_threads": min(loop, key=loop.__getitem__),
        "torch_loop_is": f"SGD, gated, training only; best of {repeats} x {steps} steps at each of {THREADS} threads",
        "torchmil_us_per_step": round(min(trainer.values()), 1),
        "torchmil_threads": min(trainer, key=trainer.__getitem__),
        "torchmil_is": f"torchmil's Trainer, Adam, attention without gate; {TRAINER_EPOCHS * len(bags)} steps",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 of the 500 runs, half of the epochs, within 3 minutes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began, where = time.perf_counter(), machine()
    with tempfile.TemporaryDirectory() as folder:
        before = peers(1)
        result = study(Path(folder), options.quick)
        after = peers(1)  # a busy machine changes: the loops get the better of both
    names = ("torch_loop_us_per_step", "torchmil_us_per_step")
    loops = before | after | {n: min(before[n], after[n]) for n in names}
    steps = result["whole_study_run_steps"]
    result = {
        "command": f"python -m benchmarks.study{' --quick' * options.quick}",
        "study": f"{STUDY}, 5 x 10 folds x 10 seeds, 100 epochs, batch of one bag",
        "machine": where,
        **result,
        **loops,
        "torch_loop_whole_study_seconds": round(loops["torch_loop_us_per_step"] * steps / 1e6),
        "torch_loop_whole_study_is": f"extrapolated: measured time of a step x {steps} steps",
        "torchmil_whole_study_seconds": round(loops["torchmil_us_per_step"] * steps / 1e6),
    }
    result["loop_over_milkit_step"] = round(result["torch_loop_us_per_step"] / result["milkit_us_per_run_step"], 1)
    result["torchmil_over_milkit_step"] = round(result["torchmil_us_per_step"] / result["milkit_us_per_run_step"], 1)
    result["loop_over_milkit_whole_study"] = round(
        result["torch_loop_whole_study_seconds"] / result["milkit_whole_study_seconds"], 1
    )
    result["seconds"] = round(time.perf_counter() - began, 1)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
