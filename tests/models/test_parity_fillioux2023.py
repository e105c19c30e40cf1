"""S4MIL against arrays of PyTorch code, and against its recurrence written step by step in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners
from scipy.special import erf, expit

from milkit.errors import ConfigError
from milkit.models.fillioux2023 import S4MIL
from milkit.nn.state_space import DiagonalStateSpace
from milkit.types import Bags

S4D = "s4_block.1"
ARRAYS = {
    "s4_block.0.weight": ("norm/scale", np.asarray),
    "s4_block.0.bias": ("norm/bias", np.asarray),
    f"{S4D}.D": ("sequence/skip", np.asarray),
    f"{S4D}.kernel.C": ("sequence/read_out", np.asarray),
    f"{S4D}.kernel.log_dt": ("sequence/log_step", np.asarray),
    f"{S4D}.kernel.log_A_real": ("sequence/log_decay", np.asarray),
    f"{S4D}.kernel.A_imag": ("sequence/frequency", np.asarray),
    f"{S4D}.output_linear.0.weight": ("sequence/out/kernel", lambda kernel: kernel[..., 0].T),
    f"{S4D}.output_linear.0.bias": ("sequence/out/bias", np.asarray),
}
WEIGHTS = {"_fc1.0": "encoder", "classifier": "classifier"}
KNOWN = {"prob", "y_hat", "fc1", "s4", "bag_embedding", "logits", "hazards", "S"}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def everything(module, bags, cotangent):
    """Output, stages, and the gradients of the weights, by path, and of x."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def value(params, x):
        module, own = nnx.merge(graph, params, rest), Bags(x, bags.mask)
        stages = module.stages(own)
        output = module.read(stages, own.mask)
        return (output.logits * cotangent).sum(), (output, stages)

    (grad_w, grad_x), said = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return *said, by_path, np.asarray(grad_x)


@pytest.mark.parametrize(("file", "at_once"), [("s4mil", 1 << 23), ("s4mil_surv", 3 * 128 * 7)])
def test_outputs_and_gradients_of_all_cases_in_one_batch(shared, file, at_once):
    """The second file also with 7 channels at a time, a number that does not divide them."""
    fixture = Fixture(file, S4MIL(width=24, states=8, dropout=0.0, at_once=at_once), WEIGHTS, arrays=ARRAYS)
    reference = Reference(shared, file)
    module = fixture.config.build(32, 3, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    bags = Bags.of([reference.arrays[f"x{case}"] for case in reference.cases])
    cotangent = np.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    output, stages, grad_w, grad_x = everything(module, bags, cotangent)
    for i, case in enumerate(reference.cases):
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        assert set(of) <= KNOWN
        real, logits = slice(len(reference.arrays[f"x{case}"])), np.asarray(output.logits[i], np.float64)
        close(logits, of["logits"])
        close(output.embedding[i], of["bag_embedding"])
        close(stages["encoded"][i, real], of["fc1"])
        close(stages["states"][i, real], of["s4"])
        if "prob" in of:
            close(jax.nn.softmax(output.logits[i]), of["prob"])
        else:
            close(expit(logits), of["hazards"])
            close(np.cumprod(1 - expit(logits)), of["S"])
        assert logits.argmax() == of["y_hat"].item()
        close(grad_x[i, real], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked += 1
    assert checked == 5


def recurrence(layer, u):
    """The layer on one sequence [n, h], a state at a time, in float64."""
    step = np.exp(np.float64(layer.log_step[...]))[:, None]
    a = -np.exp(np.float64(layer.log_decay[...])) + 1j * np.float64(layer.frequency[...])
    c = np.float64(layer.read_out[...]) @ np.array([1, 1j])
    state, y = np.zeros(a.shape, complex), []
    for row in np.float64(u):
        state = np.exp(step * a) * state + (np.exp(step * a) - 1) / a * row[:, None]
        y.append(2 * (c * state).real.sum(1) + np.float64(layer.skip[...]) * row)
    y = np.array(y)
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    value, gate = np.split(y @ np.float64(layer.out.kernel[...]) + np.float64(layer.out.bias[...]), 2, 1)
    return value * expit(gate)


def test_a_long_sequence_is_its_recurrence_whatever_stands_after_it():
    layer = DiagonalStateSpace(5, 6, rngs=nnx.Rngs(0), at_once=4000)
    u = np.random.default_rng(0).normal(size=(2, 1507, 5)).astype(np.float32)
    y = nnx.jit(lambda layer, u: layer(u))(layer, jnp.asarray(u))
    for i, end in ((0, 1507), (1, 883)):
        close(y[i, :end], recurrence(layer, u[i, :end]))


def test_an_odd_number_of_states_is_refused():
    with pytest.raises(ConfigError, match="even number"):
        S4MIL(states=7)
