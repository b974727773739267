"""Claims as the log says them, and whether the table of claims says the same.

Rules: the log is the truth. Each event that took or released values names them in its metadata;
folded in order, they give who holds what. A table that differs was written by somebody else than
an engine. It only reads, and needs memory for all claims. Calls block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ..errors import StoreFailed
from ..model.codec import decode_metadata
from ..model.stored import StoredEvent
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.outside import LogReader
from .marked import marked

__all__ = ["CLAIM_MARKS", "Compared", "compare_claims", "fold_claims"]

_PAGE_EVENTS: Final = 1_000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_PAGE_CLAIMS: Final = 1_000
_ATTEMPTS: Final = 20
CLAIM_MARKS: Final = (b'"claims"', b'"releases"')
"""One of which stands in the metadata of each event that says something of claims."""


class Compared(msgspec.Struct, frozen=True):
    """What the log says and what the table says, at one position."""

    position: int
    claims: int
    """In the log."""
    differences: tuple[tuple[ClaimKey, HeldClaim | None, HeldClaim | None], ...]
    """Each with what the log says, and what the table says."""


def fold_claims(claims: dict[ClaimKey, HeldClaim], events: Sequence[StoredEvent]) -> None:
    """Bring claims from before some events to behind them; raise Damaged for odd metadata."""
    for stored in marked(events, CLAIM_MARKS):
        metadata = decode_metadata(stored)
        for key in metadata.releases:
            if key in claims and claims[key].stream == stored.stream:
                del claims[key]
        for key in metadata.claims:
            claims.setdefault(key, HeldClaim(*key, stored.stream, stored.position))


def compare_claims(log: LogReader) -> Compared:
    """Compare the table of claims with the log, also while an engine writes.

    Raises Damaged for an event that cannot be used, and StoreFailed where the log grows too fast.
    """
    folded: dict[ClaimKey, HeldClaim] = {}
    position = 0
    for _ in range(_ATTEMPTS):
        while page := log.read_feed(position, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
            fold_claims(folded, page)
            position = page[-1].position
        held = _held(log)
        if log.head().position == position:
            return Compared(position, len(folded), _differences(folded, held))
    raise StoreFailed(
        f"{log.name} grows faster than its claims are read: compare those of a copy", written=False
    )


def _held(log: LogReader) -> Mapping[ClaimKey, HeldClaim]:
    found: dict[ClaimKey, HeldClaim] = {}
    after = "", ""
    while page := log.read_claims(after, claims_max=_PAGE_CLAIMS):
        found |= {(claim.name, claim.value): claim for claim in page}
        after = page[-1].name, page[-1].value
    return found


def _differences(
    folded: Mapping[ClaimKey, HeldClaim], held: Mapping[ClaimKey, HeldClaim]
) -> tuple[tuple[ClaimKey, HeldClaim | None, HeldClaim | None], ...]:
    keys = sorted(folded.keys() | held.keys())
    pairs = ((key, folded.get(key), held.get(key)) for key in keys)
    return tuple(pair for pair in pairs if pair[1] != pair[2])
