"""DTFD against arrays of its authors' train and test loops and of MIL-Lab, and against the formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, run

from milkit.foreign_weights import zhang2022
from milkit.models.zhang2022 import DTFD, fixed_value, pseudo_bags_of
from milkit.types import Bags, Batch


def built(config, fixture, reference):
    module = config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    return module


def split(perm, groups):
    """Pseudo-bag of each instance when `perm` is cut into `groups` parts."""
    group = np.zeros(len(perm), int)
    for g, rows in enumerate(np.array_split(np.asarray(perm, int), groups)):
        group[rows] = g
    return group


class OnSplit(nnx.Module):
    """The module on a given split, called as any other."""

    def __init__(self, module, group):
        self.module, self.group = module, nnx.Variable(group)

    def __call__(self, bags):
        return self.module.on_pseudo_bags(bags, self.group[...])


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def together(reference, perms, groups=4):
    """All cases of a file as one batch, and their splits: padding is tried on the way."""
    xs = [reference.arrays[f"x{case}"] for case in reference.cases]
    bags = Bags.of(xs)
    group = np.full(bags.mask.shape, -1)
    for i, perm in enumerate(perms):
        group[i, : len(perm)] = split(perm, groups)
    return bags, jnp.asarray(group)


def batch_of(bags, label):
    ones = jnp.ones(len(bags.x))
    return Batch(bags, jnp.full(len(bags.x), label), ones, ones.astype(int))


def cross_entropy(label):
    return lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(len(logits), label))


def stripped(gradients):
    return {path.removeprefix("module/"): leaf for path, leaf in gradients.items()}


@pytest.mark.parametrize("distil", ["AFS", "MaxS", "MaxMinS"])
@pytest.mark.parametrize("file", ["dtfd", "dtfd_res1_total8"])
def test_authors_loops(shared, file, distil):
    reference = Reference(shared, file)
    blocks, selected = (0, 1) if file == "dtfd" else (1, 2)
    config = DTFD(distil, pseudo_bags=4, selected=selected, width=24, residual_blocks=blocks, attention=16)
    fixture = Fixture(file, config, read=zhang2022.authors)
    module = built(config, fixture, reference)
    bags, group = together(reference, [reference.get("out", case, "perm") for case in reference.cases])
    batch, loss = batch_of(bags, 1), cross_entropy(1)

    def whole(output):
        return config.objective(output, batch, loss)[0].sum()

    with jax.default_matmul_precision("highest"):
        output, grad_w, grad_x = run(OnSplit(module, group), bags, whole)
        # the logits themselves do depend on x, as attribution needs
        _, _, grad2_x = run(OnSplit(module, group), bags, lambda output: loss(output.logits).sum())
    _, parts = config.objective(output, batch, loss)
    for i, case in enumerate(reference.cases):
        one = {
            "x1": grad_x[i], "x2": grad2_x[i], "tier1": parts["tier1"][i], "tier2": parts["tier2"][i],
            "group": np.asarray(group[i]),
        }  # fmt: skip
        check_outputs(lambda name, case=case: reference.get("out", case, name), jax.tree.map(
            lambda a, i=i: np.asarray(a[i]), output), one, distil)  # fmt: skip
    check_both_tiers(reference, stripped(grad_w), distil)


def check_outputs(want, output, one, distil):
    """All that the file has of one case; `output` is without its batch axis."""
    extras, n = output.extras, len(want("mid_feat"))
    there, real, group = extras["distilled_mask"], slice(n), one["group"]
    close(extras["pseudo_bag_logits"], want("sub_logits"))
    close(extras["distilled"][there], want(f"distilled_{distil}"))
    close(extras["tier2_attention"][there], want(f"tier2_attn_{distil}")[0])
    close(output.logits, want(f"slide_logits_{distil}"))
    close(jax.nn.softmax(output.logits), want(f"slide_prob_{distil}"))
    raw = want("attn_raw")[0]
    for g in range(4):
        rows = group[real] == g
        close(extras["tier1_attention"][real][rows], np.exp(raw[rows]) / np.exp(raw[rows]).sum())
    # attention says which instances the slide's embedding is made of
    close(output.embedding, output.attention[real, 0].astype(np.float64) @ want("mid_feat"))
    close(one["tier1"], want(f"loss_tier1_{distil}"))
    close(one["tier2"], slide_loss(want(f"slide_logits_{distil}")))
    close(one["x1"][real], want("dloss1_dx"), GRADIENT_TOLERANCE)
    close(one["x2"][real], want(f"dloss2_{distil}_dx"), GRADIENT_TOLERANCE)


def check_both_tiers(reference, grad_w, distil):
    """One objective, and yet each tier follows its own loss. The batch's gradient is the sum of its bags'."""
    start = f"dloss2_{distil}_dw/attCls"
    for ours, theirs in (
        ("projection/first", "dloss1_dw/dimReduction.fc1.weight"),
        ("tier1/score", "dloss1_dw/attention.attention_weights.weight"),
        ("classifier1", "dloss1_dw/classifier.fc.weight"),
        ("classifier2", f"{start}.classifier.fc.weight"),
        ("tier2/gate", f"{start}.attention.attention_U.0.weight"),
    ):
        want = sum(reference.get("out", case, theirs) for case in reference.cases)
        close(grad_w[f"{ours}/kernel"].T, want, GRADIENT_TOLERANCE)


def slide_loss(logits):
    """Cross-entropy of class 1. The file's `loss_tier2` is of the authors' training loop, checked to be this."""
    return np.log(np.exp(logits - logits[:, 1:]).sum(1))


def test_authors_tier2_loss_is_the_cross_entropy(shared):
    for file in ("dtfd", "dtfd_res1_total8"):
        reference = Reference(shared, file)
        for case in reference.cases:
            for distil in ("AFS", "MaxS", "MaxMinS"):
                logits = reference.get("out", case, f"slide_logits_{distil}")
                close(slide_loss(logits), reference.get("out", case, f"loss_tier2_{distil}"), 1e-12)


@pytest.mark.parametrize("distil", ["AFS", "MaxMinS"])
def test_mil_lab(shared, distil):
    file = f"millab_dftd_{distil.lower()}"
    reference = Reference(shared, file)
    config = DTFD(distil, pseudo_bags=4, selected=2, width=24, residual_blocks=1, attention=16, compat="mil_lab")
    module = built(config, Fixture(file, config, read=zhang2022.mil_lab), reference)
    bags, group = together(reference, [reference.arrays[f"perm{case}"] for case in reference.cases])
    cotangent = jnp.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    with jax.default_matmul_precision("highest"):
        output, grad_w, grad_x = run(OnSplit(module, group), bags, lambda output: (output.logits * cotangent).sum())
    losses = [config.objective(output, batch_of(bags, label), cross_entropy(label)) for label in (0, 1)]
    for i, case in enumerate(reference.cases):
        close(output.logits[i], reference.get("out", case, "logits"))
        close(output.extras["distilled"][i], reference.get("out", case, "distilled"))
        close(output.extras["tier2_attention"][i], reference.get("out", case, "tier2_attn_raw"))
        n = len(reference.arrays[f"x{case}"])
        close(grad_x[i, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
        for label, (whole, parts) in enumerate(losses):
            close(whole[i], reference.get("out", case, f"loss_label{label}"))
            close(parts["tier1"][i], reference.get("out", case, f"instance_loss_label{label}"))
    for ours, theirs in (("tier1/score", "attention.attention_c"), ("classifier2", "attCls.classifier.fc")):
        each = [reference.get("grad", case, f"w/{theirs}.weight") for case in reference.cases]
        if each[0] is not None:  # MaxMinS chooses without a gradient, so tier 1's attention has none
            close(stripped(grad_w)[f"{ours}/kernel"].T, sum(each), GRADIENT_TOLERANCE)


def numpy_slide_logits(module, x, group, distil, selected, classes):
    """The method as the paper has it, one pseudo-bag after the other, in float64."""
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(module))}

    def pool(name, h):
        gate = 1 / (1 + np.exp(-(h @ w[f"{name}/gate/kernel"] + w[f"{name}/gate/bias"])))
        a = (np.tanh(h @ w[f"{name}/tanh/kernel"] + w[f"{name}/tanh/bias"]) * gate) @ w[f"{name}/score/kernel"]
        return a[:, 0], np.exp(a[:, 0]) / np.exp(a[:, 0]).sum()

    h, taken = np.maximum(x.astype(np.float64) @ w["projection/first/kernel"], 0), []
    for g in sorted(set(group)):
        own = h[group == g]
        scores, a = pool("tier1", own)
        activation = (a[:, None] * own) @ w["classifier1/kernel"]
        p = np.exp(activation)[:, -1] / (np.exp(activation).sum(1) if classes > 1 else 1)
        order = np.argsort(-(scores if distil == "MAS" else p))
        if distil == "AFS":
            taken.append((a @ own)[None])
        elif distil == "MaxMinS":
            taken.append(own[np.concatenate([order[:selected], order[-selected:]])])
        else:
            taken.append(own[order[:selected]])
    distilled = np.concatenate(taken)
    return pool("tier2", distilled)[1] @ distilled @ w["classifier2/kernel"] + w["classifier2/bias"]


@pytest.mark.parametrize(("distil", "classes"), [("AFS", 3), ("MAS", 1), ("MaxS", 1), ("MaxMinS", 3)])
def test_own_split_against_numpy(distil, classes):
    """Bags of odd sizes in one batch, one of them smaller than the number of pseudo-bags, on the split of inference."""
    config, rng = DTFD(distil, pseudo_bags=5, selected=2, width=7, attention=6), np.random.default_rng(3)
    module = config.build(9, classes, rngs=nnx.Rngs(1))
    x = [rng.normal(size=(n, 9)).astype(np.float32) for n in (13, 3, 21)]
    with jax.default_matmul_precision("highest"):
        output = nnx.jit(lambda module, bags: module(bags))(module, Bags.of(x))
    for i, bag in enumerate(x):
        group = np.asarray(output.extras["pseudo_bag"][i])
        assert (group[len(bag) :] == -1).all()
        sizes = np.bincount(group[: len(bag)], minlength=5)
        assert (sizes == [len(part) for part in np.array_split(bag, 5)]).all()
        close(output.logits[i], numpy_slide_logits(module, bag, group[: len(bag)], distil, 2, classes))


def test_instances_are_dealt_out_in_turn():
    value, mask = jnp.asarray([[3.0, 1.0, 2.0, 9.0, 0.0]]), jnp.asarray([[True, True, True, False, True]])
    np.testing.assert_array_equal(pseudo_bags_of(value, mask, 2), [[1, 1, 0, -1, 0]])
    np.testing.assert_array_equal(pseudo_bags_of(value, mask, 9), [[3, 1, 2, -1, 0]])


def test_inference_has_one_split_and_training_many():
    bags = Bags.of(np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    module = DTFD(width=4, attention=3).build(6, 1, rngs=nnx.Rngs(0))
    call = nnx.jit(lambda module, key: module(bags, deterministic=False, rngs=nnx.Rngs(key)).extras["pseudo_bag"])
    fixed = module(bags).extras["pseudo_bag"]
    one, other = call(module, jax.random.key(1)), call(module, jax.random.key(2))
    np.testing.assert_array_equal(fixed, pseudo_bags_of(fixed_value(bags), bags.mask, 4))
    np.testing.assert_array_equal(one, call(module, jax.random.key(1)))
    for a, b in ((one, other), (one, fixed)):
        assert 0.1 < (a == b).mean() < 0.5  # 1 in 4 agree by chance
    np.testing.assert_array_equal(np.bincount(np.asarray(one)[0]), [10] * 4)
