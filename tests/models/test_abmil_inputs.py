"""ABMIL with covariates beside the bag and with several feature sets in an instance."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.models import ABMIL
from milkit.nn import LongBags, linear
from milkit.testing.model_battery import CHECKS
from milkit.types import Bags, Output

LATE = ABMIL(encoder=(), attention=3, covariates="late", fusion_layers=())
JOINT = ABMIL(encoder=(), attention=3, covariates="concatenate", fusion_layers=(4,))
SETS = ABMIL(encoder=(4,), attention=3, heads=2, sets=(4, 2))
ALL = (replace(LATE, fusion_layers=(5,)), JOINT, SETS, replace(JOINT, encoder=(4,), sets=(2, 4), heads=2))


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def bags(v=2, lengths=(3, 1), d=6):
    rng = np.random.default_rng(0)
    beside = rng.normal(size=(len(lengths), v)) if v else None
    return Bags.of([rng.normal(size=(n, d)).astype(np.float32) for n in lengths], covariates=beside)


def built(config, v=2, out=1, d=6):
    return config.build(d, out, rngs=nnx.Rngs(0), **({"covariates": v} if v else {}))


def test_late_adds_the_logits_of_a_head_of_its_own():
    """By hand: the embedding's linear layer, plus 2 c0 - 3 c1, for the bag and for each of its instances."""
    module, batch = built(LATE), bags()
    module.clinical_classifier.kernel[...] = jnp.array([[2.0], [-3.0]])
    out = module(batch)
    image = out.embedding @ module.classifier.kernel[...] + module.classifier.bias[...]
    clinical = 2 * batch.covariates[:, 0] - 3 * batch.covariates[:, 1]
    np.testing.assert_allclose(out.logits[:, 0], image[:, 0] + clinical, rtol=1e-5)
    # the second bag is its only instance
    np.testing.assert_allclose(out.instance_logits[1, 0], out.logits[1], rtol=1e-5)
    plain = replace(LATE, covariates="none").build(6, 1, rngs=nnx.Rngs(0))(replace(batch, covariates=None))
    np.testing.assert_allclose(out.attention, plain.attention, rtol=1e-6)  # the table does not move attention


def test_concatenation_lets_the_table_change_what_tissue_means():
    """With a joint hidden layer relu(z0 + c0) - relu(z0 - c0), the sign of c0 turns the effect of z0 around."""
    module = built(replace(JOINT, fusion_layers=(2,)), v=1, d=1)
    module.joint.layers[0].kernel[...] = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    module.joint.layers[0].bias[...] = jnp.zeros(2)
    module.classifier.kernel[...] = jnp.array([[1.0], [-1.0]])
    module.classifier.bias[...] = jnp.zeros(1)

    def said(z, c):
        return float(module(Bags.of(np.array([[z]], np.float32), covariates=[c])).logits[0, 0])

    assert said(1.0, 2.0) == 3.0
    assert said(0.0, 2.0) == 2.0
    assert said(1.0, -2.0) == -3.0
    assert said(0.0, -2.0) == -2.0


@pytest.mark.slow
def test_each_set_has_its_own_encoder_and_attention():
    """Without encoders, the embedding is each set's features averaged by the set's own attention."""
    module, batch = built(replace(SETS, encoder=(), heads=1), v=0), bags(v=0)
    out = module(batch)
    assert out.attention.shape == (2, 3, 2)
    for b in range(2):
        first = np.asarray(out.attention)[b, :, 0] @ np.asarray(batch.x)[b, :, :4]
        second = np.asarray(out.attention)[b, :, 1] @ np.asarray(batch.x)[b, :, 4:]
        np.testing.assert_allclose(out.embedding[b], [*first, *second], rtol=1e-5, atol=1e-6)
    moved = module(replace(batch, x=batch.x.at[..., 4:].multiply(3.0)))
    np.testing.assert_allclose(moved.attention[..., 0], out.attention[..., 0], rtol=1e-6)
    assert np.abs(np.asarray(moved.attention - out.attention)[0, :, 1]).max() > 1e-3


