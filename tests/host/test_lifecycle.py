"""The engine's life: start, stop, failure, cancellation, and use where it must not be used."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine as foldline
from engine import (
    Aggregate,
    Closed,
    Command,
    DefinitionError,
    Engine,
    EngineError,
    EngineFailed,
    Envelope,
    Event,
    Id,
    Limits,
    OutcomeUnknown,
    Ports,
    Receipt,
    Rejected,
    StoreFailed,
    StoreLocked,
    StoreRefused,
    UsageError,
    applies,
    handles,
)
from engine.model.messages import MessageMeta
from engine.runtime.ports import FAILPOINTS
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.log.store import SqliteStore
from tests.support.counters import Add, Added, Counter, Look, Touch, counters, total
from tests.support.held_store import HeldStore
from tests.support.waiting import settle, until

ROOT = Path(__file__).parents[2]


async def test_an_engine_is_refused_before_its_start_and_after_its_end() -> None:
    engine = Engine([Counter])
    with pytest.raises(UsageError, match="has not been started"):
        await engine.execute(Add("a", 1))
    async with engine:
        await engine.execute(Add("a", 1))
    with pytest.raises(Closed):
        await engine.execute(Add("a", 1))
    with pytest.raises(UsageError, match="started once"):
        await engine.__aenter__()
    assert engine.statistics().state == "stopped"


def test_an_engine_is_refused_from_another_thread_and_another_loop() -> None:
    errors: list[BaseException] = []

    async def main() -> None:
        async with counters() as engine:

            def elsewhere() -> None:
                try:
                    asyncio.run(engine.execute(Add("a", 1)))
                except UsageError as error:
                    errors.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert "another event loop" in str(errors[0])


FORKING = """
import asyncio, logging, os, sys
from engine import Engine, UsageError
from tests.support.counters import Add, Counter

# The loop waits for the child, which is logged where that takes long.
logging.getLogger("foldline").addHandler(logging.NullHandler())

