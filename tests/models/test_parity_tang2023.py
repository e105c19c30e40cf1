"""MHIM-MIL against arrays of the authors' code: base models, scores, masks, merging; and what moves in training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners

from milkit.errors import ConfigError
from milkit.execute.prepare import prepare
from milkit.models import MHIM
from milkit.models.tang2023 import as_output, distance
from milkit.models.tang2023_parts import Masking, highest, in_front, shares, sure_of_a_class
from milkit.nn import linear
from milkit.train.config import Sgd, Train
from milkit.types import Bags, Batch

NARROW = {"width": 32, "hard": 0.2, "merged": 3, "momentum": 0.0, "compat": "authors"}
TEACHER = {"teacher_feat", "teacher_score", "inst_score"}
STUDENT = {"student_logits", "student_cl_loss", "student_len_keep", "student_mask_ids", "dstudent_dx"}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def of_norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


def fixture_of(name, base, linears, arrays, unused=()):
    """Where weights go that all three have, and the base's own."""
    merge = {
        "merge.global_q": ("queries", lambda q: q[0]),
        "merge.attn.to_q.weight": ("student/merge/query/kernel", np.transpose),
        "merge.attn.to_kv.weight": ("student/merge/key_value/kernel", np.transpose),
    }
    return Fixture(
        name,
        MHIM(base, **NARROW),
        {"feature.0": "student/encoder", "merge.attn.to_out.0": "student/merge/out"}
        | {theirs: f"student/base/{ours}" for theirs, ours in linears.items()},
        arrays=merge
        | of_norm("merge.norm", "student/merge/norm")
        | {f"online_encoder.{k}": (f"student/base/{path}", change) for k, (path, change) in arrays.items()},
        unused=("merge.global_q_mm", *unused),
    )


def convolution(kernel):
    """[out, 1, height, width] to [height, width, 1, out]."""
    return kernel.transpose(2, 3, 1, 0)


def along(kernel):
    """[heads, 1, tokens, 1] to [tokens, heads]."""
    return kernel[:, 0, :, 0].T


def of_self_attention():
    found = {"cls_token": ("class_token", np.ravel)}
    for i in range(2):
        found[f"layer{i + 1}.attn.to_qkv.weight"] = (f"attentions/{i}/qkv/kernel", np.transpose)
        found[f"layer{i + 1}.attn.res_conv.weight"] = (f"attentions/{i}/residual", along)
        found |= of_norm(f"layer{i + 1}.norm", f"norms/{i}")
    for i, suffix in enumerate(("", "1", "2")):
        found[f"pos_embedding.proj{suffix}.weight"] = (f"ppeg/kernels/{i}", convolution)
        found[f"pos_embedding.proj{suffix}.bias"] = (f"ppeg/biases/{i}", np.asarray)
    return found | of_norm("norm", "norms/2")


FIXTURES = [
    fixture_of(
        "mhim_attn",
        "attention",
        {"predictor": "classifier"},
        {
            f"attention.attention.{i}.weight": (f"pool/{n}/kernel", np.transpose)
            for i, n in ((0, "hidden"), (2, "score"))
        },
    ),
    fixture_of(
        "mhim_dsmil",
        "dsmil",
        {"online_encoder.i_classifier.0": "inner/scorer"}
        | {f"online_encoder.b_classifier.q.{2 * i}": f"inner/queries/{i}" for i in range(2)}
        | {"online_encoder.b_classifier.v.1": "inner/values"},
        {
            "b_classifier.fcc.weight": ("inner/classifier/kernel", lambda k: k.reshape(len(k), -1).T),
            "b_classifier.fcc.bias": ("inner/classifier/bias", np.asarray),
        },
        unused=("predictor.weight", "predictor.bias"),
    ),
    fixture_of(
        "mhim_selfattn",
        "selfattention",
        {"predictor": "classifier"}
        | {f"online_encoder.layer{i + 1}.attn.to_out.0": f"attentions/{i}/out" for i in range(2)},
        of_self_attention(),
    ),
]


