"""Several feature sets of the same slides: which tile belongs to which, what is dropped, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from milkit import config
from milkit.data.align_tiles import same_place, square_around
from milkit.data.aligned import Aligned, FeatureFiles, align
from milkit.data.cohort import Cohort
from milkit.data.feature_sets import FeatureSet, sets_of
from milkit.data.features import open_features
from milkit.data.reading import Reader, Wanted
from milkit.data.store import open_store, write_store
from milkit.errors import ConfigError, DataError
from milkit.execute.digest import data_digest
from milkit.execute.inputs import check_inputs
from milkit.experiment import allowed_types
from milkit.keep.ids import slides_of
from milkit.models import ABMIL
from milkit.task import Binary
from milkit.types import Bag

FINE = np.array([[x, y] for y in range(4) for x in range(4)], float) * 100  # 4 x 4 tiles of 100 um
COARSE = np.array([[0, 0], [200, 0], [0, 200], [200, 200]], float)  # 2 x 2 tiles of 200 um


def store(path, name="enc", width=2, slides=("s0", "s1", "s2", "s3"), xy=FINE, order=None, first=0.0, **facts):
    """Feature j of tile i of slide s is `first` + 1000 s + i + j / 10, by the tile's place in `xy`, in any order."""
    order = np.arange(len(xy)) if order is None else np.asarray(order)
    bags = []
    for s in slides:
        x = first + 1000.0 * int(s[1]) + np.arange(len(xy))[:, None] + np.arange(width) / 10
        bags.append(Bag(s, x[order].astype(np.float32), None if facts.get("bare") else xy[order].astype(np.float32)))
    known = {"encoder": name, "tile_um": 100.0, "mpp": 0.5, "tile_px": 200} | facts
    known.pop("bare", None)
    return write_store(path, bags, dtype="float32", **known)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("slide_id,label\n" + "".join(f"s{i},{i % 2}\n" for i in range(4)))
    return tmp_path


def both(*paths, **options):
    return align([open_features(p.path) for p in Aligned(paths).files], Aligned(paths, **options))


def test_the_same_tiles_in_another_order_are_found(here):
    """Half a micrometre is rounding; set b is shuffled, so row i of x holds tile i of a and tile i of b."""
    shuffled = np.random.default_rng(0).permutation(16)
    store("a.h5", "uni")
    store("b.h5", "conch", width=3, xy=FINE + 0.5, order=shuffled, first=0.25)
    source = both("a.h5", "b.h5")
    assert source.ids == ("s0", "s1", "s2", "s3")
    assert source.lengths.tolist() == [16] * 4
    assert source.features == 5
    bag = source.read("s1")
    np.testing.assert_allclose(bag.x[:, 0], 1000 + np.arange(16))
    np.testing.assert_allclose(bag.x[:, 2], 1000.25 + np.arange(16))
    np.testing.assert_array_equal(bag.coords_um, FINE)
    np.testing.assert_array_equal(source.coords("s1"), FINE)
    assert source.notes == ()
    assert source.sets == (FeatureSet("uni", 2, "uni", 0.5, 100.0), FeatureSet("conch", 3, "conch", 0.5, 100.0))
    assert source.provenance["encoder"] == "uni + conch"
    assert source.provenance["tile_um"] == 100.0


def test_a_fine_tile_takes_the_coarse_tile_that_holds_it(here):
    """By hand: the four fine tiles of each quadrant share its coarse tile (numbers 0, 1, 2, 3)."""
    store("a.h5", "20x")
    store("b.h5", "10x", xy=COARSE, order=[3, 1, 0, 2], tile_um=200.0, mpp=1.0)
    source = both("a.h5", "b.h5")
    x = source.read("s2").x
    np.testing.assert_allclose(x[:, 0], 2000 + np.arange(16))
    expected = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    np.testing.assert_allclose(x[:, 2], 2000 + np.array(expected))
    assert [s.mpp for s in source.sets] == [0.5, 1.0]
    assert source.provenance["mpp"] == 0.5  # of the instances


def test_of_overlapping_squares_the_nearest_centre_counts_and_then_the_upper_left():
    """Squares of 200 every 100: 250 lies in those around 200 and 300, equally near; 210 is nearer to 200."""
    centres = np.array([[300.0, 100.0], [100.0, 100.0], [200.0, 100.0]])
    points = np.array([[250.0, 100.0], [210.0, 100.0], [401.0, 100.0], [400.0, 100.0]])
    assert square_around(points, centres, 200.0).tolist() == [2, 2, -1, 0]
    assert square_around(points, centres[::-1], 200.0).tolist() == [0, 0, -1, 2]


def test_the_same_place_within_a_tolerance():
    a, b = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 50.0]]), np.array([[10.4, -0.4], [0.0, 52.0]])
    assert same_place(a, b, 0.5).tolist() == [-1, 0, -1]
    assert same_place(a, b, 2.0).tolist() == [-1, 0, 1]
    with pytest.raises(DataError, match=r"several tiles lie within 30 um of \(10.4, -0.4\)"):
        same_place(a, b, 30.0)


