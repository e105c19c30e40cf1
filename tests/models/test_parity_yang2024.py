"""MambaMIL against arrays of its authors' code, and what its default does otherwise against a scan in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners, softmax_of
from scipy.special import expit

from milkit.models.yang2024 import MambaMIL
from milkit.nn.selective_scan import Mamba, SelectiveScan
from milkit.types import Bags

WEIGHTS = {"_fc1.0": "encoder", "classifier": "classifier", "attention.0": "pool/tanh"}
KNOWN = {"logits", "prob", "y_hat", "fc1", "mamba0", "mamba1", "normed", "attn_raw", "bag_embedding"}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def fixture_of(variant, at_once):
    arrays = {"attention.2.weight": ("pool/score/kernel", np.transpose)}
    weights = dict(WEIGHTS)
    norms = {"norm": "norm"} | {f"layers.{i}.0": f"norms/{i}" for i in range(2)}
    for theirs, ours in norms.items():
        arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"] = (
            (f"{ours}/scale", np.asarray),
            (f"{ours}/bias", np.asarray),
        )
    for i in range(2):
        layer = f"layers.{i}.1"
        weights |= {f"{layer}.in_proj": f"layers/{i}/into", f"{layer}.out_proj": f"layers/{i}/out"}
        for j, suffix in enumerate([""] if variant == "mamba" else ["", "_b"]):
            scan = f"layers/{i}/scans/{j}"
            weights |= {f"{layer}.x_proj{suffix}": f"{scan}/select", f"{layer}.dt_proj{suffix}": f"{scan}/step"}
            arrays |= {
                f"{layer}.A{suffix}_log": (f"{scan}/log_decay", np.asarray),
                f"{layer}.D{suffix}": (f"{scan}/skip", np.asarray),
                f"{layer}.conv1d{suffix}.weight": (f"{scan}/taps", lambda kernel: kernel[:, 0].T),
                f"{layer}.conv1d{suffix}.bias": (f"{scan}/tap_bias", np.asarray),
            }
    config = MambaMIL(
        variant, rate=5, width=24, states=8, attention=12, dropout=0.0, compat="authors", at_once=at_once
    )  # fmt: skip
    return Fixture(f"mambamil_{variant}", config, weights, arrays=arrays, unused=("attention.2.bias",))


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


@pytest.mark.parametrize(("variant", "at_once"), [("mamba", 1 << 22), ("bimamba", 3 * 48 * 8 * 9), ("srmamba", 1)])
def test_outputs_and_gradients_of_all_cases_in_one_batch(shared, variant, at_once):
    """Also in chunks: of 9 places, and of 8, the fewest with 8 states."""
    fixture = fixture_of(variant, at_once)
    reference = Reference(shared, fixture.file)
    module = fixture.config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    bags = Bags.of([reference.arrays[f"x{case}"][0] for case in reference.cases])
    cotangent = np.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    output, stages, grad_w, grad_x = everything(module, bags, cotangent)
    for i, case in enumerate(reference.cases):
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        assert set(of) <= KNOWN
        real = slice(reference.arrays[f"x{case}"].shape[1])
        close(output.logits[i], of["logits"])
        close(jax.nn.softmax(output.logits[i]), of["prob"])
        assert output.logits[i].argmax() == of["y_hat"].item()
        close(output.embedding[i], of["bag_embedding"])
        close(output.attention[i, real], softmax_of(of["attn_raw"][0, :, 0]))
        for theirs, ours in {"fc1": "encoded", "mamba0": "layer1", "mamba1": "layer2", "normed": "normed"}.items():
            close(stages[ours][i, real], of[theirs])
        close(grad_x[i, real], reference.get("grad", case, "x")[0], GRADIENT_TOLERANCE)
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked += 1
    assert checked == (3 if variant == "mamba" else 4)


def silu(a):
    return a * expit(a)


def scan(layer, x, z):
    """A branch on one sequence [n, d], place by place, in float64."""
    taps, bias, a = (np.float64(p[...]) for p in (layer.taps, layer.tap_bias, layer.log_decay))
    kernel, states = len(taps), a.shape[1]
    seen, state, y = np.concatenate([np.zeros((kernel - 1, x.shape[1])), x]), np.zeros(a.shape), []
    for t in range(len(x)):
        u = silu((taps * seen[t : t + kernel]).sum(0) + bias)
        chosen = u @ np.float64(layer.select.kernel[...])
        step, write, read = chosen[: -2 * states], chosen[-2 * states : -states], chosen[-states:]
        step = np.logaddexp(0, step @ np.float64(layer.step.kernel[...]) + np.float64(layer.step.bias[...]))[:, None]
        state = np.exp(-step * np.exp(a)) * state + step * write * u[:, None]
        y.append((state @ read + np.float64(layer.skip[...]) * u) * silu(z[t]))
    return np.array(y)


def normed(layer, h):
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    return h * np.float64(layer.scale[...]) + np.float64(layer.bias[...])


def strided_by_default(module, x, rate):
    """Logits of one bag, in float64; its strides hold its instances and nothing else."""
    h = np.maximum(np.float64(x) @ np.float64(module.encoder.kernel[...]) + np.float64(module.encoder.bias[...]), 0)
    order = np.concatenate([np.arange(first, len(x), rate) for first in range(min(rate, len(x)))])
    for norm, layer in zip(module.norms, module.layers, strict=True):
        x, z = np.split(normed(norm, h) @ np.float64(layer.into.kernel[...]), 2, 1)
        y = scan(layer.scans[0], x, z)
        y[order] += scan(layer.scans[1], x[order], z[order])
        h = h + y @ np.float64(layer.out.kernel[...])
    h = normed(module.norm, h)
    score = np.tanh(h @ np.float64(module.pool.tanh.kernel[...]) + np.float64(module.pool.tanh.bias[...]))
    weight = softmax_of((score @ np.float64(module.pool.score.kernel[...]))[:, 0])
    return weight @ h @ np.float64(module.classifier.kernel[...]) + np.float64(module.classifier.bias[...])


def test_by_default_strides_hold_instances_only():
    config = MambaMIL(rate=3, width=17, states=3, kernel=3, expand=1, attention=5, activation="relu", dropout=0.0)
    module = config.build(6, 2, rngs=nnx.Rngs(1))
    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(n, 6)).astype(np.float32) for n in (10, 2, 9)]
    x, mask = np.zeros((3, 13, 6), np.float32), np.zeros((3, 13), bool)
    for i, bag in enumerate(bags):  # padding between the instances too
        rows = np.sort(rng.choice(13, len(bag), replace=False))
        x[i, rows], mask[i, rows] = bag, True
    logits = nnx.jit(lambda module, bags: module(bags).logits)(module, Bags(jnp.asarray(x), jnp.asarray(mask)))
    for got, bag in zip(logits, bags, strict=True):
        close(got, strided_by_default(module, bag, 3))


def test_a_long_sequence_in_chunks_is_the_scan_place_by_place():
    layer = Mamba(5, 3, kernel=4, expand=1, scans=1, rngs=nnx.Rngs(0), at_once=5 * 3 * 2 * 32)
    h = np.random.default_rng(0).normal(size=(2, 701, 5)).astype(np.float32)
    y = nnx.jit(lambda layer, h: layer(h, [None]))(layer, jnp.asarray(h))
    for i, end in ((0, 701), (1, 350)):
        x, z = np.split(h[i, :end] @ np.float64(layer.into.kernel[...]), 2, 1)
        close(y[i, :end], scan(layer.scans[0], x, z) @ np.float64(layer.out.kernel[...]))


def test_steps_start_as_in_mamba_or_as_in_the_authors_code():
    def steps(at_zero):
        layer = SelectiveScan(32, 3, kernel=4, rank=2, rngs=nnx.Rngs(0), step_starts_at_zero=at_zero)
        return np.logaddexp(0, np.float64(layer.step.bias[...]))

    mamba = steps(False)
    assert (mamba > 0.00099).all()
    assert (mamba < 0.101).all()
    assert np.ptp(np.log(mamba)) > 3  # 32 draws from an interval of 4.6
    np.testing.assert_allclose(steps(True), np.log(2))