# self-attention is long to compile
@pytest.mark.parametrize(
    "fixture", [*FIXTURES[:2], pytest.param(FIXTURES[2], marks=pytest.mark.slow)], ids=lambda f: f.file
)
def test_base_teacher_student_and_merging(shared, fixture):
    """Each bag padded to the longest. The authors' student in evaluation merges all that it keeps."""
    reference = Reference(shared, fixture.file)
    module = fixture.config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    module.student.base.score = "attention"  # so that the plain pass shows what the first layer attends to
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    dsmil = fixture.config.base == "dsmil"

    def logits(seen):
        return seen.streams["bag_logits"] if dsmil else seen.logits

    @jax.jit
    def everything(params, x, mask, cotangent):
        def plain(params, x):
            module = nnx.merge(graph, params, rest)
            seen, _ = module.student.see(module.student.project(x), mask)
            return (logits(seen) * cotangent).sum(), (seen, as_output(seen, mask))

        def masked(x):
            module = nnx.merge(graph, params, rest, copy=True)
            module.student.base.score = "class"
            module.move_teacher(jnp.asarray(True))
            net = module.net_of_teacher()
            taught, _ = net.see(net.project(x), mask)
            gone = module.masking(jax.lax.stop_gradient(taught.hard), mask, None)
            h, left = module.student.project(x), mask & ~gone
            seen, _ = module.student.see(h, left, left, module.queries[...])
            # the file has the gradient of this, without a cotangent
            total = logits(seen).sum() + distance(seen.features, taught.features, 0.1).sum()
            return total, (taught, gone, seen)

        module = nnx.merge(graph, params, rest)
        merged, _ = module.student.see(module.student.project(x), mask, mask, module.queries[...])
        return (
            jax.grad(plain, (0, 1), has_aux=True)(params, x),
            jax.grad(masked, has_aux=True)(x),
            merged,
        )

    longest = max(reference.arrays[f"x{case}"].shape[1] for case in reference.cases)
    for case in reference.cases:
        n = reference.arrays[f"x{case}"].shape[1]
        x = np.full((1, longest, 32), 3.0, np.float32)
        x[:, :n] = reference.arrays[f"x{case}"]
        mask = jnp.arange(longest)[None] < n
        cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
        ((grad_w, grad_x), (seen, output)), (student_grad, student), merged = everything(params, x, mask, cotangent)
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        check_plain(of, seen, output, merged, n, logits)
        left = set(of) - {"logits", "attn", "attn_layer1", "attn_layer2", "inst_max_logits", "mergetest_logits"}
        assert left <= TEACHER | STUDENT
        if "student_logits" in of:
            check_student(of, *student, np.asarray(student_grad)[:, :n], fixture.config, n, logits)
        close(grad_x[:, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
        by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
        checked = 0
        for theirs, (ours, rearrange) in partners(fixture, by_path, reference.weights).items():
            want = reference.get("grad", case, f"w/{theirs}")
            if want is not None:
                close(by_path[ours], rearrange(want), GRADIENT_TOLERANCE)
                checked += 1
        assert checked == len(reference.names("grad", case)) - 1


def check_plain(of, seen, output, merged, n, logits):
    close(logits(seen), of["logits"])
    if "inst_max_logits" in of:  # DSMIL answers with the mean of two streams
        close(seen.streams["critical_logits"], of["inst_max_logits"])
        close(output.logits, (of["logits"] + of["inst_max_logits"]) / 2)
        close(output.instance_logits[:, :n].max(-1), of["inst_score"])
        close(np.stack([merged.streams[s] for s in ("bag_logits", "critical_logits")]), of["mergetest_logits"])
        return
    close(output.logits, of["logits"])
    close(merged.logits, of["mergetest_logits"])
    if "attn" in of:
        close(output.attention[:, :n, 0], of["attn"])
    else:
        close(seen.hard[:, :n].swapaxes(1, 2), of["attn_layer1"])
        close(seen.attention[:, :n].swapaxes(1, 2), of["attn_layer2"])


def check_student(of, taught, gone, seen, gradient, config, n, logits):
    close(taught.features, of["teacher_feat"])
    close(taught.hard[:, :n], of["teacher_score"])
    kept = int(of["student_len_keep"]) - config.merged
    assert set(np.flatnonzero(gone[0])) == set(of["student_mask_ids"][0, kept:].tolist())
    close(logits(seen), of["student_logits"])
    close(distance(seen.features, taught.features, config.temperature)[0], of["student_cl_loss"])
    close(gradient, of["dstudent_dx"], GRADIENT_TOLERANCE)


def test_shares_are_whole_numbers_without_rounding_errors():
    assert shares(30, 0.1, "up")[jnp.array([1, 10, 11, 30])].tolist() == [1, 1, 2, 3]
    assert shares(10, 0.9, "down")[jnp.array([1, 5, 10])].tolist() == [0, 4, 9]


def test_what_is_masked_by_hand():
    """Five instances and two; scores in disorder, of equal ones the first goes."""
    values = jnp.asarray([[0.1, 0.9, 0.3, 0.9, 0.2, 7.0], [0.5, 0.4, 9.0, 9.0, 9.0, 9.0]])[..., None]
    mask = jnp.asarray([[True] * 5 + [False], [True] * 2 + [False] * 4])
    where = lambda gone: [np.flatnonzero(row).tolist() for row in np.asarray(gone)]  # noqa: E731
    assert where(Masking(0.2, 1.0, 0.0, 0.0)(values, mask, None)) == [[1], [0]]
    assert where(Masking(0.5, 1.0, 0.0, 0.0)(values, mask, None)) == [[1, 2, 3], [0]]
    assert where(Masking(0.2, 1.0, 0.3, 0.0)(values, mask, None)) == [[0, 1, 4], [0]]  # of two, one stays
    with pytest.raises(ConfigError, match="draws"):
        Masking(0.2, 0.5, 0.0, 0.0)(values, mask, None)
    # two fifths are candidates, half of those go; over many draws each of the two
    half = Masking(0.2, 0.5, 0.0, 0.2)
    draw = jax.jit(lambda key: half(values, mask, nnx.Rngs(key)))
    drawn = [np.asarray(draw(jax.random.key(i))) for i in range(12)]
    assert all(1 <= d[0].sum() <= 2 and d[1].sum() == 1 and not (d & ~np.asarray(mask)).any() for d in drawn)
    assert {i for d in drawn for i in where(d)[0]} == {0, 1, 2, 3, 4}


def test_heads_vote_and_the_best_ranks_break_ties():
    """Of four, head 1 likes 0, 1; head 2 likes 2, 1; head 3 likes 3, 2. So 1 and 2 have two votes."""
    values = jnp.asarray([[[4.0, 2.0, 1.0], [3.0, 3.0, 2.0], [1.0, 4.0, 3.0], [2.0, 1.0, 4.0]]])
    mask = jnp.ones((1, 4), bool)
    assert highest(values, mask, jnp.asarray([2])).tolist() == [[False, True, True, False]]
    assert highest(values, mask, jnp.asarray([1])).tolist() == [
        [False, False, True, False]
    ]  # a vote each; ranks 3, 0, 1


def test_one_logit_is_as_sure_as_two_classes_of_the_same_difference():
    two, one = (linear(3, c, rngs=nnx.Rngs(0)) for c in (2, 1))
    one.kernel[...] = two.kernel[...][:, 1:] - two.kernel[...][:, :1]
    weighted = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32))
    np.testing.assert_allclose(sure_of_a_class(one, weighted), sure_of_a_class(two, weighted), rtol=1e-5)


