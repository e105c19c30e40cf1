"""Several feature sets that lie side by side in an instance: `x = [first | second | ...]`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from milkit.errors import DataError


@dataclass(frozen=True)
class FeatureSet:
    """One of several sets.

    Attributes:
        name: to tell it from the others.
        width: features of an instance.
        encoder: that made it, None where unknown.
        mpp: micrometres per pixel of its tiles as the encoder saw them, None where unknown.
        tile_um: width of its tiles in micrometres, None where unknown.
    """

    name: str
    width: int
    encoder: str | None = None
    mpp: float | None = None
    tile_um: float | None = None


def as_json(sets: Sequence[FeatureSet]) -> list[dict[str, Any]]:
    """The sets as they stand in a provenance, under `feature_sets`."""
    return [asdict(s) for s in sets]


def sets_of(provenance: Mapping[str, Any]) -> tuple[FeatureSet, ...]:
    """The sets that features are made of; () where they are one."""
    return tuple(FeatureSet(**s) for s in provenance.get("feature_sets") or ())


def as_attribute(sets: Sequence[FeatureSet]) -> str:
    """The sets as a store keeps them: JSON."""
    return json.dumps(as_json(sets), allow_nan=False)


def from_attribute(text: Any, width: int, where: str) -> list[dict[str, Any]]:
    """The sets of a store's attribute, as they stand in its provenance.

    Raises:
        DataError: it is no list of sets, or their widths do not add up to the store's.
    """
    try:
        sets = [FeatureSet(**{str(k): v for k, v in s.items()}) for s in json.loads(str(text))]
        total = sum(int(s.width) for s in sets)
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{where} is damaged: its attribute feature_sets is no list of sets; write it anew.") from None
    check_widths([s.width for s in sets], width, where)
    return as_json(sets) if total else []


def check_widths(widths: Sequence[int], width: int, where: str) -> None:
    """Raise where the widths of sets do not add up to that of an instance."""
    if sum(widths) != width or min(widths, default=0) < 1:
        raise DataError(
            f"{where}: feature_sets of widths {', '.join(map(str, widths))} do not make instances of {width} features."
        )
