"""Lists of ids in a JSON file."""

from collections.abc import Iterator
from typing import Any

from milkit.errors import ProtocolError


def ids_in(file: str, value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Each id of a list as text, and its place; whole numbers are taken for ids written without quotes.

    Raises:
        ProtocolError: it is no list, or holds something that can be no id.
    """
    if not isinstance(value, list):
        raise ProtocolError(f"{file}, {where}: {type(value).__name__}; expected a list of ids.")
    for number, one in enumerate(value):
        place = f"{where}[{number}]"
        if not isinstance(one, (str, int)) or isinstance(one, bool) or not str(one).strip():
            raise ProtocolError(f"{file}, {place}: {str(one)[:40]!r}; expected an id.")
        yield str(one).strip(), place
