"""Bags with what is known of them: labels, folds, pictures, and labels of instances that no model is shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.build import build_study
from milkit.data.features import FeatureSource
from milkit.data.study import GivenSplit, Study, Unit
from milkit.data.table import table_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError
from milkit.task import Binary, MultiClass, Task


@dataclass(frozen=True, eq=False)
class MadeSource:
    """Bags that are made when they are read (cut from images, drawn from a pool); a `FeatureSource`.

    Attributes:
        ids: of the bags, unique.
        lengths: instances of each, int64 [B].
        features: width d.
        provenance: JSON-able.
        make: place of a bag -> the bag.
        notes: what a reader should know.
    """

    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    make: Callable[[int], Bag] = field(repr=False)
    notes: tuple[str, ...] = ()

    def read(self, bag_id: str) -> Bag:
        """One bag."""
        if bag_id not in self._places:
            raise DataError(f"No bag {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        return self.make(self._places[bag_id])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {bag: i for i, bag in enumerate(self.ids)}


@dataclass(frozen=True, eq=False)
class BagSet:
    """A set of labelled bags.

    Attributes:
        name: of the set.
        source: its features, by bag id.
        classes: names of the labels; of two, the second is the positive one.
        labels: number of each bag's class, int64 [B].
        digest: sha256 of what it was read from.
        file: its name; "" takes the set's.
        columns: other columns, such as `patient_id`, text [B].
        given: splits that came with it.
        notes: what a reader should know.
        slide_labels: labels belong to bags, so that bags of one patient may differ.
        instances: place of a bag -> what is known of its instances, [n]; None for nothing.
        instance_classes: names of those values; () where they are numbers.
        pictures: place of a bag -> its instances as images, uint8 [n, h, w] or [n, h, w, 3]; None for none.
    """

    name: str
    source: FeatureSource
    classes: tuple[str, ...]
    labels: np.ndarray
    digest: str
    file: str = ""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: tuple[GivenSplit, ...] = ()
    notes: tuple[str, ...] = ()
    slide_labels: bool = False
    instances: Callable[[int], np.ndarray] | None = None
    instance_classes: tuple[str, ...] = ()
    pictures: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.source.ids)

    def bag(self, i: int) -> Bag:
        """Bag number i."""
        return self.source.read(self.source.ids[i])

    def instance_labels(self, i: int) -> np.ndarray:
        """What is known of the instances of bag i, [n], in their order: to judge attention by, never to learn from.

        Raises:
            DataError: nothing is known.
        """
        if self.instances is None:
            raise DataError(f"Nothing is known of the instances of {self.name!r}; only its bags have labels.")
        return self.instances(i)

    def images(self, i: int) -> np.ndarray:
        """The instances of bag i as images, uint8 [n, h, w] or [n, h, w, 3]: what a pixel encoder takes.

        Raises:
            DataError: the set holds features only.
        """
        if self.pictures is None:
            raise DataError(f"The instances of {self.name!r} are feature vectors; there are no images of them.")
        return self.pictures(i)

    def study(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study of a task; the class stands in the column `label`.

        Raises:
            CohortError: the task asks for what the set does not have.
        """
        names = np.array(self.classes, np.str_)[self.labels]
        cells = {"slide_id": np.array(self.source.ids, np.str_), **self.columns, "label": names}
        table = table_of(self.file or self.name, cells, np.arange(len(self)), digest=self.digest, line_word="bag")
        return build_study(
            self.name,
            table,
            self.source,
            _with_classes(task or Binary(), self.classes),
            unit,
            given=self.given,
            notes=self.notes,
            slide_labels=self.slide_labels,
        )


def given_roles(role: np.ndarray) -> tuple[GivenSplit, ...]:
    """One given split, from the role of each bag."""
    return (GivenSplit(0, 0, role.astype("U10")),)


def check_alike(name: str, **sizes: Sequence[Any] | np.ndarray) -> None:
    """Raise unless all arrays of a set have one length."""
    lengths = {what: len(values) for what, values in sizes.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} {what}" for what, length in lengths.items())
        raise DataError(f"{name} does not fit together: {said}.")


def _with_classes(task: Task, classes: tuple[str, ...]) -> Task:
    """The task with the set's own order of classes, where it states none: "musk" sorts before "non-musk"."""
    if isinstance(task, Binary) and task.label == "label" and not task.positive and len(classes) == 2:
        return replace(task, positive=classes[1])
    if isinstance(task, MultiClass) and task.label == "label" and not task.classes:
        return replace(task, classes=classes)
    return task
