"""Additive MIL against arrays of the authors' code, and what it is for: contributions that sum to the logits."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, check_gradients, close, fill, run

from milkit.models import AdditiveMIL
from milkit.types import Bags

FIXTURE = Fixture(
    "additive_mil",
    AdditiveMIL(attention=(16, 12), classifier=(16, 12)),
    {f"classifier.model.{2 * i}": f"hidden/layers/{i}" for i in range(2)} | {"classifier.model.4": "classifier"},
    arrays={f"pointer.model.{3 * i}.weight": (f"attention/{i}/kernel", np.transpose) for i in range(2)}
    | {"pointer.model.6.weight": ("score/kernel", np.transpose)}
    | {
        f"pointer.model.{3 * i + 1}.{theirs}": (f"norms/{i}/{ours}", np.asarray)
        for i in range(2)
        for theirs, ours in {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}.items()
    },
)


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def without_biases(weights):
    """Biases before a batch norm come off its running mean, the last one is not needed, nor are counters."""
    left = dict(weights)
    for i in (0, 1):
        bias, mean = left.pop(f"pointer.model.{3 * i}.bias"), f"pointer.model.{3 * i + 1}.running_mean"
        left[mean] = left[mean] - bias
    return {k: v for k, v in left.items() if k != "pointer.model.6.bias" and "num_batches" not in k}


def padded(rows, sizes, fill=0.0):
    """Bags that lie end to end, [b, n, ...]."""
    whole = np.full((len(sizes), max(sizes), *rows.shape[1:]), fill, rows.dtype)
    for i, (start, n) in enumerate(zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)):
        whole[i, :n] = rows[start : start + n]
    return whole


def test_every_output_and_gradient(shared):
    reference = Reference(shared, FIXTURE.file)
    module = FIXTURE.config.build(32, 3, rngs=nnx.Rngs(0))
    fill(module, without_biases(reference.weights), FIXTURE)
    for case in reference.cases:
        sizes = reference.arrays[f"bag_sizes{case}"]
        mask = np.arange(max(sizes)) < sizes[:, None]
        # what padding holds must not matter
        bags = Bags(jnp.asarray(padded(reference.arrays[f"x{case}"], sizes, 7.0)), jnp.asarray(mask))
        cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
        output, grad_w, grad_x = run(module, bags, lambda output, c=cotangent: (output.logits * c).sum())
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        assert of.keys() == {"logits", "attn", "patch_logits", "attn_raw"}
        close(output.logits, of["logits"])
        close(np.asarray(output.attention)[mask], of["attn"])
        close(np.asarray(output.instance_logits)[mask], of["patch_logits"])
        raw = of["attn_raw"] - reference.weights["pointer.model.6.bias"]
        close(np.asarray(module.scores(bags.x, bags.mask, deterministic=True))[mask], raw)
        check_gradients(reference, FIXTURE, case, grad_w, padded(grad_x[mask], [sizes.sum()])[0])
        assert (grad_x[~mask] == 0).all()


def test_contributions_sum_to_the_logits_exactly():
    bags = Bags.of([np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32) for n in (9, 1, 5)])
    for config in (AdditiveMIL((8,), (8,)), AdditiveMIL((), (), batch_norm=False)):
        output = config.build(4, 2, rngs=nnx.Rngs(0))(bags)
        assert (output.instance_logits.sum(1) == output.logits).all()
        assert (np.asarray(output.instance_logits)[~np.asarray(bags.mask)] == 0).all()


def test_without_batch_norm_by_hand():
    """Attention from one linear score, a linear classifier: sum of a_i w x_i + b, b once an instance."""
    module = AdditiveMIL((), (), batch_norm=False).build(2, 1, rngs=nnx.Rngs(0))
    module.score.kernel[...] = jnp.array([[np.log(3.0)], [0.0]])
    module.classifier.kernel[...], module.classifier.bias[...] = jnp.array([[1.0], [2.0]]), jnp.array([0.5])
    output = module(Bags.of([np.array([[1.0, 4.0], [0.0, 8.0]], np.float32)]))
    np.testing.assert_allclose(output.attention[0, :, 0], [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(output.instance_logits[0, :, 0], [0.75 * 9 + 0.5, 0.25 * 16 + 0.5], rtol=1e-6)
    np.testing.assert_allclose(output.logits[0, 0], 11.75, rtol=1e-6)


def test_training_normalises_over_the_instances_of_the_batch_and_keeps_count():
    """Batch statistics are those of all real instances; padding, whatever it holds, is not among them."""
    x = [np.random.default_rng(n).normal(2.0, 3.0, (n, 3)).astype(np.float32) for n in (6, 3)]
    bags = Bags.of(x)
    loud = Bags(jnp.where(bags.mask[..., None], bags.x, 50.0), bags.mask)
    module = AdditiveMIL((4,), ()).build(3, 1, rngs=nnx.Rngs(0))
    quiet = nnx.clone(module)
    hidden = np.concatenate(x) @ np.asarray(module.attention[0].kernel[...], np.float64)
    a, b = quiet(bags, deterministic=False), module(loud, deterministic=False)
    np.testing.assert_allclose(a.logits, b.logits, rtol=1e-5)
    np.testing.assert_allclose(module.norms[0].mean[...], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(module.norms[0].var[...], 0.9 + 0.1 * hidden.var(0, ddof=1), rtol=1e-4)
