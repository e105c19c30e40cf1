"""What `milkit finalize`, `milkit predict` and `milkit evaluate` do, as functions; `milkit.api` offers them."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from milkit import config
from milkit.data.covariates import NEVER_MISSING
from milkit.data.memory import InMemory
from milkit.data.table import read_cohort
from milkit.errors import ConfigError
from milkit.execute.environment import environment
from milkit.execute.imports import own_classes
from milkit.experiment import Experiment, allowed_types
from milkit.keep.card import card
from milkit.keep.cohort import Reading, external_study
from milkit.keep.external import measure, predictions_of
from milkit.keep.features import Features, open_like
from milkit.keep.finalize import Absent, How, make_model
from milkit.keep.folder import FACTS, Kept, read_facts, read_model, refuse_existing, whole_folder, write_model
from milkit.keep.image_predict import FACTS as PREDICTION
from milkit.keep.image_predict import WHAT, Finding
from milkit.keep.image_predict import predict_images as find_in_images
from milkit.keep.page import EVALUATION, write_evaluation
from milkit.keep.predict import answers_of, table_of_answers
from milkit.keep.run import Finished, read_run
from milkit.predictions.whole import whole_file


def finalize(
    run: str | Path,
    out: str | Path,
    *,
    how: How = "ensemble",
    selection: str = "",
    force: bool = False,
    trust_source: bool = False,
    data: InMemory | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make a model to keep of a run folder.

    Args:
        run: a finished run folder.
        out: model folder to make.
        how: "ensemble" keeps the weights of all runs; "refit" trains anew on all bags, once a seed.
        selection: whose weights (and epochs): "validation" or "last"; "" takes the run's own.
        force: replace the model in `out`.
        trust_source: import the saved source of a model that is not milkit's own, which runs its code.
        data: the bags of a study that ran on bags in memory, which its folder does not keep.
        tell: progress in words.

    Returns:
        What `model.json` holds.

    Raises:
        MilkitError: a run that is not finished, data that changed, a folder that may not be replaced.
    """
    run, out = Path(run), Path(out)
    refuse_existing(out, FACTS, "a model", force=force)
    found = read_run(run, selection)
    kept = make_model(found, _experiment(found, trust_source, data), how, tell)
    sources: dict[str, bytes] = {}
    if "model" in found.config.get("source", {}):
        kept.facts["source"] = found.config["source"]
        sources = {name: (run / "source" / name).read_bytes() for name in found.config["source"]["files"]}
    return write_model(kept, out, card(kept, out.name), sources, force=force)


def _experiment(run: Finished, trust_source: bool, data: InMemory | None) -> Experiment:
    """The experiment of a run; bags that were in memory are those given, or `Absent`."""
    file, stated = run.folder / "config.json", run.config["experiment"]
    allowed = allowed_types()
    if "model" in run.config.get("source", {}):
        allowed |= own_classes(file, run.config["source"], trust_source)
    parts = {k: v for k, v in stated.items() if k not in ("type", "data")}
    built: dict[str, Any] = {k: config.from_json(v, allowed, f"{file}, {k}") for k, v in parts.items()}
    if stated["data"]["type"] != "InMemory":
        if data is not None:
            raise ConfigError(f"{file} names its data ({stated['data']['type']}); data= is for studies in memory.")
        return Experiment(data=config.from_json(stated["data"], allowed, f"{file}, data"), **built)
    absent = Absent((), (), str(stated["data"].get("name", "")), said=stated["data"])
    return Experiment(data=absent if data is None else data, **built)


