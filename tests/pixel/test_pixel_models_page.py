"""The code in docs/pixel_models.md runs, and its tables name every model, every check and every augmentation."""

import dataclasses
import re
from typing import get_args

import jax
import pytest

from milkit.pixel import PixelModel
from milkit.testing.pixel_battery import CHECKS
from milkit.train.config import Augment


@pytest.fixture
def page(root):
    return (root / "docs" / "pixel_models.md").read_text()


@pytest.fixture
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("quick_compilation")
def test_the_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/pixel_models.md", "exec"), {"__name__": "docs_pixel_models"})


def test_every_model_check_and_augmentation_is_in_a_table(page):
    rows = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert rows == {kind.__name__ for kind in get_args(PixelModel)} | set(CHECKS) | {
        field.name for field in dataclasses.fields(Augment)
    }
