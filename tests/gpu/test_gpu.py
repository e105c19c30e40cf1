"""On a GPU: nothing is carried over inside an epoch, equal seeds give equal bits, and a CPU gives the same numbers.

Run by `make gpu`, which sets XLA's flag for deterministic operations.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import planted
import pytest

from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.execute.width import SHARE, device_limit, fitted, program_bytes
from milkit.train.engine import train_epoch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="JAX sees no GPU"),
]
TESTS = Path(__file__).resolve().parents[1]
FIRST_EPOCH = """
import sys; sys.path.insert(0, sys.argv[1])
import jax, numpy as np, planted
from milkit.execute.prepare import prepare
jax.config.update("jax_default_matmul_precision", "highest")
prepared = prepare(planted.experiment(width=2))
group = prepared.group(0)
state, log = prepared.engine.epoch(group, prepared.first_state(0, group), 0, None)
leaves = [np.ravel(x) for x in jax.tree.leaves(state.params)]
np.savez(sys.argv[2], params=np.concatenate(leaves), loss=log.train_loss)
"""


def test_an_epoch_runs_without_transfers():
    prepared = prepare(planted.experiment(width=2))
    engine, group = prepared.engine, prepared.group(0)
    static, values = engine._arguments(group, prepared.first_state(0, group), 0, group.active)
    jax.block_until_ready(train_epoch(*static, False, *values))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(train_epoch(*static, False, *values))


def test_equal_seeds_give_equal_bits(tmp_path):
    for name in ("one", "two"):
        execute(planted.experiment(width=2), tmp_path / name)
    assert (tmp_path / "one/predictions.csv").read_bytes() == (tmp_path / "two/predictions.csv").read_bytes()


def test_a_cpu_gives_the_same_epoch(tmp_path):
    found = {}
    for platform in ("cpu", ""):
        file = tmp_path / f"{platform or 'gpu'}.npz"
        env = {**os.environ, **({"JAX_PLATFORMS": platform} if platform else {})}
        subprocess.run([sys.executable, "-c", FIRST_EPOCH, str(TESTS), str(file)], env=env, check=True)
        found[platform] = np.load(file)
    # one epoch is 12 steps; float32 sums differ in their order
    np.testing.assert_allclose(found[""]["params"], found["cpu"]["params"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[""]["loss"], found["cpu"]["loss"], rtol=1e-4)


def test_the_width_is_what_the_card_holds():
    experiment = planted.experiment(width=2)
    experiment = replace(experiment, train=replace(experiment.train, width=None))
    limit = device_limit()
    assert limit is not None
    prepared = fitted(prepare(experiment), limit)
    assert prepared.width == len(prepared.runs)
    assert program_bytes(prepared) <= SHARE * limit
