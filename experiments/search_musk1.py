"""What a small search does for ABMIL on MUSK1, and what it would seem to do if it were judged on the test part.

    milkit run experiments/search_musk1.py:searched     # the study that docs/search.md reads
    python -m experiments.search_musk1                  # the three studies below, and the table of docs/search.md

Twenty configurations are drawn at random and tried in each of ten folds: two hundred trainings, as two compiled
programs (with and without gates). `plain` is the configuration that the search starts from. Both studies are also read
optimistically, epoch (and configuration) by accuracy on the test part, to show what shopping there is worth.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from milkit import ABMIL, Adam, Choice, Classic, Experiment, KFold, LogUniform, Random, Train, Uniform

plain = Experiment(
    data=Classic("musk1"),
    protocol=KFold(folds=10, validation=0.2),
    model=ABMIL(encoder=(256, 128, 64), attention=64, dropout=0.25),
    train=Train(Adam(5e-4, weight_decay=1e-4), epochs=40),
    optimistic="accuracy",
)
searched = replace(
    plain,
    search=Random(
        {
            "train.optimizer.learning_rate": LogUniform(1e-5, 1e-2),
            "train.optimizer.weight_decay": LogUniform(1e-6, 1e-2),
            "model.dropout": Uniform(0.05, 0.6),
            "model.gated": Choice(True, False),
        },
        trials=20,
    ),
)
METRICS = ("accuracy", "auroc")
RESULTS = Path(__file__).parent / "results" / "search_musk1.json"


def measure() -> dict[str, Any]:
    """Run both studies and keep what the page says."""
    from milkit import api

    found: dict[str, Any] = {"made_by": "python -m experiments.search_musk1"}
    with tempfile.TemporaryDirectory() as folder:
        for name, experiment in (("plain", plain), ("searched", searched)):
            began = time.monotonic()
            results = api.run(replace(experiment, name=name), Path(folder) / name)
            found[name] = {
                "seconds": round(time.monotonic() - began, 1),
                **{
                    s: {m: {k: part["metrics"][m][k] for k in ("value", "sampling", "procedure")} for m in METRICS}
                    for s, part in results["selections"].items()
                },
            }
        found["search"] = results["search"]
        environment = json.loads((Path(folder) / "searched" / "environment.json").read_text())
        found["environment"] = {k: environment[k] for k in ("jax", "numpy", "device") if k in environment}
    return found


def page(found: dict[str, Any]) -> str:
    """The table of `docs/search.md`."""
    lines = ["| study | chosen on | accuracy | AUROC |", "|---|---|---|---|"]
    words = {"validation": "validation", "optimistic": "the test part ‡"}
    for name in ("plain", "searched"):
        for selection, said in words.items():
            cells = []
            for metric in METRICS:
                part = found[name][selection][metric]
                low, high = part["procedure"]
                cells.append(f"{part['value']:.3f} ({low:.3f} to {high:.3f})")
            lines.append(f"| {name} | {said} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    made = measure()
    RESULTS.write_text(json.dumps(made, indent=1) + "\n")
    print(page(made))
