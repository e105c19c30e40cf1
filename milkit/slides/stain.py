"""Stain: making tiles of different laboratories look alike (Macenko, Reinhard), or more unlike (jitter), in NumPy.

All functions are pure. Images are RGB in 0..255 with any leading axes; a target is fitted once and used on every tile.
A tile without stain (white glass) comes back as it was: there is nothing in it to normalise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from milkit.errors import DataError

LIGHT = 240.0
"""Intensity of glass, which has no optical density (Macenko et al.)."""
FAINTEST = 0.15
"""Optical density (natural logarithm) that every channel of a stained pixel reaches."""
TAIL = 1.0
"""Percentile, from either end, at which angles are taken for those of the two stains."""
LEAST_PIXELS = 16
"""Fewer stained pixels than this say nothing of two stains."""
HED = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""Optical densities of haematoxylin, eosin and DAB, one a row (Ruifrok & Johnston 2001, table 1)."""
_RGB_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_D65 = np.array([0.950456, 1.0, 1.088754])


@dataclass(frozen=True, eq=False)
class Stains:
    """The two stains of an image, or of a target.

    Attributes:
        vectors: directions in optical density, [3, 2]: haematoxylin, then eosin; columns of length 1.
        most: 99th percentile of the amount of each, [2].
    """

    vectors: Float[np.ndarray, "3 2"]
    most: Float[np.ndarray, "2"]


MACENKO = Stains(np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), np.array([1.9705, 1.0308]))
"""The reference of Macenko's own implementation, a usual target."""


@dataclass(frozen=True, eq=False)
class Colours:
    """Mean and population standard deviation of L, a and b (CIE 1976, D65) over an image's pixels, each [3]."""

    mean: Float[np.ndarray, "3"]
    sd: Float[np.ndarray, "3"]


def fit_macenko(
    rgb: UInt8[np.ndarray, "... 3"], *, light: float = LIGHT, tail: float = TAIL, faintest: float = FAINTEST
) -> Stains:
    """The stains of an image, or of several tiles of a slide together.

    Args:
        rgb: pixels.
        light: intensity without tissue.
        tail: percentile of the angles, in 0..50.
        faintest: optical density that each channel of a stained pixel reaches.

    Raises:
        DataError: too few stained pixels, or all of one colour.

    References:
        Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis, ISBI.
    """
    density = _density(rgb.reshape(-1, 3), light)
    stained = density[(density >= faintest).all(1)]
    if len(stained) < LEAST_PIXELS:
        raise DataError(
            f"{len(stained)} of {len(density)} pixels are stained (every optical density at least {faintest}); two "
            f"stains need {LEAST_PIXELS}. Fit on tiles of tissue."
        )
    plane = np.linalg.eigh(np.cov(stained, rowvar=False))[1][:, 1:]
    if plane[:, 1].sum() < 0:  # tissue then lies at angles in (0, pi), where no percentile wraps round
        plane = plane * np.array([1.0, -1.0])
    middle, along = (stained @ plane).T
    ends = [_direction(plane, angle) for angle in np.percentile(np.arctan2(along, middle), [tail, 100 - tail])]
    vectors = np.stack(ends if ends[0][0] > ends[1][0] else ends[::-1], 1)
    if np.linalg.svd(vectors, compute_uv=False)[1] < 1e-6:
        raise DataError("All stained pixels have one colour, so two stains cannot be told apart; fit on more tissue.")
    return Stains(vectors, np.percentile(_amounts(density, vectors), 99, axis=1))


def macenko(
    rgb: UInt8[np.ndarray, "... 3"], target: Stains = MACENKO, source: Stains | None = None, *, light: float = LIGHT
) -> UInt8[np.ndarray, "... 3"]:
    """An image with its two stains replaced by the target's, in the target's strength.

    Args:
        rgb: image.
        target: of `fit_macenko`.
        source: stains of the image's slide; None fits them on the image alone, which comes back unchanged where that
            cannot be done (a white tile). Fitted on a slide, tiles keep their differences.
        light: intensity without tissue.
    """
    if source is None:
        try:
            source = fit_macenko(rgb, light=light)
        except DataError:
            return rgb.copy()
    if (source.most <= 0).any():
        return rgb.copy()
    amounts = _amounts(_density(rgb.reshape(-1, 3), light), source.vectors) * (target.most / source.most)[:, None]
    return _image(target.vectors @ amounts, light).reshape(rgb.shape)


