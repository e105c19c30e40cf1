"""A forward pass over a whole slide, all instances attending to all, within a fixed budget of memory.

    python -m benchmarks.whole_slide                     # 100,000 instances of 1,024 features: minutes
    python -m benchmarks.whole_slide --quick             # 10,000

Each row is a process of its own, as the system tells only a process's highest memory (resident set). It holds Python,
JAX, the features, the parameters and the pass itself. `before_mib` is what stood there just before the model was
compiled; `budget_mib` is what `peak_mib` is held to. `temporary_mib` is what the compiler sets aside for the pass.

The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FEATURES, CLASSES = 1024, 2
BUDGET_MIB = 4096
MODELS = ("TransMIL",)


def config_of(model: str) -> Any:
    """The model as it comes."""
    from milkit.models import TransMIL

    return {"TransMIL": TransMIL()}[model]


def peak_mib() -> float:
    """The highest resident memory of this process so far, in MiB."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform != "darwin" else most / 2**20  # kilobytes, on a Mac bytes


def child(model: str, instances: int) -> None:
    """One row, printed as JSON."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from milkit.types import Bags

    graph, state = nnx.split(config_of(model).build(FEATURES, CLASSES, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, instances, FEATURES), np.float32))
    bags = Bags(x, jnp.ones((1, instances), bool))
    before = peak_mib()
    forward = jax.jit(lambda state, bags: nnx.merge(graph, state)(bags).logits)
    compiled = forward.lower(state, bags).compile()
    began = time.perf_counter()
    logits = np.asarray(compiled(state, bags))
    seconds, peak = time.perf_counter() - began, peak_mib()
    if not np.isfinite(logits).all():
        raise SystemExit(f"{model}: the logits of {instances:,} instances are not finite.")
    row = {
        "model": model,
        "instances": instances,
        "features": FEATURES,
        "features_mib": round(x.nbytes / 2**20),
        "before_mib": round(before),
        "peak_mib": round(peak),
        "temporary_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
        "budget_mib": BUDGET_MIB,
        "within_budget": peak <= BUDGET_MIB,
        "seconds": round(seconds, 2),
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 instances")
    parser.add_argument("--instances", type=int, nargs="+", help="other numbers of instances")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "INSTANCES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], int(args.child[1]))
        return
    from benchmarks.machine import machine

    env = machine()
    rows = []
    for model in args.models:
        for instances in args.instances or ([10_000] if args.quick else [10_000, 100_000]):
            command = [sys.executable, "-m", "benchmarks.whole_slide", "--child", model, str(instances)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{model} with {instances:,} instances ended with {done.returncode}:\n{done.stderr[-2000:]}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    result = {"rows": rows, "machine": env}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
