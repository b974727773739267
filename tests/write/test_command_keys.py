"""Keys through the engine: one command, one effect, across replay, passivation and restart."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import msgspec
import pytest

from engine import KeyReused, Limits, Receipt, Rejected, UsageError, WrongVersion
from engine.model.codec import decode_meta
from engine.stores.memory import MemoryStore
from tests.support.counters import Add, Empty, Look, Touch, counters, total
from tests.support.held_store import HeldStore


async def test_a_repeated_key_gives_the_first_receipt_and_writes_nothing() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        first = await engine.execute(Add("a", 1, 3), key="k")
        await engine.execute(Add("a", 5))

        assert await engine.execute(Add("a", 1, 3), key="k") == first == Receipt("counter:a", 3, 3)
        assert (await store.head()).position == 4


async def test_keys_belong_to_one_aggregate() -> None:
    async with counters() as engine:
        assert (await engine.execute(Add("a", 1), key="k")).position == 1
        assert (await engine.execute(Add("b", 1), key="k")).position == 2


@pytest.mark.parametrize("command", [Add("a", 2), Empty("a"), Look("a")])
async def test_a_key_with_another_content_is_refused(command: Any) -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1), key="k")
        with pytest.raises(KeyReused, match="belongs to another command"):
            await engine.execute(command, key="k")

        assert await total(engine, "a") == "1 at 1"


async def test_a_key_is_known_after_a_restart() -> None:
    store = MemoryStore()
    async with counters(store) as engine:
        first = await engine.execute(Add("a", 1, 2), key="k")
        await engine.execute(Add("a", 1), key="l")
    async with counters(store) as engine:
        assert await engine.execute(Add("a", 1, 2), key="k") == first
        with pytest.raises(KeyReused):
            await engine.execute(Add("a", 2, 2), key="k")
        assert (await store.head()).position == 3


async def test_a_key_is_known_after_passivation() -> None:
    async with counters(limits=Limits(resident_aggregates=1)) as engine:
        first = await engine.execute(Add("a", 1, 2), key="k")
        await engine.execute(Add("b", 1))

        assert await engine.execute(Add("a", 1, 2), key="k") == first
        assert engine.statistics().aggregates.passivated == 2


@pytest.mark.parametrize("restart", [False, True])
async def test_the_window_is_the_same_live_and_after_a_replay(restart: bool) -> None:
    store = MemoryStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1), key="k")
        for n in range(9):
            await engine.execute(Add("a", 1), key=str(n))
        assert (await engine.execute(Add("a", 1), key="k")).version == 1
        if not restart:
            await engine.execute(Add("a", 1))
            assert (await engine.execute(Add("a", 1), key="k")).version == 12
            return
    async with counters(store) as engine:
        assert (await engine.execute(Add("a", 1), key="k")).version == 1
        await engine.execute(Add("a", 1))
        assert (await engine.execute(Add("a", 1), key="k")).version == 12


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("events", [10, 11, 300])
async def test_a_command_of_many_events_is_not_run_again(restart: bool, events: int) -> None:
    store = MemoryStore()
    async with counters(store) as engine:
        first = await engine.execute(Add("a", 1, events), key="import")
        await engine.execute(Add("a", 1, 9))
        if not restart:
            assert await engine.execute(Add("a", 1, events), key="import") == first
    async with counters(store) as engine:
        assert await engine.execute(Add("a", 1, events), key="import") == first
        await engine.execute(Add("a", 1))

        again = await engine.execute(Add("a", 1, events), key="import")
        assert again.version == 2 * events + 10


async def test_a_rejected_command_is_decided_anew() -> None:
    async with counters() as engine:
        for _ in range(2):
            with pytest.raises(Rejected):
                await engine.execute(Add("a", -1), key="k")

        assert await engine.execute(Add("a", 1), key="k") == Receipt("counter:a", 1, 1)


async def test_a_command_that_wrote_nothing_is_decided_anew() -> None:
    async with counters() as engine:
        assert (await engine.execute(Empty("a"), key="k")).version == 0
        await engine.execute(Add("a", 1))

        assert (await engine.execute(Empty("a"), key="k")).version == 2


async def test_the_same_key_sent_at_once_by_many_runs_once() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        receipts = await asyncio.gather(*(engine.execute(Add("a", 1), key="k") for _ in range(50)))

        assert set(receipts) == {Receipt("counter:a", 1, 1)}
        assert (await store.head()).position == 1


async def test_an_expected_version_that_does_not_fit_is_refused() -> None:
    async with counters() as engine:
        with pytest.raises(WrongVersion, match="at version 0, not at the expected version 1"):
            await engine.execute(Add("a", 1), expected=1)
        await engine.execute(Add("a", 1), expected=0)
        with pytest.raises(WrongVersion):
            await engine.execute(Add("a", 1), expected=0)

        assert (await engine.execute(Add("a", 1), expected=1)).version == 2


async def test_a_repeated_key_gets_its_receipt_though_the_expected_version_has_passed() -> None:
    async with counters() as engine:
        first = await engine.execute(Add("a", 1), key="k", expected=0)

        assert await engine.execute(Add("a", 1), key="k", expected=0) == first


async def test_expected_guards_what_comes_back_later_than_the_window() -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1), key="k", expected=0)
        await engine.execute(Add("a", 1, 20))
        with pytest.raises(WrongVersion):
            await engine.execute(Add("a", 1), key="k", expected=0)


async def test_metadata_is_stored_with_every_event_and_the_key_with_the_first() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(
            Add("a", 1, 2),
            key="k",
            correlation="c",
            causation="b",
            principal="p",
            headers={"ip": "ä"},
        )
        first, second = [decode_meta(event) for event in await store.events()]

    assert (first.key, second.key) == ("k", None)
    for meta in (first, second):
        assert (meta.correlation, meta.causation, meta.principal) == ("c", "b", "p")
        assert meta.headers == {"ip": "ä"}
    assert msgspec.json.decode((await store.events())[0].metadata)["events"] == 2


async def test_absent_metadata_takes_no_bytes() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await engine.execute(Touch("a"))

    assert [event.metadata for event in await store.events()] == [b""]


@pytest.mark.parametrize(
    "options",
    [
        {"key": ""},
        {"key": 7},
        {"key": "k" * 256},
        {"principal": 7},
        {"correlation": b"c"},
        {"causation": ["x"]},
        {"headers": {"a": 1}},
        {"headers": [("a", "b")]},
    ],
)
async def test_metadata_that_could_not_be_read_back_is_refused(options: dict[str, Any]) -> None:
    async with counters() as engine:
        with pytest.raises(UsageError, match="Nothing was run"):
            await engine.execute(Add("a", 1), **options)

        assert await total(engine, "a") == "0 at 0"


async def test_an_id_that_is_an_enums_member_is_its_value() -> None:
    class Till(str, enum.Enum):  # noqa: UP042 - the kind whose format changed between Pythons
        FIRST = "till-1"

    async with counters() as engine:
        assert (await engine.execute(Add(Till.FIRST, 1))).stream == "counter:till-1"
        assert (await engine.execute(Add("till-1", 1))).version == 2


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 256, "\x00", "\ud800", 7, None])
async def test_an_id_that_could_not_be_stored_is_refused(bad: Any) -> None:
    async with counters() as engine:
        with pytest.raises(UsageError):
            await engine.execute(Add(bad, 1))

        assert engine.statistics().aggregates.resident == 0
