"""What an encoder is to the rest of the house, and how a network becomes one.

An encoder turns tiles into features: uint8[n, h, w, 3] into float32[n, d], a row a tile, whatever n is.
"""

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from milkit.encoders.pixels import Pixels
from milkit.errors import ConfigError, DataError

Precision = Literal["float32", "bfloat16"]


@runtime_checkable
class Encoder(Protocol):
    """What features are made with."""

    @property
    def name(self) -> str:
        """Written beside the features."""
        ...

    @property
    def width(self) -> int:
        """Features of a tile; 0 where it is known only once a tile was encoded."""
        ...

    @property
    def side(self) -> int:
        """Pixels a side that it takes tiles at; 0 where it takes any."""
        ...

    def encode(self, tiles: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Features of tiles, in float32."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a store says of where its features come from, as JSON-able values."""
        ...


@runtime_checkable
class Network(Protocol):
    """A network's configuration: sizes and input, without weights.

    Attributes:
        cpu_batch: tiles at once that a CPU is fastest with.
    """

    cpu_batch: ClassVar[int]

    @property
    def pixels(self) -> Pixels:
        """Its input."""
        ...

    def parameters(self, arrays: dict[str, np.ndarray]) -> Any:
        """A tree of arrays made of a file's; raises a DataError that names what does not fit."""
        ...

    def features(self, parameters: Any, x: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """Features of prepared pixels."""
        ...


class NetworkEncoder:
    """A network with its weights on the device; batches of one size, so that one program is compiled for a tile size.

    Args:
        name: of the encoder.
        network: its configuration.
        arrays: its weights, by PyTorch's names.
        batch: tiles of a program; the last batch is filled up. 0 chooses: the network's own for a CPU, 64 elsewhere.
        precision: of the arithmetic. bfloat16 halves time and memory on a GPU and keeps about two decimal digits.
        digest: SHA-256 of the weights' file.
        origin: where it was downloaded from, "" for a file that was there.

    Raises:
        DataError: the weights do not fit the network.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        arrays: dict[str, np.ndarray],
        *,
        batch: int = 0,
        precision: Precision = "float32",
        digest: str = "",
        origin: str = "",
    ):
        if batch < 0:
            raise ConfigError(f"batch is {batch}; expected at least 1 tile, or 0 to let it be chosen.")
        if precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision is {precision!r}; expected 'float32' or 'bfloat16'.")
        self.name, self.network, self.precision, self.digest, self.origin = name, network, precision, digest, origin
        self.side = network.pixels.side
        self.batch = batch or (network.cpu_batch if jax.default_backend() == "cpu" else 64)
        dtype = jnp.dtype(precision)
        self._parameters = jax.tree.map(lambda a: jnp.asarray(a, dtype), network.parameters(arrays))

        def run(parameters: Any, tiles: Array) -> Array:
            x = network.pixels.prepare(tiles).astype(dtype)
            return network.features(parameters, x).astype(jnp.float32)

        self._run = jax.jit(run)
        shape = jax.ShapeDtypeStruct((1, self.side, self.side, 3), jnp.uint8)
        self.width = int(jax.eval_shape(run, self._parameters, shape).shape[1])

    def encode(self, tiles: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Features of tiles, in float32; the next batch is on its way while one is computed.

        Raises:
            DataError: the tiles are not what the encoder takes, or features are not finite.
        """
        self.network.pixels.check(tiles)
        found = np.empty((len(tiles), self.width), np.float32)
        waiting: list[tuple[int, int, Array]] = []
        for start in range(0, len(tiles), self.batch):
            part = tiles[start : start + self.batch]
            full = np.zeros((self.batch, *tiles.shape[1:]), np.uint8)
            full[: len(part)] = part
            waiting.append((start, len(part), self._run(self._parameters, full)))
            if len(waiting) > 1:
                _keep(found, *waiting.pop(0))
        for one in waiting:
            _keep(found, *one)
        if not np.isfinite(found).all():
            first = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
            raise DataError(
                f"Features of tile {first} are not finite; with precision={self.precision!r} numbers of {self.name} "
                "outgrow their range, or its weights are damaged."
            )
        return found

    def facts(self) -> dict[str, Any]:
        """Name, digest of the weights, width, input and precision."""
        pixels = self.network.pixels
        return {
            "encoder": self.name,
            "network": repr(self.network),
            "weights_sha256": self.digest,
            **({"weights_from": self.origin} if self.origin else {}),
            "width": self.width,
            "side_px": self.side,
            "resize": pixels.resize,
            "resize_to_px": pixels.resize_to or pixels.side,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "precision": self.precision,
        }


def _keep(found: np.ndarray, start: int, count: int, features: Array) -> None:
    found[start : start + count] = np.asarray(features)[:count]
