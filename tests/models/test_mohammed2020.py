"""PS-DeVCEM and its LSTM against numpy in float64, step by step and pair by pair, and the LSTM against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit, logsumexp

from milkit.errors import ConfigError
from milkit.models.mohammed2020 import PSDeVCEM, above_average
from milkit.nn.lstm import BidirectionalLSTM, hidden_states
from milkit.types import Bags, Batch

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def one_way(entered, again):
    """The states of one sequence, entered [n, 4 s]."""
    h = c = np.zeros(len(again))
    found = []
    for row in entered:
        i, f, g, o = np.split(row + h @ again, 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


def both_ways(block, x):
    into, again, bias = (np.float64(p[...]) for p in (block.into, block.again, block.bias))
    forward = one_way(x @ into[0] + bias[0], again[0])
    return np.concatenate([forward, one_way(x[::-1] @ into[1] + bias[1], again[1])[::-1]], 1)


def layer(module, h):
    return h @ np.float64(module.kernel[...]) + np.float64(module.bias[...])


def two_layers(module, h):
    return layer(module.out, np.maximum(layer(module.hidden, h), 0))


def by_hand(module, x):
    """Frames, attention and logits of one video."""
    h = np.maximum(layer(module.encoder, np.float64(x)), 0)
    for block in module.blocks:
        h = h + both_ways(block, h)
    score = (np.tanh(layer(module.pool.tanh, h)) @ np.float64(module.pool.score.kernel[...]))[:, 0]
    attention = np.exp(score - logsumexp(score))
    return h, attention, two_layers(module.classifier, attention @ h)


def videos():
    """Three of them in one batch, with rows of padding between frames, and the frames."""
    rng = np.random.default_rng(0)
    frames = [rng.normal(size=(n, 5)).astype(np.float32) for n in (9, 1, 6)]
    x, mask = np.full((3, 11, 5), 7.0, np.float32), np.zeros((3, 11), bool)
    for i, video in enumerate(frames):
        rows = np.sort(rng.choice(11, len(video), replace=False))
        x[i, rows], mask[i, rows] = video, True
    return Bags(jnp.asarray(x), jnp.asarray(mask)), frames


def pairs(h, high):
    """Mean cosine of all pairs across the groups."""
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    return np.mean([unit[i] @ unit[j] for i in np.flatnonzero(high) for j in np.flatnonzero(~high)])


@pytest.mark.parametrize("supervision", ["network", "cosine", "none"])
def test_the_model_and_its_objective(supervision):
    config = PSDeVCEM(8, attention=4, head=6, supervision=supervision, weight=0.5, margin=-0.5)
    module = config.build(5, 3, rngs=nnx.Rngs(3))
    module.pool.score.kernel[...] *= 9  # attention that is not flat
    bags, frames = videos()
    target = jnp.asarray(np.random.default_rng(1).integers(0, 2, (3, 3)), jnp.float32)
    batch = Batch(bags, target, jnp.ones(3), jnp.arange(3))

    def video_loss(logits):
        return (jax.nn.softplus(logits) - target * logits).sum(1)

    @nnx.jit
    def both(module):
        output = module(bags)
        return output, *config.objective(output, batch, video_loss)

    output, loss, parts = both(module)
    for i, video in enumerate(frames):
        h, attention, logits = by_hand(module, video)
        real = np.asarray(bags.mask[i])
        np.testing.assert_allclose(output.logits[i], logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(output.attention[i, :, 0])[real], attention, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(output.extras["frames"][i])[real], h, rtol=1e-5, atol=1e-6)
        want = (np.logaddexp(0, logits) - np.asarray(target[i]) * logits).sum()
        high = attention * len(video) > 1
        apart = 0.0
        if len(video) > 1 and supervision == "network":
            said = two_layers(module.frames, h)[:, 0]
            apart = np.mean(np.where(high, np.logaddexp(0, -said), np.logaddexp(0, said)))
        elif len(video) > 1 and supervision == "cosine":
            apart = max(0.0, pairs(h, high) + 0.5)
            assert apart > 0
        np.testing.assert_allclose(loss[i], want + 0.5 * apart, rtol=1e-5)
        if supervision != "none":
            np.testing.assert_allclose(parts["self_supervision"][i], apart, rtol=1e-5)


def test_groups_by_hand():
    attention = jnp.asarray([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    mask = jnp.asarray([[True, True, True, False], [True] * 4, [True, False, False, False]])
    high = above_average(attention, mask)
    assert high.tolist() == [[True, False, False, False], [False] * 4, [False] * 4]


def test_gradients_of_the_lstm_along_random_directions():
    rng = np.random.default_rng(0)
    entered, again, bar = rng.normal(size=(7, 2, 2, 12)), rng.normal(size=(2, 3, 12)), rng.normal(size=(7, 2, 2, 3))
    with jax.enable_x64(True):
        gradient = jax.jit(lambda *a: jax.vjp(hidden_states, *a[:2])[1](a[2]))(*map(jnp.asarray, (entered, again, bar)))

    def value(entered, again):
        h = [[one_way(entered[:, g, b], again[g]) for b in (0, 1)] for g in (0, 1)]
        return (np.moveaxis(np.array(h), 2, 0) * bar).sum()

    step = 1e-6
    for i, of in enumerate(gradient):
        way = rng.normal(size=of.shape)
        ends = [
            value(*(a + (sign * step * way if j == i else 0) for j, a in enumerate((entered, again))))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose((np.asarray(of) * way).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


@pytest.mark.parity
def test_the_lstm_is_pytorchs():
    """On packed sequences of unequal length, with gradients."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(5, 4, batch_first=True, bidirectional=True).double()
    rng, counts = np.random.default_rng(0), [7, 3, 1]
    x, bar = rng.normal(size=(3, 7, 5)), rng.normal(size=(3, 7, 8))
    given = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(given, counts, batch_first=True)
    want = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    (want * torch.tensor(bar)).sum().backward()
    weights = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    stacked = {
        "into": np.stack([weights[f"weight_ih_l0{way}"].T for way in ("", "_reverse")]),
        "again": np.stack([weights[f"weight_hh_l0{way}"].T for way in ("", "_reverse")]),
        "bias": np.stack([weights[f"bias_ih_l0{way}"] + weights[f"bias_hh_l0{way}"] for way in ("", "_reverse")]),
    }
    graph, state = nnx.split(BidirectionalLSTM(5, 4, rngs=nnx.Rngs(0)))
    with jax.enable_x64(True):
        for path, leaf in nnx.to_flat_state(state):
            leaf.set_value(jnp.asarray(stacked[path[0]]))

        def value(state, x):
            y = nnx.merge(graph, state)(x, jnp.asarray(counts))
            return (y * bar).sum(), y

        (of_state, of_x), got = jax.jit(jax.grad(value, (0, 1), has_aux=True))(state, jnp.asarray(x))
    np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-14)
    np.testing.assert_allclose(of_x, given.grad.numpy(), atol=1e-14)
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for g, way in enumerate(("", "_reverse")):
        np.testing.assert_allclose(of_state["into"][...][g].T, gradients[f"weight_ih_l0{way}"], atol=1e-13)
        np.testing.assert_allclose(of_state["again"][...][g].T, gradients[f"weight_hh_l0{way}"], atol=1e-13)
        np.testing.assert_allclose(of_state["bias"][...][g], gradients[f"bias_hh_l0{way}"], atol=1e-13)


def test_an_odd_width_is_refused():
    with pytest.raises(ConfigError, match="even number"):
        PSDeVCEM(width=9)
