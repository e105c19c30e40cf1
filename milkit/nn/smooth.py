"""The Sm operator: what instances hold, smoothed over the graph of neighbouring tiles.

With A the graph's adjacency matrix, symmetric, binary and normalised by the roots of both degrees, and L = I - A, the
exact operator is Sm(F) = (I + gamma L)^-1 F: of all G the one with the least |F - G|^2 + gamma tr(G' L G). The
approximate one takes some steps G <- (1 - alpha) F + alpha A G from G = F, which tend to it with alpha = gamma / (1 +
gamma).

Both are polynomials or inverses of a symmetric matrix, so that the gradient to F is the operator itself, applied to
the gradient that comes in: nothing is kept of the steps. The exact one is a series of Chebyshev polynomials of A, in
memory linear in the instances; with gamma = 1 a dozen products with A reach the rounding of float32.

References:
    Castro-Macias, Morales-Alvarez, Wu, Molina & Katsaggelos (2024, NeurIPS, arXiv:2410.03276), section 4.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.graph import gather, neighbour_sum, neighbours_of
from milkit.types import Bags

MOST = 1000
"""Terms of the exact operator, at most: enough for float64 up to a gamma of about 1,500."""


class Edges(NamedTuple):
    """A symmetric adjacency matrix, row by row.

    Attributes:
        ends: the neighbours of each instance, as rows of its bag; -1 is none.
        weight: of each of them, the same in both directions; 0 where there is none.
        own: the diagonal.
    """

    ends: Int[Array, "b n j"]
    weight: Float[Array, "b n j"]
    own: Float[Array, "b n"]


def edges_of(bags: Bags, count: int, radius_um: float | None, *, model: str, keep_isolated: bool = True) -> Edges:
    """The graph in which two tiles are joined that are both among the other's neighbours, normalised.

    A nearest neighbour need not be mutual: at the border of the tissue a tile's eighth nearest lies two steps inside,
    and has eight nearer ones itself. On a grid of tiles what is left are those that touch, at sides and corners, and
    some pairs along the border; `radius_um` leaves these out.

    Args:
        bags: with `neighbours`, or with `coords_um`.
        count: how many of the nearest tiles, with `coords_um`.
        radius_um: tiles further away are no neighbours; None: however far.
        model: who asks, for the error.
        keep_isolated: whether a tile without neighbours is its own (A 1 there, so that L is 0, as the energy that is
            minimised has no term of it); else A is 0 there.

    Raises:
        DataError: there are neither neighbours nor positions.
    """
    index, exists = neighbours_of(bags, count, radius_um, model=model)
    exists = _mutual(index, exists)
    degree = exists.sum(2).astype(jnp.promote_types(bags.x.dtype, jnp.float32))
    root = jnp.where(degree > 0, jax.lax.rsqrt(jnp.maximum(degree, 1)), 0)
    weight = jnp.where(exists, root[..., None] * gather(root[..., None], index)[..., 0], 0)
    own = (bags.mask & (degree == 0)).astype(root.dtype) if keep_isolated else jnp.zeros_like(root)
    return Edges(jnp.where(exists, index, -1), weight, own)


def _mutual(index: Int[Array, "b n j"], exists: Bool[Array, "b n j"]) -> Bool[Array, "b n j"]:
    """Edges whose other end has them too, one of each instance at a time; no instance with itself."""
    own = jnp.arange(index.shape[1])[None, :, None]
    index = jnp.where(exists & (index != own), index, -1)

    def returned(there: Int[Array, "b n"]) -> Bool[Array, "b n"]:
        back = jnp.take_along_axis(index, jnp.maximum(there, 0)[..., None], 1)
        return (there >= 0) & (back == own).any(2)

    return jnp.moveaxis(jax.lax.map(returned, jnp.moveaxis(index, 2, 0)), 0, 2)


def adjacent(g: Float[Array, "b n d"], edges: Edges) -> Float[Array, "b n d"]:
    """The adjacency matrix times g."""
    return neighbour_sum(g, edges.ends, edges.ends >= 0, edges.weight) + edges.own[..., None].astype(g.dtype) * g


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _steps(count: int, f: Float[Array, "b n d"], a: Float[Array, ""], edges: Edges) -> Float[Array, "b n d"]:
    """`count` steps g <- (1 - a) f + a A g from g = f."""

    def step(g: Array, _: None) -> tuple[Array, None]:
        return (1 - a) * f + a * adjacent(g, edges), None

    return jax.lax.scan(step, f, None, count)[0]


def _steps_forward(count: int, f: Array, a: Array, edges: Edges) -> tuple[Array, Any]:
    return _steps(count, f, a, edges), (f, a, edges)


def _steps_backward(count: int, kept: Any, bar: Array) -> tuple[Array, Array, None]:
    """To f: the same steps. To a: its derivative, sum_k (k a^(k-1) - (k + 1) a^k) A^k f and a last term."""
    f, a, edges = kept

    def horner(h: Array, k: Array) -> tuple[Array, None]:
        return adjacent(h, edges) + (k * a ** jnp.maximum(k - 1, 0) - (k + 1) * a**k) * f, None

    highest = count * a ** (count - 1) * f
    slope = jax.lax.scan(horner, highest, jnp.arange(count - 1, -1, -1))[0]
    return _steps(count, bar, a, edges), (bar * slope).sum().astype(a.dtype), None


_steps.defvjp(_steps_forward, _steps_backward)


@jax.custom_vjp
def _solution(f: Float[Array, "b n d"], gamma: Float[Array, ""], edges: Edges) -> Float[Array, "b n d"]:
    """(I + gamma (I - A))^-1 f, as a series of Chebyshev polynomials T_k of A.

    On [-1, 1], where all eigenvalues of A lie, 1 / (1 + gamma - gamma x) is (1 + 2 sum_k q^k T_k(x)) / r with r =
    sqrt(1 + 2 gamma) and q = gamma / (1 + gamma + r). The series ends where q^k is below rounding.
    """
    root = jnp.sqrt(1 + 2 * gamma)
    q = gamma / (1 + gamma + root)
    terms = jnp.ceil(jnp.log(jnp.finfo(f.dtype).eps) / jnp.log(jnp.abs(q)))
    first = adjacent(f, edges)

    def step(_: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        g, before, last, power = state
        following = 2 * adjacent(last, edges) - before
        return g + power * q * following, last, following, power * q

    start = (f + 2 * q * first, f, first, 2 * q)
    return jax.lax.fori_loop(2, jnp.clip(terms, 1, MOST).astype(jnp.int32) + 1, step, start)[0] / root


def _solution_forward(f: Array, gamma: Array, edges: Edges) -> tuple[Array, Any]:
    g = _solution(f, gamma, edges)
    return g, (g, gamma, edges)


def _solution_backward(kept: Any, bar: Array) -> tuple[Array, Array, None]:
    """To f: the same inverse, u. To gamma: -u' L g."""
    g, gamma, edges = kept
    u = _solution(bar, gamma, edges)
    return u, -(u * (g - adjacent(g, edges))).sum().astype(gamma.dtype), None


