"""PyTorch's `.pt` of others: a zip of one small pickle, which PyTorch reads by its own list of harmless names, and of
plain bytes; looked through before PyTorch sees it.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.errors import DataError, MilkitError

MOST_PICKLE = 64 << 20
"""Bytes of the pickle inside: names and shapes of tensors, some hundred bytes each."""


def load_pt(path: Path) -> Any:
    """What a `.pt` file holds, its tensors left in the file until they are touched.

    `torch.load` with `weights_only=True` and `mmap=True`; nothing else of the file is ever run or unpacked.

    Raises:
        DataError: PyTorch is not installed; a file that is no zip of PyTorch's, or whose parts are compressed, lie
            outside it or claim more than it holds; objects other than tensors and plain values.
    """
    check_pt(path)
    try:
        import torch
    except ImportError:
        raise DataError(
            f"{path} is a file of PyTorch; install it to read such files: pip install milkit[formats]"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MilkitError:
        raise
    except Exception as error:  # PyTorch raises what its reader happens to meet
        # PyTorch's own message tells how to switch the protection off
        refused = "Weights only" in str(error)
        why = "it holds objects other than tensors, whose reading could run anything" if refused else _said(error)
        raise DataError(
            f"{path} cannot be read as tensors: {why}. Save the plain tensor anew: torch.save(x, path)."
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_pt(path: Path) -> None:
    """Look through a `.pt` file without PyTorch.

    Raises:
        DataError: see `load_pt`.
    """
    try:
        with open(regular(path), "rb") as file:
            size = file.seek(0, 2)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                wrong = _wrong(members, size)
                if wrong:
                    raise DataError(f"{path} {wrong}; it is damaged or hostile. Make it anew, or remove it.")
                with archive.open(next(m for m in members if m.filename.endswith("/data.pkl"))) as inside:
                    _check_pickle(path, inside.read(MOST_PICKLE))
    except MilkitError:
        raise
    except Exception as error:  # zipfile raises what it happens to meet
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path} is gone; it was there when the folder was opened.") from None
        raise DataError(
            f"{path} is not a whole file of torch.save ({_said(error)}); "
            "pickles of other kinds and files of before 2020 are not read, since they may run anything. Make it anew."
        ) from error


def _wrong(members: list[zipfile.ZipInfo], size: int) -> str:
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        return f"holds {len(pickles)} pickles of tensors, not one"
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
        return "holds compressed parts, which torch.save does not write"
    if sum(m.file_size for m in members) > size:
        return f"claims {sum(m.file_size for m in members):,} bytes, but has {size:,}"
    if pickles[0].file_size > MOST_PICKLE:
        return f"holds a pickle of {pickles[0].file_size:,} bytes; expected at most {MOST_PICKLE:,}"
    if len({m.filename for m in members}) != len(members):
        return "holds a part twice"
    return ""


def _check_pickle(path: Path, raw: bytes) -> None:
    """Read the pickle's instructions without following them; refuse what can blow up or is not for tensors.

    A memo that is used again and again makes a small pickle unfold into a huge tree only where it is walked; PyTorch
    keeps the tree folded, and so must who reads it: `values_of_tensor` takes tensors, never nested lists.
    """
    for instruction, argument, _ in pickletools.genops(raw):
        if instruction.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            module = str(argument or "").partition(" ")[0]
            if instruction.name != "GLOBAL" or not _harmless(module, str(argument)):
                raise DataError(
                    f"{path} holds a pickled object ({str(argument)[:60]!r}), not only tensors: reading it could run "
                    "anything. Save the plain tensor: torch.save(x, path)."
                )


def _harmless(module: str, name: str) -> bool:
    return module.split(".")[0] in ("torch", "collections", "numpy", "_codecs") or name.startswith("__builtin__ ")


def values_of_tensor(path: Path, tensor: Any) -> np.ndarray:
    """A tensor as an array that shares its memory; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
        DataError: no dense tensor of numbers, or one that claims more than its storage holds.
    """
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        found = f"a {tensor.layout} tensor" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise DataError(f"{path} holds {found}; expected a dense tensor. Save the plain tensor: torch.save(x, path).")
    if tensor.is_complex() or tensor.device.type != "cpu":
        raise DataError(f"{path} holds a tensor of {tensor.dtype} on {tensor.device}; expected numbers.")
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        raise DataError(
            f"{path} claims {claimed:,} bytes (shape {tuple(tensor.shape)}), but its storage holds {held:,}; it is "
            "damaged. Make or copy it anew, or remove it."
        )
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        bits: np.ndarray = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    values: np.ndarray = tensor.numpy()
    return values
