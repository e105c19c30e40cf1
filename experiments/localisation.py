"""Which relevance finds the instances that matter, and which is faithful? Digits, glands, nuclei; models side by side.

    python -m experiments.localisation --out RUNS          # results/localisation.json and docs/explaining.md; resumable
    python -m experiments.localisation --out RUNS --sets digits

Models are trained on labels of bags alone; what is known of instances (the digit, the share of gland in a tile, the
type of a nucleus) is opened afterwards, for bags that the model was not trained on. Three initialisations (digits) or
folds by patient (glands) or dealt by rule (nuclei: `patient-leaky`). All models are 64 wide, without dropout.

Measured for each relevance (milkit.explain), on test bags that hold both kinds of instance:
    auprc: average precision of instances within a bag, mean over bags; `chance` is the share of positive instances.
    pointing: share of bags whose highest instance is positive.
    froc: mean sensitivity at 1/4 to 8 false positives a bag, each positive instance a lesion of its own.
    deletion, insertion: area under the probability of the positive class less that of random orders, on positive bags
        (below 0 and above 0: faithful), mean over bags. Intervals draw patients (digits: bags), all members together.
Nuclei are pictures: what is asked of them is asked of their embeddings, which the convolutions give once.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.localisation_page import with_tables
from milkit import ABMIL, AdamW, ColonNuclei, Experiment, GivenFolds, KFold, MnistBags, TissueFeatures, Train
from milkit.execute.run import execute
from milkit.explain import (
    attention,
    contributions,
    deletion,
    gradient_times_input,
    insertion,
    instance_scores,
    integrated_gradients,
)
from milkit.keep.members import Member, members_of
from milkit.metrics.segmentation import froc, instance_auprc, instance_pointing
from milkit.models import CLAMSB, DSMIL, AdditiveMIL, InstancePooling, PatchCNN, TransMIL
from milkit.predictions import whole_file
from milkit.report.results import write_results

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "localisation.json", HERE.parent / "docs" / "explaining.md"
WIDE, BAGS, BATCH, ORDERS = 64, 100, 25, 5
"""Width of all models; test bags of a member that are explained, at most; of which at a time; random orders."""
MODELS: dict[str, Any] = {
    "ABMIL": ABMIL((WIDE,), WIDE),
    "InstancePooling(max)": InstancePooling("max", encoder=(WIDE,)),
    "AdditiveMIL": AdditiveMIL((WIDE,), (WIDE,)),
    "CLAMSB": CLAMSB((WIDE,), WIDE, dropout=0.0),
    "DSMIL": DSMIL((WIDE,), query=WIDE),
    "TransMIL": TransMIL(width=WIDE, heads=4, dropout=0.0),
}
SHARES = tuple(i / 10 for i in range(11))
RELEVANCES: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "instance logits": instance_scores,
    "contributions": contributions,
    "gradient x input": gradient_times_input,
    "integrated gradients": integrated_gradients,
}
TRAIN = Train(AdamW(1e-3, weight_decay=1e-2), epochs=30, batch_bags=8, buckets=1)
SETS: dict[str, tuple[Experiment, Callable[[np.ndarray], np.ndarray]]] = {
    "digits": (
        Experiment(
            MnistBags(train_bags=300, validation_bags=100, test_bags=400), GivenFolds(), ABMIL(), TRAIN, seeds=3
        ),
        lambda digit: digit == 9,
    ),
    "glands": (
        Experiment(
            TissueFeatures("glas"),
            KFold(folds=5, validation=0.2),
            ABMIL(),
            replace(TRAIN, standardise=True),
            unit="slide",
        ),
        lambda share: share >= 0.5,
    ),
    "nuclei": (
        Experiment(
            ColonNuclei(),
            KFold(folds=5, validation=0.1),
            PatchCNN(),
            replace(TRAIN, max_instances=64, epochs=15, buckets=4),
        ),
        lambda kind: kind == 0,
    ),
}
"""Experiment (its model is replaced) and which instances are positive."""
ONLY = {"nuclei": ("ABMIL", "InstancePooling(max)", "AdditiveMIL")}
"""Models of sets that take long."""


def model_of(set_name: str, name: str) -> Any:
    """A model as it stands on a set: behind a convolutional encoder where instances are pictures in colour."""
    return MODELS[name] if set_name != "nuclei" else PatchCNN.nuclei(MODELS[name], hidden=(WIDE,), dropout=0.0)


def relevances_of(model: Any, module: Any, bags: Any) -> dict[str, Callable[..., Any]]:
    """Which relevances a model has, each compiled but for contributions, whose sum is looked at."""
    probe = jax.eval_shape(module, bags)
    has = {
        "attention": probe.attention is not None,
        "instance logits": probe.instance_logits is not None,
        "contributions": "AdditiveMIL" in repr(model),
    }
    found: dict[str, Callable[..., Any]] = {}
    for name, how in RELEVANCES.items():
        if has.get(name, True):
            ask = partial(how, module)
            found[name] = ask if name == "contributions" else jax.jit(ask)
    return found


def examine(experiment: Experiment, folder: Path, positive: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Every relevance of a finished run, over its members' test bags."""
    data: Any = experiment.data
    known = data.read()
    row_of = {str(bag): i for i, bag in enumerate(known.source.ids)}
    found: dict[str, dict[str, list[Any]]] = {}
    for member in members_of(experiment, folder):
        rows = [int(r) for r in member.test][:BAGS]
        longest = max(len(member.study.read(r).x) for r in rows)
        module, given = member.module, member.bags
        if isinstance(experiment.model, PatchCNN):
            module, given = after_convolutions(member)
        predict = jax.jit(lambda b, m=module: jax.nn.sigmoid(m(b).logits[:, 0]))
        ask: dict[str, Callable[..., Any]] = {}
        for at in range(0, len(rows), BATCH):
            some = rows[at : at + BATCH]
            bags = given(some + some[:1] * (BATCH - len(some)), longest)  # one shape: compiled once
            ask = ask or relevances_of(experiment.model, module, bags)
            place = [row_of[str(member.study.bag[r])] for r in some]
            truths = [positive(np.asarray(known.instance_labels(i))) for i in place]
            units = [str(member.study.patient[r]) for r in some]
            speaking = [i for i, p in enumerate(place) if known.labels[p] == 1]
            for name, how in ask.items():
                score = np.asarray(how(bags), np.float64)
                kept = found.setdefault(
                    name, {"score": [], "truth": [], "unit": [], "deletion": [], "insertion": [], "of": []}
                )
                kept["score"] += [score[i, : len(t)] for i, t in enumerate(truths)]
                kept["truth"] += [t.astype(int) for t in truths]
                kept["unit"] += units
                kept["of"] += [units[i] for i in speaking]
                for kind, curve in (("deletion", deletion), ("insertion", insertion)):
                    drawn = curve(predict, bags, score, shares=SHARES, orders=ORDERS, key=jax.random.key(at))
                    kept[kind] += (drawn.area - drawn.random_area)[speaking].tolist()
    return {name: measured(**kept) for name, kept in found.items()}


