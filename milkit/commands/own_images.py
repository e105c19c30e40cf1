"""`milkit run TABLE.csv --images DIR`: a study of one's own images without writing code, by defaults that say why."""

import argparse
import difflib
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from milkit.data.images import ImageCohort, ImageCrops
from milkit.data.images.decode import Reading
from milkit.data.images.load import sizes_of
from milkit.data.protocol import GivenFolds, KFold
from milkit.data.splits import given_splits
from milkit.data.table import CohortTable
from milkit.data.targets import is_missing
from milkit.data.where import did_you_mean
from milkit.errors import CohortError, ConfigError
from milkit.experiment import Experiment
from milkit.pixel import PixelModel
from milkit.task import Binary
from milkit.train.config import Adam, Augment, Train

LONGEST = 256
"""Longest side in pixels that images are trained with, unless `--downsample` says otherwise: time and memory grow with
the square of it, and glands and nests of tumour are still many pixels wide. Nuclei may not be: `--downsample 1`."""
UPDATES = 400
"""About how many updates each run makes: small presets have settled by then on the sets that were tried."""
EPOCHS = (20, 200)
FOLDS = 5
PATIENCE = 0.25
"""Share of the epochs after which a run stops that has not become better on its validation part."""


@dataclass(frozen=True)
class Made:
    """An experiment by default.

    Attributes:
        experiment: the study.
        overrides: arguments that are fields of it.
        said: what was chosen, and why; one line each.
    """

    experiment: Experiment
    overrides: list[str]
    said: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `milkit run --help` lists the options of a study of images.")


def made(table: Path, arguments: list[str]) -> Made:
    """The experiment of a table of images.

    Args:
        table: one row an image.
        arguments: those that `milkit run` itself does not know.

    Raises:
        MilkitError: a table or images that cannot be used, an unknown model or column.
    """
    options, overrides = _options().parse_known_args(arguments)
    cohort = ImageCohort(
        str(table), images=options.images, masks=options.masks, patient=options.patient, split=options.split,
        image=options.image,
    )  # fmt: skip
    rows = cohort.read_table()
    task = Binary(label=_label(rows, options.label), positive=options.positive)
    files = cohort.open().files
    sizes = np.array(list(sizes_of(files, Reading(1, cohort.white, cohort.max_megapixels)).values()))
    model, said = _model(options.model, options.weights)
    side, why = _downsample(sizes, options.downsample, options.crop)
    cohort = replace(cohort, downsample=side)
    protocol, folds_said, share = _protocol(rows, cohort, task)
    data: Any = cohort
    if options.crop:
        data = _crops(cohort, options.crop)
        protocol = GivenFolds(validation=0.2, allow_single_class=True)
    train, train_said = _train(len(files) * share, bool(options.weights))
    experiment = Experiment(
        data=data, protocol=protocol, model=model, train=train, task=task, unit="slide", name=table.stem,
    )  # fmt: skip
    if options.crop:
        train_said = f"{train_said}; counted in images, of which each has several crops"
    return Made(experiment, overrides, (said, *why, folds_said, train_said))


def _options() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--images", default="")
    parser.add_argument("--masks", default="")
    parser.add_argument("--model", default="SAMIL")
    parser.add_argument("--weights", default="")
    parser.add_argument("--label", default="")
    parser.add_argument("--positive", default="")
    parser.add_argument("--image", default="")
    parser.add_argument("--patient", default="")
    parser.add_argument("--split", default="")
    parser.add_argument("--downsample", type=int, default=0)
    parser.add_argument("--crop", type=int, default=0)
    return parser


def _label(rows: CohortTable, given: str) -> str:
    """The column of labels: the one that is named, or `label`, or the only other one."""
    names = list(rows.columns)
    if given:
        if given not in names:
            raise CohortError(
                f"{rows.file}: no column {given!r}; the columns are {', '.join(names)}.{did_you_mean(given, names)}"
            )
        return given
    own = [name for name in names if name.strip().lower() in ("label", "labels", "class", "target")]
    used = set(rows.used.values())
    rest = [name for name in names if name not in used]
    if len(own) == 1:
        return own[0]
    if len(rest) == 1:
        return rest[0]
    raise CohortError(
        f"{rows.file}: which column holds the labels? The columns are {', '.join(names)}. Say --label COLUMN."
    )


