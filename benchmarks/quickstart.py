"""Runs docs/quickstart.md on made-up slides, and puts what the terminal said back into the page.

    python -m benchmarks.quickstart --out benchmarks/results/quickstart.json       # under a minute

The slides are written as TRIDENT and CLAM write them by `tests/foreign_files.py`. Python blocks become files, console
blocks are run, and the JSON holds each command with its output and the main metrics.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import milkit

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "quickstart.md"
METRICS = ("auroc", "auprc", "accuracy", "balanced_accuracy", "macro_f1")


def steps(page: str):
    """The page's (kind, name, text) in order: a file to write (its name), or a command to run and what it says."""
    for kind, body in re.findall(r"^```(python|console)\n(.*?)^```$", page, re.S | re.M):
        if kind == "python":
            yield kind, "clam_study.py" if "from study" in body else "study.py", body
        else:
            command, _, output = body.partition("\n")
            yield kind, command.removeprefix("$ "), output


def fill(page: str, outputs: dict[str, str]) -> str:
    """The page with the outputs under their commands."""

    def block(match: re.Match) -> str:
        command = match[1].partition("\n")[0]
        return f"```console\n{command}\n{outputs[command.removeprefix('$ ')]}```"

    return re.sub(r"^```console\n(.*?)^```$", block, page, flags=re.S | re.M)


def run(folder: Path, page: str) -> dict[str, str]:
    """Follow the page in a folder; returns each command's standard output."""
    outputs = {}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, name, body in steps(page):
        if kind == "python":
            (folder / name).write_text(body)
            continue
        done = subprocess.run(
            name, shell=True, cwd=folder, text=True, capture_output=True, env={**os.environ, "PATH": path}
        )
        if done.returncode:
            raise SystemExit(f"{name}\n{done.stderr}")
        outputs[name] = done.stdout
    return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from foreign_files import quickstart

    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder:
        quickstart(Path(folder))
        outputs = run(Path(folder), page)
        metrics = json.loads((Path(folder) / "runs/her2/results.json").read_text())["selections"]
    result = {
        "command": "python -m benchmarks.quickstart --out benchmarks/results/quickstart.json",
        "machine": {"python": platform.python_version(), "milkit": milkit.__version__, "system": platform.system()},
        "outputs": outputs,
        "metrics": {
            name: {m: {k: part["metrics"][m][k] for k in ("value", "sampling", "procedure")} for m in METRICS}
            for name, part in metrics.items()
        },
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(fill(page, outputs))


if __name__ == "__main__":
    main()
