"""The members of a log in PostgreSQL: who is there, under which number, and who has seen it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from engine import StoreFailed
from engine.runtime.ports import Ports
from engine.stores.contract.membership import View
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.members import Attendance
from engine.stores.postgres.log.session import holder_text
from engine.stores.postgres.log.store import PostgresStore
from tests.support.postgres import Server, asked, connected
from tests.support.waiting import until


@pytest.fixture
async def log(postgres: Server) -> str:
    url = postgres.url(postgres.new_schema(), "lease=1")
    store = PostgresStore(read_address(url))
    await store.open(Ports())
    await store.close()
    return url


@pytest.fixture
def long(log: str) -> str:
    """Give the log with leases that end in no test."""
    return log.replace("lease=1", "lease=600")


class Taking:
    """A process that takes part, and what it was told."""

    def __init__(self, log: str, name: str) -> None:
        self.told: list[View] = []
        self.stumbles_at: int | None = None
        """The view that it cannot heed."""
        self.stumbles_by: Exception = ValueError("it is not heeded")
        holder = holder_text(name, f"unix:/{name}")
        logger = logging.getLogger("foldline")
        self.attendance = Attendance(read_address(log), Ports(), holder, self._heed, logger)

    def _heed(self, view: View) -> None:
        if view.number == self.stumbles_at:
            raise self.stumbles_by
        self.told.append(view)

    @property
    def view(self) -> View:
        return self.attendance.view


@asynccontextmanager
async def taking(log: str, name: str) -> AsyncGenerator[Taking]:
    part = Taking(log, name)
    await part.attendance.join()
    running = asyncio.create_task(part.attendance.run())
    try:
        yield part
    finally:
        running.cancel()
        await asyncio.wait([running])
        await part.attendance.close()


def names(part: Taking) -> list[str]:
    return [one.holder for one in part.view.members]


async def test_the_number_changes_as_members_come_and_go(long: str) -> None:
    async with taking(long, "a") as a:
        first = a.view.number
        async with taking(long, "b") as b:
            await until(lambda: names(a) == names(b) == ["a", "b"])
            assert b.view.number == first + 1
            assert b.view.members[0].address == "unix:/a"
            await until(lambda: a.view.is_seen_by_all(first + 1))
            assert a.view.slots() == b.view.slots()
        await until(lambda: names(a) == ["a"])
        assert a.view.number == first + 2


async def test_who_does_not_renew_is_let_go_when_its_lease_is_over(
    log: str, postgres: Server
) -> None:
    schema = read_address(log).schema
    async with taking(log, "a") as a:
        still = Taking(log, "still")
        await still.attendance.join()
        member = still.attendance.member
        until_when = f"SELECT lease_until FROM {schema}.members WHERE member = {member}"
        [(lease_until,)] = await asked(postgres, until_when)
        assert still.attendance.is_held()
        await until(lambda: "still" in names(a))
        assert not a.view.is_seen_by_all(a.view.number + 1)

        await until(lambda: names(a) == ["a"])
        [(now,)] = await asked(postgres, "SELECT clock_timestamp()")
        assert now > lease_until
        assert not still.attendance.is_held(), "it counts from before it asked"
        # It is told so, and is nobody any more.
        await asyncio.wait_for(still.attendance.run(), 10)
        assert still.told[-1].find(member) is None
        await still.attendance.close()


async def test_a_view_is_told_as_seen_only_behind_what_heeds_it(long: str) -> None:
    async with taking(long, "a"):
        one = Taking(long, "one")
        await one.attendance.join()
        one.stumbles_at = one.view.number + 1
        async with taking(long, "b") as b:
            with pytest.raises(ValueError, match="not heeded"):
                await asyncio.wait_for(one.attendance.run(), 10)
            await b.attendance.turn()
            there = b.view.find(one.attendance.member)
            assert there is not None
            assert there.view_seen == one.stumbles_at - 1
        await one.attendance.close()


async def test_who_could_not_heed_a_view_is_a_member_no_more(long: str) -> None:
    one = Taking(long, "one")
    await one.attendance.join()
    one.stumbles_at = one.view.number + 1
    one.stumbles_by = StoreFailed("it is not heeded", written=False)
    async with taking(long, "b") as b:
        await asyncio.wait_for(one.attendance.run(), 10)
        assert not one.attendance.is_held()
        await b.attendance.turn()
        there = b.view.find(one.attendance.member)
        assert there is not None
        assert there.view_seen == one.stumbles_at - 1, "nobody decides for what it may still keep"
    await one.attendance.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {s}.membership SET view = view - 1",
        "INSERT INTO {s}.members(holder, view_seen, lease_until) VALUES ('x', 0, 'infinity')",
    ],
    ids=["an earlier number", "the same number of others"],
)
async def test_who_finds_that_the_number_went_back_joins_anew(
    long: str, postgres: Server, change: str
) -> None:
    """As behind a failover that lost who came last: the number may come again for others."""
    one = Taking(long, "one")
    await one.attendance.join()
    member, told = one.attendance.member, len(one.told)
    await asked(postgres, change.format(s=read_address(long).schema))
    await asyncio.wait_for(one.attendance.run(), 10)

    assert not one.attendance.is_held()
    assert [view.find(member) for view in one.told[told:]] == [None]
    await one.attendance.close()


async def test_a_lease_is_counted_from_before_it_was_asked_for(long: str, postgres: Server) -> None:
    one, other = Taking(long, "one"), Taking(long, "other")
    for part in (one, other):
        await part.attendance.join()
    connection = await connected(postgres)
    async with connection.transaction():
        schema = read_address(long).schema
        await connection.execute(f"SELECT 1 FROM {schema}.members FOR UPDATE")
        renewing = asyncio.create_task(one.attendance.turn())
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
        while not await connection.fetch(waits):
            await asyncio.sleep(0.001)
        let_on = Ports().clock.monotonic()
    await renewing
    await connection.close()

    assert one.attendance._renewed_at < let_on  # pyright: ignore
    for part in (one, other):
        await part.attendance.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clock")
async def test_a_lease_ends_while_the_machine_is_suspended(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that Python calls monotonic stands still then, and the database's does not."""
    one = Taking(log, "one")
    await one.attendance.join()
    steady = time.clock_gettime

    def later(clock: int) -> float:
        return steady(clock) + 60

    monkeypatch.setattr(time, "clock_gettime", later)

    assert not one.attendance.is_held()
    await one.attendance.close()


