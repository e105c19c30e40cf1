"""Updates and schedules, worked by hand. Against torch.optim: tests/parity/test_optimisers.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from milkit.train import optim
from milkit.train.config import Adam, AdamW, Sgd, Train


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


def test_constant_schedule_is_one():
    train = Train(Sgd(1.0))
    assert float(optim.schedule(train, optim.rates(train, 5), jnp.array(7))) == 1.0
