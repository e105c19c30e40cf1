"""RRT-MIL against arrays of the authors' code (`compat="authors"`), and the default against the formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, bags_of, check_gradients, close, load
from scipy.signal import correlate2d

from milkit.errors import ConfigError
from milkit.models import RRT, tang2024
from milkit.nn.instance_ppeg import on_instances
from milkit.nn.ppeg import PPEG
from milkit.nn.regions import regions_of
from milkit.types import Bags

NARROW = {"width": 32, "regions": 4, "heads": 4, "cross_heads": 4, "kernel": 5, "compat": "authors"}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def of_queries_and_values(bias):
    return bias.reshape(3, -1)[[0, 2]]


def convolution(kernel):
    """[out, 1, height, width] to [height, width, 1, out]."""
    return kernel.transpose(2, 3, 1, 0)


def along(kernel):
    """[heads, 1, scores, 1] to [scores, heads]."""
    return kernel[:, 0, :, 0].T


def fixture_of(name, config):
    """Where the file's weights go."""
    linears = {"patch_to_emb.0": "encoder", "predictor": "classifier"}
    arrays, unused = {}, []
    last = config.layers
    for i in range(last + 1):
        theirs = "online_encoder." + (f"layers.{i}" if i < last else "cr_msa")
        linears[f"{theirs}.attn.attn.proj"] = f"layers/{i}/attention/inner/out"
        arrays[f"{theirs}.attn.attn.qkv.weight"] = (f"layers/{i}/attention/inner/qkv/kernel", np.transpose)
        arrays[f"{theirs}.attn.attn.qkv.bias"] = (f"layers/{i}/attention/inner/bias", of_queries_and_values)
        if i < last and config.kernel:
            arrays[f"{theirs}.attn.attn.pe.weight"] = (f"layers/{i}/attention/inner/taps", along)
            unused.append(f"{theirs}.attn.attn.pe.bias")
        if config.feed_forward:
            linears |= {f"{theirs}.mlp.fc{j + 1}": f"layers/{i}/mlp/{j}" for j in range(2)}
        for norm in ("norm", "norm2") if config.feed_forward else ("norm",):
            arrays |= of_norm(f"{theirs}.{norm}", f"layers/{i}/{norm}")
    arrays |= of_norm("online_encoder.norm", "norm")
    phi, shares = "online_encoder.cr_msa.attn.phi", f"layers/{last}/attention"
    if config.cross_mlp:
        arrays[f"{phi}.0.weight"] = (f"{shares}/first/kernel", np.transpose)
        arrays[f"{phi}.2.weight"] = (f"{shares}/shares/kernel", np.transpose)
    else:
        arrays[phi] = (f"{shares}/shares/kernel", np.asarray)
    if config.positions == "ppeg":
        for i, suffix in enumerate(("", "1", "2")):
            theirs = f"online_encoder.pos_embedding.proj{suffix}"
            arrays[f"{theirs}.weight"] = (f"ppeg/kernels/{i}", convolution)
            arrays[f"{theirs}.bias"] = (f"ppeg/biases/{i}", np.asarray)
    pool = ("_a.0", "_b.0", "_c") if config.gated else (".0", "", ".2")
    for part, ours in zip(pool, ("hidden", "gate", "score"), strict=True):
        if part:
            arrays[f"pool_fn.attention.attention{part}.weight"] = (f"pool/{ours}/kernel", np.transpose)
    return Fixture(name, config, linears, arrays=arrays, unused=tuple(unused))


def of_norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


FIXTURES = [
    fixture_of("rrt", RRT(**NARROW)),
    fixture_of(
        "rrt_allshortcut_mlp_ffn",
        RRT(**NARROW, representatives=1, shortcut=True, cross_mlp=True, feed_forward=True, layers=2),
    ),
    fixture_of(
        "rrt_noepeg_gated",
        RRT(**NARROW | {"regions": 2, "kernel": 0}, gated=True, pool_activation="tanh", activation="gelu"),
    ),
    fixture_of("rrt_ppeg", RRT(**NARROW, positions="ppeg")),
]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_every_layer_and_gradient(shared, fixture):
    """All bags of a file in one batch: each must come out as the authors' code has it alone."""
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, 2)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    last = fixture.config.layers
    stages = {"emb": "projected", "rmsa0": "attention0", "layer0": "layer0", "crmsa": f"attention{last}"}
    stages["encoded"] = "encoded"

    @jax.jit
    def gradients(params, bags, cotangent):
        def value(params, x):
            module = nnx.merge(graph, params, rest)
            found = module.stages(Bags(x, bags.mask))
            output = module.read(found, bags.mask)
            return (output.logits * cotangent).sum(), (output, found, module.pool(found["encoded"]))

        return jax.grad(value, (0, 1), has_aux=True)(params, bags.x)

    bags = Bags.of([bags_of(reference, fixture, case).x[0] for case in reference.cases])
    bags = Bags(jnp.where(bags.mask[..., None], bags.x, 5.0), bags.mask)
    for i, case in enumerate(reference.cases):
        cotangent = jnp.zeros((len(bags.x), 2)).at[i].set(reference.arrays[f"cotangent{case}"][0])
        (grad_w, grad_x), (output, found, raw) = gradients(params, bags, cotangent)
        own = np.asarray(bags.mask[i])
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        assert of.keys() == {"logits", "attn", "attn_raw", "bag_embedding", *stages}
        for theirs, ours in stages.items():
            close(found[ours][i][own], of[theirs])
        close(output.logits[i], of["logits"])
        close(output.attention[i, own], of["attn"])
        close(raw[i, own], of["attn_raw"])
        close(output.embedding[i], of["bag_embedding"])
        by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
        assert (np.delete(np.asarray(grad_x), i, 0) == 0).all()
        check_own_gradients(reference, fixture, case, by_path, np.asarray(grad_x)[i, own])


