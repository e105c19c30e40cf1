"""The floors that learn nothing: the stain by hand, Otsu by trying every threshold, and a study."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from milkit import Binary, Experiment, GivenFolds, ImageCohort, Train, api
from milkit.errors import ConfigError
from milkit.nn.stains import HED, IMAGENET_MEAN, IMAGENET_SD, haematoxylin, rgb_of
from milkit.pixel import Everything, StainThreshold
from milkit.pixel.stain_threshold import averaged, otsu
from milkit.types import Images


@pytest.fixture(autouse=True)
def quick_compilation():
    """These networks take longer to compile than to run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def shown(*rgb, height, width, fill=0.0):
    """Images [h, w, 3] of 0 to 255 as the engine shows them, in a canvas with `fill` on its padding."""
    x = np.full((len(rgb), height, width, 3), fill, np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, image in enumerate(rgb):
        h, w = image.shape[:2]
        x[i, :h, :w], mask[i, :h, :w] = (image / 255 - IMAGENET_MEAN) / IMAGENET_SD, True
    return Images(jnp.asarray(x), jnp.asarray(mask))


def test_haematoxylin_by_hand():
    """Pixels mixed of the three stains, of white and of nothing: their amounts come back."""
    amounts = np.array([[0, 0, 0], [0.7, 0, 0], [0, 0.9, 0], [0.4, 0.3, 0.2]])
    stains = HED / np.linalg.norm(HED, axis=1, keepdims=True)
    rgb = 256 * np.exp(-amounts @ stains) - 1
    images = shown(rgb[None], height=1, width=4)
    got = jax.jit(lambda x: (rgb_of(x), haematoxylin(rgb_of(x))))(images.x)
    np.testing.assert_allclose(got[0][0, 0], rgb, atol=1e-3)
    np.testing.assert_allclose(got[1][0, 0], amounts[:, 0], atol=1e-4)


def best_by_trying(values, bins):
    """The edge between levels that Otsu's criterion likes best, each tried in float64 on the values' levels."""
    low, width = values.min(), (values.max() - values.min()) / bins
    level = np.minimum(((values - low) / width).astype(int), bins - 1)
    apart = [-1.0]
    for edge in range(1, bins):
        a, b = level[level < edge], level[level >= edge]
        apart.append(len(a) * len(b) * (a.mean() - b.mean()) ** 2 if len(a) and len(b) else -1.0)
    return low + width * int(np.argmax(apart)), np.array(apart)


def test_otsu_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    first = np.where(rng.random((20, 30)) < 0.3, rng.normal(2, 0.3, (20, 30)), rng.normal(0, 0.5, (20, 30)))
    second = rng.gamma(2.0, 1.0, (12, 17))
    x = np.full((4, 20, 30), 1e6, np.float32)
    mask = np.zeros(x.shape, bool)
    x[0], mask[0] = first, True
    x[1, :12, :17], mask[1, :12, :17] = second, True
    x[2, :12, :17], mask[2, :12, :17] = 0.25, True  # one value; the last image is a filler
    got = np.asarray(jax.jit(otsu, static_argnums=2)(x, mask, 64))
    np.testing.assert_allclose(
        got[:2], [best_by_trying(v.astype(np.float32), 64)[0] for v in (first, second)], rtol=1e-5
    )
    assert got[2:].tolist() == [0.25, 0]
    assert 0.5 < got[0] < 1.8


def test_otsu_is_that_of_scikit_image():
    """To a level: its threshold is the centre of the last level of the lower class, ours that level's upper edge."""
    filters = pytest.importorskip("skimage.filters")
    x = np.random.default_rng(1).gamma(2.0, 1.0, (40, 30)).astype(np.float32)
    got = float(jax.jit(otsu)(x[None], np.ones((1, 40, 30), bool))[0])
    assert got == pytest.approx(filters.threshold_otsu(x) + np.ptp(x) / 512, abs=1e-3 * np.ptp(x))


def test_average_by_hand():
    """Three pixels in a row, SD 1: weights exp(-1/2) and exp(-2), over the real pixels alone."""
    a, b = np.exp(-0.5), np.exp(-2)
    x = jnp.asarray([[[1.0, 0, 0, 99]]])
    got = jax.jit(averaged, static_argnums=2)(x, jnp.asarray([[[True, True, True, False]]]), 1.0)
    np.testing.assert_allclose(got[0, 0], [1 / (1 + a + b), a / (1 + 2 * a), b / (1 + a + b), 0], rtol=1e-6)
    np.testing.assert_array_equal(averaged(x, jnp.ones((1, 1, 4), bool), 0.0), x)


def parts_of(model, out=1):
    return nnx.split(model.build(3, out, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("threshold", ["otsu", 0.3])
def test_padding_and_company_change_nothing(threshold):
    graph, state = parts_of(StainThreshold(sigma_px=1.5, threshold=threshold))
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (9, 7, 3)), rng.integers(0, 256, (11, 8, 3))
    run = jax.jit(lambda images: nnx.merge(graph, state)(images))
    alone = run(shown(first, height=9, width=7))
    both = shown(first, second, second, height=11, width=12, fill=1e4)
    both = replace(both, mask=both.mask.at[2].set(False))
    output = run(both)
    p = np.asarray(output.extras["maps"]["fused"])
    np.testing.assert_allclose(p[:1, :9, :7], alone.extras["maps"]["fused"], atol=1e-5)
    np.testing.assert_allclose(output.logits[0], alone.logits[0], atol=1e-4)
    assert (p[~np.asarray(both.mask)] == 0).all()
    assert np.isfinite(output.logits).all()
    # 1/2 is where the averaged density reaches the threshold
    density = averaged(haematoxylin(rgb_of(both.x)), both.mask, 1.5)
    real = np.asarray(both.mask)[:2]
    above = np.asarray(density)[:2] >= np.asarray(output.extras["threshold"])[:2, None, None]
    np.testing.assert_array_equal((p[:2, ..., 0] >= 0.5)[real], above[real])
    assert 0 < above[real].mean() < 1


def test_everything_is_one_on_real_pixels():
    graph, state = parts_of(Everything(), 2)
    images = shown(np.zeros((2, 3, 3)), height=4, width=3)
    output = jax.jit(lambda images: nnx.merge(graph, state)(images))(images)
    np.testing.assert_array_equal(output.extras["maps"]["fused"][..., 1], images.mask)
    assert (np.asarray(output.logits) > 80).all()
    assert np.isfinite(output.logits).all()


@pytest.mark.parametrize("change", [{"sigma_px": -1.0}, {"r": 0.0}])
def test_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        StainThreshold(**change)
    with pytest.raises(ConfigError, match="cannot tell 2 labels apart"):
        StainThreshold().build(3, 2, rngs=nnx.Rngs(0))


def test_floors_run_in_an_ordinary_study(tmp_path):
    """Without a parameter: train, predict, report. Purple squares are found; everything has the Dice of prevalence."""
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    rows = ["image,patient_id,label,split"]
    for i in range(6):
        truth = np.zeros((12, 12), bool)
        truth[2:8, i : i + 6] = True
        x = np.where(truth[..., None], (90, 40, 140), (235, 170, 200)) + rng.normal(0, 5, (12, 12, 3))
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "masks" / f"{i}.png")
        rows.append(f"{i}.png,p{i},{i % 2},{'train' if i < 2 else 'test'}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    found = {}
    for model in (StainThreshold(sigma_px=0.0), Everything()):
        experiment = Experiment(
            data=ImageCohort(str(tmp_path / "table.csv"), masks=str(tmp_path / "masks")),
            task=Binary(),
            protocol=GivenFolds(validation=0.0, allow_single_class=True),
            model=model,
            train=Train(epochs=1, select="last"),
            unit="slide",
            name="floor",
        )
        out = tmp_path / type(model).__name__
        api.run(experiment, out=out)
        metrics = json.loads((out / "results.json").read_text())["segmentation"]["metrics"]
        found[type(model).__name__] = metrics["dice"]["value"]
    assert found["StainThreshold"] == 1
    assert found["Everything"] == pytest.approx(2 * 36 / (36 + 144))


def test_the_page_on_floors_works_as_it_stands(root):
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "floors.md").read_text(), re.S | re.M):
        exec(compile(snippet, "docs/floors.md", "exec"), names)
    assert names["dcgn"].train.select == names["stain"].train.select == "last"
    # the diagonal is the first component in one image; in the other it is the second, exactly
    assert names["oracle_component"](names["shares"], names["truths"]).tolist() == [0, 1]
