"""What the numbers of a study depend on of its data, as one digest; and of the weights that a model starts from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from milkit.data.study import Study
from milkit.errors import DataError


def weights_digest(model: Any) -> dict[str, str]:
    """sha256 of the file of weights that a model starts from, as `{"weights_digest": ...}`; {} where it names none.

    Raises:
        DataError: the file cannot be read.
    """
    path = getattr(model, "weights", "")
    if not (path and isinstance(path, str) and hasattr(model, "load")):
        return {}
    try:
        with open(path, "rb") as file:
            return {"weights_digest": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise DataError(f"The weights {path} cannot be read: {error.strerror or error}.") from None


def data_digest(study: Study) -> str:
    """What the numbers depend on of table and features: ids, lengths, targets, covariates, and the sources' digests."""
    sha = hashlib.sha256()
    names = [study.bag.tolist(), [list(s) for s in study.slides], study.patient.tolist(), study.site.tolist()]
    own = _digests(study.provenance)
    own |= {"files": each} if any(each := [_digests(f) for f in study.provenance.get("files") or ()]) else {}
    sha.update(json.dumps([names, own], sort_keys=True, default=str).encode())
    for values in (study.lengths, study.targets.values):
        sha.update(np.ascontiguousarray(values).tobytes())
    if study.covariates is not None:
        sha.update(json.dumps(study.covariates.names).encode())
        sha.update(np.ascontiguousarray(study.covariates.values).tobytes())
    return sha.hexdigest()


def _digests(provenance: Any) -> dict[str, Any]:
    """The digests in a provenance, the table's left out; {} where it is no mapping."""
    known = provenance if isinstance(provenance, Mapping) else {}
    return {k: v for k, v in known.items() if "sha256" in k and k != "table_sha256"}
