"""Chowder against the arrays of its authors' company: scores, extremes, logits, gradients; small bags by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import Fixture, Reference, bags_of, check_gradients, close, load, run

from milkit.errors import ConfigError
from milkit.models.courtiol2018 import Chowder, extreme_scores

FIXTURES = [
    (
        Fixture(
            "chowder",
            Chowder(head=()),
            {"score_model.hidden_layers.0": "scorer/0", "mlp.0": "head/0"},
            mask="!mask",
            skip_columns=3,
        ),
        1,
    ),
    (
        Fixture(
            "chowder_mlp_2out",
            Chowder(top=4, bottom=3, encoder=(16,), head=(12, 6)),
            {
                "score_model.hidden_layers.0": "scorer/0",
                "score_model.hidden_layers.2": "scorer/1",
                "mlp.0.0": "head/0",
                "mlp.1.0": "head/1",
                "mlp.2": "head/2",
            },
            mask="!mask",
            skip_columns=3,
        ),
        2,
    ),
]


@pytest.mark.parametrize(("fixture", "outputs"), FIXTURES, ids=lambda f: getattr(f, "file", ""))
def test_the_companys_arrays(shared, fixture, outputs):
    reference = Reference(shared, fixture.file)
    assert len(reference.cases) == 4
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, outputs)
        for case in reference.cases:
            bags = bags_of(reference, fixture, case)
            assert bags.mask.all() == (case in ("", "2"))
            cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
            output, grad_w, grad_x = run(module, bags, lambda o, c=cotangent: (o.logits * c).sum())
            close(output.logits, reference.get("out", case, "logits"))
            extremes = reference.get("out", case, "extreme").swapaxes(1, 2)
            close(output.embedding.reshape(extremes.shape), extremes)
            scores = reference.get("out", case, "scores")
            close(output.instance_logits, np.where(bags.mask[..., None], scores, 0))
            check_gradients(reference, fixture, case, grad_w, grad_x)


def test_extremes_of_bags_smaller_than_asked_for():
    scores = jnp.asarray([[3.0, -1.0, 9.0], [5.0, 7.0, 6.0]])[..., None]
    mask = jnp.asarray([[True, True, False], [True, True, True]])
    found = extreme_scores(scores, mask, 4, 2)[:, 0]
    np.testing.assert_array_equal(found, [[3, -1, 0, 0, -1, 3], [7, 6, 5, 0, 5, 6]])


def test_no_extremes_are_refused():
    with pytest.raises(ConfigError, match="no score to read"):
        Chowder(top=0, bottom=0)
