"""The aggregates of a joint decision stand still for it, and for nothing longer than it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from engine import (
    Closed,
    Command,
    Conflict,
    DeadlinePassed,
    EngineFailed,
    HandlerFailed,
    Limits,
    OutcomeUnknown,
    Overloaded,
    Receipt,
    Rejected,
    StreamUnreadable,
    UsageError,
    Voided,
)
from tests.support.held_store import HeldStore, not_written, unknown
from tests.support.waiting import until
from tests.write.accounts import (
    Deposit,
    Deposited,
    Fail,
    Gate,
    Share,
    Slow,
    Transfer,
    Wait,
    Withdrawn,
    bank,
    cents,
    runs,
)


def start(sending: Coroutine[Any, Any, Receipt]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(sending)


async def turns(number: int = 9) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_it_is_decided_on_durable_states() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        store.hold()
        deposited = start(engine.execute(Deposit("a", 9)))
        runs.clear()
        moved = start(engine.execute(Transfer("a", "b", 9)))
        await turns()
        assert runs == []
        store.release()

        assert (await deposited).position == 1
        assert (await moved).position == 3


async def test_nothing_is_decided_on_it_before_it_is_durable() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        store.hold()
        sent = [
            start(engine.execute(command))
            for command in (
                Transfer("a", "b", 9),
                Deposit("a", 1),
                Deposit("b", 1),
                Deposit("c", 1),
            )
        ]
        await turns()
        assert [len(batch.requests) for batch in store.batches] == [1, 2]
        store.release()

        assert [(await each).version for each in sent] == [2, 3, 2, 1]
        assert len(store.batches) == 3


async def test_a_void_before_it_does_not_touch_it() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        await store.append_event("account:a", 1, Withdrawn(5))
        lost = start(engine.execute(Deposit("a", 100)))
        moved = start(engine.execute(Transfer("a", "b", 3)))

        with pytest.raises(Conflict):
            await lost
        assert (await moved).reply == 1
        assert await cents(engine, "a", "b") == [1, 3]


async def test_a_batch_before_it_that_is_not_written_does_not_touch_it() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        store.failures = [not_written()]
        lost = start(engine.execute(Deposit("b", 100)))
        moved = start(engine.execute(Transfer("a", "b", 3)))

        with pytest.raises(Voided):
            await lost
        assert (await moved).reply == 6
        assert await cents(engine, "a", "b") == [6, 3]


async def test_a_conflict_is_decided_anew() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        await engine.execute(Deposit("b", 1))
        await store.append_event("account:b", 1, Deposited(5))
        runs.clear()
        moved = start(engine.execute(Transfer("a", "b", 9), key="k"))
        behind = [start(engine.execute(Deposit(each, 1))) for each in ("a", "b")]

        assert (await moved).versions == {"account:a": 2, "account:b": 3}
        assert [(await each).version for each in behind] == [3, 4]
        assert runs == ["a>b", "a>b"]
        assert await cents(engine, "a", "b") == [1, 16]
        assert engine.statistics().journal.conflicts == 1


async def test_a_conflict_may_turn_it_into_a_rejection() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        await store.append_event("account:a", 1, Withdrawn(5))
        with pytest.raises(Rejected) as rejected:
            await engine.execute(Transfer("a", "b", 9))

        assert rejected.value.details == {"cents": 4}


async def test_conflicts_without_end_are_answered() -> None:
    class Busy(HeldStore):
        async def append(self, batch: Any) -> Any:
            if len(batch.requests[0].writes) == 2:
                expected = batch.requests[0].writes[1].expected
                await self.append_event("account:b", expected, Deposited(1))
            return await super().append(batch)

    store = Busy()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        moved = start(engine.execute(Transfer("a", "b", 9)))
        behind = start(engine.execute(Deposit("a", 1)))

        with pytest.raises(Conflict):
            await moved
        assert (await behind).version == 2
        assert engine.statistics().journal.conflicts == 5


async def test_a_batch_that_is_not_written_voids_it_alone() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        store.failures = [not_written()]
        moved = start(engine.execute(Transfer("a", "b", 9)))
        behind = [start(engine.execute(Deposit(each, 1))) for each in ("a", "b")]

        with pytest.raises(Voided):
            await moved
        assert [(await each).version for each in behind] == [2, 1]
        assert (await engine.execute(Transfer("a", "b", 10))).reply == 0


async def test_an_unknown_outcome_is_found_out_by_the_key() -> None:
    class Unsure(HeldStore):
        async def append(self, batch: Any) -> Any:
            committed = await super().append(batch)
            if self.failures:
                raise self.failures.pop()
            return committed

    store = Unsure()
    with pytest.raises(EngineFailed):
        async with bank(store=store) as engine:
            await engine.execute(Deposit("a", 9))
            store.failures = []
            moved = start(engine.execute(Transfer("a", "b", 9), key="k"))
            behind = start(engine.execute(Deposit("b", 1)))
            store.hold()
            await turns()
            store.failures = [unknown()]
            store.holding = False
            store.release()
            with pytest.raises(OutcomeUnknown):
                await moved
            with pytest.raises(Closed):
                await behind
    async with bank(store=store) as engine:
        receipt = await engine.execute(Transfer("a", "b", 9), key="k")
        assert receipt.versions["account:a"] == 2
        assert sum(await cents(engine, "a", "b")) == 9


async def test_a_deadline_frees_those_that_are_there() -> None:
    gate = Gate()
    async with bank(gate) as engine:
        await engine.execute(Deposit("a", 9))
        waiting = start(engine.execute(Wait("b")))
        await until(lambda: gate.waiting)
        moved = start(engine.execute(Transfer("a", "b", 1), deadline=0.02))
        behind = start(engine.execute(Deposit("a", 1)))
        await turns()
        assert not behind.done()

        with pytest.raises(DeadlinePassed, match=r"account:a, account:b waited for its turn"):
            await moved
        assert (await behind).version == 2
        gate.event.set()
        assert (await waiting).version == 1
        assert (await engine.execute(Transfer("a", "b", 10))).reply == 0


async def test_a_caller_that_leaves_frees_those_that_are_there() -> None:
    gate = Gate()
    async with bank(gate) as engine:
        await engine.execute(Deposit("a", 9))
        waiting = start(engine.execute(Wait("b")))
        await until(lambda: gate.waiting)
        moved = start(engine.execute(Transfer("a", "b", 1)))
        await turns()
        behind = start(engine.execute(Deposit("a", 1)))
        await turns()
        assert not behind.done()
        moved.cancel()

        assert (await behind).version == 2
        assert engine.statistics().commands.answers["cancelled"] == 1
        gate.event.set()
        await waiting
        assert await cents(engine, "a", "b") == [10, 1]


async def test_a_caller_that_leaves_before_any_turn_runs_nothing() -> None:
    async with bank() as engine:
        moved = start(engine.execute(Transfer("a", "b", 0)))
        await asyncio.sleep(0)
        moved.cancel()
        runs.clear()
        await engine.execute(Deposit("b", 1))
        await engine.execute(Deposit("a", 1))

        assert runs == []


async def test_once_it_is_decided_a_caller_that_leaves_changes_nothing() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        store.hold()
        moved = start(engine.execute(Transfer("a", "b", 9)))
        await until(lambda: len(store.batches) == 2)
        moved.cancel()
        await turns()
        store.release()

        assert (await engine.execute(Deposit("b", 1))).version == 2


async def test_what_was_sent_before_is_run_before() -> None:
    async with bank() as engine:
        sent: list[Command] = [
            Deposit("a", 5),
            Transfer("a", "b", 5),
            Transfer("b", "c", 5),
            Transfer("c", "a", 5),
            Transfer("a", "c", 5),
            Deposit("b", 1),
        ]
        answers = await asyncio.gather(*(engine.execute(each) for each in sent))

        assert [answer.version for answer in answers] == [1, 2, 2, 2, 4, 3]


async def test_none_waits_for_one_that_waits_for_it() -> None:
    """Crosswise, in chains and in circles, beside others: all are answered, and no cent is lost."""
    draw = random.Random(7)
    names = [f"a-{n}" for n in range(6)]
    limits = Limits(resident_aggregates=12, batch_events=8)
    async with bank(limits=limits) as engine:
        for name in names:
            await engine.execute(Deposit(name, 100))
        sent: list[Command] = []
        for _ in range(400):
            source, *targets = draw.sample(names, draw.randrange(2, 6))
            sent.append(Transfer(source, targets[0], draw.randrange(40)))
            sent.append(Share(source, targets, 1))
            sent.append(Deposit(source, 0))
        answers = await asyncio.gather(*map(engine.execute, sent), return_exceptions=True)

        assert {type(answer) for answer in answers} == {Receipt, Rejected}
        assert sum(await cents(engine, *names)) == 600


async def test_one_that_cannot_be_read_frees_the_others() -> None:
    store = HeldStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 9))
        await store.append_event("account:b", 0, Deposited(666))
        moved = start(engine.execute(Transfer("a", "b", 1)))
        behind = start(engine.execute(Deposit("a", 1)))

        with pytest.raises(StreamUnreadable):
            await moved
        assert (await behind).version == 2


async def test_a_failed_command_before_it_costs_it_nothing() -> None:
    async with bank() as engine:
        await engine.execute(Deposit("a", 9))
        failed = start(engine.execute(Fail("b")))
        moved = start(engine.execute(Transfer("a", "b", 1)))

        with pytest.raises(HandlerFailed):
            await failed
        assert (await moved).reply == 8


async def test_a_full_mailbox_of_one_refuses_it_whole() -> None:
    gate = Gate()
    limits = Limits(mailbox_commands=2)
    async with bank(gate, limits=limits) as engine:
        waiting = [start(engine.execute(Wait("b")))]
        await until(lambda: gate.waiting)
        waiting += [start(engine.execute(Wait("b"))) for _ in range(2)]
        await turns()
        with pytest.raises(Overloaded, match=r"wait for account:b"):
            await engine.execute(Transfer("a", "b", 0))
        gate.event.set()
        await asyncio.gather(*waiting)

        assert engine.statistics().commands.accepted == 3
        assert (await engine.execute(Transfer("a", "b", 0))).position == 3


async def test_memory_for_fewer_aggregates_refuses_it_whole() -> None:
    async with bank(limits=Limits(resident_aggregates=2)) as engine:
        with pytest.raises(Overloaded):
            await engine.execute(Share("a", ["b", "c"], 1))
        await turns(2)

        assert (await engine.execute(Transfer("a", "b", 0))).position == 0


async def test_an_async_function_holds_its_aggregates_alone() -> None:
    gate = Gate()
    async with bank(gate) as engine:
        moved = start(engine.execute(Slow("a", "b")))
        await until(lambda: gate.waiting)
        behind = start(engine.execute(Deposit("b", 1)))
        assert (await engine.execute(Deposit("c", 1))).position == 1
        assert not behind.done()
        gate.event.set()

        assert [(await each).position for each in (moved, behind)] == [3, 4]


async def test_an_async_function_has_until_its_deadline() -> None:
    gate = Gate()
    async with bank(gate) as engine:
        with pytest.raises(DeadlinePassed):
            await engine.execute(Slow("a", "b"), deadline=0.02)
        assert (await engine.execute(Deposit("b", 1))).version == 1
        await until(lambda: engine.statistics().handlers_running == 0)


async def test_the_end_of_the_engine_waits_for_it() -> None:
    gate = Gate()
    async with bank(gate) as engine:
        moved = start(engine.execute(Slow("a", "b")))
        behind = start(engine.execute(Transfer("b", "a", 0)))
        await until(lambda: gate.waiting)
        asyncio.get_running_loop().call_later(0.01, gate.event.set)

    assert (await moved).position == 2
    assert (await behind).position == 2


async def test_an_engine_that_fails_answers_all_that_wait() -> None:
    gate = Gate()
    store = HeldStore()
    answers: list[Any] = []
    with pytest.raises(EngineFailed):
        async with bank(gate, store=store) as engine:
            sent = [
                start(engine.execute(Slow("a", "b"))),
                start(engine.execute(Transfer("c", "a", 0))),
                start(engine.execute(Transfer("c", "d", 0))),
            ]
            await until(lambda: gate.waiting)
            store.failures = [unknown()]
            with pytest.raises(OutcomeUnknown):
                await engine.execute(Deposit("e", 1))
            answers += await asyncio.gather(*sent, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Closed] * 3


async def test_no_command_is_sent_out_of_it() -> None:
    async with bank() as outer:

        class Inside(Gate):
            async def passed(self) -> None:
                await outer.execute(Deposit("c", 1))

        async with bank(Inside()) as engine:
            assert (await engine.execute(Slow("a", "b"))).position == 2

    class Own(Gate):
        async def passed(self) -> None:
            await engine.execute(Deposit("c", 1))

    async with bank(Own()) as engine:
        with pytest.raises(HandlerFailed) as failed:
            await engine.execute(Slow("a", "b"))
        assert isinstance(failed.value.__cause__, UsageError)
