"""Closed streams in a schema beside a log in PostgreSQL: read as before, and moved safely."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from engine import (
    Aggregate,
    ArchiveUnread,
    Command,
    Engine,
    Event,
    Id,
    Ports,
    Retention,
    StoreFailed,
    StoreRefused,
    UsageError,
    applies,
    handles,
)
from engine.model.stored import EventData, StoredEvent
from engine.outside.verifying import verify_log
from engine.stores.contract.archiving import MOVED, Archived, ArchiveRule
from engine.stores.contract.log import AppendRequest, Batch, StreamRead, Write
from engine.stores.contract.verifying import Finding
from engine.stores.postgres.address import read_address
from engine.stores.postgres.backend import PostgresBackend, PostgresOutside
from engine.stores.postgres.log.schema import schema_sql
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.outside import archiving
from engine.testing.conformance import ALL
from tests.crashes.archive import CLOSED, RULE, fill
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, asked

MOVED_EVENTS = 40
STEPS = ("archive.copied", "archive.verified", "archive.removing", "archive.moved")


class Ended(Event, name="closed"):
    text: str


class End(Command):
    order_id: Id


class Order(Aggregate, kind="order"):
    @handles
    def end(self, command: End) -> Ended:
        return Ended("")

    @applies
    def ended(self, event: Ended) -> None: ...


RULES = [Retention(Order, [Ended], archive_after=timedelta(0))]
ERASES = [*RULES, Retention(Order, [Ended], erase_after=timedelta(0))]


class Log:
    """A log of orders, of which two in three are closed; an engine's store has it open."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.schema = server.new_schema()
        self.store = PostgresStore(read_address(server.url(self.schema)))

    def outside(self, ports: Ports | None = None) -> PostgresOutside:
        return PostgresBackend(self.store, None).outside(ports or Ports())

    async def move(self, rule: ArchiveRule = RULE, ports: Ports | None = None) -> Archived:
        async with self.outside(ports).archiver() as archiver:
            return await archiver.archive(rule, lambda _moved, _events: None)

    async def sql(self, statement: str) -> Sequence[object]:
        return await asked(self.server, statement.replace("{s}", self.schema))

    async def moved(self) -> int:
        found = await self.sql(
            f"SELECT count(*) FROM {{s}}.events WHERE encoding = {MOVED} AND payload = '' "
            f"AND metadata = ''"
        )
        return int(found[0][0])  # type: ignore[index]

    async def feed(self, bytes_max: int = ALL) -> list[StoredEvent]:
        """Give all events as an engine's store reads them, and compare with a reader outside."""
        found: list[StoredEvent] = []
        while page := await self.store.read_feed(len(found), events_max=50, bytes_max=bytes_max):
            found += page
        with self.outside().log_reader() as reader:
            seen: list[StoredEvent] = []
            while more := reader.read_feed(len(seen), events_max=50, bytes_max=bytes_max):
                seen += more
        assert seen == found
        return found

    def verified(self) -> list[Finding]:
        class Lane:
            def progress(self, position: int, end: int) -> None: ...

            def rest(self) -> None: ...

        found: list[Finding] = []
        verify_log(self.outside().copy_source(), self.outside().structure(), found.append, Lane())
        return found


@pytest.fixture
async def log(postgres: Server) -> AsyncIterator[Log]:
    opened = Log(postgres)
    await opened.store.open(Ports())
    await fill(opened.store)
    yield opened
    await opened.store.close()


