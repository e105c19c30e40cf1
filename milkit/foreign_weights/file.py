"""A checkpoint of others read: its arrays, what stood around them, and nothing run that it may hold."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.arrays import hash_file, read_arrays
from milkit.errors import ConfigError, DataError

TORCH = (".pt", ".pth", ".bin", ".ckpt")
AROUND = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Keys under which a training script puts the weights, beside the optimiser and what else it keeps."""
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
"""What wrappers (parallel training, Lightning, Transformers, compilation) put before every name."""


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of a file.

    Attributes:
        arrays: by name, floating-point.
        sha256: of the file.
        under: key of the file under which they stood, "" at its top.
        prefix: what was taken off every name.
        beside: what else the file holds and was not read, by its keys.
    """

    arrays: dict[str, np.ndarray]
    sha256: str
    under: str
    prefix: str
    beside: tuple[str, ...]


def read_checkpoint(path: Path, prefix: str = "") -> Checkpoint:
    """Read a `.safetensors`, `.npz` or PyTorch file.

    Args:
        path: the file.
        prefix: to be taken off every name, before those that are known.

    Raises:
        DataError: no such file, damaged, pickled objects, or no arrays of floating-point numbers in it.
        ConfigError: a PyTorch file where PyTorch is not installed.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; give a .safetensors, .npz or {', '.join(TORCH)} file of weights.")
    under, sha = "", hashlib.sha256()
    beside: tuple[str, ...] = ()
    if path.suffix in TORCH:
        arrays, under, beside = _unwrapped(_read_torch(path), path)
        hash_file(path, sha)
    else:
        arrays = read_arrays(path, sha)
    # PyTorch's batch normalisation counts its batches, in whole numbers; nothing depends on it
    arrays = {name: a for name, a in arrays.items() if not name.endswith("num_batches_tracked")}
    if not arrays:
        raise DataError(f"{path} holds no arrays; give a file of a model's weights (its state_dict).")
    other = sorted(name for name, a in arrays.items() if a.dtype.kind != "f")
    if other:
        raise DataError(f"{path} holds {other[0]} as {arrays[other[0]].dtype}; weights are floating-point numbers.")
    off = _prefix(arrays, prefix, path)
    return Checkpoint({n.removeprefix(off): a for n, a in arrays.items()}, sha.hexdigest(), under, off, beside)


def _prefix(arrays: Mapping[str, Any], given: str, path: Path) -> str:
    """What every name starts with, of what is given and of what wrappers put there."""
    if given and not all(name.startswith(given) for name in arrays):
        odd = next(name for name in sorted(arrays) if not name.startswith(given))
        raise ConfigError(f"--prefix {given}: {path} has {odd}, which does not start so.")
    off = given
    while more := next((p for p in PREFIXES if all(n.startswith(off + p) for n in arrays)), ""):
        off += more
    return off


def _read_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"{path} is PyTorch's own format, which takes PyTorch to read (pip install torch). Or turn it into a "
            ".safetensors file where PyTorch is installed (docs/weights.md)."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch and of pickle, many kinds
        text = " ".join(str(error).split())
        if "GLOBAL" in text or "TorchScript" in text:
            raise DataError(
                f"{path} holds more than weights (Python objects or a program), and reading it could run what it "
                "holds, so it is refused. One who trusts it saves its weights alone: torch.save(model.state_dict(), "
                "NEW), or a .safetensors file (docs/weights.md)."
            ) from error
        raise DataError(f"{path} is no file of PyTorch's, or damaged ({text[:160]}); make or copy it anew.") from error


def _unwrapped(found: Any, path: Path) -> tuple[dict[str, np.ndarray], str, tuple[str, ...]]:
    """Arrays by name of what PyTorch read, the key they stood under, and the keys beside them."""
    under: list[str] = []
    beside: list[str] = []
    while isinstance(found, Mapping) and not any(_is_array(v) for v in found.values()):
        key = next((k for k in AROUND if isinstance(found.get(k), Mapping)), None)
        if key is None:
            break
        under.append(key)
        beside += [str(k) for k in found if k != key]
        found = found[key]
    if not isinstance(found, Mapping):
        raise DataError(
            f"{path} holds a {type(found).__name__}; expected arrays by name, as torch.save(model.state_dict(), FILE) "
            "writes them."
        )
    arrays: dict[str, np.ndarray] = {}
    for name, value in found.items():
        # several networks in one file, by name
        for full, one in _flat(str(name), value):
            if _is_array(one):
                arrays[full] = _numbers(one, full, path)
            else:
                beside.append(full)
    return arrays, ".".join(under), tuple(beside)


def _numbers(array: Any, name: str, path: Path) -> np.ndarray:
    try:
        return array.detach().float().numpy() if array.is_floating_point() else array.detach().numpy()
    except Exception as error:  # sparse, quantised, of another device
        raise DataError(f"{path} holds {name} in a form that is no plain array ({error}); save it dense.") from error


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value and all(_is_array(v) for v in value.values()):
        # each may have been trained in parallel
        return [(f"{name}.{str(k).removeprefix('module.')}", v) for k, v in value.items()]
    return [(name, value)]


def _is_array(value: Any) -> bool:
    return hasattr(value, "is_floating_point") and hasattr(value, "detach")
