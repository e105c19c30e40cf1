"""`milkit data`: known public data sets, their licences, and where to get those we may not ship."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milkit.data.datasets import Known


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit data",
        description="Known public data sets: what is here, under which licence, and where to get the rest.",
        epilog="examples: milkit data; milkit data musk1; milkit data --verify",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these in full (default: a line for each)")
    parser.add_argument("--verify", action="store_true", help="read what is here and compare it with the known digests")
    options = parser.parse_args(arguments)

    from milkit.data.datasets import known, known_set

    sets = {record.name: record for record in known()}
    chosen = [sets[known_set(name).name] for name in options.names]  # an unknown name is refused with the nearest one
    if options.verify:
        return _verify(chosen or list(sets.values()))
    for record in chosen:
        _show(record)
    if not chosen:
        _list(list(sets.values()))
    return 0


def _list(records: "list[Known]") -> None:
    print(f"{'set':<21} {'bags':>5} {'instances':>9} {'features':>8}  {'here':<5} {'digest':<9} licence")
    for record in records:
        size = f"{record.bags or '-':>5} {record.instances or '-':>9} {record.features:>8}"
        here = "yes" if record.here else "no"
        print(f"{record.name:<21} {size}  {here:<5} {record.sum[:8]:<9} {record.licence}")
    print(
        "\n`milkit data NAME` says where to get a set and where to put it, `milkit data --verify` reads what is here; "
        "docs/data.md how to bring your own."
    )


def _show(record: "Known") -> None:
    size = f"{record.bags} bags ({record.positives} positive), {record.instances} instances" if record.bags else "drawn"
    print(f"{record.name}: {record.what}")
    print(f"  {size if record.positives or not record.bags else f'{record.bags} bags'} x {record.features}")
    print(f"  licence:  {record.licence}")
    print(f"  citation: {record.citation}")
    print(f"  source:   {record.where}")
    print(f"  use:      Experiment(data={record.use}, ...)")
    if record.instance_labels:
        print(f"  known of instances: {record.instance_labels} (never among the features)")
    print(f"  sha256:   {record.sum}")
    wanted = f"no; put it at $MILKIT_DATA/{record.files[0]} (docs/datasets.md says what is in it)"
    print(f"  here:     {record.here or wanted}")


def _verify(records: "list[Known]") -> int:
    """Read each set that is here; returns 2 if one is not what it should be."""
    from milkit.data.datasets import verify
    from milkit.errors import MilkitError

    status = 0
    for record in records:
        said = "not here"
        if record.here:
            try:
                verify(record)
                said = "as known"
            except MilkitError as error:
                said, status = str(error), 2
        print(f"{record.name:<21} {said}")
    return status
