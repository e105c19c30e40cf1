"""Frames and slices as bags: by hand, and against nibabel's own orientation."""

import gzip
import struct
import sys
import warnings

import nibabel
import numpy as np
import pytest
from PIL import Image

from milkit.errors import ConfigError, DataError
from milkit.slides.stacks import Stack, Stacking, find_stack, open_stack

CT = Stacking(window=(-100.0, 155.0))  # a step of intensity is a step of grey


def frame(path, value, size=(6, 4)):
    Image.new("RGB", size, (value, 2, 3)).save(path)
    return path


def nifti(path, values, affine=None, kind=nibabel.Nifti1Image, **header):
    image = kind(values, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units(header.pop("unit", "mm"))
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def ramp(shape=(3, 4, 5)):
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def whole(stack: Stack):
    with stack:
        return stack.read_tiles(0, len(stack))


# frames


def test_frames_come_by_number_and_a_gap_is_noted(tmp_path):
    for number in (10, 2, 1, 4):
        frame(tmp_path / f"cam2_{number}.png", number)
    (tmp_path / "notes.txt").write_text("of the endoscope")
    (tmp_path / ".hidden").write_text("")
    with open_stack(tmp_path) as stack:
        assert len(stack) == 4
        assert stack.positions.tolist() == [1, 2, 4, 10]
        assert stack.read_tiles(0, 4)[:, 1, 0, 0].tolist() == [1, 2, 4, 10]
        assert (stack.facts["size_px"], stack.facts["positions"]) == ([6, 4], [1, 2, 4, 10])
        assert stack.coords_um is None
        assert stack.facts["notes"] == [
            "passed over 1 that are no PNG or JPEG: notes.txt",
            "6 frames are missing between 1 and 10: 3, 5 to 9",
        ]


def test_every_tenth_frame_is_no_gap(tmp_path):
    for number in (0, 10, 20, 100, 110):
        frame(tmp_path / f"{number:04}.png", 1)
    with open_stack(tmp_path) as stack:
        assert stack.facts["notes"] == ["7 frames are missing between 0 and 110: 30 to 90"]
    (tmp_path / "0100.png").unlink()
    (tmp_path / "0110.png").unlink()
    with open_stack(tmp_path) as stack:
        assert stack.facts["notes"] == []


def test_names_that_differ_by_more_than_a_number_are_counted(tmp_path):
    for value, name in enumerate(["a9_2.png", "a9_10.png", "a10_1.png"]):
        frame(tmp_path / name, value)
    with open_stack(tmp_path) as stack:
        assert stack.positions.tolist() == [0, 1, 2]
        assert stack.read_tiles(0, 3)[:, 1, 0, 0].tolist() == [0, 1, 2]
        assert "counted from 0" in stack.facts["notes"][0]


def test_one_frame_has_its_last_number(tmp_path):
    frame(tmp_path / "cam2_0017.jpg", 9)
    with open_stack(tmp_path) as stack:
        assert stack.positions.tolist() == [17]


def test_squares_by_borders_or_by_the_middle(tmp_path):
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    padded = whole(open_stack(tmp_path))
    assert padded.shape == (1, 5, 5, 3)
    assert (padded[0, 1:3] == pixels).all()
    assert not padded[0, 0].any()
    assert not padded[0, 3:].any()
    black = np.zeros((5, 5, 3), np.uint8)
    black[1:3] = pixels
    smaller = Image.fromarray(black).resize((2, 2), Image.Resampling.LANCZOS)
    assert (whole(open_stack(tmp_path, Stacking(side_px=2)))[0] == np.asarray(smaller)).all()
    cropped = whole(open_stack(tmp_path, Stacking(square="crop")))
    assert (cropped[0] == pixels[:, 1:3]).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: None, "holds no frame .*it is empty"),
        (lambda d: (d / "film.mp4").write_bytes(b"x"), "holds film.mp4. Cut the video into frames: ffmpeg -i film.mp4"),
        (lambda d: [frame(d / "f_1.png", 1), frame(d / "f_01.png", 1)], "f_01.png and f_1.png, which are the same"),
        (lambda d: [frame(d / "f_1.png", 1), frame(d / "f_1.jpg", 1)], "f_1.jpg and f_1.png, which are the same"),
        (lambda d: (d / "1.png").write_bytes(b""), "1.png is empty"),
        (lambda d: (d / "1.png").write_bytes(b"none"), "1.png cannot be decoded"),
    ],
)
def test_folders_that_are_no_frames(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        open_stack(tmp_path)


def test_frames_that_cannot_be_read_are_named_when_their_turn_comes(tmp_path):
    for number in range(3):
        frame(tmp_path / f"{number}.png", 5)
    frame(tmp_path / "1.png", 5, size=(7, 4))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    stack = open_stack(tmp_path)
    assert len(stack.read_tiles(0, 1)) == 1
    with pytest.raises(DataError, match=r"1.png has 7 x 4 pixels, but 0.png has 6 x 4"):
        stack.read_tiles(0, 2)
    with pytest.raises(DataError, match=r"2.png cannot be decoded"):
        stack.read_tiles(2, 3)
    with pytest.raises(DataError, match="0 to 2; 0 to 4"):
        stack.read_tiles(0, 4)


def test_a_folder_that_changes_is_noticed(tmp_path):
    frame(tmp_path / "1.png", 5)
    stack = open_stack(tmp_path)
    (tmp_path / ".DS_Store").write_text("")
    assert stack.unchanged()
    frame(tmp_path / "2.png", 5)
    assert not stack.unchanged()
    with pytest.raises(DataError, match="changed while it was read"), stack:
        stack.read_tiles(0, 1)


# volumes


def test_arrays_of_bytes_are_pixels(tmp_path):
    grey = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    np.save(tmp_path / "v.npy", grey)
    got = whole(open_stack(tmp_path / "v.npy"))
    assert (got[:, :4] == grey[..., None]).all()
    assert not got[:, 4].any()
    colours = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    np.save(tmp_path / "v.npy", np.asfortranarray(colours))
    assert (whole(open_stack(tmp_path / "v.npy", CT)) == colours).all()


def test_a_window_is_a_line_between_black_and_white(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[[-500.0, -100.0], [-99.5, -99.6]], [[155.0, 154.4], [900.0, 0.0]]]))
    with open_stack(tmp_path / "v.npy", CT) as stack:
        assert stack.read_tiles(0, 2)[..., 0].tolist() == [[[0, 0], [1, 0]], [[255, 254], [255, 100]]]
        assert stack.facts["window"] == [-100, 155]
        assert stack.facts["spacing_mm"] is None
        assert stack.positions.tolist() == [0, 1]


