"""Maps of the colon images in a report: scored at nuclei, without masks."""

import json

import numpy as np
from PIL import Image

from milkit.config import to_json
from milkit.data.images import KnownImages
from milkit.data.images.points import points_of
from milkit.predictions import Predictions, concat
from milkit.report.sections.segmentation import tables
from milkit.report.segmentation import segmentation
from milkit.task import Binary

IDS = ("img1", "img10", "img12")
DATA = KnownImages("colon", downsample=5)


def write_study(folder):
    """Maps that are 200 around nuclei of foreground's kind and 40 elsewhere; validation has both labels."""
    points, parts = points_of("colon", downsample=5), []
    for role, ids in (("test", IDS), ("validation", ("v1", "v2"))):
        files = []
        for i, image in enumerate(ids):
            level = np.full((100, 100), 40, np.uint8)
            if role == "test":
                xy = np.minimum(points[image].xy[points[image].positive].astype(int), 99)
                level[xy[:, 1], xy[:, 0]] = 200
            elif i == 0:
                level[:20] = 110
            files.append(f"{role}_{image}.png")
            Image.fromarray(level).save(folder / files[-1])
        parts.append(
            Predictions.of(
                Binary(), ("0", "1"), np.zeros((len(ids), 1)), np.array([1, 0, 1][: len(ids)]), experiment="x",
                run="r", repeat=0, fold=0, seed=0, selection="validation", role=role, bag=ids, patient=ids, map=files,
            )
        )  # fmt: skip
    return concat(parts)


def test_nuclei_take_the_place_of_masks(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    table = write_study(tmp_path)
    experiment = {"data": to_json(DATA), "task": {"type": "Binary", "label": "label"}}
    flow = {"notes": ["patient-leaky: the images are from 9 patients"]}
    found = segmentation(tmp_path, {"experiment": experiment}, table, "validation", {}, None, 50, flow)
    assert json.loads(json.dumps(found))["truth"] == "points"
    points = points_of("colon", downsample=5)
    yes, high = [], []
    for image in IDS:
        xy = np.minimum(points[image].xy.astype(int), 99)
        own = set(map(tuple, xy[points[image].positive].tolist()))
        yes += points[image].positive.tolist()
        high += [tuple(p) in own for p in xy.tolist()]  # a nucleus of another kind may share the pixel
    yes, high = np.array(yes), np.array(high)
    assert found["metrics"]["f1"]["value"] == 2 * yes.sum() / (yes.sum() + high.sum())
    assert found["metrics"]["prevalence"]["value"] == yes.mean()
    # labels: cuts 41 to 110 tell the two validation images apart, the middle nearer .5 is 76
    assert found["label_threshold"]["mean"] == 76 / 256
    assert found["everything_foreground"]["metrics"]["balanced_accuracy"]["value"] == 0.5
    assert found["marks"] == ["patient-leaky"]
    text = repr(tables(found))
    assert "Maps of 3 test images against points of known kind" in text
    assert "nobody knows whose" in text
