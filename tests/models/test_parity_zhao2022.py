"""SETMIL against arrays of torchmil 1.0.2 (its reshapes included), and the right one against plain numpy."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, check_gradients, close, load, run

from milkit.errors import ConfigError, DataError
from milkit.models.zhao2022 import SETMIL, bucket_of, frequencies
from milkit.nn.row_blocks import in_row_blocks
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def block(theirs, ours):
    """Linear layers and norms that windows and layers of the transformer share."""
    weights = {f"{theirs}.mlp_module.0": f"{ours}/mlp/first", f"{theirs}.mlp_module.3": f"{ours}/mlp/second"}
    weights[f"{theirs}.att_module.qkv_nn"] = f"{ours}/" + ("qkv" if "windows" in ours else "attention/qkv")
    arrays = {}
    for a, b in (("norm1", "norm"), ("norm2", "mlp_norm")):
        arrays |= norm(f"{theirs}.{a}", f"{ours}/{b}")
    return weights, arrays


def norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


def fixture_of(file, windows, layers):
    weights = {"proj": "projection", "classifier": "classifier"} | ({"pmf.out_proj": "joined"} if windows else {})
    arrays = {"cls_token": ("class_token", np.ravel), **norm("se_transf.norm", "norm")}
    blocks = {f"pmf.layers.{i}.transf_layer": f"windows/{i}" for i in range(len(windows))}
    weights |= {f"{theirs}.att_proj": f"{ours}/skip" for theirs, ours in blocks.items()}
    blocks |= {f"se_transf.layers.{i}": f"layers/{i}" for i in range(layers)}
    for theirs, ours in blocks.items():
        w, a = block(theirs, ours)
        weights, arrays = weights | w, arrays | a
    table = "se_transf.layers.{}.att_module.rpe_k.lookup_table_weight"
    for i in range(layers - 1):
        arrays[table.format(i)] = (f"layers/{i}/attention/table", lambda t: t[0])
    config = SETMIL(1.0, 16, windows, 16, 2, layers, 2, "product", dropout=0.0, compat="torchmil", map_side=6)
    return Fixture(file, config, weights, arrays=arrays, unused=("pos_embed.inv_freq", table.format(layers - 1)))


@pytest.mark.parametrize(
    "fixture",
    [fixture_of("torchmil_setmil", (), 2), fixture_of("torchmil_setmil_pmf", (3, 5, 7), 1)],
    ids=lambda f: f.file,
)
def test_torchmil(shared, fixture, monkeypatch):
    """Its maps are 5 cells a side or 1, held in one of 6. The file's frequencies are rounded to bfloat16."""
    reference = Reference(shared, fixture.file)
    theirs = reference.weights["pos_embed.inv_freq"]
    close(frequencies(16), theirs, 2**-8)
    monkeypatch.setattr("milkit.models.zhao2022.frequencies", lambda channels: jnp.asarray(theirs))
    module = load(reference, fixture, 32, 1)
    for case in reference.cases:
        x, places = reference.arrays[f"x{case}"], reference.arrays[f"coords{case}"]
        bags = Bags.of([*x], [*places[..., ::-1].astype(np.float32)])
        cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])[:, None]
        output, grad_w, grad_x = run(module, bags, lambda output, c=cotangent: (output.logits * c).sum())
        close(output.logits, reference.get("out", case, "logits"))
        if reference.get("out", case, "attn") is not None:
            close(output.extras["class_row"].mean(-1), reference.get("out", case, "attn"))
        check_gradients(reference, fixture, case, grad_w, grad_x)


def test_buckets_are_those_of_irpe():
    """Equation 18 of Wu et al. (2021) with alpha 1.9, beta 3.8, gamma 15.2; what is beyond is cut to whole numbers."""
    for distance in range(400):
        far = 1.9 + np.log(max(distance, 1) / 1.9) / np.log(15.2 / 1.9) * (3.8 - 1.9)
        want = distance if distance <= 1.9 else int(min(np.round(far), 3.8))
        assert int(bucket_of(jnp.asarray(distance))) == want


