"""What a packed store says of itself: the facts of its features, and where they are from."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

from milkit.data.feature_sets import as_attribute, sets_of
from milkit.data.features import FeatureSource, Joined
from milkit.data.pack.journal import Written
from milkit.data.pack.plan import FACTS, Plan
from milkit.data.pack.rounding import Rounding
from milkit.data.store_write import store_attributes


def provenance_of(plan: Plan, done: Mapping[int, Written], number: int) -> dict[str, Any]:
    """Attributes of a shard's file: what is known of the features, and where they are from.

    Raises:
        DataError: sizes that contradict each other.
    """
    source = plan.opened.source.provenance
    facts = {name: source.get(name) for name in FACTS}
    facts["encoder"] = plan.opened.encoder
    said = {k: v for k, v in source.items() if k not in (*FACTS, "extra", "dtype", "milkit_version")}
    entries = [done[i] for i in sorted(done)]
    sources = [entry.source for entry in entries if entry.source is not None]
    packed: dict[str, Any] = {
        "dtype": plan.dtype,
        "rounding": reduce(add, (entry.rounding for entry in entries), Rounding()).to_json,
        "options": plan.asked.said,
        "sources": {"files": len(sources), "bytes": sum(s.get("bytes", 0) for s in sources)},
        "left_out": list(plan.opened.empty),
    }
    if len(plan.shards) > 1:
        packed["shard"] = [number, len(plan.shards)]
    extra = {**_first_extra(source), **said, "packed": packed}
    text: dict[str, Any] = json.loads(json.dumps(extra, default=str))
    text.pop("feature_sets", None)
    labels = labels_of(plan.opened.source)
    if labels:
        text["labels"] = {name: labels[name] for name in plan.opened.ids if name in labels}
    attrs = store_attributes(plan.dtype, facts["encoder"], facts["mpp"], facts["tile_um"], facts["tile_px"], text)
    sets = sets_of(source)  # what lies side by side in an instance, of a store of several sets
    return {**attrs, **({"feature_sets": as_attribute(sets)} if sets else {})}


def _first_extra(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a store that is packed anew says of its own origin."""
    files = source.get("files") or [source]
    extra = files[0].get("extra") or {}
    return {k: v for k, v in extra.items() if k != "packed"}


def labels_of(source: FeatureSource) -> dict[str, str]:
    """What the files say of the slides' labels, by id; of several stores, of all of them."""
    parts = {id(s): s for s in source.where.values()}.values() if isinstance(source, Joined) else [source]
    return {name: label for part in parts for name, label in getattr(part, "labels", {}).items()}
