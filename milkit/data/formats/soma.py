"""soma (2.2; its extractor is slide2vec, its tiler hs2p): `tile_embeddings/<sample>.pt` [N, d], or `.npz` (`features`).

Beside each lies `<sample>.meta.json` where it was not cleared away: `artifact_type`, `encoder_name`, `num_tiles`,
`feature_dim`, `tile_size_lv0` (pixels of level 0), `requested_tile_size_px`, `requested_spacing_um`, and the paths
of the tiler's files. Those are `<sample>.coordinates.npz` (`x`, `y` int64: top-left, pixels of level 0) and
`<sample>.coordinates.meta.json` (`slide.base_spacing_um` is the mpp of level 0), in `tiles/` of the same run; of a path
that leads elsewhere only the file's name is used.

`slide_embeddings/`, `patient_embeddings/` and `packed_features.pt` hold one vector a sample and are refused, and so are
`hierarchical_embeddings/` [regions, tiles, d].
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.formats import npz_file, pt
from milkit.data.formats.header import Header
from milkit.data.formats.json_file import positive, read_json, section
from milkit.data.formats.kind import holds
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import check_matrix, digest, sampled_rows
from milkit.data.formats.pt_file import tensors
from milkit.errors import DataError

TOOL = "soma"
TILES = "tile_embeddings"
PACKED = "packed_features.pt"
WHOLE = ("slide_embeddings", "patient_embeddings", "hierarchical_embeddings", "image_embeddings")
"""Folders of what is no tile's."""
META, COORDINATES = ".meta.json", ".coordinates.npz"
NO_SLIDES = (".coords.pt", ".coords.npy", ".coords.npz", COORDINATES)
"""Endings of files that lie among the features and are none."""
KEPT = ("requested_tile_size_px", "requested_spacing_um")


def _payload(path: Path) -> Path:
    return path / TILES if (path / TILES).is_dir() else path


def is_soma(path: Path, content: None = None) -> bool:
    """Whether a folder holds such a folder, or is one: by the files beside the features."""
    if (path / TILES).is_dir() or (path / "cache_metadata.json").is_file() or (path / PACKED).is_file():
        return True
    if any((path / name).is_dir() for name in WHOLE):
        return True
    beside = next((file for file in sorted(path.glob(f"*{META}")) if not file.name.startswith(".")), None)
    try:
        return beside is not None and "artifact_type" in read_json(beside)
    except DataError:
        return False


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """What the sidecars say, and the shapes of the arrays; samples without tissue have a sidecar only.

    Raises:
        DataError: one vector a sample; files that contradict each other; `.pt` without torch.
    """
    folder = _payload(path)
    files = sorted(
        file
        for file in (*folder.glob("*.pt"), *folder.glob("*.npz"))
        if file.name != PACKED and not file.name.endswith(NO_SLIDES) and not file.name.startswith(".")
    )
    if not files:
        held = sorted(entry.name for entry in path.iterdir())[:6]
        raise DataError(
            f"{path} holds no features of tiles (it holds {', '.join(held)}). {PACKED} and folders of slide or patient "
            f"embeddings hold one vector a sample, and a model of bags needs one a tile: give {TILES}/."
        )
    slides = [_header(file) for file in files]
    known = {slide.id for slide in slides}
    return (*slides, *(_empty(file, slides[0].width) for file in _without_tissue(folder, known)))


def _header(file: Path) -> Header:
    sidecar = file.with_name(f"{file.stem}{META}")
    held = read_json(sidecar) if sidecar.is_file() else {}
    kind = held.get("artifact_type", TILES)
    if kind != TILES:
        raise DataError(f"{sidecar}: artifact_type is {kind!r}; a model of bags needs the features of tiles ({TILES}).")
    n, d = _shape(file)
    for name, found in (("num_tiles", n), ("feature_dim", d)):
        if held.get(name) not in (None, found):
            raise DataError(f"{file} holds {found} where {sidecar} says {name} {held[name]!r}; one of them is old.")
    return _said(file.stem, file, n, d, sidecar, held)


def _said(name: str, file: Path, n: int, d: int, sidecar: Path, held: dict[str, Any]) -> Header:
    """A header with what a sidecar says."""
    tile_px = positive(sidecar, held, KEPT[0])
    encoder = held.get("encoder_name")
    return Header(
        id=name,
        path=file,
        length=n,
        width=d,
        layout="soma",
        positioned=False,
        encoder=None if encoder is None else str(encoder),
        tile_px=None if tile_px is None else round(tile_px),
        tile_level0_px=positive(sidecar, held, "tile_size_lv0"),
        said={name: held[name] for name in KEPT if held.get(name) is not None},
    )


