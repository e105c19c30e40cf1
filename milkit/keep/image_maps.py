"""What a kept model sees in one image: maps of probabilities, mean over members; a large image in windows.

An image that fits into the canvas of the training images is shown as it was in training, at the canvas' top left. A
larger one is cut into windows of the canvas' size that overlap, and their maps are put together again. A network looks
some pixels around itself, and sees other things at a window's edge than within the image: so many pixels along the
inner edges do not count (`reach_of` measures how many), and windows start where poolings would cut the whole image.
Where a network looks no further than that, and enlarges its maps by its poolings' factor, the stitched map is that of
the whole image, whatever the window's size. Attention over a whole window looks further; maps are then blended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from milkit.data.images.windows import aligned_windows, stitch
from milkit.errors import ConfigError, NonFiniteError
from milkit.keep.folder import Kept
from milkit.keep.speak import scores
from milkit.train.state import Graph, forward, graph_of
from milkit.types import Images

STEP = 32
"""Windows start at multiples of this: five poolings by 2, which no model here exceeds."""
LEAST = 16
"""Fewest pixels a side of windows that are asked for: smaller ones see nothing and take for ever."""
SAME = 1e-6
"""Maps that differ by less are the same."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model sees in an image.

    Attributes:
        maps: probability of each label at each pixel, mean over members; [h, w, c].
        members: what each member says of the image, the highest of its windows', [m, s], as `speak` has it.
        windows: how many it was cut into.
    """

    maps: Float[np.ndarray, "h w c"]
    members: Float[np.ndarray, "m s"]
    windows: int


@dataclass(frozen=True, eq=False)
class Viewer:
    """A kept model that is shown images in one canvas, compiled once.

    Attributes:
        kept: the model.
        graph: the static part of its module.
        arrays: of all members, on the device.
        canvas: height and width that are shown at a time, px.
        step: what windows' starts are multiples of, px.
    """

    kept: Kept
    graph: Graph
    arrays: Any
    canvas: tuple[int, int]
    step: int

    @staticmethod
    def of(kept: Kept, window: int = 0) -> "Viewer":
        """Make one.

        Args:
            kept: a model of images.
            window: side of the canvas, px; 0 is the canvas of the training images.

        Raises:
            ConfigError: a window smaller than the model's poolings need, or a model without maps.
        """
        canvas = (window, window) if window else tuple(kept.facts["images"]["canvas"])
        smallest = max(getattr(kept.model, "smallest_side", 1), LEAST if window else 1)
        if min(canvas) < smallest:
            raise ConfigError(
                f"Windows of {min(canvas)} px are too small for {type(kept.model).__name__}, which needs {smallest} px "
                f"a side; give --window {smallest} or more."
            )
        step = STEP
        while step > max(1, min(canvas) // 8):
            step //= 2
        graph = graph_of(kept.model, kept.facts["in_features"], kept.facts["out_features"], 0, canvas)
        arrays = jax.device_put((kept.params, kept.buffers, kept.shift, kept.inverse_scale))
        return Viewer(kept, graph, arrays, (canvas[0], canvas[1]), step)

    def see(self, pixels: UInt8[np.ndarray, "h w 3"], margin: int) -> Seen:
        """The maps of an image.

        Args:
            pixels: the image, as the model wants it (downsampled).
            margin: pixels along windows' inner edges that do not count, where it is larger than the canvas.

        Raises:
            NonFiniteError: an answer is not finite.
        """
        height, width = pixels.shape[:2]
        said: list[np.ndarray] = []
        places = np.zeros((1, 2), np.int64)
        if height > self.canvas[0] or width > self.canvas[1]:
            places = aligned_windows(height, width, self.canvas, self.overlap(margin), self.step)

        def patches() -> Iterator[np.ndarray]:
            for top, left in places.tolist():
                part = pixels[top : top + self.canvas[0], left : left + self.canvas[1]]
                logits, maps = self.show(part)
                said.append(logits)
                yield maps

        if len(places) == 1:
            (maps,) = patches()
        else:
            maps = stitch(patches(), places, (height, width), margin)
        answers = scores(self.kept, np.stack(said, 1))  # [m, windows, s]
        return Seen(np.asarray(maps, np.float32), self._of_image(answers), len(places))

    def overlap(self, margin: int) -> int:
        """How much windows overlap: twice the margin, and a quarter of the window at least, so that seams blend."""
        return min(max(2 * margin, min(self.canvas) // 4), min(self.canvas) - self.step)

    def show(self, part: UInt8[np.ndarray, "h w 3"]) -> tuple[np.ndarray, Float[np.ndarray, "h w c"]]:
        """Each member's logits of what fits into the canvas, [m, c], and the mean of their maps."""
        height, width = part.shape[:2]
        x = np.zeros((1, *self.canvas, part.shape[2]), np.float32)
        mask = np.zeros((1, *self.canvas), bool)
        x[0, :height, :width], mask[0, :height, :width] = part, True
        logits, maps = _seen(self.graph, self.arrays, x, mask)
        logits, maps = np.asarray(logits, np.float64), np.asarray(maps)[:height, :width]
        if not np.isfinite(logits).all() or not np.isfinite(maps).all():
            raise NonFiniteError("the model's answer is not finite; its weights do not fit images like this")
        return logits, maps

    def _of_image(self, answers: Float[np.ndarray, "m w s"]) -> Float[np.ndarray, "m s"]:
        """The windows' answers as the image's: something is in an image if it is in one of its windows."""
        if self.kept.kind == "Binary":
            positive = answers[..., 1].max(1)
            return np.stack([1.0 - positive, positive], -1)
        return answers.max(1)


