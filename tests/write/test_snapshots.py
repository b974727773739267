"""Snapshots: loaded from, tied to their history, and distrusted where they do not fit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    KeyReused,
    Limits,
    Receipt,
    Rejected,
    StoreFailed,
    Voided,
    WrongVersion,
    applies,
    handles,
)
from engine.model.aggregate import AggregateMeta
from engine.model.stored import Snapshot
from engine.stores.memory import MemoryStore
from tests.support.held_store import HeldStore, not_written
from tests.support.waiting import settle, until


class Pinned(Event, name="pinned"):
    note: str
    weight: float = 1.0


class Pin(Command):
    board_id: Id
    note: str
    times: int = 1
    weight: float = 1.0


class Show(Command):
    board_id: Id


class Board(Aggregate, kind="board", key_window=20, snapshot_every=10, snapshot_version=1):
    notes: list[str] = []
    weights: dict[str, float] = {}
    folded: int = 0

    @handles
    def pin(self, command: Pin) -> list[Pinned]:
        return [Pinned(command.note, command.weight)] * command.times

    @handles
    def show(self, command: Show) -> None:
        raise Rejected("shown", f"{len(self.notes)} {sum(self.weights.values())} at {self.version}")

    @applies
    def pinned(self, event: Pinned) -> None:
        self.notes.append(event.note)
        self.weights[event.note] = event.weight
        FOLDED.append(event.note)


FOLDED: list[str] = []
"""Every event folded anywhere."""


def board(store: Any, cls: type[Aggregate] = Board, **options: Any) -> Engine:
    return Engine([cls], store=store, **options)


async def pin(engine: Engine, count: int, **options: Any) -> list[Receipt]:
    first = engine.statistics().position
    return [await engine.execute(Pin("b", f"n{first + n}"), **options) for n in range(count)]


async def shown(engine: Engine, name: str = "b") -> str:
    try:
        await engine.execute(Show(name))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Show always rejects")


async def folded(engine: Engine) -> int:
    """Give how many events it takes to load the board."""
    FOLDED.clear()
    await shown(engine)
    return len(FOLDED)


async def the_snapshot(store: Any) -> Snapshot:
    found: list[Snapshot] = list(await store.read_snapshots(["board:b"]))
    assert len(found) == 1
    return found[0]


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'boards.db'}"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryStore() if request.param == "memory" else f"sqlite:{tmp_path / 'boards.db'}"


async def test_a_load_begins_at_the_newest_snapshot(store: Any) -> None:
    async with board(store) as engine:
        await pin(engine, 27)
        before = await shown(engine)
    async with board(store) as engine:
        assert await folded(engine) == 7
        assert await shown(engine) == before == "27 27.0 at 27"
        assert engine.statistics().aggregates.restored == 1
        assert (await engine.execute(Pin("b", "next"))).version == 28


async def test_a_snapshot_is_due_whenever_a_command_passes_a_multiple(store: Any) -> None:
    async with board(store) as engine:
        await engine.execute(Pin("b", "x", times=9))
        await engine.execute(Pin("b", "y", times=5))
        await pin(engine, 3)
    async with board(store) as engine:
        assert await folded(engine) == 3


async def test_a_long_load_without_a_snapshot_makes_one(store: Any) -> None:
    class Plain(Board, kind="board"):
        pass

    async with board(store, Plain) as engine:
        await pin(engine, 15)
    for expected in (15, 0):
        async with board(store) as engine:
            assert await folded(engine) == expected


async def test_a_kind_without_snapshots_writes_none() -> None:
    class Plain(Board, kind="board"):
        pass

    store = MemoryStore()
    async with board(store, Plain) as engine:
        await pin(engine, 30)

    assert await store.read_snapshots(["board:b"]) == []


async def test_a_snapshot_is_kept_only_when_its_version_is_durable() -> None:
    store = HeldStore()
    async with board(store) as engine:
        await pin(engine, 9)
        store.hold()
        tenth = asyncio.create_task(engine.execute(Pin("b", "tenth")))
        await until(lambda: len(store.batches) == 10)
        await settle()
        assert engine._wiring.snapshots._waiting == {}
        store.release()
        await tenth
        assert list(engine._wiring.snapshots._waiting) == ["board:b"]


async def test_a_voided_version_leaves_no_snapshot() -> None:
    store = HeldStore()
    async with board(store) as engine:
        await pin(engine, 9)
        store.failures.append(not_written())
        with pytest.raises(Voided):
            await engine.execute(Pin("b", "tenth"))
        assert engine._wiring.snapshots._waiting == {}
        await pin(engine, 2)

    assert (await the_snapshot(store)).version == 10
    async with board(store) as engine:
        assert await folded(engine) == 1
        assert await shown(engine) == "11 11.0 at 11"


async def test_a_pipelined_snapshot_knows_the_positions_of_its_keys() -> None:
    """The keys in its window become durable in the same batch as the snapshot's version."""
    store = HeldStore()
    async with board(store) as engine:
        await engine.execute(Pin("a", "elsewhere"))
        store.hold()
        pins = [
            asyncio.create_task(engine.execute(Pin("b", f"n{n}"), key=f"k{n}")) for n in range(12)
        ]
        await settle()
        store.release()
        receipts = await asyncio.gather(*pins)
    async with board(store) as engine:
        again = [await engine.execute(Pin("b", f"n{n}"), key=f"k{n}") for n in range(12)]

        assert again == receipts
        assert engine.statistics().position == 13
        assert engine.statistics().aggregates.restored == 1


