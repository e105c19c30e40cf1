"""A pytree of arrays as one safetensors file and back, to the bit. No pickle anywhere."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from milkit.errors import RunFolderError


def names(tree: Any) -> list[str]:
    """One readable name a leaf, such as `params/encoder/0/kernel`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def to_bytes(tree: Any, note: dict[str, Any] | None = None) -> bytes:
    """A tree as the bytes of a safetensors file.

    Args:
        tree: arrays (a leading run axis is kept as it is: one stacked file a program).
        note: JSON-able facts kept beside the arrays.
    """
    leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(tree))]
    # contiguous, and 0-d arrays kept 0-d (ascontiguousarray would make them 1-d)
    arrays = {n: np.array(a, order="C", copy=True) for n, a in zip(names(tree), leaves, strict=True)}
    return save(arrays, {"milkit": json.dumps(note or {})})


def load(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read what `to_bytes` made into the shape of `like`.

    Raises:
        RunFolderError: the file is damaged, or holds other arrays than expected.
    """
    try:
        with safe_open(path, framework="numpy") as f:
            note = json.loads((f.metadata() or {}).get("milkit", "{}"))
            arrays = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); remove it to start that program anew.") from error
    wanted = names(like)
    if set(wanted) != set(arrays):
        odd = sorted(set(wanted) ^ set(arrays))[:4]
        raise RunFolderError(f"{path} holds other arrays than this experiment has (such as {odd}); remove it.")
    leaves, shape = jax.tree.flatten(like)
    for name, leaf in zip(wanted, leaves, strict=True):
        if arrays[name].shape != leaf.shape:
            raise RunFolderError(f"{path}: {name} has shape {arrays[name].shape}, expected {leaf.shape}; remove it.")
    restored = [jax.numpy.asarray(arrays[n], leaf.dtype) for n, leaf in zip(wanted, leaves, strict=True)]
    return jax.tree.unflatten(shape, restored), note
