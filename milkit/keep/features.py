"""Whether features are of the kind that a model was trained on: width, encoder, magnification."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.feature_sets import FeatureSet, sets_of
from milkit.data.features import FeatureSource, open_features
from milkit.data.open_cohort import open_cohort
from milkit.data.table import CohortTable
from milkit.errors import ConfigError, DataError
from milkit.task import Task

MPP_TOLERANCE = 0.01
"""Relative difference in micrometres per pixel that is still the same: scanners state .2525 where others state .25."""
CAN_BE_UNKNOWN = ("encoder", "mpp")


@dataclass(frozen=True)
class Features:
    """Features of other slides, and what the user says of them.

    Attributes:
        path: what `milkit.data.features.open_features` takes.
        mpp: for files of other tools: micrometres per pixel at level 0, or the table's column that holds them.
        encoder: for files that do not say it.
        patches: CLAM's folder of patches files, where it is not beside the features.
        allow_unknown: "encoder", "mpp": what only one side knows and the user vouches for; marks every number.
    """

    path: str | Path | tuple[str | Path, ...]
    mpp: float | str = ""
    encoder: str = ""
    patches: str = ""
    allow_unknown: tuple[str, ...] = ()


def open_like(
    facts: Mapping[str, Any], features: Features, table: CohortTable | None, task: Task | None = None
) -> tuple[CohortTable | None, FeatureSource, list[str], list[str]]:
    """Open features for a model, and refuse those of another kind than it was trained on.

    Args:
        facts: the model's.
        features: where they are.
        table: the slides that are asked for; None for all.
        task: how the table's targets are read, if they are.

    Returns:
        The table (with the ids of the features' files), the features, marks that every number must carry, and notes.

    Raises:
        MilkitError: features that cannot be used.
    """
    how: dict[str, Any] = {"encoder": features.encoder, "patches": features.patches}
    path: Any = features.path
    said: tuple[str, ...] = ()
    if table is not None:
        table, source, said = open_cohort(table, path, mpp=features.mpp, task=task, **how)
    else:
        if isinstance(features.mpp, str) and features.mpp:
            raise ConfigError(f"--mpp {features.mpp}: a column needs a table (--cohort); give a number.")
        source = open_features(path, mpp=features.mpp or None, **how)
    marks, notes = check_features(
        facts["features"], facts["in_features"], source, str(features.path), features.allow_unknown
    )
    return table, source, marks, [*said, *notes]


def feature_facts(source_provenance: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What a model remembers of its features."""
    extra = source_provenance.get("extra") or {}
    digest = source_provenance.get("encoder_digest") or (
        extra.get("encoder_digest") if isinstance(extra, dict) else None
    )
    known = {key: source_provenance.get(key) for key in ("encoder", "mpp", "tile_um", "tile_px")}
    sets = list(source_provenance.get("feature_sets") or ())
    return {**known, "encoder_digest": digest, "dtype": dtype, **({"feature_sets": sets} if sets else {})}


def check_features(
    facts: Mapping[str, Any], in_features: int, source: FeatureSource, where: str, allow_unknown: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Refuse features of another width, encoder or magnification than the model's.

    Args:
        facts: the model's `features`.
        in_features: width it was trained on.
        source: the features to be used.
        where: their file, for messages.
        allow_unknown: "encoder" or "mpp", where one side does not know and the user vouches for it.

    Returns:
        Marks that every number must carry, and notes.

    Raises:
        DataError: they differ, or one side does not know and this was not allowed.
        ConfigError: an unknown word in `allow_unknown`.
    """
    strange = [word for word in allow_unknown if word not in CAN_BE_UNKNOWN]
    if strange:
        raise ConfigError(f"--allow-unknown {strange[0]}: it can be {' or '.join(CAN_BE_UNKNOWN)}.")
    if source.features != in_features:
        raise DataError(
            f"{where} has {source.features} features an instance, the model was trained on {in_features}: another "
            f"encoder's. Make features with {facts['encoder'] or 'the encoder of the training features'}."
        )
    theirs = feature_facts(source.provenance, "")
    marks: list[str] = []
    notes: list[str] = []
    for key in CAN_BE_UNKNOWN:
        ours, other = facts[key], theirs[key]
        if ours is None and other is None:
            notes.append(f"{key} is recorded neither with the model nor with these features")
        elif ours is None or other is None:
            marks += _one_side(key, ours, other, where, allow_unknown)
        elif not _same(key, ours, other):
            raise DataError(_differs(key, ours, other, where))
    marks += _check_sets(sets_of(facts), sets_of(theirs), where)
    digests = (facts.get("encoder_digest"), theirs["encoder_digest"])
    if all(digests) and digests[0] != digests[1]:
        raise DataError(
            f"{where}: encoder {theirs['encoder']!r} has the model's name but other weights (digest {digests[1]!s:.12} "
            f"there, {digests[0]!s:.12} in training). Make features with the same weights."
        )
    ours_um, their_um = facts.get("tile_um"), theirs["tile_um"]
    if ours_um and their_um and not math.isclose(ours_um, their_um, rel_tol=MPP_TOLERANCE):
        marks.append(f"tiles of {their_um:g} µm, in training {ours_um:g} µm")
    return marks, notes


def _check_sets(ours: Sequence[FeatureSet], others: Sequence[FeatureSet], where: str) -> list[str]:
    """Marks on feature sets that one side does not name; an error where they lie side by side in another way."""
    said, there = ([f"{s.width} of {s.encoder or s.name}" for s in sets] for sets in (ours, others))
    if bool(ours) != bool(others):
        knows, value = ("the model", said) if ours else (where, there)
        return [f"feature sets unknown on one side ({knows}: {', '.join(value)})"]
    alike = [
        a.width == b.width and (a.encoder == b.encoder or None in (a.encoder, b.encoder))
        for a, b in zip(ours, others, strict=False)
    ]
    if len(ours) != len(others) or not all(alike):
        raise DataError(
            f"An instance of {where} is {', '.join(there)}, that of the model {', '.join(said)}; align the sets in the "
            "model's order."
        )
    return []


def _same(key: str, ours: Any, other: Any) -> bool:
    return math.isclose(ours, other, rel_tol=MPP_TOLERANCE) if key == "mpp" else ours == other


def _one_side(key: str, ours: Any, other: Any, where: str, allowed: Sequence[str]) -> list[str]:
    knows, lacks = ("the model", where) if other is None else (where, "the model")
    value = ours if other is None else other
    if key not in allowed:
        raise DataError(
            f"{knows} says {key} {value!r}, {lacks} does not say: nobody can tell whether they fit. Write the store "
            f"with its {key}; or, if you know that they fit, add --allow-unknown {key}, which marks every number."
        )
    return [f"{key} unknown on one side ({knows}: {value})"]


def _differs(key: str, ours: Any, other: Any, where: str) -> str:
    if key == "mpp":
        return (
            f"{where} was made at {other:g} µm a pixel, the model was trained at {ours:g} (more than "
            f"{MPP_TOLERANCE:.0%} apart). Tile the slides at {ours:g} µm a pixel and embed them again."
        )
    return (
        f"{where} holds features of encoder {other!r}, the model was trained on {ours!r}; equal widths do not make "
        f"them the same. Embed the slides with {ours!r}."
    )
