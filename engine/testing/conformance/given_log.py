"""What the cases of a log are made of: events that can be told apart, and how a whole log is read.

Rules: whatever is asked goes through the contract of stores alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import pytest_asyncio

from ...model.stored import EventData, EventType, StoredEvent
from ...runtime.ports import Ports
from ...stores.contract.log import (
    AppendRequest,
    Batch,
    Outcome,
    Store,
    StreamRead,
    Write,
)
from ...stores.contract.traits import Lack, lacks_of

__all__ = [
    "ADDED",
    "ALL",
    "LogCases",
    "append",
    "event",
    "feed",
    "needing",
    "numbers",
    "request",
    "stream",
]

Cases = TypeVar("Cases", bound=Callable[..., Any])

ADDED = EventType("added", 1, "00aa")
ALL = 1 << 40


def event(number: int, kind: EventType = ADDED, metadata: bytes = b"") -> EventData:
    """Give an event that differs from others."""
    return EventData(kind, b'{"number":%d}' % number, metadata)


def request(stream: str, expected: int, *numbers: int) -> AppendRequest:
    """Give a request for one stream, one event per number."""
    return AppendRequest([Write(stream, expected, [event(number) for number in numbers])])


def numbers(events: Sequence[StoredEvent]) -> list[int]:
    """Give the numbers of the events."""
    return [msgspec.json.decode(e.payload)["number"] for e in events]


async def append(store: Store, *requests: AppendRequest, recorded: int = 1) -> Sequence[Outcome]:
    """Append a batch and give its outcomes."""
    return (await store.append(Batch(requests, recorded))).outcomes


async def feed(store: Store, after: int = 0) -> Sequence[StoredEvent]:
    """Read the whole log after a position, in pages of seven."""
    found: list[StoredEvent] = []
    while page := await store.read_feed(after, events_max=7, bytes_max=ALL):
        found += page
        after = page[-1].position
    return found


async def stream(store: Store, name: str) -> Sequence[StoredEvent]:
    """Read a whole stream at once."""
    pages = await store.read_streams([StreamRead(name)], events_max=1_000_000, bytes_max=ALL)
    assert not pages[0].more
    return pages[0].events


def needing(part: Lack) -> Callable[[Cases], Cases]:
    """Mark a case, or all cases of a class, that a store cannot pass which lacks that part."""

    def mark(cases: Cases) -> Cases:
        given: Any = cases
        marked: list[Any] = [given]
        if isinstance(given, type):
            marked = [case for name, case in vars(given).items() if name.startswith("test_")]
        for case in marked:
            setattr(case, _NEEDS, part)
        return cases

    return mark


_NEEDS = "__foldline_needs__"


class LogCases(ABC):
    """What the cases of a log start from; abstract in how a store is made."""

    @abstractmethod
    def new_store(self, folder: Path) -> Store:
        """Give a store with a log of its own, not opened yet; `folder` is for its files."""

    @abstractmethod
    def same_log(self, store: Store) -> Store:
        """Give a store for the log of this one, as a next process would."""

    @abstractmethod
    async def damage(self, store: Store, position: int, field: str) -> None:
        """Change a field of a stored event a little, behind the back of the open store.

        The fields are those of StoredEvent that a checksum covers.
        """

    @pytest_asyncio.fixture
    async def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
        """Give an open store with an empty log; pass over what it says that it lacks."""
        store = self.new_store(tmp_path)
        lacks = lacks_of(store)
        needed: Lack | None = getattr(request.function, _NEEDS, None)
        if needed is not None and needed in lacks:
            pytest.skip(f"the store lacks {needed}: {lacks[needed]}")
        await store.open(Ports())
        yield store
        await store.close()

    async def reopened(self, store: Store) -> Store:
        """Close a store and open its log again."""
        await store.close()
        again = self.same_log(store)
        await again.open(Ports())
        return again
