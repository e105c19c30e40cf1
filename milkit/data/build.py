"""A study from a cohort table and features: rows are matched, targets read, patients put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.covariates import Coding, Covariate, Covariates, read_covariates, telling
from milkit.data.features import FeatureSource
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.matching import examples, hint
from milkit.data.splits import given_splits
from milkit.data.study import Flow, GivenSplit, Study, Unit
from milkit.data.table import CohortTable
from milkit.data.targets import Targets, check_columns, encode, missing_targets
from milkit.data.where import Where, and_more
from milkit.errors import CohortError
from milkit.task import Task

NO_FEATURES = "the table has a row but there are no features"
NO_INSTANCE = "its features hold no instance"
NO_ROW = "there are features but no row in the table"
GAP_UM = 10_000.0
"""Room left between the slides of a patient in `coords_um`: 1 cm, beyond any neighbourhood that a model looks at."""


def build_study(
    name: str,
    table: CohortTable,
    features_source: FeatureSource,
    task: Task,
    unit: Unit,
    *,
    split: str = "",
    given: Sequence[GivenSplit] = (),
    notes: Sequence[str] = (),
    strict: bool = False,
    slide_labels: bool = False,
    covariates: Sequence[Covariate | Coding] = (),
) -> Study:
    """Match a table with features and make the study of one task.

    In the patient unit a bag is all slides of a patient, in the order of the table. Rows without features, without
    a value of the target, and features without a row are left out, and every one is listed in the study's flow.

    Args:
        name: of the study.
        table: one row a slide.
        features_source: features by slide id.
        task: which columns are predicted.
        unit: what a bag is.
        split: which columns hold splits, see `milkit.data.splits.given_splits`.
        given: splits that did not come as columns, one role a row of the table.
        notes: on the features, for the study's flow.
        strict: raise instead of leaving anything out.
        slide_labels: labels belong to slides, so that slides of one patient may differ (slide unit only).
        covariates: columns that are an input of the model, or how a kept model reads them.

    Raises:
        CohortError: nothing matches (with examples of both sides); targets that cannot be read; slides of one
            patient that disagree in label, site, cohort, role or covariates; covariates that cannot be read; with
            `strict`, anything left out.
    """
    _check_task(task, table)
    splits, split_columns, split_note = given_splits(table.columns, split, table.where)
    rows, flow = _match(table, features_source, task)
    if strict and flow.left_out:
        _raise_left_out(table, flow.left_out)
    if not len(rows):
        raise CohortError(f"{table.file}: no row has both features and a value of the target {task.columns}.")
    targets = encode(task, {c: table.columns[c][rows.index] for c in task.columns}, rows.where)
    on_patients = _check_patients(task, table, rows, targets, unit, slide_labels)
    groups = rows.by_patient() if unit == "patient" else [[i] for i in range(len(rows))]
    first = np.array([group[0] for group in groups])
    ids = rows.patient[first] if unit == "patient" else rows.slide[first]
    slides = tuple(tuple(str(rows.slide[i]) for i in group) for group in groups)
    lengths = dict(zip(features_source.ids, features_source.lengths.tolist(), strict=True))
    slide_lengths = tuple(tuple(lengths[slide] for slide in bag) for bag in slides)
    used = {*table.used.values(), *task.columns, *split_columns}
    beside, beside_notes = _covariates(covariates, table, task, split_columns, rows, groups, targets)
    return Study(
        name=name,
        unit=unit,
        bag=ids,
        slides=slides,
        patient=rows.patient[first],
        site=_known(table.site[rows.index], rows)[first],
        cohort=_known(table.cohort[rows.index], rows)[first],
        lengths=np.array([sum(bag) for bag in slide_lengths], np.int64),
        features=features_source.features,
        targets=Targets(targets.values[first], targets.names),
        given=_roles((*splits, *given), rows, groups),
        flow=replace(
            flow,
            bags=len(groups),
            patients=len(set(rows.patient.tolist())),
            notes=(*table.notes, *filter(None, [split_note]), *flow.notes, *on_patients, *beside_notes, *notes),
        ),
        read=_reader(tuple(ids.tolist()), slides, features_source),
        columns={c: _together(v[rows.index], groups) for c, v in table.columns.items() if c not in used},
        provenance={"table": table.file, "table_sha256": table.digest, **_provenance(features_source, slides)},
        slide_lengths=slide_lengths,
        own_coords=lambda i: _joined([_coords(features_source, slide) for slide in slides[i]]),
        covariates=beside,
    )


def _provenance(source: FeatureSource, slides: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """What is known of the features; files are known again by those of the study, so that others may come and go."""
    if isinstance(source, SlideFiles):
        return {**source.provenance, "sample_sha256": source.sample([slide for bag in slides for slide in bag])}
    return source.provenance


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows that are used; `index` are their places in the table."""

    index: np.ndarray
    slide: np.ndarray
    patient: np.ndarray
    where: Where

    def __len__(self) -> int:
        return len(self.index)

    def by_patient(self) -> list[list[int]]:
        """Rows of each patient, patients in the order of their first row."""
        groups: dict[str, list[int]] = {}
        for i, patient in enumerate(self.patient.tolist()):
            groups.setdefault(patient, []).append(i)
        return list(groups.values())


