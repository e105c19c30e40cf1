"""The contract battery of models of images: what each must do, whatever its paper. Needs no test framework.

    from milkit.testing.pixel_battery import check_all
    check_all(MyModel(width=4), out_features=2)

Give a configuration with few channels: what takes time is compiling. Each check takes `(config, out_features)`, builds
the model for three channels, and raises AssertionError with a message that opens with the contract it found broken.
`CHECKS` names them, for a parametrised test. A batch has a target of 0 or 1 for each label.

A config may declare, as class attributes or properties:
    smallest_side (int): pixels of the smallest side of an image; 1 if absent. A smaller canvas is a ConfigError.
    claims (collection of str): empty for a model that learns no label.
    mirrored (bool): whether mirrored pixels with mirrored kernels give the mirrored map; True if absent.
        Also read of a config's `backbone`.
    no_gradient (collection of str): paths of parameters, such as "head/bias", that cannot matter.
    remat (bool, a field): whether features are computed again for the gradient.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit.errors import ConfigError
from milkit.testing.pixel_subject import (
    GARBAGE,
    Learned,
    PixelSubject,
    build_module,
    canvas_of,
    learner,
    pixel_subject,
)
from milkit.testing.subject import again, expect_close, expect_finite
from milkit.types import Images, Output

Check = Callable[[Any, int], None]
SURE = 60.0  # a logit at which float32's sigmoid is exactly 1 and bfloat16 has nothing between
KEY = 7


def maps_of(output: Output) -> dict[str, np.ndarray]:
    """The probability maps of an output by name."""
    return {name: np.asarray(p, np.float64) for name, p in output.extras["maps"].items()}


def said(output: Output, i: int, height: int, width: int) -> dict[str, Any]:
    """What an output says of image i, whose real pixels are `height` x `width`."""
    maps = {f"map {name}": p[i, :height, :width] for name, p in maps_of(output).items()}
    return {"logits": np.asarray(output.logits)[i]} | maps


def check_config(config: Any, out_features: int) -> None:
    """A config is a frozen dataclass, hashable, and survives JSON, also where it holds other dataclasses."""
    contract = "A config is a frozen dataclass of plain values"
    kind: Any = type(config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not kind.__dataclass_params__.frozen:
        raise AssertionError(f"{contract}: {kind.__name__} is not a dataclass(frozen=True).")
    try:
        hash(config)
        back = again(config, json.loads(json.dumps(dataclasses.asdict(config))))
    except TypeError as error:
        raise AssertionError(f"{contract}: {kind.__name__}: {error}.") from error
    if back != config:
        raise AssertionError(f"{contract}: {config} came back from JSON as {back}.")


def check_signature(config: Any, out_features: int) -> None:
    """A module is called as `(images, *, deterministic=True, rngs=None)`: no labels, no masks of truth."""
    contract = "A module is called as (images, *, deterministic=True, rngs=None) and never sees a label"
    module = nnx.eval_shape(lambda: build_module(config, out_features))
    parameters = inspect.signature(module.__call__).parameters
    defaults = {name: p.default for name, p in list(parameters.items())[1:]}
    if list(parameters)[:1] != ["images"] or defaults != {"deterministic": True, "rngs": None}:
        raise AssertionError(f"{contract}: found ({', '.join(map(str, parameters.values()))}).")


def check_shapes(config: Any, out_features: int) -> None:
    """Logits [b, c] and maps [b, h, w, c], "fused" first, for any number of labels; finite."""
    s = pixel_subject(config, out_features)
    height, width = s.smallest, s.smallest + 3
    images = canvas_of([np.zeros((height, width, 3))] * 2, height, width)
    contract = "Outputs have the documented shapes"
    for labels in (out_features, 1, 3):
        try:
            output = jax.eval_shape(lambda images, n=labels: build_module(config, n)(images), images)
        except ConfigError:  # a model may refuse a number of labels, not the one that it is tried with
            if labels == out_features:
                raise
            continue
        maps = output.extras.get("maps", {})
        if next(iter(maps), None) != "fused":
            raise AssertionError(f"{contract}: extras['maps'] has {list(maps)}; expected 'fused' first.")
        found = {"logits": output.logits.shape} | {f"map {name}": p.shape for name, p in maps.items()}
        for name, shape in found.items():
            want = (2, labels) if name == "logits" else (2, height, width, labels)
            if shape != want:
                raise AssertionError(f"{contract}: {name} is {shape}, expected {want}.")
    expect_finite("Outputs are finite", "random images", s.forward(s.state, s.images(s.sizes())))


def check_smallest(config: Any, out_features: int) -> None:
    """An image of the smallest side is taken, one of a pixel less is a ConfigError that says what is needed."""
    s = pixel_subject(config, out_features)
    if s.smallest == 1:
        return  # nothing is smaller; check_alone gives it a line of pixels
    less, enough = s.smallest - 1, s.smallest + 8
    for height, width in ((less, enough), (enough, less)):
        images = canvas_of([np.zeros((height, width, 3))], height, width)
        try:
            jax.eval_shape(lambda images: build_module(config, out_features)(images), images)
        except ConfigError as error:
            if str(s.smallest) in str(error):
                continue
            raise AssertionError(
                f"Too small an image is refused: the error does not say {s.smallest}: {error}"
            ) from error
        raise AssertionError(f"Too small an image is refused: {height} x {width} pixels were taken.")


def check_maps(config: Any, out_features: int) -> None:
    """Maps are probabilities, and exactly 0 on padding whatever stands there."""
    s = pixel_subject(config, out_features)
    images = s.images(s.sizes(), GARBAGE)
    for name, p in maps_of(s.forward(s.state, images)).items():
        if not ((p >= 0) & (p <= 1)).all():
            raise AssertionError(f"Maps are in [0, 1]: {name} goes from {p.min():.6g} to {p.max():.6g}.")
        if (p[~np.asarray(images.mask)] != 0).any():
            raise AssertionError(f"Maps are 0 on padding: {name} is not.")


def check_padding(config: Any, out_features: int) -> None:
    """An image in a larger canvas, beside others, on garbage, gives what it gives alone in a canvas of its own size.

    The image is as narrow as the model takes, odd and not square.
    """
    s = pixel_subject(config, out_features)
    height, width = s.sizes()[0]
    want = said(_alone(s), 0, height, width)
    for fill in (0.0, GARBAGE, 1e6):
        got = said(s.forward(s.state, s.images(s.sizes(), fill)), 0, height, width)
        expect_close("Padding changes nothing", f"an image in a canvas of {fill}", got, want)


def _alone(s: PixelSubject) -> Output:
    height, width = s.sizes()[0]
    images = s.images(s.sizes())
    return s.forward(s.state, Images(images.x[:1, :height, :width], images.mask[:1, :height, :width]))


def check_company(config: Any, out_features: int) -> None:
    """When deterministic, an image does not depend on the others of its batch, nor on fillers; jit traces once."""
    s = pixel_subject(config, out_features)
    sizes = s.sizes()
    before = s.forward(s.state, s.images(sizes))
    traced = s.forward._cache_size()  # type: ignore[attr-defined]
    for where, others in {"beside other images": sizes[::-1], "beside fillers": [(0, 0)] * 3}.items():
        images, own = s.images(others, GARBAGE, seed=1), s.images(sizes)
        x, mask = (np.array(a) for a in (images.x, images.mask))
        x[1], mask[1] = own.x[1], own.mask[1]
        got = s.forward(s.state, Images(jnp.asarray(x), jnp.asarray(mask)))
        want = said(before, 1, *sizes[1])
        expect_close("An image does not depend on its batch", where, said(got, 1, *sizes[1]), want)
    if s.forward._cache_size() != traced:  # type: ignore[attr-defined]
        raise AssertionError("One shape is compiled once: the second call was traced again.")


def check_mirrored(config: Any, out_features: int) -> None:
    """Mirrored pixels with mirrored kernels give the mirrored maps, at a side of 2^k or of 2^k + 1 pixels.

    Padding, pooling and enlarging then stand symmetrically. Not for a model that declares `mirrored = False`.
    """
    if not all(getattr(part, "mirrored", True) for part in (config, getattr(config, "backbone", None))):
        return
    s = pixel_subject(config, out_features)
    sizes = s.sizes()
    images = s.images(sizes)
    before = s.forward(s.state, images)
    for axis, name in enumerate(("upside down", "left to right")):
        x = np.array(images.x)
        for i, (h, w) in enumerate(sizes):
            x[i, :h, :w] = np.flip(x[i, :h, :w], axis)
        got = s.forward(_mirrored(s.state, axis), dataclasses.replace(images, x=jnp.asarray(x)))
        gaps = []
        for i in (1, 2):
            pairs = zip(maps_of(got).values(), maps_of(before).values(), strict=True)
            h, w = sizes[i]
            gaps.append(max(np.abs(np.flip(a[i, :h, :w], axis) - b[i, :h, :w]).max() for a, b in pairs))
        if not min(gaps) < 1e-4:
            raise AssertionError(
                f"Mirrored pixels and kernels give the mirrored map: {name} it differs by {min(gaps):.3g}. "
                "If the model cannot, declare it with mirrored = False."
            )


def _mirrored(state: Any, axis: int) -> Any:
    params, rest = nnx.split_state(state, nnx.Param, ...)
    turned = jax.tree.map(lambda p: jnp.asarray(np.flip(p, axis)) if p.ndim == 4 else p, params)
    return nnx.merge_state(turned, rest)


def _learned(
    s: PixelSubject, images: Images, target: float | None = None, half: bool = False, state: Any = None
) -> Learned:
    """A training step's gradient; labels are alternating, or all `target`; fillers weigh 0."""
    labels = np.indices((len(images.x), s.out_features)).sum(0) % 2 if target is None else target
    labels = np.broadcast_to(np.float32(labels), (len(images.x), s.out_features))
    weight = np.asarray(images.mask).any((1, 2)).astype(np.float32)
    step = s.learn_half if half else s.learn
    state = s.state if state is None else state
    return step(state, images, jnp.asarray(labels), jnp.asarray(weight), jax.random.key(KEY))


