"""A log in DynamoDB passes the suite of all stores, but for what it says that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.stores.contract.log import Store
from engine.stores.dynamodb.form import digits, event_key, page_pk, places_in
from engine.stores.dynamodb.store import DynamoStore
from engine.testing.conformance import StoreConformance
from tests.support.dynamodb_server import DynamoServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


class TestDynamoStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _each(self, server: DynamoServer) -> None:
        self._server = server

    def new_store(self, folder: Path) -> Store:
        self._server.tables += 1
        return self._server.store()

    def same_log(self, store: Store) -> Store:
        assert isinstance(store, DynamoStore)
        return DynamoStore(store.address)

    async def damage(self, store: Store, position: int, field: str) -> None:
        assert isinstance(store, DynamoStore)
        assert store.calls is not None
        pages = await store.calls.query(page_pk(position), after=digits(position - 1), most=1)
        ((_, stream, version),) = [each for each in places_in(pages[0]) if each[0] == position]
        place = event_key(stream, version)
        item = await store.calls.get(place)
        assert item is not None
        ((kind, value),) = item[field].items()
        changed = {kind: str(int(value) + 5) if kind == "N" else f"{value} "}
        await self._server.change(place, field, changed)
