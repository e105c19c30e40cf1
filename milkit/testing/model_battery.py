"""The contract battery: what every model must do, whatever its paper. Needs no test framework.

    from milkit.testing import model_battery
    model_battery(MyModel(width=64), in_features=12, out_features=1)

(`milkit.testing` hands on `check_all` of this file under that name.)

Each check takes `(config, in_features, out_features)`, builds the model, and raises AssertionError with a
message that opens with the contract it found broken. `CHECKS` names them, for a parametrised test.

A config may declare, as class attributes or properties:
    position_aware (bool): the order or position of instances may matter; False if absent.
    min_instances (int): no bag smaller than this is given; 1 if absent.
    takes_covariates (bool): it reads what the table says of a bag, and `build` is told how many numbers that are
        (`covariates=v`); False if absent.
    no_gradient (collection of str): paths of parameters, such as "pool/score/bias", that cannot matter.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from milkit.testing import pixel_battery
from milkit.testing.subject import (
    GARBAGE,
    Subject,
    again,
    alone,
    bag_losses,
    batch_of,
    expect_close,
    expect_finite,
    instances_of,
    reordered,
    subject,
    takes_covariates,
    with_padding,
)
from milkit.types import Bags, Output

Check = Callable[[Any, int, int], None]
LONG = 150
"""Instances of a bag that a model may divide: two and more for each of 8 x 8 regions."""


def _each(mask: jax.Array) -> Iterable[tuple[int, np.ndarray]]:
    """Each bag's number and the rows of its real instances."""
    return ((i, np.flatnonzero(row)) for i, row in enumerate(np.asarray(mask)))


