"""A kept model on other features: which are refused, what is answered, how slides become patients."""

import csv

import numpy as np
import planted
import pytest

from milkit import api
from milkit.cli import main
from milkit.data.feature_sets import FeatureSet, as_json
from milkit.data.store import open_store, write_store
from milkit.errors import ConfigError, DataError
from milkit.keep.features import Features, check_features
from milkit.keep.ids import digest_features, digest_id

FACTS = {"encoder": "enc-1", "mpp": 0.5, "tile_um": 128.0, "tile_px": None, "encoder_digest": None}


def source(tmp_path, width=6, extra=None, **facts):
    made = planted.binary(4)
    if width != 6:
        made = planted.cohort([b.x[:, :width] for b in made.bags], made.rows)
    store, _ = planted.stored(tmp_path, made, "s", **({"tile_um": 128.0} | facts), provenance=extra)
    return open_store(store)


def test_features_of_the_models_kind_pass(tmp_path):
    assert check_features(FACTS, 6, source(tmp_path), "s.h5") == ([], [])


@pytest.mark.parametrize("mpp", [0.4951, 0.5049])
def test_one_per_cent_of_mpp_is_the_same(tmp_path, mpp):
    assert check_features(FACTS, 6, source(tmp_path, mpp=mpp), "s.h5") == ([], [])


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"encoder": "enc-2"}, r"features of encoder 'enc-2', the model was trained on 'enc-1'.*Embed the slides"),
        ({"mpp": 0.25}, r"made at 0.25 µm a pixel, the model was trained at 0.5.*Tile the slides at 0.5"),
        ({"mpp": 0.494}, "µm a pixel"),
        ({"encoder": None}, r"the model says encoder 'enc-1', s.h5 does not say.*--allow-unknown encoder"),
        ({"mpp": None}, r"the model says mpp 0.5, s.h5 does not say.*--allow-unknown mpp"),
        ({"width": 5}, "has 5 features an instance, the model was trained on 6.*enc-1"),
    ],
)
def test_features_of_another_kind_are_refused(tmp_path, facts, message):
    with pytest.raises(DataError, match=message):
        check_features(FACTS, 6, source(tmp_path, **facts), "s.h5")


def test_feature_sets_lie_in_the_models_order(tmp_path):
    uni, conch = FeatureSet("a", 4, "uni"), FeatureSet("b", 2, "conch")
    facts = FACTS | {"feature_sets": as_json([uni, conch])}

    def theirs(name, *sets):
        path = tmp_path / name
        write_store(path, planted.binary(4).bags, encoder="enc-1", mpp=0.5, tile_um=128.0, feature_sets=sets)
        return open_store(path)

    assert check_features(facts, 6, theirs("same.h5", uni, conch), "s.h5") == ([], [])
    with pytest.raises(DataError, match="is 2 of conch, 4 of uni, that of the model 4 of uni, 2 of conch"):
        check_features(facts, 6, theirs("turned.h5", conch, uni), "s.h5")
    marks, _ = check_features(facts, 6, theirs("silent.h5"), "s.h5")
    assert marks == ["feature sets unknown on one side (the model: 4 of uni, 2 of conch)"]


def test_what_one_side_does_not_know_can_be_vouched_for_and_leaves_a_mark(tmp_path):
    store = source(tmp_path, encoder=None)
    assert check_features(FACTS, 6, store, "s.h5", ("encoder",)) == (
        ["encoder unknown on one side (the model: enc-1)"], [],
    )  # fmt: skip
    ours = FACTS | {"encoder": None}
    marks, _ = check_features(ours, 6, source(_folder(tmp_path, "2"), encoder="e"), "s.h5", ("encoder",))
    assert marks == ["encoder unknown on one side (s.h5: e)"]
    # vouching for what is known to differ does not help
    with pytest.raises(DataError, match="enc-2"):
        check_features(FACTS, 6, source(_folder(tmp_path, "3"), encoder="enc-2"), "s.h5", ("encoder",))
    with pytest.raises(ConfigError, match="encoder or mpp"):
        check_features(FACTS, 6, store, "s.h5", ("tiles",))


def _folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_what_neither_side_knows_is_a_note(tmp_path):
    marks, notes = check_features(FACTS | {"mpp": None}, 6, source(tmp_path, mpp=None), "s.h5")
    assert marks == []
    assert notes == ["mpp is recorded neither with the model nor with these features"]


