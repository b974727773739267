"""Joint decisions over aggregates of several owners: whole, once, and never by old states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from engine import (
    Conflict,
    Engine,
    Receipt,
    Rejected,
    StoreFailed,
    To,
    Voided,
    WrongVersion,
)
from engine.runtime.ports import Ports
from engine.stores.contract.log import Appended, AppendRequest, Batch, StreamConflict, Write
from engine.stores.contract.membership import owners_of, slot_of
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.spread import SpreadStore
from engine.testing.conformance.given_log import request
from tests.members.spreading import accounts_of, is_settled
from tests.support.postgres import Server, asked
from tests.support.waiting import until
from tests.write.accounts import (
    Account,
    Deposit,
    Deposited,
    Fund,
    Gate,
    Odd,
    Rename,
    Share,
    Transfer,
    bank,
    cents,
    odd,
)


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


def wiring_of(engine: Any) -> Any:
    return engine._joined.spread.wiring


@asynccontextmanager
async def owners(log: str, count: int = 2, **options: Any) -> AsyncGenerator[list[Engine]]:
    async with AsyncExitStack() as stack:
        makes = [bank(store=log, join="spread", **options) for _ in range(count)]
        engines: list[Any] = [await stack.enter_async_context(make) for make in makes]
        await until(lambda: all(is_settled(engine, count) for engine in engines))
        yield engines


async def test_several_owners_decide_together_as_one(log: str) -> None:
    async with owners(log) as [first, second]:
        [a, c], [b, d] = accounts_of(first, 2), accounts_of(second, 2)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 5))

        moved = await second.execute(Transfer(a, b, 30), key="k")
        assert moved == Receipt(f"account:{a}", 2, 4, 70, ((f"account:{b}", 2),))
        for engine in (first, second):
            assert await engine.execute(Transfer(a, b, 30), key="k") == moved
        given = await first.execute(Share(b, [a, c, d], 5), expected=moved.versions)
        streams = {f"account:{b}": 3, f"account:{a}": 3, f"account:{c}": 1, f"account:{d}": 1}
        assert given.versions == streams
        with pytest.raises(WrongVersion) as wrong:
            await second.execute(Transfer(a, b, 1), expected=moved.versions)
        assert wrong.value.actual == 3
        with pytest.raises(Rejected, match="too-little-money"):
            await first.execute(Transfer(b, a, 21))
        assert (await first.execute(Transfer(b, a, 0))).reply == 20
        assert await cents(first, a, b, c, d) == [75, 20, 5, 5]
        await first.execute(Rename(a, b, ("ann", "bob")))
        with pytest.raises(Rejected):
            await second.execute(Rename(d, c, ("cid", "bob")))


async def test_an_owner_whose_aggregate_another_one_moved_answers_by_what_is_there(
    log: str,
) -> None:
    async with owners(log) as [first, second]:
        [a], [b, other] = accounts_of(first, 1), accounts_of(second, 2)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))

        # Each finds what the first one has written behind the back of the second.
        await first.execute(Transfer(a, b, 10))
        assert (await second.execute(Deposit(b, 1), expected=2)).version == 3
        await first.execute(Transfer(a, b, 10))
        with pytest.raises(WrongVersion) as wrong:
            await second.execute(Deposit(b, 1), expected=3)
        assert wrong.value.actual == 4
        assert (await second.execute(Deposit(b, 1))).version == 5
        await first.execute(Transfer(a, b, 10))
        assert (await second.execute(Transfer(b, other, 33))).reply == 0
        await first.execute(Transfer(a, b, 10))
        assert (await second.execute(Transfer(b, a, 0))).reply == 10
        await first.execute(Transfer(a, b, 10))
        with pytest.raises(Rejected) as rejected:
            await second.execute(Transfer(b, a, 21))
        assert rejected.value.details == {"cents": 20}
        await first.execute(Transfer(a, b, 10))
        assert (await second.execute(Deposit(b, 1), key="once")).version == 11
        assert (await first.execute(Deposit(b, 1), key="once")).version == 11
        assert await cents(first, a, b, other) == [40, 31, 33]


async def test_what_another_one_has_moved_is_loaded_before_it_is_decided_on(log: str) -> None:
    """An append finds what others have appended since: what is old in memory leaves it."""
    async with owners(log) as [first, second]:
        [a], [b, other] = accounts_of(first, 1), accounts_of(second, 2)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))
        await first.execute(Transfer(a, b, 10))
        await second.execute(Deposit(other, 1))

        assert (await second.execute(Deposit(b, 1))).version == 3
        assert wiring_of(second).journal.statistics().conflicts == 0
        assert await cents(first, a, b, other) == [90, 12, 1]


async def test_a_batch_is_planned_where_a_pooler_has_taken_what_was_prepared(log: str) -> None:
    async with owners(log) as [first, second]:
        [a], [b] = accounts_of(first, 1), accounts_of(second, 1)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))
        for version in (3, 5):
            await first.execute(Transfer(a, b, 10))
            assert (await second.execute(Deposit(b, 1))).version == version
            line = wiring_of(second).store._open_writer().line
            if version > 3:
                assert line.pooled
                break
            assert not line.pooled
            for number in range(1, len(line._statements)):  # all but the append, which comes first
                await line.connection.execute(f"DEALLOCATE foldline_{number}")
        assert await cents(first, a, b) == [80, 23]


async def test_a_decision_stands_on_what_all_its_aggregates_are_also_without_events(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account gets nothing, and what the fund gets is the money that it has."""
    monkeypatch.setitem(odd, "as much", lambda one, other: [To(other, Deposited(one.cents))])
    async with owners(log) as [first, second]:
        [a], [b] = accounts_of(first, 1), accounts_of(second, 1)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))
        for moved in (11, 21):
            await first.execute(Transfer(a, b, 10))
            await second.execute(Odd(b, f"f{moved}", "as much"))
            assert (await first.state(Fund, f"f{moved}")).cents == moved


