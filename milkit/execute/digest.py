"""What the numbers of a study depend on of its data, as one digest."""

import hashlib
import json

import numpy as np

from milkit.data.study import Study


def data_digest(study: Study) -> str:
    """What the numbers depend on of table and features: ids, lengths, targets, covariates, and the sources' digests."""
    sha = hashlib.sha256()
    names = [study.bag.tolist(), [list(s) for s in study.slides], study.patient.tolist(), study.site.tolist()]
    own = {k: v for k, v in study.provenance.items() if "sha256" in k and k != "table_sha256"}
    sha.update(json.dumps([names, own], sort_keys=True, default=str).encode())
    for values in (study.lengths, study.targets.values):
        sha.update(np.ascontiguousarray(values).tobytes())
    if study.covariates is not None:
        sha.update(json.dumps(study.covariates.names).encode())
        sha.update(np.ascontiguousarray(study.covariates.values).tobytes())
    return sha.hexdigest()
