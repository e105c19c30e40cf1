"""Where: the maps of test images against their masks, with pictures of the best, the middle and the worst."""

from dataclasses import replace
from typing import Any

from milkit.errors import MilkitError
from milkit.report.blocks import Block, Heading, Notice, Paragraph, Pictures, Table
from milkit.report.figures.maps import Shown, sheet
from milkit.report.figures.style import save
from milkit.report.sections.numbers import metric_table
from milkit.report.source import Source
from milkit.report.words import number, plural

_MARKS = {
    "patient-leaky": "patient-leaky: a patient may be on both sides of the split (some are, or nobody knows whose the "
    "images are), so these maps are better than they would be on new patients.",
    "pixel supervision": "pixel supervision: the model learned from masks of training images. A bound for models that "
    "see labels only, not one of them.",
    "mask-selected": "mask-selected: masks of validation images chose the epoch.",
}
_FLOOR = ("dice", "dice_per_image", "iou", "miou", "f1_pos", "f1", "f1_per_image", "balanced_accuracy")


def segmentation(source: Source) -> list[Block]:
    """Tables and pictures; nothing for studies without maps or anything to hold them against."""
    found = source.results.get("segmentation")
    if not found:
        return []
    if "reason" in found:
        return [Heading("Segmentation"), Paragraph(f"The maps could not be measured: {found['reason']}", "note")]
    blocks = tables(found)
    try:
        pictures = _shown(source, found)
    except (MilkitError, OSError) as error:  # images may be gone while numbers are still there
        return [*blocks, Paragraph(f"No pictures: {error}", "note")]
    return [*blocks, Pictures((save(sheet(pictures), source.folder),))] if pictures else blocks


_UNCUT = ("auroc", "auprc", "auroc_per_image", "auprc_per_image", "prevalence", "pointing_game")
"""What no cut changes."""
_EVERYTHING = "The floor: what a map that calls every pixel foreground reaches on the same images."


def tables(found: dict[str, Any]) -> list[Block]:
    """What `segmentation` of `results.json` says, without pictures."""
    blocks: list[Block] = [Heading("Segmentation"), Paragraph(_what(found))]
    if marks := found.get("marks"):
        blocks.append(Notice("Read every number of this section with", tuple(_MARKS.get(m, m) for m in marks)))
    strong = next((name for name in ("dice", "f1") if name in found["metrics"]), None)
    blocks += [Heading(f"Foreground from {found['threshold']:g} on", 3), _table(found["metrics"], strong)]
    cut = found.get("label_threshold")  # results written before there was one lack it
    if cut:
        blocks += [Heading("Foreground from a cut that labels chose", 3), Paragraph(_chosen(cut))]
        blocks.append(_table({k: v for k, v in cut["metrics"].items() if k not in _UNCUT}, strong))
    if floor := found.get("everything_foreground"):
        shown = {name: floor["metrics"][name] for name in _FLOOR if name in floor["metrics"]}
        blocks += [Heading("Everything foreground", 3), Paragraph(_EVERYTHING), _table(shown, strong)]
    return blocks


def _table(metrics: dict[str, Any], strong: str | None) -> Table:
    """As elsewhere, without the columns of spreads."""
    whole = metric_table(metrics, strong)
    return replace(whole, header=whole.header[:4], rows=tuple(row[:4] for row in whole.rows), numeric=whole.numeric[:3])


def _what(found: dict[str, Any]) -> str:
    """What is measured against what, and what was learned from."""
    images = plural(len({i["image"] for i in found["images"]}), "test image")
    points = found.get("truth") == "points"
    text = f"Maps of {images} against {'points of known kind in them' if points else 'their masks'}"
    text += ", which nothing before this section has read. "
    if without := found.get("test_images_without_truth"):
        one = "1 test image has none and is" if without == 1 else f"{without:,} test images have none and are"
        text += f"{one} left out. "
    told = found.get("supervision", {})
    each = told.get("labels_per_image")
    if told.get("said"):
        text += f"Learned from {told['said']}"
        text += f": {number(each)} labels an image. " if each else ". "
    elif each:
        text += f"Learned from {plural(each, 'label')} an image. "
    return text + "Sampling draws patients with all their images. docs/segmentation_metrics.md defines every row."


def _chosen(cut: dict[str, Any]) -> str:
    """How the cut was found, and what came out."""
    runs = len(cut["runs"])
    span = "" if cut["lowest"] == cut["highest"] else f" ({number(cut['lowest'])} to {number(cut['highest'])})"
    text = (
        f"Mean of {plural(runs, 'run')} {number(cut['mean'])}{span}. Each run's cut is the one at which labels of its "
        f"validation images (crops) agree best with its maps, by balanced accuracy, where one has foreground if more "
        f"than {cut['share']:.0%} of its pixels are called so; no mask is looked at. It means something only if labels "
        "are of the foreground that is scored. "
    )
    notes = dict.fromkeys(run["note"] for run in cut["runs"] if run["note"])
    if cut["undecided"]:
        text += f"In {cut['undecided']} of {plural(runs, 'run')} labels could not choose: {'; '.join(notes)}."
    return text.strip()


def _shown(source: Source, found: dict[str, Any]) -> list[Shown]:
    """The images with the highest, the middle and the lowest Dice, as their first run saw them."""
    from milkit.data.images.load import decode
    from milkit.predictions import Predictions
    from milkit.report.image_maps import maps_of_tested
    from milkit.report.results import recorded_columns
    from milkit.report.segmentation_runs import data_of, opened_of, truth_of

    images = [i for i in found["images"] if i.get("dice") is not None]
    ranked = sorted(images, key=lambda i: -i["dice"])
    if not ranked:
        return []
    places = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))
    opened = opened_of(data_of(source.experiment["data"]))
    table = Predictions.read(source.folder / "predictions.csv")
    table = table.take((table.selection == source.selection) & (table.role == "test"))
    columns = recorded_columns(source.folder / "columns.csv")
    shown = []
    for place in places:
        row = ranked[place]
        own = table.take((table.repeat == row["repeat"]) & (table.fold == row["fold"]))
        own = own.take(own.run == own.run[0])
        one = next(m for m in maps_of_tested(source.folder, own, columns) if m.image == row["image"])
        pixels, _ = decode({one.image: opened.files[one.image]}, opened.reading)
        height, width = one.map.shape
        name = "best" if place == 0 else "worst" if place == len(ranked) - 1 else "median"
        said = f"{name}: {one.image}, Dice {number(row['dice'])}"
        image = pixels[one.image][:height, :width]
        shown.append(Shown(said, image, truth_of(opened, one), one.map, found["threshold"]))
    return shown
