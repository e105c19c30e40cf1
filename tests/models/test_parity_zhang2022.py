"""DTFD against arrays of its authors' train and test loops and of MIL-Lab, and against the formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, bags_of, check_gradients, close, fill, run

from milkit.models.zhang2022 import DTFD, fixed_value, pseudo_bags_of
from milkit.types import Bags, Batch

GATES = {"attention_V.0": "tanh", "attention_U.0": "gate", "attention_weights": "score"}
AUTHORS = {
    "dimReduction.fc1": "projection/first",
    **{f"attention.{theirs}": f"tier1/{ours}" for theirs, ours in GATES.items()},
    "classifier.fc": "classifier1",
    **{f"attCls.attention.{theirs}": f"tier2/{ours}" for theirs, ours in GATES.items()},
    "attCls.classifier.fc": "classifier2",
}
BLOCK = {f"dimReduction.resBlocks.0.block.{i}": f"projection/blocks/0/{i // 2}" for i in (0, 2)}
# a softmax takes the score's bias away, so milkit has none
SCORE_BIASES = ("attention.attention_weights.bias", "attCls.attention.attention_weights.bias")
RAW_GATES = {"attention_a.0": "tanh", "attention_b.0": "gate", "attention_c": "score"}
MIL_LAB = {
    "patch_embed.fc1.0": "projection/first",
    **{f"patch_embed.resBlocks.0.block.{i}": f"projection/blocks/0/{i // 2}" for i in (0, 2)},
    **{f"attention.{theirs}": f"tier1/{ours}" for theirs, ours in RAW_GATES.items()},
    "classifier.fc": "classifier1",
    **{f"attCls.global_attn.{theirs}": f"tier2/{ours}" for theirs, ours in RAW_GATES.items()},
    "attCls.classifier.fc": "classifier2",
}
MIL_LAB_BIASES = {
    "attention.attention_c.bias": ("bias1", np.asarray),
    "attCls.global_attn.attention_c.bias": ("bias2", np.asarray),
}


def built(config, fixture, reference):
    module = config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    return module


def split(perm, groups):
    """Pseudo-bag of each instance when `perm` is cut into `groups` parts."""
    group = np.zeros(len(perm), int)
    for g, rows in enumerate(np.array_split(np.asarray(perm, int), groups)):
        group[rows] = g
    return jnp.asarray(group)[None]


class OnSplit(nnx.Module):
    """The module on a given split, called as any other."""

    def __init__(self, module, group):
        self.module, self.group = module, nnx.Variable(group)

    def __call__(self, bags):
        return self.module.on_pseudo_bags(bags, self.group[...])


def batch_of(bags, label):
    one = jnp.ones(1)
    return Batch(bags, jnp.asarray([label]), one, one.astype(int))


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
    fixture = Fixture(file, config, {**AUTHORS, **(BLOCK if blocks else {})}, unused=SCORE_BIASES)
    module = built(config, fixture, reference)
    with jax.default_matmul_precision("highest"):
        for case in reference.cases:
            check_authors_case(reference, fixture, module, case, distil)


def check_authors_case(reference, fixture, module, case, distil):
    def want(name):
        return reference.get("out", case, name)

    bags = bags_of(reference, fixture, case)
    group = split(want("perm"), 4)
    call, batch, loss = OnSplit(module, group), batch_of(bags, 1), cross_entropy(1)

    def whole(output):
        return fixture.config.objective(output, batch, loss)[0].sum()

    output, grad_w, grad_x = run(call, bags, whole)
    grad_w = stripped(grad_w)
    close(output.extras["pseudo_bag_logits"], want("sub_logits"))
    there = np.asarray(output.extras["distilled_mask"][0])
    close(np.asarray(output.extras["distilled"][0])[there], want(f"distilled_{distil}"))
    attention = np.asarray(want(f"tier2_attn_{distil}"))
    close(np.asarray(output.extras["tier2_attention"][0])[there], attention[0])
    close(output.logits, want(f"slide_logits_{distil}"))
    close(jax.nn.softmax(output.logits), want(f"slide_prob_{distil}"))
    raw, own = want("attn_raw")[0], np.asarray(output.extras["tier1_attention"][0])
    for g in range(4):
        rows = np.asarray(group[0]) == g
        close(own[rows], np.exp(raw[rows]) / np.exp(raw[rows]).sum())
    h = want("mid_feat")
    close(output.embedding[0], np.asarray(output.attention[0, :, 0], np.float64) @ h)
    _, parts = fixture.config.objective(output, batch, loss)
    close(parts["tier1"], want(f"loss_tier1_{distil}"))
    close(parts["tier2"], slide_loss(want(f"slide_logits_{distil}")))
    # one objective, and yet each tier follows its own loss
    close(grad_x, want("dloss1_dx"), GRADIENT_TOLERANCE)
    for theirs, ours in (("dimReduction.fc1", "projection/first"), ("attention.attention_weights", "tier1/score")):
        close(grad_w[f"{ours}/kernel"].T, want(f"dloss1_dw/{theirs}.weight"), GRADIENT_TOLERANCE)
    close(grad_w["classifier1/kernel"].T, want("dloss1_dw/classifier.fc.weight"), GRADIENT_TOLERANCE)
    start = f"dloss2_{distil}_dw/attCls"
    close(grad_w["classifier2/kernel"].T, want(f"{start}.classifier.fc.weight"), GRADIENT_TOLERANCE)
    close(grad_w["tier2/gate/kernel"].T, want(f"{start}.attention.attention_U.0.weight"), GRADIENT_TOLERANCE)
    # the logits themselves do depend on x, as attribution needs
    _, _, grad_x = run(call, bags, lambda output: loss(output.logits).sum())
    close(grad_x, want(f"dloss2_{distil}_dx"), GRADIENT_TOLERANCE)


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
    fixture = Fixture(file, config, MIL_LAB, arrays=MIL_LAB_BIASES)
    module = built(config, fixture, reference)
    with jax.default_matmul_precision("highest"):
        for case in reference.cases:
            bags = bags_of(reference, fixture, case)
            call = OnSplit(module, split(reference.arrays[f"perm{case}"], 4))
            cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
            output, grad_w, grad_x = run(call, bags, lambda output, c=cotangent: (output.logits * c).sum())
            close(output.logits, reference.get("out", case, "logits"))
            close(output.extras["distilled"][0], reference.get("out", case, "distilled"))
            close(output.extras["tier2_attention"][0], reference.get("out", case, "tier2_attn_raw"))
            check_gradients(reference, fixture, case, stripped(grad_w), grad_x)
            for label in (0, 1):
                whole, parts = config.objective(output, batch_of(bags, label), cross_entropy(label))
                close(whole, reference.get("out", case, f"loss_label{label}"))
                close(parts["tier1"], reference.get("out", case, f"instance_loss_label{label}"))


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
