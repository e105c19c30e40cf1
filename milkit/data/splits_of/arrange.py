"""Which splits are the folds of one repeat, and which are redraws: read off the test parts, not off a name."""

import functools
from collections.abc import Sequence

from milkit.data.matching import as_number, file_stem
from milkit.data.splits_of.named import Draft, NamedSplit, role_of


def is_partition(splits: Sequence[Draft] | Sequence[NamedSplit]) -> bool:
    """Whether the test parts cover everybody who has a part exactly once; at least two splits."""
    tested: set[str] = set()
    everybody: set[str] = set()
    for split in splits:
        test = _tested(split)
        if tested & test:
            return False
        tested |= test
        everybody |= {_key(name) for name in split.parts}
    return len(splits) > 1 and tested == everybody


def _tested(split: Draft | NamedSplit) -> frozenset[str]:
    """Who is tested."""
    return frozenset(_key(name) for name, part in split.parts.items() if role_of(part) == "test")


@functools.lru_cache(maxsize=1 << 16)
def _key(name: str) -> str:
    """An id as it is compared between splits: pandas writes 7 in one column and 7.0 in another, which has padding."""
    stem = file_stem(name)
    return as_number(stem) or stem


def numbered(files: Sequence[Sequence[Draft]], whole: bool) -> tuple[NamedSplit, ...]:
    """Give each split its repeat and fold.

    Args:
        files: the splits of each file.
        whole: each file is a draw of its own; else all files together are one series.

    Returns:
        A partition as the folds of one repeat, every other split as a repeat of its own; splits that have a number of
        their own keep it.
    """
    series = list(files) if whole else [[draft for drafts in files for draft in drafts]]
    splits: list[NamedSplit] = []
    for drafts in series:
        repeat = 1 + max((split.repeat for split in splits), default=-1)
        if all(draft.key is not None for draft in drafts):
            splits += [
                draft.numbered(draft.key[0] + repeat, *draft.key[1:]) for draft in drafts if draft.key is not None
            ]
        elif is_partition(drafts):
            splits += [draft.numbered(repeat, fold) for fold, draft in enumerate(drafts)]
        else:
            splits += [draft.numbered(repeat + i, 0) for i, draft in enumerate(drafts)]
    return tuple(splits)


def partition_note(tool: str, splits: Sequence[NamedSplit]) -> str:
    """What a reader should know of test parts that are no partition; "" for a partition or a single split."""
    redraws = {split.repeat for split in splits if not any(o.repeat == split.repeat and o.fold for o in splits)}
    if len(splits) < 2 or len(redraws) < 2:
        return ""
    tests = [_tested(split) for split in splits if split.repeat in redraws]
    if len(set(tests)) == 1:
        return (
            f"the {len(tests)} splits share one test part ({len(tests[0])} ids): they differ in training and "
            "validation only, so they say nothing about other test patients; each is a repeat of its own"
        )
    called = " (which it calls folds)" if tool == "CLAM" else ""
    return (
        f"the {len(tests)} splits{called} are redraws, not a partition: test parts overlap or leave somebody untested, "
        "so each is a repeat of its own, and a plain t-interval over them, as for folds, is not valid; milkit's "
        "procedure interval is corrected for the overlap"
    )
