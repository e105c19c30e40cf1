"""A pass over a whole slide, all instances attending to all, within a fixed budget of memory.

    python -m benchmarks.whole_slide --out benchmarks/results/whole_slide.json     # 5 to 10 minutes of two cores
    python -m benchmarks.whole_slide --quick                                       # a tenth of the instances: seconds

Three models on 100,000 instances of 1,024 float32 features: TransMIL (Nystrom attention in chunks) and the transformer
encoder (exact attention in blocks, 2 layers) at its authors' width, and narrow. `rows` has a forward pass of each, and
a forward and backward pass (gradients of all parameters) at a fifth of the length. Each is a process of its own, as the
system tells only a process's highest memory (resident set): it holds Python, JAX, the features, the parameters and the
pass itself. `before_mib` is what stood there just before the model was compiled; `budget_mib` is what `peak_mib` is
held to. `temporary_mib` is what the compiler sets aside for the pass. `matrix_mib` is what the weights of one layer of
exact attention would take, were they held. `cpu_seconds` are those of all cores, less moved by what runs beside.

`equal` compares, at a length where that fits, attention in blocks or chunks with all of it at once, in float32: the
largest difference over the largest value.

The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

FEATURES, CLASSES = 1024, 2
BUDGET_MIB = 4096
MODELS = ("TransMIL", "Transformer, narrow", "Transformer")
ALL_AT_ONCE = 1 << 30


def config_of(model: str) -> Any:
    """As it comes, or two heads of 64."""
    from milkit.models import Transformer, TransMIL

    narrow = Transformer(width=128, heads=2, mlp=128)
    return {"TransMIL": TransMIL(), "Transformer, narrow": narrow, "Transformer": Transformer()}[model]


def peak_mib() -> float:
    """The highest resident memory of this process so far, in MiB."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform != "darwin" else most / 2**20  # kilobytes, on a Mac bytes


def example(config: Any, instances: int) -> tuple[Any, Any, Any]:
    """The module's graph and state, and one bag."""
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from milkit.types import Bags

    graph, state = nnx.split(config.build(FEATURES, CLASSES, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, instances, FEATURES), np.float32))
    return graph, state, Bags(x, jnp.ones((1, instances), bool))


def one_pass(model: str, instances: int, gradient: bool) -> dict[str, Any]:
    """Memory and time of one pass; its first, with nothing before it."""
    import jax
    import numpy as np
    from flax import nnx

    config = config_of(model)
    graph, state, bags = example(config, instances)
    before = peak_mib()

    def logits(state: Any, bags: Any) -> Any:
        return nnx.merge(graph, state)(bags).logits

    def loss(state: Any, bags: Any) -> Any:
        return jax.numpy.square(logits(state, bags)).sum()

    asked = jax.jit(jax.grad(loss, allow_int=True) if gradient else logits)
    compiled = asked.lower(state, bags).compile()
    began, cpu = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(compiled(state, bags))
    seconds, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, peak_mib()
    floats = [np.asarray(a) for a in jax.tree.leaves(found) if jax.numpy.issubdtype(a.dtype, jax.numpy.floating)]
    if not all(np.isfinite(a).all() for a in floats) or not any(a.any() for a in floats):
        raise SystemExit(f"{model}: what {instances:,} instances gave is not finite, or all zero.")
    return {
        "model": model,
        "width": config.width,
        "heads": config.heads,
        "layers": config.layers,
        "pass": "forward and backward" if gradient else "forward",
        "instances": instances,
        "features": FEATURES,
        "features_mib": round(bags.x.nbytes / 2**20),
        "before_mib": round(before),
        "peak_mib": round(peak),
        "temporary_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
        "matrix_mib": round(4 * config.heads * instances**2 / 2**20),
        "budget_mib": BUDGET_MIB,
        "within_budget": peak <= BUDGET_MIB,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 1),
    }


def equality(model: str, instances: int) -> dict[str, Any]:
    """A small part at a time against all at once."""
    import jax
    import numpy as np
    from flax import nnx

    config = config_of(model)
    parts = instances // 4 if model == "TransMIL" else (instances // 4) ** 2
    found = []
    for at_once in (parts, ALL_AT_ONCE):
        graph, state, bags = example(replace(config, at_once=at_once), instances)
        output = jax.jit(lambda state, bags, graph=graph: nnx.merge(graph, state)(bags))(state, bags)
        found.append({name: np.asarray(getattr(output, name)) for name in ("logits", "embedding", "attention")})
    blocks, whole = found
    apart = {name: float(np.abs(blocks[name] - whole[name]).max() / np.abs(whole[name]).max()) for name in whole}
    return {"model": model, "instances": instances, "at_once": parts, "largest_relative_difference": apart}


def ask(what: str, model: str, instances: int) -> dict[str, Any]:
    """A row, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.whole_slide", "--child", what, model, str(instances)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{model} with {instances:,} instances ended with {done.returncode}:\n{done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 instances")
    parser.add_argument("--instances", type=int, help="another number of instances")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--out", type=Path, help="write the JSON here too, after every row")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "MODEL", "INSTANCES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, model, instances = args.child[0], args.child[1], int(args.child[2])
        row = equality(model, instances) if what == "equal" else one_pass(model, instances, what == "gradient")
        print(json.dumps(row))
        return
    from benchmarks.machine import machine

    length = args.instances or (10_000 if args.quick else 100_000)
    result: dict[str, Any] = {"rows": [], "equal": [], "machine": machine()}
    for model in args.models:
        for to, what, instances in (
            ("equal", "equal", min(4000, length)),
            ("rows", "gradient", length // 5),
            ("rows", "forward", length),
        ):
            result[to].append(ask(what, model, instances))
            if args.out:
                part = args.out.with_suffix(".part")
                part.write_text(json.dumps(result, indent=1) + "\n")
                os.replace(part, args.out)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
