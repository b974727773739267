"""The schedule of the open loop, and who waits for whom in it."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from benchmarks.open_loop import LANES, Schedule, offer
from benchmarks.scenario import Wrong
from benchmarks.systems import Commits, Send, Target
from benchmarks.workload import COMMANDS_PER_ORDER, AdjustOrder, OpenOrder
from engine import Overloaded

PAST = 10.0
"""Seconds by which every command of a test is late, so that no test waits for its time."""


def target(send: Send) -> Target:
    return Target(send, lambda: Commits(0, 0))


def late(count: int) -> Schedule:
    return Schedule(time.perf_counter() - PAST, count / (PAST / 2), PAST / 2)


def test_commands_are_due_one_after_the_other_at_the_rate() -> None:
    schedule = Schedule(begin=100.0, rate=4.0, seconds=2.0)

    assert [schedule.due_at(number) for number in (0, 1, 4, 7)] == [100.0, 100.25, 101.0, 101.75]
    assert schedule.count == 8


def test_a_command_is_due_from_its_moment_on() -> None:
    schedule = Schedule(begin=100.0, rate=4.0, seconds=2.0)
    moments = (99.9, 100.0, 100.2, 100.25, 100.9, 101.0, 101.74, 101.75, 999.0)

    assert [schedule.due_by(moment) for moment in moments] == [0, 1, 1, 2, 4, 5, 7, 8, 8]


async def test_no_command_waits_for_the_answer_of_another() -> None:
    count, last_sent = 500, asyncio.Event()

    async def send(_command: OpenOrder | AdjustOrder, number: int) -> None:
        if number == count - 1:
            last_sent.set()
        await last_sent.wait()

    async with asyncio.timeout(60):
        offered = await offer(target(send), late(count), warm_up=0)

    assert offered.acknowledged == offered.latencies.count == count


async def test_a_latency_runs_from_when_the_command_was_due() -> None:
    async def send(_command: OpenOrder | AdjustOrder, _number: int) -> None:
        return

    offered = await offer(target(send), late(100), warm_up=0)

    # The system answers at once, and the sender is ten seconds late: that is what they waited.
    assert offered.latencies.max >= PAST
    assert offered.latencies.percentile(1) >= PAST / 2
    assert offered.late.max >= PAST


async def test_what_is_due_in_the_warm_up_is_sent_and_not_timed() -> None:
    async def send(_command: OpenOrder | AdjustOrder, _number: int) -> None:
        return

    offered = await offer(target(send), late(100), warm_up=PAST / 4)

    assert offered.acknowledged == 100
    assert offered.latencies.count == 50


async def test_the_commands_of_an_order_are_sent_in_their_order() -> None:
    sent: dict[str, list[int]] = {}

    async def send(command: OpenOrder | AdjustOrder, _number: int) -> None:
        sent.setdefault(command.order_id, []).append(command.quantity)

    await offer(target(send), late(LANES * COMMANDS_PER_ORDER), warm_up=0)

    whole, lefts = list(range(1, 11)), 0
    for quantities in sent.values():
        assert quantities == whole[: len(quantities)]
        lefts += quantities != whole
    assert len(sent) == LANES + LANES * 9 // 10
    assert lefts == LANES * 9 // 10 * 2, "the first order of a lane and its last"


async def test_every_tenth_command_opens_an_order() -> None:
    opened: list[int] = []

    async def send(command: OpenOrder | AdjustOrder, number: int) -> None:
        if isinstance(command, OpenOrder) and number >= LANES:
            opened.append(number)

    await offer(target(send), late(LANES * COMMANDS_PER_ORDER), warm_up=0)

    assert len(opened) == LANES * 9 // 10
    assert all(later - former >= 10 for former, later in itertools.pairwise(opened))


async def test_what_was_not_run_is_counted_apart() -> None:
    async def send(_command: OpenOrder | AdjustOrder, number: int) -> None:
        if number % 4 == 0:
            raise Overloaded("full")

    offered = await offer(target(send), late(100), warm_up=0)

    assert (offered.acknowledged, offered.refused) == (75, 25)
    assert offered.latencies.count == 75


async def test_any_other_failure_is_wrong() -> None:
    async def send(_command: OpenOrder | AdjustOrder, number: int) -> None:
        if number == 3:
            raise ArithmeticError("lost")

    with pytest.raises(Wrong, match="1 commands failed, the first with ArithmeticError"):
        await offer(target(send), late(100), warm_up=0)
