"""Every model of images obeys the contract battery, with few channels; the battery catches models that are wrong."""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from milkit.config import from_json, to_json
from milkit.errors import ConfigError
from milkit.experiment import allowed_types
from milkit.nn.images import Conv, masked
from milkit.pixel import (
    CAM,
    CAMEL,
    CDWSMIL,
    DCGN,
    DWSMIL,
    SAMIL,
    Baseline,
    Everything,
    FCN8s,
    PixelModel,
    PSPNet,
    ResNet,
    SegNet,
    StainThreshold,
    SwinMIL,
    UNet,
)
from milkit.testing import model_battery as battery_of_any
from milkit.testing.pixel_battery import CHECKS, check_all
from milkit.types import Images, Output

WIDTH, NARROW = (2, 4, 4), (2, 2, 2, 2, 2)
TRUNK = ResNet(18, width=2, stages=1)
COSTLY = ("extremes", "half", "runs", "remat", "precision")  # each compiles the network once more, or its gradient
PRESETS = {
    "SAMIL": (SAMIL(width=WIDTH), 2, ()),
    "Baseline": (Baseline(width=WIDTH), 2, COSTLY),  # the network of SAMIL
    "DWSMIL": (DWSMIL(width=WIDTH), 2, COSTLY),
    "CDWSMIL": (CDWSMIL(width=WIDTH), 2, COSTLY[1:]),  # an objective of its own
    "SwinMIL": (SwinMIL(channels=4, depths=(1, 1, 1), heads=(1, 1, 1), window=2), 2, ()),
    "UNet": (UNet(width=(2, 4)), 2, ("runs",)),
    "FCN8s": (FCN8s(width=NARROW, hidden=8, dropout=0.1), 2, COSTLY[1:]),
    "SegNet": (SegNet(width=NARROW), 2, COSTLY[1:]),
    "PSPNet": (PSPNet(backbone=TRUNK, bins=(1, 2), hidden=2), 2, COSTLY[1:]),
    "CAM": (CAM(backbone=TRUNK), 2, ()),
    "CAMEL": (CAMEL(backbone=TRUNK, lattice=2), 2, ("half", "runs")),
    "DCGN": (DCGN(network=UNet(width=(2, 4))), 1, COSTLY[1:]),
    "StainThreshold": (StainThreshold(sigma_px=2.0), 1, ()),
    "Everything": (Everything(), 1, ()),
}


@pytest.fixture
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# One of each kind; the others are as much work again and again.
QUICK = ("DWSMIL", "UNet", "CAM", "StainThreshold", "Everything")


def test_every_model_has_a_preset():
    assert {type(config) for config, _, _ in PRESETS.values()} == set(get_args(PixelModel))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PRESETS])
def test_every_model_obeys_every_contract(name):
    config, labels, elsewhere = PRESETS[name]
    check_all(config, labels, elsewhere)


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_its_file(name):
    assert from_json(to_json(PRESETS[name][0]), allowed_types()) == PRESETS[name][0]


@dataclass(frozen=True)
class Toy:
    """A researcher's own model of images: a convolution, and the mean of its map; `fault` breaks it in one way."""

    smallest_side: ClassVar[int] = 4

    fault: str = ""
    width: Any = 2

    def build(self, in_channels, out_features, *, rngs):
        return (ToyWithLabels if self.fault == "sees labels" else ToyModule)(self, in_channels, out_features, rngs)

    def objective(self, output, batch, bag_loss):
        loss = bag_loss(output.logits)
        return (loss.mean() if self.fault == "one loss a batch" else loss), {}

    def learning_rate_scale(self, path):
        return -1.0 if self.fault == "negative rate" else 1.0


class ToyModule(nnx.Module):
    def __init__(self, config, in_channels, out_features, rngs):
        self.fault, self.smallest = config.fault, config.smallest_side
        self.first = Conv(in_channels, config.width, rngs=rngs)
        self.last = Conv(config.width, out_features, 1, rngs=rngs)
        self.unused = Conv(2, 2, 1, rngs=rngs) if config.fault == "unused parameter" else None

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        x, mask, fault = images.x, images.mask, self.fault
        if min(mask.shape[1:]) < self.smallest and fault != "takes any size":
            raise ConfigError(f"The model needs at least {self.smallest} pixels a side.")
        if fault == "reads padding":
            mask = jnp.ones_like(mask)
        if fault == "images of a batch meet":
            x = x - masked(x, mask).sum((0, 1, 2)) / jnp.maximum(mask.sum(), 1)
        if fault == "leans to one side":
            x = x + 0.3 * jnp.roll(x, 1, axis=2)
        h = jnp.tanh(self.first(x, mask))
        z = self.last(h, mask)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        p = jax.nn.sigmoid(z)
        p = p if fault == "says something on padding" else masked(p, images.mask)
        p = 2 * p if fault == "not probabilities" else p
        count = mask.sum((1, 2))[:, None]
        count = count if fault == "NaN on fillers" else jnp.maximum(count, 1)
        logits = masked(z, mask).sum((1, 2)) / count
        if fault == "logarithm of 0":
            mean = p.sum((1, 2)) / count
            logits = jnp.log(mean) - jnp.log1p(-mean)
        return Output(logits, extras={"maps": {"side" if fault == "no fused map" else "fused": p}})


class ToyWithLabels(ToyModule):
    def __call__(self, images: Images, target: Any = None, *, deterministic: bool = True, rngs: Any = None) -> Output:
        return super().__call__(images, deterministic=deterministic, rngs=rngs)


FAULTS = {
    "sees labels": "signature",
    "no fused map": "shapes",
    "takes any size": "smallest",
    "not probabilities": "maps",
    "says something on padding": "maps",
    "reads padding": "padding",
    "images of a batch meet": "company",
    "leans to one side": "mirrored",
    "one loss a batch": "loss",
    "unused parameter": "gradients",
    "negative rate": "rates",
    "logarithm of 0": "extremes",
    "NaN on fillers": "fillers",
}


@pytest.mark.usefixtures("quick_compilation")
def test_a_sound_model_of_ones_own_passes_by_either_door():
    battery_of_any(Toy())


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault):
    with pytest.raises(AssertionError):
        CHECKS[FAULTS[fault]](Toy(fault), 2)


def test_a_list_is_no_plain_value():
    with pytest.raises(AssertionError, match="frozen dataclass"):
        CHECKS["config"](Toy(width=[2]), 2)


def test_every_broken_contract_is_named():
    with pytest.raises(AssertionError, match=r"breaks 1 of \d+ contracts:\n\[signature\]"):
        check_all(Toy("sees labels"), leave_out=set(CHECKS) - {"config", "signature", "rates"})
