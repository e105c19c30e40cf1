"""`milkit demo`: the main job on packaged data."""

import argparse
from pathlib import Path

from milkit.execute.interrupt import interruptible


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit demo",
        description="Gated attention MIL (Ilse et al., 2018) on MUSK1, 10 folds x 3 seeds, from data to report.",
        epilog="example: milkit demo --out runs/demo",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default: runs/demo)")
    parser.add_argument("--force", action="store_true", help="replace the run that is in the folder")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted demo")
    options = parser.parse_args(arguments)

    with interruptible() as stop:
        from milkit import api
        from milkit.commands.show import summary
        from milkit.demo import EXPERIMENT
        from milkit.execute.compiled import keep_compiled
        from milkit.execute.spreading import use_cores
        from milkit.watch.device import note_import

        note_import()
        stop.check()
        keep_compiled()
        use_cores()
        results = api.run(EXPERIMENT, options.out, force=options.force, resume=options.resume)
        print(summary(results, options.out))
        stop.check()
    return 0
