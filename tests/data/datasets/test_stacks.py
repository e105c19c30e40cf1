"""Frames and slices as bags: order, time, depth, and files that are not what they claim."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from milkit import in_memory
from milkit.data.datasets import BagFile, frames, slices, stacked
from milkit.data.datasets.nifti import DTYPES, read_nifti
from milkit.errors import DataError
from milkit.task import Binary


def nifti(path, voxels, spacing=(0.5, 0.7, 3.0), units=2, slope=0.0, inter=0.0, order="<", offset=352, dims=None):
    """A `.nii` file: nifti1.h's offsets; voxels run fastest along x."""
    codes = {np.dtype(kind).newbyteorder("="): code for code, kind in DTYPES.items()}
    header = bytearray(offset)
    shape = dims or (voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim))
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, *shape)
    struct.pack_into(f"{order}2h", header, 70, codes[voxels.dtype], 8 * voxels.dtype.itemsize)
    struct.pack_into(f"{order}8f", header, 76, 1.0, *spacing, *[0.0] * (7 - len(spacing)))
    struct.pack_into(f"{order}3f", header, 108, float(offset), slope, inter)
    header[123], header[344:348] = units, b"n+1\0"
    path.write_bytes(bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F"))
    return path


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 2, 1):
        Image.fromarray(np.full((4, 6, 3), i, np.uint8)).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    video = frames(tmp_path, fps=25.0, id="v1")
    assert video.images[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert video.images.shape == (3, 4, 6, 3)
    assert video.position.tolist() == pytest.approx([0, 0.04, 0.08])
    assert video.unit == "s"
    bag = video.bag()
    assert bag.x.shape == (3, 72)
    np.testing.assert_allclose(bag.x[:, 0], np.array([1, 2, 10]) / 255, rtol=1e-6)
    assert bag.coords_um is None  # seconds are no micrometres


def test_every_second_frame_keeps_its_time(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(5 * 2 * 2, dtype=np.uint8).reshape(5, 2, 2))
    video = frames(tmp_path / "v.npy", fps=10.0, every=2)
    assert video.images[:, 0, 0].tolist() == [0, 8, 16]
    assert video.position.tolist() == pytest.approx([0, 0.2, 0.4])
    assert video.id == "v"
    assert frames(tmp_path / "v.npy").position is None
    with pytest.raises(DataError, match="every is 0"):
        frames(tmp_path / "v.npy", every=0)


def test_shrinking_averages_squares(tmp_path):
    image = np.array([[0, 2, 10, 10], [4, 6, 10, 10]], np.float32)
    np.save(tmp_path / "v.npy", image[None])
    video = frames(tmp_path / "v.npy")
    assert video.bag(2).x.tolist() == [[3, 10]]
    assert video.bag().x.tolist() == [image.ravel().tolist()]
    with pytest.raises(DataError, match="cannot be shrunk by 3"):
        video.bag(3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_follow_the_axis_and_the_spacing(tmp_path, axis):
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    np.savez(tmp_path / "ct.npz", volume=volume)
    stack = slices(tmp_path / "ct.npz", axis=axis, spacing_mm=2.5)
    assert (stack.images[1] == np.take(volume, 1, axis)).all()
    bag = stack.bag()
    assert bag.coords_um[:, 1].tolist() == pytest.approx([2500.0 * i for i in range(volume.shape[axis])])
    assert (bag.coords_um[:, 0] == 0).all()
    assert bag.x[1].tolist() == np.take(volume, 1, axis).ravel().tolist()
    assert slices(tmp_path / "ct.npz", axis=axis).bag().coords_um is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8", "u2"])
def test_nifti_says_its_spacing_itself(tmp_path, order, kind):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(kind)
    path = nifti(tmp_path / "ct.nii", volume, order=order)
    found, spacing = read_nifti(path)
    np.testing.assert_array_equal(found, volume)
    assert found.dtype == volume.dtype
    assert spacing == pytest.approx((0.5, 0.7, 3.0))
    stack = slices(path, axis=2, every=2)
    assert stack.position.tolist() == pytest.approx([0, 6000])
    assert (stack.images[1] == volume[:, :, 2]).all()


def test_nifti_scales_values_and_knows_units(tmp_path):
    volume = np.array([[[0, 1, 2]]], np.int16)
    found, _ = read_nifti(nifti(tmp_path / "a.nii", volume, slope=2.0, inter=-1000.0))
    assert found.tolist() == [[[-1000, -998, -996]]]
    assert read_nifti(nifti(tmp_path / "b.nii", volume, units=3))[1] == pytest.approx((0.0005, 0.0007, 0.003))
    assert read_nifti(nifti(tmp_path / "c.nii", volume, units=0))[1] is None
    assert slices(tmp_path / "c.nii", axis=0).position is None
    with pytest.raises(DataError, match="says 3 mm from slice to slice, but spacing_mm=5"):
        slices(tmp_path / "a.nii", axis=2, spacing_mm=5.0)
    assert read_nifti(nifti(tmp_path / "d.nii", volume, dims=(4, 1, 1, 3, 1, 1, 1, 1)))[0].shape == (1, 1, 3)


def test_what_is_no_stack_is_refused(tmp_path):
    volume = np.zeros((2, 3, 4), np.int16)
    path = nifti(tmp_path / "ct.nii", volume)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="cut short"):
        slices(path, axis=0)
    nifti(path, volume, dims=(3, 30000, 30000, 30000, 1, 1, 1, 1))
    with pytest.raises(DataError, match="claims"):
        slices(path, axis=0)
    nifti(path, volume, dims=(4, 2, 3, 4, 5, 1, 1, 1))
    with pytest.raises(DataError, match="one volume of three axes"):
        slices(path, axis=0)
    (tmp_path / "ct.nii.gz").write_bytes(b"\x1f\x8b\x08 packed")
    with pytest.raises(DataError, match="unpack it"):
        slices(tmp_path / "ct.nii.gz", axis=0)
    np.save(tmp_path / "flat.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match="three axes"):
        slices(tmp_path / "flat.npy", axis=0)
    with pytest.raises(DataError, match=r"expected images \[n, h, w\]"):
        frames(tmp_path / "flat.npy")
    np.save(tmp_path / "nan.npy", np.full((2, 3, 3), np.nan))
    with pytest.raises(DataError, match="NaN"):
        frames(tmp_path / "nan.npy")
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(DataError, match="is no array"):
        frames(tmp_path / "text.npy")
    np.savez(tmp_path / "two.npz", a=volume, b=volume)
    with pytest.raises(DataError, match="expected one"):
        frames(tmp_path / "two.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        frames(tmp_path / "empty")
    for i, side in enumerate((4, 5)):
        Image.new("RGB", (side, side)).save(tmp_path / "empty" / f"{i}.png")
    with pytest.raises(DataError, match=r"1.png has \(5, 5\) pixels"):
        frames(tmp_path / "empty")


def test_stacks_make_a_study(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"v{i}.npy", np.full((i + 1, 4, 4), i, np.uint8))
    stacks = [frames(tmp_path / f"v{i}.npy") for i in range(4)]
    study = in_memory(stacked(stacks, shrink=2), [{"label": i % 2} for i in range(4)]).load(Binary())
    assert study.features == 4
    assert study.lengths.tolist() == [1, 2, 3, 4]
    np.save(tmp_path / "big.npy", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        stacked([*stacks, frames(tmp_path / "big.npy")])


def test_what_is_absent_or_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("none.npy", "pipe.npy"):
        with pytest.raises(DataError, match=f"No file or folder at .*{name}"):
            frames(tmp_path / name)
        with pytest.raises(DataError, match=f"No file or folder at .*{name}"):
            slices(tmp_path / name, axis=0)
        with pytest.raises(DataError, match=f"No file of bags at .*{name}"):
            BagFile(str(tmp_path / name)).read()
