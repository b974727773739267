"""What a batch is in transactions: items to put and to take away, in parts of whole requests.

Rules: a transaction has at most 100 items and 4 MB, and an item 400 kB. A request is in one
transaction with all that belongs to it, or it is refused by name before anything is written. What
a part changes is planned on the log as the part before it left that. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from ...errors import StoreFailed
from ..contract.claims import ReleaseClaim, TakeClaim
from ..contract.log import Appended, AppendRequest, Batch, Plan
from ..leased.known import Declared, Known
from .calls import Item
from .form import (
    ITEM_BYTES,
    claim_item,
    claim_key,
    event_item,
    kind_item,
    page_item,
    tag_item,
    type_item,
)

__all__ = ["ITEMS_MAX", "TRANSACTION_BYTES", "Changes", "changes_of", "cut"]

ITEMS_MAX: Final = 100
"""Of one transaction."""
TRANSACTION_BYTES: Final = 3_000_000
"""Of one transaction: the service takes 4 MB, and people count what is sent in another way."""
_OWN: Final = 2
"""Items of each transaction that are none of a request: the log's, and the page."""
_BESIDE_BYTES: Final = 3_000
"""At most what an event has beside payload and metadata, its place in a page included."""
_SMALL_BYTES: Final = 10_000
"""At most an item of a tag, which names all tags of its event, or of a claim."""


class Changes(msgspec.Struct, frozen=True):
    """What a transaction does beside the item of the log."""

    new: Sequence[Item]
    """Items that must not be there yet."""
    put: Sequence[Item]
    """Items that are put in place of what is there."""
    taken: Sequence[Item] = ()
    """Keys of items that are taken away."""


class _Measure:
    """Counts what requests bring, on top of what the log knows."""

    def __init__(self, known: Known, claims: AbstractSet[str]) -> None:
        names = (("claim", each) for each in claims)
        self._seen: set[object] = {*known.kinds, *known.types, *names}

    def of(self, request: AppendRequest, name: str) -> tuple[int, int]:
        """Give items and bytes at most; raise StoreFailed for an event that is too large."""
        items = size = 0
        kinds: set[str] = set()
        for write in request.writes:
            kind = write.stream.partition(":")[0]
            if self._first(kind):
                kinds.add(kind)
            for data in write.events:
                if data.size + _BESIDE_BYTES > ITEM_BYTES:
                    raise StoreFailed(
                        f"{name} takes items of {ITEM_BYTES:,} bytes, and an event "
                        f"{data.type.name} for {write.stream:.100} has {data.size:,}. Nothing was "
                        f"written: let it bring less, or keep large values elsewhere",
                        written=False,
                    )
                items += 1 + len(data.tags)
                if self._first((data.type.name, data.type.version)):
                    items += 1
                    kinds.add(kind)  # it says its kind too, which may be known
                size += data.size + _BESIDE_BYTES + _SMALL_BYTES * len(data.tags)
        for extra in request.extras:
            if isinstance(extra, TakeClaim | ReleaseClaim):
                items += 1 + self._first(("claim", extra.name))
                size += _SMALL_BYTES
        return items + len(kinds), size

    def _first(self, what: object) -> int:
        if what in self._seen:
            return 0
        self._seen.add(what)
        return 1


def cut(
    batch: Batch, planned: Plan, known: Known, claims: AbstractSet[str], name: str
) -> list[Batch]:
    """Give what fits of a batch, in parts that each fit into a transaction; raise StoreFailed."""
    measure = _Measure(known, claims)
    parts: list[list[AppendRequest]] = []
    items, size = ITEMS_MAX, 0
    for request, outcome in zip(batch.requests, planned.outcomes, strict=True):
        if not isinstance(outcome, Appended):
            continue
        more, bytes_more = measure.of(request, name)
        if more + _OWN > ITEMS_MAX or bytes_more > TRANSACTION_BYTES:
            raise StoreFailed(
                f"{name} takes transactions of {ITEMS_MAX} items and 4 MB, and a command brings "
                f"{more} items, with about {bytes_more:,} bytes: its events, tags and claims. "
                f"Nothing was written: let it bring less",
                written=False,
            )
        if items + more > ITEMS_MAX or size + bytes_more > TRANSACTION_BYTES:
            parts.append([])
            items, size = _OWN, 0
        items, size = items + more, size + bytes_more
        parts[-1].append(request)
    return [Batch(part, batch.recorded) for part in parts]


def changes_of(
    planned: Plan, declared: Mapping[int, Declared | None], claims: AbstractSet[str]
) -> Changes:
    """Give what a plan does to the table."""
    new = [page_item(planned.events), *map(event_item, planned.events)]
    put: list[Item] = []
    tags: dict[int, list[str]] = {}
    for tag, position, _, _ in planned.tags:
        tags.setdefault(position, []).append(tag)
    for event in planned.events:
        given = dict.fromkeys(tags.get(event.position, ()))
        new += [tag_item(tag, event, given) for tag in given]
        if event.position in declared:
            put.append(kind_item("kind", event.stream.partition(":")[0]))
            type_ = declared[event.position]
            if type_ is not None:
                put.append(type_item(event, type_))
    taken: list[Item] = []
    for claim, change in planned.claims.items():
        if change.after is None:
            taken.append(claim_key(claim))
        else:
            put.append(claim_item(claim, change.after, change.position))
    names = {claim[0] for claim in planned.claims} - claims
    put += [kind_item("claim", each) for each in sorted(names)]
    once = {(item["pk"]["S"], item["sk"]["S"]): item for item in put}
    return Changes(new, list(once.values()), taken)