async def test_what_was_moved_beside_an_engine_reads_as_it_did(log: Log) -> None:
    before = await log.feed()
    reads = [StreamRead(f"order:{n}", 1) for n in range(12)]
    streams = await log.store.read_streams(reads, events_max=1_000, bytes_max=ALL)

    done = await log.move()

    assert (done.events, done.streams, done.cold) == (MOVED_EVENTS, 8, f"{log.schema}_archive")
    assert await log.moved() == MOVED_EVENTS
    assert await log.feed() == before
    assert await log.store.read_streams(reads, events_max=1_000, bytes_max=ALL) == streams
    assert log.verified() == []
    assert await log.sql("SELECT events, streams, bytes, position FROM {s}.archives") == [
        (MOVED_EVENTS, 8, done.bytes, 60)
    ]
    shown = "SELECT payload FROM {s}_archive.log WHERE stream = 'order:1' AND version = 1"
    assert await log.sql(shown) == [(before[1].payload.decode(),)]


async def test_sql_never_calculates_without_what_was_moved(log: Log) -> None:
    """A sum over `log` left out the contents of archived events, with status 0."""
    sums = "sum(length(payload::text)) AS p, sum(length(metadata::text)) AS m, count(*) AS n"

    def asked_for(what: str) -> list[tuple[object, ...]]:
        shell = log.outside().shell()
        asking = f"WITH mine AS (SELECT * FROM log) SELECT {what} FROM mine"
        return [tuple(row) for row in shell.ask(asking, (), rows_max=10, seconds=60).rows]

    before = await asyncio.to_thread(asked_for, sums)
    await log.move()
    assert await asyncio.to_thread(asked_for, sums) == before
    await log.sql("ALTER SCHEMA {s}_archive RENAME TO {s}_away")
    assert await asyncio.to_thread(asked_for, "count(*)") == [before[0][2:]]
    for what in ("sum(length(payload::text))", "max(metadata::text)"):
        with pytest.raises(UsageError, match="the event at position [0-9]+ was archived"):
            await asyncio.to_thread(asked_for, what)
    await log.sql("ALTER SCHEMA {s}_away RENAME TO {s}_archive")
    await log.sql("ALTER TABLE {s}_archive.contents DISABLE TRIGGER contents_never_change")
    # As that of a log is which went on otherwise behind a restore.
    await log.sql("UPDATE {s}_archive.contents SET checksum = checksum - 1")
    with pytest.raises(UsageError, match="the event at position [0-9]+ was archived"):
        await asyncio.to_thread(asked_for, sums)


async def test_a_second_run_moves_what_was_closed_since_and_nothing_twice(log: Log) -> None:
    await log.move()
    assert (await log.move()).events == 0
    assert await log.sql("SELECT count(*) FROM {s}.archives") == [(1,)]
    for stream in ("order:0", "other:2"):
        write = Write(stream, 5 if stream == "order:0" else 0, [EventData(CLOSED, b"1")])
        await log.store.append(Batch([AppendRequest([write])], 20))
    before = await log.feed()

    assert (await log.move()).events == 6

    assert await log.feed() == before


@pytest.mark.parametrize("bytes_max", [1, 700, 2_000])
async def test_a_page_has_no_more_bytes_than_it_may(log: Log, bytes_max: int) -> None:
    before = await log.feed()
    await log.move()

    assert await log.feed(bytes_max) == before
    reads = [StreamRead(f"order:{n}", 0) for n in range(12)]
    page = await log.store.read_feed(0, events_max=60, bytes_max=bytes_max)
    pages = await log.store.read_streams(reads, events_max=60, bytes_max=bytes_max)
    for events in (page, [event for one in pages for event in one.events]):
        size = sum(len(event.payload) + len(event.metadata) for event in events)
        assert size <= bytes_max or len(events) == 1
    assert [one.more for one in pages] == [len(one.events) < 5 for one in pages]


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        (ArchiveRule("order", ("added",), 1 << 60), 20),
        (ArchiveRule("order", ("closed",), 4), 0),
        (ArchiveRule("order", ("closed",), 5), MOVED_EVENTS),
        (ArchiveRule("orde", ("closed",), 1 << 60), 0),
        (ArchiveRule("other", ("added",), 1 << 60), 0),
    ],
)
async def test_only_what_the_rule_closes_is_moved(log: Log, rule: ArchiveRule, events: int) -> None:
    async with log.outside().archiver() as archiver:
        looked = await archiver.archive(rule, lambda _a, _b: None, dry_run=True)
    assert await log.moved() == 0

    assert (looked.events, (await log.move(rule)).events, await log.moved()) == (events,) * 3