def check_loss(config: Any, out_features: int) -> None:
    """The objective gives one finite loss an image, parts likewise, and a label of its own counts."""
    s = pixel_subject(config, out_features)
    contract = "The objective gives one loss an image"
    images = s.images(s.sizes())
    learned = _learned(s, images)
    for name, values in {"the loss": learned.values, **learned.parts}.items():
        if values.shape != (len(images.x),):
            raise AssertionError(f"{contract}: {name} has shape {values.shape}, expected ({len(images.x)},).")
    expect_finite("Losses are finite", "random images", (learned.values, learned.parts))
    if not getattr(config, "claims", True):
        return  # it says that it learns no label
    positive, negative = (np.asarray(_learned(s, images, y).values) for y in (1.0, 0.0))
    if np.array_equal(positive, negative):
        raise AssertionError(f"{contract}: it is the same for images that are all positive and all negative.")


def check_gradients(config: Any, out_features: int) -> None:
    """A training step's gradient is finite and reaches every parameter, save those in `no_gradient`."""
    s = pixel_subject(config, out_features)
    of_parameters, of_pixels = _learned(s, s.images(s.sizes())).gradient
    expect_finite("Gradients are finite", "random images", (of_parameters, of_pixels))
    exempt = set(getattr(config, "no_gradient", ()))
    for path, leaf in nnx.to_flat_state(of_parameters):
        name = "/".join(map(str, path))
        if name not in exempt and not np.asarray(leaf[...]).any():
            raise AssertionError(
                f"Every parameter gets a gradient: {name} has none. "
                "If it cannot matter, remove it or declare it in the config's no_gradient."
            )


