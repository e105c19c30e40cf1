from pathlib import Path

import numpy as np
import pytest

from milkit.errors import RunFolderError
from milkit.predictions import Predictions, concat
from milkit.report.scores import read_scores, scores_of
from milkit.task import Binary


def rows(run: str, fold: int, epoch: int, logits: list[float], bags: list[str], truth: list[int]) -> Predictions:
    return Predictions.of(
        Binary(),
        ("no", "yes"),
        np.array(logits)[:, None],
        np.array(truth),
        experiment="x",
        run=run,
        repeat=0,
        fold=fold,
        seed=0,
        selection="last",
        role="test",
        bag=bags,
        patient=[b[0].upper() for b in bags],
        selected_epoch=epoch,
    )


def slides(logits: list[float]) -> Predictions:
    """Run r1 (fold 1) tests patients A (two slides) and B, run r0 (fold 0) one slide of A."""
    first = rows("r1", 1, 7, logits[:3], ["a1", "a2", "b1"], [1, 1, 0])
    return concat([first, rows("r0", 0, 3, logits[3:], ["a1"], [1])])


@pytest.mark.parametrize(("how", "expected"), [("mean", 0.5), ("max", 0.75)])
def test_slides_become_patients(how: str, expected: float) -> None:
    got = scores_of(slides([np.log(3), -np.log(3), 0.0, np.log(3)]), how)  # 3/4, 1/4, 1/2, 3/4
    told = zip(got.run, got.patient, got.value, strict=True)
    seen = {(int(r), str(got.patients[p])): v[-1] for r, p, v in told}
    assert seen == {(0, "A"): pytest.approx(expected), (0, "B"): pytest.approx(0.5), (1, "A"): pytest.approx(0.75)}
    assert got.splits == ((0, 0), (0, 1))
    assert got.fold.tolist() == [1, 1, 0]
    assert got.epoch.tolist() == [7.0, 3.0]
    assert got.target[:, 0].tolist() == [1.0, 0.0, 1.0]
    assert got.seeds == (0,)
    assert got.bags["a1"][-1] == pytest.approx(0.75)
    assert got.truth["b1"].tolist() == [0.0]


def test_rows_without_a_finite_score_are_left_out() -> None:
    got = scores_of(slides([0.0, np.nan, np.nan, 0.0]), "mean")
    assert [str(p) for p in got.patients] == ["A"]
    assert len(got.run) == 2


def test_a_selection_that_is_not_there_is_named(tmp_path: Path) -> None:
    slides([0.0] * 4).write(tmp_path / "predictions.csv")
    with pytest.raises(RunFolderError, match=r"no test row of the selection 'validation'; it has last test"):
        read_scores(tmp_path / "predictions.csv", "validation", "mean")