def _covariates(
    wanted: Sequence[Covariate | Coding],
    table: CohortTable,
    task: Task,
    split: Sequence[str],
    rows: _Rows,
    groups: Sequence[Sequence[int]],
    targets: Targets,
) -> tuple[Covariates | None, tuple[str, ...]]:
    """The covariates of the bags, and notes on how they were read and on what gives the target away."""
    taken = dict.fromkeys(split, "a split") | dict.fromkeys(task.columns, "the target")
    ids = {"slide": "the slide ids", "patient": "the patient ids"}
    taken |= {column: ids[role] for role, column in table.used.items() if role in ids}
    columns = {name: cells[rows.index] for name, cells in table.columns.items()}
    read, notes = read_covariates(wanted, columns, groups, rows.where, taken)
    first = Targets(targets.values[[group[0] for group in groups]], targets.names)
    return read, notes + (() if read is None else telling(read, first))


def _check_task(task: Task, table: CohortTable) -> None:
    check_columns(task, table.columns, table.file)
    for column in task.columns:
        if column in table.dates:
            raise CohortError(
                f"{table.file}: column {column!r}, a target, holds dates ({table.dates[column]}); a spreadsheet makes "
                "dates of labels such as 1-2. Format the column as text, type those cells again, and save."
            )
    for role, column in table.used.items():
        if column in task.columns:
            none = f" (or {role}='-' for none)" if role in ("site", "cohort") else ""
            raise CohortError(
                f"{table.file}: column {column!r} is taken for the {role} and is also the target; name another "
                f"column: {role}='my_column'{none}."
            )


def _match(table: CohortTable, source: FeatureSource, task: Task) -> tuple[_Rows, Flow]:
    """The rows in use, and the flow as far as it is known."""
    lengths = dict(zip(source.ids, source.lengths.tolist(), strict=True))
    reasons = []
    for slide, missing in zip(table.slide.tolist(), missing_targets(task, table.columns), strict=True):
        reason = f"no value in column {missing!r}" if missing else ""
        reasons.append(NO_FEATURES if slide not in lengths else NO_INSTANCE if not lengths[slide] else reason)
    listed = set(table.slide.tolist())
    no_features = [s for s, r in zip(table.slide.tolist(), reasons, strict=True) if r == NO_FEATURES]
    no_row = [slide for slide in source.ids if slide not in listed]
    help_ = hint(no_features, no_row) if no_features and no_row else ""
    if len(no_features) == len(table):
        raise CohortError(
            f"{table.file}: none of its {len(table)} slides has features. Slides of the table: "
            f"{examples(no_features)}; slides with features: {examples(no_row)}. "
            f"{help_ + '; make the ids equal.' if help_ else 'Is this the right table, and the right id column?'}"
        )
    left_out = [(s, r) for s, r in zip(table.slide.tolist(), reasons, strict=True) if r]
    left_out += [(slide, NO_ROW) for slide in no_row]
    flow = Flow(
        rows=len(table),
        matched=len(table) - len(no_features),
        bags=0,
        patients=0,
        left_out=tuple(left_out),
        notes=(f"unmatched ids: {help_}",) if help_ else (),
    )
    kept = np.array([i for i, reason in enumerate(reasons) if not reason], np.int64)
    return _Rows(kept, table.slide[kept], table.patient[kept], table.where.take(kept)), flow


def _raise_left_out(table: CohortTable, left_out: Sequence[tuple[str, str]]) -> None:
    line = dict(zip(table.slide.tolist(), table.where.lines.tolist(), strict=True))
    said = [
        f"{slide!r}{f' ({table.where.line_word} {line[slide]})' if slide in line else ''}: {reason}"
        for slide, reason in left_out[:5]
    ]
    raise CohortError(
        f"{table.file}: strict=True, but {len(left_out)} slide(s) would be left out: "
        f"{and_more(said, len(left_out))}. Mend the table or the features, or load without strict."
    )