class InNumpy:
    """The formulas in float64, tile by tile; one bag of places [n, (row, column)]."""

    def __init__(self, module):
        self.m = module

    def layer(self, linear, x):
        return x @ self.array(linear.kernel) + (0 if linear.bias is None else self.array(linear.bias))

    def array(self, a):
        return np.asarray(a[...], np.float64)

    def norm(self, norm, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * self.array(norm.scale) + self.array(
            norm.bias
        )

    def mlp(self, mlp, x):
        from scipy.special import erf

        h = self.layer(mlp.first, x)
        return self.layer(mlp.second, h * (1 + erf(h / np.sqrt(2))) / 2)

    def softmax(self, e):
        e = np.exp(e - e.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def window(self, part, x, places):
        half, seen = part.side // 2, []
        for r, c in places:
            cells = [(r + i, c + j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
            at = [next((k for k, p in enumerate(places) if tuple(p) == cell), None) for cell in cells]
            seen.append(np.stack([np.zeros(x.shape[1]) if k is None else x[k] for k in at], 1).ravel())
        q, k, v = np.split(self.layer(part.qkv, self.norm(part.norm, np.stack(seen))), 3, 1)
        gathered = []
        for h in range(part.heads):
            e = slice(h * q.shape[1] // part.heads, (h + 1) * q.shape[1] // part.heads)
            gathered.append(self.softmax(q[:, e] @ k[:, e].T / np.sqrt(q[:, e].shape[1])) @ v[:, e])
        y = v + self.layer(part.out, np.concatenate(gathered, 1))
        return y + self.mlp(part.mlp, self.norm(part.mlp_norm, y))

    def bucket(self, attention, a, b):
        if a is None or b is None:
            return attention.table.shape[1] - 1
        bucket = [0, 1, 2, 2, *[3] * 20]
        if attention.relative == "euclidean":
            return bucket[int(np.round(np.hypot(*(a - b))))]
        r, c = (3 + np.sign(d) * bucket[abs(d)] for d in a - b)
        return r * 7 + c

    def attend(self, attention, x, places):
        q, k, v = np.split(self.layer(attention.qkv, x), 3, 1)
        width = q.shape[1] // attention.heads
        gathered, rows = [], []
        for h in range(attention.heads):
            e = slice(h * width, (h + 1) * width)
            energy = q[:, e] @ k[:, e].T / np.sqrt(width)
            if attention.table is not None:
                table = self.array(attention.table)
                for i, a in enumerate(places):
                    for j, b in enumerate(places):
                        at = self.bucket(attention, a, b)
                        euclidean = attention.relative == "euclidean"
                        energy[i, j] += table[h, at] if euclidean else q[i, e] @ table[:, at] / np.sqrt(width)
            gathered.append(self.softmax(energy) @ v[:, e])
            rows.append(self.softmax(energy[:1, 1:])[0])
        return self.layer(attention.out, np.concatenate(gathered, 1)), np.stack(rows, 1)

    def waves(self, at, channels):
        angle = at / 10_000 ** (np.arange(0, channels, 2) / channels)
        return np.stack([np.sin(angle), np.cos(angle)], 1).ravel()

    def __call__(self, x, places):
        m = self.m
        x = self.layer(m.projection, x)
        x = np.concatenate([self.window(part, x, places) for part in m.windows], 1) if len(m.windows) else x
        half = x.shape[1] // 2
        at = np.concatenate([[[0, 0]], places + 1])
        x = np.concatenate([[self.array(m.class_token)], x])
        x = x + np.stack([np.concatenate([self.waves(r, half), self.waves(c, half)]) for r, c in at])
        for layer in m.layers:
            y, rows = self.attend(layer.attention, self.norm(layer.norm, x), [None, *places])
            x = x + y
            x = x + self.mlp(layer.mlp, self.norm(layer.mlp_norm, x))
        return self.layer(m.classifier, self.norm(m.norm, x)[0]), rows


@pytest.mark.parametrize(("relative", "tile_um", "at_once"), [("euclidean", 0.0, 1300), ("product", 112.0, 1 << 24)])
def test_the_right_one_in_numpy(relative, tile_um, at_once, monkeypatch):
    """Bags of 6, 1 and 4 tiles on grids of 112 micrometres; windows two tiles at a time and queries five, or all."""
    monkeypatch.setattr("milkit.models.zhao2022.in_row_blocks", functools.partial(in_row_blocks, at_once=at_once))
    config = SETMIL(tile_um, 8, (3, 5), 8, 2, 2, 4, relative)
    module, rng = config.build(5, 2, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    for layer in module.layers:
        if layer.attention.table is not None:
            layer.attention.table[...] = jnp.asarray(rng.normal(size=layer.attention.table.shape), jnp.float32)
    places = [np.array([[0, 3], [1, 2], [1, 3], [6, 0], [2, 9], [2, 1]]), np.array([[0, 0]])]
    places.append(np.array([[0, 1], [1, 0], [0, 0], [4, 4]]))
    x = [rng.normal(size=(len(p), 5)).astype(np.float32) for p in places]
    # a corner somewhere on the slide; rows are y
    bags = Bags.of(x, [p[:, ::-1].astype(np.float32) * 112 + 1000 for p in places])
    output = nnx.jit(lambda module, bags: module(bags))(module, bags)
    for i, p in enumerate(places):
        logits, attention = InNumpy(module)(x[i].astype(np.float64), p)
        close(output.logits[i], logits)
        close(output.attention[i, : len(p)], attention)


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="SETMIL reads where tiles lie"):
        SETMIL(width=8, windows=(), layers=1, heads=2).build(3, 1, rngs=nnx.Rngs(0))(Bags.of(np.ones((2, 3))))
    for bad, message in (
        ({"windows": (4,)}, "3, 5 or 7"),
        ({"heads": 5}, "a multiple of 4 and of heads=5"),
        ({"branch_heads": 3}, "cannot be shared"),
        ({"compat": "torchmil"}, "set branch to it"),
    ):
        with pytest.raises(ConfigError, match=message):
            SETMIL(**bad)
