"""Ids of aggregates: what can be one, and what it is as a plain text.

Rules: an id has 1 to `ID_LENGTH_MAX` printable characters. It is checked before anything is run or
read for it.
"""

from __future__ import annotations

from ..errors import InvalidInput
from ..limits import ID_LENGTH_MAX
from .given import as_text

__all__ = ["as_id", "check_id"]


def as_id(given: object) -> str:
    """Give an id as a plain string; raise InvalidInput for what is none."""
    # An enum's member is its value, whatever Python's version makes of it in a text.
    return as_text("an aggregate's id", given)


def check_id(aggregate_id: str) -> None:
    """Raise UsageError for an id that cannot be stored."""
    if not 0 < len(aggregate_id) <= ID_LENGTH_MAX or not aggregate_id.isprintable():
        raise InvalidInput(
            f"the id {aggregate_id[:40]!a} has {len(aggregate_id)} characters: an id has 1 to "
            f"{ID_LENGTH_MAX} printable ones. Nothing was run."
        )