def _check_patients(
    task: Task, table: CohortTable, rows: _Rows, targets: Targets, unit: Unit, slide_labels: bool
) -> tuple[str, ...]:
    """Check that the slides of each patient agree in site, cohort and label; returns notes for the flow."""
    groups = [group for group in rows.by_patient() if len(group) > 1]
    for role in sorted({"site", "cohort"} & set(table.used)):
        texts = getattr(table, role)[rows.index].tolist()
        differ = [group for group in groups if len({texts[i] for i in group} - {""}) > 1]
        if differ:
            raise CohortError(
                f"{table.file}: column {table.used[role]!r} (the {role}) differs between slides of one patient: "
                f"{_listed(differ, rows, texts)}. A patient has one {role}; correct the cells, or load with "
                f"{role}='-' to use none."
            )
    differ = [g for g in groups if (targets.values[g] != targets.values[g[0]]).any()]
    if not differ:
        return ()
    texts = [", ".join(str(table.columns[c][i]) for c in task.columns) for i in rows.index]
    if unit == "patient" or not slide_labels:
        how = "slide_labels=True" if unit == "slide" else "unit='slide' and slide_labels=True"
        raise CohortError(
            f"{table.file}: {len(differ)} patient(s) have slides with different values of {list(task.columns)}: "
            f"{_listed(differ, rows, texts)}. Correct the cells; or, if labels belong to slides, set {how}."
        )
    return (f"labels belong to slides: {len(differ)} patient(s) have slides with different labels",)


def _listed(groups: Sequence[Sequence[int]], rows: _Rows, texts: Sequence[str]) -> str:
    """Some patients with the differing cells: `'p1' (line 2: 'a', line 5: 'b')`."""
    said = []
    for group in groups[:5]:
        cells = and_more([f"{rows.where.line_word} {rows.where.lines[i]}: {texts[i]!r}" for i in group[:4]], len(group))
        said.append(f"{str(rows.patient[group[0]])!r} ({cells})")
    return and_more(said, len(groups))


def _roles(splits: Sequence[GivenSplit], rows: _Rows, groups: Sequence[Sequence[int]]) -> tuple[GivenSplit, ...]:
    """The given splits with one role a bag; slides of one bag must agree."""
    result = []
    for split in splits:
        role = split.role[rows.index]
        differ = [group for group in groups if len(group) > 1 and len(set(role[list(group)].tolist())) > 1]
        if differ:
            raise CohortError(
                f"{rows.where.file}: in given split {split.repeat}/{split.fold} slides of one patient have different "
                f"roles, a leak: {_listed(differ, rows, role.tolist())}. Correct the split, or load with split='-'."
            )
        result.append(GivenSplit(split.repeat, split.fold, role[[group[0] for group in groups]]))
    return tuple(result)


def _known(values: np.ndarray, rows: _Rows) -> np.ndarray:
    """Site or cohort of each row; where a slide has none, that of the patient's other slides."""
    patients = rows.patient.tolist()
    known = {patient: value for patient, value in zip(patients, values.tolist(), strict=True) if value}
    return np.array([known.get(patient, "") for patient in patients], np.str_)


def _together(cells: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """One text a bag: the slides' common value, or their distinct values joined by `|`."""
    return np.array(["|".join(dict.fromkeys(cells[list(group)].tolist())) for group in groups], np.str_)


def _reader(ids: tuple[str, ...], slides: tuple[tuple[str, ...], ...], source: FeatureSource) -> Callable[[int], Bag]:
    """Bag number -> its bag; a bag of one slide is a view of the source, not a copy."""

    def read(i: int) -> Bag:
        parts = [source.read(slide) for slide in slides[i]]
        if len(parts) == 1:
            return replace(parts[0], id=ids[i])
        x = np.concatenate([part.x for part in parts])
        sizes, scales = {part.tile_um for part in parts}, {part.mpp for part in parts}
        return Bag(
            ids[i],
            x,
            _side_by_side([part.coords_um for part in parts]),
            # pixels of several slides have no common origin
            tile_um=sizes.pop() if len(sizes) == 1 else None,
            mpp=scales.pop() if len(scales) == 1 else None,
        )

    return read


def _coords(source: FeatureSource, slide: str) -> np.ndarray | None:
    """Positions of a slide, without reading its features where the source can do so."""
    own = getattr(source, "coords", None)
    return own(slide) if own is not None else source.read(slide).coords_um


def _joined(coords: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Positions of a bag's slides one after the other; None if one has none."""
    known = [xy for xy in coords if xy is not None]
    return np.concatenate(known) if len(known) == len(coords) else None


def _side_by_side(coords: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Positions of a patient's slides moved along x so that the slides do not overlap; None if one has none."""
    moved: list[np.ndarray] = []
    x = 0.0
    for xy in coords:
        if xy is None:
            return None
        left = float(xy[:, 0].min())
        # the first slide stays where it is
        shift = x - left if moved else 0.0
        moved.append(xy.astype(np.float32) + np.array([shift, 0.0], np.float32))
        x = float(moved[-1][:, 0].max()) + GAP_UM
    return np.concatenate(moved)