@pytest.mark.parametrize("step", STEPS)
async def test_where_a_move_ends_at_any_step_the_next_run_goes_on(
    log: Log, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "_PAGE_EVENTS", 10)
    before, left = await log.feed(), 2

    def fail(name: str) -> None:
        nonlocal left
        left -= name == step
        if not left:
            raise OSError("the machine ends here")

    with pytest.raises(StoreFailed, match="run it again"):
        await log.move(ports=Ports(failpoint=fail))
    assert await log.moved() == (20 if step == "archive.moved" else 10)
    assert await log.feed() == before

    await log.move()

    assert await log.moved() == MOVED_EVENTS
    assert (await log.feed(), log.verified()) == (before, [])


async def test_nothing_is_removed_whose_copy_is_not_the_same(log: Log) -> None:
    before = await log.feed()

    def spoil(name: str) -> None:
        if name == "archive.copied":
            log.server.sql(
                f"ALTER TABLE {log.schema}_archive.contents DISABLE TRIGGER ALL; "
                f"UPDATE {log.schema}_archive.contents SET payload = 'x' WHERE position = 2"
            )

    with pytest.raises(StoreRefused, match="other contents"):
        await log.move(ports=Ports(failpoint=spoil))

    assert (await log.moved(), await log.feed()) == (0, before)
    assert await log.sql("SELECT count(*) FROM {s}.archives") == [(0,)]


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE {{s}}.events SET encoding = {MOVED}, payload = '', metadata = ''",
        "UPDATE {s}.events SET payload = 'x' WHERE position = 2",
        "UPDATE {s}_archive.contents SET payload = 'x'",
        "DELETE FROM {s}_archive.contents",
        "TRUNCATE {s}_archive.contents",
    ],
)
async def test_the_database_lets_nobody_empty_or_change_an_event(log: Log, change: str) -> None:
    await log.move()
    before = await log.feed()

    with pytest.raises(Exception, match="an event is"):
        await log.sql(change)

    assert await log.feed() == before


async def test_without_its_schema_the_rest_is_served_and_the_schema_is_named(log: Log) -> None:
    before = await log.feed()
    await log.move()
    await log.sql("ALTER SCHEMA {s}_archive RENAME TO {s}_away")

    assert list(await log.store.read_feed(0, events_max=50, bytes_max=ALL)) == before[:1]
    with pytest.raises(ArchiveUnread, match=f"{log.schema}_archive is not there") as unread:
        await log.store.read_feed(1, events_max=50, bytes_max=ALL)
    assert (unread.value.position, unread.value.recorded) == (2, before[1].recorded)
    with log.outside().log_reader() as reader, pytest.raises(ArchiveUnread):
        reader.read_feed(1, events_max=50, bytes_max=ALL)
    assert {finding.wrong for finding in log.verified()} == {"archive"}

    await log.sql("ALTER SCHEMA {s}_away RENAME TO {s}_archive")
    assert await log.feed() == before


async def test_verify_names_what_the_archive_lacks_or_has_otherwise(log: Log) -> None:
    await log.move()
    contents = f"{log.schema}_archive.contents"
    log.server.sql(
        f"ALTER TABLE {contents} DISABLE TRIGGER ALL; "
        f"DELETE FROM {contents} WHERE position = 2; "
        f"UPDATE {contents} SET checksum = 1 WHERE position = 3; "
        f"UPDATE {contents} SET payload = 'x' WHERE position = 5"
    )

    found = {(finding.wrong, finding.position) for finding in log.verified()}

    assert found >= {("archive", 2), ("archive", 3), ("event", 5)}


