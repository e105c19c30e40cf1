"""An experiment on digit bags trains, from pixels."""

import pytest

from milkit import ABMIL, Adam, Experiment, GivenFolds, Train
from milkit.data.datasets import MnistBags
from milkit.execute.run import execute
from milkit.predictions import Predictions


@pytest.mark.slow
def test_attention_over_flattened_pixels_learns_to_find_a_nine(small_mnist, tmp_path):
    """In the small file the digit is the brightness, so a few epochs are enough; chance is an AUROC of 0.5."""
    study = Experiment(
        # bags of one length: one program to compile
        data=MnistBags(train_bags=150, validation_bags=20, test_bags=60, mean_length=5.0, std_length=0.0, verify=False),
        protocol=GivenFolds(),
        model=ABMIL(encoder=(64,), attention=16),
        train=Train(Adam(1e-3), epochs=15),
    )
    execute(study, tmp_path / "run")
    rows = Predictions.read(tmp_path / "run" / "predictions.csv")
    test = (rows.role == "test") & (rows.selection == "validation")
    assert sorted(rows.bag[test].tolist()) == [f"test-{i + 1:05d}" for i in range(60)]
    positive, score = rows.target[test, 0] == 1, rows.logits[test, 0]
    assert positive.sum() == 30
    assert (score[positive][:, None] > score[~positive]).mean() > 0.9  # the AUROC: pairs in the right order