def check_config(config: Any, in_features: int, out_features: int) -> None:
    """A config is a frozen dataclass, hashable, and survives JSON field by field."""
    contract = "A config is a frozen dataclass of plain values"
    kind = type(config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not kind.__dataclass_params__.frozen:
        raise AssertionError(f"{contract}: {kind.__name__} is not a dataclass(frozen=True).")
    try:
        hash(config)
        back = again(config, json.loads(json.dumps(dataclasses.asdict(config))))
    except TypeError as error:
        raise AssertionError(f"{contract}: {kind.__name__}: {error}.") from error
    if back != config:
        raise AssertionError(f"{contract}: {config} came back from JSON as {back}.")


def check_signature(config: Any, in_features: int, out_features: int) -> None:
    """A module is called as `(bags, *, deterministic=True, rngs=None)`: no labels, no other flags."""
    contract = "A module is called as (bags, *, deterministic=True, rngs=None) and never sees a label"
    parameters = inspect.signature(subject(config, in_features, out_features).module().__call__).parameters
    defaults = {name: p.default for name, p in list(parameters.items())[1:]}
    if list(parameters)[:1] != ["bags"] or defaults != {"deterministic": True, "rngs": None}:
        raise AssertionError(f"{contract}: found ({', '.join(map(str, parameters.values()))}).")


def check_shapes(config: Any, in_features: int, out_features: int) -> None:
    """One `Output` with logits [b, c], attention [b, n, k], instance logits [b, n, c], embedding [b, e], all finite."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    output = s.forward(s.state, bags)
    b, n = bags.mask.shape
    shapes = {
        "logits": (b, out_features),
        "attention": (b, n, -1),
        "instance_logits": (b, n, out_features),
        "embedding": (b, -1),
    }
    for name, want in shapes.items():
        value = getattr(output, name)
        if value is None and name != "logits":
            continue
        fits = value.ndim == len(want) and all(w in (-1, g) for w, g in zip(want, value.shape, strict=True))
        if not fits:
            contract = "Outputs have the documented shapes"
            raise AssertionError(f"{contract}: {name} is {value.shape}, expected {want} (-1 is any).")
    expect_finite("Outputs are finite", "random bags", output)


def check_padding(config: Any, in_features: int, out_features: int) -> None:
    """Padding changes nothing: neither its length nor what it holds; the mask decides."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    plain = s.forward(s.state, bags)
    for fill, extra in ((0.0, 4), (GARBAGE, 0), (GARBAGE, 4)):
        padded = s.forward(s.state, with_padding(bags, extra, fill))
        for i, rows in _each(bags.mask):
            where = f"bag {i} with {extra} more rows of padding that hold {fill}"
            want = instances_of(plain, i, rows)
            expect_close("Padding changes nothing", where, instances_of(padded, i, rows), want)


def check_one_by_one(config: Any, in_features: int, out_features: int) -> None:
    """A batch equals its bags one by one, each at its own length without any padding."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    together = s.forward(s.state, bags)
    for i, rows in _each(bags.mask):
        by_itself = s.forward(s.state, alone(bags, i, rows))
        got, want = instances_of(together, i, rows), instances_of(by_itself, 0, np.arange(len(rows)))
        expect_close("A batch equals its bags one by one", f"bag {i}", got, want)


def check_permutation(config: Any, in_features: int, out_features: int) -> None:
    """Permuting a bag's instances permutes what is said of them and leaves the bag's logits and embedding.

    Instances move with their coordinates. For a position-aware model there is nothing to check.
    """
    if getattr(config, "position_aware", False):
        return
    s = subject(config, in_features, out_features)
    bags = s.bags()
    b, n = bags.mask.shape
    order = np.stack([np.random.default_rng(i).permutation(n) for i in range(b)])
    before, after = s.forward(s.state, bags), s.forward(s.state, reordered(bags, order))
    for i, rows in _each(bags.mask):
        places = np.argsort(order[i])[rows]  # where each real instance went; padding is now in between
        got, want = instances_of(after, i, places), instances_of(before, i, rows)
        expect_close("The order of instances does not matter", f"bag {i}, shuffled", got, want)


def check_attention(config: Any, in_features: int, out_features: int) -> None:
    """Attention is at least 0, each head's sums to 1 over real instances, and it is exactly 0 on padding."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    attention = s.forward(s.state, with_padding(bags, 4, GARBAGE)).attention
    if attention is None:
        return
    contract = "Attention sums to 1 over real instances and is 0 on padding"
    for i, rows in _each(bags.mask):
        weights = np.asarray(attention[i])
        on_padding = np.delete(weights, rows, 0)
        if (on_padding != 0).any():
            raise AssertionError(f"{contract}: bag {i} has {abs(on_padding).max():.3g} on padding.")
        if (weights < 0).any() or not np.allclose(weights[rows].sum(0), 1, atol=1e-5):
            raise AssertionError(f"{contract}: the heads of bag {i} sum to {weights[rows].sum(0)}.")


def check_small_and_empty(config: Any, in_features: int, out_features: int) -> None:
    """The smallest bag, and fillers that are all padding, give finite values and finite gradients."""
    s = subject(config, in_features, out_features)
    contract = "One-instance bags and bags that are all padding are finite"
    expect_finite(contract, "the smallest bag alone", s.forward(s.state, s.bags(lengths=(1,))))
    some = s.bags(lengths=(1, 4))
    filler = dataclasses.replace(some, mask=some.mask & jnp.asarray([[False], [True]]))
    fillers = dataclasses.replace(some, mask=some.mask & jnp.asarray([[False], [False]]))
    cases = {
        "the smallest bag beside another": with_padding(some, 0, 0.0),
        "a filler beside a bag": with_padding(filler, 0, 0.0),
        "a filler beside a bag, padding not zeroed": with_padding(filler, 0, GARBAGE),
        "fillers only": with_padding(fillers, 0, 0.0),
        "fillers only, padding not zeroed": with_padding(fillers, 0, GARBAGE),
    }
    params, rest = _parameters(s)
    gradient = jax.jit(jax.grad(lambda params, x, bags: _sum(s, params, rest, dataclasses.replace(bags, x=x)), (0, 1)))
    for where, bags in cases.items():
        expect_finite(contract, where, s.forward(s.state, bags))
        expect_finite(contract + ", and so are their gradients", where, gradient(params, bags.x, bags))


def _parameters(s: Subject) -> tuple[Any, Any]:
    """The trained arrays and all others."""
    params, rest = nnx.split_state(s.state, nnx.Param, ...)
    return params, rest


def _sum(s: Subject, params: Any, rest: Any, bags: Bags) -> jax.Array:
    """Sum of everything the model says, weighted unevenly so that sums to 1 do not cancel."""
    output = s.forward(nnx.merge_state(params, rest), bags)
    floats = [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(((v * jnp.cos(jnp.arange(v.size, dtype=v.dtype).reshape(v.shape))).sum() for v in floats), jnp.zeros(()))


def check_jit(config: Any, in_features: int, out_features: int) -> None:
    """The compiled module gives what the plain call gives."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    eager, compiled = s.module()(bags), s.forward(s.state, bags)
    for i, rows in _each(bags.mask):
        expect_close("jit equals eager", f"bag {i}", instances_of(compiled, i, rows), instances_of(eager, i, rows))


def check_vmap(config: Any, in_features: int, out_features: int) -> None:
    """Several runs side by side (a leading axis on all arrays) give what each gives alone, in training mode too."""
    s = subject(config, in_features, out_features)
    bags, keys = s.bags(), jax.random.split(jax.random.key(0), 3)
    states = [s.initial(jax.random.key(seed)) for seed in (1, 2, 3)]
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *states)
    both = (
        ("deterministic", lambda state, key: s.forward(state, bags)),
        ("training", lambda state, key: s.train_forward(state, bags, key)),
    )
    for mode, call in both:
        together = np.asarray(jax.jit(jax.vmap(call))(stacked, keys).logits)
        for r, state in enumerate(states):
            alone = {"logits": call(state, keys[r]).logits}
            expect_close("vmap over runs equals one by one", f"run {r} ({mode})", {"logits": together[r]}, alone)


def check_bfloat16(config: Any, in_features: int, out_features: int) -> None:
    """In bfloat16 (parameters and features) the logits stay within 5 % of their scale in float32."""
    s = subject(config, in_features, out_features)
    bags = s.bags()

    def halve(tree: Any) -> Any:
        return jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a).astype(jnp.bfloat16)) if a.dtype == jnp.float32 else a, tree
        )

    want = np.asarray(s.forward(s.state, bags).logits)
    got = np.asarray(s.forward(halve(s.state), dataclasses.replace(bags, x=halve(bags.x))).logits, np.float32)
    gap, scale = np.abs(got - want).max(), 1 + np.abs(want).max()
    if not gap <= 0.05 * scale:
        contract = "bfloat16 stays within tolerance"
        raise AssertionError(f"{contract}: logits moved by {gap:.3g}, allowed {0.05 * scale:.3g}.")


def check_gradients(config: Any, in_features: int, out_features: int) -> None:
    """Every parameter gets a gradient from the training loss, when evaluating and in training mode.

    All parameters are moved a little first, so that gates which start at zero are open.
    """
    s = subject(config, in_features, out_features)
    params, rest = _parameters(s)
    key, noise = jax.random.key(1), np.random.default_rng(1)
    moved = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.05 * noise.normal(size=p.shape), p.dtype), params)

    def loss(params: Any, bags: Bags, training: bool) -> jax.Array:
        state = nnx.merge_state(params, rest)
        output = s.train_forward(state, bags, key) if training else s.forward(state, bags)
        return bag_losses(config, output, batch_of(bags, out_features)).sum()

    gradient_of = jax.jit(jax.grad(loss), static_argnums=2)
    exempt = set(getattr(config, "no_gradient", ()))
    for training in (False, True):
        mode = "in training mode" if training else "when deterministic"
        lacking: set[str] = set()
        # longer bags only where short ones leave something out: regions of a bag need more than one instance each
        for lengths in ((6, 2, 5, 4, 6, 3), (LONG, LONG // 2)):
            gradient = gradient_of(moved, s.bags(lengths=lengths), training)
            expect_finite("Gradients are finite", mode, gradient)
            none = {
                name for path, leaf in nnx.to_flat_state(gradient)
                if (name := "/".join(map(str, path))) not in exempt and not np.asarray(leaf[...], np.float32).any()
            }  # fmt: skip
            lacking = none if len(lengths) > 2 else lacking & none
            if not lacking:
                break
        if lacking:
            raise AssertionError(
                f"Every parameter gets a gradient: {min(lacking)} has none {mode}. "
                "If it cannot matter, remove it or declare it in the config's no_gradient."
            )


def check_randomness(config: Any, in_features: int, out_features: int) -> None:
    """Training mode draws from the given key and from nothing else; deterministic mode draws nothing."""
    s = subject(config, in_features, out_features)
    bags = s.bags()
    contract = "Randomness comes from the given key only"
    one, other = jax.random.key(1), jax.random.key(2)

    def call(key: Any, deterministic: bool) -> Output:
        return s.module()(bags, deterministic=deterministic, rngs=nnx.Rngs(key))

    calls = {
        "the same key twice in training mode": (call(one, False), call(one, False)),
        "two keys when deterministic": (call(one, True), call(other, True)),
        "a key and none when deterministic": (call(one, True), s.module()(bags)),
    }
    for what, (a, b) in calls.items():
        if not np.array_equal(a.logits, b.logits):
            raise AssertionError(f"{contract}: {what} gave different logits.")
    normalises = any(isinstance(v, nnx.BatchStat) for _, v in nnx.to_flat_state(s.state))
    trained = np.asarray(call(one, False).logits)
    draws = not normalises and not np.allclose(trained, call(one, True).logits, atol=1e-4)
    if draws and np.array_equal(trained, call(other, False).logits):
        raise AssertionError(f"{contract}: training mode draws, but two keys gave the same logits.")


def check_fits(config: Any, in_features: int, out_features: int) -> None:
    """300 steps of Adam (learning rate .01) fit 8 bags in which one planted instance gives the class away.

    Deterministic, so that this is about capacity and the way of the gradient; `check_gradients` covers
    training mode.
    """
    s = subject(config, in_features, out_features)
    bags = s.bags(lengths=(4, 5, 4, 5, 5, 4, 5, 4))
    batch = batch_of(bags, out_features)
    signs = np.random.default_rng(7).choice([-2.0, 2.0], size=(max(out_features, 2), in_features))
    signs[0] *= out_features > 1  # of two classes with one logit, the negative has nothing planted
    x = np.array(bags.x)
    x[:, 0] += signs[np.asarray(batch.target)]
    bags = dataclasses.replace(bags, x=jnp.asarray(x))
    optimizer, (params, rest) = optax.adam(1e-2), _parameters(s)

    def losses(params: Any) -> jax.Array:
        return bag_losses(config, s.forward(nnx.merge_state(params, rest), bags), batch)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, opt = carry
        updates, opt = optimizer.update(jax.grad(lambda p: losses(p).mean())(params), opt)
        return (optax.apply_updates(params, updates), opt), None

    @jax.jit
    def fit(params: Any) -> jax.Array:
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 300)
        return s.forward(nnx.merge_state(params, rest), bags).logits

    logits = np.asarray(fit(params))
    said = (logits[:, 0] > 0).astype(int) if out_features == 1 else logits.argmax(1)
    wrong = int((said != np.asarray(batch.target)).sum())
    if wrong or not np.isfinite(logits).all():
        raise AssertionError(f"A model fits 8 easy bags: {wrong} of 8 are wrong after 300 steps.")


def check_covariates(config: Any, in_features: int, out_features: int) -> None:
    """What the table says of a bag changes that bag's logits, each number of it, and no other bag's.

    All parameters are moved a little first, so that gates which start at zero are open. For a model that takes no
    covariates there is nothing to check.
    """
    if not takes_covariates(config):
        return
    s = subject(config, in_features, out_features)
    bags, noise = s.bags(), np.random.default_rng(1)
    state = jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) + 0.05 * noise.normal(size=p.shape), p.dtype)
        if jnp.issubdtype(p.dtype, jnp.floating) else p,
        s.state,
    )  # fmt: skip
    before, contract = np.asarray(s.forward(state, bags).logits), "Covariates are read"
    given = np.asarray(bags.covariates)
    for j in range(given.shape[1]):
        own = other = 0.0
        for step in (2.0, -2.0, 6.0, -6.0):  # far enough to wake a ReLU in one direction
            changed = given.copy()
            changed[1, j] += step
            moved = dataclasses.replace(bags, covariates=jnp.asarray(changed))
            gap = np.abs(np.asarray(s.forward(state, moved).logits) - before).max(1)
            own, other = max(own, gap[1]), max(other, gap[[0, 2]].max())
        if not own > 1e-6:
            raise AssertionError(f"{contract}: changing number {j} of bag 1 leaves its logits as they were.")
        if not other <= 1e-6:
            raise AssertionError(f"{contract}: changing number {j} of bag 1 changes other bags by {other:.3g}.")


CHECKS: dict[str, Check] = {
    "config": check_config,
    "signature": check_signature,
    "shapes": check_shapes,
    "padding": check_padding,
    "one_by_one": check_one_by_one,
    "permutation": check_permutation,
    "attention": check_attention,
    "small_and_empty": check_small_and_empty,
    "jit": check_jit,
    "vmap": check_vmap,
    "bfloat16": check_bfloat16,
    "gradients": check_gradients,
    "randomness": check_randomness,
    "fits": check_fits,
    "covariates": check_covariates,
}
"""All checks by name; each takes (config, in_features, out_features)."""


def check_all(config: Any, in_features: int = 12, out_features: int = 1) -> None:
    """Run every check at full matrix precision and report all that fail.

    A model of images, which has `smallest_side`, is held to the contracts of `milkit.testing.pixel_battery` instead.

    Args:
        config: a model's config, with `build(in_features, out_features, *, rngs)`.
        in_features: features an instance.
        out_features: logits.

    Raises:
        AssertionError: names each broken contract, and any error the model raised on the way.
    """
    if hasattr(config, "smallest_side"):
        pixel_battery.check_all(config, out_features)
        return
    broken = []
    with jax.default_matmul_precision("highest"):
        for name, check in CHECKS.items():
            try:
                check(config, in_features, out_features)
            except AssertionError as error:
                broken.append(f"[{name}] {error}")
            except Exception as error:  # a model may fail in any way; the report must still name the check
                broken.append(f"[{name}] {type(error).__name__}: {error}")
    if broken:
        raise AssertionError(f"{config} breaks {len(broken)} of {len(CHECKS)} contracts:\n" + "\n".join(broken))
