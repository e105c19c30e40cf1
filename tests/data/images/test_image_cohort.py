"""A user's folder of images: what is read, how it is converted, what is refused; and masks that stay closed."""

import struct
import sys
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from PIL import Image

from milkit.data.images import ImageCohort
from milkit.data.images.decode import Reading, block_means, on_white, read_image, size_of, to_8_bits, turned
from milkit.errors import CohortError, ConfigError, DataError
from milkit.experiment import allowed_types
from milkit.task import Binary

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 6, 3), np.uint8)


def save(path, pixels, **how):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.asarray(pixels)).save(path, **how)
    return path


def folder(tmp_path, images, rows=None):
    for name, pixels in images.items():
        save(tmp_path / name, pixels)
    rows = rows or [f"{name},{i % 2},p{i}" for i, name in enumerate(images)]
    (tmp_path / "t.csv").write_text("image,label,patient\n" + "\n".join(rows) + "\n")
    return str(tmp_path / "t.csv")


def test_a_folder_and_a_table_are_a_study(tmp_path):
    other = RNG.integers(0, 256, (5, 3, 3), np.uint8)
    table = folder(tmp_path, {"a.png": COLOURS, "b.png": other}, ["b.png,1,p1", "a,0,p0", "c.png,1,p2"])
    study = ImageCohort(table).load(Binary())
    assert study.bag.tolist() == ["p1", "p0"]  # a bag is named by its patient
    assert study.slides == (("b.png",), ("a",))
    assert study.sizes.tolist() == [[5, 3], [4, 6]]
    np.testing.assert_array_equal(study.read(1).x.reshape(4, 6, 3), COLOURS)
    np.testing.assert_array_equal(study.read(0).x, other.reshape(15, 3))
    assert study.read(0).x.dtype == np.uint8
    assert study.positions(0) is None
    assert study.targets.values.tolist() == [1, 0]
    assert study.flow.left_out == (("c.png", "the table has a row but there is no such image file"),)
    assert any("height 4 to 5, width 3 to 6" in note for note in study.flow.notes)


def test_images_of_one_patient_need_the_unit_slide(tmp_path):
    table = folder(tmp_path, {"a.png": COLOURS, "b.png": COLOURS}, ["a.png,1,p", "b.png,0,p"])
    with pytest.raises(ConfigError, match='Set unit="slide"'):
        ImageCohort(table).load(Binary())
    study = ImageCohort(table).load(Binary(), "slide")
    assert study.bag.tolist() == ["a.png", "b.png"]
    assert study.patient.tolist() == ["p", "p"]


def test_tables_that_cannot_be_used(tmp_path):
    images = {"a.png": COLOURS, "b.png": COLOURS, "c.png": COLOURS}
    table = folder(tmp_path, images, ["a.png,1,p", "b.png,,q", "c.png,0,r"])
    study = ImageCohort(table).load(Binary(), "slide")
    assert study.flow.left_out == (("b.png", "no value in column 'label'"),)
    with pytest.raises(CohortError, match=r"b\.png"):
        ImageCohort(table, strict=True).load(Binary(), "slide")
    with pytest.raises(CohortError, match=r"none of its 3 images is in .*elsewhere.*images="):
        ImageCohort(table, images=str(tmp_path / "elsewhere")).load(Binary())
    with pytest.raises(DataError, match=r"2 images of 't' take .* max_gib=1e-08.* downsample=4"):
        ImageCohort(table, max_gib=1e-8).load(Binary(), "slide")


def test_grey_palette_alpha_and_cmyk_become_rgb(tmp_path):
    grey = COLOURS[..., 0]
    pixels, said = read_image(save(tmp_path / "g.png", grey))
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, -1))
    assert said == ("grey to RGB",)
    pixels, _ = read_image(save(tmp_path / "1.png", grey > 127))
    assert set(np.unique(pixels)) == {0, 255}
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    image.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0].tolist() == [[[40, 50, 60], [10, 20, 30]]]
    image.save(tmp_path / "pt.png", transparency=1)
    assert read_image(tmp_path / "pt.png")[0].tolist() == [[[255, 255, 255], [10, 20, 30]]]
    half = np.array([[[0, 100, 200, 255], [0, 100, 200, 0], [0, 100, 200, 51]]], np.uint8)
    # a fifth of the colour, four fifths of white: 204, 20 + 204, 40 + 204
    expected = [[[0, 100, 200], [255, 255, 255], [204, 224, 244]]]
    assert on_white(half).tolist() == expected
    assert read_image(save(tmp_path / "a.png", half))[0].tolist() == expected
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    ink.save(tmp_path / "c.tif")
    assert read_image(tmp_path / "c.tif")[0][0, 0].tolist() == [0, 255, 255]
    ink.save(tmp_path / "c.jpg", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "c.jpg")[0][0, 0].astype(int), [0, 255, 255], atol=3)