def check_own_gradients(reference, fixture, case, grad_w, grad_x):
    """Those of a file; the largest bag's x has its gradient in float32 only."""
    if reference.get("grad", case, "x") is not None:
        check_gradients(reference, fixture, case, grad_w, grad_x)
        return
    close(grad_x, reference.arrays[f"grad{case}/x"], GRADIENT_TOLERANCE)
    theirs = {name for name in reference.names("grad", case) if name != "w/predictor.weight"}
    assert theirs <= {f"w/{name}" for name in fixture.arrays}
    for name in theirs:
        ours, rearrange = fixture.arrays[name.removeprefix("w/")]
        close(grad_w[ours], rearrange(reference.get("grad", case, name)), GRADIENT_TOLERANCE)


# --- the default: what holds no instance takes no part


def softmax(scores, axis=-1):
    e = np.exp(scores - scores.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def norm(x, w, name):
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return x * w[f"{name}/scale"] + w[f"{name}/bias"]


def self_attention(x, w, name, heads, kernel):
    """One sequence of tokens [p, d]."""
    p, d = x.shape
    e, bias = d // heads, w[f"{name}/bias"]
    q, k, v = np.split(x @ w[f"{name}/qkv/kernel"], 3, 1)
    q, v = (q + bias[0]) / np.sqrt(e), v + bias[1]
    found = []
    for h in range(heads):
        own = slice(h * e, (h + 1) * e)
        scores = q[:, own] @ k[:, own].T
        if kernel:
            around = np.pad(scores, ((kernel // 2, kernel // 2), (0, 0)))
            scores = scores + sum(w[f"{name}/taps"][j, h] * around[j : j + p] for j in range(kernel))
        found.append(softmax(scores) @ v[:, own])
    return np.concatenate(found, 1) @ w[f"{name}/out/kernel"] + w[f"{name}/out/bias"]


def regions_by_hand(n, regions):
    """The instances of each region that has some."""
    side = int(np.ceil(np.sqrt(n)))
    side += -side % regions
    grid = np.arange(side * side).reshape(side, side)
    size = side // regions
    cut = [grid[i * size : (i + 1) * size, j * size : (j + 1) * size] for i in range(regions) for j in range(regions)]
    own = [c.ravel()[c.ravel() < n] for c in cut]
    return [o for o in own if len(o)]


def by_hand(x, w, c):
    """Logits of one bag."""
    x = np.maximum(x @ w["encoder/kernel"] + w["encoder/bias"], 0)
    z, gathered = norm(x, w, "layers/0/norm"), np.zeros_like(x)
    for own in regions_by_hand(len(x), c.regions):
        gathered[own] = self_attention(z[own], w, "layers/0/attention/inner", c.heads, c.kernel)
    x = x + gathered
    z, cut = norm(x, w, "layers/1/norm"), regions_by_hand(len(x), c.cross_regions)
    logits = [z[own] @ w["layers/1/attention/shares/kernel"] for own in cut]
    summed = np.stack([softmax(s, 0).T @ z[own] for s, own in zip(logits, cut, strict=True)])  # regions, k, d
    name = "layers/1/attention/inner"
    found = np.stack([self_attention(summed[:, k], w, name, c.cross_heads, 0) for k in range(c.representatives)], 1)
    handed = np.zeros_like(x)
    for s, own, f in zip(logits, cut, found, strict=True):
        span = s.max(0) - s.min(0)
        handed[own] = (softmax(s, 1) * np.where(span > 0, (s - s.min(0)) / (span + 1e-8), 0)) @ f
    x = norm(x + handed, w, "norm")
    scores = np.maximum(x @ w["pool/hidden/kernel"], 0) @ w["pool/score/kernel"]
    return softmax(scores, 0).T @ x @ w["classifier/kernel"] + w["classifier/bias"]


SMALL = RRT(width=8, regions=2, heads=2, kernel=3, cross_regions=2, cross_heads=4, representatives=2, attention=4)


@pytest.mark.parametrize("chunks", [False, True], ids=["whole", "in_parts"])
def test_the_default_is_the_formula_over_instances_alone(monkeypatch, chunks):
    """Bags with rows left out between, as instance dropout leaves them; regions without any instance among them."""
    if chunks:
        monkeypatch.setattr(tang2024, "AT_ONCE", 40)
    rng = np.random.default_rng(0)
    module = SMALL.build(5, 2, rngs=nnx.Rngs(0))
    state = jax.tree.map(
        lambda a: jnp.asarray(a + 0.1 * rng.normal(size=a.shape), a.dtype), nnx.state(module, nnx.Param)
    )
    nnx.update(module, state)
    w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(state)}
    x = rng.normal(size=(5, 21, 5)).astype(np.float32)
    mask = np.arange(21) < np.array([[21], [5], [1], [18], [12]])
    mask[3] = mask[3][rng.permutation(21)]
    x[4] = 1  # instances alike: their shares have no range to be scaled by, and still a finite gradient
    graph, state = nnx.split(module)

    @jax.jit
    def both(x):
        def total(x):
            logits = nnx.merge(graph, state)(Bags(x, jnp.asarray(mask))).logits
            return logits.sum(), logits

        return jax.grad(total, has_aux=True)(x)

    gradient, logits = both(jnp.asarray(x))
    for i in range(5):
        want = by_hand(x[i, mask[i]].astype(np.float64), w, SMALL)
        np.testing.assert_allclose(logits[i], want[0], rtol=1e-4, atol=1e-5)
    assert (np.asarray(gradient)[~mask] == 0).all()
    assert abs(np.asarray(gradient)).max() < 1e3


def test_regions_by_hand():
    """Five instances in 2 x 2 regions: a square of 4, its first row and one more; the second bag starts at row 2."""
    mask = jnp.asarray([[True] * 5 + [False] * 3, [False, False, True, True, False, True, True, False]])
    regions = jax.jit(regions_of, static_argnums=1)(mask, 2)
    assert regions.rows[0].tolist() == [[0, 1, 4, -1], [2, 3, -1, -1], [-1] * 4, [-1] * 4]
    assert regions.rows[1].tolist() == [[2, -1, -1, -1], [3, -1, -1, -1], [5, -1, -1, -1], [6, -1, -1, -1]]
    assert regions.inside.sum((1, 2)).tolist() == [16, 4]
    assert regions.places[0].tolist() == [0, 1, 4, 5, 2, -1, -1, -1]
    assert regions.places[1].tolist() == [-1, -1, 0, 4, -1, 8, 12, -1]


@pytest.mark.parametrize("least", [1, 7])
def test_convolutions_over_the_square_of_instances(least):
    """Against scipy: the square repeats the first instances; the authors lay small ones out in rows of 7."""
    rng = np.random.default_rng(0)
    mask = np.array([[True] * 11, [False, True, True, False, True, True, True] + [False] * 4])
    x = rng.normal(size=(2, 11, 2)).astype(np.float32)
    ppeg = PPEG(2, rngs=nnx.Rngs(0))
    got = np.asarray(jax.jit(lambda x: on_instances(ppeg, x, jnp.asarray(mask), least))(jnp.asarray(x)))
    for i in range(2):
        own = x[i, mask[i]].astype(np.float64)
        side = int(np.ceil(np.sqrt(len(own))))
        tokens = np.concatenate([own, own[: side * side - len(own)]])
        wide = max(side, least)
        tokens = np.pad(tokens, ((0, wide * wide - len(tokens)), (0, 0))).reshape(wide, wide, 2)
        want = tokens + sum(np.asarray(b[...]) for b in ppeg.biases)
        for kernel in ppeg.kernels:
            for d in range(2):
                want[..., d] += correlate2d(tokens[..., d], np.asarray(kernel[...])[:, :, 0, d], "same")
        np.testing.assert_allclose(got[i, mask[i]], want.reshape(-1, 2)[: len(own)], rtol=1e-4, atol=1e-5)
        assert (got[i, ~mask[i]] == 0).all()


@pytest.mark.parametrize("bad", [{"kernel": 4}, {"heads": 3}, {"cross_heads": 5}], ids=str)
def test_contradictions_are_refused(bad):
    with pytest.raises(ConfigError, match=r"odd number|share out"):
        RRT(width=8, **{"heads": 2, "cross_heads": 2} | bad)
