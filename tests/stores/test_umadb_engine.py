"""What an engine whose log is in UmaDB has, or lacks, beside what `test_leased_engine` shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Aggregate, DefinitionError, Engine, applies, handles
from engine.stores.umadb.calls import umadb
from tests.support.counters import Add, Counter
from tests.support.sleepers import Rest, Rested
from tests.support.umadb_server import UmadbServer
from tests.write.courses import Enrol, Offer, school


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UmadbServer]:
    made = UmadbServer(tmp_path / "umadb")
    made.start()
    yield made
    made.close()


async def test_other_programs_find_events_by_the_tags_that_decide(server: UmadbServer) -> None:
    async with school(store=server.store_url(), views="memory:") as engine:
        await engine.execute(Offer("c-1", 3))
        for number in range(3):
            await engine.execute(Enrol("c-1", f"s-{number}"))
    module, client = umadb(), server.client()
    query = module.Query([module.QueryItem(types=["student-enrolled"], tags=["course:c-1"])])
    assert len(list(client.read(query))) == 3


async def test_a_command_reads_nothing_more_behind_its_load(server: UmadbServer) -> None:
    """The end of a stream that was loaded is known, also that it is empty."""
    async with Engine([Counter], store=server.store_url(), views="memory:") as engine:
        await engine.execute(Add("c-1", 1))
        writer = engine._store._writer  # type: ignore[attr-defined]
        asked: list[object] = []
        look = writer.calls.asked

        async def counted(call: object) -> object:
            asked.append(call)
            return await look(call)

        writer.calls.asked = counted
        for number in range(5):
            await engine.execute(Add(f"c-{number}", 1))
            await engine.execute(Add(f"c-{number}", 1))
    assert asked == []


class Kept(Aggregate, kind="kept", snapshot_every=10):
    @handles
    def rest(self, command: Rest) -> Rested:
        return Rested()

    @applies
    def rested(self, event: Rested) -> None:
        pass


def test_an_aggregate_with_snapshots_is_refused_by_name() -> None:
    with pytest.raises(DefinitionError, match=r"Kept says snapshot_every=.*no snapshots"):
        Engine([Kept], store="umadb://localhost:1", views="memory:")
