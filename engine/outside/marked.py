"""The events of a page whose metadata has something that is rare, found without reading the rest.

Rules: a mark is a name as JSON has it. A page without any is told apart by one look at all.
What is given may have the mark in a value, so whoever asked reads the metadata. None is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model.stored import StoredEvent

__all__ = ["marked"]


def marked(events: Sequence[StoredEvent], marks: Iterable[bytes]) -> Sequence[StoredEvent]:
    """Give those events that have one of the marks in their metadata, in order."""
    together = b" ".join([stored.metadata for stored in events])
    there = [mark for mark in marks if mark in together]
    if not there:
        return ()
    return [stored for stored in events if any(mark in stored.metadata for mark in there)]
