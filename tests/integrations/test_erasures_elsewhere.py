"""A person who is erased is gone from read models elsewhere too, and those that fail are named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import pytest

from engine import Delivery, Engine, Event, Limits, Meta, ProjectionLag, Receipt, Sink
from engine.integrations import redis
from engine.personal import erasing
from engine.projections.targets import courier
from tests.integrations import guests
from tests.integrations.guests import CheckIn, found_in
from tests.integrations.places import SOCKETS_LEFT, Database, InRedis, InSql
from tests.support.breaking_lines import line_to
from tests.support.waiting import until

pytestmark = SOCKETS_LEFT


async def filled(engine: Engine) -> Receipt:
    """Check guests in: two in one room, one alone, and one twice."""
    for guest, room, name in (("g-1", "r1", "Ann Lee"), ("g-2", "r1", "Bob Roy")):
        await engine.execute(CheckIn(guest, room, name))
    await engine.execute(CheckIn("g-3", "r2", "Cid Fox"))
    receipt = await engine.execute(CheckIn("g-1", "r3", "Ann Lee"))
    await engine.query(guests.Kept(), at=receipt, timeout=30)
    return receipt


def waiting(engine: Engine) -> Any:
    """Give what the engine's erasures wait for."""
    eraser: Any = engine.personal._eraser  # pyright: ignore[reportPrivateUsage]
    return list(eraser.waits_for)


async def test_an_erased_person_is_gone_from_a_read_model_elsewhere(
    database: Database, tmp_path: Any
) -> None:
    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with guests.make_engine(store, guests.model(database)) as engine:
        await filled(engine)
        before = await found_in(database)
        assert before.count("Ann Lee") == 2
        erasure = await engine.personal.erase("guest:g-1")
        assert erasure.finished is not None
        after = await found_in(database)
        assert "Ann" not in after
        assert after.replace("(erased)", "Ann Lee") == before  # nothing else, and no position
        receipt = await engine.execute(CheckIn("g-4", "r3", "Dan Poe"))
        await engine.query(guests.Kept(), at=receipt, timeout=30)
        assert "(erased), Dan Poe" in await found_in(database)
        assert (await engine.projections.status("guests")).parked == 0


async def test_a_read_model_out_of_reach_is_named_and_erased_later(
    database: Database, tmp_path: Any
) -> None:
    if isinstance(database, InSql) and database.server is None:
        pytest.skip("a file is always in reach")
    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with line_to(database.port) as line:
        model = guests.model(database, line.port)
        async with guests.make_engine(store, model) as engine:
            await filled(engine)
        there, line.server_port = line.server_port, 1
        async with guests.make_engine(store, model) as engine:
            await engine.personal.erase("guest:g-1", timeout=0)
            await until(lambda: waiting(engine) == ["guests"])
            asked = await engine.personal.erase("guest:nobody", timeout=0)
            assert (asked.finished, asked.waits_for) == (None, ("guests",))
        assert "Ann Lee" in await found_in(database)
        line.server_port = there
        async with guests.make_engine(store, model) as engine:  # goes on with what was begun
            while not all(each.finished for each in await engine.personal.erasures()):
                await asyncio.sleep(0)
        assert "Ann" not in await found_in(database)


def name_of(event: guests.CheckedIn, meta: Meta) -> str:
    return f"by {event.name}"


async def test_no_row_stands_under_what_is_personal(database: Database, tmp_path: Any) -> None:
    if isinstance(database, InSql):
        pytest.skip("its rows have no key of the model's")
    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with guests.make_engine(store, guests.model(database, key=name_of)) as engine:
        await engine.execute(CheckIn("g-1", "r1", "Ann Lee"))
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(guests.Kept(), at=1, timeout=30)
        status = await engine.projections.status("guests")
        assert status.failure is not None
        assert "made of personal data" in status.failure.cause
        assert status.parked == 0
    assert "Ann" not in await found_in(database)


