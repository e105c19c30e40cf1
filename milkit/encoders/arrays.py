"""Arrays of a file taken one by one, so that what is missing, left over or of another shape can be named at once."""

from collections.abc import Collection, Mapping

import numpy as np

from milkit.errors import DataError

_COUNTER = "num_batches_tracked"
"""What PyTorch's batch normalisation keeps and nothing here reads."""
_SHOWN = 6
"""Names that a message lists of each kind."""


class Taker:
    """Hands out arrays by name and keeps account; `close` says what was wrong.

    Args:
        arrays: of a file, by PyTorch's names.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = arrays
        self._taken: set[str] = set()
        self._faults: dict[str, list[str]] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """The array as float64; one of nan, of the shape, where there is none that fits, and `close` will raise.

        Args:
            name: of the array.
            shape: what is expected.
        """
        self._taken.add(name)
        array = self._arrays.get(name)
        if array is None:
            self._fault("missing", name)
        elif array.shape != shape:
            self._fault("of another shape", f"{name} {array.shape} (expected {shape})")
        elif array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            self._fault("no finite numbers", name)
        else:
            return array.astype(np.float64)
        return np.full(shape, np.nan)

    def close(self, what: str, ignore: Collection[str] = ()) -> None:
        """To be called when all is taken.

        Args:
            what: the network, for the message.
            ignore: names, or beginnings of names up to a dot, that may be there and are not read (a classifier's).

        Raises:
            DataError: arrays are missing, of another shape, no numbers, or were not asked for; all are listed.
        """
        for name in sorted(self._arrays.keys() - self._taken):
            if not name.endswith(_COUNTER) and not any(name == i or name.startswith(f"{i}.") for i in ignore):
                self._fault("unexpected", name)
        if self._faults:
            said = "; ".join(f"{kind}: {_some(names)}" for kind, names in self._faults.items())
            raise DataError(
                f"The weights do not fit {what}: {said}. They are of another network, or of another size of it; give "
                "the file that belongs to this encoder, or the encoder that belongs to this file."
            )

    def _fault(self, kind: str, name: str) -> None:
        self._faults.setdefault(kind, []).append(name)


def folded(
    taker: Taker, conv: str, norm: str, shape: tuple[int, int, int, int], epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """A convolution without bias and the batch normalisation after it as one: kernel [k, k, in, out] and bias [out].

    With running statistics, normalisation is a factor and a shift of each channel; so the kernel takes the factor.
    Depthwise kernels [c, 1, k, k] become [k, k, 1, c] by the same rule.

    Args:
        taker: of the file's arrays.
        conv, norm: names of the two layers.
        shape: of the kernel in PyTorch's order, [out, in, k, k].
        epsilon: of the normalisation.
    """
    kernel = taker.take(f"{conv}.weight", *shape)
    scale, shift, mean, var = (
        taker.take(f"{norm}.{leaf}", shape[0]) for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(np.maximum(var, 0) + epsilon)
    kernel = (kernel * factor[:, None, None, None]).transpose(2, 3, 1, 0)
    return kernel.astype(np.float32), (shift - mean * factor).astype(np.float32)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
