"""SA-MIL and its family against arrays that the authors' code produced: outputs, losses, statistics and gradients.

The reference is its float64 run (`out64`, `grad64`). milkit is run in float64 against it at 1e-9, gradients of inputs
and weights included, which no accident of rounding can hide; and once more in float32, as it is used, at 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.nn.criss_cross import CrissCross
from milkit.nn.generalised_mean import log_generalised_mean, log_probability
from milkit.pixel import CDWSMIL, DWSMIL, SAMIL, Baseline
from milkit.pixel.maps import Map, output_of
from milkit.types import Batch, Images

EXACT, SINGLE = 1e-9, 1e-5  # relative to the largest value of the array


class File:
    """The arrays of one file, channels last."""

    def __init__(self, shared, name):
        self.arrays = np.load(shared / "parity" / "pixel" / f"{name}.npz")

    def __contains__(self, key):
        return key in self.arrays.files

    def __getitem__(self, key):
        a = self.arrays[key]
        return a.transpose(0, 2, 3, 1) if a.ndim == 4 and not key.endswith(".weight") else a

    def weights(self):
        return {k[2:]: self.arrays[k] for k in self.arrays.files if k.startswith("w/")}


def ours(theirs):
    """Where a weight of the authors' state dict lies in milkit's module."""
    part, _, leaf = theirs.rpartition(".")
    leaves = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var", "gamma": "gamma"}
    words = part.split(".")
    if words[0].startswith("stage"):  # stage1.0.conv.0: the first layer's convolution; conv.1: its normalisation
        stage, layer, norm = int(words[0][-1]) - 1, words[1], words[3] == "1"
        leaf = "scale" if norm and leaf == "weight" else leaves[leaf]
        return f"trunk/stages/{stage}/{'norms' if norm else 'convs'}/{layer}/{leaf}"
    if words[0].startswith("cca"):
        inner = f"{words[1].removesuffix('_conv')}/" if len(words) > 1 else ""
        return f"attention/{int(words[0][-1]) - 1}/{inner}{leaves[leaf]}"
    if words[0].startswith("decoder"):
        number = words[0].removeprefix("decoder")
        return f"heads/{int(number) - 1 if number else 0}/{leaves[leaf]}"
    if words[0] == "vgg":  # conv2_1
        stage, layer = words[1].removeprefix("conv").split("_")
        return f"trunk/stages/{int(stage) - 1}/convs/{int(layer) - 1}/{leaves[leaf]}"
    return f"heads/{int(words[1][-1]) - 1}/{leaves[leaf]}"  # side.side_conv1


def laid_out(a):
    return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a


def filled(module, weights, dtype):
    """The module's graph and its state with the given weights; each of either side must find its partner."""
    graph, state = nnx.split(module)
    flat = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    missing = set(flat)
    for theirs, a in weights.items():
        path = ours(theirs)
        assert flat[path].shape == laid_out(a).shape, theirs
        flat[path].set_value(jnp.asarray(laid_out(a), dtype))
        missing.remove(path)
    assert not missing
    return graph, state


def close(got, want, tolerance, what=""):
    want = np.asarray(want, np.float64)
    got = np.asarray(got, np.float64).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-30), err_msg=what)


def bce(target):
    return lambda z: jax.nn.softplus(z[:, 0]) - target * z[:, 0]


def run(config, graph, state, x, y, train, gradients=True):
    """Loss, output, its parts, buffers afterwards, and gradients of parameters and image."""
    mask, target = jnp.ones(x.shape[:3], bool), jnp.asarray(y).ravel()
    params, buffers = nnx.split_state(state, nnx.Param, ...)

    def loss(params, x):
        module = nnx.merge(graph, params, buffers, copy=True)
        output = module(Images(x, mask), deterministic=not train)
        batch = Batch(Images(x, mask), target[:, None], jnp.ones(len(x)), jnp.arange(len(x)))
        values, parts = config.objective(output, batch, bce(target))
        return values.mean(), (output, parts, nnx.state(module, nnx.BatchStat))

    if not gradients:
        value, aux = jax.jit(loss)(params, x)
        return value, *aux, None, None
    (value, aux), found = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    return value, *aux, *found


