"""Our updates against torch.optim over 25 steps of a fixed gradient field, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.train import optim
from milkit.train.config import Adam, AdamW, Sgd, Train

pytestmark = pytest.mark.parity

CASES = {
    "sgd": (Sgd(0.03, momentum=0.9, weight_decay=0.02), lambda t, p: t.SGD(p, 0.03, momentum=0.9, weight_decay=0.02)),
    "nesterov": (
        Sgd(0.03, momentum=0.8, nesterov=True, weight_decay=0.01),
        lambda t, p: t.SGD(p, 0.03, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "plain": (Sgd(0.03, momentum=0.0), lambda t, p: t.SGD(p, 0.03)),
    "adam with L2": (Adam(0.02, weight_decay=0.05), lambda t, p: t.Adam(p, 0.02, weight_decay=0.05)),
    "adamw": (AdamW(0.02, weight_decay=0.3), lambda t, p: t.AdamW(p, 0.02, weight_decay=0.3)),
}


@pytest.mark.parametrize("name", CASES)
def test_follows_torch(name):
    torch = pytest.importorskip("torch", reason="parity needs torch (make parity)")
    config, theirs = CASES[name]
    rng = np.random.default_rng(0)
    a, start = rng.normal(size=(7, 7)), rng.normal(size=7)
    target = torch.nn.Parameter(torch.tensor(start))
    optimizer = theirs(torch.optim, [target])
    with jax.enable_x64(True):
        train = Train(config)
        rate = optim.rates(train, 100)
        params = jnp.asarray(start)
        state = optim.start(train, params)
        for step in range(25):
            gradient = np.cos(a @ np.asarray(params) + step)
            given = jnp.asarray(gradient)
            params, state = optim.apply(train, rate, jnp.array(True), jnp.array(step), given, state, params)
            target.grad = torch.tensor(np.cos(a @ target.detach().numpy() + step))
            optimizer.step()
        np.testing.assert_allclose(params, target.detach().numpy(), rtol=1e-9, atol=1e-11)
