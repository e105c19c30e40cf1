"""Computing in half precision: what is cast, and what never is.

Parameters, optimiser, gradients, losses, metrics and the sums and softmaxes of `milkit.nn` stay in float32. What is
cast is what a module reads: its parameters and the features. So the matrix products, where the time and the memory go,
are those of bfloat16, whose range is float32's, so that no loss scaling is needed.

References:
    Micikevicius et al. (2018, ICLR) on mixed precision; Kalamkar et al. (2019, arXiv:1905.12322) on bfloat16.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from milkit.nn.chunks import LongBags
from milkit.train.config import Precision
from milkit.types import Bags, Images, Output


def lowered(precision: Precision, params: Any, bags: Bags | Images) -> tuple[Any, Bags | Images]:
    """Parameters and features as a module is to read them; as they are in float32."""
    if precision == "float32":
        return params, bags
    dtype = jnp.dtype(precision)
    if isinstance(bags, LongBags):
        return _cast(params, dtype), bags.cast(dtype)
    return _cast(params, dtype), replace(bags, x=bags.x.astype(dtype))


def raised(output: Output) -> Output:
    """A module's output with all half-precision numbers in float32, as losses and metrics want them."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a, output)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