def margin_of(viewer: Viewer) -> tuple[int, bool]:
    """Pixels along inner edges that do not count, and whether the network looks no further than that."""
    most = max(0, (min(viewer.canvas) - viewer.step) // 2)  # windows must get on by a step
    reach = reach_of(viewer)
    if reach is not None and reach + viewer.step <= most:
        return reach + viewer.step, True  # a step more, since a pixel stands anywhere in what is pooled together
    return min(most, min(viewer.canvas) // 8), False


def reach_of(viewer: Viewer) -> int | None:
    """How many pixels the network looks around itself, measured: what changes further away moves no probability.

    The middle of a canvas of noise is looked at while everything beyond some distance becomes other noise.

    Returns:
        The distance, px, a multiple of 4; None where even what is furthest away counts.
    """
    (height, width), rng = viewer.canvas, np.random.default_rng(0)
    side = viewer.step
    top, left = (n // 2 // side * side for n in (height, width))
    side = max(1, min(side, height - top, width - left))
    first, second = rng.integers(0, 256, (2, height, width, viewer.kept.facts["in_features"])).astype(np.uint8)
    wanted = viewer.show(first)[1][top : top + side, left : left + side]

    def unmoved(far: int) -> bool:
        rows, columns = slice(max(top - far, 0), top + side + far), slice(max(left - far, 0), left + side + far)
        changed = second.copy()
        changed[rows, columns] = first[rows, columns]
        maps = viewer.show(changed)[1][top : top + side, left : left + side]
        return bool(np.abs(maps - wanted).max() <= SAME)

    low, high = -1, min(top, left, height - top - side, width - left - side) // 4
    if high < 1 or not unmoved(4 * high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if unmoved(4 * middle) else (middle, high)
    return 4 * high


@partial(jax.jit, static_argnums=0)
def _seen(graph: Graph, arrays: Any, x: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    """Logits of every member for one canvas, [m, c], and the mean of their maps, [h, w, c]."""

    def one(total: jax.Array, member: Any) -> tuple[jax.Array, jax.Array]:
        params, buffers, shift, inverse_scale = member
        images = Images(jnp.where(mask[..., None], (x - shift) * inverse_scale, 0.0), mask)
        output = forward(graph, params, buffers, images, None)[0]
        maps = output.extras["maps"]
        return total + next(iter(maps.values()))[0].astype(jnp.float32), output.logits[0]

    members = len(jax.tree.leaves(arrays)[0])
    shape = jax.eval_shape(lambda a: one(jnp.float32(0.0), jax.tree.map(lambda v: v[0], a))[0], arrays).shape
    total, logits = jax.lax.scan(one, jnp.zeros(shape, jnp.float32), arrays)
    return logits, total / members
