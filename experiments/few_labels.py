"""MUSK1 with few labels: what attention reaches with 1, 2, 4, 8 and 16 labelled molecules a class, and with all.

    milkit run experiments/few_labels.py:musk1                 # one curve
    python -m experiments.few_labels                           # both, to results/few_labels.json

No published number: the curve answers how many labels this model needs on this set. `musk1_whole` keeps the whole
validation part (8 molecules) for choosing the epoch at every budget, which somebody with two labels does not have;
the distance between the two curves is what that would flatter. Attention, optimiser and epochs are those of
`ilse2018_classic.py`; ten folds dealt once.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from milkit import ABMIL, Classic, Experiment, KFold, LabelBudget, Sgd, Train

musk1 = Experiment(
    data=Classic("musk1"),
    protocol=KFold(folds=10, validation=0.1),
    model=ABMIL(encoder=(256, 128, 64), attention=64),
    train=Train(Sgd(5e-4, momentum=0.9, weight_decay=5e-3), epochs=100, batch_bags=1, standardise=True, width=10),
    labels=LabelBudget(patients_per_class=(1, 2, 4, 8, 16), draws=5),
)
musk1_whole = replace(musk1, labels=LabelBudget(patients_per_class=(1, 2, 4, 8, 16), draws=5, validation="whole"))

RESULTS = Path(__file__).parent / "results" / "few_labels.json"
KEPT = ("value", "sampling", "procedure", "draw_sd", "by_draw")


def kept(curve: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a curve."""
    shown = ("auroc", "accuracy")
    points = [
        {k: v for k, v in p.items() if k != "metrics"}
        | {"metrics": {m: {k: p["metrics"][m][k] for k in KEPT} for m in shown}}
        for p in curve["points"]
    ]
    differences = [
        {"from": d["from"], "to": d["to"], "metrics": {m: d["metrics"][m] for m in shown}} for d in curve["differences"]
    ]
    return {"selection": curve["selection"], "points": points, "differences": differences}


def main() -> None:
    """Run the studies and write what the page shows."""
    from milkit import api
    from milkit.execute.folder import read_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the run folders here, and go on with them")
    options = parser.parse_args()
    found: dict[str, Any] = {"made_by": "python -m experiments.few_labels", "curves": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name, study in (("musk1", musk1), ("musk1_whole", musk1_whole)):
            out = (options.out or Path(scratch)) / name
            api.run(replace(study, name=name), out, resume=True, source=Path(__file__))
            found["curves"][name] = kept(read_json(out / "label_curve.json"))
            environment = read_json(out / "environment.json")
            found["curves"][name]["seconds"] = environment["seconds"]
    found["environment"] = {
        k: environment[k] for k in ("milkit", "jax", "numpy", "system", "device") if k in environment
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