def test_a_plain_model_is_named_as_before():
    """Weights that were kept are found by these names."""
    paths = {"/".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(ABMIL().build(6, 1, rngs=nnx.Rngs(0))))}
    assert paths == {
        "classifier/bias", "classifier/kernel", "encoder/layers/0/bias", "encoder/layers/0/kernel", "pool/gate/bias",
        "pool/gate/kernel", "pool/score/kernel", "pool/tanh/bias", "pool/tanh/kernel",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("config", ALL, ids=["late", "joint", "sets", "both"])
def test_contracts_hold(config):
    for name in ("one_by_one", "permutation", "small_and_empty", "vmap", "bfloat16", "covariates"):
        CHECKS[name](config, 6, 2)


@pytest.mark.slow
@pytest.mark.parametrize("config", ALL, ids=["late", "joint", "sets", "both"])
def test_in_chunks_as_whole(config):
    """Every field of the output, in float64 to 1e-12."""
    with jax.enable_x64(True):
        v = 2 if config.takes_covariates else 0
        batch = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype != bool else a, bags(v, (7, 2, 5)))
        module = built(config, v)
        graph, state = nnx.split(module)
        module = nnx.merge(graph, jax.tree.map(lambda a: a.astype(jnp.float64), state))
        rows = jnp.broadcast_to(jnp.arange(7, dtype=jnp.int32), (3, 7))

        def read(rows, mask):
            return jnp.where(mask[..., None], jnp.take_along_axis(batch.x, rows[..., None], 1), 0)

        whole, parts = module(batch), module(LongBags(read, rows, batch.mask, 3, None, batch.covariates))
        for name in ("logits", "attention", "instance_logits", "embedding"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-13)


@dataclass(frozen=True)
class Deaf:
    """A model of a researcher's own that is told of covariates; `fault` breaks how it reads them."""

    fault: str = ""
    takes_covariates = True

    def build(self, in_features, out_features, *, rngs, covariates=0):
        return DeafModule(self.fault, covariates, out_features, rngs)


class DeafModule(nnx.Module):
    def __init__(self, fault, covariates, out_features, rngs):
        self.fault, self.head = fault, linear(covariates, out_features, rngs=rngs)

    def __call__(self, bags, *, deterministic=True, rngs=None):
        c = bags.covariates
        if self.fault == "reads one only":
            c = c.at[:, 1:].set(0)
        if self.fault == "bags meet":
            c = c - 0.1 * c.sum(0)
        return Output(self.head(c))


def test_the_battery_catches_covariates_that_are_not_read():
    CHECKS["covariates"](Deaf(), 6, 1)
    with pytest.raises(AssertionError, match="changing number 1 of bag 1 leaves its logits"):
        CHECKS["covariates"](Deaf("reads one only"), 6, 1)
    with pytest.raises(AssertionError, match="changing number 0 of bag 1 changes other bags"):
        CHECKS["covariates"](Deaf("bags meet"), 6, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ABMIL(sets=(4,)), "one feature set"),
        (lambda: ABMIL(sets=(4, 0)), "at least 1"),
        (lambda: ABMIL(sets=(4, 3)).build(6, 1, rngs=nnx.Rngs(0)), "adds up to 7 features, but an instance has 6"),
        (lambda: LATE.build(6, 1, rngs=nnx.Rngs(0)), "built for 0 covariates"),
        (lambda: ABMIL().build(6, 1, rngs=nnx.Rngs(0), covariates=3), "built for 3 covariates"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("given", [[[1.0, 2.0]], [1.0, 2.0], [[1.0], [float("nan")]]])
def test_bags_want_one_finite_row_each(given):
    with pytest.raises(DataError, match="a row of finite numbers for each of the 2 bags"):
        Bags.of([np.ones((2, 3)), np.ones((1, 3))], covariates=given)
