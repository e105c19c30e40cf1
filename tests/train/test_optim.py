"""Updates and schedules, worked by hand. Against torch.optim: tests/parity/test_optimisers.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.models import ABMIL
from milkit.train import optim
from milkit.train.config import Adam, AdamW, Sgd, Train
from milkit.train.state import initial_arrays, rate_scales


def two_updates(train, gradient=2.0, start=1.0, updates=10):
    rate = optim.rates(train, updates)
    params = jnp.array([start])
    state = optim.start(train, params)
    seen = []
    for i in range(2):
        params, state = optim.apply(train, rate, jnp.array(True), jnp.array(i), jnp.array([gradient]), state, params)
        seen.append(float(params[0]))
    return seen


def test_sgd_with_momentum_and_decay_by_hand():
    # d1 = 2 + .1 * 1 = 2.1; p1 = 1 - .5 * 2.1 = -.05; d2 = .9 * 2.1 + (2 + .1 * -.05) = 3.885; p2 = -.05 - 1.9425
    train = Train(Sgd(0.5, momentum=0.9, weight_decay=0.1))
    assert two_updates(train) == pytest.approx([-0.05, -1.9925], rel=1e-6)


def test_first_adam_step_is_the_learning_rate():
    assert two_updates(Train(Adam(0.1)))[0] == pytest.approx(0.9, rel=1e-6)


def test_adamw_decays_the_parameter_not_the_gradient():
    # 1 - .1 * (1 + .5 * 1)
    assert two_updates(Train(AdamW(0.1, weight_decay=0.5)))[0] == pytest.approx(0.85, rel=1e-6)


def test_clip_bounds_the_global_norm():
    rate = optim.rates(train := Train(Sgd(1.0, momentum=0.0), clip=1.0), 10)
    params = (jnp.zeros(1), jnp.zeros(1))
    state = optim.start(train, params)
    moved, _ = optim.apply(
        train, rate, jnp.array(True), jnp.array(0), (jnp.array([3.0]), jnp.array([4.0])), state, params
    )
    assert np.ravel(moved) == pytest.approx([-0.6, -0.8], rel=1e-6)


def test_warmup_then_cosine():
    train = Train(Sgd(1.0), epochs=10, schedule="cosine", warmup_epochs=2.0)
    rate = optim.rates(train, 5)  # 50 updates, 10 of warm-up
    height = [float(optim.schedule(train, rate, jnp.array(i))) for i in (0, 4, 9, 10, 30, 50)]
    assert height == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-6)


def test_exponential_schedule_falls_after_each_epoch():
    train = Train(Sgd(1.0), epochs=7, schedule="exponential", epoch_decay=0.5, warmup_epochs=1.0)
    rate = optim.rates(train, 3)  # updates 0 to 2 are the warm-up
    height = [float(optim.schedule(train, rate, jnp.array(i))) for i in (0, 2, 3, 5, 6, 8, 9, 20)]
    assert height == pytest.approx([1 / 3, 1, 1, 1, 0.5, 0.5, 0.25, 0.5**5], rel=1e-6)
    # the first update of each of many long epochs, whose quotients do not come out whole in float32
    train = Train(Sgd(1.0), epochs=50, schedule="exponential", epoch_decay=0.9)
    first = [float(optim.schedule(train, optim.rates(train, 7919), jnp.array(7919 * e))) for e in range(50)]
    assert first == pytest.approx([0.9**e for e in range(50)], rel=1e-5)


def test_constant_schedule_is_one():
    train = Train(Sgd(1.0))
    assert float(optim.schedule(train, optim.rates(train, 5), jnp.array(7))) == 1.0


@pytest.mark.parametrize("optimizer", [Sgd(0.1, momentum=0.0), Sgd(0.1, nesterov=True), Adam(0.1), AdamW(0.1)])
def test_each_parameter_may_have_a_rate_of_its_own(optimizer):
    """One parameter at a hundredth of the rate moves as a run of its own at that rate does."""
    given = {"head": jnp.array([1.0, -2.0]), "side": jnp.array([3.0])}
    gradient = {"head": jnp.array([0.5, 0.1]), "side": jnp.array([-1.0])}

    def after(rate, scales):
        train = Train(replace(optimizer, learning_rate=rate))
        state, params = optim.start(train, given), given
        for i in range(3):
            params, state = optim.apply(
                train, optim.rates(train, 1), jnp.array(True), jnp.array(i), gradient, state, params, scales
            )
        return params

    both = after(0.1, (1.0, 0.01))
    np.testing.assert_allclose(both["head"], after(0.1, ())["head"], rtol=1e-6)
    np.testing.assert_allclose(both["side"], after(0.001, ())["side"], rtol=1e-6)


def test_a_model_names_its_parameters_rates_by_their_paths():
    class Slow(ABMIL):
        def learning_rate_scale(self, path):
            return 0.01 if path == ("classifier", "bias") else 1.0

    scales = rate_scales(Slow(encoder=(4,), attention=2), 3, 1)
    names = jax.tree.leaves_with_path(initial_arrays(Slow(encoder=(4,), attention=2), 3, 1, jax.random.key(0))[0])
    assert [scale for scale in scales if scale != 1.0] == [0.01]
    assert "classifier" in str(names[scales.index(0.01)][0])
    assert rate_scales(ABMIL(), 3, 1) == ()