def check_rates(config: Any, out_features: int) -> None:
    """`learning_rate_scale` gives every parameter a finite share of the learning rate, at least 0."""
    if not hasattr(config, "learning_rate_scale"):
        return
    for path in _parameters(pixel_subject(config, out_features)):
        share = config.learning_rate_scale(path)
        if not 0 <= share < np.inf:
            raise AssertionError(f"Shares of the learning rate are at least 0: {'/'.join(path)} has {share}.")


def _parameters(s: PixelSubject) -> list[tuple[str, ...]]:
    params, _ = nnx.split_state(s.state, nnx.Param, ...)
    return [tuple(map(str, path)) for path, _ in nnx.to_flat_state(params)]


def check_extremes(config: Any, out_features: int) -> None:
    """Black and white images, and maps of 0 and of 1, have finite losses and gradients."""
    _extremes(pixel_subject(config, out_features), half=False)


def check_half(config: Any, out_features: int) -> None:
    """The same in bfloat16; and its maps are within .1 of float32's on the average."""
    s = pixel_subject(config, out_features)
    images = s.images(s.sizes())
    half, full = (maps_of(_learned(s, images, half=half).output) for half in (True, False))
    for name in full:
        gap = np.abs(half[name] - full[name])[np.asarray(images.mask)].mean()
        if not gap < 0.1:
            raise AssertionError(f"bfloat16 is near float32: the map {name} differs by {gap:.3g} on the average.")
    _extremes(s, half=True)