def test_16_bits_become_8(tmp_path):
    deep = np.array([[0, 128, 129, 65535]], np.uint16)
    assert to_8_bits(deep, 65535).tolist() == [[0, 0, 1, 255]]  # 257 to a step; 128.5 is the half
    for name in ("d.png", "d.tif"):
        pixels, said = read_image(save(tmp_path / name, deep))
        assert pixels[0, :, 1].tolist() == [0, 0, 1, 255]
        assert "16 to 8 bits, 65535 is white" in said
    with pytest.raises(DataError, match="values from 0 to 65535, but white is 4095"):
        read_image(tmp_path / "d.tif", Reading(white=4095))
    colour = RNG.integers(0, 4096, (3, 5, 3), np.uint16)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif", Reading(white=4095))[0], to_8_bits(colour, 4095))
    assert size_of(tmp_path / "rgb.tif", Reading()) == (3, 5)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif", Reading(white=4095))[0], to_8_bits(colour, 4095))


@pytest.mark.parametrize("ending", ["jpg", "tif", "png"])
def test_the_orientation_of_cameras(tmp_path, ending):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # white at the top left, higher than wide once turned
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        quality = {"quality": 100} if ending == "jpg" else {}
        path = save(tmp_path / f"{orientation}.{ending}", pixels, exif=exif, **quality)
        read, _ = read_image(path)
        assert size_of(path, Reading()) == (16, 24) == read.shape[:2]
        np.testing.assert_allclose(read.astype(int), upright, atol=4)
        np.testing.assert_array_equal(turned(pixels, orientation), upright)


def test_blocks_of_pixels_are_averaged():
    pixels = np.array([[0, 2, 9], [4, 7, 10], [1, 2, 200]], np.uint8)[..., None]
    # (0 + 2 + 4 + 7) / 4 = 3.25; (9 + 10) / 2 = 9.5, up; (1 + 2) / 2 = 1.5, up
    assert block_means(pixels, 2)[..., 0].tolist() == [[3, 10], [2, 200]]


def png(width, height, data=b"", bits=8):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_of_a_16_bit_colour_png_the_upper_byte_is_taken(tmp_path):
    (tmp_path / "d.png").write_bytes(png(1, 1, zlib.compress(b"\0" + bytes([1, 255, 128, 0, 255, 255])), bits=16))
    tifffile.imwrite(
        tmp_path / "d.tif", np.array([[[511, 32768, 65535]]], np.uint16), photometric="rgb", compression="lzw"
    )
    for name in ("d.png", "d.tif"):
        assert read_image(tmp_path / name)[0].tolist() == [[[1, 128, 255]]]
        assert read_image(tmp_path / name)[1] == ("upper byte of 16 bits",)
        with pytest.raises(DataError, match="white=4095 cannot be heeded"):
            read_image(tmp_path / name, Reading(white=4095))


