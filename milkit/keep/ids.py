"""Who was in training, without saying so: SHA-256 digests of ids and of features, and the check of another cohort.

A digest keeps an id list from being read off `model.json`, while an id that somebody has can be looked up in it. It is
no encryption: who guesses an id (short numbers, say) can test the guess.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from milkit.data.study import Study
from milkit.data.where import and_more
from milkit.errors import ProtocolError

if TYPE_CHECKING:
    from milkit.types import Bag

MOST_NAMED = 100


def digest_id(name: str) -> str:
    """SHA-256 of an id, surrounding blanks left out."""
    return hashlib.sha256(str(name).strip().encode()).hexdigest()


def digests(names: Iterable[str]) -> list[str]:
    """Sorted digests of distinct ids; their order says nothing about the ids'."""
    return sorted({digest_id(name) for name in names})


def digest_features(x: np.ndarray) -> str:
    """SHA-256 of a slide's features in float16, so that a store of another precision gives the same."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(x, np.float16)
    return hashlib.sha256(f"{half.shape}".encode() + half.tobytes()).hexdigest()


def slides_of(study: Study, row: int, bag: "Bag") -> list[tuple[str, np.ndarray]]:
    """(slide, its features) of a bag."""
    sizes = study.slide_lengths[row] if study.slide_lengths else (len(bag.x),)
    ends = np.cumsum(sizes)
    parts = np.split(bag.x, ends[:-1])
    return list(zip(study.slides[row], parts, strict=True)) if len(parts) == len(study.slides[row]) else []


def seen_in(study: Study, rows: Iterable[int]) -> dict[str, list[str]]:
    """Digests of the patients, slides and features of some bags; reads their features once."""
    kept = list(rows)
    features = {digest_features(x) for row in kept for _, x in slides_of(study, row, study.read(row))}
    return {
        "patients": digests(study.patient[kept].tolist()),
        "slides": digests(slide for row in kept for slide in study.slides[row]),
        "features": sorted(features),
    }


def known_ids(study: Study, seen: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Patients and slides of a study that were in training, by their ids."""
    patients, slides = set(seen["patients"]), set(seen["slides"])
    return (
        [p for p in dict.fromkeys(study.patient.tolist()) if digest_id(p) in patients],
        [s for bag in study.slides for s in bag if digest_id(s) in slides],
    )


def refuse_overlap(study: Study, seen: Mapping[str, Any]) -> None:
    """Refuse patients and slides that were in training, by their ids.

    Raises:
        ProtocolError: lists them.
    """
    patients, slides = known_ids(study, seen)
    if not patients and not slides:
        return
    said = [
        f"{len(names)} {what}{'s' if len(names) > 1 else ''}: {and_more(names[:MOST_NAMED], len(names))}"
        for what, names in (("patient", patients), ("slide", slides))
        if names
    ]
    raise ProtocolError(
        f"The model was trained on {' and '.join(said)}. On them it would be measured by what it has seen, so nothing "
        "is computed. Take their rows out of the table; if they are other people with equal ids, give them ids of "
        "their own, such as the hospital's name before each."
    )


def refuse_same_features(study: Study, seen: Mapping[str, Any]) -> Callable[[int, "Bag"], None]:
    """A check to be called with each bag as it is read: its slides' features must not be those of a training slide.

    Raises:
        ProtocolError: when called with such a bag; slides may be renamed, their features stay what they are.
    """
    known = set(seen["features"])

    def check(row: int, bag: "Bag") -> None:
        same = [slide for slide, x in slides_of(study, row, bag) if digest_features(x) in known]
        if same:
            raise ProtocolError(
                f"The features of slide {same[0]!r} (patient {str(study.patient[row])!r}) are to the last value those "
                "of a slide that the model was trained on, under another id. Nothing is computed; take its row out of "
                "the table."
            )

    return check
