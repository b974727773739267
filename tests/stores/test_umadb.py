"""A log in an UmaDB server passes the suite of all stores, but for what it says that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.stores.contract.log import Store
from engine.stores.umadb.form import AHEAD
from engine.stores.umadb.store import UmadbStore
from engine.testing.conformance import StoreConformance
from tests.support.umadb_server import Spoiling, UmadbServer


class TestUmadbStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def servers(self) -> Iterator[None]:
        self._servers: list[UmadbServer] = []
        yield
        for server in self._servers:
            server.close()

    def new_store(self, folder: Path) -> Store:
        server = UmadbServer(folder / "umadb")
        self._servers.append(server)
        server.start()
        return server.store()

    def same_log(self, store: Store) -> Store:
        assert isinstance(store, UmadbStore)
        return UmadbStore(store.address)

    async def damage(self, store: Store, position: int, field: str) -> None:
        assert isinstance(store, UmadbStore)
        assert store.reads is not None
        store.reads.wrap = lambda client: Spoiling(client, position + AHEAD, field)