def test_holes_close_up():
    rows, places = in_front(jnp.asarray([[False, True, True, False, True]]))
    assert rows[0, :, 0].tolist() == [1, 2, 4, -1, -1]
    assert places[0, :, 0].tolist() == [-1, 0, 1, -1, 2]


SMALL = MHIM(width=8, attention=4, merged=2, merge_heads=2, merge_head_width=4, hard=0.3, kept=0.5, dropout=0.1)


def test_the_engine_carries_teacher_and_queries_of_every_run():
    """One step an epoch: the teacher of step t is the mean of the students before steps 0 to t."""
    model = replace(SMALL, momentum=0.75, merge_momentum=0.5)
    train = Train(Sgd(0.5), epochs=3, width=2, batch_bags=64, buckets=1)
    data = prepare(replace(planted.experiment(width=2), model=model, train=train))
    group = data.group(0)
    state = jax.tree.map(jnp.asarray, data.first_state(0, group))
    start = jax.tree.map(np.asarray, state)
    want = jax.tree.leaves(start.params)
    for epoch in range(3):
        student = jax.tree.leaves(jax.tree.map(np.asarray, state.params))
        queries = np.asarray(state.buffers["queries"][...])
        want = [0.75 * w + 0.25 * s for w, s in zip(want, student, strict=True)]
        state = data.engine.epoch(group, state, epoch, None)[0]
        assert not np.asarray(state.failed).any()
        got = jax.tree.leaves(state.buffers["teacher"])
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
        assert (np.asarray(state.buffers["queries"][...]) != queries).all()
    ahead = [np.abs(g - s).max() for g, s in zip(got, jax.tree.leaves(state.params), strict=True)]
    assert max(ahead) > 1e-3  # else nothing was seen to lag behind
    assert not np.allclose(*np.asarray(got[0])[:2])  # each run has its own


def test_training_is_what_it_says_and_a_filler_moves_nothing():
    """Losses add up with their weight; attention is on what stays; a bag of one has merged tokens alone."""
    x = np.random.default_rng(0).normal(size=(3, 10, 4)).astype(np.float32)
    mask = np.arange(10) < np.array([[10], [1], [0]])
    module = replace(SMALL, dropout=0.0, merge_dropout=0.0, merge_momentum=0.25).build(4, 1, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    @jax.jit
    def step(mask):
        module = nnx.merge(graph, params, rest, copy=True)
        output = module(Bags(jnp.asarray(x), mask), deterministic=False, rngs=nnx.Rngs(3))
        return output, nnx.state(module, nnx.Not(nnx.Param))

    output, after = step(jnp.asarray(mask))
    assert np.isfinite(output.logits).all()
    batch = Batch(Bags(jnp.asarray(x), jnp.asarray(mask)), jnp.zeros(3, int), jnp.ones(3), jnp.arange(3))
    total, parts = module.config.objective(output, batch, lambda z: z[:, 0])
    np.testing.assert_allclose(total, output.logits[:, 0] + 0.5 * parts["consistency"], rtol=1e-6)
    seen = np.asarray(output.attention[0, :, 0]) > 0
    assert seen.sum() == 3  # 3 of 10 masked; half of 7, rounded down, stay as they are
    np.testing.assert_allclose(output.attention[:2].sum(1), 1, rtol=1e-5)
    assert (after["queries"][...] != rest["queries"][...]).all()
    _, same = step(jnp.zeros_like(mask))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(rest), strict=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"base": "selfattention", "width": 12, "heads": 5}, "share out"),
        ({"base": "selfattention", "width": 8, "kernel": 4}, "odd number"),
        ({"merged": 0, "merge_at_test": True}, "has none"),
        ({"hard": 1.0}, "hard is 1"),
    ],
    ids=str,
)
def test_contradictions_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        MHIM(**bad)