def test_colours_of_other_numbers_have_a_window_too(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[[[0.0, 0.5, 1.0]]]], np.float32))
    assert whole(open_stack(tmp_path / "v.npy", Stacking(window=(0.0, 1.0)))).tolist() == [[[[0, 128, 255]]]]
    with pytest.raises(DataError, match="holds float32: which intensities"):
        open_stack(tmp_path / "v.npy")


def test_nibabel_is_an_extra(tmp_path, monkeypatch):
    path = nifti(tmp_path / "v.nii", ramp())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match=r"pip install 'milkit\[volumes\]'"):
        open_stack(path, CT)


def test_percentiles_are_of_the_whole_volume(tmp_path):
    values = np.arange(101, dtype=np.float32).reshape(1, 1, 101) * 10
    np.save(tmp_path / "v.npy", values)
    with open_stack(tmp_path / "v.npy", Stacking(percentiles=(10.0, 61.0))) as stack:
        assert stack.facts["window"] == [100, 610]
        assert stack.read_tiles(0, 1)[0, 50, :13, 0].tolist() == [0] * 11 + [5, 10]
    path = nifti(tmp_path / "v.nii", values.astype(np.int16), scl_slope=1, scl_inter=0)
    scaled = bytearray(path.read_bytes())
    struct.pack_into("<ff", scaled, 112, -0.5, 7)  # scl_slope, scl_inter
    path.write_bytes(scaled)
    with open_stack(path, Stacking(percentiles=(10.0, 61.0), axis="k")) as stack:
        expected = np.percentile(7 - 0.5 * values, [10, 61])
        assert stack.facts["window"] == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seed", range(3))