def _shape(file: Path) -> tuple[int, int]:
    if file.suffix == ".pt":
        shape = tensors(file, "have soma write .npz").features.shape
        return int(shape[0]), int(shape[1])
    found = npz_file.member(file, "features")
    check_matrix(file, found.shape, found.dtype)
    return found.shape[0], found.shape[1]


def _without_tissue(folder: Path, known: set[str]) -> list[Path]:
    """Sidecars that say that their sample has no tile."""
    beside = [file for file in sorted(folder.glob(f"*{META}")) if not file.name.startswith(".")]
    others = [file for file in beside if file.name.removesuffix(META) not in known]
    return [file for file in others if read_json(file).get("num_tiles") == 0]


def _empty(sidecar: Path, width: int) -> Header:
    return _said(sidecar.name.removesuffix(META), sidecar, 0, width, sidecar, read_json(sidecar))


def with_tiles(slide: Header, given: str) -> Header:
    """The header with what the tiler's files say, where they lie in the same run or in the folder that is given.

    Raises:
        DataError: a given folder without them; files that do not fit the features.
    """
    if not slide.length:
        return slide
    run = slide.path.parent.parent
    folders = [slide.path.parent, run / "tiles", run]
    if given:
        folders = [Path(given).expanduser(), Path(given).expanduser() / "tiles"]
        if not any(holds(folder, COORDINATES) for folder in folders):
            raise DataError(f"patches={given!r}: no folder with soma's tiles (<sample>{COORDINATES}) there.")
    names = [f"{slide.id}{COORDINATES}"]
    sidecar = slide.path.with_name(f"{slide.id}{META}")
    if sidecar.is_file() and (said := str(read_json(sidecar).get("coordinates_npz_path") or "")):
        names.append(Path(said.replace("\\", "/")).name)  # never the path: it may lead anywhere
    places = (folder / name for folder in folders for name in names)
    beside = next((path for path in places if path.is_file()), None)
    return slide if beside is None else _placed(slide, beside)


def _placed(slide: Header, beside: Path) -> Header:
    for name in "xy":
        found = npz_file.member(beside, name)
        if found.shape != (slide.length,) or found.dtype.kind not in "iu":
            raise DataError(
                f"{beside}: {name!r} is {found.dtype} of shape {found.shape}, but {slide.path} holds {slide.length} "
                "tiles; they are of two runs. Extract the features again."
            )
    meta = beside.with_name(beside.name.removesuffix(".npz") + META)
    held: dict[str, Any] = read_json(meta) if meta.is_file() else {}
    tiling, about, origin = (section(meta, held, name) for name in ("tiling", "slide", "provenance"))
    return replace(
        slide,
        positioned=True,
        beside=beside,
        tile_level0_px=slide.tile_level0_px or positive(meta, tiling, "tile_size_lv0"),
        mpp_level0=positive(meta, about, "base_spacing_um") or positive(meta, origin, "spacing_at_level_0"),
    )


def features(slide: Header) -> np.ndarray:
    """The matrix [n, d] of one slide, as stored."""
    if slide.path.suffix == ".json":
        return np.empty((0, slide.width), np.float32)
    return pt.features(slide) if slide.path.suffix == ".pt" else npz_file.values(slide.path, "features")


def positions(slide: Header) -> np.ndarray | None:
    """Top-left corners [n, 2], pixels of level 0."""
    if slide.beside is None:
        return None
    return np.stack([npz_file.values(slide.beside, name) for name in "xy"], 1)


def sample(slide: Header) -> str:
    """Digest of some rows."""
    if slide.path.suffix == ".pt":
        return pt.sample(slide)
    values = features(slide)
    return digest(values.shape, values[sampled_rows(len(values))])


LAYOUT = Layout(
    name="soma",
    tool=TOOL,
    container="folder",
    claims=is_soma,
    headers=headers,
    features=features,
    positions=positions,
    sample=sample,
    placed=with_tiles,
    lacks={"tile": f"it is in <sample>{META} or in tiles/; tile_um= gives the size, patches= the folder of tiles"},
    same=KEPT,
)
