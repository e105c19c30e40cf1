"""Checks of what a researcher writes into a protocol."""

from milkit.errors import ProtocolError


def check_count(protocol: object, name: str, least: int) -> None:
    """Refuse a count below `least`."""
    value = getattr(protocol, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ProtocolError(f"{_where(protocol, name)}: expected a whole number, {least} or more.")


def check_share(protocol: object, name: str, zero: bool) -> None:
    """Refuse a share outside (0, 1), or outside [0, 1) where `zero` stands for none."""
    value = getattr(protocol, name)
    if not isinstance(value, int | float) or not (0 < value < 1 or (zero and value == 0)):
        none = ", or 0 for no such part" if zero else ""
        raise ProtocolError(f"{_where(protocol, name)}: expected a share between 0 and 1{none}.")


def check_group(protocol: object) -> None:
    """Refuse an unknown grouping, and sites kept whole whose patients are not."""
    group, overlap = getattr(protocol, "group"), getattr(protocol, "allow_patient_overlap")  # noqa: B009
    if group not in ("patient", "site"):
        raise ProtocolError(f'{_where(protocol, "group")}: expected "patient" or "site".')
    if group == "site" and overlap:
        raise ProtocolError(
            f'{type(protocol).__name__}(group="site", allow_patient_overlap=True) contradicts itself: folds '
            "that keep "
            "sites whole keep patients whole. Drop one of the two."
        )


def _where(protocol: object, name: str) -> str:
    return f"{type(protocol).__name__}({name}={getattr(protocol, name)!r})"
