"""Sinks: what is delivered outside, in which order, how often, and what becomes of failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Delivery,
    Engine,
    Event,
    Limits,
    Ports,
    Projection,
    ProjectionLag,
    Query,
    Sink,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.model.projection import slice_of
from engine.projections.operations import Status
from engine.projections.targets.courier import Abandoned, Courier, NotDelivered
from tests.support.counters import Add, Added, Counter, Emptied
from tests.support.shelf import Crash
from tests.support.tallies import Tallies
from tests.support.waiting import until

LOGGER = logging.getLogger("tests.sinks")


class Receiver:
    """A system outside."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        """Positions, by delivery that came through."""
        self.tries: list[list[int]] = []
        """The same of all that were begun."""
        self.seen: list[tuple[str, int]] = []
        """Streams and versions, in the order in which they came through."""
        self.poison: set[int] = set()
        """Positions that it refuses."""
        self.hold: Callable[[Sequence[Delivery[Any]]], Awaitable[None]] | None = None
        """Waited for in each delivery."""

    async def take(self, batch: Sequence[Delivery[Any]]) -> None:
        positions = [delivery.position for delivery in batch]
        self.tries.append(positions)
        if self.hold is not None:
            await self.hold(batch)
        if self.poison.intersection(positions):
            raise ValueError(f"a {'secret'} of {positions}")
        self.batches.append(positions)
        self.seen += [(d.meta.stream, d.meta.version) for d in batch]

    @property
    def positions(self) -> list[int]:
        return [position for batch in self.batches for position in batch]


class Outside(Sink, name="outside", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]], receiver: Receiver) -> None:
        await receiver.take(batch)


class Parking(Outside, name="outside", version=1, on_poison="park"):
    pass


class Sliced(Outside, name="outside", version=1, slices=4):
    pass


class SlicedAndParking(Outside, name="outside", version=1, slices=4, on_poison="park"):
    pass


class Anew(Outside, name="outside", version=2):
    pass


class Nothing(Query[int]):
    pass


class Everything(Query[int]):
    pass


@answers(projections=[Outside])
async def everything(query: Everything, views: Views) -> int:
    return 1


@answers
async def nothing(query: Nothing, views: Views) -> int:
    return 0


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


def sinking(
    receiver: Receiver, store: str = "memory:", sink: type[Projection] = Outside, **options: Any
) -> Engine:
    return Engine(
        [Counter],
        projections=[sink],
        answers=[everything, nothing],
        store=store,
        resources={Receiver: receiver},
        **options,
    )


async def add(engine: Engine, *counters: str) -> int:
    receipts = [await engine.execute(Add(counter, 1)) for counter in counters]
    return receipts[-1].position


async def reached(engine: Engine, position: int) -> None:
    await engine.query(Everything(), at=position)


@asynccontextmanager
async def filled(
    receiver: Receiver, store: str, sink: type[Projection], *counters: str
) -> AsyncGenerator[Engine]:
    """An engine whose log had these events before it came to deliver any."""
    async with Engine([Counter], store=store) as engine:
        await add(engine, *counters)
    async with sinking(receiver, store, sink) as engine:
        yield engine


async def status(engine: Engine) -> Status:
    return await engine.projections.status("outside")


# -- what is delivered ----------------------------------------------------------------------------


async def test_events_are_delivered_in_order_with_their_place_and_the_logs_id(file: str) -> None:
    found: list[Delivery[Added | Emptied]] = []

    class All(Sink, name="outside", version=1):
        async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
            found.extend(batch)

    async with Engine([Counter], projections=[All], answers=[everything], store=file) as engine:
        await reached(engine, await add(engine, "a", "b", "a"))
        log_id = engine._store.log_id

    assert [(d.position, d.meta.event_id, d.event) for d in found] == [
        (1, "counter:a@1", Added(1)),
        (2, "counter:b@1", Added(1)),
        (3, "counter:a@2", Added(1)),
    ]
    assert {d.log_id for d in found} == {log_id}


async def test_events_of_other_classes_are_passed_over_and_all_are_delivered_if_asked(
    receiver: Receiver,
) -> None:
    class Emptyings(Sink, name="outside", version=1):
        async def deliver(self, batch: Sequence[Delivery[Emptied]], receiver: Receiver) -> None:
            await receiver.take(batch)

    class All(Sink, name="all", version=1):
        async def deliver(self, batch: Sequence[Delivery[Event]], receiver: Receiver) -> None:
            receiver.tries.append([d.position for d in batch if isinstance(d.event, Added)])

    resources: dict[type, object] = {Receiver: receiver}
    projections: list[type[Projection]] = [Emptyings, All]
    async with Engine(
        [Counter], projections=projections, answers=[everything], resources=resources
    ) as engine:
        await reached(engine, await add(engine, "a", "b"))
        await until(lambda: engine.statistics().projectors["all"].position == 2)

        assert receiver.batches == []
        assert [p for tried in receiver.tries for p in tried] == [1, 2]


async def test_a_delivery_has_a_bounded_number_of_events(receiver: Receiver, file: str) -> None:
    async with Engine([Counter], store=file) as engine:
        await engine.execute(Add("a", 1, 25))
    async with sinking(receiver, file, limits=Limits(sink_events=10)) as engine:
        await reached(engine, 25)

    assert [len(batch) for batch in receiver.batches] == [10, 10, 5]
    assert receiver.positions == list(range(1, 26))


async def test_what_was_delivered_is_not_delivered_again_after_a_restart(
    receiver: Receiver, file: str
) -> None:
    async with filled(receiver, file, Outside, "a", "b") as engine:
        await reached(engine, 2)
    async with sinking(receiver, file) as engine:
        await reached(engine, await add(engine, "a"))

    assert receiver.positions == [1, 2, 3]


async def test_a_crash_between_delivery_and_checkpoint_delivers_again(
    receiver: Receiver, file: str
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    async with Engine([Counter], store=file) as engine:
        await add(engine, "a", "b")
    crashing = sinking(receiver, file, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    async with sinking(receiver, file) as engine:
        await reached(engine, 2)

    assert receiver.batches == [[1, 2], [1, 2]]


async def test_a_query_waits_for_a_sink_only_if_its_answer_names_it(receiver: Receiver) -> None:
    held = asyncio.Event()
    receiver.hold = lambda batch: _wait(held)
    async with sinking(receiver) as engine:
        position = await add(engine, "a")

        assert await engine.query(Nothing(), at=position) == 0
        with pytest.raises(ProjectionLag, match="outside is 1 behind"):
            await engine.query(Everything(), at=position, timeout=0.01)
        held.set()
        assert await engine.query(Everything(), at=position) == 1


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


# -- poison ---------------------------------------------------------------------------------------


async def test_the_event_that_a_receiver_refuses_is_found_and_stops_it_alone(
    receiver: Receiver, file: str
) -> None:
    receiver.poison.add(70)
    async with filled(receiver, file, Outside, *["a", "b"] * 50) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await reached(engine, 100)

        found = await status(engine)
        assert found.failure is not None
        assert (found.position, found.failure.position) == (69, 70)
        assert "ValueError" in found.failure.cause
        assert "a secret" not in found.failure.cause
        assert receiver.positions == list(range(1, 70))
        assert len(receiver.tries) < 20
        receiver.poison.clear()
        engine.resume("outside")
        await reached(engine, 100)
        assert receiver.positions == list(range(1, 101))


async def test_a_parked_event_keeps_back_its_key_and_nothing_else(
    receiver: Receiver, file: str
) -> None:
    receiver.poison.update((4, 70))
    async with filled(receiver, file, Parking, *["a", "b", "c", "d"] * 25) as engine:
        await reached(engine, 100)

        kept = [s for n, s in enumerate(["a", "b", "c", "d"] * 25, 1) if s == "d" or n in (4, 70)]
        assert kept[0] == "d"
        assert {stream for stream, _ in receiver.seen} == {"counter:a", "counter:b", "counter:c"}
        assert [v for s, v in receiver.seen if s == "counter:b"] == list(range(1, 18))
        assert [v for s, v in receiver.seen if s == "counter:a"] == list(range(1, 26))
        assert (await status(engine)).parked == 25 + 8
        receiver.poison.clear()

        assert (await engine.projections.retry("outside")).released == 33
        await reached(engine, await add(engine, "d", "b"))
        for counter in "abcd":
            versions = [v for s, v in receiver.seen if s == f"counter:{counter}"]
            assert versions == list(range(1, 26 + (counter in "bd")))


async def test_poison_among_what_waits_behind_others_costs_nobody_else(
    receiver: Receiver, file: str
) -> None:
    """A batch that is halved parks nothing twice, and what stood behind it is looked at anew."""
    receiver.poison.update((2, 9))
    counters = ["a", "b", "b", "a", "b", "c", "b", "a", "c", "c", "b", "a"]
    async with filled(receiver, file, Parking, *counters) as engine:
        await reached(engine, 12)

        parked = await engine.projections.parked("outside")
        assert [p.position for p in parked] == [2, 3, 5, 7, 9, 10, 11]
        assert receiver.positions == [1, 4, 6, 8, 12]
        assert (await status(engine)).parked == 7


# -- failures that may pass -----------------------------------------------------------------------


class Picky(Outside, name="outside", version=1, on_poison="park"):
    transient = (ZeroDivisionError,)


async def test_a_sink_says_which_failures_may_pass(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        if len(receiver.tries) < 3:
            raise ZeroDivisionError

    receiver.hold = fail
    async with sinking(receiver, sink=Picky) as engine:
        await reached(engine, await add(engine, "a"))

        assert receiver.tries == [[1], [1], [1]]
        assert (await status(engine)).retries == 2
        assert await engine.projections.parked("outside") == []


async def test_other_failures_are_not_tried_again(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError("not among those that it named")

    receiver.hold = fail
    async with sinking(receiver, sink=Picky) as engine:
        await reached(engine, await add(engine, "a"))

        assert receiver.tries == [[1]]
        assert [p.attempts for p in await engine.projections.parked("outside")] == [1]


async def test_a_failure_that_does_not_pass_stops_a_sink_that_does_not_park(
    receiver: Receiver, file: str
) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError

    async with Engine([Counter], store=file) as engine:
        await add(engine, "a", "b", "c")
    receiver.hold = fail
    async with sinking(receiver, file, limits=Limits(sink_retries=2)) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await reached(engine, 3)

        assert set(map(tuple, receiver.tries)) == {(1, 2, 3)}, "it is not one event's fault"
        assert (await status(engine)).retries == 2


# -- time -----------------------------------------------------------------------------------------


async def test_a_delivery_that_takes_too_long_is_cancelled_and_made_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled: list[bool] = []

    async def hang(batch: Sequence[Delivery[Any]]) -> None:
        receiver.hold = None
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    receiver.hold = hang
    async with sinking(receiver, limits=Limits(sink_seconds=1)) as engine:
        await reached(engine, await add(engine, "a"))

    assert cancelled == [True]
    assert receiver.tries == [[1], [1]]
    assert "failed with NotDelivered and tries again" in caplog.text


async def test_stopping_gives_a_delivery_up_that_does_not_end(
    receiver: Receiver, file: str
) -> None:
    async def hang(batch: Sequence[Delivery[Any]]) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    receiver.hold = hang
    limits = Limits(sink_stop_seconds=1, sink_seconds=5)
    async with sinking(receiver, file, limits=limits) as engine:
        await add(engine, "a")
        await until(lambda: receiver.tries == [[1]])
        begin = loop.time()
    assert 0.9 < loop.time() - begin < 3
    receiver.hold = None
    async with sinking(receiver, file) as engine:
        await reached(engine, 1)

    assert receiver.batches == [[1]]


async def test_what_is_given_up_is_not_parked_though_it_was_the_last_try(
    receiver: Receiver, file: str
) -> None:
    async def fail_and_hang(batch: Sequence[Delivery[Any]]) -> None:
        if len(receiver.tries) < 3:
            raise ConnectionError
        await asyncio.Event().wait()

    receiver.hold = fail_and_hang
    limits = Limits(sink_stop_seconds=1, sink_retries=1)
    async with sinking(receiver, file, Parking, limits=limits) as engine:
        await add(engine, "a")
        await until(lambda: len(receiver.tries) == 3)
    receiver.hold = None
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, 1)
        assert await engine.projections.parked("outside") == []

    assert receiver.batches == [[1]]


async def test_stopping_lets_a_delivery_end_that_does(receiver: Receiver, file: str) -> None:
    held = asyncio.Event()
    receiver.hold = lambda batch: _wait(held)
    async with sinking(receiver, file) as engine:
        await add(engine, "a")
        await until(lambda: receiver.tries == [[1]])
        asyncio.get_running_loop().call_soon(held.set)
    async with sinking(receiver, file) as engine:
        await reached(engine, 1)

    assert receiver.tries == [[1]]


async def test_stopping_does_not_wait_for_the_next_try(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError

    receiver.hold = fail
    loop = asyncio.get_running_loop()
    async with sinking(receiver) as engine:
        await add(engine, "a")
        await until(lambda: engine.statistics().projectors["outside"].retries == 6)
        begin = loop.time()

    assert loop.time() - begin < 1, "the next try would come in 1.6 s"


@pytest.fixture
def courier() -> Courier:
    made = Courier("outside", Limits(), LOGGER)
    made._seconds = 0.01  # type: ignore[assignment]
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.projections.targets.courier.CANCEL_SECONDS", 0.01)


async def test_what_goes_on_after_it_was_cancelled_is_not_overtaken(
    courier: Courier, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    held, begun = asyncio.Event(), list[int]()

    async def stubborn() -> None:
        begun.append(1)
        while not held.is_set():
            try:
                await held.wait()
            except asyncio.CancelledError:
                begun.append(0)

    async def fine() -> None:
        begun.append(2)

    assert isinstance(await courier.hand_over(stubborn), NotDelivered)
    assert "does not end when it is cancelled" in caplog.text
    overtaking = await courier.hand_over(fine)
    held.set()
    assert "nothing overtakes it" in str(overtaking)
    await until(lambda: courier._task is not None and courier._task.done())

    assert await courier.hand_over(fine) is None
    assert begun[-1] == 2
    assert 2 not in begun[:-1]


async def test_a_courier_that_is_cancelled_cancels_what_is_under_way(courier: Courier) -> None:
    cancelled: list[bool] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    courier._seconds = 60
    handing = asyncio.ensure_future(courier.hand_over(hang))
    await until(lambda: courier._task is not None)
    await asyncio.sleep(0)
    handing.cancel()
    await until(lambda: cancelled == [True])

    assert handing.cancelled()


async def test_a_delivery_that_somebody_else_cancels_is_made_again(courier: Courier) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert "cancelled by somebody else" in str(await courier.hand_over(cancelled))


async def test_what_a_delivery_forgot_to_await_is_not_taken_for_delivered(
    courier: Courier,
) -> None:
    delivered: list[int] = []

    async def deliver() -> None:
        delivered.append(1)

    async def forgets() -> Any:
        return deliver()

    async def forgets_a_task() -> Any:
        return asyncio.get_running_loop().create_future()

    for forgetful in (forgets, forgets_a_task):
        error = await courier.hand_over(forgetful)
        assert isinstance(error, UsageError)
        assert "await it there" in str(error)
    assert await courier.hand_over(deliver) is None
    assert delivered == [1]


async def test_a_courier_that_has_stopped_begins_nothing(courier: Courier) -> None:
    courier.stop()
    with pytest.raises(Abandoned):
        await courier.hand_over(lambda: asyncio.sleep(0))


# -- control --------------------------------------------------------------------------------------


async def test_a_rebuild_is_refused_with_what_to_do_instead(receiver: Receiver) -> None:
    async with sinking(receiver) as engine:
        with pytest.raises(UsageError, match=r"a sink of another name.*projections.reset\('outs"):
            await engine.projections.rebuild("outside")


async def test_reset_delivers_everything_again_and_says_so(
    receiver: Receiver, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with filled(receiver, file, Outside, "a", "b", "a") as engine:
        await reached(engine, 3)
        await engine.projections.reset("outside", reason="a new index", principal="ann")
        await until(lambda: len(receiver.positions) == 6)

    assert receiver.positions == [1, 2, 3, 1, 2, 3]
    assert "reset by ann and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING" in caplog.text


async def test_a_raised_version_is_refused_or_delivers_everything_again(
    receiver: Receiver, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with filled(receiver, file, Outside, "a", "b") as engine:
        await reached(engine, 2)
    with pytest.raises(StoreRefused, match="another version delivers everything again"):
        async with sinking(receiver, file, Anew):
            pass
    assert receiver.positions == [1, 2]
    async with sinking(receiver, file, Anew, rebuild="auto") as engine:
        await reached(engine, 2)
        await until(lambda: len(receiver.positions) == 4)
    async with sinking(receiver, file, Anew) as engine:
        await reached(engine, await add(engine, "c"))

    assert receiver.positions == [1, 2, 1, 2, 3]
    assert "version 2 now, and DELIVERS EVERYTHING AGAIN" in caplog.text


async def test_a_lost_file_of_views_delivers_everything_again_and_says_so(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = f"sqlite:{tmp_path / 'log.db'}"
    async with sinking(receiver, file) as engine:
        await reached(engine, await add(engine, "a", "b"))
    assert "FROM THE BEGINNING" not in caplog.text
    (tmp_path / "log.views.db").unlink()
    async with sinking(receiver, file) as engine:
        await reached(engine, 2)

    assert receiver.positions == [1, 2, 1, 2]
    assert "outside has no checkpoint in these views: it delivers all 2 events" in caplog.text


async def test_another_log_delivers_everything_again_and_says_so(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = f"sqlite:{tmp_path / 'log.db'}"
    for _ in range(2):
        async with sinking(receiver, file) as engine:
            await reached(engine, await add(engine, "a"))
        for path in tmp_path.glob("log.db*"):
            path.unlink()

    assert receiver.positions == [1, 1]
    assert "WHICH DELIVERS EVERYTHING FROM THE BEGINNING" in caplog.text


async def test_other_slices_go_on_where_the_former_ones_were(receiver: Receiver, file: str) -> None:
    receiver.poison.add(2)
    async with filled(receiver, file, Parking, "a", "b", "c", "d", "b") as engine:
        await reached(engine, 5)
    async with sinking(receiver, file, SlicedAndParking) as engine:
        await reached(engine, await add(engine, "b", "a"))
        assert sorted(receiver.positions) == [1, 3, 4, 7]
        assert [p.position for p in await engine.projections.parked("outside")] == [2, 5, 6]
        receiver.poison.clear()
        assert (await engine.projections.retry("outside")).released == 3
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, await add(engine, "b"))

    assert [v for s, v in receiver.seen if s == "counter:b"] == [1, 2, 3, 4]
    assert sorted(receiver.positions) == list(range(1, 9))


async def test_fewer_slices_go_on_behind_the_slowest_and_forget_nothing(
    receiver: Receiver, file: str
) -> None:
    """What a faster slice had parked comes again, and is parked once."""
    slow, fast = two_keys_of_two_slices()
    held = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        if batch[0].meta.id == slow:
            await held.wait()

    receiver.hold, receiver.poison = hold, {2}
    async with sinking(receiver, file, SlicedAndParking, limits=Limits(sink_stop_seconds=1)) as e:
        await add(e, slow, fast, fast)
        await until(lambda: e.statistics().projectors["outside"].parked == 2)
    receiver.hold = None
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, 3)
        assert [p.position for p in await engine.projections.parked("outside")] == [2, 3]
        assert (await status(engine)).parked == 2
        receiver.poison.clear()
        assert (await engine.projections.retry("outside")).released == 2
        await reached(engine, await add(engine, fast))

    assert receiver.positions == [1, 2, 3, 4]


def two_keys_of_two_slices() -> tuple[str, str]:
    names = [f"c{n}" for n in range(99)]
    other = next(n for n in names if slice_of(f"counter:{n}", 4) != slice_of("counter:c0", 4))
    return "c0", other


# -- slices ---------------------------------------------------------------------------------------


async def test_slices_deliver_at_the_same_time_and_keys_in_order(
    receiver: Receiver, file: str
) -> None:
    """None is through before one of each slice is under way."""
    begun = set[int]()
    all_begun = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        begun.update(slice_of(delivery.meta.stream, 4) for delivery in batch)
        if len(begun) == 4:
            all_begun.set()
        await all_begun.wait()

    receiver.hold = hold
    counters = [f"c{n % 13}" for n in range(130)]
    async with filled(receiver, file, Sliced, *counters) as engine:
        await reached(engine, 130)

    assert sorted(receiver.positions) == list(range(1, 131))
    for counter in set(counters):
        assert [v for s, v in receiver.seen if s == f"counter:{counter}"] == list(range(1, 11))


async def test_a_slice_that_hangs_holds_up_its_own_keys_only(receiver: Receiver) -> None:
    slow, fast = two_keys_of_two_slices()
    held = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        if batch[0].meta.id == slow:
            await held.wait()

    receiver.hold = hold
    async with sinking(receiver, sink=Sliced) as engine:
        position = await add(engine, slow, fast, slow, fast)
        await until(lambda: receiver.positions == [2, 4])
        held.set()
        await reached(engine, position)

    assert [v for s, v in receiver.seen if s == f"counter:{slow}"] == [1, 2]


# -- definitions ----------------------------------------------------------------------------------


def test_what_a_sink_takes_has_to_be_there() -> None:
    with pytest.raises(DefinitionError, match=r"takes \['Receiver'\].*resources=\{Receiver: ...\}"):
        Engine([Counter], projections=[Outside])


def test_a_sink_that_delivers_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="delivers nothing: write `async def deliver"):

        class Wrong(Sink, name="wrong", version=1):
            pass


def test_a_sink_that_is_not_async_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be async"):

        class Wrong(Sink, name="wrong", version=1):
            def deliver(self, batch: Sequence[Delivery[Added]]) -> None: ...


@pytest.mark.parametrize(
    "annotation",
    [Added, Sequence[Added], list[Delivery[Added]], Sequence[Delivery[int]]],  # type: ignore[type-var]
)
def test_a_sink_says_which_events_it_takes(annotation: Any) -> None:
    async def deliver(self: Sink, batch: Any) -> None: ...

    deliver.__annotations__["batch"] = annotation
    with pytest.raises(DefinitionError, match="say which events it takes"):
        type("Wrong", (Sink,), {"deliver": deliver}, name="wrong", version=1)


def test_what_else_a_sink_takes_is_a_class() -> None:
    with pytest.raises(DefinitionError, match="takes `client`, and what that is cannot be told"):

        class Wrong(Sink, name="wrong", version=1):
            async def deliver(self, batch: Sequence[Delivery[Added]], client: str) -> None: ...


def test_failures_that_may_pass_are_exceptions() -> None:
    with pytest.raises(DefinitionError, match=r"Wrong.transient names exceptions"):

        class Wrong(Outside, name="wrong", version=1):
            transient = ("ConnectionError",)  # type: ignore[assignment]


def test_a_sink_has_no_tables_and_no_handlers() -> None:
    with pytest.raises(DefinitionError, match="has no tables"):

        class Wrong(Outside, name="wrong", version=1):
            totals: Table[Any]

    with pytest.raises(DefinitionError, match="has no handlers"):

        class Wrong2(Outside, name="wrong", version=1):
            @projects
            def added(self, event: Added) -> None: ...


def test_a_sink_has_no_init() -> None:
    with pytest.raises(DefinitionError, match="takes in `deliver`, by its class"):

        class Wrong(Outside, name="wrong", version=1):
            def __init__(self) -> None: ...


async def test_a_sink_beside_other_projections_leaves_them_alone(receiver: Receiver) -> None:
    """One that hangs holds up nobody else's batch, and no writer."""
    held = asyncio.Event()
    receiver.hold = lambda batch: _wait(held)
    projections: list[type[Projection]] = [Outside, Tallies]
    resources: dict[type, object] = {Receiver: receiver}
    async with Engine(
        [Counter], projections=projections, answers=[nothing], resources=resources
    ) as engine:
        position = await add(engine, "a", "b", "c")
        await engine.query(Nothing(), at=position)
        assert engine.statistics().projectors["tallies"].position == 3
        held.set()
