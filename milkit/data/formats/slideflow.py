"""slideflow (3.0): a folder of `<slide>.pt` float32 [N, d], `<slide>.index.npz` and one `bags_config.json`.

The index (`arr_0`, int [N, 2]; `.index.npy` in old ones) holds the **centres** of the tiles in pixels of level 0, as
`corner + int(width / 2)`, with a width of `int(tile_um / mpp)` pixels. The configuration names the extractor, the stain
normalizer, `num_features`, `tile_px` and `tile_um`; the latter may be a magnification such as "20x", which is no width.
No file holds the mpp of level 0, without which centres give no corners.
"""

from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.formats import npz_file
from milkit.data.formats.header import Header
from milkit.data.formats.json_file import positive, read_json, section
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import check_positions, npy
from milkit.data.formats.pt import features, sample
from milkit.data.formats.pt_file import tensors
from milkit.errors import DataError

TOOL = "slideflow"
CONFIG = "bags_config.json"
ARRAY = "arr_0"


def _bags(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.pt") if not file.name.startswith("."))


def _index(file: Path) -> Path | None:
    named = (file.with_name(f"{file.stem}.index{ending}") for ending in (".npz", ".npy"))
    return next((path for path in named if path.is_file()), None)


def is_slideflow(path: Path, content: None = None) -> bool:
    """Whether a folder holds tensors, and the configuration or the indices that slideflow writes with them."""
    bags = _bags(path)
    if not bags:
        return False
    config = path / CONFIG
    return (config.is_file() and "extractor" in read_json(config)) or _index(bags[0]) is not None


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """What configuration and indices say, and the shapes of the tensors.

    Raises:
        DataError: without torch; files that contradict each other.
    """
    config = path / CONFIG
    held = read_json(config) if config.is_file() else {}
    return tuple(_header(file, config, held) for file in _bags(path))


def _header(file: Path, config: Path, held: dict[str, Any]) -> Header:
    shape = tensors(file, "pack the folder on a machine that has it (milkit pack)").features.shape
    n, d = int(shape[0]), int(shape[1])
    promised = positive(config, held, "num_features")
    if promised is not None and d != promised:
        raise DataError(f"{file} holds {d} features a tile, but {config} says num_features {promised:g}; one is old.")
    index = _index(file)
    if index is not None and n:
        found = npz_file.member(index, ARRAY) if index.suffix == ".npz" else npy(index)
        check_positions(index, found.shape, found.dtype, n)
    tile_px = positive(config, held, "tile_px")
    magnified = isinstance(held.get("tile_um"), str)
    normalizer = section(config, held, "normalizer").get("method")
    # an "mpp" there is kept, not used: nothing says of which level it is
    said = {
        "normalizer": normalizer,
        "tile_magnification": held["tile_um"] if magnified else None,
        "config_mpp": positive(config, held, "mpp"),
    }
    return Header(
        id=file.stem,
        path=file,
        length=n,
        width=d,
        layout="slideflow",
        positioned=index is not None and n > 0,
        beside=index,
        centred=True,
        encoder=_encoder(section(config, held, "extractor")),
        tile_px=None if tile_px is None else round(tile_px),
        tile_um=None if magnified else positive(config, held, "tile_um"),
        said={name: value for name, value in said.items() if value is not None},
    )


def _encoder(extractor: dict[str, Any]) -> str | None:
    """Name of a network where one class stands for many, else of the class."""
    kwargs = extractor.get("kwargs")
    model = kwargs.get("model_name") if isinstance(kwargs, dict) else None
    name = model or str(extractor.get("class") or "").rpartition(".")[2]
    return str(name) or None


def positions(slide: Header) -> np.ndarray | None:
    """Centres of the tiles [n, 2], pixels of level 0."""
    if slide.beside is None:
        return None
    archive = slide.beside.suffix == ".npz"
    values = npz_file.values(slide.beside, ARRAY) if archive else npy(slide.beside).values()
    check_positions(slide.beside, values.shape, values.dtype, slide.length)
    return values


LAYOUT = Layout(
    name="slideflow",
    tool=TOOL,
    container="folder",
    claims=is_slideflow,
    headers=headers,
    features=features,
    positions=positions,
    sample=sample,
    lacks={"tile": "bags_config.json does not say tile_um in micrometres; tile_um= gives it"},
    same=("normalizer", "tile_magnification"),
)
