"""The model card: `README.md` of a model folder, made of facts only. What nobody measured is said to be unknown."""

from typing import Any

from milkit.keep.folder import Kept
from milkit.report.blocks import Block, Bullets, Code, Facts, Heading, Page, Paragraph, Table
from milkit.report.markdown import to_markdown
from milkit.report.sections.making import readable
from milkit.report.words import interval, lower_is_better, metric_label, number, plural

UNKNOWN = "not recorded"


def card(kept: Kept, folder: str) -> str:
    """The card as Markdown.

    Args:
        kept: the model.
        folder: name of its folder, for the commands.
    """
    facts = kept.facts
    marks: list[Block] = [Heading("Marks"), Bullets(tuple(facts["marks"]))] if facts["marks"] else []
    blocks: list[Block] = [
        Paragraph(_what(kept), "lead"),
        *marks,
        Heading("What it takes and gives"),
        Facts(tuple(takes_and_gives(kept))),
        Heading("What it was trained on"),
        Facts(tuple(_training(kept))),
        Heading("What to expect of it"),
        *_expected(kept),
        Heading("What is not known"),
        Bullets(_limits(kept)),
        Heading("How to use it"),
        Code(to_use(kept, folder)),
        Heading("How it was made"),
        Code(readable(facts["experiment"])),
        Facts(tuple((k.replace("_", " "), str(v)) for k, v in facts["environment"].items() if v not in (None, ""))),
    ]
    return to_markdown(Page(f"Model card: {facts['name'] or folder}", tuple(blocks)))


def _what(kept: Kept) -> str:
    facts, members = kept.facts, plural(len(kept.members), "member")
    model = facts["model"]["type"]
    if facts["how"] == "ensemble":
        made = f"the fold ensemble of a cross-validated study: {members}, each with its {facts['selection']} weights"
    else:
        epochs = facts["members"][0]["epoch"]
        made = f"{members} trained on all bags for {plural(epochs, 'epoch')}, the median over the folds of the study"
    return f"{model} for {kept.kind}: {made}. Members' {_averaged(kept)} are averaged."


def _averaged(kept: Kept) -> str:
    return {"Regression": "values", "Survival": "risks"}.get(kept.kind, "probabilities")


def takes_and_gives(kept: Kept) -> list[tuple[str, str]]:
    """What goes in and what comes out, as pairs of a label and its fact."""
    facts, features = kept.facts, kept.facts["features"]
    pairs = [
        ("Features an instance", f"{facts['in_features']:,}"),
        ("Encoder", _known(features["encoder"])),
        ("Encoder weights", _known(features["encoder_digest"])),
        ("Micrometres a pixel", _known(features["mpp"])),
        ("Tile", f"{_known(features['tile_um'])} µm, {_known(features['tile_px'])} px"),
        ("Features kept as", _known(features["dtype"])),
        *(("Covariates", _covariates(kept)),) * bool(kept.codings),
        ("A bag is", "all slides of a patient" if facts["unit"] == "patient" else "a slide"),
    ]
    pairs = _image_pairs(kept) if facts.get("images") else pairs
    pairs.append(("Answers", ", ".join(kept.names)))
    if len(kept.threshold):
        each = [f"{n} from {t:.4f} on" for n, t in zip(kept.names[-len(kept.threshold) :], kept.threshold, strict=True)]
        pairs.append(("Threshold", f"{', '.join(each)} ({facts['threshold']['from']})"))
    if len(kept.temperature):
        pairs.append(
            ("Temperature", f"{', '.join(f'{t:.4f}' for t in kept.temperature)} ({facts['temperature']['from']})")
        )
    if facts["risk_cut"]:
        pairs.append(("High risk from", f"{facts['risk_cut']['value']:.4f} ({facts['risk_cut']['from']})"))
    return pairs


def _image_pairs(kept: Kept) -> list[tuple[str, str]]:
    images = kept.facts["images"]
    reading, (height, width) = images["reading"], images["canvas"]
    side, cut = reading["downsample"], images["map_threshold"]
    return [
        ("Takes", "images as 8-bit RGB; pixels are scaled by what stands beside the weights"),
        ("A pixel is", "one of the image" if side == 1 else f"the mean of {side} x {side} of the image"),
        ("Shown at a time", f"{height} x {width} px (height x width); larger images in windows of that size"),
        ("White of 16 bits", f"{reading['white']}"),
        ("Micrometres a pixel", UNKNOWN),
        ("A pixel is foreground", f"from {cut['value']:.4f} on ({cut['from']})"),
    ]


def _covariates(kept: Kept) -> str:
    return "; ".join(f"{c.column} ({', '.join(c.levels) or 'a number'})" for c in kept.codings)


def _known(value: Any) -> str:
    return UNKNOWN if value in (None, "") else str(value)


def _training(kept: Kept) -> list[tuple[str, str]]:
    facts = kept.facts
    training, counts = facts["training"], facts["training"]["counts"]
    classes = ", ".join(f"{name} {count:,}" for name, count in counts["classes"].items())
    return [
        ("Cohort", _known(training["cohort"])),
        ("Patients", f"{counts['patients']:,}"),
        ("Slides", f"{counts['slides']:,}" if counts["slides"] else UNKNOWN),
        ("Patients tested in the study", classes or f"{facts['expected']['counts'].get('patients', 0):,}"),
        ("Digest of the run", facts["run_digest"]),
    ]


def _expected(kept: Kept) -> list[Block]:
    expected = kept.facts["expected"]
    counts = expected["counts"]
    rows = [
        (
            metric_label(name) + (" ↓" if lower_is_better(name) else ""),
            number(m["value"]),
            interval(m["sampling"]),
            interval(m["procedure"]),
        )
        for name, m in expected["metrics"].items()
    ]
    size = f"{counts.get('patients', 0):,} patients, {counts.get('runs', 0):,} runs"
    text = (
        f"Cross-validated in the study it comes from ({size}; selection {expected['selection']}). These are numbers of "
        "single runs on patients that each had not seen; the model itself has been measured on nobody yet."
        + ("" if kept.facts.get("images") else " `milkit evaluate` measures it on another cohort.")
    )
    header = ("Metric", "Value", "Sampling 95 %", "Procedure 95 %")
    return [Paragraph(text), Table(header, tuple(rows), numeric=header[1:])]


def _limits(kept: Kept) -> tuple[str, ...]:
    features, images = kept.facts["features"], kept.facts.get("images")
    missing = [name for name in ("encoder", "mpp") if features[name] is None and not images]
    lines = [
        "How it does on patients of another hospital, scanner or laboratory: not measured when this card was made."
    ]
    if images:
        lines.append("The micrometres a pixel of the training images: no file says it. Give images of the same scale.")
    if missing:
        lines.append(f"{' and '.join(missing)} of the training features: the store did not record it.")
    if kept.facts["how"] == "refit":
        lines.append("Nobody was held out of this training: its own accuracy could not be checked.")
    lines.append("It is a research model. No regulator has seen it.")
    return tuple(lines)


def to_use(kept: Kept, folder: str) -> str:
    """The commands that use it."""
    trust = " --trust-source" if "source" in kept.facts else ""
    if kept.facts.get("images"):
        return f"milkit predict {folder} IMAGES --out predicted{trust}"
    cohort = " --cohort COHORT.csv" if kept.codings else ""
    return (
        f"milkit predict {folder} STORE.h5{cohort} --out predictions.csv{trust}\n"
        f"milkit evaluate {folder} STORE.h5 COHORT.csv --out DIR{trust}"
    )
