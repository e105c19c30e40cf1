"""An encoder by its name, with its weights."""

from pathlib import Path

from milkit.encoders.custom import imported
from milkit.encoders.encoder import Encoder, Network, NetworkEncoder, Precision
from milkit.encoders.hub import fetched, is_hub
from milkit.encoders.known import KNOWN
from milkit.encoders.onnx import OnnxEncoder
from milkit.errors import ConfigError
from milkit.fields import nearest
from milkit.foreign_weights.file import read_checkpoint


def load_encoder(
    encoder: str | Network,
    weights: str | Path | None = None,
    *,
    batch: int = 0,
    precision: Precision = "float32",
    prefix: str = "",
) -> Encoder:
    """Make an encoder.

    Args:
        encoder: a name of `KNOWN`; `module:function` of a callable; `FILE.onnx`; or a configuration such as `ViT(6)`.
        weights: of a network: a `.safetensors`, `.npz` or PyTorch file; or hf://OWNER/NAME/FILE of the Hugging Face
            Hub.
        batch: tiles at once; 0 chooses.
        precision: of a network's arithmetic.
        prefix: to be taken off the names of the file's arrays.

    Raises:
        ConfigError: no such encoder, a negative batch, weights missing or not asked for, an extra not installed.
        DataError: a file that cannot be read or belongs to another network.
    """
    if batch < 0:
        raise ConfigError(f"--batch is {batch}; expected a number of tiles, or 0 to leave it to the encoder.")
    if isinstance(encoder, str) and (encoder.endswith(".onnx") or ":" in encoder):
        if weights is not None:
            raise ConfigError(f"Encoder {encoder} brings its own weights; leave {weights} (--weights) out.")
        if encoder.endswith(".onnx"):
            return OnnxEncoder(Path(encoder), batch=batch)
        return imported(encoder, batch=batch)
    if isinstance(encoder, str) and encoder not in KNOWN:
        raise ConfigError(
            f"There is no encoder {encoder!r}{nearest(encoder, KNOWN)}. A function of one's own is named "
            "module:function, an ONNX file by its path."
        )
    name, network = (encoder, KNOWN[encoder].network) if isinstance(encoder, str) else (type(encoder).__name__, encoder)
    if weights is None:
        source = f": a file from {KNOWN[name].weights} (licence: {KNOWN[name].licence})" if name in KNOWN else ""
        raise ConfigError(f"Encoder {name} needs its weights{source}; give the file (--weights FILE).")
    path, origin = fetched(weights) if is_hub(weights) else (Path(weights), "")
    file = read_checkpoint(path, prefix)
    return NetworkEncoder(
        name, network, file.arrays, batch=batch, precision=precision, digest=file.sha256, origin=origin
    )
