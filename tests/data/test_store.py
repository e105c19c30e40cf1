"""The native store: what is written is read back bit by bit, and nothing half-made is taken for a store."""

import hashlib
import json
import subprocess
import sys
import textwrap
import time

import h5py
import ml_dtypes
import numpy as np
import pytest

from milkit.data.store import open_store, write_store
from milkit.errors import DataError
from milkit.types import Bag


def some_bags(lengths=(3, 1, 5), d=4, coords=True, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Bag(
            f"s{i:03d}",
            rng.normal(size=(n, d)).astype(np.float32),
            rng.uniform(0, 1e4, (n, 2)).astype(np.float32) if coords else None,
        )
        for i, n in enumerate(lengths)
    ]


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_what_is_written_is_read_back(tmp_path, dtype):
    bags = some_bags()
    path = write_store(tmp_path / "new" / "s.h5", iter(bags), dtype=dtype)
    store = open_store(path)
    kind = {"float16": np.float16, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    assert store.ids == ("s000", "s001", "s002")
    assert store.lengths.tolist() == [3, 1, 5]
    assert store.features == 4
    assert store.dtype == kind
    for bag in bags:
        x, coords = store.read(bag.id).x, store.read(bag.id).coords_um
        assert x.dtype == kind
        np.testing.assert_array_equal(x.astype(np.float32), bag.x.astype(kind).astype(np.float32))
        np.testing.assert_array_equal(coords, bag.coords_um)
    store.validate(deep=True)
    assert leftovers(tmp_path / "new") == ["s.h5"]


def test_reading_gives_views_of_the_file_that_cannot_be_written(tmp_path):
    store = open_store(write_store(tmp_path / "s.h5", some_bags()))
    x = store.read("s002").x
    assert np.shares_memory(x, store.x)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_the_file_is_contiguous_plain_hdf5_with_its_provenance(tmp_path):
    """Checked with h5py alone, as a reader that knows nothing of milkit would see it."""
    bags = some_bags()
    write_store(
        tmp_path / "s.h5",
        bags,
        encoder="uni-v1",
        mpp=0.5,
        tile_um=112.0,
        tile_px=224,
        provenance={"from": ["a.svs"]},
    )
    with h5py.File(tmp_path / "s.h5") as file:
        features = file["features"]
        assert features.chunks is None
        assert features.compression is None
        assert features.dtype == np.float16
        assert features.shape == (9, 4)
        assert file["offsets"][:].tolist() == [0, 3, 4, 9]
        assert file["offsets"].dtype == np.int64
        assert file["bag_ids"].asstr()[:].tolist() == ["s000", "s001", "s002"]
        assert file["coords_um"].dtype == np.float32
        assert file.attrs["encoder"] == "uni-v1"
        assert (file.attrs["mpp"], file.attrs["tile_um"], file.attrs["tile_px"]) == (0.5, 112.0, 224)
        assert json.loads(file.attrs["provenance"]) == {"from": ["a.svs"]}
        np.testing.assert_array_equal(features[3:4], bags[1].x.astype(np.float16))
    provenance = open_store(tmp_path / "s.h5").provenance
    assert provenance["encoder"] == "uni-v1"
    assert provenance["extra"] == {"from": ["a.svs"]}
    json.dumps(dict(provenance))


def test_the_digest_is_that_of_the_content(tmp_path):
    bags = some_bags()
    store = open_store(write_store(tmp_path / "s.h5", bags))
    x = np.concatenate([b.x for b in bags]).astype("<f2").tobytes()
    xy = np.concatenate([b.coords_um for b in bags]).astype("<f4").tobytes()
    parts = [hashlib.sha256(part).hexdigest() for part in (x, xy, np.array([0, 3, 4, 9], "<i8").tobytes())]
    text = "\n".join([*parts, '["s000", "s001", "s002"]'])
    assert store.provenance["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_same_bags_give_the_same_bytes(tmp_path):
    one = write_store(tmp_path / "a.h5", some_bags()).read_bytes()
    two = write_store(tmp_path / "b.h5", some_bags()).read_bytes()
    assert one == two


def test_coords_are_all_or_none(tmp_path):
    store = open_store(write_store(tmp_path / "s.h5", some_bags(coords=False)))
    assert store.coords_um is None
    assert store.read("s000").coords_um is None
    with h5py.File(tmp_path / "s.h5") as file:
        assert "coords_um" not in file
    mixed = [some_bags()[0], some_bags(coords=False)[1]]
    with pytest.raises(DataError, match="'s001' has no coords_um, unlike"):
        write_store(tmp_path / "m.h5", mixed)
    with pytest.raises(DataError, match=r"coords_um of bag 'a'.*expected \(2, 2\)"):
        write_store(tmp_path / "m.h5", [Bag("a", np.zeros((2, 3)), np.zeros((3, 2)))])


BAD = {
    "empty": (
        [Bag("a", np.zeros((2, 3))), Bag("b", np.zeros((0, 3)))],
        r"Bag 'b' has features of shape \(0, 3\)",
    ),
    "flat": ([Bag("a", np.zeros(3))], r"Bag 'a' has features of shape \(3,\)"),
    "twice": ([Bag("a", np.zeros((2, 3))), Bag("a", np.zeros((1, 3)))], "'a' is given twice"),
    "blank": ([Bag("a", np.zeros((2, 3))), Bag(" ", np.zeros((1, 3)))], "after bag 'a'.*has the id ' '"),
    "padded id": ([Bag("a ", np.zeros((2, 3)))], "the first bag.*has the id 'a '"),
    "widths": ([Bag("a", np.zeros((2, 3))), Bag("b", np.zeros((1, 5)))], "'b' has 5 features.*'a' has 3"),
    "nan": (
        [Bag("a", np.array([[0.0, 1], [2, np.nan]]))],
        "'a' holds nan at instance 1, feature 1 .1 values",
    ),
    "inf": ([Bag("a", np.array([[np.inf, 1.0]]))], "'a' holds inf at instance 0, feature 0"),
    "text": ([Bag("a", np.array([["x", "y"]]))], "'a' has features of dtype"),
    "overflow": ([Bag("a", np.array([[0.0, 65505.0]]))], "65505.0 at instance 0, feature 1.*dtype='float32'"),
    "none": ([], "no bag to write"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bags_are_refused_by_name_and_nothing_is_left(tmp_path, name):
    bags, message = BAD[name]
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "s.h5", bags)
    assert leftovers(tmp_path) == []


def test_the_largest_float16_fits_and_larger_values_fit_float32(tmp_path):
    x = np.array([[65504.0, -65504.0]])
    assert open_store(write_store(tmp_path / "a.h5", [Bag("a", x)])).x.tolist() == x.tolist()
    big = np.array([[1e6, -3e38]], np.float32)
    store = open_store(write_store(tmp_path / "b.h5", [Bag("a", big)], dtype="float32"))
    np.testing.assert_array_equal(store.x, big)
    with pytest.raises(DataError, match=r"1e\+39 .* beyond what float32"):
        write_store(tmp_path / "c.h5", [Bag("a", np.array([[1e39]]))], dtype="float32")


def test_whole_numbers_are_taken_as_features(tmp_path):
    x = np.array([[1, -32768], [3, 4]], np.int16)
    np.testing.assert_array_equal(open_store(write_store(tmp_path / "s.h5", [Bag("a", x)])).x, x)


def test_sizes_must_be_possible_and_agree(tmp_path):
    bags = some_bags()
    with pytest.raises(DataError, match=r"mpp=0\.0 is no size"):
        write_store(tmp_path / "s.h5", bags, mpp=0.0)
    with pytest.raises(DataError, match=r"tile_px=224 x mpp=0.5 is 112 um, but tile_um=256"):
        write_store(tmp_path / "s.h5", bags, mpp=0.5, tile_px=224, tile_um=256.0)
    with pytest.raises(DataError, match="provenance cannot be written as JSON"):
        write_store(tmp_path / "s.h5", bags, provenance={"x": np.zeros(2)})


def test_an_existing_store_is_kept_unless_told(tmp_path):
    path = write_store(tmp_path / "s.h5", some_bags())
    before = path.read_bytes()
    with pytest.raises(DataError, match="there already"):
        write_store(path, some_bags(seed=1))
    assert path.read_bytes() == before
    write_store(path, some_bags(seed=1), overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(DataError, match="is a folder"):
        write_store(tmp_path, some_bags())


@pytest.mark.parametrize("error", [RuntimeError("encoder died"), KeyboardInterrupt()])
def test_an_error_in_mid_write_leaves_the_old_store_and_nothing_else(tmp_path, error):
    path = write_store(tmp_path / "s.h5", some_bags())
    before = path.read_bytes()

    def dies():
        yield some_bags(seed=1)[0]
        assert len(leftovers(tmp_path)) == 2  # the spool is there while writing
        raise error

    with pytest.raises(type(error)) as caught:
        write_store(path, dies(), overwrite=True)
    assert caught.value is error
    with pytest.raises(type(error)):
        write_store(tmp_path / "other.h5", dies())
    assert leftovers(tmp_path) == ["s.h5"]
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40_000, 130_000])  # in the spool; in the HDF5 file's own bytes on top
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, limit):
    """The file size limit of the process stands in for a full disk: 128,000 bytes of features do not fit."""
    code = f"""
        import resource
        import numpy as np
        from milkit.data.store import write_store
        from milkit.errors import DataError
        from milkit.types import Bag
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            write_store({str(tmp_path / "s.h5")!r}, (Bag(str(i), np.ones((10, 64))) for i in range(100)))
        except DataError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "failed" in done.stdout, done.stderr
    assert "free space" in done.stdout
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_store_cut_short_is_refused(tmp_path, keep):
    path = write_store(tmp_path / "s.h5", some_bags(lengths=(500, 700), d=32))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match="cut short" if keep else "empty file") as caught:
        open_store(path)
    assert "s.h5" in str(caught.value)


def test_every_cut_of_a_small_store_is_refused(tmp_path):
    path = write_store(tmp_path / "s.h5", some_bags())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            open_store(path)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        open_store(tmp_path / "none.h5")
    with pytest.raises(DataError, match="is a folder"):
        open_store(tmp_path)
    (tmp_path / "text.h5").write_text("slide_id,label\n" * 100)
    with pytest.raises(DataError, match="not an HDF5 file"):
        open_store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["features"] = np.zeros((3, 4))
        file["coords"] = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"not a milkit store.*'coords', 'features'.*write_store"):
        open_store(tmp_path / "clam.h5")


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


DAMAGE = {
    "newer": (lambda f: f.attrs.update(format_version=3), "store format 3.*reads up to 2"),
    "offsets fall": (lambda f: f["offsets"].__setitem__(1, 8), "offsets do not rise"),
    "empty bag": (lambda f: f["offsets"].__setitem__(1, 4), "offsets do not rise"),
    "offsets end early": (lambda f: f["offsets"].__setitem__(3, 8), "offsets do not rise"),
    "dtype": (lambda f: f.attrs.update(dtype="float32"), "float16 on disk, but its attribute says float32"),
    "attribute": (lambda f: f.attrs.__delitem__("dtype"), "cannot be read as a store"),
    "dataset": (lambda f: f.__delitem__("offsets"), "cannot be read as a store"),
    "ids": (lambda f: f["bag_ids"].__setitem__(1, "s000"), "a bag id more than once"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_the_structure_is_found_on_opening(tmp_path, name):
    change, message = DAMAGE[name]
    path = write_store(tmp_path / "s.h5", some_bags())
    damage(path, change)
    with pytest.raises(DataError, match=message):
        open_store(path)


def test_a_deep_look_finds_nan_and_changed_bytes(tmp_path):
    path = write_store(tmp_path / "s.h5", some_bags())
    damage(path, lambda f: f["features"].__setitem__((3, 1), np.nan))  # row 3 is the only instance of s001
    open_store(path).validate()
    with pytest.raises(DataError, match="features of bag 's001' hold NaN or infinity at instance 0"):
        open_store(path).validate(deep=True)
    damage(path, lambda f: f["features"].__setitem__((3, 1), 1.25))
    with pytest.raises(DataError, match="not what was written"):
        open_store(path).validate(deep=True)


def test_an_unknown_bag_is_an_error_with_a_hint(tmp_path):
    store = open_store(write_store(tmp_path / "s.h5", some_bags()))
    with pytest.raises(DataError, match=r"no bag 's01'.*Did you mean 's0"):
        store.read("s01")


def test_ten_thousand_bags_open_fast(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 16)).astype(np.float16)
    path = write_store(tmp_path / "s.h5", (Bag(f"slide-{i:05d}", x[: 1 + i % 8]) for i in range(10_000)))
    start = time.process_time()
    store = open_store(path)
    total = sum(len(store.read(name).x) for name in store.ids)
    assert time.process_time() - start < 1.0
    assert total == int(store.lengths.sum()) == 45_000
