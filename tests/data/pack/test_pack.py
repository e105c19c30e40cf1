"""Packing: what goes in comes out, in order, with where it is from; and what is refused leaves nothing behind."""

import hashlib
import json

import h5py
import numpy as np
import pytest
from foreign_files import clam, grid, table, trident

from milkit.bag import Bag
from milkit.data.features import open_features
from milkit.data.open_cohort import open_cohort
from milkit.data.pack import pack
from milkit.data.store import open_store, write_store
from milkit.data.table import read_cohort
from milkit.errors import DataError
from tests.data.pack.conftest import LENGTHS, names, values


def test_what_was_packed_is_what_was_there(job, tmp_path):
    """Tiles of 512 px at 0.25 um are 128 um; the slide without tissue is left out and named."""
    report = pack(job, "s.h5", mpp=0.25)
    store = open_store("s.h5")
    assert store.ids == ("a", "c", "d", "e")
    assert store.lengths.tolist() == [3, 5, 2, 4]
    for number, (slide, n) in enumerate(LENGTHS.items()):
        if n:
            bag = store.read(slide)
            np.testing.assert_array_equal(bag.x, values(number, n).astype(np.float16))
            np.testing.assert_array_equal(bag.coords_px, grid(n))
            np.testing.assert_array_equal(bag.coords_um, grid(n) * 0.25)
            assert (bag.tile_um, bag.mpp) == (128.0, 0.25)
    facts = store.provenance
    assert (facts["encoder"], facts["mpp"], facts["tile_um"], facts["tile_px"]) == ("uni_v2", 0.5, 128.0, 256)
    extra = facts["extra"]
    assert (extra["tool"], extra["layout"], extra["patch_size_level0"]) == ("TRIDENT", "trident", 512)
    assert extra["packed"]["left_out"] == ["b"]
    assert extra["packed"]["options"] == {"mpp": 0.25}
    assert (report.slides, report.instances, report.features, report.left_out) == (4, 14, 4, ("b",))
    assert report.digests == (facts["sha256"],)
    assert report.missing == ()
    store.validate(deep=True)
    assert names(tmp_path) == ["job", "s.h5"]