async def test_what_was_decided_on_a_state_that_another_one_moved_is_run_again(log: str) -> None:
    """Its events, what follows them, and what waits behind: all have their answers, in order."""
    async with owners(log) as [first, second]:
        [a], [b] = accounts_of(first, 1), accounts_of(second, 1)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))
        await first.execute(Transfer(a, b, 10))

        sent = [second.execute(Deposit(b, 1)) for _ in range(20)]
        receipts = await asyncio.gather(*sent)

        assert [receipt.version for receipt in receipts] == list(range(3, 23))
        assert await cents(second, b) == [31]


async def test_nothing_is_told_behind_a_look_that_came_before_it_was_decided(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has looked, and its answer is on its way: what is asked then was moved by now."""
    async with owners(log) as [first, second]:
        [a], [b] = accounts_of(first, 1), accounts_of(second, 1)
        await first.execute(Deposit(a, 100))
        await second.execute(Deposit(b, 1))
        store, looked, gate = wiring_of(second).store, asyncio.Event(), asyncio.Event()
        append = store.append

        async def slowly(batch: Batch) -> Any:
            committed = await append(batch)
            looked.set()
            await gate.wait()
            return committed

        monkeypatch.setattr(store, "append", slowly)
        depositing = asyncio.ensure_future(second.execute(Deposit(b, 1)))
        await looked.wait()
        assert (await first.execute(Transfer(a, b, 10))).versions[f"account:{b}"] == 3
        asking = asyncio.ensure_future(second.execute(Deposit(b, 1), expected=9))
        await until(lambda: asking.done() or wiring_of(second).journal._gathered)
        gate.set()
        with pytest.raises(WrongVersion) as wrong:
            await asking
        assert wrong.value.actual == 3
        assert (await depositing).version == 2


async def test_transfers_in_all_directions_lose_and_double_nothing(log: str) -> None:
    async with owners(log, 3) as engines:
        names = [name for engine in engines for name in accounts_of(engine, 2)]
        for name in names:
            await engines[0].execute(Deposit(name, 1_000))

        async def move(n: int) -> str:
            source, target = names[n % 6], names[(n + 1 + n // 6 % 5) % 6]
            try:
                await engines[n % 3].execute(Transfer(source, target, 1 + n % 7), key=f"t{n}")
            except Conflict:
                return "conflict"
            return "done"

        told = [await task for task in [asyncio.ensure_future(move(n)) for n in range(180)]]

        assert sum(await cents(engines[0], *names)) == 6_000
        keys = [
            logged.meta.key async for logged in engines[1].feed() if logged.meta.key is not None
        ]
        assert len(keys) == len({*keys}) == told.count("done")
        assert told.count("done") > 150


def of_other_decisions(log: str) -> Engine:
    """Give an engine that answers for its accounts out of memory."""
    return Engine([Account, Fund], resources={Gate: Gate()}, store=log, join="spread")


def staying(engine: Any, count: int) -> list[str]:
    """Give ids of accounts that a process that is alone keeps when the next one comes."""
    member = wiring_of(engine).store.attendance.member
    owned = owners_of((member, member + 1))
    found = (name for n in range(4_000) if owned[slot_of(f"account:{(name := f'a{n}')}")] == member)
    return [next(found) for _ in range(count)]


async def test_nothing_is_written_for_a_member_that_would_not_look(log: str) -> None:
    async with owners(log, 1) as [first]:
        [a, b] = staying(first, 2)
        await first.execute(Deposit(a, 100))
        async with of_other_decisions(log):
            await until(lambda: wiring_of(first).shared.lacking)
            with pytest.raises(Voided, match="makes joint decisions of other kinds"):
                await first.execute(Transfer(a, b, 1))
            with pytest.raises(Rejected):
                await first.execute(Transfer(b, a, 1))
        await until(lambda: not wiring_of(first).shared.lacking)
        assert (await first.execute(Transfer(a, b, 1))).reply == 99


async def test_what_gathers_as_such_a_member_comes_is_not_written(log: str) -> None:
    async with owners(log, 1) as [first]:
        [a, b] = staying(first, 2)
        await first.execute(Deposit(a, 100))
        journal, turn = wiring_of(first).journal, asyncio.Event()
        journal._turn = turn.wait
        moving = asyncio.ensure_future(first.execute(Transfer(a, b, 1)))
        await until(lambda: journal._gathered)
        async with of_other_decisions(log):
            await until(lambda: wiring_of(first).shared.lacking)
            turn.set()
            with pytest.raises(Voided, match="makes joint decisions of other kinds"):
                await moving
            assert await cents(first, a, b) == [100, 0]


# -- the store ------------------------------------------------------------------------------------


async def test_a_write_without_events_asks_whether_its_stream_is_there(
    log: str, postgres: Server
) -> None:
    long = read_address(log.replace("lease=5", "lease=600"))
    store, other = (SpreadStore(long, lambda _: None) for _ in range(2))
    await store.open(Ports())
    await other.open(Ports())
    assert store.attendance is not None
    assert other.attendance is not None
    await store.attendance.turn()

    async def told(*writes: Write) -> list[Any]:
        requests = [AppendRequest((write,)) for write in writes]
        return [*(await store.append(Batch(requests, 0))).outcomes]

    def stands(stream: str, version: int) -> Write:
        return Write(stream, version, ())

    try:
        [write] = request("counter:a", 0, 1).writes
        assert await told(write, stands("counter:b", 0)) == [Appended(1, (1,)), Appended(1, (0,))]
        assert await told(stands("counter:a", 1), stands("counter:b", 0)) == [
            Appended(0, (1,)),
            Appended(0, (0,)),
        ]
        await other.append(Batch([request("counter:a", 1, 1)], 0))
        [write] = request("counter:b", 0, 1).writes
        conflict = StreamConflict("counter:a", 1, 2)
        assert await told(stands("counter:a", 1), write) == [conflict, Appended(3, (1,))]
        leases = store.address.sql("SELECT max(lease_until) FROM {s}.members WHERE member = $1")
        [before] = await asked(postgres, leases, store.session)
        assert await told(stands("counter:a", 1), stands("counter:b", 1)) == [
            conflict,
            Appended(3, (1,)),
        ]
        # What stands is told behind a commit, which a server that was replaced has none of.
        assert await asked(postgres, leases, store.session) > [before]
        rows = await asked(postgres, store.address.sql("SELECT stream, version FROM {s}.log"))
        assert len(rows) == 3
        # What fits is not planned at once the next time, but proved.
        await told(*request("counter:c", 0, 1).writes)
        assert await told(stands("counter:b", 1)) == [Appended(0, (1,))]
        # Who was declared dead says nothing, however much is where it was read.
        await other.attendance.strike(store.session)
        with pytest.raises(StoreFailed, match="taken this log over"):
            await told(stands("counter:b", 1))
    finally:
        await store.close()
        await other.close()