def _model(name: str, weights: str) -> tuple[Any, str]:
    known = {cls.__name__: cls for cls in typing.get_args(PixelModel)}
    lower = {own.lower(): own for own in known}
    cls: Any = known.get(lower.get(name.lower().replace("-", "").replace("_", ""), ""))
    if cls is None:
        close = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f" Did you mean {lower[close[0]]}?" if close else ""
        raise ConfigError(f"--model {name}: no such model of images.{hint} There are: {', '.join(known)}.")
    if weights:
        if not hasattr(cls, "pretrained"):
            able = [own for own, c in known.items() if hasattr(c, "pretrained")]
            raise ConfigError(
                f"--weights: {cls.__name__} has no preset that starts from a file of weights; {', '.join(able)} have."
            )
        return cls.pretrained(weights), f"model: {cls.__name__}.pretrained, from {weights}"
    if hasattr(cls, "from_scratch"):
        return cls.from_scratch(), f"model: {cls.__name__}.from_scratch, a small preset without ImageNet's weights"
    return cls(), f"model: {cls.__name__} by its defaults"


def _downsample(sizes: np.ndarray, given: int, crop: int) -> tuple[int, tuple[str, ...]]:
    longest = int(sizes.max())
    if given or crop:
        return max(1, given), ()
    side = -(-longest // LONGEST)
    if side == 1:
        return 1, ()
    return side, (
        f"downsample: {side}, as the longest side is {longest} px and more than {LONGEST} px take long; "
        "--downsample 1 trains on all pixels, --dry-run says how long that takes",
    )


def _protocol(rows: CohortTable, cohort: ImageCohort, task: Binary) -> tuple[Any, str, float]:
    """Who is tested; what is said about it; and the share of the images that a run trains on."""
    splits, _, _ = given_splits(rows.columns, cohort.split, rows.where)
    if splits:
        share = float(np.mean([np.mean(np.asarray(s.role) == "train") for s in splits]))
        return GivenFolds(validation=0.2), f"split: as given by the table ({len(splits)})", share
    cells = rows.columns[task.label]
    known = ~is_missing(cells)
    classes = np.unique(cells[known])
    if len(classes) != 2:
        raise CohortError(
            f"{rows.file}: column {task.label!r} holds {len(classes)} class(es) ({', '.join(classes[:5].tolist())}); a "
            "study without code asks a yes-or-no question. Give images of both kinds; or name another column "
            "(--label COLUMN)."
        )
    fewest = min(len(np.unique(rows.patient[known & (cells == name)])) for name in classes)
    if fewest < 3:
        raise CohortError(
            f"{rows.file}: one class of column {task.label!r} has {fewest} patient(s) only (without a column of "
            "patients each image is its own); 3 of each are needed to train, to validate and to test. Label more."
        )
    folds = min(FOLDS, max(2, fewest // 2))
    said = f"folds: {folds}, and a fifth of the others chooses the epoch; patients stay together"
    return KFold(folds, validation=0.2), said, 0.8 * (1 - 1 / folds)


def _crops(cohort: ImageCohort, size: int) -> ImageCrops:
    if not cohort.masks:
        raise ConfigError(
            f"--crop {size}: crops are labelled by the masks of their images (crop-label supervision), so it needs "
            "--masks DIR, and a column split of train, val and test. Without masks: leave --crop out; large images are "
            "made smaller by --downsample."
        )
    return ImageCrops(cohort, size=size, stride=max(1, size // 2), test_crops=True)


def _train(training: float, pretrained: bool) -> tuple[Train, str]:
    """How it is trained; `training` is about how many images a run trains on."""
    batch = 4 if training >= 16 else 2
    epochs = int(np.clip(np.ceil(UPDATES * batch / max(training, 1.0)), *EPOCHS))
    rate = 1e-4 if pretrained else 1e-3
    train = Train(
        Adam(rate), epochs=epochs, batch_bags=batch, patience=max(5, round(PATIENCE * epochs)), augment=Augment(),
    )  # fmt: skip
    said = f"training: Adam {rate:g}, {batch} images a step, {epochs} epochs at most, flips and right angles"
    return train, said
