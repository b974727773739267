"""All that a log knows of one person: his events, decrypted, for whoever must tell him.

Rules: the log is read from outside and nothing is changed. An event is his if a key of his encrypts
fields of it; what has been erased is not his any more. It finds what is in encrypted fields, and
nothing that a host has put elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ..errors import Damaged
from ..model.personal import opened_of, sealed_of
from ..model.stored import StoredEvent
from ..personal.vault import Vault
from ..stores.contract.outside import LogReader

__all__ = ["Known", "known_of"]

_PAGE_EVENTS = 1_000
_PAGE_BYTES = 8 * 1024 * 1024


class Known(msgspec.Struct, frozen=True):
    """An event with personal fields of one person."""

    position: int
    """Its place in the log."""
    stream: str
    """`kind:id` of its aggregate."""
    version: int
    """Its place in the stream."""
    name: str
    """Its stored name."""
    recorded: int
    """When, in µs since 1970-01-01 UTC."""
    personal: msgspec.Raw
    """Its personal fields, as JSON."""
    payload: msgspec.Raw
    """All its fields, as JSON."""


def known_of(
    reader: LogReader, vault: Vault, subject: str, unread: Callable[[Damaged], None]
) -> Iterator[Known]:
    """Give a person's events, in the order of the log.

    Both are open. The whole log is read. `unread` is told of each event that does not open, as when
    its key is lost: nobody knows whose it is.
    """
    after = 0
    while page := reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
        after = page[-1].position
        for stored in page:
            try:
                known = _known(stored, vault, subject)
            except Damaged as error:
                unread(error)
                continue
            if known is not None:
                yield known


def _known(stored: StoredEvent, vault: Vault, subject: str) -> Known | None:
    sealed = sealed_of(stored)
    if sealed is None or vault.subject_of(sealed, stored.position) != subject:
        return None
    found = opened_of(stored, sealed, vault)
    if found is None:
        return None
    personal, payload = found
    return Known(
        stored.position,
        stored.stream,
        stored.version,
        stored.name,
        stored.recorded,
        msgspec.Raw(personal),
        msgspec.Raw(payload),
    )