def after_convolutions(member: Member) -> tuple[Any, Callable[[list[int], int], Any]]:
    """The model after the convolutions, and what gives its bags, one after the other: instances do not see each other
    before.
    """
    whole: Any = nnx.merge(member.setup.graph, member.arrays["params"], member.arrays["buffers"])
    embed = jax.jit(lambda bags: whole.embedded(bags))

    def given(rows: list[int], longest: int) -> Any:
        each = [embed(member.bags([row], longest)) for row in rows]
        return jax.tree.map(lambda *a: jnp.concatenate(a), *each)

    return whole.model, given


def measured(
    score: list[Any], truth: list[Any], unit: list[str], deletion: list[float], insertion: list[float], of: list[str]
) -> dict[str, Any]:
    """The numbers of one relevance; intervals draw patients, with all bags of theirs and all members that saw them."""
    both = [i for i, t in enumerate(truth) if 0 < t.sum() < len(t)]
    scores, truths = [score[i] for i in both], [truth[i] for i in both]
    lesions = [np.where(t == 1, np.cumsum(t), 0) for t in truths]
    counts = [int(t.sum()) for t in truths]
    weight = drawn([unit[i] for i in both])
    values = {
        "auprc": lambda w: instance_auprc(scores, truths, weight=w),
        "pointing": lambda w: instance_pointing(scores, truths, weight=w),
        "froc": lambda w: froc(scores, lesions, counts, weight=w),
    }
    row: dict[str, Any] = {
        "bags": len(both), "patients": len({unit[i] for i in both}),
        "chance": round(float(np.mean([t.mean() for t in truths])), 4),
    }  # fmt: skip
    for name, value in values.items():
        row[name] = entry(float(np.asarray(value(None))), np.asarray(value(weight), np.float64))
    weight = drawn(of)
    for name, gain in (("deletion", np.array(deletion)), ("insertion", np.array(insertion))):
        row[name] = entry(float(gain.mean()), weight @ gain / weight.sum(1))
    return row


def drawn(unit: list[str], draws: int = 400) -> np.ndarray:
    """How often each row is drawn when patients are drawn with replacement, [draws, rows]."""
    rng = np.random.default_rng(0)
    _, place = np.unique(unit, return_inverse=True)
    n = int(place.max()) + 1
    times = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)]).astype(float)
    return times[:, place]


def entry(value: float, spread: np.ndarray) -> dict[str, Any]:
    """A number and its 95 % interval."""
    return {
        "value": round(value, 4),
        "sampling": [round(float(v), 4) for v in np.nanpercentile(spread, [2.5, 97.5])],
    }


def main() -> None:
    """Train what is not there, examine, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folders, kept; a second call goes on with them")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    for set_name in options.sets:
        base, positive = SETS[set_name]
        for name in ONLY.get(set_name, tuple(MODELS)):
            folder, cell = options.out / f"{set_name}_{name}", options.out / f"{set_name}_{name}.json"
            if cell.exists():
                continue
            experiment = replace(base, model=model_of(set_name, name), name=f"{set_name}_{name}")
            if not (folder / "results.json").exists():
                execute(experiment, folder, force=folder.exists())
                write_results(folder)
            results = json.loads((folder / "results.json").read_text())
            auroc = results["selections"]["validation"]["metrics"]["auroc"]
            row = {"auroc": {k: auroc[k] for k in ("value", "sampling")}, **examine(experiment, folder, positive)}
            with whole_file(cell) as file:
                json.dump(row, file, indent=1)
            print(set_name, name, {k: v.get("auprc", v)["value"] for k, v in row.items()}, flush=True)
    sets = {
        s: {
            n: json.loads((options.out / f"{s}_{n}.json").read_text())
            for n in MODELS
            if (options.out / f"{s}_{n}.json").exists()
        }
        for s in SETS
    }
    found = {"made_by": "python -m experiments.localisation --out RUNS", "sets": sets}
    with whole_file(RESULTS) as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    page = with_tables(PAGE.read_text(), found)
    with whole_file(PAGE) as file:
        file.write(page)


if __name__ == "__main__":
    main()