def _extremes(s: PixelSubject, half: bool) -> None:
    sizes = [(s.side, s.side)] * 3
    plain = [canvas_of([np.full((h, w, 3), v) for h, w in sizes], s.canvas, s.canvas) for v in (-3.0, 0.0, 3.0)]
    cases: list[tuple[str, Images, Any]] = [("an image of one colour", images, s.state) for images in plain]
    random = s.images(sizes)
    cases += [(f"maps that are all {name}", random, _sure(s.state, sign * SURE)) for name, sign in ((0, -1), (1, 1))]
    cases.append(("weights that are far too large", random, _sure(s.state, None)))
    for where, images, state in cases:
        for y in (0.0, 1.0):
            learned = _learned(s, images, y, half, state)
            what = f"{where}, all labels {y:.0f}"
            expect_finite("Extremes have finite losses and gradients", what, _moves(learned))


def _moves(learned: Learned) -> tuple[Any, Any]:
    """What training goes on with: losses, and the gradient of parameters."""
    return learned.values, learned.gradient[0]


def _sure(state: Any, bias: float | None) -> Any:
    """Parameters under which the last layer says `bias` everywhere; with None, ones that are 30 times as large."""
    params, rest = nnx.split_state(state, nnx.Param, ...)
    if bias is None:
        return nnx.merge_state(jax.tree.map(lambda p: jnp.asarray(30 * np.asarray(p)), params), rest)

    def set_to(path: Any, p: Any) -> Any:
        value = bias if "bias" in jax.tree_util.keystr(path) else 0.0
        return jnp.full(p.shape, value, p.dtype)

    return nnx.merge_state(jax.tree_util.tree_map_with_path(set_to, params), rest)


def check_fillers(config: Any, out_features: int) -> None:
    """Fillers, all padding, give finite values and gradients; and in training what padding holds changes nothing."""
    s = pixel_subject(config, out_features)
    sizes = s.sizes()
    contract = "Fillers are finite"
    expect_finite(contract, "fillers only", s.forward(s.state, s.images([(0, 0)] * 3, GARBAGE)))
    expect_finite(contract, "fillers only, in training", _moves(_learned(s, s.images([(0, 0)] * 3, GARBAGE))))
    clean, dirty = (_learned(s, s.images([*sizes[:2], (0, 0)], fill)) for fill in (0.0, GARBAGE))
    expect_finite(contract, "a filler beside images, in training", _moves(dirty))
    for name, pair in {"the loss": (dirty.values[:2], clean.values[:2]), "a gradient": (dirty, clean)}.items():
        leaves = [jax.tree.leaves(t.gradient[0]) if isinstance(t, Learned) else [t] for t in pair]
        for got, want in zip(*leaves, strict=True):
            expect_close("In training padding changes nothing", "two images and a filler", {name: got}, {name: want})


def check_randomness(config: Any, out_features: int) -> None:
    """Training mode draws from the given key and nothing else; nothing is drawn without one."""
    s = pixel_subject(config, out_features)
    images = s.images(s.sizes())
    one, two = (_learned(s, images) for _ in range(2))
    if not np.array_equal(one.output.logits, two.output.logits):
        raise AssertionError("Randomness comes from the given key only: the same key gave two outputs.")


