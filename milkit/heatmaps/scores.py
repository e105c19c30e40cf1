"""The scores of a slide's tiles, from the models of a run that held the slide out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from milkit.data.where import and_more, did_you_mean
from milkit.errors import ConfigError, DataError, NonFiniteError, ProtocolError
from milkit.heatmaps.kinds import KINDS, Answer, Target, answer, bags_of, target_of
from milkit.heatmaps.opened import Model, Opened, OpenedBeside, OpenedModel, open_run
from milkit.heatmaps.places import places_of
from milkit.task import Binary, MultiClass, MultiLabel, Regression, probabilities

SEEN = "seen in training"
"""The mark of a heat map whose models were trained or validated on the slide."""


MOST_NAMED = 10
"""Models that a legend names."""


@dataclass(frozen=True, eq=False)
class SlideScores:
    """What the models of a run say of each tile of a slide.

    Attributes:
        slide_id: of the slide.
        xy_px: top-left corners of the tiles, pixels of level 0.
        width_px: of a tile, in pixels of level 0.
        mpp: micrometres a pixel of level 0.
        scores: of each tile: the mean over models of what each says, not normalised; NaN where one says nothing.
        by_model: what each model says.
        kind: what the scores are, see `milkit.heatmaps.kinds.KINDS`.
        label: the class whose score and probability are meant; of attention with several classes and none named, the
            most probable one.
        models: names of the runs that were asked.
        held_out: whether the models were neither trained nor validated on the slide.
        probability: what the models say of the bag, mean: the label's probability, the predicted value, or the risk;
            None where it is not known.
        interval: least and greatest of the models' own; None for a single model.
        said: "probability", "value" or "risk": what `probability` is.
        of_class: whether the scores belong to the label; attention mostly belongs to none.
        bag: id of the bag that the models were given.
        bag_slides: slides of that bag, of which this is one.
        selection: whose weights: "validation" or "last"; "" for a kept model.
        run: folder of the run or the model.
        slide: what the store knows of the slide's file: `slide`, `digest`, `size_px` ...; {} where nothing.
        notes: what a reader should know.
    """

    slide_id: str
    xy_px: Int[np.ndarray, "n 2"]
    width_px: int
    mpp: float
    scores: Float[np.ndarray, "n"]
    by_model: Float[np.ndarray, "m n"]
    kind: str
    label: str
    models: tuple[str, ...]
    held_out: bool
    probability: float | None
    interval: tuple[float, float] | None
    said: str
    of_class: bool
    bag: str
    bag_slides: tuple[str, ...]
    selection: str
    run: Path
    slide: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.scores)

    @property
    def marks(self) -> tuple[str, ...]:
        """What every picture and file of these scores carries."""
        return () if self.held_out else (SEEN,)

    @property
    def what(self) -> str:
        """Kind and class in a few words."""
        if self.kind == "attention" and self.of_class:
            return f"attention of the branch of {self.label}"
        return f"{KINDS[self.kind]}, for {self.label}" if self.of_class else KINDS[self.kind]

    @property
    def answer(self) -> str:
        """What the models say of the bag, in words."""
        if self.probability is None:
            return f"{self.said} of {self.label}: not on record"
        digits, spread = ".3f" if self.said == "probability" else ".4g", ""
        if self.interval is not None:
            low, high = (format(v, digits) for v in self.interval)
            spread = f" ({low} to {high} over {len(self.models)} models)"
        name = self.said if self.said == self.label else f"{self.said} of {self.label}"
        return f"{name}: {self.probability:{digits}}{spread}"

    def legend(self) -> str:
        """What the scores are, of which models, and their range, a line each."""
        known = self.scores[np.isfinite(self.scores)]
        spread = f"{known.min():.4g} to {known.max():.4g}" if len(known) else "none"
        unknown = len(self) - len(known)
        held = " that held the slide out" if self.held_out else ""
        names = and_more(self.models[:MOST_NAMED], len(self.models))
        of = "1 model" if len(self.models) == 1 else f"mean of the raw scores of {len(self.models)} models"
        lines = [
            *(f"{mark.upper()}: the models know this slide, this is no prediction" for mark in self.marks),
            self.what,
            f"{of}{held}: {names}",
            self.answer,
            f"{len(self)} tiles of {self.width_px} px ({self.width_px * self.mpp:.4g} um), raw scores {spread}"
            + (f", {unknown} unknown" if unknown else ""),
        ]
        return "\n".join([*lines, *self.notes])


def slide_scores(
    run: Path | Opened,
    slide_id: str,
    *,
    kind: str = "attention",
    label: str | None = None,
    seen: bool = False,
    mpp: float | None = None,
    store: Path | None = None,
    cohort: Path | None = None,
    selection: str = "",
    trust_source: bool = False,
) -> SlideScores:
    """Ask the models of a run that held a slide out about each of its tiles.

    The models are given the whole bag (all slides of a patient, where bags are patients); the rows of this slide are
    returned. Scores of several models (repeats, seeds) are averaged as they are, so that contributions still add up to
    the mean logit.

    Args:
        run: folder of a run or of a kept model; or one that is open already, for several slides.
        slide_id: of the slide, as in the store.
        kind: what is asked of the models.
        label: class, label or value; None takes the positive class of a binary task, and the only value of a
            regression. With several classes all kinds but attention need it.
        seen: also where every model was trained or validated on the slide; the result is marked then.
        mpp: micrometres a pixel of level 0, where the features do not say it.
        store, cohort, selection, trust_source: as in `open_run`; of no use with a run that is open.

    Raises:
        ConfigError: no such kind or class, or not of this model.
        DataError: no such slide in the run, or its tiles have no positions.
        ProtocolError: all models saw the slide in training, and `seen` was not said.
        MilkitError: see `open_run`.
    """
    if kind not in KINDS:
        raise ConfigError(f"There is no kind {kind!r}; expected one of {', '.join(KINDS)}.")
    opened = run if isinstance(run, Opened) else open_run(
        run, store=store, cohort=cohort, selection=selection, trust_source=trust_source
    )  # fmt: skip
    opened = opened.holding(slide_id)
    row = _row_of(opened, slide_id)
    target = target_of(opened.task, opened.names, label)
    if target is None and kind != "attention":
        raise ConfigError(f"{kind} is relevance for one class; name it by --label: {', '.join(opened.names)}.")
    places = places_of(opened.slide_bag(slide_id), opened.source, mpp)
    models, held_out = opened.models_for(row)
    if not held_out and not seen:
        raise ProtocolError(
            f"Every model of {opened.folder} was trained or validated on slide {slide_id!r}, so what they say of it "
            "is no prediction. Give --seen to look all the same; every picture and file is then marked."
        )
    part = _part(opened, row, slide_id)
    answers = _answers(opened, row, models, kind, target)
    by_model = np.stack([a.scores[part] for a in answers]).astype(np.float32)
    if by_model.shape[1] != len(places.xy_px):
        raise DataError(
            f"Slide {slide_id!r} has {len(places.xy_px)} tiles but {by_model.shape[1]} scores; the store was changed."
        )
    scores = by_model.mean(0)
    if not np.isfinite(scores).any():
        raise NonFiniteError(f"No score of slide {slide_id!r} is finite; look at the run's training and its features.")
    by_member, said = _said(opened, row, models, answers)
    name, value, interval = _of_label(opened, target, by_member)
    notes = (*places.notes, *_notes(opened, row, scores, "" if target else name))
    return SlideScores(
        slide_id, places.xy_px, places.width_px, places.mpp, scores, by_model, kind, name,
        tuple(m.name for m in models), held_out, value, interval, said, answers[0].of_class,
        str(opened.study.bag[row]), opened.study.slides[row], opened.selection, opened.folder, places.slide, notes,
    )  # fmt: skip


def _notes(opened: Opened, row: int, scores: Float[np.ndarray, "n"], taken: str) -> list[str]:
    """What a reader should know of a slide's scores; `taken` is a class that was not named."""
    slides = len(opened.study.slides[row])
    said = {
        f"the bag holds {slides} slides; scores were given within the bag": slides > 1,
        f"no class was named: {taken} is the most probable": bool(taken),
        "this slide is not in the study": isinstance(opened, OpenedBeside),
        "the model reads patients; it was asked about this slide alone": isinstance(opened, OpenedModel)
        and opened.alone,
        "all scores are equal: no tile stands out": len(scores) > 1 and np.ptp(scores) == 0,
    }
    return [text for text, holds in said.items() if holds]