def stain_images(
    rgb: UInt8[np.ndarray, "... 3"], target: Stains = MACENKO, source: Stains | None = None, *, light: float = LIGHT
) -> tuple[UInt8[np.ndarray, "... 3"], UInt8[np.ndarray, "... 3"]]:
    """Haematoxylin alone and eosin alone, as `macenko` would show them.

    Raises:
        DataError: see `fit_macenko`.
    """
    source = source or fit_macenko(rgb, light=light)
    amounts = _amounts(_density(rgb.reshape(-1, 3), light), source.vectors) * (target.most / source.most)[:, None]
    h, e = (_image(target.vectors[:, [i]] @ amounts[[i]], light).reshape(rgb.shape) for i in (0, 1))
    return h, e


def fit_reinhard(rgb: UInt8[np.ndarray, "... 3"]) -> Colours:
    """Mean and spread of an image's colours.

    References:
        Reinhard et al. (2001), Color transfer between images, IEEE Computer Graphics and Applications 21(5).
    """
    lab = lab_of(rgb.reshape(-1, 3))
    return Colours(lab.mean(0), lab.std(0))


def reinhard(
    rgb: UInt8[np.ndarray, "... 3"], target: Colours, source: Colours | None = None, *, modified: bool = False
) -> UInt8[np.ndarray, "... 3"]:
    """An image whose L, a and b have the target's mean and standard deviation; one of a single colour is unchanged.

    Args:
        rgb: image.
        target: of `fit_reinhard`.
        source: colours of the image's slide; None takes the image's own.
        modified: shift a and b only, and widen L by a share that keeps the background bright (Roy et al. 2021).
    """
    source = source or fit_reinhard(rgb)
    if (source.sd <= 1e-6).any():
        return rgb.copy()
    lab = lab_of(rgb.reshape(-1, 3)) - source.mean
    if modified:
        wider = (target.sd[0] - source.sd[0]) / target.sd[0] if target.sd[0] > 0 else 0.0
        light = source.mean[0] + lab[:, :1] * (1 + (wider if wider > 0 else 0.05))
        lab = np.concatenate([light, lab[:, 1:] + target.mean[1:]], 1)
    else:
        lab = lab / source.sd * target.sd + target.mean
    return rgb_of_lab(lab).reshape(rgb.shape)


def hed_jitter(
    rgb: UInt8[np.ndarray, "n h w 3"], rng: np.random.Generator, *, scale: float = 0.05, shift: float = 0.05
) -> UInt8[np.ndarray, "n h w 3"]:
    """Each image with its amounts of haematoxylin, eosin and residual stain changed at random: an augmentation.

    Args:
        rgb: images; each gets draws of its own.
        rng: source of the draws.
        scale: amounts are multiplied by a factor from [1 - scale, 1 + scale].
        shift: and moved by up to this much (optical density).

    References:
        Tellez et al. (2018), Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference, IEEE TMI.
    """
    basis = HED / np.linalg.norm(HED, axis=1, keepdims=True)
    factor = rng.uniform(1 - scale, 1 + scale, (len(rgb), 1, 1, 3))
    offset = rng.uniform(-shift, shift, (len(rgb), 1, 1, 3))
    density = -np.log((rgb + 1.0) / 256.0)
    changed = (density @ np.linalg.inv(basis) * factor + offset) @ basis
    return np.clip(np.rint(256.0 * np.exp(-changed) - 1.0), 0, 255).astype(np.uint8)


def lab_of(rgb: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """L in 0..100, a and b (CIE 1976, D65) of sRGB."""
    share = rgb / 255.0
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = linear @ _RGB_TO_XYZ.T / _D65
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def rgb_of_lab(lab: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """SRGB of L, a, b; colours outside it are clipped, values truncated."""
    y = (lab[:, 0] + 16) / 116
    f = np.stack([y + lab[:, 1] / 500, y, np.maximum(y - lab[:, 2] / 200, 0.0)], 1)
    linear = np.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * _D65 @ np.linalg.inv(_RGB_TO_XYZ).T
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    share = np.where(linear > 0.0031308, curved, linear * 12.92)
    return (np.clip(share, 0, 1) * 255 + 1e-6).astype(np.uint8)  # 254.99999999 is 255 that was computed


def _density(rgb: np.ndarray, light: float) -> np.ndarray:
    """Optical density [n, 3]; one is added to each value, so that black has one."""
    return -np.log((rgb + 1.0) / light)


def _amounts(density: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """How much of each stain, [2, n], by least squares."""
    return np.linalg.lstsq(vectors, density.T, rcond=None)[0]


def _direction(plane: np.ndarray, angle: float) -> np.ndarray:
    return plane @ np.array([np.cos(angle), np.sin(angle)])


def _image(density: np.ndarray, light: float) -> np.ndarray:
    """Uint8 [n, 3] of optical densities [3, n]; truncated, as the method's implementations do."""
    return np.minimum(light * np.exp(-density), 255.0).T.astype(np.uint8)
