"""Where: the maps of test images against their masks, with pictures of the best, the middle and the worst."""

from typing import Any

from milkit.errors import MilkitError
from milkit.report.blocks import Block, Heading, Paragraph, Pictures
from milkit.report.figures.maps import Shown, sheet
from milkit.report.figures.style import save
from milkit.report.sections.numbers import metric_table
from milkit.report.source import Source
from milkit.report.words import number, plural


def segmentation(source: Source) -> list[Block]:
    """Table and pictures; nothing for studies without maps or masks."""
    found = source.results.get("segmentation")
    if not found:
        return []
    if "reason" in found:
        return [Heading("Segmentation"), Paragraph(f"The maps could not be measured: {found['reason']}", "note")]
    images = found["images"]
    text = (
        f"Maps of {plural(len({i['image'] for i in images}), 'test image')} against their masks, which nothing before "
        f"this table has opened. A pixel is foreground from {number(found['threshold'])} on. Sampling draws patients "
        "with all their images. docs/segmentation_metrics.md defines every row."
    )
    blocks: list[Block] = [Heading("Segmentation"), Paragraph(text), metric_table(found["metrics"], "dice")]
    try:
        shown = _shown(source, images)
    except (MilkitError, OSError) as error:  # images may be gone while numbers are still there
        return [*blocks, Paragraph(f"No pictures: {error}", "note")]
    return [*blocks, Pictures((save(sheet(shown), source.folder),))] if shown else blocks


def _shown(source: Source, images: list[dict[str, Any]]) -> list[Shown]:
    """The images with the highest, the middle and the lowest Dice, as their first run saw them."""
    from milkit.data.images.load import decode
    from milkit.predictions import Predictions
    from milkit.report.image_maps import maps_of_tested
    from milkit.report.results import recorded_columns
    from milkit.report.segmentation import THRESHOLD, images_of, truth_of

    ranked = sorted((i for i in images if i["dice"] is not None), key=lambda i: -i["dice"])
    if not ranked:
        return []
    places = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))
    opened = images_of(source.experiment["data"])
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
        shown.append(Shown(said, pixels[one.image][:height, :width], truth_of(opened, one), one.map, THRESHOLD))
    return shown
