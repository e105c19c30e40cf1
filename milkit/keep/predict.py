"""What a model says about the slides of a store, or about the patients of a table, as rows of a CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from milkit.data.build import build_study
from milkit.data.covariates import Coding, Covariate
from milkit.data.features import FeatureSource
from milkit.data.study import Study, Unit
from milkit.data.table import CohortTable, table_of
from milkit.errors import ConfigError
from milkit.keep.decide import calibrated
from milkit.keep.folder import Kept
from milkit.keep.ids import digest_features, digest_id, slides_of
from milkit.keep.speak import speak
from milkit.metrics import pool
from milkit.task import Regression
from milkit.types import Bag

NOTHING = "(no target)"


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers, one row a patient (or a slide, where there is no table).

    Attributes:
        ids: of the patients or slides.
        slides: of each row, joined by `;`.
        members: what each member says, [m, n, s].
        score: what the model says, the mean over members, [n, s].
        scaled: the same after temperature scaling, [n, s]; scores as they are for tasks without probabilities.
        in_training: whether the model was trained on the patient or on a slide of it.
    """

    ids: tuple[str, ...]
    slides: tuple[str, ...]
    members: Float[np.ndarray, "m n s"]
    score: Float[np.ndarray, "n s"]
    scaled: Float[np.ndarray, "n s"]
    in_training: tuple[bool, ...]

    @property
    def spread(self) -> Float[np.ndarray, "n s"]:
        """Standard deviation over members; NaN for a single one."""
        return self.members.std(0, ddof=1) if len(self.members) > 1 else np.full(self.score.shape, np.nan)


def answers_of(
    kept: Kept, source: FeatureSource, table: CohortTable | None, tell: Callable[[int, int], None] | None = None
) -> tuple[Answers, Study]:
    """Let a model answer for all slides of some features, or for the patients of a table.

    Args:
        kept: the model.
        source: features that were checked to be of its kind.
        table: which slides belong to which patient; None takes every slide by itself.
        tell: (bags done, bags in all), called after each.

    Returns:
        The answers and the bags they are about; the study's flow says which slides were left out.

    Raises:
        CohortError: no row of the table has features.
        NonFiniteError: an answer is not finite.
    """
    study = untargeted(kept, source, table)
    seen = kept.facts["training"]["seen"]
    patients, slides, features = (set(seen[k]) for k in ("patients", "slides", "features"))
    known = [
        (table is not None and digest_id(p) in patients) or any(digest_id(s) in slides for s in bag)
        for p, bag in zip(study.patient.tolist(), study.slides, strict=True)
    ]

    def read(row: int) -> Bag:
        bag = study.read(row)
        known[row] = known[row] or any(digest_features(x) in features for _, x in slides_of(study, row, bag))
        return bag

    said = speak(kept, study.lengths, read, tell, covariates=study.covariates)
    rows: dict[str, list[int]] = {}
    own = study.bag if kept.facts["measured"] == "slide" else study.patient  # labels may belong to slides
    for i, who in enumerate(own.tolist()):
        rows.setdefault(who, []).append(i)
    group = np.repeat(np.arange(len(rows)), [len(own) for own in rows.values()])
    order = np.concatenate([np.array(own) for own in rows.values()])

    def by_patient(score: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "p s"]:
        return pool(kept.kind, score[order], group, len(rows), kept.facts["aggregate"])

    return (
        Answers(
            ids=tuple(rows),
            slides=tuple(";".join(s for row in own for s in study.slides[row]) for own in rows.values()),
            members=np.stack([by_patient(member) for member in said.members]),
            score=by_patient(said.score),
            scaled=by_patient(calibrated(kept.kind, said.score, kept.temperature)),
            in_training=tuple(any(known[row] for row in own) for own in rows.values()),
        ),
        study,
    )


def untargeted(kept: Kept, source: FeatureSource, table: CohortTable | None) -> Study:
    """The bags of some features, without targets: a patient's slides together where the model was trained so.

    Raises:
        ConfigError: the model reads covariates and there is no table that holds them.
    """
    if table is None and kept.codings:
        raise ConfigError(
            f"This model reads {', '.join(c.column for c in kept.codings)} beside the features; give the table that "
            "holds them: --cohort COHORT.csv."
        )
    return bags_of(source, table or slides_alone(source.ids), kept.facts["unit"], kept.codings)


def slides_alone(ids: Sequence[str]) -> CohortTable:
    """A table in which every slide is a patient."""
    return table_of("the features", {"slide_id": np.array(ids, np.str_)}, np.arange(len(ids)), line_word="slide")


def bags_of(
    source: FeatureSource, table: CohortTable, unit: Unit, covariates: Sequence[Covariate | Coding] = ()
) -> Study:
    """The bags of some features and a table, whatever their targets; raises what `build_study` does."""
    table = replace(table, columns={**table.columns, NOTHING: np.full(len(table), "0")})
    task = Regression(labels=(NOTHING,), standardise=False)
    return build_study("prediction", table, source, task, unit, split="-", covariates=covariates)


def called(kept: Kept, score: Float[np.ndarray, "n s"]) -> list[list[str]]:
    """The class of each row at the model's threshold (labels: 1 or 0 each; survival: high or low), as text."""
    if kept.kind == "Binary":
        positive = score[:, 1] >= kept.threshold[0]
        return [[kept.names[int(p)]] for p in positive]
    if kept.kind == "MultiClass":
        return [[kept.names[int(i)]] for i in score.argmax(1)]
    if kept.kind == "MultiLabel":
        return [[str(int(v)) for v in row] for row in score >= kept.threshold]
    if kept.kind == "Survival" and kept.facts["risk_cut"]:
        return [["high" if r >= kept.facts["risk_cut"]["value"] else "low"] for r in score[:, 0]]
    return [[] for _ in score]


def table_of_answers(kept: Kept, answers: Answers, marks: Sequence[str], by: str) -> list[list[str]]:
    """Header and rows of the CSV; numbers keep every digit.

    Args:
        kept: the model.
        answers: what it said.
        marks: what every number must be read with.
        by: "patient" or "slide", what a row is.
    """
    kind, names = kept.kind, list(kept.names)
    prefix = {"Survival": "", "Regression": "pred_"}.get(kind, "prob_")
    score, spread = answers.score, answers.spread
    header = [by, *(["slides"] if by == "patient" else []), *(prefix + name for name in names)]
    classes = {"Binary": ["class"], "MultiClass": ["class"], "MultiLabel": [f"class_{n}" for n in names]}.get(kind, [])
    if kind == "Survival" and kept.facts["risk_cut"]:
        classes = ["risk_group"]
    probable = kind in ("Binary", "MultiClass", "MultiLabel")
    header += classes + ([f"calibrated_{n}" for n in names] if probable else []) + [f"sd_{n}" for n in names]
    rows = [[*header, "members", "in_training", "marks"]]
    tail = [str(len(answers.members))]
    for i, own in enumerate(called(kept, score)):
        first = [answers.ids[i], *([answers.slides[i]] if by == "patient" else [])]
        cells = [*_cells(score[i]), *own, *(_cells(answers.scaled[i]) if probable else []), *_cells(spread[i]), *tail]
        rows.append([*first, *cells, "yes" if answers.in_training[i] else "no", ";".join(marks)])
    return rows


def _cells(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(v) else repr(float(v)) for v in values]