def test_slices_lie_as_nibabel_turns_them(tmp_path, kind, ending, seed):
    """A random order and sense of the axes: the axial slices are those of the canonical volume, seen from the feet."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * [2.0, 3.0, 4.0])[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine[:3, :3] += rng.normal(0, 0.1, (3, 3))
    path = nifti(tmp_path / f"v{ending}", ramp(), affine, kind)
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    left, posterior = canonical[::-1], canonical[:, ::-1]
    expected = {
        "axial": left[:, ::-1].transpose(2, 1, 0),
        "coronal": left[:, ::-1, ::-1].transpose(1, 2, 0),
        "sagittal": posterior[::-1, :, ::-1].transpose(0, 2, 1),
    }
    zooms = nibabel.as_closest_canonical(nibabel.load(path)).header.get_zooms()
    for axis, values in expected.items():
        with open_stack(path, Stacking(window=(0.0, 255.0), axis=axis, square="pad")) as stack:
            n, h, w = values.shape
            assert stack.facts["size_px"] == [w, h]
            side = max(h, w)
            y, x = (side - h) // 2, (side - w) // 2
            assert (stack.read_tiles(0, n)[:, y : y + h, x : x + w, 0] == values).all()
            assert len(stack) == n
            across = zooms[{"axial": 2, "coronal": 1, "sagittal": 0}[axis]]
            assert stack.positions == pytest.approx(np.arange(n) * across, rel=1e-5)


def test_an_axial_slice_has_the_front_on_top_and_the_right_on_the_left(tmp_path):
    values = np.zeros((3, 4, 2), np.uint8)  # to the right, to the front, to the head
    values[2, 3, 1] = 200  # right, front, upper
    values[0, 0, 0] = 100  # left, back, lower
    with open_stack(nifti(tmp_path / "v.nii", values, np.diag([2.0, 2.0, 5.0, 1.0])), Stacking()) as stack:
        lower, upper = stack.read_tiles(0, 2)[..., 0]
    assert upper[0].tolist() == [200, 0, 0, 0]
    assert upper.sum() == 200
    assert lower[3].tolist() == [0, 0, 100, 0]  # the third of three columns; the odd border is on the right
    assert stack.facts["spacing_mm"] == [5, 2, 2]
    assert stack.positions.tolist() == [0, 5]


def test_along_an_index_as_stored(tmp_path):
    values = ramp((3, 3, 3))
    path = nifti(tmp_path / "v.nii", values, -np.eye(4))
    for axis, expected in {"k": values.transpose(2, 1, 0), "j": values.transpose(1, 2, 0)}.items():
        assert (whole(open_stack(path, Stacking(window=(0.0, 255.0), axis=axis)))[..., 0] == expected).all()


def test_units_and_tilt_are_said(tmp_path):
    path = nifti(tmp_path / "v.nii", ramp(), np.diag([300.0, 300.0, 400.0, 1.0]), unit="micron")
    with open_stack(path, CT) as stack:
        assert stack.facts["spacing_mm"] == pytest.approx([0.4, 0.3, 0.3])
        assert stack.coords_um.tolist() == [[0, 0], [400, 0], [800, 0], [1200, 0], [1600, 0]]
        assert stack.facts["notes"] == []
    turn = np.radians(20)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    path = nifti(tmp_path / "t.nii", ramp(), affine, unit="unknown")
    with open_stack(path, CT) as stack:
        assert stack.facts["spacing_mm"] is None
        assert stack.positions.tolist() == [0, 1, 2, 3, 4]
        tilted, unit = stack.facts["notes"]
        assert stack.coords_um is None
    with open_stack(path, Stacking(window=(0.0, 9.0), unit="meter")) as stack:
        assert stack.positions.tolist() == pytest.approx([0, 1000, 2000, 3000, 4000])
    assert tilted.startswith("slices are tilted by 20 degrees")
    assert "counted in slices" in unit


def test_headers_that_can_be_mended_or_not(tmp_path, capfd, caplog):
    """Axes that lie in one plane; widths that are none; what nibabel mends is not printed."""
    path = nifti(tmp_path / "v.nii", ramp(), np.diag([1.0, 1.0, 1.0, 1.0]))
    data = bytearray(path.read_bytes())
    struct.pack_into("<4f", data, 296, 1, 0, 0, 0)  # srow_y as srow_x
    path.write_bytes(data)
    with pytest.raises(DataError, match="does not state how it lies"):
        open_stack(path, CT)
    struct.pack_into("<4f", data, 76, 1, -2, 0, np.nan)  # pixdim
    struct.pack_into("<2h", data, 252, 0, 0)
    path.write_bytes(data)
    with open_stack(path, Stacking(window=(0.0, 9.0), axis="k")) as stack:
        assert stack.coords_um is None
        assert stack.facts["notes"][0].startswith("the file states a spacing of (2.0, 0.0, nan)")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_colours_scales_and_byte_order(tmp_path):
    colours = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    records = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    got = whole(open_stack(nifti(tmp_path / "c.nii", records), Stacking(axis="k")))
    assert (got == colours.transpose(2, 1, 0, 3)).all()
    swapped = nibabel.Nifti1Image(ramp().astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    swapped.to_filename(tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    got = whole(open_stack(tmp_path / "b.nii", Stacking(window=(0.0, 255.0), axis="i")))
    assert (got[:, :5, :4, 0] == ramp().transpose(0, 2, 1)).all()
    path = nifti(tmp_path / "one.nii", ramp()[..., None])
    assert len(open_stack(path, CT)) == 5


def bytes_at(place, code, *values):
    def change(data):
        struct.pack_into(f"<{code}", data, place, *values)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.__delitem__(slice(400, None)), "should hold 472 bytes by its header, but has 400"),
        (lambda d: d.__delitem__(slice(100, None)), "no NIfTI volume by its first bytes"),
        (lambda d: d.__setitem__(slice(0, 4), b"\x89PNG"), "no NIfTI volume by its first bytes"),
        (bytes_at(344, "4s", b"ni1\0"), r"lie in an .img file beside it"),
        (bytes_at(344, "4s", b"\0\0\0\0"), "older ANALYZE format"),
        (bytes_at(40, "5h", 4, 3, 4, 1, 5), r"shape \[3, 4, 1, 5\]; a volume has three dimensions"),
        (bytes_at(40, "4h", 3, 3, 4, 0), "holds no slice"),
        (bytes_at(42, "3h", 32000, 32000, 32000), "should hold 65,536,000,000,352 bytes"),
        (bytes_at(70, "2h", 32, 64), "complex64; expected real numbers"),
        (bytes_at(70, "h", 999), "no NIfTI volume, or damaged"),
        (bytes_at(108, "f", 16.0), "within its header|damaged"),
        (bytes_at(252, "2h", 0, 0), "does not state how it lies in the body .*--axis k"),
    ],
)
def test_damaged_volumes(tmp_path, change, said):
    path = nifti(tmp_path / "v.nii", ramp())
    data = bytearray(path.read_bytes())
    assert len(data) == 472
    change(data)
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        open_stack(path, CT)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match=said.replace("should hold 65,", "claims 65,")):  # the same, unpacked
        open_stack(tmp_path / "v.nii.gz", CT)


def test_damaged_compression(tmp_path):
    path = nifti(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 999, (9, 9, 9), np.int16))
    good = path.read_bytes()
    path.write_bytes(good[:-300])
    with pytest.raises(DataError, match=r"cannot be unpacked .*truncated or damaged"):
        open_stack(path, CT)
    path.write_bytes(good[:-8] + b"\0\0\0\0" + good[-4:])
    with pytest.raises(DataError, match=r"cannot be unpacked .*CRC"):
        open_stack(path, CT)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        open_stack(path, CT)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((4, 5)), r"shape \[4, 5\]; expected \[slices, height, width\]"),
        (np.zeros((2, 4, 5, 2)), "expected"),
        (np.zeros((40, 50, 3), np.uint8), "that of one picture with colours"),
        (np.zeros((0, 4, 5), np.uint8), "0 slices"),
        (np.zeros((1, 1, 16385), np.uint8), r"squares of 16385 are more than can be held .*--square crop"),
        (np.zeros((2, 4, 5), complex), "damaged|expected"),
        (np.zeros((2, 4, 5), np.int16), r"holds int16: which intensities are black and white .*--window LOW HIGH"),
    ],
)
def test_arrays_that_are_no_volumes(tmp_path, values, said):
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(DataError, match=said):
        open_stack(tmp_path / "v.npy")


def test_numbers_that_are_not_finite_are_named(tmp_path):
    values = np.zeros((3, 2, 2))
    values[1, 0] = np.nan, np.inf
    np.save(tmp_path / "v.npy", values)
    stack = open_stack(tmp_path / "v.npy", CT)
    assert stack.read_tiles(0, 1).max() == 100
    with pytest.raises(DataError, match="2 numbers of slice 1 are not finite"):
        stack.read_tiles(1, 2)
    with pytest.raises(DataError, match="not finite, so it has no percentiles"):
        open_stack(tmp_path / "v.npy", Stacking(percentiles=(0.0, 100.0)))
    np.save(tmp_path / "v.npy", np.zeros((3, 2, 2)))
    with pytest.raises(DataError, match="both 0; ask for wider ones"):
        open_stack(tmp_path / "v.npy", Stacking(percentiles=(0.0, 100.0)))


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "v.npy", np.array([None], object), allow_pickle=True)
    with pytest.raises(DataError):
        open_stack(tmp_path / "v.npy")


def test_choices_that_do_not_fit():
    with pytest.raises(ConfigError, match="give one of them"):
        Stacking(window=(0.0, 1.0), percentiles=(0.0, 1.0))
    with pytest.raises(ConfigError, match="LOW below HIGH"):
        Stacking(window=(2.0, 1.0))
    with pytest.raises(ConfigError, match="percentiles"):
        Stacking(percentiles=(0.0, 101.0))
    assert CT.settings == {
        "window": [-100, 155],
        "percentiles": None,
        "axis": "axial",
        "unit": "",
        "square": "pad",
        "side_px": 0,
    }


def test_a_bag_is_found_by_its_name(tmp_path):
    (tmp_path / "case.1").mkdir()
    np.save(tmp_path / "case.2.npy", 1)
    assert find_stack(tmp_path, "case.1") == tmp_path / "case.1"
    assert find_stack(tmp_path, "case.2") == tmp_path / "case.2.npy"
    with pytest.raises(DataError, match="neither a folder 'case' of frames nor a volume"):
        find_stack(tmp_path, "case")
    np.save(tmp_path / "case.1.npy", 1)
    with pytest.raises(DataError, match=r"case.1 and case.1.npy, which could all be 'case.1'"):
        find_stack(tmp_path, "case.1")
    (tmp_path / "other.dcm").write_bytes(b"x")
    with pytest.raises(DataError, match="no volume by its ending"):
        open_stack(tmp_path / "other.dcm")


def test_a_damaged_head_of_an_array_is_refused_without_a_warning(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.zeros((2, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"'|u1'", b"'\\d1'"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # where warnings are errors, they are refused as such
        with pytest.raises(DataError, match="damaged"):
            open_stack(path)
    assert [str(w.message) for w in said] == []
