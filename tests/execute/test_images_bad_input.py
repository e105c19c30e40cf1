"""Images that cannot be used, through `milkit run FILE.py:experiment`: status 2, one message, and nothing left behind.

What is converted (grey, palettes, transparency, CMYK, 16 bits, sizes) is tested in `tests/data/images`.
"""

import csv
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from milkit.cli import main

EXPERIMENT = """
from milkit import Binary, Experiment, ImageCohort, KFold, Train
from milkit.pixel import Everything

experiment = Experiment(
    data=ImageCohort("labels.csv", images="slides"),
    protocol=KFold(2, validation=0.34),
    model=Everything(),
    task=Binary(),
    unit="slide",
    train=Train(epochs=1, select="last"),
)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with eight images of 6 x 6 pixels, their labels and an experiment; the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "slides").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(tmp_path / "slides" / f"i{i}.png")
    write(tmp_path, [[f"i{i}.png", i % 2, f"p{i}"] for i in range(8)])
    (tmp_path / "e.py").write_text(EXPERIMENT)
    return tmp_path


def write(folder, rows):
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "patient"], *rows])


def relabelled(*labels):
    return lambda folder: write(folder, [[f"i{i}.png", label, f"p{i}"] for i, label in enumerate(labels)])


def halved(folder):
    path = folder / "slides" / "i3.png"
    path.write_bytes(path.read_bytes()[:-40])


def claims_60000_pixels(folder):
    path = folder / "slides" / "i3.png"
    png = bytearray(path.read_bytes())
    png[16:24] = struct.pack(">II", 60000, 60000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    path.write_bytes(bytes(png))


def of_floats(folder):
    Image.fromarray(np.ones((6, 6), np.float32)).save(folder / "slides" / "i3.tif")
    (folder / "slides" / "i3.png").unlink()
    write(folder, [[f"i{i}.{'tif' if i == 3 else 'png'}", i % 2, f"p{i}"] for i in range(8)])


def with_masks_nowhere(folder):
    (folder / "e.py").write_text(EXPERIMENT.replace('images="slides"', 'images="slides", masks="masks"'))


def named_twice(folder):
    write(folder, [[f"i{i}.png", i % 2, f"p{i}"] for i in (*range(8), 3)])


CASES = {
    "breaks off": (halved, r"i3\.png cannot be read as an image"),
    "claims too much": (claims_60000_pixels, r"i3\.png claims too many pixels"),
    "empty file": (lambda f: (f / "slides" / "i3.png").write_bytes(b""), r"i3\.png"),
    "no image": (lambda f: (f / "slides" / "i3.png").write_text("hello"), r"i3\.png"),
    "floats": (of_floats, r"i3\.tif"),
    "no masks": (with_masks_nowhere, "masks='masks' is neither a folder nor a column"),
    "twice": (named_twice, r"'i3\.png'.*already given"),
    "all positive": (relabelled(*[1] * 8), "label"),
    "one image": (relabelled(1), "label"),
    "two images": (relabelled(0, 1), "yields no patient"),
    "other words": (relabelled(0, 1, "maybe", 0, 1, 0, 1, 0), "'maybe'"),
    "no labels": (lambda f: (f / "labels.csv").write_text("image,patient\ni0.png,p0\ni1.png,p1\n"), "label"),
    "no rows": (lambda f: (f / "labels.csv").write_text("image,label,patient\n"), r"labels\.csv"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_words(study, capsys, case):
    change, said = CASES[case]
    change(study)
    before = sorted(study.rglob("*"))
    assert main(["run", "e.py:experiment", "--out", "run"]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "Warning" not in message
    assert message.startswith("milkit run: ")
    assert re.search(said, message), message
    assert [path for path in sorted(study.rglob("*")) if "__pycache__" not in str(path)] == before