_solution.defvjp(_solution_forward, _solution_backward)


class Sm(nnx.Module):
    """Smoothing over a graph, by the same amount everywhere.

    Args:
        alpha: the share of the neighbours, in (0, 1); "trained" starts at 1/2 and is a parameter, `coef` = gamma.
        mode: whether the operator is approximated by steps.
        steps: how many.
        compat: "correct": alpha is that share in both modes, and gamma is taken without its sign. "authors": as in
            torchmil, where it is the share of the instance itself in the approximate mode, alpha = 1 / (1 + coef).
    """

    def __init__(
        self,
        *,
        alpha: float | Literal["trained"] = "trained",
        mode: Literal["approximate", "exact"] = "approximate",
        steps: int = 10,
        compat: Literal["correct", "authors"] = "correct",
    ):
        self.mode, self.steps, self.compat = mode, steps, compat
        self.fixed = None if isinstance(alpha, str) else alpha / (1 - alpha)
        self.coef = nnx.Param(jnp.ones(())) if isinstance(alpha, str) else None

    def __call__(self, f: Float[Array, "b n d"], mask: Bool[Array, "b n"], edges: Edges) -> Float[Array, "b n d"]:
        """The instances, smoothed; 0 on padding. In float32 at least."""
        wide = jnp.promote_types(f.dtype, jnp.float32)
        f = jnp.where(mask[..., None], f, 0).astype(wide)
        edges = jax.lax.stop_gradient(edges)
        gamma = jnp.asarray(self.fixed if self.coef is None else self.coef[...], wide)
        gamma = jnp.abs(gamma) if self.compat == "correct" else gamma
        if self.mode == "exact":
            return _solution(f, gamma, edges)
        return _steps(self.steps, f, (gamma if self.compat == "correct" else 1) / (1 + gamma), edges)
