"""A tiny study of slides whose one telling tile is known, with a picture of one of them."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import planted
import pytest
from PIL import Image

from milkit import api
from milkit.data.cohort import Cohort
from milkit.data.store import write_store
from milkit.execute.run import execute
from milkit.heatmaps.scores import SlideScores
from milkit.models import InstancePooling
from milkit.report.results import write_results
from milkit.types import Bag

MPP, WIDTH, COLUMNS, ROWS = 0.5, 64, 5, 4
CORNER = 32  # the grid does not begin at the slide's corner, so a lost offset shows
TOLD = 13  # the tile that makes a slide positive: column 3, row 2
SIZE = (400, 352)


def corners():
    """Corners of the tiles, one left out, in pixels of level 0."""
    y, x = np.divmod(np.arange(COLUMNS * ROWS), COLUMNS)
    return np.delete(np.stack([x, y], 1) * WIDTH + CORNER, 4, 0).astype(np.int64)


def place():
    """Corner of the telling tile."""
    return corners()[TOLD]


def slide_bags(n, seed=0):
    """Slides of one grid; every second one is positive."""
    rng = np.random.default_rng(seed)
    xy = corners()
    for i in range(n):
        x = 0.1 * rng.normal(size=(len(xy), 5)).astype(np.float32)
        x[TOLD, 0] += 3.0 * (i % 2)
        yield Bag(f"s{i}", x, (xy * MPP).astype(np.float32), xy, WIDTH * MPP, MPP)


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def picture(path):
    """A pale slide with a dark border around the telling tile."""
    pixels = np.full((SIZE[1], SIZE[0], 3), (235, 200, 220), np.uint8)
    x, y = place()
    pixels[y : y + WIDTH, x : x + WIDTH] = (120, 60, 130)
    Image.fromarray(pixels).save(path)
    return path


def made_scores(values, xy, width=WIDTH, kind="attention", **changes):
    """Scores as two models gave them, made by hand."""
    values = np.asarray(values, np.float32)
    made = SlideScores(
        slide_id="s1", xy_px=np.asarray(xy, np.int64), width_px=width, mpp=MPP, scores=values,
        by_model=np.stack([values - 1, values + 1]), kind=kind, label="yes", models=("m0", "m1"), held_out=True,
        probability=0.75, interval=(0.5, 1.0), said="probability", of_class=kind != "attention", bag="s1",
        bag_slides=("s1",), selection="validation", run=Path("runs/made"),
    )  # fmt: skip
    return replace(made, **changes)


def made_run(folder, bags, rows, model):
    """A store, a table, and a finished run of them."""
    write_store(folder / "store.h5", bags, dtype="float32", encoder="made-up", mpp=MPP, tile_px=WIDTH)
    write_table(folder / "table.csv", rows)
    base = planted.experiment(width=4)
    data = Cohort(str(folder / "table.csv"), str(folder / "store.h5"))
    train = replace(base.train, epochs=20, standardise=True)
    study = replace(base, data=data, unit="patient", train=train, name="slides", model=model)
    execute(study, folder / "run")
    write_results(folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A run of max pooling over tiles' scores; p0 has two slides, s13 is in the store only, s1.png is a slide."""
    folder = tmp_path_factory.mktemp("heat")
    rows = [{"slide_id": f"s{i}", "patient_id": f"p{i % 12}", "label": ["no", "yes"][i % 2]} for i in range(13)]
    made_run(folder, slide_bags(14), rows, InstancePooling(pooling="max", encoder=()))
    api.finalize(folder / "run", folder / "model")
    (folder / "slides").mkdir()
    picture(folder / "slides" / "s1.png")
    return folder


@pytest.fixture(scope="session")
def made():
    """What tests make by hand, without a name of their own to import it by."""
    return SimpleNamespace(
        scores=made_scores, picture=picture, corners=corners, place=place, run=made_run, bags=slide_bags,
        mpp=MPP, width=WIDTH, told=TOLD, size=SIZE,
    )  # fmt: skip