def _row_of(opened: Opened, slide_id: str) -> int:
    """Row of the bag that holds a slide."""
    if slide_id in opened.slides:
        return opened.slides[slide_id]
    for bag, own in zip(opened.study.bag.tolist(), opened.study.slides, strict=True):
        if bag == slide_id and len(own) > 1:
            raise DataError(f"{slide_id!r} is a bag of {len(own)} slides; name one of them: {', '.join(own)}.")
    left_out = dict(opened.study.flow.left_out)
    why = f" It was left out: {left_out[slide_id]}." if slide_id in left_out else did_you_mean(slide_id, opened.slides)
    raise DataError(f"{opened.folder} has no slide {slide_id!r} among its {len(opened.slides)}.{why}")


def _part(opened: Opened, row: int, slide_id: str) -> slice:
    """The instances of a bag that are a slide's."""
    slides, lengths = opened.study.slides[row], opened.study.slide_lengths
    if len(slides) == 1:
        return slice(0, int(opened.study.lengths[row]))
    ends = np.cumsum([0, *lengths[row]])
    at = slides.index(slide_id)
    return slice(int(ends[at]), int(ends[at + 1]))


def _answers(
    opened: Opened, row: int, models: tuple[Model, ...], kind: str, target: Target | None
) -> list[Answer]:  # fmt: skip
    bag, covariates = opened.study.read(row), opened.study.covariates
    beside = None if covariates is None else covariates.values[row]
    least = getattr(opened.config, "min_instances", 1)
    return [
        answer(opened.graph, opened.config, opened.task, m, bags_of(bag, m, beside, least), kind, target)
        for m in models
    ]