def test_each_source_file_is_known_by_its_digest(job):
    pack(job, "s.h5")
    with h5py.File("s.h5") as file:
        sources = [json.loads(line) for line in file["sources"].asstr()]
    files = [job / f"{slide}.h5" for slide in "acde"]
    assert sources == [
        {"file": str(f), "bytes": f.stat().st_size, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files
    ]


def test_pixels_are_kept_where_the_mpp_comes_later(job):
    report = pack(job, "s.h5")
    assert [fact["fact"] for fact in report.missing] == ["mpp"]
    assert "--mpp" in report.missing[0]["option"]
    bag = open_features("s.h5").read("a")
    assert (bag.coords_um, bag.tile_um, bag.mpp) == (None, None, None)
    np.testing.assert_array_equal(bag.coords_px, grid(3))
    later = open_features("s.h5", mpp=0.5)
    bag = later.read("a")
    np.testing.assert_array_equal(bag.coords_um, grid(3) * 0.5)
    assert bag.tile_um == 256.0
    assert (later.provenance["tile_um"], later.provenance["mpp"]) == (256.0, 1.0)


def test_a_store_packed_anew_has_the_same_content(tmp_path):
    """The digest of the one-pass writer is the oracle: same features, positions, offsets and ids."""
    rng = np.random.default_rng(0)
    bags = [Bag(f"s{i}", rng.normal(size=(n, 6)).astype(np.float32), rng.uniform(size=(n, 2)).astype(np.float32))
            for i, n in enumerate((2, 7, 1))]  # fmt: skip
    first = open_store(write_store(tmp_path / "one.h5", bags, dtype="float32", mpp=0.5, tile_um=128.0))
    report = pack(tmp_path / "one.h5", tmp_path / "two.h5", dtype="keep", encoder="uni")
    second = open_store(tmp_path / "two.h5")
    assert report.digests == (first.provenance["sha256"],)
    assert report.rounding.values == 0
    assert (second.dtype, second.provenance["encoder"], second.provenance["mpp"]) == (np.float32, "uni", 0.5)
    with pytest.raises(DataError, match="says encoder 'uni', but 'conch' is given"):
        pack(tmp_path / "two.h5", tmp_path / "three.h5", encoder="conch")


def test_many_processes_write_the_bytes_that_one_does(job, tmp_path):
    pack(job, "one.h5", mpp=0.25, workers=1)
    pack(job, "two.h5", mpp=0.25, workers=2)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_a_value_that_float16_does_not_hold_is_refused_by_name(job, tmp_path):
    x = values(9, 3)
    x[1, 2] = 70_000
    trident(tmp_path / "job", "z", x, grid(3))
    write_store(tmp_path / "s.h5", [Bag("old", values(0, 2))])
    before = (tmp_path / "s.h5").read_bytes()
    with pytest.raises(DataError, match=r"'z': the value 70000\.0 at instance 1, feature 2 is beyond what float16"):
        pack(job, "s.h5", overwrite=True)
    assert (tmp_path / "s.h5").read_bytes() == before
    assert names(tmp_path) == ["job", "s.h5"]
    pack(job, "s.h5", dtype="float32", overwrite=True)
    assert open_store("s.h5").read("z").x[1, 2] == 70_000


def test_slides_that_cannot_be_packed_are_all_named(job, tmp_path):
    for slide in "yz":
        x = values(9, 3)
        x[2, 0] = np.nan
        trident(tmp_path / "job", slide, x, grid(3))
    with pytest.raises(DataError, match=r"y\.h5(.|\n)*z\.h5"):
        pack(job, "s.h5")
    assert names(tmp_path) == ["job"]


def test_shards_hold_as_many_slides_as_fit(job, tmp_path):
    """Slides of 24, 40, 16 and 32 bytes into files of 40: one, one, and two that make 48 do not fit."""
    write_store("other.h5", [Bag("q", values(0, 1))])
    report = pack(job, "s.h5", shard_gib=40 / 2**30, mpp=0.25)
    assert [path.name for path in report.files] == [f"s-0000{k}-of-00004.h5" for k in (1, 2, 3, 4)]
    assert [open_store(path).ids for path in report.files] == [("a",), ("c",), ("d",), ("e",)]
    joined = open_features(report.files)
    assert joined.ids == ("a", "c", "d", "e")
    np.testing.assert_array_equal(joined.read("e").x, values(4, 4).astype(np.float16))
    two = pack(job, "t/s.h5", shard_gib=64 / 2**30)
    assert [open_store(path).ids for path in two.files] == [("a", "c"), ("d", "e")]
    assert open_features("t").ids == ("a", "c", "d", "e")
    assert len(pack(job, "u.h5", shard_gib=1.0).files) == 1
    with pytest.raises(DataError, match="shard_gib=0"):
        pack(job, "v.h5", shard_gib=0.0)


def test_a_store_that_is_there_is_replaced_only_when_asked(job, tmp_path):
    pack(job, "s.h5", shard_gib=64 / 2**30)
    with pytest.raises(DataError, match=r"s-00001-of-00002\.h5 is there already; --overwrite"):
        pack(job, "s.h5")
    pack(job, "s.h5", overwrite=True)
    assert names(tmp_path) == ["job", "s.h5"]  # its shards would hold every slide a second time
    with pytest.raises(DataError, match="is a folder"):
        pack(job, tmp_path)
    with pytest.raises(DataError, match="among the features to be packed"):
        pack("s.h5", "s.h5", overwrite=True)


def test_a_table_chooses_the_slides_and_places_each(job):
    table("c.csv", [{"slide_id": s, "mpp": m} for s, m in (("e.svs", 0.25), ("a.svs", 0.26), ("zz.svs", 0.25))])
    report = pack(job, "s.h5", cohort="c.csv")
    store = open_store("s.h5")
    assert store.ids == ("a", "e")
    np.testing.assert_array_equal(store.read("a").coords_um, (grid(3) * 0.26).astype(np.float32))
    assert store.read("e").mpp == 0.25
    assert any("1 of 3 rows of c.csv have no features, such as zz" in note for note in report.notes)
    with pytest.raises(DataError, match=r"a column of a table; name the table"):
        pack(job, "t.h5", mpp="mpp")


def test_ids_of_a_table_still_match_a_store_of_several_files(job):
    """The table says a.svs; the store was made of a.h5."""
    pack(job, "t/s.h5", shard_gib=64 / 2**30, mpp=0.25)
    table("c.csv", [{"slide_id": f"{s}.svs", "label": 1} for s in "acde"])
    rows, source, _ = open_cohort(read_cohort("c.csv"), "t")
    assert rows.slide.tolist() == list(source.ids)


def test_the_dtype_of_the_files_is_kept_when_asked(tmp_path):
    path = clam(tmp_path, "a", values(0, 3), grid(3))
    report = pack(path.parent, tmp_path / "s.h5", dtype="keep", encoder="resnet50")
    store = open_store(tmp_path / "s.h5")
    assert (store.dtype, report.dtype) == (np.float32, "float32")
    np.testing.assert_array_equal(store.read("a").x, values(0, 3))
    assert store.provenance["encoder"] == "resnet50"
    double = trident(tmp_path / "wide", "a", values(0, 3).astype(np.float64), grid(3))
    with pytest.raises(DataError, match="dtype='float64': a store holds float16, float32 or bfloat16"):
        pack(double, tmp_path / "t.h5", dtype="keep")
    trident(tmp_path / "mixed", "a", values(0, 1).astype(np.float16), grid(1))
    mixed = trident(tmp_path / "mixed", "b", values(0, 3), grid(3))
    with pytest.raises(DataError, match="Slide 'b' is float32, others are float16"):
        pack(mixed.parent, tmp_path / "t.h5", dtype="keep")
    assert not (tmp_path / "t.h5").exists()