def broken(tmp_path):
    deep = tmp_path / "deep.tif"
    tmp_path.mkdir(exist_ok=True)
    tifffile.imwrite(deep, RNG.integers(0, 65536, (40, 40, 3), np.uint16), photometric="rgb", compression="zlib")
    whole = save(tmp_path / "w.png", RNG.integers(0, 256, (40, 40, 3), np.uint8)).read_bytes()
    jpeg = save(tmp_path / "w.jpg", RNG.integers(0, 256, (40, 40, 3), np.uint8)).read_bytes()
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(tmp_path / "w.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(COLOURS[..., 0].astype(np.float32)).save(tmp_path / "f.tif")
    return {
        "it breaks off": (whole[: len(whole) // 2], "damaged or breaks off"),
        "a JPEG that breaks off": (jpeg[: len(jpeg) // 2], "damaged or breaks off"),
        "a deep TIFF that breaks off": (deep.read_bytes()[:3000], "damaged or breaks off|no image"),
        "empty": (b"", "is empty"),
        "text": (b"image,label\n", "no image that can be read"),
        "more than the file can hold": (png(8000, 8000, zlib.compress(b"\0" * 99)), "more than its .* bytes can hold"),
        "huge": (png(20000, 20000), "claims too many|max_megapixels"),
        "pages": ((tmp_path / "w.tif").read_bytes(), "holds 2 images or pages"),
        "floats": ((tmp_path / "f.tif").read_bytes(), "'F'; expected grey"),
    }


def test_files_that_are_no_images_are_named(tmp_path):
    for what, (content, said) in broken(tmp_path / "made").items():
        here = tmp_path / what
        save(here / "good.png", COLOURS)
        table = folder(here, {"good.png": COLOURS}, ["good.png,0,p0", "bad.png,1,p1"])
        (here / "bad.png").write_bytes(content)
        with pytest.raises(DataError, match=f"bad.png.*({said})"):
            ImageCohort(table).load(Binary())
        assert (here / "bad.png").read_bytes() == content, what


def test_lab_pixels_are_refused(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "l.tif")
    with pytest.raises(DataError, match="'LAB'; expected grey"):
        read_image(tmp_path / "l.tif")


@contextmanager
def opened_files():
    """Every file that Python opens meanwhile."""
    seen, on = [], [True]
    sys.addaudithook(lambda event, args: seen.append(str(args[0])) if on[0] and event == "open" else None)
    yield seen
    on[0] = False


def test_no_mask_is_opened_by_loading(tmp_path):
    table = folder(tmp_path, {"a.png": COLOURS, "b.png": COLOURS})
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b_anno.png"):
        (tmp_path / "masks" / name).write_bytes(b"no image at all")
    data = ImageCohort(table, masks=str(tmp_path / "masks"))
    with opened_files() as files:
        study = data.load(Binary())
        masks = data.masks_of(study)
    assert any("a.png" in file for file in files)
    assert not [file for file in files if "masks" in file]
    assert any("2 of 2 images have a mask, for scoring only" in note for note in study.flow.notes)
    with opened_files() as files, pytest.raises(DataError, match="no image that can be read"):
        masks.truth(0)
    assert [file for file in files if "masks" in file]


def masks_of(tmp_path, mask, name="a.png", **how):
    table = folder(tmp_path, {"a.png": COLOURS, "other.png": COLOURS})
    (tmp_path / "masks").mkdir(exist_ok=True)
    for old in (tmp_path / "masks").iterdir():
        old.unlink()
    save(tmp_path / "masks" / name, mask)
    data = ImageCohort(table, masks=str(tmp_path / "masks"), **how)
    return data.masks_of(data.load(Binary()))


def test_masks_by_hand(tmp_path):
    labels = np.zeros((4, 6), np.uint8)
    labels[0, 0], labels[3, 5] = 1, 2
    for stored in (labels, labels.astype(np.uint16), np.stack([labels] * 3, -1)):
        masks = masks_of(tmp_path, stored)
        np.testing.assert_array_equal(masks.truth(0), labels > 0)
        np.testing.assert_array_equal(masks.objects(0), labels)
    np.testing.assert_array_equal(masks_of(tmp_path, (labels > 0) * np.uint8(255)).truth(0), labels > 0)
    np.testing.assert_array_equal(masks_of(tmp_path, labels > 0).truth(0), labels > 0)
    np.testing.assert_array_equal(masks_of(tmp_path, labels, foreground=(2,)).truth(0), labels == 2)
    # of blocks of 2 x 2 the pixel at row 1, column 1
    small = masks_of(tmp_path, labels, downsample=2)
    np.testing.assert_array_equal(small.objects(0), [[0, 0, 0], [0, 0, 2]])
    one = masks_of(tmp_path, labels, "other_mask.png")
    assert [one.has(0), one.has(1)] == [False, True]
    with pytest.raises(DataError, match=r"no mask of image 'a.png'"):
        one.truth(0)
    with pytest.raises(DataError, match=r"holds no mask of any image; its files are 'z'"):
        masks_of(tmp_path, labels, "z.png")


def test_masks_that_are_none(tmp_path):
    smooth = np.linspace(0, 255, 24).astype(np.uint8).reshape(4, 6)
    with pytest.raises(DataError, match=r"a.png is a mask with 24 grey values .*save it as PNG"):
        masks_of(tmp_path, smooth).truth(0)
    with pytest.raises(DataError, match=r"mask of image 'a.png', has 5 x 6 pixels .*but the image has 4 x 6"):
        masks_of(tmp_path, np.zeros((5, 6), np.uint8)).truth(0)
    with pytest.raises(DataError, match="mask in colour"):
        masks_of(tmp_path, COLOURS).truth(0)
    table = folder(tmp_path, {"a.png": COLOURS, "b.png": COLOURS})
    with pytest.raises(DataError, match="neither a folder nor a column"):
        ImageCohort(table, masks="nothing").load(Binary())
    with pytest.raises(DataError, match="names no masks"):
        ImageCohort(table).masks_of(ImageCohort(table).load(Binary()))


def test_masks_from_a_column(tmp_path):
    save(tmp_path / "m" / "first.png", np.ones((4, 6), np.uint8))
    save(tmp_path / "a.png", COLOURS)
    save(tmp_path / "b.png", COLOURS)
    (tmp_path / "t.csv").write_text("image,label,mask\na.png,1,m/first.png\nb.png,0,\n")
    data = ImageCohort(str(tmp_path / "t.csv"), masks="mask")
    masks = data.masks_of(data.load(Binary()))
    assert [masks.has(0), masks.has(1)] == [True, False]
    assert masks.truth(0).sum() == 24


def test_it_may_stand_in_a_config_file():
    assert allowed_types()["ImageCohort"] is ImageCohort
    with pytest.raises(ConfigError, match="downsample"):
        ImageCohort("t.csv", downsample=0)