async def keys_that_count(engine: Engine) -> list[int]:
    """Give the keys of k0 … k44 that the board remembers."""
    found = []
    for number in range(45):
        # Neither answer writes anything, so that asking for one key does not push another out.
        with pytest.raises((KeyReused, WrongVersion)) as caught:
            await engine.execute(Pin("b", "other content"), key=f"k{number}", expected=1)
        if caught.type is KeyReused:
            found.append(number)
    return found


async def test_the_key_window_is_the_same_with_a_snapshot_and_without(store: Any) -> None:
    class Plain(Board, kind="board", key_window=20):
        pass

    async with board(store) as engine:
        for n in range(45):
            await engine.execute(Pin("b", f"n{n}"), key=f"k{n}")
    async with board(store) as engine:
        kept = await keys_that_count(engine)
        assert engine.statistics().aggregates.restored == 1
    async with board(store, Plain) as engine:
        plain = await keys_that_count(engine)
        assert engine.statistics().aggregates.restored == 0

    assert kept == plain == list(range(25, 45))


def changed(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return msgspec.structs.replace(snapshot, **changes)


def flipped(snapshot: Snapshot, place: int) -> Snapshot:
    state = bytearray(snapshot.state)
    state[place] ^= 1
    return changed(snapshot, state=bytes(state))


WRONG: dict[str, tuple[Callable[[Snapshot], Snapshot], str]] = {
    "ahead": (lambda s: changed(s, version=99), "damaged"),
    "other-position": (lambda s: changed(s, position=3), "damaged"),
    "other-checksum": (lambda s: changed(s, checksum=3), "damaged"),
    "other-meaning": (lambda s: changed(s, snapshot_version=2), "snapshot_version 2, not 1"),
    "first-byte": (lambda s: flipped(s, 0), "another form"),
    "in-the-checksum": (lambda s: flipped(s, 5), "damaged"),
    "in-the-state": (lambda s: flipped(s, len(s.state) // 2), "damaged"),
    "last-byte": (lambda s: flipped(s, -1), "damaged"),
    "cut": (lambda s: changed(s, state=s.state[:-3]), "damaged"),
    "empty": (lambda s: changed(s, state=b""), "another form"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_snapshot_that_does_not_fit_is_not_used_and_replaced(
    wrong: str, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    change, why = WRONG[wrong]
    async with board(store) as engine:
        await pin(engine, 25)
    async with board(store) as engine:
        kept = await the_snapshot(engine._store)
        await engine._store.write_snapshots([change(kept)])
    async with board(store) as engine:
        with caplog.at_level(logging.WARNING):
            assert await folded(engine) == 25
        assert await shown(engine) == "25 25.0 at 25"
        assert engine.statistics().aggregates.distrusted == 1
        assert why in caplog.text
    async with board(store) as engine:
        assert await folded(engine) == 0


async def test_a_snapshot_of_another_history_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """As where a log was restored from a backup, and went on differently, or is shorter."""
    one, other, short = MemoryStore(), MemoryStore(), MemoryStore()
    async with board(one) as engine:
        await pin(engine, 25)
    async with board(other) as engine:
        for n in range(25):
            await engine.execute(Pin("b", f"other {n}", weight=2.0))
    async with board(short) as engine:
        await pin(engine, 8)
    kept = await the_snapshot(one)
    await other.write_snapshots([kept])
    await short.write_snapshots([kept])

    async with board(other) as engine:
        assert await shown(engine) == "25 50.0 at 25"
    assert "another event is at its version" in caplog.text
    async with board(short) as engine:
        assert await shown(engine) == "8 8.0 at 8"
    assert "the stream ends before it" in caplog.text


async def test_changed_fields_and_a_changed_meaning_fold_the_stream_anew() -> None:
    class Wider(Aggregate, kind="board", key_window=20, snapshot_every=10):
        notes: list[str] = []
        weights: dict[str, float] = {}
        folded: int = 0
        colour: str = "white"

        pin = Board.pin
        show = Board.show
        pinned = Board.pinned

    class Meaning(Board, kind="board", key_window=20, snapshot_every=10, snapshot_version=2):
        pass

    for cls in (Wider, Meaning):
        store = MemoryStore()
        async with board(store) as engine:
            await pin(engine, 25)
        async with board(store, cls) as engine:
            assert await folded(engine) == 25
            assert engine.statistics().aggregates.distrusted == 1


async def test_a_larger_key_window_is_not_served_by_an_older_snapshot() -> None:
    class Longer(Board, kind="board", key_window=30, snapshot_every=10):
        pass

    store = MemoryStore()
    async with board(store) as engine:
        for n in range(45):
            await engine.execute(Pin("b", f"n{n}"), key=f"k{n}")
    async with board(store, Longer) as engine:
        first = await engine.execute(Pin("b", "n16"), key="k16")

        assert first.version == 17
        assert engine.statistics().aggregates.distrusted == 1


async def test_a_snapshot_of_a_former_release_is_not_believed() -> None:
    store = MemoryStore()
    async with board(store) as engine:
        await pin(engine, 25)
    kept = await the_snapshot(store)
    await store.write_snapshots([in_the_former_form(kept)])
    async with board(store) as engine:
        await engine.execute(Pin("b", "one more"))
        numbers = engine.statistics().aggregates

        assert (numbers.restored, numbers.distrusted) == (0, 1)


def in_the_former_form(snapshot: Snapshot) -> Snapshot:
    body = snapshot.state[11:]
    return changed(snapshot, state=b"1 " + snapshot.state[2:11] + body)


async def test_many_boards_load_together_and_one_bad_snapshot_costs_only_its_own() -> None:
    store = MemoryStore()
    async with board(store) as engine:
        for n in range(30):
            await engine.execute(Pin(f"b{n}", "x", times=12))
    bad = (await store.read_snapshots(["board:b7"]))[0]
    await store.write_snapshots([flipped(bad, -1)])
    async with board(store, limits=Limits(page_events=5)) as engine:
        FOLDED.clear()
        found = await asyncio.gather(*(shown(engine, f"b{n}") for n in range(30)))

        assert found == ["12 1.0 at 12"] * 30
        assert len(FOLDED) == 12
        assert engine.statistics().aggregates.restored == 29


async def test_a_state_that_does_not_come_back_equal_is_never_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Loose(Aggregate, kind="board", snapshot_every=5):
        notes: list[Any] = []

        pin = Board.pin

        @applies
        def pinned(self, event: Pinned) -> None:
            self.notes.append(event)  # comes back as a dict

    store = MemoryStore()
    async with board(store, Loose) as engine:
        receipts = await pin(engine, 20)
        assert receipts[-1].version == 20

    assert await store.read_snapshots(["board:b"]) == []
    assert caplog.text.count("does not survive encoding (it comes back changed)") == 1


async def test_a_state_that_cannot_be_encoded_costs_no_command(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Aggregate, kind="board", snapshot_every=5):
        notes: list[Any] = []

        pin = Board.pin

        @applies
        def pinned(self, event: Pinned) -> None:
            self.notes.append(object())

    async with board(MemoryStore(), Odd) as engine:
        assert (await pin(engine, 20))[-1].version == 20
    assert caplog.text.count("does not survive encoding (TypeError)") == 1


def test_a_state_of_types_that_cannot_be_stored_is_refused_when_the_engine_is_made() -> None:
    class Stray:
        def __init__(self, x: int) -> None: ...

    class Bad(Aggregate, kind="board", snapshot_every=5):
        strays: dict[str, complex | list[bytes] | dict[str, int] | set[int]] = {}

        pin = Board.pin
        pinned = Board.pinned

    with pytest.raises(DefinitionError, match="cannot be stored"):
        Engine([Bad])


@pytest.mark.parametrize("setting", ["snapshot_every", "snapshot_version"])
def test_settings_count_from_one(setting: str) -> None:
    with pytest.raises(DefinitionError, match=f"{setting}=0: give at least 1"):
        AggregateMeta("Bad", (Board,), {}, kind="bad", **{setting: 0})


async def test_snapshots_that_cannot_be_written_or_read_cost_no_command(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(MemoryStore):
        async def write_snapshots(self, snapshots: Any) -> None:
            raise StoreFailed("the disk is full", written=False)

        async def read_snapshots(self, streams: Any) -> Any:
            raise StoreFailed("the disk is slow", written=False)

    store = Failing()
    async with board(store) as engine:
        await pin(engine, 25)
        await until_dropped(engine)
    async with board(store) as engine:
        assert await shown(engine) == "25 25.0 at 25"

    assert "were not written (StoreFailed): the disk is full" in caplog.text
    assert "snapshots cannot be read, streams are: the disk is slow" in caplog.text


async def until_dropped(engine: Engine) -> None:
    await until(lambda: engine.statistics().snapshots.dropped)


async def test_snapshots_are_written_while_the_engine_runs(sqlite: str) -> None:
    async with board(sqlite) as engine:
        await pin(engine, 25)
        await until(lambda: engine.statistics().snapshots.written)
        assert (await the_snapshot(engine._store)).version == 20


async def test_snapshot_bytes_bounds_what_waits_to_be_written() -> None:
    async with board(MemoryStore(), limits=Limits(snapshot_bytes=2_000)) as engine:
        for n in range(20):
            await engine.execute(Pin(f"b{n}", "x" * 50, times=10))

        waiting = engine._wiring.snapshots._waiting.values()
        assert 0 < sum(len(snapshot.state) for snapshot in waiting) <= 2_000
        assert engine.statistics().snapshots.dropped > 0


async def test_a_damaged_event_behind_a_snapshot_still_stops_the_load(tmp_path: Path) -> None:
    """A snapshot hides nothing that is still read: its own event and everything after it."""
    store = HeldStore()
    async with board(store) as engine:
        await pin(engine, 25)
    stream = store._streams["board:b"]
    stream[19] = msgspec.structs.replace(stream[19], payload=b'{"note":"forged"}')
    async with board(store) as engine:
        with pytest.raises(Exception, match="position 20 cannot be used"):
            await engine.execute(Pin("b", "x"))
