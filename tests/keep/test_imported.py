"""A model of imported weights is one like any other: it is loaded, asked and measured, and says what is not known."""

import csv

import numpy as np
import planted
import pytest
from safetensors.numpy import save_file

from milkit import api
from milkit.cli import main
from milkit.errors import ConfigError, RunFolderError
from milkit.keep.imported import MARKS, Stated


@pytest.fixture(scope="module")
def arrays():
    """MIL-Lab's ABMIL of 6 features, with the prefix that its published files have."""
    rng = np.random.default_rng(1)
    shapes = {
        "patch_embed.0": (5, 6),
        "global_attn.attention_a.0": (4, 5),
        "global_attn.attention_b.0": (4, 5),
        "global_attn.attention_c": (1, 4),
        "classifier": (2, 5),
    }
    arrays = {f"model.{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {f"model.{name}.bias": rng.normal(size=shape[:1]) for name, shape in shapes.items()}
    return {name: a.astype(np.float32) for name, a in arrays.items()}


def probabilities(arrays, x):
    """The same network in numpy, float64."""

    def dense(name, h):
        return h @ arrays[f"model.{name}.weight"].T.astype(np.float64) + arrays[f"model.{name}.bias"]

    h = np.maximum(dense("patch_embed.0", x), 0)
    gate = 1 / (1 + np.exp(-dense("global_attn.attention_b.0", h)))
    score = dense("global_attn.attention_c", np.tanh(dense("global_attn.attention_a.0", h)) * gate)
    e = np.exp(dense("classifier", (np.exp(score) / np.exp(score).sum() * h).sum(0)))
    return e / e.sum()


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    """A model folder made by the command, a store, and what the command said."""
    home = tmp_path_factory.mktemp("imported")
    save_file(arrays, home / "feather.safetensors")
    planted.stored(home, planted.binary(8, seed=5), "north", prefix="n")
    return home


def command(folder, *more):
    return main(["import-weights", "abmil", str(folder / "feather.safetensors"), "--out", str(folder / "model"), *more])


def test_import_predict_and_evaluate(folder, arrays, capsys):
    assert command(folder, "--classes", "0,1", "--encoder", "enc-1", "--mpp", "0.5", "--unit", "patient") == 0
    said = capsys.readouterr().out
    for part in (
        "10 arrays, 100 numbers, in the naming of MIL-Lab",
        "taken off every name: model.",
        "left out: global_attn.attention_c.bias",
        "ABMIL(",
        "encoder=(5,)",
        "takes 6 features an instance, gives 2 logits: MultiClass of 0, 1",
        "checked: every array",
    ):
        assert part in said
    kept = api.load_model(folder / "model")
    assert kept.facts["imported"]["file"] == "feather.safetensors"
    assert "10 arrays of feather.safetensors, in the naming of MIL-Lab" in (folder / "model" / "README.md").read_text()

    rows = api.predict(folder / "model", folder / "north.h5")
    column = {name: i for i, name in enumerate(rows[0])}
    for bag, row in zip(planted.binary(8, seed=5).bags, rows[1:], strict=True):
        got = [float(row[column[f"prob_{name}"]]) for name in "01"]
        np.testing.assert_allclose(got, probabilities(arrays, bag.x), rtol=1e-5)
        assert row[column["marks"]] == ";".join(MARKS)

    results = api.evaluate(folder / "model", folder / "north.h5", folder / "north.csv", folder / "north")
    assert results["marks"][:2] == list(MARKS)
    page = (folder / "north" / "report.md").read_text()
    assert "nobody knows whether it was trained on them" in page
    assert "none of whom it was trained on" not in page
    assert "From the study to here" not in page
    with (folder / "north" / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "a,b,c"], "tells 2 apart"),
        (["--classes", "a,a"], "tells 2 apart"),
        (["--task", "binary"], "gives 2 logits; a binary task has one"),
        (["--set", "heads"], "expected FIELD=VALUE"),
        (["--set", "hidden=3"], "no such field"),
        (["--prefix", "mil."], "which does not start so"),
    ],
)
def test_mistakes_are_said_and_leave_nothing(folder, capsys, more, message, tmp_path):
    out = tmp_path / "new"
    assert command(folder, "--out", str(out), *more) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_model_that_stands_is_not_replaced(folder, arrays, tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not a model"):
        api.import_weights("abmil", folder / "feather.safetensors", out)
    assert (out / "notes.txt").read_text() == "mine"


def test_labels_and_one_logit(folder, arrays, tmp_path):
    kept, _, _ = api.import_weights(
        "ABMIL", folder / "feather.safetensors", tmp_path / "labels", Stated(task="multilabel", classes=("er", "pr"))
    )
    assert (kept.kind, kept.names, kept.threshold.tolist()) == ("MultiLabel", ("er", "pr"), [0.5, 0.5])
    one = {k: a[:1] if "classifier" in k else a for k, a in arrays.items()}
    save_file({k: np.ascontiguousarray(a) for k, a in one.items()}, tmp_path / "one.safetensors")
    kept, _, _ = api.import_weights("ABMIL", tmp_path / "one.safetensors", tmp_path / "one")
    assert (kept.kind, kept.names, kept.temperature.tolist()) == ("Binary", ("0", "1"), [1.0])
    with pytest.raises(ConfigError, match="gives 1 logit;"):
        api.import_weights("ABMIL", tmp_path / "one.safetensors", tmp_path / "two", Stated(task="multiclass"))


def test_pytorchs_own_format_takes_pytorch(tmp_path):
    try:
        import torch  # noqa: F401
    except ImportError:
        (tmp_path / "weights.pth").write_bytes(b"PK")
        with pytest.raises(ConfigError, match=r"pip install torch.*safetensors"):
            api.import_weights("ABMIL", tmp_path / "weights.pth", tmp_path / "model")
    else:
        pytest.skip("PyTorch is installed")
