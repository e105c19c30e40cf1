"""SA-AbMILP: kernel self-attention before attention pooling (Rymarczyk et al., WACV 2021, arXiv:2005.12991).

Every instance first gathers from all others of its bag, then attention pools them (Ilse et al. 2018, not gated), and
one linear layer classifies:

    q_i = Q h_i, k_j = K h_j, v_j = V h_j        Q and K narrower than h, V as wide; all with biases
    e_ij = kernel(q_i, k_j)
    h'_i = h_i + gamma sum_j softmax_j(e_ij) v_j       gamma learned

The kernel's value itself goes through the softmax, and nothing is divided by the root of a width:

    dot                 q.k
    gaussian            exp(-alpha |q - k|^2), alpha learned
    inverse_quadratic   1 / (1 + alpha |q - k|^2), alpha learned
    laplace             -|q - k|, the sum of absolute differences
    module              |q| + |k| - |q - k|, sums of absolute values

Read in the authors' code (models/CNN.py, commit bad56bc): Q and K are an eighth as wide as h; alpha is taken as
relu(alpha), so that its gradient ends once it is below 0; alpha and gamma start at 1 (gamma at 0 in their model for
MNIST); the laplace kernel is commented out.

The kernels between all pairs are worked out a block of queries at a time, in the backward pass again, so that memory is
that of a block: time grows with the square of the bag, memory does not.

Deviations:
    - `module` is the kernel, which is larger the nearer two instances are. The authors' code has its negative, so that
      instances gather from those most unlike them: `compat="authors"`.
    - Keys of `dot` have no bias, nor has the pooling score: a softmax takes both away.
    - The encoder is a projection of embeddings; theirs is a small convolutional network.
    - Their options that add where a patch lies to the energy (`loc_*`) are not offered.
    - The authors start kernels of the pooling and the classifier Xavier-uniform and their biases at 0; here all layers
      start as PyTorch's do.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, AttentionPool, linear
from milkit.nn.row_blocks import AT_ONCE, in_row_blocks
from milkit.types import Bags, Output

Kernel = Literal["dot", "gaussian", "inverse_quadratic", "laplace", "module"]


@dataclass(frozen=True)
class SAABMIL:
    """Self-attention between instances, by a kernel of one's choice, then attention pooling."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    kernel: Kernel = "dot"  # the paper's plain SA-AbMILP
    """What two instances are compared by."""
    encoder: tuple[int, ...] = (512,)  # the authors' width
    """Widths of the instance projection, each with ReLU; () attends to the features themselves."""
    query: int = 64  # the authors': an eighth of the instance's width
    """Width of queries and keys."""
    attention: int = 128  # the authors' code
    """Width of the pooling's hidden layer."""
    gated: bool = False  # the authors' code
    """Whether the pooling is gated."""
    dropout: float = 0.2  # the authors' code, after each layer of their encoder
    """Rate after each layer of the encoder; of no effect where there is none."""
    compat: Literal["correct", "authors"] = "correct"
    """`authors`: the `module` kernel with the sign of their code."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(self, "model", encoder=some, query=some, attention=some, dropout="[0, 1)")
        if self.compat == "authors" and self.kernel != "module":
            raise ConfigError(
                f"compat='authors' changes the sign of kernel='module', but the kernel is {self.kernel!r}."
            )

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SAABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SAABMILModule(self, in_features, out_features, rngs=rngs)


class KernelAttention(nnx.Module):
    """h + gamma * (what each instance gathers from all); see the module's docstring.

    Args:
        features: width of an instance.
        query: width of queries and keys.
        kernel, compat: as in `SAABMIL`.
        at_once: numbers that a block of queries may hold, over all bags.
    """

    def __init__(
        self,
        features: int,
        query: int,
        kernel: Kernel,
        compat: Literal["correct", "authors"] = "correct",
        *,
        rngs: nnx.Rngs,
        at_once: int = AT_ONCE,
    ):
        self.kernel, self.compat, self.at_once = kernel, compat, at_once
        self.query = linear(features, query, rngs=rngs)
        self.key = linear(features, query, rngs=rngs, use_bias=kernel != "dot")
        self.value = linear(features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones(()))
        self.alpha = nnx.Param(jnp.ones(())) if kernel in ("gaussian", "inverse_quadratic") else None

    def __call__(self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"]) -> Float[Array, "b n e"]:
        """The instances with what they gathered; finite on padding."""
        h = jnp.where(mask[..., None], h, 0)
        k, v = self.key(h), self.value(h)

        def gather(q: Float[Array, "b r w"]) -> Float[Array, "b r e"]:
            weight = self.weights(q, k, mask)
            return jnp.einsum("brn,bne->bre", weight.astype(v.dtype), v, preferred_element_type=weight.dtype)

        columns = 1 if self.kernel == "dot" else k.shape[-1]  # differences of vectors may be held, feature by feature
        found = in_row_blocks(gather, self.query(h), columns * h.shape[1], self.at_once)
        return h + (self.gamma[...].astype(found.dtype) * found).astype(h.dtype)

    def weights(
        self, q: Float[Array, "b r w"], k: Float[Array, "b n w"], mask: Bool[Array, "b n"]
    ) -> Float[Array, "b r n"]:
        """How much each query takes of each instance; 0 of padding."""
        return jax.nn.softmax(self.energies(q, k), where=mask[:, None])

    def energies(self, q: Float[Array, "b r w"], k: Float[Array, "b n w"]) -> Float[Array, "b r n"]:
        """The kernel of each query and key, less what is the same for all keys."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        if self.kernel == "dot":
            return jnp.einsum("brw,bnw->brn", q, k, preferred_element_type=wide)
        q, k = q.astype(wide), k.astype(wide)
        apart = q[:, :, None] - k[:, None]
        if self.kernel == "laplace":
            return -jnp.abs(apart).sum(-1)
        if self.kernel == "module":
            value = jnp.abs(k).sum(-1)[:, None] - jnp.abs(apart).sum(-1)  # |q| is the same for all keys
            return -value if self.compat == "authors" else value
        assert self.alpha is not None
        scaled = jax.nn.relu(self.alpha[...].astype(wide)) * jnp.square(apart).sum(-1)
        return jnp.exp(-scaled) if self.kernel == "gaussian" else 1 / (1 + scaled)


class SAABMILModule(nnx.Module):
    """See `SAABMIL`."""

    def __init__(self, config: SAABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout if config.encoder else 0.0)
        width = self.encoder.out_features
        self.between = KernelAttention(width, config.query, config.kernel, config.compat, rngs=rngs)
        self.pool = AttentionPool(width, config.attention, gated=config.gated, rngs=rngs)
        self.classifier = linear(width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the pooling's attention and the embedding; an instance's logits are those of what it has gathered."""
        h = self.encoder(bags.x, deterministic=deterministic, rngs=rngs)
        h = self.between(h, bags.mask)
        pooled, attention = self.pool(h, bags.mask)
        embedding = pooled[:, 0]
        instances = jnp.where(bags.mask[..., None], self.classifier(h), 0)
        return Output(self.classifier(embedding), attention, instances, embedding)
