"""Cases of a log: what a store says that it lacks is refused, and nothing of it is written.

Rules: each runs on every store. One that lacks nothing does here what another one refuses, so that
no store can say that it lacks what it has.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest

from ...errors import StoreFailed, StoreRefused
from ...model.stored import EventData, Snapshot
from ...stores.contract.log import AppendRequest, Store, Write
from ...stores.contract.tags import TagForm
from ...stores.contract.timers import SetTimer
from ...stores.contract.traits import Lack, lacks_of
from .given_log import ADDED, LogCases, append, event, feed, numbers, request

__all__ = ["LackingCases"]


def _expected(store: Store, part: Lack) -> AbstractContextManager[object]:
    if part not in lacks_of(store):
        return nullcontext()
    kinds = (StoreFailed, StoreRefused)
    return pytest.raises(kinds, match=r"Nothing was (written|changed)")


class LackingCases(LogCases):
    """What a store does a part of."""

    async def test_timers_are_set_or_refused(self, store: Store) -> None:
        """A refused batch writes nothing, and the store goes on."""
        lacks = "timers" in lacks_of(store)
        timer = SetTimer("a:1", "late", 5, "expire", b"{}", b"")
        with _expected(store, "timers"):
            await append(store, AppendRequest([Write("a:1", 0, [event(1)])], [timer]))
        await append(store, request("b:1", 0, 2))

        assert numbers(await feed(store)) == ([2] if lacks else [1, 2])
        assert await store.count_timers() == ((0, 0, 0) if lacks else (1, 0, 0))
        assert len(await store.read_timers(timers_max=9)) == (0 if lacks else 1)

    async def test_snapshots_are_kept_or_refused(self, store: Store) -> None:
        """Nobody who is not told so finds one missing."""
        with _expected(store, "snapshots"):
            await store.write_snapshots([Snapshot("a:1", 1, 1, 1, 1, b"state")])

        found = await store.read_snapshots(["a:1"])
        assert len(found) == ("snapshots" not in lacks_of(store))

    async def test_other_tags_are_found_by_or_refused(self, store: Store) -> None:
        """Stored events are found by tags that are declared later, or nobody is told so."""
        payload = b'{"number":1,"a":"x"}'
        data = EventData(ADDED, payload, tags=("a:x",))
        await store.index_tags([TagForm("added", 1, (("a", "a"),))])
        await append(store, AppendRequest([Write("a:1", 0, [data])]))
        with _expected(store, "tags of stored events"):
            assert await store.index_tags([TagForm("added", 1, (("b", "a"),))]) == 1
        await store.index_tags([TagForm("added", 1, (("a", "a"),))])

        assert numbers(await feed(store)) == [1]