async def test_who_is_dead_for_certain_is_not_waited_for(long: str) -> None:
    async with taking(long, "a") as a:
        dead = Taking(long, "dead")
        await dead.attendance.join()
        await until(lambda: "dead" in names(a))

        await a.attendance.strike(dead.attendance.member)
        await until(lambda: names(a) == ["a"])
        await asyncio.wait_for(dead.attendance.run(), 10)
        assert not dead.attendance.is_held()
        await dead.attendance.close()


async def test_nobody_is_declared_dead_for_one_lease_after_the_server_started(
    long: str, postgres: Server
) -> None:
    schema = read_address(long).schema
    long = long.replace("lease=600", "lease=3600")
    async with taking(long, "a") as a:
        dead = Taking(long, "dead")
        await dead.attendance.join()
        await asked(
            postgres,
            f"UPDATE {schema}.members SET lease_until = joined - interval '1 h' WHERE member = $1",
            dead.attendance.member,
        )
        await a.attendance.turn()

        assert names(a) == ["a", "dead"], "the server is younger than its lease"
        await dead.attendance.close()


async def test_who_finds_another_process_under_his_number_is_none_of_the_members(
    postgres: Server, long: str
) -> None:
    """So it is behind a failover that lost a join, where the next one has brought the view back."""
    async with taking(long, "old") as old:
        number = old.attendance.member
        taken = f"UPDATE {read_address(long).schema}.members SET holder = 'new' WHERE member = $1"
        await asked(postgres, taken, number)
        await until(lambda: not old.attendance.is_held())

        assert old.view.find(number) is None
        assert old.told[-1] == old.view


async def test_who_joins_passes_over_the_numbers_of_rows_that_were_replicated(
    postgres: Server, long: str
) -> None:
    schema = read_address(long).schema
    async with taking(long, "one"), taking(long, "two") as two:
        await asked(postgres, f"ALTER TABLE {schema}.members ALTER COLUMN member RESTART")
        async with taking(long, "three") as three:
            assert three.attendance.member > two.attendance.member
            await until(lambda: [one.holder for one in two.view.members] == ["one", "two", "three"])
