"""Checks of what a researcher writes into a protocol."""

from typing import Any

from milkit.errors import ProtocolError


def check_group(protocol: Any) -> None:
    """Refuse sites kept whole whose patients are not."""
    if protocol.group == "site" and protocol.allow_patient_overlap:
        raise ProtocolError(
            f'{type(protocol).__name__}(group="site", allow_patient_overlap=True) contradicts itself: folds '
            "that keep sites whole keep patients whole. Drop one of the two."
        )