def check_runs(config: Any, out_features: int) -> None:
    """Two runs side by side (a leading axis on all arrays) say what each says alone."""
    s = pixel_subject(config, out_features)
    if not jax.tree.leaves(s.state):
        return  # nothing differs between runs
    height, width = s.sizes()[0]
    images = s.images(s.sizes())
    small = Images(images.x[:1, :height, :width], images.mask[:1, :height, :width])
    states = [s.initial(seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *states)
    together = jax.jit(jax.vmap(s.forward, (0, None)))(stacked, small)
    for r, state in enumerate(states):
        got = said(jax.tree.map(lambda a, r=r: a[r], together), 0, height, width)
        want = said(s.forward(state, small), 0, height, width)
        expect_close("Runs side by side equal each alone", f"run {r}", got, want)


def check_remat(config: Any, out_features: int) -> None:
    """Where a config has `remat`, computing again gives the same loss and gradient."""
    if "remat" not in {f.name for f in dataclasses.fields(config)}:
        return
    s = pixel_subject(config, out_features)
    other = dataclasses.replace(config, remat=not config.remat)
    graph = nnx.split(nnx.eval_shape(lambda: build_module(other, out_features)))[0]
    images = s.images(s.sizes())
    again = dataclasses.replace(s, config=other, graph=graph, learn=learner(other, graph, "float32"))
    got, want = _learned(again, images), _learned(s, images)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        gap, scale = np.abs(np.asarray(a) - np.asarray(b)).max(), 1 + np.abs(np.asarray(b)).max()
        if not gap <= 1e-4 * scale:
            raise AssertionError(f"Computing again changes nothing: a leaf of shape {a.shape} moved by {gap:.3g}.")


def check_precision(config: Any, out_features: int) -> None:
    """Maps of float32 are within 1e-3 of float64's."""
    s = pixel_subject(config, out_features)
    single = maps_of(_alone(s))
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, s.state
        )
        height, width = s.sizes()[0]
        images = s.images(s.sizes())
        x = jnp.asarray(np.asarray(images.x)[:1, :height, :width], jnp.float64)
        double = maps_of(s.forward(wide, Images(x, images.mask[:1, :height, :width])))
    for name in single:
        gap = np.abs(single[name] - double[name]).max()
        if not gap < 1e-3:
            raise AssertionError(f"float32 is near float64: the map {name} differs by {gap:.3g}.")


CHECKS: dict[str, Check] = {
    "config": check_config,
    "signature": check_signature,
    "shapes": check_shapes,
    "smallest": check_smallest,
    "maps": check_maps,
    "padding": check_padding,
    "company": check_company,
    "mirrored": check_mirrored,
    "loss": check_loss,
    "gradients": check_gradients,
    "rates": check_rates,
    "extremes": check_extremes,
    "half": check_half,
    "fillers": check_fillers,
    "randomness": check_randomness,
    "runs": check_runs,
    "remat": check_remat,
    "precision": check_precision,
}
"""All checks by name; each takes (config, out_features)."""


def check_all(config: Any, out_features: int = 2, leave_out: Iterable[str] = ()) -> None:
    """Run every check at full matrix precision and report all that fail.

    Args:
        config: a model's config, with `build(in_channels, out_features, *, rngs)`; few channels.
        out_features: labels.
        leave_out: names of checks that are not run.

    Raises:
        AssertionError: names each broken contract, and any error the model raised on the way.
    """
    broken = []
    with jax.default_matmul_precision("highest"):
        for name, check in CHECKS.items():
            if name in set(leave_out):
                continue
            try:
                check(config, out_features)
            except AssertionError as error:
                broken.append(f"[{name}] {error}")
            except Exception as error:  # a model may fail in any way; the report must still name the check
                broken.append(f"[{name}] {type(error).__name__}: {error}")
    if broken:
        raise AssertionError(f"{config} breaks {len(broken)} of {len(CHECKS)} contracts:\n" + "\n".join(broken))
