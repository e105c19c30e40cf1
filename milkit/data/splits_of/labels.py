"""Labels that a split file repeats, held against those of the cohort table."""

import functools
from collections import Counter
from collections.abc import Mapping

import numpy as np

from milkit.data.splits_of.named import NamedSplit, NamedSplits
from milkit.data.study import Study
from milkit.errors import ProtocolError
from milkit.task import Binary, MultiClass, Task


def check_labels(named: NamedSplits, rows: Mapping[str, tuple[int, ...]], study: Study, task: Task) -> None:
    """Refuse a split file whose labels contradict the study's, in tasks of one class a bag.

    Labels that are the study's class names are compared as they stand (0.0 is 0). Others (0 and 1 for names) may stand
    for any class, but each for one only: the one that most of its bags have.

    Args:
        named: the splits.
        rows: id -> rows of the study.
        study, task: whose targets they are held against.

    Raises:
        ProtocolError: names file, line, id, and both labels.
    """
    if not isinstance(task, Binary | MultiClass):
        return
    stated = [
        (split, name, _spelled(label), row)
        for split in named
        for name, label in split.labels.items()
        for row in rows.get(name, ())
    ]
    if not stated:
        return
    classes = [_spelled(name) for name in study.targets.names]
    values = np.asarray(study.targets.values).astype(np.int64)
    meaning = {label: classes.index(label) for *_, label, _ in stated if label in classes}
    if len(meaning) < len({label for *_, label, _ in stated}):
        counts: dict[str, Counter[int]] = {}
        for *_, label, row in stated:
            counts.setdefault(label, Counter())[int(values[row])] += 1
        meaning = {label: seen.most_common(1)[0][0] for label, seen in counts.items()}
    wrong = [(split, name) for split, name, label, row in stated if values[row] != meaning[label]]
    if wrong:
        _refuse(wrong[0][0], wrong[0][1], len({name for _, name in wrong}), study, rows, meaning)


def _refuse(
    split: NamedSplit,
    name: str,
    count: int,
    study: Study,
    rows: Mapping[str, tuple[int, ...]],
    meaning: Mapping[str, int],
) -> None:
    names = study.targets.names
    label = split.labels[name]
    means = names[meaning[_spelled(label)]]
    found = names[int(study.targets.values[rows[name][0]])]
    stands = f" (which stands for {means!r} elsewhere)" if _spelled(label) != _spelled(means) else ""
    more = f", and {count - 1} more ids differ" if count > 1 else ""
    raise ProtocolError(
        f"{split.file}, {split.places[name]}: {name!r} has the label {label!r}{stands}, but is {found!r} in study "
        f"{study.name!r}{more}. One of the two is wrong; if the file's labels are of another task, take its columns of "
        "labels out."
    )


@functools.lru_cache(maxsize=1024)
def _spelled(label: str) -> str:
    """A label as it is compared: 1.0 and 1 are one."""
    try:
        number = float(label)
    except ValueError:
        return label.strip()
    return str(int(number)) if number.is_integer() else str(number)
