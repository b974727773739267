"""Which event is to blame, for rows that the database refuses and whatever host code raises."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Aggregate,
    Command,
    Delivery,
    Engine,
    Event,
    Id,
    Limits,
    Meta,
    Overloaded,
    Projection,
    Query,
    Row,
    Sink,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.stores.contract.views import Changes
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.faults import Hold
from tests.support.waiting import until

RAISES: dict[bytes, BaseException] = {}
"""What a handler raises for a name."""


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    RAISES.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class Named(Event, name="named"):
    name: bytes
    words: list[str] = []


class Give(Command):
    box_id: Id
    name: bytes
    words: list[str] = []


class Box(Aggregate, kind="box"):
    @handles
    def give(self, command: Give) -> Named:
        return Named(command.name, command.words)

    @applies
    def named(self, event: Named) -> None:
        pass


class Label(Row, key="position", index=["name"]):
    position: int
    name: str
    words: list[str] = []


class Labels(Projection, name="labels", version=1, on_poison="park"):
    labels: Table[Label]

    @projects
    def named(self, event: Named, meta: Meta) -> None:
        if event.name in RAISES:
            event.words.append("changed")
            raise RAISES[event.name]
        name = event.name.decode("utf-8", "surrogateescape")
        self.labels.put(Label(meta.position, name, event.words))


class Stopping(Labels, name="labels", version=1):
    labels: Table[Label]


class Sliced(Labels, name="labels", version=1, on_poison="park", slices=3):
    labels: Table[Label]


class ByWords(
    Labels, name="labels", version=1, on_poison="park", sequence=lambda e, _: "".join(e.words)
):
    labels: Table[Label]


class InSql(SqlProjection, name="labels", version=1, on_poison="park"):
    tables = {"labels": "CREATE TABLE {labels} (position INTEGER PRIMARY KEY, name TEXT) STRICT"}

    @projects
    def named(self, event: Named, meta: Meta, sql: Sql) -> None:
        if event.name in RAISES:
            raise RAISES[event.name]
        name = event.name.decode("utf-8", "surrogateescape")
        sql.run("INSERT INTO {labels} VALUES (?, ?)", (meta.position, name))


class Taken(list[int]):
    """Positions that a system outside has got."""


class Outside(Sink, name="labels", version=1, on_poison="park"):
    async def deliver(self, batch: Sequence[Delivery[Named]], taken: Taken) -> None:
        for delivery in batch:
            if delivery.event.name in RAISES:
                raise RAISES[delivery.event.name]
        taken += [delivery.position for delivery in batch]


class All(Query[list[int]]):
    pass


def boxed(projection: type[Projection], path: Path, **options: Any) -> Engine:
    taken = Taken()

    @answers(projections=[projection])
    async def every(query: All, views: Views) -> list[int]:
        if issubclass(projection, Sink):
            return sorted(set(taken))
        return [p for (p,) in await views.sql("SELECT position FROM labels_labels ORDER BY 1")]

    return Engine(
        [Box],
        projections=[projection],
        answers=[every],
        store=f"sqlite:{path}",
        resources={Taken: taken},
        **options,
    )


async def give(engine: Engine, *names: bytes, box: str = "") -> int:
    """Give names to boxes of their own; give the last position."""
    sent = [engine.execute(Give(box or f"b{n}", name)) for n, name in enumerate(names)]
    return max(receipt.position for receipt in await asyncio.gather(*sent))


async def parked(engine: Engine) -> list[int]:
    return [p.position for p in await engine.projections.parked("labels", limit=1_000)]


def views(path: Path, statement: str) -> list[Any]:
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        connection.set_busy_timeout(5_000)
        return connection.execute(statement).fetchall()


def refuse(path: Path, *positions: int, build: int = 1) -> None:
    """Let the database itself refuse rows of these keys."""
    listed = ", ".join(map(str, positions))
    views(
        path,
        f'CREATE TRIGGER IF NOT EXISTS refuse BEFORE INSERT ON "labels_labels:{build}" '
        f"WHEN NEW.position IN ({listed}) BEGIN SELECT RAISE(ABORT, 'no such label'); END",
    )


# -- rows that only the database refuses ----------------------------------------------------------


@pytest.mark.parametrize("projection", [Labels, Sliced])
async def test_of_a_backlog_only_the_events_whose_rows_are_refused_are_parked(
    path: Path, projection: type[Projection]
) -> None:
    async with boxed(projection, path, limits=Limits(projector_events=100)) as engine:
        await engine.query(All(), at=await give(engine, b"one"))
        await engine.projections.pause("labels")
        last = await give(engine, *[b"%d" % n for n in range(700)])
        refuse(path, 37, 38, 99, 100, 101, 640, last)
        await engine.projections.resume("labels")
        found = await engine.query(All(), at=last, timeout=60)

        assert await parked(engine) == [37, 38, 99, 100, 101, 640, last]
        assert sorted([*found, *await parked(engine)]) == list(range(1, last + 1))
        numbers = engine.statistics().projectors["labels"]
        assert numbers.retries == 0, "nothing about it may pass"
        await engine.query(All(), at=await give(engine, b"one more"))


async def test_without_parking_the_event_whose_row_is_refused_is_named(path: Path) -> None:
    async with boxed(Stopping, path) as engine:
        await engine.query(All(), at=await give(engine, *[b"n"] * 9))
        refuse(path, 15)
        await give(engine, *[b"n"] * 9)
        await until(lambda: engine.statistics().projectors["labels"].state == "stopped")
        failure = (await engine.projections.status("labels")).failure

        assert failure is not None
        assert (failure.position, failure.event) == (15, "named v1")
        assert failure.stream.startswith("box:b")
        assert "RowRefused: a row of labels_labels cannot be kept: ConstraintError" in failure.cause
        assert await engine.query(All()) == list(range(1, 15))
        await engine.projections.skip("labels", 15, reason="a test")
        assert len(await engine.query(All(), at=18)) == 17


async def test_a_refused_row_is_taken_by_a_resume_when_the_database_takes_it(path: Path) -> None:
    async with boxed(Stopping, path) as engine:
        await engine.query(All(), at=await give(engine, b"n"))
        refuse(path, 2)
        last = await give(engine, b"n")
        await until(lambda: engine.statistics().projectors["labels"].state == "stopped")
        views(path, "DROP TRIGGER refuse")
        await engine.projections.resume("labels")

        assert await engine.query(All(), at=last) == [1, 2]


async def test_a_retry_counts_a_row_that_is_refused_again_and_keeps_it_parked(path: Path) -> None:
    async with boxed(Labels, path) as engine:
        await engine.query(All(), at=await give(engine, b"n"))
        refuse(path, 2)
        last = await give(engine, b"n", b"n", box="one")
        assert await engine.query(All(), at=last) == [1]
        retried = await engine.projections.retry("labels")

        assert (retried.released, [p.position for p in retried.failed]) == (0, [2])
        (first, second) = await engine.projections.parked("labels")
        assert (first.attempts, second.attempts) == (2, 0)
        # What the retry left in memory is in no later write.
        assert await engine.query(All(), at=await give(engine, b"n")) == [1, 4]
        views(path, "DROP TRIGGER refuse")
        assert (await engine.projections.retry("labels")).released == 2
        assert await engine.query(All()) == [1, 2, 3, 4]


@pytest.mark.parametrize("projection", [Labels, Sliced, InSql])
@pytest.mark.parametrize("name", [b"\xed\xa0\x80", b"ab\xff", "Zoë".encode("latin-1")])
async def test_a_text_with_half_a_character_parks_its_event_alone(
    path: Path, projection: type[Projection], name: bytes
) -> None:
    async with boxed(projection, path) as engine:
        names = [b"one", name, "zwölf €".encode(), b"\x01"]

        assert await engine.query(All(), at=await give(engine, *names)) == [1, 3, 4]
        assert await parked(engine) == [2]


async def test_a_key_with_half_a_character_stops_it_at_its_event(path: Path) -> None:
    class Keyed(Labels, name="labels", version=1, on_poison="park", sequence=half):
        labels: Table[Label]

    async with boxed(Keyed, path) as engine:
        await give(engine, b"one", b"\xff", b"two")
        RAISES[b"\xff"] = ValueError("so that it is to be parked")
        await until(lambda: engine.statistics().projectors["labels"].state == "stopped")
        failure = (await engine.projections.status("labels")).failure

        assert failure is not None
        assert (failure.position, failure.event) == (2, "named v1")


def half(event: Named, _: Meta) -> str:
    return event.name.decode("utf-8", "surrogateescape")


# -- whatever host code raises --------------------------------------------------------------------


class Odd(BaseException):
    """No Exception."""


@pytest.mark.parametrize("projection", [Labels, InSql, Outside])
@pytest.mark.parametrize("raised", [asyncio.CancelledError(), GeneratorExit(), Odd("it is odd")])
async def test_what_is_no_exception_is_the_events_and_ends_no_task(
    path: Path, projection: type[Projection], raised: BaseException
) -> None:
    if projection is Outside and isinstance(raised, asyncio.CancelledError):
        pytest.skip("a delivery that is cancelled is made again")
    RAISES[b"odd"] = raised
    async with boxed(projection, path) as engine:
        assert await engine.query(All(), at=await give(engine, b"1", b"odd", b"3")) == [1, 3]
        assert await parked(engine) == [2]
        RAISES.clear()
        assert (await engine.projections.retry("labels")).released == 1


async def test_an_event_is_parked_under_its_key_though_its_handler_has_changed_it(
    path: Path,
) -> None:
    RAISES[b"bad"] = ValueError("no")
    async with boxed(ByWords, path) as engine:
        await engine.execute(Give("a", b"bad", ["k"]))
        await engine.execute(Give("b", b"good", ["k"]))
        last = await engine.execute(Give("c", b"good", ["kchanged"]))

        assert await engine.query(All(), at=last) == [3]
        assert [(p.position, p.key) for p in await engine.projections.parked("labels")] == [
            (1, "k"),
            (2, "k"),
        ]


# -- what is said of it ---------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if " aside (" in r.getMessage()]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("projection", [Labels, InSql, Outside])
async def test_what_is_parked_is_logged_once_with_its_cause(
    path: Path, projection: type[Projection], wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    RAISES[b"bad"] = ValueError("the hosts own words")
    async with boxed(projection, path, log_messages=wanted) as engine:
        await give(engine, b"1", b"2")
        await engine.query(All(), at=await give(engine, b"bad", b"secret-payload", box="one"))

    (record,) = told(caplog)
    assert record.levelno == logging.ERROR
    assert "labels set the event at position 3 aside (named v1 of box:one)" in record.getMessage()
    text = logging.Formatter().format(record)
    assert "ValueError" in text
    assert "test_poison.py" in text, "the traceback leads to it"
    assert ("the hosts own words" in text) is wanted
    assert "secret-payload" not in text


async def test_what_could_not_be_kept_as_parked_is_logged_when_it_is(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    RAISES[b"bad"] = ValueError("no")
    refusals: list[Changes] = []
    async with boxed(Labels, path) as engine:
        views = engine._views
        assert isinstance(views, SqliteViews)
        write = views._write

        def fails_once(together: Sequence[Changes]) -> None:
            if not refusals and any(changes.parked for changes in together):
                assert not told(caplog)
                refusals.extend(together)
                raise apsw.BusyError("busy")
            write(together)

        monkeypatch.setattr(views._gathering, "_write", fails_once)
        await engine.query(All(), at=await give(engine, b"1", b"bad", b"3"))

    assert refusals
    assert len(told(caplog)) == 1


# -- an engine that stops -------------------------------------------------------------------------


class Door:
    engine: Engine
    drained: asyncio.Event


class Wait(Command):
    waiter_id: Id


class Waiter(Aggregate, kind="waiter"):
    """Keeps an engine that stops from its end."""

    @handles
    async def wait(self, command: Wait, door: Door) -> None:
        await door.drained.wait()


class Commanding(Sink, name="labels", version=1, on_poison="park"):
    """Executes a command for each event, as a process manager does."""

    how = "plain"
    hold: Hold
    failures: int

    async def deliver(self, batch: Sequence[Delivery[Named]], door: Door, taken: Taken) -> None:
        await asyncio.to_thread(self.hold.wait)
        try:
            for delivery in batch:
                if delivery.meta.stream.startswith("box:b"):
                    command = Give(f"made-{delivery.position}", b"made")
                    await door.engine.execute(command, key=delivery.meta.event_id)
        except Exception as error:
            type(self).failures += 1
            raise_as(self.how, error)
        taken += [delivery.position for delivery in batch]


def raise_as(how: str, error: Exception) -> None:
    match how:
        case "from":
            raise RuntimeError("the command could not be sent") from error
        case "group":
            raise ExceptionGroup("some", [ValueError("another"), error])
        case "cancelled":
            raise BaseExceptionGroup("some", [asyncio.CancelledError()])
        case "none":
            raise LookupError("nobody there") from None
        case _:
            raise error


@pytest.mark.parametrize("how", ["plain", "from", "group", "cancelled", "none"])
@pytest.mark.parametrize("slices", [1, 3])
async def test_what_fails_since_the_engine_stops_is_delivered_again_and_not_parked(
    path: Path, how: str, slices: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(Commanding, name="labels", version=1, on_poison="park", slices=slices):
        pass

    async def live(last: bool) -> list[int]:
        door, taken = Door(), Taken()
        engine = Engine(
            [Box, Waiter],
            projections=[Own],
            store=f"sqlite:{path}",
            resources={Door: door, Taken: taken},
            limits=Limits(sink_retries=1),
        )
        Own.hold, Own.how, Own.failures = Hold(), how, 0
        door.engine, door.drained = engine, asyncio.Event()
        async with engine:
            if not last:
                await give(engine, *[b"n"] * 5)
                await Own.hold.reached()
                waiting = asyncio.create_task(engine.execute(Wait("w")))
                await until(lambda: engine.statistics().handlers_running)
                stopping = asyncio.create_task(engine.__aexit__(None, None, None))
                await until(lambda: engine.statistics().state == "stopping")
                Own.hold.release()
                # As long as it answers what it has accepted, it tries nothing again, and parks
                # nothing: this is longer than it waits between two tries.
                await until(lambda: Own.failures >= slices)
                ripe = time.monotonic() + 0.3
                await until(lambda: time.monotonic() > ripe)
                door.drained.set()
                await stopping
                await waiting
                return taken
            Own.hold.release()
            await until(lambda: engine.statistics().projectors["labels"].position == 10)
            assert await engine.projections.parked("labels") == []
        return taken

    first = await live(last=False)
    assert views(path, "SELECT count(*) FROM parked") == [(0,)]
    assert views(path, "SELECT count(*) FROM decisions") == [(0,)]
    assert not told(caplog)
    second = await live(last=True)
    assert {1, 2, 3, 4, 5} <= {*first, *second}


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_sink_tries_again_what_a_busy_engine_refuses(path: Path, wrapped: bool) -> None:
    busy: list[int] = []

    class Busy(Outside, name="labels", version=1, on_poison="park"):
        async def deliver(self, batch: Sequence[Delivery[Named]], taken: Taken) -> None:
            if not busy:
                busy.append(1)
                error = Overloaded("too much at once")
                raise ExceptionGroup("some", [error]) if wrapped else error
            await super().deliver(batch, taken)

    async with boxed(Busy, path) as engine:
        assert await engine.query(All(), at=await give(engine, b"1", b"2")) == [1, 2]
        assert await parked(engine) == []


async def test_a_group_of_what_may_pass_and_what_may_not_is_not_tried_again(path: Path) -> None:
    RAISES[b"bad"] = ExceptionGroup("both", [ConnectionError("away"), ValueError("bad")])
    async with boxed(Outside, path) as engine:
        assert await engine.query(All(), at=await give(engine, b"1", b"bad", b"3")) == [1, 3]
        assert await parked(engine) == [2]
