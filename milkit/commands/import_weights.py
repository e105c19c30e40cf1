"""`milkit import-weights`: a model folder of weights that others trained."""

import argparse
import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milkit.foreign_weights.file import Checkpoint
    from milkit.foreign_weights.model import Placed
    from milkit.keep.folder import Kept


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)

    from milkit import api
    from milkit.execute.compiled import keep_compiled
    from milkit.keep.imported import Stated

    keep_compiled()
    stated = Stated(
        settings=dict(_setting(text) for text in options.set),
        task=options.task,
        classes=tuple(name.strip() for name in options.classes.split(",")) if options.classes else (),
        encoder=options.encoder,
        mpp=options.mpp,
        unit=options.unit,
        prefix=options.prefix,
        name=options.name,
    )
    out = options.out or Path("models") / options.file.stem
    kept, checkpoint, placed = api.import_weights(options.model, options.file, out, stated, force=options.force)
    for line in _said(options.file, kept, checkpoint, placed):
        print(line)
    print(f"model: {out}; what it is: {out / 'README.md'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="milkit import-weights",
        description="Make a model to keep of weights that the authors of a model, or another library, trained. Its "
        "sizes are read off the arrays; what is in no array is as the authors have it, unless --set says otherwise.",
        epilog="example: milkit import-weights clam-sb s_0_checkpoint.safetensors --classes normal,tumour "
        "--encoder resnet50 --out models/clam",
    )
    parser.add_argument("model", metavar="MODEL", help="ABMIL, CLAMSB (or clam-sb), CLAMMB, DSMIL, TransMIL, ...")
    parser.add_argument("file", type=Path, metavar="FILE", help=".safetensors, .npz, or .pt/.pth (takes PyTorch)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="model folder to make (default: models/NAME OF FILE)")
    parser.add_argument("--classes", default="", metavar="A,B", help="names in the order of the logits (default: 0,1)")
    parser.add_argument(
        "--task", default="", choices=["binary", "multiclass", "multilabel"],
        help="how logits are read (default: binary for one, else multiclass)",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of the model")
    parser.add_argument("--encoder", default="", help="that made the features of the training")
    parser.add_argument("--mpp", type=float, help="micrometres a pixel of the training's tiles")
    parser.add_argument("--unit", default="slide", choices=["slide", "patient"], help="whose slides are one bag")
    parser.add_argument("--prefix", default="", help="to be taken off the name of every array")
    parser.add_argument("--name", default="", help="of the model (default: the file's)")
    parser.add_argument("--force", action="store_true", help="replace the model that is in the folder")
    return parser


def _setting(text: str) -> tuple[str, Any]:
    """A field and its value: Python's numbers and tuples, True and False, and any other word as it is."""
    from milkit.errors import ConfigError

    field, sign, value = text.partition("=")
    if not sign or not field:
        raise ConfigError(f"--set {text}: expected FIELD=VALUE, such as heads=4.")
    try:
        return field.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return field.strip(), value.strip()


def _said(file: Path, kept: "Kept", checkpoint: "Checkpoint", placed: "Placed") -> list[str]:
    from milkit.report.sections.making import readable

    facts, arrays = kept.facts, checkpoint.arrays
    numbers = sum(a.size for a in arrays.values())
    lines = [f"read: {file}, {len(arrays)} arrays, {numbers:,} numbers, in the naming of {placed.layout.source}"]
    if checkpoint.under:
        lines.append(f"  they stood under {checkpoint.under!r}")
    if checkpoint.beside:
        lines.append(f"  not read, beside them: {', '.join(checkpoint.beside)}")
    if checkpoint.prefix:
        lines.append(f"  taken off every name: {checkpoint.prefix}")
    if placed.left:
        lines.append(f"  without effect on any output, left out: {', '.join(placed.left)}")
    lines += ["model:", *(f"  {line}" for line in readable(facts["model"]).splitlines())]
    lines.append(
        f"takes {facts['in_features']:,} features an instance, gives {facts['out_features']} "
        f"logit{'s' * (facts['out_features'] != 1)}: {kept.kind} of {', '.join(kept.names)}"
    )
    lines.append("checked: every array of file and model has its partner and its shape; all numbers are finite; so are")
    lines.append("  the logits of a bag of noise")
    return lines
