"""The memory store passes the suite of all stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.stores.contract.log import Store
from engine.stores.memory import MemoryStore
from engine.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    def new_store(self, folder: Path) -> Store:
        return MemoryStore()

    def same_log(self, store: Store) -> Store:
        return store

    async def damage(self, store: Store, position: int, field: str) -> None:
        assert isinstance(store, MemoryStore)
        event = store._log[position - 1]
        value: Any = getattr(event, field)
        changed = value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else value + 1
        damaged = msgspec.structs.replace(event, **{field: changed})
        store._log[position - 1] = damaged
        store._streams[event.stream][event.version - 1] = damaged


def test_the_memory_store_says_that_it_keeps_nothing() -> None:
    assert MemoryStore().durable is False