def load_model(folder: str | Path, *, trust_source: bool = False) -> Kept:
    """Open a model folder that `finalize` made.

    Raises:
        RunFolderError: not a model folder, or one that was edited or damaged.
        ConfigError: its model is not milkit's own and its source was not trusted.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    own = own_classes(folder / FACTS, facts["source"], trust_source) if "source" in facts else {}
    return read_model(folder, own)


def predict(
    model: str | Path,
    features: Features | str | Path,
    *,
    cohort: str | Path | None = None,
    out: str | Path | None = None,
    trust_source: bool = False,
    slide: str = "",
    patient: str = "",
    tell: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """Let a model answer for the slides of a store, or for the patients of a table.

    Args:
        model: a model folder.
        features: of the slides.
        cohort: CSV that says which slides belong to which patient; without it every slide is answered by itself.
        out: CSV to write.
        trust_source: import the saved source of a model that is not milkit's own.
        slide, patient: columns of the table, where they are not recognised.
        tell: (bags done, bags in all), called after each.

    Returns:
        Header and rows of the CSV.

    Raises:
        MilkitError: features of another kind than the model's, or a table that matches none of them.
    """
    kept = load_model(model, trust_source=trust_source)
    _refuse_images(kept)
    given = None if cohort is None else read_cohort(cohort, slide=slide, patient=patient, site="-", cohort="-")
    table, source, marks, _ = open_like(kept.facts, _features(features), given)
    answers, study = answers_of(kept, source, table, tell)
    marks += [note for note in study.flow.notes if NEVER_MISSING in note]
    by = "slide" if table is None or kept.facts["measured"] == "slide" else "patient"
    rows = table_of_answers(kept, answers, [*kept.facts["marks"], *marks], by)
    if out is not None:
        with whole_file(Path(out)) as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return rows


def predict_images(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    how: Finding | None = None,
    *,
    force: bool = False,
    trust_source: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """Let a model of images find things in other images: masks, maps, overlays, polygons and a table of areas.

    Args:
        model: a model folder.
        images: a folder of images, or one.
        out: the folder to make.
        how: threshold, windows, what is shown; None for the model's own.
        force: replace the predictions in `out`.
        trust_source: import the saved source of a model that is not milkit's own.
        tell: (images done, images in all), called after each.

    Returns:
        Header and rows of `areas.csv`.

    Raises:
        MilkitError: a model that reads no images, images that cannot be read, a folder that may not be replaced.
    """
    refuse_existing(Path(out), PREDICTION, WHAT, force=force)
    kept = load_model(model, trust_source=trust_source)
    return find_in_images(kept, Path(images), Path(out), how or Finding(), force=force, tell=tell)


def _refuse_images(kept: Kept) -> None:
    if kept.facts.get("images"):
        raise ConfigError(
            f"{kept.facts['name'] or 'The model'} reads images, not a store of features. Give `milkit predict` a "
            "folder of images (docs/own_images.md)."
        )


def evaluate(
    model: str | Path,
    features: Features | str | Path,
    cohort: str | Path,
    out: str | Path,
    *,
    reading: Reading | None = None,
    groups: Sequence[str] | None = None,
    force: bool = False,
    trust_source: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a model on another cohort, with threshold and temperature as they were locked.

    Args:
        model: a model folder.
        features: of the cohort's slides.
        cohort: CSV, one row a slide.
        out: folder to make: `results.json`, `predictions.csv`, `report.html`, `report.md`, `figures/`.
        reading: the table's words, where they are not the model's.
        groups: columns of the sub-group table, beside site and cohort; None takes those with 2 to 8 levels.
        force: replace the evaluation in `out`.
        trust_source: import the saved source of a model that is not milkit's own.
        tell: (bags done, bags in all), called after each.

    Returns:
        What `results.json` holds.

    Raises:
        MilkitError: patients that were in training, features of another kind, a table that cannot be read.
    """
    out, kept = Path(out), load_model(model, trust_source=trust_source)
    _refuse_images(kept)
    refuse_existing(out, EVALUATION, "an evaluation", force=force)
    study, marks = external_study(kept, _features(features), Path(cohort), reading or Reading())
    rows = predictions_of(kept, study, tell)
    results = measure(kept, study, rows, marks, groups)
    said = environment()
    whole_folder(
        out, lambda folder: write_evaluation(folder, kept, study, rows, results, said), EVALUATION,
        "an evaluation", force=force,
    )  # fmt: skip
    return results


def _features(given: Features | str | Path) -> Features:
    return given if isinstance(given, Features) else Features(given)
