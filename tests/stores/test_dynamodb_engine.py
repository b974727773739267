"""What an engine whose log is in DynamoDB has beside what `test_leased_engine` shows: snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Aggregate, Command, Engine, Event, Id, Ports, applies, handles
from tests.support.dynamodb_server import DynamoServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path / "dynamodb")
    made.start()
    yield made
    made.close()


class Tick(Command):
    kept_id: Id


class Ticked(Event, name="ticked"):
    pass


class Kept(Aggregate, kind="kept", snapshot_every=10):
    ticks: int = 0

    @handles
    def tick(self, command: Tick) -> Ticked:
        return Ticked()

    @applies
    def ticked(self, event: Ticked) -> None:
        self.ticks += 1


async def test_a_snapshot_is_kept_for_the_next_engine(server: DynamoServer) -> None:
    url = server.store_url()
    async with Engine([Kept], store=url, views="memory:") as engine:
        for _ in range(25):
            await engine.execute(Tick("t-1"))
    store = server.store()
    await store.open(Ports())
    (snapshot,) = await store.read_snapshots(["kept:t-1"])
    await store.close()
    assert snapshot.version >= 10
    async with Engine([Kept], store=url, views="memory:") as engine:
        assert (await engine.execute(Tick("t-1"))).version == 26
        assert (await engine.state(Kept, "t-1")).ticks == 26