def test_tiles_without_a_partner_are_left_out_and_counted(here):
    store("a.h5", "uni")
    store("b.h5", "conch", xy=FINE[1:])
    source = both("a.h5", "b.h5")
    assert source.lengths.tolist() == [15] * 4
    np.testing.assert_array_equal(source.read("s0").coords_um, FINE[1:])
    assert source.notes == (
        "4 of 64 tiles of uni have no partner in conch and are left out ('s0' 1, 's1' 1, 's2' 1 and 1 more)",
    )
    with pytest.raises(DataError, match=r"in 4 slide\(s\): 's0' 1 of 16, .*at most 5% may be lost.*tile width"):
        both("a.h5", "b.h5", most_lost=0.05)


def test_slides_that_only_one_set_holds_are_named(here):
    store("a.h5", "uni", slides=("s0", "s1", "s2"))
    store("b.h5", "conch", slides=("s1", "s2", "s3"))
    source = both("a.h5", "b.h5")
    assert source.ids == ("s1", "s2")
    assert source.notes == (
        "1 slide(s) of the other feature sets are not in uni and are left out ('s3')",
        "1 slide(s) of the other feature sets are not in conch and are left out ('s0')",
    )
    with pytest.raises(DataError, match="No slide 's9' in all feature sets"):
        source.read("s9")
    store("c.h5", "other", slides=("x1",))
    with pytest.raises(DataError, match=r"have no slide in common.*'s0'.*'x1'"):
        both("a.h5", "c.h5")


def test_an_unsaid_magnification_is_not_taken_for_the_same_tiling(here):
    """Without tile widths the coarse tiles match a quarter of the fine ones: refused, with what to say."""
    store("a.h5", "20x", tile_um=None, mpp=None, tile_px=None)
    store("b.h5", "10x", xy=COARSE, tile_um=None, mpp=None, tile_px=None)
    with pytest.raises(DataError, match=r"'s0' 12 of 16.*tile_um="):
        both("a.h5", "b.h5")


