"""`milkit finalize`: a model to keep, made of a finished run."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit finalize",
        description="Make a model to keep of a finished run: weights, thresholds, temperature and a card.",
        epilog="example: milkit finalize runs/demo --out models/demo",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="model folder to make")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--ensemble", action="store_true", help="keep the weights of all runs (the default)")
    how.add_argument("--refit", action="store_true", help="train anew on all bags, to the folds' median epoch")
    parser.add_argument("--selection", default="", help="whose weights: validation or last (default: the run's own)")
    parser.add_argument("--force", action="store_true", help="replace the model that is in the folder")
    parser.add_argument("--trust-source", action="store_true", help="import the saved source of a model of one's own")
    options = parser.parse_args(arguments)

    from milkit import api
    from milkit.commands.progress import on_one_line
    from milkit.execute.compiled import keep_compiled

    keep_compiled()
    facts = api.finalize(
        options.run,
        options.out,
        how="refit" if options.refit else "ensemble",
        selection=options.selection,
        force=options.force,
        trust_source=options.trust_source,
        tell=on_one_line,
    )
    counts = facts["training"]["counts"]
    print(f"{facts['how']} of {len(facts['members'])} members, trained on {counts['patients']} patients")
    for name in ("threshold", "temperature"):
        if facts[name]["value"]:
            print(f"{name} {', '.join(f'{v:.4f}' for v in facts[name]['value'])}: {facts[name]['from']}")
    if facts["risk_cut"]:
        print(f"high risk from {facts['risk_cut']['value']:.4f}: {facts['risk_cut']['from']}")
    for mark in facts["marks"]:
        print(f"marked: {mark}")
    print(f"model: {options.out}; what it is: {options.out / 'README.md'}")
    return 0
