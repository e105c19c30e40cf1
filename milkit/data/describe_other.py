"""Files and folders that hold no features but are known: run folders, kept models, images, tile positions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkit.data.formats.guard_bytes import regular
from milkit.data.formats.guard_hdf5 import opened
from milkit.data.formats.header import attributes
from milkit.data.formats.kind import kind_of
from milkit.data.formats.not_features import NotFeatures, not_features
from milkit.errors import DataError

IMAGES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".czi", ".tif", ".tiff")


@dataclass(frozen=True)
class Other:
    """Something that is known and holds no features.

    Attributes:
        kind: "run", "model", "image", "patches" or "images".
        words: what it is and what to do with it, in one line.
        tool: which wrote it, "" where unknown.
        lengths: tiles of each slide, of positions and images of tiles.
        said: what it says of itself.
        notes: what a reader should know.
    """

    kind: str
    words: str
    tool: str = ""
    lengths: tuple[int, ...] | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def other(path: Path) -> Other | None:
    """What a path is that holds no features; None where it may hold some, or is a table.

    Raises:
        DataError: nothing there, or a file that cannot be read.
    """
    if not path.exists():
        raise DataError(f"There is nothing at {path}; the folder is {Path.cwd()}.")
    if path.is_dir():
        return _run(path) or _model(path) or _positions(path)
    return _image(path) or (_positions(path) if kind_of(path) == "hdf5" else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _run(path: Path) -> Other | None:
    if not (path / "config.json").is_file() or not ((path / "folds.csv").is_file() or (path / "programs").is_dir()):
        return None
    experiment = _json(path / "config.json").get("experiment", {})
    name = experiment.get("name") if isinstance(experiment, dict) else None
    done = "finished" if (path / "results.json").is_file() else "not finished"
    words = f"a run folder of milkit{f', of experiment {name!r}' if name else ''}, {done}; milkit report reads it"
    return Other("run", words, "milkit")


def _model(path: Path) -> Other | None:
    if not (path / "model.json").is_file() or not (path / "weights.safetensors").is_file():
        return None
    return Other("model", "a model that milkit finalize kept; milkit predict uses it", "milkit")


def _image(path: Path) -> Other | None:
    with open(regular(path), "rb") as file:
        start = file.read(16)
    name = next((name for magic, name in IMAGES.items() if start.startswith(magic)), None)
    if name is None and path.suffix.lower() not in SLIDES:
        return None
    slide = path.suffix.lower() in SLIDES
    what = f"an image ({name or path.suffix[1:]}){', perhaps a scanned slide' if slide else ''}"
    return Other("image", f"{what}; milkit reads features, which TRIDENT, CLAM or STAMP make of slides")


def _positions(path: Path) -> Other | None:
    """Tile positions or tile images of one slide or of a folder of them."""
    inside = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    found: list[NotFeatures] = []
    said: dict[str, Any] = {}
    for one in inside:
        with opened(one) as file:
            known = not_features(file)
            if known is None:
                return None
            said = said or _said(attributes(file["imgs" if "imgs" in file else "coords"]))
        found.append(known)
    if not found:
        return None
    lengths = tuple(known.count for known in found)
    many = f"{len(found)} files: each of {found[0].tool or 'some tool'}, " if len(found) > 1 else ""
    return Other(found[0].kind, many + found[0].words, found[0].tool, lengths, said, (found[0].advice,))


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes but for the names of the machine's folders."""
    return {name: value for name, value in values.items() if name not in ("savetodir", "save_path", "name")}