@pytest.mark.parametrize(
    ("options", "other", "message"),
    [
        ({}, {"bare": True}, r"no positions in micrometres in conch.*same_order=True"),
        ({}, {"xy": COARSE / 4, "tile_um": 50.0, "tile_px": None}, r"are 50 um wide .*first, 100: .*smallest tiles"),
        ({"same_order": True}, {"xy": FINE[:5]}, r"16 instances in uni and 5 in conch"),
        ({"same_order": True}, {"order": np.arange(16)[::-1]}, r"tile 0 of slide 's0' is at \(0.0, 0.0\) .*\(300.0"),
        ({}, {"name": "uni"}, r"called uni, uni, .*FeatureFiles"),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_is_refused(here, options, other, message):
    store("a.h5", "uni")
    store("b.h5", **({"name": "conch"} | other))
    with pytest.raises(DataError, match=message):
        both("a.h5", "b.h5", **options)


def test_without_positions_the_order_may_be_vouched_for(here):
    store("a.h5", "uni", bare=True)
    store("b.h5", "conch", bare=True, first=0.5)
    source = both("a.h5", "b.h5", same_order=True)
    assert source.read("s0").coords_um is None
    np.testing.assert_allclose(source.read("s3").x[:, 2], 3000.5 + np.arange(16))


def test_a_cohort_of_two_sets_and_the_store_it_is_written_to(here):
    store("a.h5", "uni")
    store("b.h5", "conch", width=3, order=np.arange(16)[::-1])
    cohort = Cohort("t.csv", Aligned(("a.h5", FeatureFiles("b.h5", name="b"))))
    study = cohort.load(Binary())
    assert study.features == 5
    assert study.lengths.tolist() == [16] * 4
    assert [s.name for s in sets_of(study.provenance)] == ["uni", "b"]
    source = both("a.h5", FeatureFiles("b.h5", name="b"))
    facts = {k: source.provenance[k] for k in ("encoder", "mpp", "tile_um", "tile_px")}
    write_store("both.h5", map(source.read, source.ids), dtype="float32", feature_sets=source.sets, **facts)
    kept = open_store("both.h5")
    assert sets_of(kept.provenance) == source.sets
    np.testing.assert_array_equal(kept.read("s1").x, study.read(1).x)
    again = Cohort("t.csv", "both.h5").load(Binary())
    assert sets_of(again.provenance) == source.sets
    # a cohort in two files that hold the same sets
    half = [source.read("s0"), source.read("s1")], [source.read("s2"), source.read("s3")]
    for name, bags in zip(("h0.h5", "h1.h5"), half, strict=True):
        write_store(name, bags, dtype="float32", feature_sets=source.sets, **facts)
    assert sets_of(open_features(["h0.h5", "h1.h5"]).provenance) == source.sets
    write_store("h1.h5", half[1], dtype="float32", feature_sets=source.sets[::-1], overwrite=True, **facts)
    with pytest.raises(DataError, match="one list of feature sets"):
        open_features(["h0.h5", "h1.h5"])
    with pytest.raises(DataError, match="feature_sets of widths 2, 2 do not make instances of 5 features"):
        write_store("wrong.h5", half[0], feature_sets=(source.sets[0],) * 2)
    assert not (here / "wrong.h5").exists()


def test_several_slides_of_a_patient(here):
    """Patient p has s2 and s0, in the order of the table. Set b lacks tile 0, so each slide has 15 instances."""
    (here / "t.csv").write_text("slide_id,patient_id,label,age\ns2,p,1,60\ns1,q,0,50\ns0,p,1,\n")
    store("a.h5", "uni")
    store("b.h5", "conch", xy=FINE[1:], order=np.arange(15)[::-1])
    study = Cohort("t.csv", Aligned(("a.h5", "b.h5")), covariates=("age",)).load(Binary())
    assert study.slides == (("s2", "s0"), ("s1",))
    assert study.slide_lengths == ((15, 15), (15,))
    assert study.lengths.tolist() == [30, 15]
    assert study.covariates.values.tolist() == [[60], [50]]
    bag = study.read(0)
    np.testing.assert_allclose(bag.x[:15, 0], 2001 + np.arange(15))
    np.testing.assert_allclose(bag.x[15:, 0], 1 + np.arange(15))
    np.testing.assert_allclose(bag.x[:, 2], [*(2000 + np.arange(15)), *np.arange(15)])
    # on their own slides, and moved apart for models
    np.testing.assert_array_equal(study.positions(0), np.concatenate([FINE[1:], FINE[1:]]))
    np.testing.assert_array_equal(bag.coords_um[:15], FINE[1:])
    apart = bag.coords_um[15:] - FINE[1:]
    assert (apart[:, 1] == 0).all()
    assert (apart[:, 0] == 300 + 10_000).all()  # 1 cm beyond the first slide's last column
    assert bag.coords_px is None
    assert bag.tile_um == 100.0
    by_slide = dict(slides_of(study, 0, bag))
    np.testing.assert_array_equal(by_slide["s0"], study.read(0).x[15:])


def test_sets_are_streamed_as_they_are_read(here):
    """The reader's padded batch of a cohort with tiles left out holds what the study reads."""
    store("a.h5", "uni")
    store("b.h5", "conch", xy=FINE[1:], order=np.arange(15)[::-1])
    study = Cohort("t.csv", Aligned(("a.h5", "b.h5"))).load(Binary())
    reader = Reader(study, coords=True)
    with reader.batches([Wanted((2, 0), 2, 16)]) as blocks:
        for block in blocks:
            assert block.lengths.tolist() == [15, 15]
            np.testing.assert_array_equal(block.x[0, :15], study.read(2).x)
            np.testing.assert_array_equal(block.coords_um[1, :15], study.read(0).coords_um)
            block.release()


def test_a_changed_set_changes_the_datas_digest(here):
    store("a.h5", "uni")
    store("b.h5", "conch")
    cohort = Cohort("t.csv", Aligned(("a.h5", "b.h5")))
    base = data_digest(cohort.load(Binary()))
    assert data_digest(cohort.load(Binary())) == base
    (here / "b.h5").unlink()
    store("b.h5", "conch", first=0.5)
    assert data_digest(cohort.load(Binary())) != base


def test_the_choice_is_checked_and_survives_json(here):
    with pytest.raises(ConfigError, match="two feature sets or more"):
        Aligned(("a.h5",))
    choice = Aligned(("a.h5", FeatureFiles(("b0.h5", "b1.h5"), name="b", mpp=0.25)), most_lost=0.2)
    said = json.loads(json.dumps(config.to_json(Cohort("t.csv", choice))))
    assert config.from_json(said, allowed_types()).features == choice
    store("a.h5", "uni")
    with pytest.raises(ConfigError, match=r"encoder='x' is given beside several.*FeatureFiles\(path, encoder='x'\)"):
        Cohort("t.csv", Aligned(("a.h5", "a.h5")), encoder="x").load(Binary())


def test_a_model_is_told_the_right_widths(here):
    store("a.h5", "uni")
    store("b.h5", "conch", width=3)
    study = Cohort("t.csv", Aligned(("a.h5", "b.h5"))).load(Binary())
    check_inputs(ABMIL(), study)
    check_inputs(ABMIL(sets=(2, 3)), study)
    with pytest.raises(
        ConfigError, match=r"ABMIL\(sets=\(3, 2\)\), but the sets of 't' are uni 2, conch 3; write sets=\(2, 3\)"
    ):
        check_inputs(ABMIL(sets=(3, 2)), study)
    plain = Cohort("t.csv", "a.h5").load(Binary())
    with pytest.raises(ConfigError, match="adds up to 5 features, but an instance of 't' has 2, and its files name no"):
        check_inputs(ABMIL(sets=(3, 2)), plain)
    check_inputs(ABMIL(sets=(1, 1)), replace(plain))
