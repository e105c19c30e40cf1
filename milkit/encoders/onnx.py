"""An encoder in an ONNX file, run by onnxruntime (the extra `onnx`)."""

import hashlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from milkit.encoders.custom import CallableEncoder
from milkit.encoders.pixels import Pixels
from milkit.errors import ConfigError, DataError


class OnnxEncoder:
    """One input of standardised pixels, one output of features; images [n, 3, s, s] or [n, s, s, 3], as the file says.

    Args:
        path: of the file.
        pixels: its input; the file tells only the side, which is held against it.
        batch: tiles at once.

    Raises:
        ConfigError: onnxruntime is not installed.
        DataError: no such file, damaged, or not of one image input.
    """

    def __init__(self, path: Path, pixels: Pixels | None = None, *, batch: int = 0):
        self.name, self.pixels = path.name, pixels or Pixels()
        if not path.is_file():
            raise DataError(f"There is no file {path}; give an .onnx file.")
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(f"{path} takes onnxruntime to run: pip install 'milkit[onnx]'.") from None
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime's own kinds
            raise DataError(f"{path} is no ONNX file, or damaged ({str(error)[:160]}).") from error
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise DataError(f"{path} has inputs {[i.shape for i in inputs]}; expected one of images, [n, 3, s, s].")
        self._first = shape[1] == 3
        stated = shape[2] if self._first else shape[1]
        if isinstance(stated, int) and stated != self.pixels.side:
            raise DataError(
                f"{path} takes {stated} pixels a side, not {self.pixels.side}; say pixels=Pixels({stated})."
            )
        fixed = shape[0] if isinstance(shape[0], int) else 0
        self._fixed, self.side = fixed, self.pixels.side
        self._checked = CallableEncoder(self.name, self._run, side=self.side, batch=fixed or batch)
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def width(self) -> int:
        """Features of a tile; 0 before the first was encoded."""
        return self._checked.width

    def encode(self, tiles: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Features of tiles, in float32.

        Raises:
            DataError: tiles are not what the encoder takes, or its output is no finite [n, d].
        """
        self.pixels.check(tiles)
        return self._checked.encode(tiles)

    def facts(self) -> dict[str, Any]:
        """Name, digest of the file, width and input."""
        pixels = self.pixels
        return {
            **self._checked.facts(),
            "weights_sha256": self.digest,
            "resize": pixels.resize,
            "resize_to_px": pixels.resize_to or pixels.side,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
        }

    def _run(self, tiles: np.ndarray) -> np.ndarray:
        count = len(tiles)
        if self._fixed > count:
            tiles = np.concatenate([tiles, np.zeros((self._fixed - count, *tiles.shape[1:]), np.uint8)])
        x = np.asarray(self.pixels.prepare(jnp.asarray(tiles)))
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if self._first else x
        found = np.asarray(self._session.run(None, {self._session.get_inputs()[0].name: x})[0])
        # a pooled feature may still have its pixel: [n, d, 1, 1]
        return found.reshape(len(found), -1)[:count] if found.size == len(found) * found.shape[1] else found[:count]
