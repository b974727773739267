"""The suite of all stores for one that keeps its log in PostgreSQL, and can damage it there."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from engine.stores.contract.log import Store
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import StoreConformance
from tests.support.postgres import Server, asked

CHANGED = {
    "payload": "payload = payload || 'x'::bytea",
    "metadata": "metadata = metadata || ' '::bytea",
    "event_version": "type = 2",
    "checksum": "checksum = checksum # 1",
}


class PostgresConformance(StoreConformance):
    user = "postgres"

    @abstractmethod
    def server(self) -> Server:
        """Give the server."""

    def new_store(self, folder: Path) -> Store:
        server = self.server()
        url = server.url(server.new_schema())
        return PostgresStore(read_address(url.replace("postgres@", f"{self.user}@")))

    def same_log(self, store: Store) -> Store:
        assert isinstance(store, PostgresStore)
        return PostgresStore(store.address)

    async def damage(self, store: Store, position: int, field: str) -> None:
        assert isinstance(store, PostgresStore)
        events = f"{store.address.schema}.events"
        change = CHANGED.get(field, f"{field} = {field} + 1")
        if field == "version":
            change = "version = version + 5"
        await asked(self.server(), f"ALTER TABLE {events} DISABLE TRIGGER ALL")
        await asked(self.server(), f"UPDATE {events} SET {change} WHERE position = $1", position)
        await asked(self.server(), f"ALTER TABLE {events} ENABLE TRIGGER ALL")
