"""Losses: values worked by hand, the authors' arrays, then what must hold for every loss."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from milkit import losses
from milkit.errors import ConfigError, ProtocolError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def i32(x):
    return jnp.asarray(x, jnp.int32)


def close(actual, expected, rtol=1e-6, atol=1e-7):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


# --- worked by hand


def test_bce_of_one_label_by_hand():
    # sigmoid(0) = 1/2; sigmoid(ln 3) = 3/4
    close(losses.bce(f32([[0.0], [LN3], [LN3]]), i32([1, 1, 0])), [LN2, LN4 - LN3, LN4])


def test_bce_of_several_labels_is_their_mean():
    close(losses.bce(f32([[LN3, LN3]]), f32([[1.0, 0.0]])), [(LN4 - LN3 + LN4) / 2])


def test_bce_weighs_each_side():
    close(losses.bce(f32([[0.0], [0.0]]), i32([0, 1]), f32([3.0, 5.0])), [3 * LN2, 5 * LN2])
    per_label = f32([[3.0, 5.0], [1.0, 7.0]])
    close(losses.bce(f32([[0.0, 0.0]]), f32([[0.0, 1.0]]), per_label), [(3 * LN2 + 7 * LN2) / 2])


def test_bce_refuses_one_label_for_several_logits():
    with pytest.raises(ConfigError, match=r"\(2, 3\)"):
        losses.bce(jnp.zeros((2, 3)), i32([0, 1]))


def test_cross_entropy_by_hand():
    logits = f32([[0.0, LN3], [0.0, LN3]])  # probabilities 1/4, 3/4
    close(losses.cross_entropy(logits, i32([0, 1])), [LN4, LN4 - LN3])
    close(losses.cross_entropy(logits, i32([0, 1]), f32([2.0, 10.0])), [2 * LN4, 10 * (LN4 - LN3)])


@pytest.mark.slow
def test_focal_by_hand():
    # p_t = 3/4 and 1/4: (1/4)^2 (ln 4 - ln 3), (3/4)^2 ln 4
    expected = [(LN4 - LN3) / 16, 9 / 16 * LN4]
    close(losses.focal(f32([[LN3], [LN3]]), i32([1, 0])), expected)
    close(losses.focal(f32([[LN3, LN3]]), f32([[1.0, 0.0]])), [sum(expected) / 2])
    close(losses.focal_multiclass(f32([[0.0, LN3], [0.0, LN3]]), i32([1, 0])), expected)
    # three classes with probabilities 1/6, 2/6, 3/6, gamma 1
    logits = jnp.log(f32([[1.0, 2.0, 3.0]]))
    close(losses.focal_multiclass(logits, i32([1]), 1.0), [2 / 3 * LN3])


@pytest.mark.slow
def test_focal_without_focus_is_cross_entropy():
    x = f32(np.random.default_rng(0).normal(size=(6, 3)) * 3)
    y = i32([0, 1, 2, 2, 1, 0])
    weights = f32([0.5, 1.0, 3.0])
    close(losses.focal_multiclass(x, y, 0.0, weights), losses.cross_entropy(x, y, weights))
    many = f32(np.eye(3)[np.asarray(y)])
    close(losses.focal(x, many, 0.0), losses.bce(x, many))


def test_regression_by_hand():
    x, y = f32([[1.0, 3.0], [0.0, 0.0]]), f32([[0.5, 0.0], [0.0, -2.0]])
    close(losses.mse(x, y), [(0.25 + 9) / 2, 2.0])
    # delta 1: 0.5^2 / 2 = .125; 3 - .5 = 2.5; 2 - .5 = 1.5
    close(losses.huber(x, y, 1.0), [(0.125 + 2.5) / 2, 0.75])
    close(losses.huber(x, y, 10.0), losses.mse(x, y) / 2)


def test_cox_by_hand_with_ties():
    # times 1, 2, 2, 3; the two at 2 are an event and a censored one, so both stand in the risk set of time 2
    risk = f32(np.log([[1.0], [2.0], [3.0], [4.0]]))
    target = f32([[1, 1], [2, 1], [2, 0], [3, 1]])
    close(losses.cox(risk, target), [math.log(10 / 1), math.log(9 / 2), 0, 0], atol=1e-6)


@pytest.mark.slow
def test_cox_leaves_fillers_out_and_a_weight_of_two_is_a_bag_that_stands_twice():
    rng = np.random.default_rng(1)
    risk, time = rng.normal(size=(7, 1)), rng.integers(1, 4, 7)
    target = np.stack([time, [1, 0, 1, 1, 0, 1, 1]], 1)
    alone = losses.cox(f32(risk), f32(target))
    filled = losses.cox(
        f32(np.concatenate([risk, [[90.0], [-90.0]]])),
        f32(np.concatenate([target, [[2, 1], [0, 0]]])),
        f32([1] * 7 + [0, 0]),
    )
    close(filled, np.concatenate([np.asarray(alone), [0, 0]]), rtol=1e-5)
    twice = [0, 1, 1, 2, 3, 4, 5, 5, 6]
    weight = np.bincount(twice)
    repeated = losses.cox(f32(risk[twice]), f32(target[twice])).sum()
    close((losses.cox(f32(risk), f32(target), f32(weight)) * weight).sum(), repeated, rtol=1e-5)


def test_time_bins_open_at_the_cut():
    assert losses.time_bin(f32([0.5, 1.0, 1.5, 2.0, 99.0]), f32([1.0, 2.0])).tolist() == [0, 1, 1, 2, 2]
    assert losses.time_bin(f32([0.5, 9.0]), jnp.zeros(0)).tolist() == [0, 0]


def test_discrete_time_nll_by_hand():
    # hazards 1/2, 1/4, 3/4; S after each bin 1/2, 3/8, 3/32
    logits = jnp.broadcast_to(f32([0.0, -LN3, LN3]), (5, 3))
    target = f32([[0.5, 1], [1.5, 1], [2.5, 1], [1.5, 0], [2.5, 0]])
    expected = [math.log(2), math.log(8), math.log(32 / 9), math.log(8 / 3), math.log(32 / 3)]
    cuts = f32([1.0, 2.0])
    close(losses.discrete_time_nll(logits, target, cuts), expected)
    expected[3:] = [0.6 * v for v in expected[3:]]
    close(losses.discrete_time_nll(logits, target, cuts, 0.4), expected)


# --- the authors' arrays


def _case(name, case):
    """`out64`, `out64_2` ..., `x`, `x2` ...: the first case has no suffix."""
    return name if case == 1 else (f"{name}_{case}" if name == "out64" else f"{name}{case}")


def _grad_of_mean(loss, x):
    return jax.value_and_grad(lambda v: loss(v).mean())(x)


CENSORING = {"mixed": lambda c: c, "allcens": np.ones_like, "nocens": np.zeros_like}


@pytest.mark.parametrize("case", [1, 2])
@pytest.mark.parametrize("censoring", list(CENSORING))
@pytest.mark.parametrize("alpha", ["0", "0.15", "0.4", "1"])
def test_nll_equals_mcat(shared, case, censoring, alpha):
    arrays = np.load(shared / "parity/slide/losses_survival.npz")
    x, y, c = (arrays[_case(k, case)] for k in ("x", "Y", "c"))
    event = 1 - CENSORING[censoring](c)
    target = f32(np.stack([y + 0.5, event], 1))
    value, grad = _grad_of_mean(
        lambda v: losses.discrete_time_nll(v, target, f32([1.0, 2.0, 3.0]), float(alpha)), f32(x)
    )
    name = f"nll_{censoring}_alpha{alpha}"
    close(value, arrays[f"{_case('out64', case)}/{name}"], rtol=1e-5)
    close(grad, arrays[f"{_case('out64', case)}/d_{name}_dx"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", [1, 2])
@pytest.mark.parametrize("censoring", list(CENSORING))
def test_cox_equals_mcat(shared, case, censoring):
    arrays = np.load(shared / "parity/slide/losses_survival.npz")
    x, time, c = (arrays[_case(k, case)] for k in ("x", "time", "c"))
    target = f32(np.stack([time, 1 - CENSORING[censoring](c)], 1))
    value, grad = _grad_of_mean(lambda v: losses.cox(v[:, :1], target), f32(x))
    close(value, arrays[f"{_case('out64', case)}/cox_{censoring}"], rtol=1e-5)
    close(grad, arrays[f"{_case('out64', case)}/d_cox_{censoring}_dx"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", [1, 2, 3])
def test_cox_equals_owkin(shared, case):
    arrays = np.load(shared / "parity/slide/losses_cox_owkin.npz")
    assert "events before censored at ties" in json.loads(str(arrays["meta"]))["notes"][1]
    x, signed = arrays[_case("x", case)], arrays[_case("target", case)][:, 0]
    target = f32(np.stack([np.abs(signed), signed > 0], 1))
    value, grad = _grad_of_mean(lambda v: losses.cox(v, target), f32(x))
    out = _case("out64", case)
    close(value, arrays[f"{out}/cox_mean"], rtol=1e-5)
    close(losses.cox(f32(x), target).sum(), arrays[f"{out}/cox_sum"], rtol=1e-5)
    close(np.sort(losses.cox(f32(x), target)), np.sort(arrays[f"{out}/cox_none"]), rtol=1e-5)
    close(grad, arrays[f"{out}/d_cox_mean_dx"], rtol=1e-4, atol=1e-6)


# --- the table

TASKS = {
    "bce": Binary(class_weights="balanced"),
    "focal": Binary(loss="focal"),
    "cross_entropy": MultiClass(class_weights="balanced"),
    "focal_multiclass": MultiClass(loss="focal", class_weights="balanced"),
    "multilabel_bce": MultiLabel(("a", "b", "c"), class_weights="balanced"),
    "multilabel_focal": MultiLabel(("a", "b", "c"), loss="focal"),
    "mse": Regression(("a", "b")),
    "huber": Regression(("a", "b"), loss="huber"),
    "nll": Survival(),
    "cox": Survival(loss="cox"),
}


def _data(task, n=12, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(task, Binary):
        return np.tile(np.array([0, 1, 1], np.int32), n // 3), 1, 2
    if isinstance(task, MultiClass):
        return np.tile(np.array([0, 1, 2, 2], np.int32), n // 4), 3, 3
    if isinstance(task, MultiLabel):
        return (rng.random((n, 3)) < 0.4).astype(np.float32), 3, 3
    if isinstance(task, Regression):
        return rng.normal(50, 7, size=(n, 2)).astype(np.float32), 2, 2
    times = rng.exponential(10, n) + 0.1
    return np.stack([times, rng.random(n) < 0.7], 1).astype(np.float32), task.out_features(0), 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_every_loss_is_finite_with_finite_gradients_and_fillers(name, scale):
    task = TASKS[name]
    target, outputs, names = _data(task)
    params = losses.loss_params(task, target, names)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (len(target) + 2, outputs))
    logits = f32(signs * scale)
    filled = np.concatenate([target, np.zeros((2, *target.shape[1:]), target.dtype)])
    weight = f32([1] * len(target) + [0, 0])
    fn = losses.for_task(task).fn

    def total(x):
        value = fn(x, jnp.asarray(filled), weight, params)
        assert value.shape == weight.shape
        return (value * weight).sum() / weight.sum(), value

    (mean, value), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    assert np.isfinite(mean)
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()
    assert not np.asarray(grad[len(target) :]).any()  # fillers move nothing
    short = fn(logits[: len(target)], jnp.asarray(target), weight[: len(target)], params).mean()
    close(mean, short, rtol=1e-5)


@pytest.mark.parametrize("name", list(TASKS))
def test_gradients_equal_finite_differences(name):
    task = TASKS[name]
    target, outputs, names = _data(task)
    params = losses.loss_params(task, target, names)
    fn = losses.for_task(task).fn
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        y = jnp.asarray(target)
        y = y if y.dtype == jnp.int32 else y.astype(jnp.float64)
        x = jnp.asarray(np.random.default_rng(3).normal(size=(len(target), outputs)))
        check_grads(
            lambda v: fn(jnp.asarray(v), y, jnp.ones(len(target)), params).sum(),
            (x,),
            order=1,
            modes=["rev"],
            eps=1e-5,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TASKS))
def test_only_decomposable_losses_are_the_same_bag_by_bag(name):
    task = TASKS[name]
    target, outputs, names = _data(task)
    spec, params = losses.for_task(task), losses.loss_params(task, target, names)
    logits = f32(np.random.default_rng(4).normal(size=(len(target), outputs)))
    y, one = jnp.asarray(target), jnp.ones(1)
    together = spec.fn(logits, y, jnp.ones(len(target)), params)
    apart = jnp.concatenate([spec.fn(logits[i : i + 1], y[i : i + 1], one, params) for i in range(len(target))])
    same = np.allclose(together, apart, rtol=1e-5, atol=1e-6)
    assert same == spec.decomposable


@pytest.mark.parametrize("name", list(TASKS))
def test_runs_with_their_own_parameters_stack(name):
    task = TASKS[name]
    runs = [_data(task, seed=s) for s in (0, 1)]
    params = [losses.loss_params(task, t, names) for t, _, names in runs]
    stacked = jax.tree.map(lambda *a: jnp.stack([jnp.asarray(x) for x in a]), *params)
    targets = jnp.stack([jnp.asarray(t) for t, _, _ in runs])
    logits = f32(np.random.default_rng(5).normal(size=(2, targets.shape[1], runs[0][1])))
    fn = losses.for_task(task).fn
    weight = jnp.ones(targets.shape[1])
    many = jax.jit(jax.vmap(fn, in_axes=(0, 0, None, 0)))(logits, targets, weight, stacked)
    for i in range(2):
        close(many[i], fn(logits[i], targets[i], weight, params[i]), rtol=1e-5, atol=1e-6)


# --- parameters from the training part


def test_balanced_weights_have_mean_one_over_the_training_part():
    params = losses.loss_params(MultiClass(class_weights="balanced"), np.array([0, 0, 0, 1, 2, 2]), 3)
    close(params.class_weights, [6 / 9, 6 / 3, 6 / 6])
    assert params.class_weights.dtype == np.float32
    params = losses.loss_params(Binary(class_weights="balanced"), np.array([0, 0, 0, 1]), 2)
    close(params.class_weights, [4 / 6, 4 / 2])
    params = losses.loss_params(
        MultiLabel(("a", "b"), class_weights="balanced"), np.array([[1.0, 0], [0, 0], [0, 0], [0, 0]]), 2
    )
    close(params.class_weights, [[4 / 6, 4 / 2], [1, 1]])  # label b has no positive: neutral, finite


def test_a_class_that_training_lacks_weighs_one_and_the_mean_stays_one():
    y = np.array([0, 0, 0, 2])
    weights = losses.loss_params(MultiClass(class_weights="balanced"), y, 3).class_weights
    close(weights, [4 / 6, 1, 4 / 2])
    close(weights[y].mean(), 1)


def test_unweighted_tasks_have_unit_weights():
    close(losses.loss_params(Binary(), np.array([0, 1]), 2).class_weights, [1, 1])
    close(losses.loss_params(MultiLabel(("a",)), np.array([[1.0]]), 1).class_weights, [[1, 1]])


def test_time_cuts_are_quantiles_of_events_only():
    targets = np.array([[1, 1], [2, 1], [3, 1], [4, 1], [5, 1], [100, 0], [200, 0]], np.float32)
    close(losses.loss_params(Survival(bins=4), targets, 0).cuts, [2, 3, 4])
    assert losses.loss_params(Survival(loss="cox"), targets, 0).cuts.shape == (0,)


def test_regression_scale_and_its_inverse():
    targets = np.array([[1.0, 5.0], [3.0, 5.0]])
    params = losses.loss_params(Regression(("a", "b")), targets, 2)
    close(params.target_shift, [2, 5])
    close(params.target_scale, [1, 1])  # SD of (1, 3) is 1; a constant keeps scale 1
    raw = losses.loss_params(Regression(("a", "b"), standardise=False), targets, 2)
    close(raw.target_shift, [0, 0])
    params = params._replace(target_scale=np.array([2.0, 10.0]))
    close(losses.unscale(np.array([[1.0, -1.0]]), params), [[4.0, -5.0]])
    fn = losses.for_task(Regression(("a", "b"))).fn
    # predicting 4 and -5 for (4, -5) is no error
    close(fn(f32([[1.0, -1.0]]), f32([[4.0, -5.0]]), jnp.ones(1), params), [0.0])


@pytest.mark.parametrize(
    ("task", "targets", "names", "message"),
    [
        (Binary(), np.zeros(0), 2, "no bag"),
        (Binary(), np.array([1, 1, 1]), 2, "All 3 bags.*class index 1"),
        (MultiClass(), np.array([2, 2]), 3, "class index 2"),
        (Survival(), np.array([[1.0, 0], [2.0, 0]]), 0, "None of the 2 bags"),
        (Survival(loss="cox"), np.array([[1.0, 0]]), 0, "has an event"),
        (Regression(), np.array([[1.0], [np.nan]]), 1, "Row 1"),
    ],
)
def test_a_training_part_that_teaches_nothing_is_refused(task, targets, names, message):
    with pytest.raises(ProtocolError, match=message):
        losses.loss_params(task, targets, names)


def test_class_indices_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="0 to 1"):
        losses.loss_params(Binary(), np.array([0, 2]), 2)
    with pytest.raises(ConfigError, match="at least 2"):
        losses.loss_params(MultiClass(), np.array([0, 0]), 1)