async def test_an_engine_of_an_older_release_is_not_left_with_moved_events(log: Log) -> None:
    await log.sql("UPDATE {s}.about SET archives_since = clock_timestamp()")

    with pytest.raises(StoreRefused, match="older release"):
        await log.move()

    assert await log.moved() == 0


async def test_a_schema_that_no_engine_has_moved_forward_is_refused(log: Log) -> None:
    await log.sql("UPDATE {s}.about SET schema_version = 7")

    with pytest.raises(StoreRefused, match="archives versions 8"):
        await log.move()


async def test_the_archive_of_another_log_is_not_written_to(log: Log) -> None:
    await log.move()
    await log.sql("UPDATE {s}_archive.about SET log_id = 'another'")

    with pytest.raises(StoreRefused, match="another log"):
        await log.move()


async def test_a_role_that_only_reads_and_calls_reads_the_archive_and_makes_none(log: Log) -> None:
    role = f"engine_of_{log.schema}"
    await asked(log.server, f"CREATE ROLE {role} LOGIN")
    log.server.sql(
        "".join(
            line + ";" for line in schema_sql(log.schema, role=role).split(";") if "GRANT" in line
        )
    )
    url = log.server.url(log.schema).replace("postgres@", f"{role}@")
    outside = PostgresBackend(PostgresStore(read_address(url)), None).outside(Ports())
    with pytest.raises(StoreRefused, match="as the owner"):
        async with outside.archiver() as archiver:
            await archiver.archive(RULE, lambda _a, _b: None)
    before = await log.feed()
    await log.move()

    with outside.log_reader() as reader:
        assert list(reader.read_feed(0, events_max=100, bytes_max=ALL)) == before


@pytest.mark.parametrize("version", ["postgres", "postgres_15"])
async def test_commands_to_an_archived_aggregate_go_on(
    version: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(version)
    url = server.url(server.new_schema())
    async with Engine([Counter], store=url, views="memory:") as engine:
        receipt = await engine.execute(Add("a", 1), key="k")
        await engine.execute(Add("b", 1))
        names = [change.name async for change in engine.history(Counter, "a")]
    rule = ArchiveRule("counter", tuple(names), 1 << 60)
    async with Engine([Counter], store=url, views="memory:") as engine:
        place = PostgresBackend(PostgresStore(read_address(url)), None).outside(Ports())
        async with place.archiver() as archiver:
            assert (await archiver.archive(rule, lambda _a, _b: None)).events == 1
        assert await engine.execute(Add("a", 1), key="k") == receipt
        assert (await engine.execute(Add("a", 1), key="l")).version == 2
        assert (await engine.state(Counter, "a")).total == 2


async def test_the_commands_archive_beside_an_engine_and_erase_nobody(log: Log) -> None:
    url = log.server.url(log.schema)

    async def told(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "engine", *words]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    rule = ("archive", url, "--kind", "order", "--closed-by", "closed")
    cold = f"{log.schema}_archive"
    assert f"40 events of 8 streams would be moved to {cold}" in (await told(*rule, "--dry-run"))[1]
    status, text = await told("retention", url, "tests.stores.test_postgres_archive:ERASES")
    assert (status, "for a person who is being erased" in text) == (1, True)
    assert await log.moved() == 0

    status, text = await told("retention", url, "tests.stores.test_postgres_archive:RULES")
    assert (status, "40 events of 8 streams archived" in text) == (0, True)
    text = (await told(*rule))[1]
    assert ("0 events of 0 streams moved" in text, "slip" in text) == (True, False)
    slip = await told(*rule[:-1], "closd", "--dry-run")
    assert (slip[0], "no event that is stored as 'closd'" in slip[1]) == (0, True)
    slip = await told(*rule[:3], "ordre", *rule[4:], "--dry-run")
    assert (slip[0], "no stream of the kind 'ordre', and has 'order'" in slip[1]) == (0, True)
