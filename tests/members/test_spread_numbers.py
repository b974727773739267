"""What is seen of several owners: their numbers, their telemetry, and the list of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import CommandBegan, Engine, Envelope, ForwardBegan, Rejected, SpreadStatistics
from engine.__main__ import main
from engine.members import meeting
from engine.runtime.machine import process_name, read_process_name
from engine.stores.contract.membership import slot_of
from tests.members.joining import nowhere, part
from tests.support.counters import Add, Counter
from tests.support.opentelemetry import Sdk
from tests.support.postgres import Server
from tests.support.recorder import Recorder
from tests.support.tallies import Tallies
from tests.support.waiting import until


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


def numbers(engine: Engine) -> SpreadStatistics:
    found = part(engine).spread
    assert found is not None
    return found


@asynccontextmanager
async def owners(log: str, *telemetries: Any) -> AsyncGenerator[list[Engine]]:
    """Give owners that all know each other, one for each telemetry."""
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(
                Engine(
                    [Counter],
                    projections=[Tallies],
                    store=log,
                    join="spread",
                    telemetry=telemetry,
                )
            )
            for telemetry in telemetries
        ]
        await until(lambda: all(is_settled(engine, len(engines)) for engine in engines))
        yield engines


def is_settled(engine: Engine, count: int) -> bool:
    found = numbers(engine)
    others = [one for one in found.owners.values() if one.is_connected and not one.views_behind]
    return len(others) == count - 1 and found.slots == found.slots_ready > 0


def counters_of(engine: Engine, count: int = 400) -> list[str]:
    """Give the counters that a process decides for."""
    inside: Any = engine
    ready = inside._joined._router._ready
    return [f"c{n}" for n in range(count) if ready[slot_of(f"counter:c{n}")]]


async def test_each_owner_tells_its_slots_and_what_it_decided_and_sent(log: str) -> None:
    async with owners(log, None, None, None) as engines:
        mine, other = counters_of(engines[0])[:7], counters_of(engines[1])[:3]
        for name in (*mine, *other):
            await engines[0].execute(Add(name, 1))
        found = [numbers(engine) for engine in engines]

        assert sum(one.slots for one in found) == 256
        assert len({one.view for one in found}) == 1
        assert [(one.decided, one.forwarded, one.moved) for one in found] == [
            (7, 3, 0),
            (3, 0, 0),
            (0, 0, 0),
        ]
        assert [part(engine).forwarded for engine in engines] == [3, 0, 0]
        for one in found:
            assert 0 < one.lease_seconds_left <= 5
            assert sorted([one.member, *one.owners]) == sorted(each.member for each in found)
            slots = {each.member: each.slots for each in found if each is not one}
            assert {number: seen.slots for number, seen in one.owners.items()} == slots
            assert all(seen.waiting == 0 for seen in one.owners.values())
        # What an engine decides for a part of the log is in the numbers of its process.
        told = [engine.statistics() for engine in engines]
        assert [one.commands.answers["receipt"] for one in told] == [7, 3, 0]
        assert [one.journal.events for one in told] == [7, 3, 0]
        assert [one.aggregates.resident for one in told] == [7, 3, 0]
        assert all(one.server and one.server.lease_seconds_left > 0 for one in told)


async def test_what_moves_is_counted_and_what_was_decided_stays_so(log: str) -> None:
    async with owners(log, None) as [first]:
        for n in range(20):
            await first.execute(Add(f"c{n}", 1))
        before, inside = numbers(first), first.statistics().commands.answered
        assert (before.slots, before.decided, inside) == (256, 20, 20)
        async with Engine([Counter], projections=[Tallies], store=log, join="spread") as second:
            await until(lambda: is_settled(first, 2) and is_settled(second, 2))
            theirs = counters_of(second)[0]
            # It comes to this process's engine past the router, as by a gate that takes its time.
            joined: Any = first._joined  # pyright: ignore[reportPrivateUsage]
            envelope = Envelope(command=Add(theirs, 1), key="k")
            assert await joined.spread.wiring.reception.send(envelope)
            moved = numbers(first)
            assert (moved.decided, moved.moved, moved.forwarded) == (20, 1, 1)
            assert moved.view > before.view
        await until(lambda: numbers(first).slots_ready == 256)
        # Another engine of the process goes on where this one ended.
        joined._router.forget()
        assert numbers(first).decided == 20
        assert numbers(first).forwarded == 1, "the owner to which it went has gone"


async def test_a_command_is_shown_once_as_sent_and_once_as_run(log: str) -> None:
    sender, other = Recorder({"sent": "by an owner"}), Recorder()
    async with owners(log, sender, other) as [first, second]:
        theirs, mine = counters_of(second)[0], counters_of(first)[0]
        await first.execute(Add(theirs, 1), correlation="order 7")
        with pytest.raises(Rejected):
            await first.execute(Add(theirs, -5))
        await first.execute(Add(mine, 1))

        ((began, error, facts), (_, refused, told)) = sender.of(ForwardBegan)
        assert (began.command, began.correlation, error) == (Add(theirs, 1), "order 7", None)
        assert facts["answer"] == "receipt"
        assert isinstance(refused, Rejected)
        assert told == {"answer": "rejected"}
        assert not other.of(ForwardBegan)
        assert [one[0].command for one in sender.of(CommandBegan)] == [Add(mine, 1)]
        assert [one[0].headers for one in other.of(CommandBegan)] == [{"sent": "by an owner"}] * 2
        assert part(first).answers == {"receipt": 1, "rejected": 1}
        assert part(first).seconds > 0
        assert part(second).answers == {}


async def test_what_waits_for_a_slot_is_shown_by_who_sent_it_alone(log: str) -> None:
    """What another owner sent is made anew here; no later command is taken for it."""
    sender, other = Recorder(), Recorder()
    async with owners(log, sender, other) as [first, second]:
        theirs, own = counters_of(second)[:2]
        joined: Any = second._joined  # pyright: ignore[reportPrivateUsage]
        ways = joined._router
        slot = slot_of(f"counter:{theirs}")
        ways._ready[slot] = 0
        sent = asyncio.create_task(first.execute(Add(theirs, 1)))
        await until(lambda: ways._limbo.count)
        await second.execute(Add(own, 1))
        ways._ready[slot] = 1
        ways.place_all()
        await sent

        assert not other.of(ForwardBegan)
        assert part(second).answers == {}
        assert len(sender.of(ForwardBegan)) == 1


async def test_metrics_show_what_each_process_owns(log: str) -> None:
    sdk = Sdk()
    async with owners(log, sdk.telemetry(), None) as [first, second]:
        await first.execute(Add(counters_of(second)[0], 1))
        await first.execute(Add(counters_of(first)[0], 1))
        found, told = sdk.metrics(), numbers(first)

        def value(name: str) -> float:
            ((labels, number),) = found[f"foldline.membership.{name}"]
            assert not labels
            return number

        assert [value(name) for name in ("slots", "slots.ready", "view", "others")] == [
            told.slots,
            told.slots,
            told.view,
            1,
        ]
        assert (value("decided"), value("forwarded"), value("moved")) == (1, 1, 0)
        assert value("others.behind") == 0
        assert 0 < value("lease.left") <= 5
        assert found["foldline.membership.answers"] == [({"foldline.answer": "receipt"}, 1)]
        assert ({"foldline.answer": "receipt"}, 1) in found["foldline.commands.answered"]


def tallied(engine: Engine) -> int:
    return engine.statistics().projectors["tallies"].position


# -- the list -------------------------------------------------------------------------------------


async def listed(log: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert await asyncio.to_thread(main, ["members", log, "--json"]) == 0
    return [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]


async def test_all_owners_are_listed_with_what_is_theirs(
    log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with owners(log, None, None) as [first, second]:
        for name in (*counters_of(first)[:2], *counters_of(second)[:5]):
            await first.execute(Add(name, 1))
        await until(lambda: any(tallied(engine) == 7 for engine in (first, second)))
        found = await listed(log, capsys)

        assert [one["slots"] for one in found] == [numbers(e).slots for e in (first, second)]
        assert sorted(one["role"] for one in found) == ["leader", "owner"]
        assert [(one["decided"], one["commands"], one["moved"]) for one in found] == [
            (2, 5, 0),
            (5, 0, 0),
        ]
        for one in found:
            assert (one["process"], one["machine"], one["behind"]) == (os.getpid(), "", 0)
            read = (0, 7) if one["role"] == "leader" else (None, None)
            assert (one["lag"], one["position"]) == read, "who leads runs the projections"
            assert one["waiting"] == 0
            assert 0 < one["lease"] <= 5
        assert await asyncio.to_thread(main, ["members", log]) == 0
        table = capsys.readouterr().out.splitlines()
        assert table[0].split()[-5:] == ["SLOTS", "BEHIND", "DECIDED", "MOVED", "LAG"]
        assert len(table) == 3


async def test_owners_of_other_machines_are_listed_as_the_database_has_them(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(log, None, None) as engines:
        monkeypatch.setattr(meeting, "_folders", nowhere)
        found = await listed(log, capsys)

        assert [one["slots"] for one in found] == [numbers(engine).slots for engine in engines]
        _, machine = read_process_name(process_name())
        for one in found:
            assert (one["process"], one["machine"], one["behind"]) == (os.getpid(), machine, 0)
            assert (one["decided"], one["commands"], one["lag"]) == (None, None, None)
            assert 0 < one["lease"] <= 5
        assert await asyncio.to_thread(main, ["members", log]) == 0
        heading, *_ = capsys.readouterr().out.splitlines()
        assert heading.split()[:3] == ["PROCESS", "MACHINE", "ROLE"]


async def test_an_owner_that_stands_still_is_listed_too(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with owners(log, None, None) as engines:
        monkeypatch.setattr("engine.cli.members._SECONDS", 0.0)
        found = await listed(log, capsys)
        assert [one["slots"] for one in found] == [numbers(engine).slots for engine in engines]
        assert [one["decided"] for one in found] == [None, None]


def test_the_name_of_a_process_is_read_back(tmp_path: Path) -> None:
    assert read_process_name("process 17 on a machine") == (17, "a machine")
    for other in ("", "nobody", "process x on y", "process 3", str(tmp_path)):
        assert read_process_name(other) == (0, "")