def check_case(file, config, graph, state, case, dtype):
    train, gradients = case.endswith("train"), f"grad64/{case}/input" in file and dtype == "float64"
    x = jnp.asarray(file["in/x_rect" if case.startswith("rect") else "in/x"], dtype)
    value, output, parts, after, of_weights, of_image = run(config, graph, state, x, file["in/y"], train, gradients)

    def allowed(name):
        """In single precision 1e-5, or what the authors' own code lost in it: their attention amplifies rounding."""
        if dtype == "float64":
            return EXACT
        exact, theirs = (np.asarray(file[f"{out}/{case}/{name}"], np.float64) for out in ("out64", "out"))
        return max(SINGLE, 2 * np.abs(theirs - exact).max() / np.abs(exact).max())

    for name, p in output.extras["maps"].items():
        theirs = name if f"out64/{case}/{name}" in file else "map"  # Baseline has one
        close(p, file[f"out64/{case}/{theirs}"], allowed(theirs), name)
        pooled = jax.nn.sigmoid(output.extras["map_logits"][name])
        close(pooled, file[f"out64/{case}/bag_{theirs}"], allowed(f"bag_{theirs}"), name)
        close(parts[name].mean(), file[f"out64/{case}/bce_{theirs}"], allowed(f"bce_{theirs}"), name)
    close(value, file[f"out64/{case}/loss"], allowed("loss"))
    if gradients:
        close(of_image, file[f"grad64/{case}/input"], EXACT, "input")
        check_weights(file, f"grad64/{case}/", of_weights, train)
    if case == "train" and dtype == "float64":
        for path, leaf in nnx.to_flat_state(after):
            stage, layer, kind = path[2], path[4], {"mean": "running_mean", "var": "running_var"}[path[5]]
            want = file[f"out64/train/newstat/stage{stage + 1}.{layer}.conv.1.{kind}"]
            close(leaf[...], want, 1e-7, str(path))  # stored in float32


def check_weights(file, prefix, of_weights, train):
    flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(of_weights)}
    names = [k.removeprefix(prefix) for k in file.arrays.files if k.startswith(prefix) and not k.endswith("/input")]
    assert len(names) > 5
    for name in names:
        if train and name.endswith("conv.0.bias"):
            continue  # before a batch normalisation: exactly 0, what is stored is rounding
        if name.endswith("key_conv.bias"):
            continue  # the same to all keys: 0 for the softmax over keys
        close(flat[ours(name)], laid_out(file[prefix + name]), EXACT, name)


MODELS = {
    "sa_mil_baseline": Baseline(),
    "sa_mil_dws": DWSMIL(),
    "sa_mil_ccnet": SAMIL(),
    "sa_mil_authors": SAMIL(compat="authors"),
}


def loaded(shared, name, dtype):
    file = File(shared, name)
    weights = File(shared, "sa_mil_weights").weights()
    if not name.endswith(("authors", "ccnet")):
        weights = {k: v for k, v in weights.items() if not k.startswith("cca")}
    module = nnx.eval_shape(lambda: MODELS[name].build(3, 1, rngs=nnx.Rngs(0)))
    return file, *filled(module, weights | file.weights(), dtype)


@pytest.mark.parametrize("name", MODELS)
def test_networks_in_double_precision(shared, name):
    with jax.enable_x64(True):
        file, graph, state = loaded(shared, name, "float64")
        for case in ("train", "rect_eval"):
            check_case(file, MODELS[name], graph, state, case, "float64")


@pytest.mark.parametrize("name", ["sa_mil_ccnet", "sa_mil_authors"])
def test_networks_in_single_precision(shared, name):
    with jax.default_matmul_precision("highest"):
        file, graph, state = loaded(shared, name, "float32")
        check_case(file, MODELS[name], graph, state, "eval", "float32")


@pytest.mark.parametrize(("variant", "compat"), [("ccnet", "correct"), ("samil", "authors")])
def test_criss_cross_attention(shared, variant, compat):
    file = File(shared, "criss_cross_attention")
    names = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}
    with jax.enable_x64(True):
        module = CrissCross(16, compat=compat, rngs=nnx.Rngs(0))
        graph, state = nnx.split(module)
        flat = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
        for theirs, a in file.weights().items():
            part, _, leaf = theirs.rpartition(".")
            path = f"{names[part]}/{'kernel' if leaf == 'weight' else 'bias'}" if part else theirs
            flat[path].set_value(jnp.asarray(laid_out(a), "float64"))
        x = jnp.asarray(file["in/x"], "float64")
        mask = jnp.ones(x.shape[:3], bool)
        for r in (1, 2, 3):

            def total(state, x, r=r):
                module, y = nnx.merge(graph, state), x
                for _ in range(r):
                    y = module(y, mask)
                return (y * file["in/cotangent"]).sum(), y

            (_, y), (of_weights, of_x) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(state, x)
            close(y, file[f"out64/{variant}/R{r}"], EXACT)
            close(of_x, file[f"grad64/{variant}/R{r}/input"], EXACT)
            got = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(of_weights)}
            close(got["gamma"], file[f"grad64/{variant}/R{r}/gamma"], EXACT)
            for part, mine in names.items():
                close(got[f"{mine}/kernel"], laid_out(file[f"grad64/{variant}/R{r}/{part}.weight"]), EXACT)
                if (part, compat) != ("key_conv", "correct"):  # there it is 0: all energies move alike
                    close(got[f"{mine}/bias"], file[f"grad64/{variant}/R{r}/{part}.bias"], EXACT)


