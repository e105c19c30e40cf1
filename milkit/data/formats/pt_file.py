"""`.pt` files of others: tensors, read by torch with `weights_only=True` and nothing else, never by plain pickle.

torch is asked for only when such a file is opened. A file that was saved as a zip is mapped, not read; older ones are
read. torch makes a tensor of what the file says of it, so what it says is held against the file's size: a zip with
compressed parts (torch never compresses), and tensors that repeat a few values by strides, are refused.
"""

import contextlib
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.data.formats.npy_file import check_matrix, opened
from milkit.data.formats.pt_array import Pickled, pickled_array
from milkit.errors import DataError

if TYPE_CHECKING:
    import torch

NAMES = ("features", "feats", "embeddings", "embedding", "feat", "x", "X")
"""Keys under which features lie where a file holds several tensors."""


class NoTorchError(DataError):
    """A `.pt` file, and no PyTorch to read it."""


@dataclass(frozen=True, eq=False)
class Tensors:
    """What a file holds.

    Attributes:
        features: the tensor [n, d], or the array that stands in its place.
        coords: positions [n, 2] where the file has them under that name, else None.
    """

    features: "torch.Tensor | Pickled"
    coords: "torch.Tensor | None" = None


def torch_for(path: Path, instead: str = "") -> Any:
    """The module torch.

    Raises:
        DataError: it is not installed; says how to install it, and what can be given instead.
    """
    try:
        import torch
    except ImportError:
        raise NoTorchError(
            f"{path} is a .pt file, which only PyTorch reads safely, and it is not installed: pip install "
            f'"milkit[formats]"{", or " + instead if instead else ""}.'
        ) from None
    return torch


def load(path: Path, instead: str = "") -> Any:
    """What a `.pt` file holds: tensors, and lists, dicts, texts and numbers around them.

    Raises:
        DataError: without torch; for what is damaged, claims more than it holds, or holds other objects.
    """
    torch = torch_for(path, instead)
    try:
        with opened(path) as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped:
            _check_zip(path)
        else:
            regular_size(path)
        with contextlib.nullcontext() if zipped else warnings.catch_warnings():
            if not zipped:
                warnings.simplefilter("ignore")  # of torch's, on its own old storages
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except DataError:
        raise
    except Exception as error:  # a damaged file may make torch raise anything
        if type(error).__name__ == "UnpicklingError":  # by name: nothing here imports pickle
            raise DataError(_no_tensors(path, str(error))) from None
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{path} cannot be read, it is damaged, half-written or no file of torch.save ({text}); make or copy it "
            "anew, or remove it."
        ) from None


def regular_size(path: Path) -> int:
    """Bytes of a file; 0 is an error here."""
    handle = regular(path)
    try:
        size = os.fstat(handle).st_size
    finally:
        os.close(handle)
    if not size:
        raise DataError(f"{path} is an empty file; make it anew, or remove it.")
    return size


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise DataError(
                    f"{path}: its part {entry.filename[:60]!r} is compressed, which torch.save never does; it was not "
                    "made by it. Save it anew with torch.save."
                )


def _no_tensors(path: Path, text: str) -> str:
    if "Unsupported global" in text or "GLOBAL" in text:
        return (
            f"{path} holds Python objects beside tensors, which is a pickle: it could run any code when read, so "
            "milkit reads tensors only. Save the features alone: torch.save(features, path)."
        )
    return f"{path} is no file of torch.save, or a damaged one; make or copy it anew, or remove it."


def tensors(path: Path, instead: str = "") -> Tensors:
    """The features of a file that holds one slide: a tensor, or a dict in which one can be told from the others.

    Raises:
        DataError: as `load`; where the features cannot be told, with what the file holds; no matrix of floats.
    """
    instead_of_one = pickled_array(path)
    if instead_of_one is not None:
        check_matrix(path, instead_of_one.shape, instead_of_one.dtype)
        return Tensors(instead_of_one)
    held = load(path, instead)
    torch = torch_for(path)
    if isinstance(held, torch.Tensor):
        return Tensors(_checked(path, held))
    if not isinstance(held, dict):
        raise DataError(f"{path} holds a {type(held).__name__}; expected one tensor [tiles, features].")
    if "sample_ids" in held:
        raise DataError(
            f"{path} holds one vector for each of many samples (soma's packed_features.pt). A model of bags needs one "
            "a tile: give the folder tile_embeddings."
        )
    inside = {str(key): value for key, value in held.items() if isinstance(value, torch.Tensor)}
    named = [key for key in NAMES if key in inside]
    matrices = [key for key, value in inside.items() if value.ndim == 2 and value.is_floating_point()]
    matrices = [key for key in matrices if key not in ("coords", "coordinates", "positions")]
    which = named if len(named) == 1 else matrices if len(matrices) == 1 else []
    if not which:
        shapes = ", ".join(f"{key!r} {tuple(value.shape)} {value.dtype}" for key, value in list(inside.items())[:6])
        others = ", ".join(repr(str(key)) for key in list(held)[:6])
        raise DataError(
            f"{path} holds a dict in which the features cannot be told: tensors {shapes or 'none'}, keys "
            f"{others or 'none'}. Save the features alone (torch.save(features, path)), or under the key 'features'."
        )
    coords = inside.get("coords")
    return Tensors(_checked(path, inside[which[0]]), None if coords is None else _checked(path, coords, any_kind=True))


def _checked(path: Path, tensor: "torch.Tensor", *, any_kind: bool = False) -> "torch.Tensor":
    import torch

    tensor = tensor.detach()
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise DataError(f"{path}: a tensor is sparse, quantised or without values; save it as a plain one.")
    if not any_kind:
        shape = tuple(tensor.shape)
        if tensor.ndim == 1:
            raise DataError(
                f"{path}: features have shape {shape}, one vector for the whole slide. A model of bags needs one a "
                "tile: give the folder of the tiles' features."
            )
        if tensor.ndim != 2 or shape[1] == 0:
            raise DataError(f"{path}: features have shape {shape}; expected [tiles, features].")
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise DataError(f"{path}: features are {tensor.dtype}; expected float16, bfloat16, float32 or float64.")
    elif tensor.is_complex() or tensor.dtype is torch.bool:
        raise DataError(f"{path}: coords are {tensor.dtype}; expected numbers.")
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise DataError(
            f"{path}: a tensor {tuple(tensor.shape)} claims more than the file's {path.stat().st_size:,} bytes; it "
            "repeats values, or is damaged. Save it anew: torch.save(features.clone(), path)."
        )
    return tensor


def array(tensor: "torch.Tensor | Pickled") -> np.ndarray:
    """A copy of a tensor's values, in their own precision and row by row; the file is let go of."""
    if isinstance(tensor, Pickled):
        return tensor.values()
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes  # comes with jax; light, but seldom needed

        whole = np.array(tensor.view(torch.int16).numpy(), order="C")
        return whole.view(np.dtype(ml_dtypes.bfloat16))
    return np.array(tensor.numpy(), order="C")
