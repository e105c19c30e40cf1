"""Every reader against spoiled files: none may crash, hang, look outside, take more memory than promised, or write.

    python -m benchmarks.fuzz_readers --inputs 100000 --seed 0 --out benchmarks/results/fuzz_readers.json

Valid files of each layout are spoiled (`benchmarks/fuzz/`) and read in batches by forked processes: a crash or a read
that never ends costs one process, and the next goes on behind it. `--only NUMBER` repeats one input of a seed.
`--library` reads HDF5 files by h5py alone instead, which shows why milkit does not.
"""

import argparse
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import h5py

from benchmarks.fuzz.trial import OUTCOMES, Bench, Watch, batch, one
from benchmarks.machine import machine

BATCH = 400
SECONDS = 10.0
"""That one input may take; they take some milliseconds."""
SPACE = 1 << 30
"""Bytes of addresses that a process may ask for beyond those it has; who asks for more counts as `memory`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument(
        "--again", action="store_true", help="repeat what failed in --out, and note there how it ends now"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many, with fewer inputs")
    parser.add_argument("--library", action="store_true", help="read HDF5 files by h5py alone")
    parser.add_argument("--only", type=int, help="repeat one input, in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="fuzz", dir=memory if memory.is_dir() else None))
    try:
        bench = Bench(root).make(options.library)
        if options.only is not None:
            print(*one(bench, options.seed, options.only, root / "case", Watch(root / "outside")), sep="\n")
            return
        if options.again:
            again(bench, options.out)
            return
        found = side_by_side(bench, options.seed, options.inputs, options.jobs, options.minutes)
        found["command"] += " --library" if options.library else ""
        found["command"] += f" --minutes {options.minutes:g}" if options.minutes < 1e9 else ""
    finally:
        shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(json.dumps({key: found[key] for key in ("inputs", "outcomes", "inputs_per_second")}))
    for failure in found["failures"][:20]:
        print(json.dumps(failure))
    sys.exit(1 if found["failures"] else 0)


def again(bench: Bench, out: Path) -> None:
    """Repeat the failures of an earlier run of the same valid files, each in a process of its own."""
    found = json.loads(out.read_text())
    for failure in found["failures"]:
        number = failure["number"]
        said, ended, _ = _forked(bench, found["seed"], number, number + 1)
        failure["now"] = ended[0] if said is None else said["counts"][0][1]
        print(number, failure["layout"], failure["outcome"], "->", failure["now"])
    found["failures_now"] = sum(failure["now"] not in ("read", "refused") for failure in found["failures"])
    out.write_text(json.dumps(found, indent=1) + "\n")


def side_by_side(bench: Bench, seed: int, inputs: int, jobs: int, minutes: float) -> dict[str, Any]:
    """All inputs of a seed, shared out among processes; JSON-able."""
    begun = time.monotonic()
    parts = [(inputs * i // jobs, inputs * (i + 1) // jobs) for i in range(jobs)]
    processes = []
    for start, stop in parts:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                (bench.root / f"part{start}.json").write_text(json.dumps(run(bench, seed, start, stop, minutes)))
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    ended = [os.waitpid(process, 0)[1] for process in processes]
    if any(ended):
        raise RuntimeError(f"the fuzzer itself failed: {ended}")
    found = [json.loads((bench.root / f"part{start}.json").read_text()) for start, _ in parts]
    counts: Counter[tuple[str, str]] = Counter()
    for part in found:
        counts.update({(layout, outcome): count for layout, outcome, count in part["counts"]})
    seconds = time.monotonic() - begun
    return {
        "command": f"python -m benchmarks.fuzz_readers --inputs {inputs} --seed {seed} --jobs {jobs}",
        "inputs": sum(counts.values()),
        "seed": seed,
        "outcomes": {outcome: sum(n for (_, o), n in counts.items() if o == outcome) for outcome in OUTCOMES},
        "layouts": {la: {o: counts[la, o] for o in OUTCOMES if counts[la, o]} for la in bench.layouts},
        "most_memory_bytes": max(part["memory"] for part in found),
        "slowest_seconds": round(max(part["seconds"] for part in found), 2),
        "inputs_per_second": round(sum(counts.values()) / seconds, 1),
        "failures": [failure for part in found for failure in part["failures"]][:200],
        "hdf5": h5py.version.hdf5_version,
        "h5py": h5py.__version__,
        "machine": machine(),
    }


def run(bench: Bench, seed: int, start: int, stop: int, minutes: float) -> dict[str, Any]:
    """Some inputs, batch by batch; JSON-able."""
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[dict[str, Any]] = []
    most, slowest, begun, number = 0, 0.0, time.monotonic(), start
    while number < stop and time.monotonic() - begun < 60 * minutes:
        before, number = number, min(number + BATCH, stop)
        left = [(before, number)]
        while left:
            first, last = left.pop()
            said, ended, at = _forked(bench, seed, first, last)
            if said is None:  # what came before the crash is done again without it, then what comes behind it
                layout = bench.layouts[at % len(bench.layouts)]
                failures.append({"number": at, "layout": layout, "outcome": ended[0], "what": ended[1]})
                counts[layout, ended[0]] += 1
                left += [part for part in ((at + 1, last), (first, at)) if part[0] < part[1]]
                continue
            for layout, outcome, count in said["counts"]:
                counts[layout, outcome] += count
            failures += said["failures"]
            most, slowest = max(most, said["memory"]), max(slowest, said["seconds"])
        if number // (10 * BATCH) != before // (10 * BATCH):
            print(f"{number - start:,} inputs, {len(failures)} failures, {time.monotonic() - begun:.0f} s", flush=True)
            for failure in failures[-3:]:
                print(" ", json.dumps(failure), flush=True)
    named = [[layout, outcome, count] for (layout, outcome), count in counts.items()]
    return {"counts": named, "failures": failures, "memory": most, "seconds": slowest}


def _forked(bench: Bench, seed: int, start: int, stop: int) -> tuple[dict[str, Any] | None, tuple[str, str], int]:
    """A batch in a process of its own: what it found (None if it died), how it ended, the last input it began."""
    shared = mmap.mmap(-1, 16)
    shared.write(struct.pack("qd", start, time.monotonic()))
    out = bench.root / f"said{os.getpid()}.json"
    out.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            _limited()

            def report(number: int, now: float) -> None:
                shared[:16] = struct.pack("qd", number, now)

            out.write_text(json.dumps(batch(bench, seed, start, stop, report)))
            status = 0
        finally:
            os._exit(status)
    ended = None
    pause = 0.001
    while True:
        gone, status = os.waitpid(process, os.WNOHANG)
        number, since = struct.unpack("qd", shared[:16])
        if gone:
            break
        if time.monotonic() - since > SECONDS:
            ended = ("time", f"more than {SECONDS} s")
            os.kill(process, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.02, pause * 2)
    shutil.rmtree(bench.root / f"case{process}", ignore_errors=True)
    if ended is None and os.WIFSIGNALED(status):
        ended = ("signal", signal.Signals(os.WTERMSIG(status)).name)
    if ended is None and status == 0 and out.exists():
        return json.loads(out.read_text()), ("", ""), number
    return None, ended or ("other exception", "the process ended"), number


def _limited() -> None:
    """No core files, and not all of the machine's memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