async def main():
    async with Engine([Counter]) as engine:
        child = os.fork()
        if child == 0:
            try:
                engine.execute(Add("a", 1)).send(None)
            except UsageError as error:
                os.write(1, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        await engine.execute(Add("a", 1))

asyncio.run(main())
"""


def test_an_engine_is_refused_after_a_fork() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert "after a fork: start an engine of its own in each process" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_command_nobody_handles_is_refused() -> None:
    class Stray(Command):
        stray_id: Id

    async with counters() as engine:
        with pytest.raises(UsageError, match="no aggregate of this engine handles Stray"):
            await engine.execute(Stray("a"))


async def test_stopping_answers_what_was_accepted_and_refuses_the_rest() -> None:
    store = HeldStore()
    tasks = []
    async with Engine([Counter], store=store) as engine:
        store.hold()
        tasks = [asyncio.create_task(engine.execute(Add("a", 1))) for _ in range(10)]
        await settle()
        asyncio.get_running_loop().call_soon(lambda: asyncio.create_task(stop(store)))
    assert [task.result().version for task in tasks] == list(range(1, 11))
    assert store.batches


async def stop(store: HeldStore) -> None:
    await settle()
    store.release()


async def test_a_host_that_is_cancelled_while_it_stops_still_drains() -> None:
    store = HeldStore()
    tasks: list[asyncio.Task[Receipt]] = []

    async def host() -> None:
        async with Engine([Counter], store=store) as engine:
            store.hold()
            tasks.append(asyncio.create_task(engine.execute(Add("a", 1))))
            await until(lambda: store.batches)

    hosting = asyncio.create_task(host())
    await until(lambda: store.batches)
    await settle()
    for _ in range(3):
        hosting.cancel()
        await settle()
    assert not hosting.done()
    store.release()
    with pytest.raises(asyncio.CancelledError):
        await hosting

    assert tasks[0].result() == Receipt("counter:a", 1, 1)


async def test_an_error_of_the_host_stops_the_engine_in_order() -> None:
    engine = Engine([Counter])
    with pytest.raises(ZeroDivisionError):
        async with engine:
            await engine.execute(Add("a", 1))
            raise ZeroDivisionError
    assert engine.statistics().state == "stopped"


async def test_a_start_that_fails_raises_its_cause_and_leaves_nothing_open() -> None:
    store = MemoryStore()
    async with counters(store):
        with pytest.raises(StoreLocked):
            async with counters(store):
                pass
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))


async def test_a_start_that_is_cancelled_while_it_waits_for_the_lock_ends_at_once(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "log.db")
    async with Engine([Counter], store=f"sqlite:{path}") as engine:
        waiting = Engine([Counter], store=SqliteStore(path, open_timeout=3_600))
        starting = asyncio.create_task(waiting.__aenter__())
        await settle()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(starting, 30)
        await engine.execute(Add("a", 1))


async def test_a_caller_that_is_cancelled_before_its_turn_is_not_run() -> None:
    async with counters() as engine:
        task = asyncio.create_task(engine.execute(Add("a", 1)))
        await asyncio.sleep(0)
        task.cancel()
        await settle()

        assert await total(engine, "a") == "0 at 0"


async def test_a_caller_that_is_cancelled_after_its_turn_is_run_whole() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        task = asyncio.create_task(engine.execute(Add("a", 1, 3)))
        await until(lambda: store.batches)
        task.cancel()
        await settle()
        store.release()

        assert await total(engine, "a") == "3 at 3"
        assert engine.statistics().commands.open == 0


async def test_an_engine_whose_task_is_cancelled_from_outside_answers_everything() -> None:
    store = HeldStore()
    results: list[Any] = []
    with pytest.raises(EngineFailed):
        async with counters(store) as engine:
            store.hold()
            tasks = [asyncio.create_task(engine.execute(Add("a", 1))) for _ in range(3)]
            await until(lambda: store.batches)
            assert engine._wiring.supervisor.task is not None
            engine._wiring.supervisor.task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            store.release()

    assert all(isinstance(result, EngineError) for result in results)


@pytest.mark.parametrize("bug", [RuntimeError("bug"), StoreFailed("bug", written=False)])
async def test_a_bug_behind_a_commit_becomes_typed_answers_and_an_error(bug: Exception) -> None:
    store = HeldStore()

    def crash(name: str) -> None:
        if name == "journal.durable":
            raise bug

    results: list[Any] = []
    engine = Engine([Counter], store=store, ports=Ports(failpoint=crash))
    with pytest.raises(EngineFailed, match=": bug"):
        async with engine:
            tasks = [asyncio.create_task(engine.execute(Add(c, 1))) for c in "abc"]
            results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, OutcomeUnknown) for result in results), "they are durable"
    assert engine.statistics().state == "failed"
    assert engine.failed is bug


async def test_a_command_walks_by_every_failpoint_in_order() -> None:
    seen: list[str] = []
    async with counters(ports=Ports(failpoint=seen.append)) as engine:
        await engine.execute(Add("a", 1))

    walked = [name for name in FAILPOINTS if name in seen]
    assert [name for name in seen if name in walked] == walked
    assert set(seen) <= set(FAILPOINTS)
    for name in ("mailbox.accepted", "actor.decided", "actor.folded", "journal.gathered"):
        assert name in seen


def schema(version: int, **fields: type) -> type[Aggregate]:
    """Give an aggregate whose event has these fields."""
    changed: Any = MessageMeta(
        "Changed",
        (Event,),
        {"__annotations__": fields, "__module__": __name__},
        name="changed",
        version=version,
    )

    class Change(Command):
        thing_id: Id

    class Thing(Aggregate, kind="thing"):
        @handles
        def change(self, command: Change) -> changed:
            return changed(*[value() for value in fields.values()])

        @applies
        def changed(self, event: changed) -> None:
            pass

    Thing.send = staticmethod(lambda: Change("a"))  # type: ignore[attr-defined]
    return Thing


async def test_a_changed_event_without_a_new_version_refuses_to_start() -> None:
    store = MemoryStore()
    first = schema(1, one=int)
    async with Engine([first], store=store) as engine:
        await engine.execute(first.send())  # type: ignore[attr-defined]
    with pytest.raises(
        StoreRefused, match="'changed' version 1 .* fields changed.* declare it as version 2"
    ):
        async with Engine([schema(1, one=str)], store=store):
            pass
    with pytest.raises(StoreRefused, match="no upcaster leads from it to version 2"):
        async with Engine([schema(2, one=str)], store=store):
            pass


def test_two_aggregates_of_one_kind_are_refused() -> None:
    class Other(Aggregate, kind="counter"):
        @handles
        def touch(self, command: Touch) -> None:
            return None

    with pytest.raises(DefinitionError, match="both of kind 'counter'"):
        Engine([Counter, Other])


def test_one_command_of_two_aggregates_is_refused() -> None:
    class Other(Aggregate, kind="other"):
        @handles
        def touch(self, command: Touch) -> None:
            return None

    with pytest.raises(DefinitionError, match="Touch is handled by"):
        Engine([Counter, Other])


def test_two_events_with_one_stored_name_are_refused() -> None:
    class Twin(Event, name="added"):
        pass

    class TwinCommand(Command):
        twin_id: Id

    class Other(Aggregate, kind="other"):
        @handles
        def twin(self, command: TwinCommand) -> Twin:
            return Twin()

        @applies
        def twinned(self, event: Twin) -> None: ...

    with pytest.raises(DefinitionError, match="both stored as 'added' version 1"):
        Engine([Counter, Other])


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DefinitionError, match="mailbox_commands is 10, above"):
        Limits(mailbox_commands=10, commands_accepted=5)
    with pytest.raises(DefinitionError, match="give at least 1"):
        Limits(batch_events=0)


async def test_execute_many_answers_in_order_whatever_the_answers_are() -> None:
    async with counters() as engine:
        commands: list[Command | Envelope] = [
            Add("a", 1),
            Add("a", -1),
            Envelope(command=Add("b", 1), key="k"),
            Envelope(command=Add("b", 1), key="k"),
            Add("", 1),
            Look("a"),
            Add("a", 1),
        ]
        got = [answer async for answer in engine.execute_many(commands, window=3)]

    assert got[0] == Receipt("counter:a", 1, 1)
    assert isinstance(got[1], Rejected)
    assert got[2] == got[3]
    assert isinstance(got[4], UsageError)
    assert isinstance(got[5], Rejected)
    assert got[5].message == "1 at 1"
    assert isinstance(got[6], Receipt)
    assert got[6].version == 2


async def test_execute_many_has_a_bounded_window() -> None:
    store = HeldStore()
    taken = 0

    def commands() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield Add("a", 1)

    async with counters(store) as engine:
        store.hold()
        answers = engine.execute_many(commands(), window=7)
        first = asyncio.ensure_future(anext(answers))
        await until(lambda: store.batches)
        await settle()
        assert taken == 7
        store.release()
        await first
        rest = [answer async for answer in answers]

    assert [answer.version for answer in rest if isinstance(answer, Receipt)] == list(range(2, 101))


async def test_execute_many_waits_where_the_engine_is_overloaded() -> None:
    limits = Limits(mailbox_commands=4)
    async with counters(limits=limits) as engine:
        commands = [Add("a", 1) for _ in range(100)]
        got = [answer async for answer in engine.execute_many(commands, window=50)]

    assert [answer.version for answer in got if isinstance(answer, Receipt)] == list(range(1, 101))


async def test_execute_many_takes_an_async_iterable_and_may_be_left_early() -> None:
    async def commands() -> Any:
        for n in range(50):
            yield Add("a", n - 10)

    async with counters() as engine:
        answers = engine.execute_many(commands(), window=20)
        async for _ in answers:
            break
        await answers.aclose()
        await settle()
        assert engine.statistics().commands.open == 0


def test_run_uses_uvloop_where_it_is_installed() -> None:
    async def main(value: int) -> tuple[int, str]:
        return value, type(asyncio.get_running_loop()).__module__

    assert foldline.run(main, 7) == (7, "uvloop")


async def test_statistics_count_what_happened() -> None:
    async with counters() as engine:
        await asyncio.gather(*(engine.execute(Add(f"c{n}", 1, 2)) for n in range(10)))
        numbers = engine.statistics()

    assert (numbers.state, numbers.position, numbers.journal.events) == ("running", 20, 20)
    assert (numbers.commands.answered, numbers.commands.open) == (10, 0)
    assert (numbers.aggregates.resident, numbers.aggregates.loaded) == (10, 10)
    assert numbers.journal.commits >= 1
    assert numbers.journal.batch_events.max >= 2


async def test_a_stream_of_commands_gives_the_loop_its_turn_while_it_fills_its_window() -> None:
    turns_between: list[int] = []
    turns = 0

    async def host() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def commands() -> Iterator[Add]:
        for number in range(320):
            turns_between.append(turns)
            yield Add(f"c{number}", 1)

    async with counters() as engine:
        hosting = asyncio.create_task(host())
        async for _ in engine.execute_many(commands(), window=1_000):
            pass
        hosting.cancel()

    # The window was never full, so that nothing else made the stream wait.
    assert len(set(turns_between)) >= 10


@pytest.mark.parametrize("aggregates", [Counter, [Counter()], [Added], [Aggregate], "Counter"])
def test_what_is_no_list_of_aggregate_classes_is_refused_by_name(aggregates: Any) -> None:
    with pytest.raises(DefinitionError, match="takes a list of aggregate classes"):
        Engine(aggregates)


# -- a kind that was renamed ----------------------------------------------------------------------


@pytest.mark.parametrize("file", [True, False])
async def test_streams_of_a_kind_that_nothing_declares_are_told_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: bool
) -> None:
    store: Any = f"sqlite:{tmp_path / 'log.db'}" if file else HeldStore()

    class Renamed(Counter, kind="tally"):
        pass

    async with Engine([Counter], store=store) as engine:
        await engine.execute(Add("1", 5))
    caplog.clear()
    async with Engine([Counter], store=store):
        assert not caplog.records
    async with Engine([Renamed], store=store):
        (record,) = caplog.records
        assert "streams of the kind 'counter', and no aggregate here" in record.message
        assert 'write kind="counter" again' in record.message