def _said(
    opened: Opened, row: int, models: tuple[Model, ...], answers: list[Answer]
) -> tuple[Float[np.ndarray, "m s"] | None, str]:  # fmt: skip
    """What each model says of the bag, by name of class, label or value, as on record or else anew; and what it is."""
    task = opened.task
    word = "value" if isinstance(task, Regression) else "risk"
    word = "probability" if isinstance(task, Binary | MultiClass | MultiLabel) else word
    logits = np.stack([a.logits for a in answers])
    on_record = opened.predicted(row, models)
    if on_record is not None:
        return on_record, word
    if isinstance(task, Regression):
        if not isinstance(opened, OpenedModel):
            return None, word  # the scale of a target is not kept with a run's weights
        return np.stack([lo * m.target_scale + m.target_shift for lo, m in zip(logits, models, strict=True)]), word
    read = probabilities(task, logits)
    if word == "risk":
        return read - np.array([[m.centre] for m in models]), word
    return np.concatenate([1 - read, read], 1) if isinstance(task, Binary) else read, word


def _of_label(
    opened: Opened, target: Target | None, by_member: Float[np.ndarray, "m s"] | None
) -> tuple[str, float | None, tuple[float, float] | None]:  # fmt: skip
    """Name, mean and range over models of the class in question; the most probable one where none is named."""
    if by_member is None:
        return opened.names[0] if target is None else target.name, None, None
    place = int(by_member.mean(0).argmax()) if target is None else target.place
    own = by_member[:, place]
    return opened.names[place], float(own.mean()), (float(own.min()), float(own.max())) if len(own) > 1 else None
