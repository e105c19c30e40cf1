"""What all files of a cohort must have in common, and the error that names those which do not."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from milkit.data.where import and_more
from milkit.errors import DataError


def check_agree(what: str, values: Sequence[tuple[str, Any]], do: str) -> Any:
    """Raise where the files of a cohort differ; an unknown value (None) agrees with no known one.

    Args:
        what: is compared, in words.
        values: (file, value) of each.
        do: what the user can do, as a sentence.

    Returns:
        The common value.

    Raises:
        DataError: names one file with the usual value and up to five with another.
    """
    usual = Counter(value for _, value in values).most_common(1)[0][0]
    others = [f"{name}: {value}" for name, value in values if value != usual]
    if others:
        first = next(name for name, value in values if value == usual)
        raise DataError(
            f"The feature files of a cohort must have one {what}; {first}: {usual}, but "
            f"{and_more(others[:5], len(others))}. Features of two kinds cannot be pooled; {do}"
        )
    return usual
