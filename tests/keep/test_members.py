"""The trained models of a run say what its predictions say, of the bags that each was tested on."""

from dataclasses import replace

import numpy as np
import pytest

from milkit import api
from milkit.errors import RunFolderError
from milkit.explain import integrated_gradients
from milkit.keep.members import members_of
from milkit.predictions import Predictions


@pytest.fixture(scope="module")
def stated(home):
    return api.replay(home / "run" / "config.json").experiment


def test_each_member_repeats_its_predictions(stated, home):
    written = Predictions.read(home / "run" / "predictions.csv")
    written = written.take((written.role == "test") & (written.selection == "validation"))
    seen = 0
    for member in members_of(stated, home / "run"):
        mine = written.run == member.run
        score = dict(zip(written.bag[mine], written.score[mine, 1], strict=True))
        assert set(score) == {member.study.bag[row] for row in member.test}
        logits = np.asarray(member.module(member.bags(member.test, length=40)).logits, np.float64)[:, 0]
        for row, logit in zip(member.test, logits, strict=True):
            np.testing.assert_allclose(1 / (1 + np.exp(-logit)), score[member.study.bag[row]], rtol=2e-5, atol=1e-7)
        assert not set(member.test) & set(member.train)
        seen += 1
    assert seen == len(set(written.run))


def test_a_member_can_be_explained(stated, home):
    member = next(members_of(stated, home / "run", "last"))
    bags = member.bags(member.test[:2])
    found = np.asarray(integrated_gradients(member.module, bags, steps=4))
    assert found.shape == bags.mask.shape
    assert np.isfinite(found).all()
    assert (found != 0)[np.asarray(bags.mask)].any()


def test_another_experiment_is_refused(stated, home):
    other = replace(stated, protocol=replace(stated.protocol, seed=stated.protocol.seed + 1))
    with pytest.raises(RunFolderError, match="folds_digest"):
        next(members_of(other, home / "run"))