async def test_an_erased_person_is_gone_from_rows_of_a_former_version(
    database: Database, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(database, InRedis):
        pytest.skip("others drop what is former as a whole")
    monkeypatch.setattr(redis, "REMOVED_PER_BATCH", 1)
    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with guests.make_engine(store, guests.model(database)) as engine:
        for number in range(39):
            await engine.execute(CheckIn(f"g-{number}", f"r{number}", f"Ann {number}."))
        receipt = await engine.execute(CheckIn("g-39", "r39", "Ann 39."))
        await engine.query(guests.Kept(), at=receipt, timeout=30)
    async with guests.make_engine(
        store, guests.model(database, version=2), rebuild="auto"
    ) as engine:
        await engine.query(guests.Kept(), at=receipt, timeout=30)
        assert (await found_in(database)).count("'Ann ") > 40  # rows of both versions are there
        await asyncio.gather(*(engine.personal.erase(f"guest:g-{n}") for n in range(40)))
    assert "Ann" not in await found_in(database)


async def test_an_erased_person_is_gone_from_a_version_that_was_given_up(
    database: Database, tmp_path: Any
) -> None:
    if not isinstance(database, InRedis):
        pytest.skip("others have one version, or deliver so many events at once that none is half")

    def ails(row: Any, event: guests.CheckedIn, meta: Meta) -> dict[str, object]:
        if meta.position > 4:
            raise OSError("it was not meant so")
        return guests.apply(row, event, meta)

    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with guests.make_engine(store, guests.model(database)) as engine:
        await filled(engine)
        receipt = await engine.execute(CheckIn("g-9", "r9", "Eve Day"))
        await engine.query(guests.Kept(), at=receipt, timeout=30)
    ailing, limits = guests.model(database, version=2, apply=ails), Limits(sink_events=2)
    async with guests.make_engine(store, ailing, rebuild="auto", limits=limits) as engine:
        async with asyncio.timeout(30):
            while (await engine.projections.status("guests")).state != "retrying":
                await asyncio.sleep(0)
    assert (await found_in(database)).count("Ann Lee") == 4, "of both versions"
    async with guests.make_engine(store, guests.model(database), rebuild="auto") as engine:
        await engine.query(guests.Kept(), at=5, timeout=30)
        assert (await engine.personal.erase("guest:g-1")).finished is not None
    assert "Ann" not in await found_in(database)


async def test_nobody_stays_where_a_raised_version_takes_no_event_of_people(
    database: Database, tmp_path: Any
) -> None:
    """Nor has an event come that it takes, so nothing of it was shown."""
    if isinstance(database, InSql):
        pytest.skip("test_sqlalchemy_tables has that")

    def nothing(row: Any, event: Any, meta: Meta) -> dict[str, object]:
        return {}

    store = f"sqlite:{tmp_path / 'guests.db'}"
    async with guests.make_engine(store, guests.model(database)) as engine:
        await filled(engine)
    assert "Ann Lee" in await found_in(database)
    raised = guests.model(
        database, version=2, events=[guests.CheckedOut], apply=nothing, key=room_or_guest
    )
    async with guests.make_engine(store, raised, rebuild="auto") as engine:
        assert (await engine.personal.erase("guest:g-1", timeout=30)).finished is not None
        assert "Ann" not in await found_in(database)


def room_or_guest(event: Any, meta: Meta) -> str:
    return meta.id


class Client:
    """A system outside, which is away at first."""

    def __init__(self) -> None:
        self.is_there, self.secret = False, "a secret"
        self.erased: list[str] = []
        self.positions: list[int] = []


class Letters(Sink, name="letters", version=1):
    async def deliver(self, batch: Sequence[Delivery[Event]], client: Client) -> None: ...

    async def erase(self, subjects: Sequence[str], client: Client) -> None:
        if not client.is_there:
            raise ConnectionError(client.secret)
        client.erased += subjects


async def test_a_sink_of_ones_own_is_asked_until_it_has_erased(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(erasing, "_AGAIN_SECONDS", 0.01)
    client = Client()
    store = f"sqlite:{tmp_path / 'guests.db'}"
    options: Any = {"resources": {Client: client}, "log_messages": False}
    async with Engine([guests.Guest], projections=[Letters], store=store, **options) as engine:
        await engine.execute(CheckIn("g-1", "r1", "Ann Lee"))
        await engine.personal.erase("guest:g-1", timeout=0)
        await until(lambda: waiting(engine) == ["letters"])
        client.is_there = True
        assert (await engine.personal.erase("guest:g-1")).finished is not None
    assert set(client.erased) == {"guest:g-1"}
    assert "a secret" not in caplog.text


class Stubborn(Letters, name="stubborn", version=1):
    """Goes on with a delivery that was cancelled, until it is let go."""

    gate: ClassVar[asyncio.Event]

    async def deliver(self, batch: Sequence[Delivery[Event]], client: Client) -> None:
        while not Stubborn.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await Stubborn.gate.wait()


class Hanging(Letters, name="a-hanging-one", version=1):
    async def erase(self, subjects: Sequence[str], client: Client) -> None:
        await Stubborn.gate.wait()


async def test_nobody_is_erased_beside_a_delivery_and_one_sink_holds_up_no_other(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(courier, "CANCEL_SECONDS", 0.01)
    Stubborn.gate, client = asyncio.Event(), Client()
    client.is_there = True
    options: Any = {
        "resources": {Client: client},
        "store": f"sqlite:{tmp_path / 'guests.db'}",
        "limits": Limits(sink_seconds=1),
    }
    sinks: Any = [Hanging, Stubborn, Letters]
    async with Engine([guests.Guest], projections=sinks, **options) as engine:
        await engine.execute(CheckIn("g-1", "r1", "Ann Lee"))
        await engine.personal.erase("guest:g-1", timeout=0)
        try:
            await until(lambda: client.erased and waiting(engine) == ["a-hanging-one", "stubborn"])
            assert client.erased == ["guest:g-1"], "of the third sink, and not beside a delivery"
        finally:
            Stubborn.gate.set()
        assert (await engine.personal.erase("guest:g-1")).finished is not None


async def waits_for_ever() -> None:
    await asyncio.Event().wait()


async def goes_on_when_it_is_cancelled() -> None:
    while not Stubborn.gate.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await Stubborn.gate.wait()


async def forgets_to_wait() -> None:
    forgotten: Any = asyncio.sleep(0)
    return forgotten  # type: ignore[no-any-return]


async def ends_the_program() -> None:
    raise SystemExit(3)


Failing: TypeAlias = Callable[[], Awaitable[None]]


class Unruly(Sink, name="unruly", version=1):
    """Does something else at its first erasure, and erases at its second."""

    first: ClassVar[list[Failing]]

    async def deliver(self, batch: Sequence[Delivery[Event]], client: Client) -> None:
        client.positions += [delivery.position for delivery in batch]

    async def erase(self, subjects: Sequence[str], client: Client) -> None:
        if self.first:
            return await self.first.pop()()
        client.erased += subjects
        return None


@pytest.mark.parametrize(
    "first", [waits_for_ever, goes_on_when_it_is_cancelled, forgets_to_wait, ends_the_program]
)
async def test_an_erase_that_does_something_else_ends_and_is_called_again(
    first: Failing, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, again, client = asyncio.Event(), asyncio.Event(), Client()
    Stubborn.gate, Unruly.first = asyncio.Event(), [first]

    async def pause(self: erasing.Eraser, seconds: float) -> None:
        if self.waits_for:  # it has failed once
            failed.set()
            await again.wait()
        await asyncio.sleep(0)

    monkeypatch.setattr(erasing.Eraser, "_pause", pause)
    monkeypatch.setattr(courier, "CANCEL_SECONDS", 0.01)
    options: Any = {
        "resources": {Client: client},
        "store": f"sqlite:{tmp_path / 'guests.db'}",
        "limits": Limits(sink_erase_seconds=1),
    }
    async with Engine([guests.Guest], projections=[Unruly], **options) as engine:
        await engine.execute(CheckIn("g-1", "r1", "Ann Lee"))
        await engine.personal.erase("guest:g-1", timeout=0)
        await until(failed.is_set)
        assert client.erased == []
        Stubborn.gate.set()
        await engine.execute(CheckIn("g-2", "r1", "Bob Roy"))
        await until(lambda: 2 in client.positions)
        again.set()
        assert (await engine.personal.erase("guest:g-1")).finished is not None
    assert client.erased[0] == "guest:g-1"


@pytest.mark.parametrize("first", [waits_for_ever, goes_on_when_it_is_cancelled])
async def test_an_engine_stops_though_a_sink_erases_for_ever(
    first: Failing, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "CANCEL_SECONDS", 0.01)
    Stubborn.gate, Unruly.first = asyncio.Event(), [first]
    options: Any = {
        "resources": {Client: Client()},
        "store": f"sqlite:{tmp_path / 'guests.db'}",
        "limits": Limits(sink_stop_seconds=1),
    }
    async with Engine([guests.Guest], projections=[Unruly], **options) as engine:
        await engine.execute(CheckIn("g-1", "r1", "Ann Lee"))
        await engine.personal.erase("guest:g-1", timeout=0)
        await until(lambda: not Unruly.first)
    Stubborn.gate.set()
