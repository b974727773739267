"""A log behind PgBouncer: each transaction may be on another connection, or each session on one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, Ports, StoreFailed
from engine.stores.contract.log import Store
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.urls import open_backend
from engine.testing.conformance import append, feed, numbers, request
from tests.stores.postgres_conformance import PostgresConformance
from tests.support.counters import Add, Counter, total
from tests.support.pgbouncer import pooler
from tests.support.postgres import Server, asked
from tests.support.tallies import GetTallies, tallied
from tests.support.waiting import until


@pytest.fixture(scope="module")
def port(postgres: Server) -> Iterator[int]:
    with pooler(postgres) as started:
        yield started


class TestPooled(PostgresConformance):
    """The suite of all stores; a second engine is told by the renewals of the first."""

    _server: Server
    _port: int

    @pytest.fixture(autouse=True)
    def _take_server(self, postgres: Server, port: int) -> None:
        self._server, self._port = postgres, port

    def server(self) -> Server:
        return self._server

    def new_store(self, folder: Path) -> Store:
        schema = self._server.new_schema()
        return PostgresStore(read_address(self._server.url(schema, "lease=1", port=self._port)))


async def test_a_pooler_is_found_out_and_nothing_is_prepared(postgres: Server, port: int) -> None:
    store = PostgresStore(read_address(postgres.url(postgres.new_schema(), port=port)))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    line, _ = store.writing()

    assert line.pooled
    assert numbers(await feed(store)) == [1]
    await store.close()


async def test_an_engine_with_many_clients_works_behind_a_pooler(
    postgres: Server, port: int
) -> None:
    url = postgres.url(postgres.new_schema(), port=port)
    async with Engine([Counter], store=url, views="memory:") as engine:
        adds = (engine.execute(Add(f"c{n % 7}", 1), key=str(n)) for n in range(70))
        receipts = await asyncio.gather(*adds)
        assert len({receipt.position for receipt in receipts}) == 70
        await asked(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'foldline'",
        )
        await engine.execute(Add("c1", 1))

        assert await total(engine, "c1") == "11 at 11"


async def test_views_and_their_questions_work_behind_a_pooler(postgres: Server, port: int) -> None:
    url = postgres.url(postgres.new_schema(), "lease=1", port=port)
    async with tallied(url) as engine:
        sent = [engine.execute(Add(f"c{n % 7}", 1)) for n in range(70)]
        await asyncio.gather(*sent)
        found = await engine.query(GetTallies(), at=70)
        await engine.projections.rebuild("tallies", reason="look")
        await until(lambda: engine.statistics().projectors["tallies"].building is None)
    outside = open_backend(url).outside(Ports())

    assert [(tally.counter, tally.events) for tally in found] == [(f"c{n}", 10) for n in range(7)]
    for _ in range(5):  # each on whichever connection the pooler has
        rows = outside.shell().ask(
            "select counter, total from tallies_rows where counter = ? or total > cast(? as int)",
            ["c3", "10"],
            rows_max=9,
            seconds=60,
        )
        assert (list(rows.names), [list(row) for row in rows.rows]) == (
            ["counter", "total"],
            [["c3", 10]],
        )
        none = outside.shell().ask(
            "select counter from tallies_rows where total < 0", [], rows_max=9, seconds=60
        )
        assert (list(none.names), list(none.rows)) == (["counter"], [])


_END_WHO_WRITES_VIEWS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'foldline' AND query LIKE '%{schema}_views%' AND pid <> pg_backend_pid()
"""


async def test_a_checkpoint_moves_behind_a_pooler_while_its_connections_are_ended(
    postgres: Server, port: int
) -> None:
    """Each batch of the view is a transaction, and may be in another session than the last one."""
    schema = postgres.new_schema()
    sent, ended = 0, 0
    async with tallied(postgres.url(schema, "lease=5", port=port)) as engine:
        while ended < 3:
            adds = (engine.execute(Add(f"c{n % 7}", 1), key=str(sent + n)) for n in range(35))
            await asyncio.gather(*adds)
            sent += 35
            [(some,)] = await asked(postgres, _END_WHO_WRITES_VIEWS.format(schema=schema))
            ended += some
            found = await engine.query(GetTallies(), at=sent, timeout=60)
            assert {tally.events for tally in found} == {sent // 7}
    rows = await asked(
        postgres,
        f"SELECT (SELECT max(position) FROM {schema}_views.checkpoints), sum(events), sum(total) "
        f"FROM {schema}_views.tallies_rows",
    )

    assert rows == [(sent, sent, sent)]


async def test_a_pooler_that_pools_statements_is_told_from_a_server_that_is_away(
    postgres: Server,
) -> None:
    with pooler(postgres, "statement") as port:
        url = postgres.url(postgres.new_schema(), port=port)
        with pytest.raises(StoreFailed, match="pools sessions or transactions"):
            await PostgresStore(read_address(url)).open(Ports())


async def test_an_engine_works_behind_a_pooler_that_pools_sessions(postgres: Server) -> None:
    with pooler(postgres, "session", 30) as port:
        url = postgres.url(postgres.new_schema(), port=port)
        async with Engine([Counter], store=url) as engine:
            await engine.execute(Add("a", 2))
            assert await total(engine, "a") == "2 at 1"
