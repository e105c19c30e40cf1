"""Weights of PyTorch modules, handed in as arrays by name, put into modules of milkit.

What is converted: kernels of convolutions from OIHW to HWIO (depthwise ones, [c, 1, k, k], to [k, k, 1, c] by the same
rule), of linear layers from [out, in] to [in, out]; `weight`, `bias`, `running_mean`, `running_var` of normalisations
to `scale`, `bias`, `mean`, `var`; half precision to float32. A module that knows a published naming says so by a list
of `Layer`s. `milkit.data.arrays.read_arrays` reads the file.

Batch normalisation may be folded into the convolution before it: the file then has a bias there and no entry of the
normalisation, which is made to do nothing but add that bias. Its predictions are those of the unfolded network;
trained further, it normalises by the batch's own statistics from the first step on.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit.errors import DataError

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
"""PyTorch's name of a layer's array by ours; other names are the same."""
_IDLE = "num_batches_tracked"
"""What PyTorch keeps and nothing here reads."""
_SHOWN = 6
"""Names that a message lists of each kind."""


class Layer(NamedTuple):
    """One layer, in both namings.

    Attributes:
        path: ours, from the module down, such as `stages/0/1/conv`; of a layer or of a single array.
        name: theirs, such as `layer1.1.conv1`; of an array, its whole name.
        norm_path, norm_name: of the batch normalisation that follows, if one does; without a name it is folded.
    """

    path: str
    name: str
    norm_path: str = ""
    norm_name: str = ""


def load(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], names: Sequence[Layer], *, ignore: Collection[str] = ()
) -> None:
    """Put arrays into a module, in place; nothing is changed if anything does not fit.

    Args:
        module: of milkit, freshly built; also one of shapes alone (`nnx.eval_shape`), which spares drawing weights.
        arrays: by PyTorch's names.
        names: the module's layers.
        ignore: names, or beginnings of names up to a dot, that may be there and are not read (a classifier's).

    Raises:
        DataError: arrays are missing or unexpected, of another shape, no numbers, or not finite; all are listed.
    """
    wanted = _wanted(module, arrays, names)
    expected = {name for _, name, _ in wanted if name}
    missing = sorted(expected - arrays.keys())
    unexpected = sorted(n for n in arrays.keys() - expected if not _ignored(n, ignore))
    shapes, unfit, fitting = [], [], []
    for variable, name, value in wanted:
        if name in missing:
            continue
        array = value if not name else np.asarray(arrays[name])
        array = _converted(array, variable.ndim) if name else array
        if array.shape != variable.shape:
            shapes.append(f"{name} {np.shape(arrays[name])} (expected {_theirs(variable.shape)})")
        elif array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            unfit.append(name)
        else:
            fitting.append((variable, array))
    faults = [
        f"{what}: {_some(found)}"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("no finite numbers", unfit),
        )
        if found
    ]
    if faults:
        raise DataError(
            f"The weights do not fit {type(module).__name__}: {'; '.join(faults)}. They are of another network, or the "
            "configuration has other widths or stages than theirs."
        )
    for variable, array in fitting:
        variable.set_value(jnp.asarray(array, variable.dtype))


def _wanted(
    module: nnx.Module, arrays: Mapping[str, np.ndarray], names: Iterable[Layer]
) -> list[tuple[Any, str, np.ndarray]]:
    """(array of the module, name in the file, or "" and the value that it gets) of all that is to be filled."""
    wanted: list[tuple[Any, str, np.ndarray]] = []
    nothing = np.zeros(0)
    for layer in names:
        conv = _at(module, layer.path)
        if isinstance(conv, nnx.Variable):
            wanted.append((conv, layer.name, nothing))
            continue
        own = _variables(conv)
        wanted += [(v, f"{layer.name}.{_LEAVES.get(leaf, leaf)}", nothing) for leaf, v in own.items()]
        if not layer.norm_path:
            continue
        norm, bias = _variables(_at(module, layer.norm_path)), f"{layer.name}.bias"
        there = layer.norm_name and any(n.startswith(f"{layer.norm_name}.") for n in arrays)
        folded = not layer.norm_name or (bias in arrays and not there)
        if not folded:
            wanted += [(v, f"{layer.norm_name}.{_LEAVES.get(leaf, leaf)}", nothing) for leaf, v in norm.items()]
            continue
        epsilon = _at(module, layer.norm_path).epsilon
        still = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0 - epsilon}
        given = {"bias"} - own.keys()  # a convolution without a bias leaves it to its normalisation
        wanted += [
            (v, bias, nothing) if leaf in given else (v, "", np.full(v.shape, still[leaf])) for leaf, v in norm.items()
        ]
    return wanted


def _at(module: Any, path: str) -> Any:
    for part in path.split("/"):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def _variables(layer: Any) -> dict[str, Any]:
    return {name: v for name, v in vars(layer).items() if isinstance(v, nnx.Variable)}


def _converted(array: np.ndarray, dimensions: int) -> np.ndarray:
    if array.ndim != dimensions:
        return array
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of ours in PyTorch's order."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1] if len(shape) == 2 else shape


def _ignored(name: str, ignore: Collection[str]) -> bool:
    return name.rpartition(".")[2] == _IDLE or any(name == i or name.startswith(f"{i}.") for i in ignore)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