def test_generalised_mean(shared):
    file = File(shared, "gm_pooling")
    x, y = file["in/maps"], file["in/y"].ravel()
    mask = jnp.ones(x.shape[:3], bool)
    with jax.enable_x64(True):
        for r in (1, 2, 4, 8):

            def gm(x, r=r):
                return jnp.exp(log_generalised_mean(log_probability(x), mask, float(r)))

            got = gm(jnp.asarray(x, "float64"))
            close(got, file[f"out64/gm_r{r}"], EXACT)
            gradient = np.asarray(jax.grad(lambda x: gm(x).sum())(jnp.asarray(x, "float64")))
            want = file[f"grad64/gm_r{r}/maps"]
            assert np.isfinite(gradient).all()
            finite = np.isfinite(want).all((1, 2, 3))  # torch's is NaN for the map of zeros
            assert finite.sum() == (6 if r == 1 else 5)
            close(gradient[finite], want[finite], EXACT)
            # torch's cross-entropy stops at 100, which the map of zeros reaches where it is called positive
            bags = np.clip(np.asarray(got)[:, 0], 0, 1)
            with np.errstate(divide="ignore"):
                each = np.minimum(np.where(y > 0, -np.log(bags), -np.log1p(-bags)), 100)
            close(each, file[f"out64/bce_each_r{r}"], EXACT)
        single = jnp.exp(log_generalised_mean(log_probability(jnp.asarray(x, "float32")), mask, 4.0))
    close(single, file["out64/gm_r4"], SINGLE)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("default", {"compat": "wesup"}),
        ("gmp1", {"r": 1.0}),
        ("no_area", {"compat": "wesup", "side_area_weights": (0.0, 0.0, 0.0), "fused_area_weight": 0.0}),
    ],
)
def test_area_constraint(shared, variant, changes):
    """Their maps are clamped to [1e-7, 1 - 1e-7] first, which is done here before milkit sees them.

    1e-7: their constants (areas, the clamp) are numbers of float32.
    """
    file = File(shared, "cdws_loss")
    config, area = CDWSMIL(**changes), file["in/area"]
    with jax.enable_x64(True):
        for i in (0, 1):
            sides = jnp.asarray(file.arrays[f"in/side{i}"].transpose(0, 2, 3, 1), "float64")
            mask = jnp.ones(sides.shape[:3], bool)

            def loss(sides, mask=mask):
                fused = (sides * jnp.asarray(config.fusion_weights)).sum(-1, keepdims=True)
                named = {"fused": fused} | {f"side{k + 1}": sides[..., k : k + 1] for k in range(3)}
                named = {k: jnp.clip(p, 1e-7, 1 - 1e-7) for k, p in named.items()}
                maps = {k: Map(p, 1 - p) for k, p in named.items()}
                output = output_of(maps, mask, config.r, config.compat == "wesup")
                images = Images(jnp.zeros((*mask.shape, 1)), mask)
                batch = Batch(images, jnp.asarray(area, "float64")[:, None], jnp.ones(4), jnp.arange(4))
                values, _ = config.objective(output, batch, lambda z: z[:, 0] * jnp.nan)
                return values.mean()

            value, gradient = jax.value_and_grad(loss)(sides)
            close(value, file[f"out64/{variant}/loss{i}"], 1e-7)
            close(gradient, file.arrays[f"grad64/{variant}/side{i}"].transpose(0, 2, 3, 1), 1e-7)


def test_cdws_network(shared):
    file = File(shared, "cdws_network")
    config = CDWSMIL.original(compat="wesup")
    from_vgg = {k: v for k, v in File(shared, "sa_mil_weights").weights().items() if ".conv.0." in k}
    with jax.enable_x64(True):
        module = nnx.eval_shape(lambda: config.build(3, 1, rngs=nnx.Rngs(0)))
        graph, state = filled(module, from_vgg | file.weights(), "float64")
        x = jnp.asarray(file["in/x"], "float64")
        value, output, _, _, of_weights, of_image = run(config, graph, state, x, file["in/area"], False)
        close(output.extras["maps"]["fused"], file["out64/fused"], EXACT)
        sides = [output.extras["maps"][f"side{i}"][..., 0] for i in (1, 2, 3)]
        close(jnp.stack(sides, 1), file.arrays["out64/sides"], EXACT)
        close(value, file["out64/loss"], EXACT)
        close(of_image, file["grad64/input"], EXACT)
        check_weights(file, "grad64/", of_weights, False)
