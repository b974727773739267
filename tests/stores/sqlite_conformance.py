"""The suite of all stores for one that keeps its log in a SQLite file, and can damage it there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from engine.stores.contract.log import Store
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import StoreConformance, append, numbers, request, stream


class SqliteConformance(StoreConformance):
    def new_store(self, folder: Path) -> Store:
        return SqliteStore(str(folder / "log.db"))

    def same_log(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        return SqliteStore(store.path)

    async def test_names_are_not_cut_at_a_nul(self, store: Store) -> None:
        names = ["a:x", "a:x\0", "a:x\0y"]
        await append(store, *(request(name, 0, number) for number, name in enumerate(names)))

        assert [numbers(await stream(store, name)) for name in names] == [[0], [1], [2]]

    async def damage(self, store: Store, position: int, field: str) -> None:
        assert isinstance(store, SqliteStore)
        column = {"event_version": "type"}.get(field, field)
        with closing(apsw.Connection(store.path)) as outside:
            value: Any
            (value,) = outside.execute(
                f"SELECT {column} FROM events WHERE position = ?", (position,)
            ).fetchall()[0]
            changed = value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else value + 1
            outside.execute("DROP TRIGGER events_never_change")
            outside.execute(
                f"UPDATE events SET {column} = ? WHERE position = ?", (changed, position)
            )
