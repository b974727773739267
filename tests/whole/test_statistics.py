"""Statistics: every command in one class, every batch in its histograms, safe to read anywhere."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import (
    Engine,
    EngineStatistics,
    HandlerFailed,
    KeyReused,
    Limits,
    OutcomeUnknown,
    Overloaded,
    Ports,
    ProjectionLag,
    Rejected,
    StoreFailed,
    UsageError,
    Voided,
    WrongVersion,
)
from engine.histogram import SECONDS, Histogram
from engine.statistics import answer_class
from tests.support.counters import Add, Added, Counter, Look, Spoil, Touch, counters
from tests.support.held_store import HeldStore, not_written, unknown
from tests.support.tallies import AILING, GetTallies, Tallies, get_tallies
from tests.support.waiting import until


def balanced(numbers: EngineStatistics) -> bool:
    """Tell whether what belongs together adds up."""
    commands, journal = numbers.commands, numbers.journal
    return (
        sum(commands.answers.values()) == commands.answered
        and commands.accepted == commands.open + commands.answered
        and min(commands.answers.values()) >= 0
        and journal.batch_events.count == journal.commit_seconds.count == journal.commits
        and journal.batch_events.sum == journal.events
    )


async def test_every_command_is_in_exactly_one_class() -> None:
    store = HeldStore()
    async with counters(store, limits=Limits(mailbox_commands=6)) as engine:
        await engine.execute(Add("a", 1), key="k")
        await engine.execute(Add("a", 1), key="k")
        await engine.execute(Touch("a"))
        refusals: list[tuple[Any, Any, type[Exception]]] = [
            (Look("a"), {}, Rejected),
            (Add("a", 1), {"expected": 7}, WrongVersion),
            (Add("a", 2), {"key": "k"}, KeyReused),
            (Spoil("a", "raise"), {}, HandlerFailed),
        ]
        for command, options, error in refusals:
            with pytest.raises(error):
                await engine.execute(command, **options)

        store.hold()
        first = asyncio.create_task(engine.execute(Add("b", 1), key="first"))
        await until(lambda: len(store.batches) == 2)
        # A repeated key and a refusal that wait for the disk are counted where they leave.
        waiting = [
            asyncio.create_task(engine.execute(Add("b", 1), key="first")),
            asyncio.create_task(engine.execute(Look("b"))),
        ]
        await asyncio.sleep(0)
        assert engine.statistics().commands.open == 3
        store.release()
        await asyncio.gather(first, *waiting, return_exceptions=True)

        left = asyncio.create_task(engine.execute(Add("c", 1)))
        await asyncio.sleep(0)
        left.cancel()
        crowd = [asyncio.create_task(engine.execute(Add("d", 1))) for _ in range(8)]
        answers = await asyncio.gather(*crowd, return_exceptions=True)
        assert [type(a) for a in answers if isinstance(a, Exception)] == [Overloaded] * 2
        await until(lambda: not engine.statistics().commands.open)
        numbers = engine.statistics()

    assert numbers.commands.answers == {
        "receipt": 1 + 1 + 1 + 6,
        "repeated-key": 2,
        "cancelled": 1,
        "rejected": 2,
        "wrong-version": 1,
        "key-reused": 1,
        "handler-failed": 1,
    }
    assert numbers.commands.overloaded == 2
    assert balanced(numbers)


async def test_what_the_store_does_not_take_is_counted_as_what_it_is() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await store.append_behind("counter:a", 1, 5)
        store.hold()
        lost = [asyncio.create_task(engine.execute(Add("a", 1))) for _ in range(3)]
        await until(lambda: len(store.batches) == 2)
        store.release()
        await asyncio.gather(*lost, return_exceptions=True)
        conflicted = engine.statistics()
        store.failures.append(not_written())
        with pytest.raises(Voided):
            await engine.execute(Add("b", 1))
        voided = engine.statistics()

    assert (conflicted.journal.conflicts, conflicted.journal.voided) == (1, 2)
    assert conflicted.commands.answers["conflict"] == 1
    assert voided.commands.answers["voided"] == voided.journal.voided == 3
    assert voided.journal.commits == conflicted.journal.commits == 2
    assert balanced(voided)


async def test_an_unknown_outcome_is_a_class_of_its_own() -> None:
    store = HeldStore()
    store.failures.append(unknown())
    engine = Engine([Counter], store=store)
    with pytest.raises(Exception, match="StoreFailed"):
        async with engine:
            with pytest.raises(OutcomeUnknown):
                await engine.execute(Add("a", 1))
            await until(lambda: engine.failed)

    numbers = engine.statistics()
    assert isinstance(engine.failed, StoreFailed)
    assert numbers.commands.answers["outcome-unknown"] == numbers.commands.answered == 1
    assert numbers.commands.answers["receipt"] == numbers.journal.commits == 0


async def test_the_bytes_of_the_log_and_the_size_of_its_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with counters(f"sqlite:{path}") as engine:
        await engine.execute(Add("a", 1, 3))
        numbers = engine.statistics()
        assert numbers.store
        assert numbers.store.wal_bytes == Path(f"{path}-wal").stat().st_size > 0
        assert numbers.store.file_bytes == path.stat().st_size
        assert numbers.journal.bytes == 3 * len(msgspec.json.encode(Added(1)))

    closed = engine.statistics().store
    assert closed
    assert closed.wal_bytes == 0


async def test_loads_and_departures_are_counted() -> None:
    limits = Limits(resident_aggregates=2)
    async with counters(limits=limits) as engine:
        for name in "abcab":
            await engine.execute(Add(name, 1))
        numbers = engine.statistics().aggregates

    assert (numbers.resident, numbers.loaded, numbers.passivated) == (2, 5, 3)
    assert numbers.load_seconds.count == 5
    assert numbers.load_seconds.sum > 0


async def test_projectors_tell_their_lag_in_events_and_seconds() -> None:
    now = [1_000_000]

    class Clock:
        def now(self) -> int:
            return now[0]

        def monotonic(self) -> float:
            return 0.0

    async with counters(
        projections=[Tallies], answers=[get_tallies], ports=Ports(clock=Clock())
    ) as engine:
        receipt = await engine.execute(Add("a", 1))
        await engine.query(GetTallies(), at=receipt)
        level = engine.statistics().projectors["tallies"]
        late = await engine.execute(Add("b", 1))
        now[0] += 3_000_000
        behind = engine.statistics().projectors["tallies"]
        with pytest.raises(ProjectionLag):
            await engine.query(GetTallies(), at=late, timeout=0)
        queries = engine.statistics().queries["get-tallies"]

    assert (level.lag_events, level.lag_seconds) == (0, 0.0)
    assert (behind.lag_events, behind.lag_seconds) == (1, 3.0)
    assert level.batch_events.count == level.transactions == level.batch_seconds.count == 1
    assert (queries.answered, queries.lagged, queries.failed) == (1, 1, 0)
    assert (queries.seconds.count, queries.wait_seconds.count) == (2, 2)


async def test_a_stopped_projector_is_as_late_as_the_event_that_stopped_it() -> None:
    now = [1_000_000]

    class Clock:
        def now(self) -> int:
            return now[0]

        def monotonic(self) -> float:
            return 0.0

    store, ports = HeldStore(), Ports(clock=Clock())
    async with counters(store, ports=ports) as writer:
        await writer.execute(Add("a", 1))
        now[0] = 2_000_000
        await writer.execute(Add("b", 1))
    now[0] = 9_000_000
    AILING.add("b")
    try:
        async with counters(store, projections=[Tallies], ports=ports) as engine:
            await until(lambda: engine.statistics().projectors["tallies"].failure)
            numbers = engine.statistics().projectors["tallies"]
    finally:
        AILING.discard("b")

    assert (numbers.state, numbers.position, numbers.lag_events) == ("stopped", 1, 1)
    assert numbers.lag_seconds == 7.0


async def test_statistics_are_read_from_another_thread_while_the_engine_works() -> None:
    read: list[EngineStatistics] = []
    wrong: list[Any] = []
    ended = threading.Event()

    def reader(engine: Engine) -> None:
        try:
            while not ended.is_set():
                read.append(engine.statistics())
        except BaseException as error:
            wrong.append(error)

    async with counters(projections=[Tallies], answers=[get_tallies]) as engine:
        thread = threading.Thread(target=reader, args=(engine,))
        thread.start()
        try:
            for number in range(30):
                commands = [engine.execute(Add(f"c{n}", 1), key=f"{number}") for n in range(50)]
                again = [engine.execute(Add(f"c{n}", 1), key=f"{number}") for n in range(50)]
                refused = [engine.execute(Look(f"c{n}")) for n in range(50)]
                await asyncio.gather(*commands, *again, *refused, return_exceptions=True)
            await engine.query(GetTallies(), at=engine.statistics().position)
        finally:
            ended.set()
            thread.join()
        last = engine.statistics()

    assert not wrong
    assert len(read) > 10
    assert all(min(numbers.commands.answers.values()) >= 0 for numbers in read)
    answered = [numbers.commands.answered for numbers in read]
    assert answered == sorted(answered)
    assert last.commands.answers == {
        "receipt": 1_500, "repeated-key": 1_500, "cancelled": 0, "rejected": 1_500,
    }  # fmt: skip
    assert balanced(last)


async def test_statistics_are_json() -> None:
    async with counters(projections=[Tallies], answers=[get_tallies]) as engine:
        await engine.execute(Add("a", 1))
        numbers = engine.statistics()

    assert msgspec.json.decode(msgspec.json.encode(numbers), type=EngineStatistics) == numbers


def test_a_quantile_is_never_told_too_low_and_at_most_so_much_too_high() -> None:
    histogram = Histogram.of_seconds()
    values = sorted(0.000_013 * 1.07**n for n in range(200))
    for value in values:
        histogram.record(value)

    for share in (0.01, 0.1, 0.5, 0.9, 0.99, 1.0):
        true = values[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]
        assert true <= histogram.quantile(share) <= 2.5 * true
    assert histogram.count == 200
    assert histogram.sum == pytest.approx(sum(values))
    assert histogram.quantile(1.0) == histogram.max == values[-1]


def test_a_histogram_takes_what_lies_on_and_beyond_its_bounds() -> None:
    histogram = Histogram.of_seconds()
    assert histogram.quantile(0.5) == 0.0
    for value in (0.0, SECONDS[0], SECONDS[-1], 1e9):
        histogram.record(value)

    assert (histogram.counts[0], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1)
    assert histogram.quantile(1.0) == 1e9
    with pytest.raises(UsageError, match="from 0 to 1"):
        histogram.quantile(99)


def test_a_subclass_of_an_error_adds_no_answer_class() -> None:
    class TooDear(Rejected):
        pass

    assert answer_class(TooDear) == answer_class(Rejected) == "rejected"
    assert answer_class(OutcomeUnknown) == "outcome-unknown"
