"""All components that a run's models see in its images, of which `predictions.csv` refers to the fused map alone.

For models such as DCGN, whose `extras["components"]` say which share of a pixel belongs to which component: they are
computed anew from the run's weights, so that `milkit.metrics.segmentation.oracle_dice` can be measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from milkit.data.images.windows import stitch
from milkit.errors import ConfigError
from milkit.experiment import Experiment
from milkit.keep.members import members_of
from milkit.report.image_maps import CROP_COLUMNS
from milkit.train.state import Graph, forward
from milkit.types import Images


@dataclass(frozen=True, eq=False)
class ComponentMaps:
    """What one run sees in one image.

    Attributes:
        run: its name in `runs.csv`.
        image: id of the image; crops are stitched to the images they are from.
        patient: whose it is.
        maps: share of each component in each pixel.
    """

    run: str
    image: str
    patient: str
    maps: Float[np.ndarray, "h w k"]


def component_maps(
    experiment: Experiment,
    folder: Path,
    *,
    role: Literal["validation", "test"] = "test",
    name: str = "components",
    selection: str = "",
) -> Iterator[ComponentMaps]:
    """The component maps of a finished run's images, run by run, images in the order of their ids. No mask is opened.

    Args:
        experiment: what was run.
        folder: the run folder.
        role: whose images.
        name: which of the output's `extras`, [b, h, w, k].
        selection: whose weights: "validation" or "last"; "" takes the run's own.

    Raises:
        RunFolderError: the run is not finished, or of other data or another model.
        ConfigError: the model gives no such maps.
    """
    show = jax.jit(_show, static_argnums=(0, 1))
    for member in members_of(experiment, folder, selection):
        study, setup, hyper, own = member.study, member.setup, member.hyper, member.arrays
        if setup.canvas is None:
            raise ConfigError(f"{folder}: its bags are no images, so there are no maps of them.")
        members = getattr(member, role)
        named = study.columns["image"] if all(c in study.columns for c in CROP_COLUMNS) else study.bag
        images = np.asarray(named)[members]
        for image in np.unique(images):
            rows = members[images == image]
            parts = []
            for r in rows.tolist():
                x = _placed(np.asarray(study.read(r).x), study.sizes[r], setup.canvas)  # type: ignore[index]
                seen = show(setup.graph, name, own["params"], own["buffers"], (hyper.shift, hyper.inverse_scale), *x)
                if seen is None:
                    raise ConfigError(f"{type(experiment.model).__name__} has no {name!r} in its extras.")
                parts.append(np.asarray(seen)[0, : study.sizes[r][0], : study.sizes[r][1]])  # type: ignore[index]
            whole = parts[0]
            if named is not study.bag:
                places = np.array([[int(study.columns[c][r]) for c in CROP_COLUMNS[1:]] for r in rows])
                shape = np.max([p + part.shape[:2] for p, part in zip(places, parts, strict=True)], axis=0)
                whole = stitch(parts, places, (int(shape[0]), int(shape[1])))
            yield ComponentMaps(member.run, str(image), str(study.patient[rows[0]]), whole)


def _placed(
    x: np.ndarray, size: np.ndarray, canvas: tuple[int, int]
) -> tuple[Float[np.ndarray, "1 h w c"], np.ndarray]:
    """Pixels, one after the other, at the top left of a canvas; and the mask of the real ones."""
    h, w = size.tolist()
    placed, mask = np.zeros((1, *canvas, x.shape[-1]), np.float32), np.zeros((1, *canvas), bool)
    placed[0, :h, :w], mask[0, :h, :w] = x.reshape(h, w, -1), True
    return placed, mask


def _show(
    graph: Graph, name: str, params: object, buffers: object, scale: tuple[Array, Array], x: Array, mask: Array
) -> Array | None:
    images = Images(jnp.where(mask[..., None], (x - scale[0]) * scale[1], 0), mask)
    found: Array | None = forward(graph, params, buffers, images, None)[0].extras.get(name)
    return found