def test_other_tiles_and_other_weights(tmp_path):
    marks, _ = check_features(FACTS, 6, source(tmp_path, tile_um=112.0), "s.h5")
    assert marks == ["tiles of 112 µm, in training 128 µm"]
    with pytest.raises(DataError, match="other weights"):
        check_features(
            FACTS | {"encoder_digest": "aaa"}, 6, source(_folder(tmp_path, "2"), extra={"encoder_digest": "b"}), "s.h5"
        )


def test_the_csv_is_the_mean_over_members(ensemble, home, tmp_path):
    from milkit.keep.speak import speak

    kept, store = api.load_model(ensemble), open_store(home / "other.h5")
    said = speak(kept, store.lengths, lambda i: store.read(store.ids[i]))
    out = tmp_path / "p.csv"
    rows = api.predict(ensemble, home / "other.h5", out=out)
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [list(row.values()) for row in table] == rows[1:]
    for i, row in enumerate(table):
        own = said.members[:, i, 1]
        assert row["slide"] == store.ids[i]
        assert float(row["prob_1"]) == pytest.approx(own.mean(), abs=1e-12)
        assert float(row["sd_1"]) == pytest.approx(own.std(ddof=1), abs=1e-12)
        assert row["class"] == str(int(own.mean() >= kept.threshold[0]))
        odds = (own.mean() / (1 - own.mean())) ** (1 / kept.temperature[0])
        assert float(row["calibrated_1"]) == pytest.approx(odds / (1 + odds), abs=1e-9)
        assert (row["members"], row["in_training"], row["marks"]) == ("6", "no", "")


def test_slides_of_a_patient_are_one_bag(ensemble, home, tmp_path):
    """The model was trained on patients: two slides of one are answered as their instances together."""
    from milkit.keep.speak import speak
    from milkit.types import Bag

    (tmp_path / "two.csv").write_text("slide_id,patient_id\nxb000,q\nxb005,q\nxb003,r\n")
    header, *rows = api.predict(ensemble, home / "other.h5", cohort=tmp_path / "two.csv")
    assert [row[:2] for row in rows] == [["q", "xb000;xb005"], ["r", "xb003"]]
    store, kept = open_store(home / "other.h5"), api.load_model(ensemble)
    together = np.concatenate([store.read("xb000").x, store.read("xb005").x])
    said = speak(kept, np.array([len(together)]), lambda i: Bag("q", together))
    assert float(rows[0][header.index("prob_1")]) == pytest.approx(said.score[0, 1], abs=1e-6)


def test_who_was_in_training_is_said(ensemble, home, tmp_path):
    header, *rows = api.predict(ensemble, home / "home.h5")
    assert {row[header.index("in_training")] for row in rows} == {"yes"}
    # renamed slides are known by their features, also at another precision
    store, _ = planted.stored(tmp_path, planted.binary(), "renamed", prefix="z", dtype="float16")
    header, *rows = api.predict(ensemble, store)
    assert {row[header.index("in_training")] for row in rows} == {"yes"}


def test_digests():
    assert digest_id(" p1 ") == digest_id("p1") != digest_id("P1")
    x = np.array([[0.5, 1.0], [2.0, 3.0]], np.float32)
    assert digest_features(x) == digest_features(x.astype(np.float16))
    assert digest_features(x) != digest_features(x.reshape(1, 4))


def test_the_command(ensemble, home, tmp_path, capsys):
    out = tmp_path / "p.csv"
    arguments = ["predict", str(ensemble), str(home / "other.h5"), "--out", str(out)]
    assert main(arguments) == 0
    assert "24 slides answered by 6 members" in capsys.readouterr().out
    before = out.read_bytes()
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    other, _ = planted.stored(tmp_path, planted.binary(), "another", encoder="enc-2")
    assert main(["predict", str(ensemble), str(other), "--out", str(out), "--force"]) == 2
    assert "enc-2" in capsys.readouterr().err
    assert out.read_bytes() == before
    nameless, _ = planted.stored(tmp_path, planted.binary(), "nameless", encoder=None)
    assert main(["predict", str(ensemble), str(nameless), "--out", str(out), "--force"]) == 2
    assert main([*arguments[:2], str(nameless), "--out", str(out), "--force", "--allow-unknown", "encoder"]) == 0
    assert "marked: encoder unknown on one side" in capsys.readouterr().out
    with out.open(newline="") as file:
        assert {row["marks"] for row in csv.DictReader(file)} == {"encoder unknown on one side (the model: enc-1)"}


def test_a_column_of_mpp_needs_a_table(ensemble, home):
    with pytest.raises(ConfigError, match="a column needs a table"):
        api.predict(ensemble, Features(home / "other.h5", mpp="mpp"))
