"""`milkit data`: known public data sets, their licences, and where to get those we may not ship."""

import argparse


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit data",
        description="Known public data sets: what is here, under which licence, and where to get the rest.",
        epilog="example: milkit data musk1",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these in full (default: a line for each)")
    options = parser.parse_args(arguments)

    from milkit.data.datasets import Classic, known

    sets = {record.name: record for record in known()}
    for name in options.names:
        Classic(name)  # an unknown name is refused with the nearest known one
        record = sets[name]
        print(f"{record.name}: {record.what}")
        print(f"  {record.bags} bags ({record.positives} positive), {record.instances} instances x {record.features}")
        print(f"  licence:  {record.licence}")
        print(f"  citation: {record.citation}")
        print(f"  source:   {record.where}")
        wanted = f"no; put it at $MILKIT_DATA/mil_classic/{name}.npz (docs/data.md says what is in it)"
        print(f"  here:     {record.here or wanted}")
    if not options.names:
        print(f"{'set':<21} {'bags':>5} {'instances':>9} {'features':>8}  {'here':<5} licence")
        for record in sets.values():
            here = "yes" if record.here else "no"
            size = f"{record.bags:>5} {record.instances:>9} {record.features:>8}"
            print(f"{record.name:<21} {size}  {here:<5} {record.licence}")
        print("\n`milkit data NAME` says where to get a set and where to put it; docs/data.md how to bring your own.")
    return 0
