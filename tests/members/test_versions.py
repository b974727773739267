"""Two releases share a log: a new version of an event is stored when all of them read it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Event,
    EventUnread,
    Rejected,
    Retired,
    StoreRefused,
    downcasts,
)
from engine.members.readable import Reader, held_back, reads_of
from engine.model.codec import EventRegistry
from engine.model.upcasting import Upcasting
from tests.members.tills import (
    Look,
    NewTill,
    OldTill,
    Sell,
    Sold,
    SoldBefore,
    WideTill,
    newer,
    older,
    wider,
    with_currency,
    without_currency,
)
from tests.support.postgres import Server
from tests.support.waiting import until

PATIENCE = "engine.members.readable.PATIENCE_SECONDS"


async def versions(engine: Engine, till: str) -> list[int]:
    """Give the version as which each event of a till is stored."""
    log: Any = vars(engine)["_joined"].log
    page = await log.read_feed(0, events_max=1_000, bytes_max=1 << 20)
    return [stored.event_version for stored in page if stored.stream == f"till:{till}"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody be waited for who may live unseen."""
    monkeypatch.setattr(PATIENCE, 0.0)


class Talking:
    """A process of a release."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hear(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode().strip()

    async def ask(self, words: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(words.encode() + b"\n")
        return await self.hear()


@asynccontextmanager
async def process(*words: str) -> AsyncGenerator[Talking]:
    """Run a process of a release until the end."""
    made = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.members.tills", *words],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    talking = Talking(made)
    try:
        assert await talking.hear() == "ready"
        yield talking
    finally:
        assert made.stdin is not None
        made.stdin.close()
        await asyncio.wait_for(made.wait(), 60)


@pytest.mark.usefixtures("at_once")
async def test_the_version_before_is_stored_while_a_process_of_the_older_release_lives(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with newer(store) as owner:
        registry = owner.registry
        await until(lambda: not registry.held)  # nobody else lives
        await owner.execute(Sell("before", 100, "CHF"))
        assert await versions(owner, "before") == [2]

        async with process(store, "older") as member:
            await owner.execute(Sell("t", 100, "CHF"))
            assert await member.ask("total t") == "100"
            assert await member.ask("sell t 50") == "2"
            assert await versions(owner, "t") == [1, 1]
            # What was lost by that is lost for all: the log says so to each of them.
            assert (await owner.state(NewTill, "t")).currencies == ["EUR", "EUR"]
            with pytest.raises(Rejected) as told:
                await owner.execute(Look("t"))
            assert told.value.details == {"currencies": ["EUR", "EUR"]}
            assert registry.held == {Sold: SoldBefore}
        await until(lambda: not registry.held)
        await owner.execute(Sell("t", 1, "CHF"))
        assert await versions(owner, "t") == [1, 1, 2]
        assert (await owner.state(NewTill, "t")).currencies == ["EUR", "EUR", "CHF"]


async def test_a_process_that_has_left_or_is_cut_off_is_counted_for_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, 0.0)
    store = f"sqlite:{tmp_path}/log.db"
    async with newer(store) as owner:
        registry = owner.registry
        await until(lambda: not registry.held)
        monkeypatch.setattr(PATIENCE, 0.3)
        async with older(store):
            await until(lambda: registry.held == {Sold: SoldBefore})
        assert registry.held == {Sold: SoldBefore}
        await owner.execute(Sell("t", 1))
        assert await versions(owner, "t") == [1]
        await until(lambda: not registry.held)


async def test_an_owner_that_begins_counts_those_who_may_not_have_come_yet(tmp_path: Path) -> None:
    async with newer(f"sqlite:{tmp_path}/log.db") as owner:
        await owner.execute(Sell("t", 1))
        assert await versions(owner, "t") == [1]


@pytest.mark.usefixtures("at_once")
async def test_without_a_downcaster_a_newer_event_is_refused_and_who_cannot_read_it_is_named(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(newer(store, downcasters=()))
        await owner.execute(Sell("t", 1))
        async with process(store, "older") as member:
            registry = owner.registry
            await until(lambda: bool(registry.held))
            with pytest.raises(EventUnread, match="'sold' version 2 is not written") as refused:
                await owner.execute(Sell("u", 1), key="k")
            assert refused.value.safe_to_resend
            assert (refused.value.event, refused.value.version) == ("sold", 2)
            who = f"process {member.process.pid} of release '1.0'"
            assert refused.value.readers == (who,)
            assert who in str(refused.value)
            assert await member.ask("sell u 1") == "EventUnread"
        await until(lambda: not registry.held)
        assert (await owner.execute(Sell("u", 1), key="k")).version == 1


async def test_an_owner_of_the_older_release_stores_what_both_read(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with process(store, "older") as owner, newer(store) as member:
        await member.execute(Sell("t", 100, "CHF"))
        assert await owner.ask("total t") == "100"
        assert (await member.state(NewTill, "t")).currencies == ["EUR"]
        assert await versions(member, "t") == [1]


async def test_of_several_owners_none_stores_what_another_one_cannot_read(
    postgres: Server,
) -> None:
    store = postgres.url(postgres.new_schema(), "lease=5")
    tills = [f"t{number}" for number in range(12)]
    async with AsyncExitStack() as stack:
        async with process(store, "older", "spread") as other:
            owner = await stack.enter_async_context(newer(store, join="spread"))
            for till in tills:  # of which about half are the newer one's
                await owner.execute(Sell(till, 2, "CHF"))
                assert await other.ask(f"total {till}") == "2"
                assert await versions(owner, till) == [1]
        for till in tills:
            await owner.execute(Sell(till, 1, "CHF"))
            assert await versions(owner, till) == [1, 2]
        # Now the older release cannot read the log, and is told so as it starts.
        late = older(store, join="spread")
        with pytest.raises(StoreRefused, match="'sold' version 2 is stored"):
            await stack.enter_async_context(late)


@pytest.mark.usefixtures("at_once")
async def test_an_added_field_is_left_out_or_refused_while_somebody_does_not_know_it(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with wider(store) as owner:
        registry = owner.registry
        async with process(store, "older") as member:
            await until(lambda: bool(registry.held))
            assert (await owner.execute(Sell("t", 1))).version == 1
            assert await member.ask("total t") == "1", "it reads what was stored"
            assert await member.ask("sell t 2") == "2"
            with pytest.raises(EventUnread, match="'sold' version 1 is not written") as refused:
                await owner.execute(Sell("t", 4, "CHF"), key="k")
            assert refused.value.readers == (f"process {member.process.pid} of release '1.0'",)
            assert await member.ask("total t") == "3"
        await until(lambda: not registry.held)
        assert (await owner.execute(Sell("t", 4, "CHF"), key="k")).version == 3
        assert (await owner.state(WideTill, "t")).currencies == ["EUR", "EUR", "CHF"]


async def test_of_several_owners_none_adds_a_field_that_another_one_does_not_know(
    postgres: Server,
) -> None:
    store = postgres.url(postgres.new_schema(), "lease=5")
    tills = [f"t{number}" for number in range(12)]
    async with process(store, "older", "spread") as other:
        async with wider(store, join="spread") as owner:
            for till in tills:  # of which about half are the wider one's
                assert (await owner.execute(Sell(till, 2))).version == 1
                assert await other.ask(f"total {till}") == "2"
                assert await other.ask(f"sell {till} 3") == "2"
                assert (await owner.state(WideTill, till)).currencies == ["EUR", "EUR"]
        for till in tills:  # now all are the older one's
            assert await other.ask(f"sell {till} 1") == "3"
    async with older(store, join="spread") as late:  # which starts: all is stored as it was
        assert (await late.state(OldTill, "t1")).cents == 6
    async with wider(store, join="spread") as owner:
        await owner.execute(Sell("t1", 1, "CHF"))
    with pytest.raises(StoreRefused, match="'sold' version 1 is stored with schema"):
        async with older(store, join="spread"):
            pass


def test_as_many_added_fields_are_left_out_as_somebody_may_not_know() -> None:
    class First(Event, name="rung", added=["by"]):
        at: int
        by: str = ""

    class Second(Event, name="rung", added=["by", "how"]):
        at: int
        by: str = ""
        how: int = 0

    old, new = EventRegistry([First]), EventRegistry([Second])
    known, same, none = [Reader(n, reads_of(r)) for n, r in (("a", old), ("b", new))] + [
        Reader("c", None)
    ]

    def stored(event: Event, *readers: Reader) -> bytes:
        new.held = held_back(new, readers)
        today, cast = new.cast(event)
        assert today == event
        return new.encode(today) if cast is None else cast.payload

    assert stored(Second(1, "ann"), known) == b'{"at":1,"by":"ann"}'
    assert stored(Second(1, "ann"), known, none) == b'{"at":1,"by":"ann"}'
    assert stored(Second(1), same, none) == b'{"at":1}', "who has not said it may know nothing"
    assert stored(Second(1, "ann", 2), same, none) == b'{"at":1,"by":"ann","how":2}'
    assert stored(Second(1, "ann", 2), same) == b'{"at":1,"by":"ann","how":2}'
    assert stored(Second(1), Reader("d", {"rung": [0]})) == b'{"at":1,"by":"","how":0}'
    with pytest.raises(EventUnread, match="rung"):
        stored(Second(1, "ann", 2), known)


# -- what is decided of it ------------------------------------------------------------------------


def held(*readers: Reader, **options: Any) -> Any:
    engine = newer("memory:", join=False, release=None)
    return held_back(engine.registry, readers, **options)


def test_what_a_process_reads_is_what_it_declares_or_passes_over() -> None:
    retired = [Retired("void"), Retired("x", (2,))]
    engine = Engine([NewTill], upcasters=[with_currency], retired=retired)
    assert reads_of(engine.registry) == {"sold": [1, 2], "void": [0], "x": [2]}
    assert held(Reader("a", {"sold": (1, 2)})) == {}
    assert held(Reader("a", {"sold": (0,)})) == {}
    assert held(Reader("a", {"sold": (1,)})) == {Sold: SoldBefore}


def test_who_says_nothing_holds_back_what_can_be_stored_otherwise() -> None:
    assert held(Reader("a", None)) == {Sold: SoldBefore}
    assert held(others_may_live=True) == {Sold: SoldBefore}
    engine = Engine([NewTill], upcasters=[with_currency])
    assert held_back(engine.registry, [Reader("a", None)], others_may_live=True) == {}
    assert held_back(engine.registry, [Reader("a", {})]) == {}  # it names what it does not know


def test_where_no_form_is_read_by_all_the_event_is_refused() -> None:
    refused = held(Reader("a", {"sold": (7,)}), Reader("b", {"sold": (1,)}))[Sold]
    assert isinstance(refused, EventUnread)
    assert refused.readers == ("a", "b")


def test_downcasters_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(DefinitionError, match="no upcaster leads from there to Sold"):
        Engine([NewTill], downcasters=[without_currency])
    with pytest.raises(DefinitionError, match=r"is no downcaster: mark it with @downcasts"):
        Engine([NewTill], upcasters=[with_currency], downcasters=[with_currency])
    with pytest.raises(DefinitionError, match="must take one event and give the one"):

        @downcasts
        def nothing(event: Sold) -> None:
            return None

    @downcasts
    def again(event: Sold) -> SoldBefore:
        return SoldBefore(1)

    with pytest.raises(DefinitionError, match="keep one"):
        Upcasting([with_currency], (), [without_currency, again])

    @downcasts
    def back(event: SoldBefore) -> Sold:
        return Sold(1, "EUR")

    with pytest.raises(DefinitionError, match="a circle of downcasters"):
        Upcasting([with_currency], (), [without_currency, back])
