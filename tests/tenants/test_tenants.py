"""Tenants: one engine for each, opened once, never closed in use, and apart from the others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import weakref
from collections import Counter as Counts
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Closed,
    DefinitionError,
    Engine,
    EngineError,
    InvalidInput,
    Overloaded,
    Ports,
    StoreFailed,
    StoreRefused,
    Tenants,
    UsageError,
)
from engine.stores.postgres.address import Address
from engine.stores.postgres.driver import Driver
from engine.stores.postgres.line import Line
from engine.tenants import tenants as module
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.waiting import until


class Slow(Engine):
    """An engine whose end waits for a test."""

    may_end: asyncio.Event

    async def __aexit__(self, *what: Any) -> None:
        await self.may_end.wait()
        await super().__aexit__(*what)


class Made:
    """The engines that were made, by the name of the file."""

    def __init__(self, may_end: asyncio.Event | None = None) -> None:
        self.engines: list[tuple[str, Engine]] = []
        self._may_end = may_end

    def __call__(self, store: str) -> Engine:
        engine = Slow([Counter], store=store)
        engine.may_end = self._may_end or asyncio.Event()
        if self._may_end is None:
            engine.may_end.set()
        self.engines.append((Path(store).stem, engine))
        return engine

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.engines]


async def add(tenants: Tenants, name: str, amount: int = 1) -> int:
    """Add to the one counter of a tenant; give its version."""
    async with tenants.engine(name, create=True) as engine:
        return (await engine.execute(Add("c", amount))).version


def numbers(tenants: Tenants) -> tuple[int, int, int]:
    found = tenants.statistics()
    return found.open, found.in_use, found.closing


async def test_each_tenant_has_a_log_of_its_own_that_outlives_its_engine(tmp_path: Path) -> None:
    for expected in (1, 2):
        async with Tenants(Made(), folder=tmp_path / "data") as tenants:
            assert [await add(tenants, name) for name in ("blue", "green")] == [expected] * 2
            assert await tenants.names() == ["blue", "green"]


async def test_callers_who_come_together_share_one_engine_that_is_opened_once(
    tmp_path: Path,
) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path) as tenants:
        versions = await asyncio.gather(*(add(tenants, "blue") for _ in range(20)))

    assert sorted(versions) == list(range(1, 21))
    assert made.names == ["blue"]


async def test_an_engine_in_use_is_not_closed_for_another_one(tmp_path: Path) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path, open_max=1) as tenants:
        async with tenants.engine("blue", create=True) as blue:
            with pytest.raises(Overloaded, match="1 tenants are open, and all are in use"):
                await add(tenants, "green")
            tenants.close_idle()
            await blue.execute(Add("c", 1))
        await add(tenants, "green")
        assert tenants.statistics().overloaded == 1

    assert made.names == ["blue", "green"]


async def test_the_one_that_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path, open_max=2) as tenants:
        for name in ("blue", "green", "blue", "red", "blue", "green"):
            await add(tenants, name)

    assert made.names == ["blue", "green", "red", "green"]


async def test_no_more_are_open_than_may_be_while_one_closes(tmp_path: Path) -> None:
    may_end = asyncio.Event()
    made = Made(may_end)
    async with Tenants(made, folder=tmp_path, open_max=1) as tenants:
        await add(tenants, "blue")
        adding = asyncio.create_task(add(tenants, "green"))
        await until(lambda: numbers(tenants) == (1, 1, 1))
        assert made.names == ["blue"], "it waits until the other one is closed"
        may_end.set()
        assert await adding == 1

    assert made.names == ["blue", "green"]


async def test_one_that_never_closes_keeps_nobody_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_CLOSE_SECONDS", 0.02)
    may_end = asyncio.Event()
    ends = {"stuck": may_end}

    def made(store: str) -> Engine:
        engine = Slow([Counter], store=store)
        engine.may_end = ends.get(Path(store).stem) or asyncio.Event()
        if engine.may_end is not may_end:
            engine.may_end.set()
        return engine

    async with Tenants(made, folder=tmp_path, open_max=2) as tenants, AsyncExitStack() as stack:
        stack.callback(may_end.set)
        await add(tenants, "stuck")
        async with tenants.engine("stuck"):
            await add(tenants, "blue")
        async with tenants.engine("blue"):
            with pytest.raises(Overloaded, match="have been closing"):
                await add(tenants, "green")
        added = 0
        while not added:
            with suppress(Overloaded):  # while "blue" closes
                added = await add(tenants, "green")
        assert numbers(tenants)[2] == 1, "it still closes"


async def test_who_comes_while_it_closes_waits_and_gets_a_new_one(tmp_path: Path) -> None:
    may_end = asyncio.Event()
    made = Made(may_end)
    clock = ManualClock()
    async with Tenants(made, folder=tmp_path, idle_seconds=60, ports=Ports(clock=clock)) as tenants:
        await add(tenants, "blue")
        clock.advance(59)
        tenants.close_idle()
        assert numbers(tenants) == (1, 0, 0)
        clock.advance(1)
        tenants.close_idle()
        assert numbers(tenants) == (0, 0, 1)
        adding = [asyncio.create_task(add(tenants, "blue")) for _ in range(5)]
        await add(tenants, "red")  # which takes as long as another one of theirs would
        assert made.names == ["blue", "red"]
        may_end.set()
        assert sorted(await asyncio.gather(*adding)) == [2, 3, 4, 5, 6]

    assert made.names == ["blue", "red", "blue"]
    assert made.engines[0][1] is not made.engines[2][1]


async def test_an_idle_one_is_closed_by_itself(tmp_path: Path) -> None:
    async with Tenants(Made(), folder=tmp_path, idle_seconds=0.01) as tenants:
        await add(tenants, "blue")
        await until(lambda: tenants.statistics().closed == 1)
        assert await add(tenants, "blue") == 2


OUTSIDE = ["", ".", "..", "../x", "a/b", "/etc", "a.b", "blue.views", "Blue", "-a", "a" * 41]
STRANGE = ["a b", "a\0b", "ü", "a?writer=process", "blue\n", 3, None]


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE], ids=repr)
async def test_no_name_leads_out_of_the_folder_or_to_anothers_files(
    tmp_path: Path, name: Any
) -> None:
    folder = tmp_path / "data"
    made = Made()
    async with Tenants(made, folder=folder) as tenants:
        with pytest.raises(InvalidInput, match="1 to 40 small letters"):
            await add(tenants, name)

    assert made.engines == []
    assert [*folder.iterdir(), *tmp_path.iterdir()] == [folder]


async def test_a_tenant_that_is_not_there_is_not_made_by_who_asks_for_it(tmp_path: Path) -> None:
    async with Tenants(Made(), folder=tmp_path) as tenants:
        with pytest.raises(InvalidInput, match="no such tenant"):
            async with tenants.engine("blue"):
                raise AssertionError("there is none")
        assert list(tmp_path.iterdir()) == []
        await add(tenants, "blue")
        async with tenants.engine("blue") as engine:
            assert (await engine.execute(Add("c", 1))).version == 2


async def test_a_damaged_tenant_is_told_of_and_keeps_nobody_from_the_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "ill.db").write_bytes(b"no log at all" * 1_000)
    async with Tenants(Made(), folder=tmp_path, open_max=1) as tenants:
        for _ in range(3):
            with pytest.raises(StoreRefused):
                await add(tenants, "ill")
        assert await add(tenants, "blue") == 1
        assert tenants.statistics().refused == 3
        assert numbers(tenants) == (1, 0, 0)


async def test_an_engine_that_failed_is_replaced_for_who_comes_next(tmp_path: Path) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path, open_max=1) as tenants:
        await add(tenants, "blue")
        async with tenants.engine("blue") as engine:
            (tmp_path / "blue.db").rename(tmp_path / "away")
            with pytest.raises(EngineError):
                await engine.execute(Add("c", 1))
            await until(lambda: engine.failed is not None)
            (tmp_path / "away").rename(tmp_path / "blue.db")
            assert await add(tenants, "blue") == 2

    assert made.names == ["blue", "blue"]


async def test_who_leaves_while_it_opens_does_not_keep_it_from_the_others(tmp_path: Path) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path) as tenants:
        leaving = asyncio.create_task(add(tenants, "blue"))
        staying = asyncio.create_task(add(tenants, "blue"))
        await until(lambda: numbers(tenants)[0] == 1)
        leaving.cancel()
        assert await staying == 1
        assert numbers(tenants) == (1, 0, 0)

    assert leaving.cancelled()
    assert made.names == ["blue"]


async def test_the_end_waits_for_all_and_answers_what_was_accepted(tmp_path: Path) -> None:
    tenants = await Tenants(Made(), folder=tmp_path).__aenter__()
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(tenants.engine(f"t{n}", create=True)) for n in range(3)
        ]
        accepted = [asyncio.ensure_future(e.execute(Add("c", 1))) for e in engines]
        late = asyncio.create_task(add(tenants, "late"))
        await until(lambda: numbers(tenants)[0] == 4)
        await tenants.__aexit__(None, None, None)
        assert [(await answer).version for answer in accepted] == [1, 1, 1]
    with pytest.raises(Closed):
        await late
    with pytest.raises(Closed):
        await add(tenants, "t0")
    found = tenants.statistics()
    assert (found.open, found.closing, found.closed) == (0, 0, found.opened)
    async with Engine([Counter], store=f"sqlite:{tmp_path}/t0.db") as engine:
        assert (await engine.state(Counter, "c")).total == 1


async def test_many_callers_of_more_tenants_than_may_be_open_lose_nothing(tmp_path: Path) -> None:
    made, chosen = Made(), random.Random(7)
    names = [f"t{chosen.randrange(8)}" for _ in range(60)]
    async with Tenants(made, folder=tmp_path, open_max=3) as tenants:

        async def one(name: str) -> None:
            while True:
                try:
                    await add(tenants, name)
                except Overloaded:
                    await asyncio.sleep(0.001)
                else:
                    assert numbers(tenants)[0] <= 3
                    return

        await asyncio.gather(*map(one, names))
        for name, count in Counts(names).items():
            async with tenants.engine(name) as engine:
                assert (await engine.state(Counter, "c")).version == count

    assert len(made.names) >= 8
    assert tenants.statistics().closed == len(made.names)


async def test_engines_that_were_closed_leave_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COLLECTED_AFTER", 4)
    seen: list[weakref.ref[object]] = []

    def make(store: str) -> Engine:
        engine = Engine([Counter], store=store)
        seen.append(weakref.ref(engine.projections))  # in the circle of what an engine is made of
        return engine

    before = gc.get_threshold()
    gc.set_threshold(10_000_000)  # Python does not look for circles by itself meanwhile
    try:
        async with Tenants(make, folder=tmp_path, open_max=1) as tenants:
            for number in range(9):
                await add(tenants, f"t{number}")
            await until(lambda: tenants.statistics().closed == 8)
            assert sum(engine() is not None for engine in seen[:7]) == 0
    finally:
        gc.set_threshold(*before)


async def test_an_engine_is_in_nobodys_request(tmp_path: Path) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    def make(store: str) -> Engine:
        seen.append(request.get())
        return Engine([Counter], store=store)

    async with Tenants(make, folder=tmp_path) as tenants:
        request.set("of somebody")
        await add(tenants, "blue")

    assert seen == ["none"]


async def test_a_schema_of_postgresql_is_each_tenants_own(postgres: Server) -> None:
    url = postgres.url(postgres.new_schema()).partition("?schema")[0].partition("&schema")[0]
    # Two names that differ only in what a schema cannot have.
    mine = postgres.new_schema()[-20:].strip("_")
    names = [f"{mine}-a", f"{mine}_a"]
    async with Tenants(Made(), database=url) as tenants:
        assert [await add(tenants, name) for name in names] == [1, 1]
        with pytest.raises(InvalidInput, match="schema of"):
            await add(tenants, "_".join("a" * 20))


async def test_a_tenant_in_postgresql_is_made_only_if_that_is_said(postgres: Server) -> None:
    url, name = postgres.url().partition("?")[0], f"{postgres.new_schema()}-x"
    async with Tenants(Made(), database=url) as tenants:
        before = await tenants.names()
        with pytest.raises(InvalidInput, match="no such tenant"):
            async with tenants.engine(name):
                pass
        assert await add(tenants, name) == 1
        async with tenants.engine(name) as engine:
            assert (await engine.state(Counter, "c")).total == 1
        assert [*await tenants.names()] == sorted([*before, name])


async def test_no_more_tenants_are_open_than_the_server_has_connections_for(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url, made = postgres.url().partition("?")[0], Made()
    allowed = "current_setting('max_connections')::int"
    reserved = "current_setting('superuser_reserved_connections')::int"
    room = int(postgres.sql(f"SELECT ({allowed} - {reserved}) / 8"))
    names = [f"{postgres.new_schema()}-y" for _ in range(room + 1)]
    async with Tenants(made, database=url) as tenants, AsyncExitStack() as stack:
        with pytest.raises(Overloaded, match="tenants are open, and all are in use"):
            for name in names:
                await stack.enter_async_context(tenants.engine(name, create=True))
    assert len(made.names) <= room
    assert not caplog.messages
    async with Tenants(Made(), database=url, open_max=room + 1):
        assert f"open_max={room}" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "folder= or database="),
        ({"folder": "a", "database": "postgresql://h/d"}, "folder= or database="),
        ({"folder": "a?b"}, "begins an option"),
        ({"database": "postgresql://h/d?schema=x"}, "names no schema"),
        ({"database": "sqlite:a.db"}, "is none that this release knows"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        Tenants(Made(), **wrong)


async def test_a_function_that_gives_no_new_engine_is_refused(tmp_path: Path) -> None:
    engine = Engine([Counter])
    makers: list[Callable[[str], Any]] = [lambda _: None, lambda _: engine]
    async with engine:
        for make in makers:
            async with Tenants(make, folder=tmp_path) as tenants:
                with pytest.raises(DefinitionError, match="a new Engine each time"):
                    await add(tenants, "blue")


async def test_another_event_loop_opens_nothing(tmp_path: Path) -> None:
    made = Made()
    async with Tenants(made, folder=tmp_path) as tenants:
        with pytest.raises(UsageError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(add(tenants, "blue")))
        assert not made.engines
        assert await add(tenants, "blue") == 1


async def test_before_the_start_nothing_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="enter Tenants first"):
        await add(Tenants(Made(), folder=tmp_path), "blue")


async def test_a_server_that_is_away_for_a_moment_keeps_no_tenant_from_being_opened(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = postgres.url().partition("?")[0], f"{postgres.new_schema()}-x"
    tries, connect = 0, Line.connected

    async def connected(driver: Driver, address: Address) -> Line:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise StoreFailed("the server restarts", written=False, passes=tries == 1)
        return await connect(driver, address)

    async with Tenants(Made(), database=url) as tenants:
        monkeypatch.setattr(Line, "connected", connected)
        with pytest.raises(StoreFailed, match="the server restarts"):
            await add(tenants, name)
        assert tries == 2, "once more where it passes, and no more where it does not"
        assert await add(tenants, name) == 1


async def test_a_tenant_that_was_dropped_and_made_anew_elsewhere_is_opened_anew(
    postgres: Server,
) -> None:
    url, name = postgres.url().partition("?")[0], f"{postgres.new_schema()}-x"

    def made(store: str) -> Engine:
        return Engine([Counter], store=f"{store}&lease=2", join=True)

    schema = f"t_{name.replace('_', '_u').replace('-', '_d')}"
    async with Tenants(made, database=url) as member:
        async with Tenants(made, database=url) as owner:
            assert [await add(tenants, name) for tenants in (owner, member)] == [1, 2]
            postgres.sql(f'DROP SCHEMA "{schema}" CASCADE; DROP SCHEMA "{schema}_views" CASCADE')
        async with Tenants(made, database=url) as other:
            assert await add(other, name) == 1
            found: list[int | None] = [await _tried(member, name) for _ in range(2)]
            assert 2 in found, "the first caller may be told that another log is there"


async def _tried(tenants: Tenants, name: str) -> int | None:
    with suppress(Closed):
        return await add(tenants, name)
    return None
