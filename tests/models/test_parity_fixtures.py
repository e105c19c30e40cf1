"""Models against arrays that the original PyTorch code produced: outputs and gradients, every case of every file."""

import jax
import numpy as np
import pytest
from flax import nnx
from parity import OUTPUT_TOLERANCE, Fixture, Reference, bags_of, check_case, close, load

from milkit.foreign_weights import ilse2018
from milkit.models import ABMIL, EmbeddingPooling, InstancePooling

FIXTURES = [
    Fixture("abmil", ABMIL(encoder=(), attention=24, gated=False), read=ilse2018.authors),
    Fixture("abmil_gated", ABMIL(encoder=(), attention=24), read=ilse2018.authors),
    Fixture("torchmil_abmil", ABMIL(encoder=(), attention=16, gated=False), mask="mask", read=ilse2018.torchmil),
    Fixture("torchmil_abmil_gated", ABMIL(encoder=(), attention=16), mask="mask", read=ilse2018.torchmil),
    Fixture("millab_abmil", ABMIL(encoder=(24, 24), attention=16), mask="attn_mask", read=ilse2018.mil_lab),
    Fixture(
        "millab_abmil_nogate",
        ABMIL(encoder=(24, 24), attention=16, gated=False),
        mask="attn_mask",
        read=ilse2018.mil_lab,
    ),
    Fixture("meanmil", InstancePooling("mean", encoder=(24,)), {"head.0": "encoder/layers/0", "head.3": "scorer"}),
    Fixture("maxmil", InstancePooling("max", encoder=(24,)), {"head.0": "encoder/layers/0", "head.3": "scorer"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_outputs_and_gradients(shared, fixture):
    reference = Reference(shared, fixture.file)
    assert len(reference.cases) == 3
    out_features = reference.get("out", "", "logits").size  # case 1 is one bag in every file
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, out_features)
        for case in reference.cases:
            check_case(reference, fixture, module, case)


def test_owkin_mean_pool_up_to_its_activation(shared):
    """Owkin's head has a sigmoid where milkit's has a ReLU; the pooling and both layers are the same.

    So the pooled embedding is compared through Owkin's own formula, worked here in float64.
    """
    reference = Reference(shared, "owkin_meanpool")
    pool = EmbeddingPooling("mean", encoder=()).build(32, 2, rngs=nnx.Rngs(0))
    fixture = Fixture("owkin_meanpool", None, {}, mask="!mask", skip_columns=3)
    w = {k: v.astype(np.float64) for k, v in reference.weights.items()}
    for case in reference.cases:
        bags = bags_of(reference, fixture, case)
        if case in ("3", "4"):
            assert not bags.mask.all()
        z = np.asarray(pool(bags).embedding, np.float64)
        hidden = 1 / (1 + np.exp(-(z @ w["mlp.0.0.weight"].T + w["mlp.0.0.bias"])))
        close(hidden @ w["mlp.1.weight"].T + w["mlp.1.bias"], reference.get("out", case, "logits"), OUTPUT_TOLERANCE)
