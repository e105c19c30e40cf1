"""Arrays by name from a file of weights: `.safetensors` or `.npz`. Of others' files too, so nothing is trusted."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.data.formats.guard_numpy import read_npz
from milkit.errors import DataError, MilkitError

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
"""Types of a `.safetensors` file as NumPy's; bfloat16 is the upper half of a float32."""
_MOST_HEADER = 16 << 20
"""Bytes of the header: 100,000 arrays with long names."""


def read_arrays(path: Path, sha: Any = None) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` or `.npz` file, by name; numbers only, bfloat16 as float32.

    Args:
        path: the file.
        sha: of hashlib, updated with the file's bytes; a `.safetensors` file is read once for both.

    Raises:
        DataError: no such file, of another kind, pickled, damaged, or one that claims more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}; give a .safetensors or .npz file of weights.")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if sha is not None:
            hash_file(path, sha)
    elif path.suffix == ".safetensors":
        arrays = _read_safetensors(path, sha)
    else:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}; weights are read from .safetensors or .npz. Turn a .pth "
            "or .pt file of PyTorch into one: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)."
        )
    other = sorted(name for name, a in arrays.items() if a.dtype.kind not in "fiub")
    if other:
        raise DataError(f"{path} holds text under {other[0]}; expected arrays of numbers.")
    return arrays


def hash_file(path: Path, sha: Any) -> None:
    """Update a hash of hashlib with a file's bytes, some at a time."""
    with open(regular(path), "rb") as file:
        hashlib.file_digest(file, lambda: sha)


def _read_safetensors(path: Path, sha: Any = None) -> dict[str, np.ndarray]:
    """Eight bytes with the length of a JSON header, the header, then the numbers; each array owns a part of them."""
    try:
        with open(regular(path), "rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER):
                raise DataError(f"{path} claims a header of {length:,} bytes but has {size:,}; it is damaged.")
            said = file.read(length)
            header = json.loads(said)
            numbers = file.read(size - 8 - length)
        if sha is not None:
            for part in (start, said, numbers):
                sha.update(part)
        header.pop("__metadata__", None)
        return {name: _array(path, name, entry, numbers) for name, entry in header.items()}
    except MilkitError:
        raise
    except Exception as error:  # whatever a spoiled header leads to
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is no .safetensors file, or damaged ({text}); make or copy it anew.") from error


def _array(path: Path, name: str, entry: dict[str, Any], numbers: bytes) -> np.ndarray:
    kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind != "BF16" and kind not in _TYPES:
        raise DataError(f"{path} holds {name} as {kind}; expected one of BF16, {', '.join(_TYPES)}.")
    dtype = np.dtype(_TYPES.get(kind, "<u2"))
    whole = all(type(n) is int and n >= 0 for n in (*shape, start, end))
    if not whole or end > len(numbers) or end - start != math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{path} says that {name} has shape {shape} of {kind} in bytes {start} to {end} of {len(numbers):,}, which "
            "does not fit; it is damaged or half-written."
        )
    values = np.frombuffer(numbers, dtype, math.prod(shape), start)
    if kind == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)
