"""A file's arrays put into a module, each where its naming says; nothing is left out on either side."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit.errors import DataError
from milkit.foreign_weights.names import Names, Rearrange

MOST = 12
"""Names that a message lists."""


def partners(names: Names, mine: Container[str]) -> dict[str, tuple[str, Rearrange]]:
    """The file's whole names -> (milkit's whole path, rearrangement); a bias only where milkit has one."""
    found = dict(names.arrays)
    for theirs, ours in names.linear.items():
        found[f"{theirs}.weight"] = (f"{ours}/kernel", np.transpose)
        if f"{ours}/bias" in mine:
            found[f"{theirs}.bias"] = (f"{ours}/bias", np.asarray)
    return found


def place(module: Any, arrays: Mapping[str, np.ndarray], names: Names, where: str = "The file") -> None:
    """Write a file's arrays into a module, in place; see `fitting`, which says what is refused.

    Raises:
        DataError: the arrays are not those of the module, which is then as it was.
    """
    flat = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(module))}
    for ours, array in fitting(module, arrays, names, where).items():
        flat[ours][...] = jnp.asarray(array)


def fitting(module: Any, arrays: Mapping[str, np.ndarray], names: Names, where: str) -> dict[str, np.ndarray]:
    """A file's arrays as a module has them, by milkit's paths.

    Args:
        module: of the sizes that the file's arrays have; one without numbers (`nnx.eval_shape`) will do.
        arrays: of the file, by name.
        names: where they go.
        where: the file and its naming, for messages.

    Raises:
        DataError: an array is missing, unexpected, of another shape or not finite, or an array of the module gets none.
    """
    flat = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(module))}
    of = {theirs: pair for theirs, pair in partners(names, flat).items() if pair[0] in flat}
    lonely = {path for path, leaf in flat.items() if isinstance(leaf, nnx.Param)} - {ours for ours, _ in of.values()}
    if lonely:
        raise DataError(f"{where}: milkit's {_listed(lonely)} would get no weights; no array is known for them.")
    missing, unknown = of.keys() - arrays.keys(), arrays.keys() - of.keys() - set(names.unused)
    if missing or unknown:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has {_listed(unknown)}, for which the model has no place"] if unknown else []
        raise DataError(
            f"{where} {' and '.join(parts)}. The model has: {_listed(of)}. The file has: {_listed(arrays)}."
        )
    new: dict[str, np.ndarray] = {}
    wrong: list[str] = []
    for theirs, (ours, rearrange) in of.items():
        array, shape = arrays[theirs], flat[ours].shape
        try:
            new[ours] = rearrange(array)
        except (ValueError, IndexError):
            new[ours] = array
        if new[ours].shape != shape:
            wrong.append(f"{theirs} {list(array.shape)} for {ours} {list(shape)}")
    if wrong:
        raise DataError(
            f"{where} has arrays of other shapes than the model of the sizes that its first arrays have: "
            f"{_listed(wrong)} (of linear layers the file has [out, in], milkit [in, out])."
        )
    new = {ours: _as(np.asarray(array), flat[ours].dtype) for ours, array in new.items()}
    bad = [theirs for theirs, (ours, _) in of.items() if not np.isfinite(new[ours]).all()]
    if bad:
        raise DataError(f"{where} has numbers that are not finite in {_listed(bad)}: a training that went wrong.")
    return new


def _as(array: np.ndarray, dtype: Any) -> np.ndarray:
    """In the module's type; what it cannot hold becomes infinite, which the caller looks for."""
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _listed(names: Iterable[str]) -> str:
    names = list(names) if isinstance(names, list) else sorted(names)
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more if names else "nothing"
