"""A parked event of a sink or a reactor keeps nobody who was erased, whatever its `sequence` is."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine import Delivery, Engine, Meta, Projection, Reactor, Rejected, Sink, reacts
from engine.errors import Damaged
from engine.model.projection import slice_of
from engine.model.stored import StoredEvent
from engine.projections.projector import Projector
from engine.projections.scope import Scope
from tests.personal.badges import badged, having
from tests.personal.hotel import NAME, OTHER, Note, Noted, Register, Registered
from tests.support.waiting import until


def name_of(event: Registered, meta: Meta) -> str:
    return event.name


class Letters(Sink, name="letters", version=1, on_poison="park", sequence=name_of):
    is_away: ClassVar[bool] = True
    sent: ClassVar[list[int]] = []

    async def deliver(self, batch: Sequence[Delivery[Registered]]) -> None:
        if self.is_away:
            raise ValueError("it cannot be sent")
        self.sent.extend(each.position for each in batch)


class SlicedLetters(
    Letters, name="sliced", version=1, slices=4, on_poison="park", sequence=name_of
):
    pass


def without_that_rule(*_: object) -> None:
    """Let a sink in slices park under names, as former releases did."""


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "_check_lasting", without_that_rule)


class Welcome(Reactor, name="welcome", begins="start", on_poison="park", sequence=name_of):
    @reacts
    def registered(self, event: Registered, meta: Meta) -> None:
        if Letters.is_away:
            raise ValueError("nobody is there")


async def parked(engine: Engine, name: str, count: int) -> Sequence[Any]:
    async with asyncio.timeout(30):
        while len(found := await engine.projections.parked(name)) < count:
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("kept", [Letters, SlicedLetters, Welcome])
async def test_the_key_of_a_parked_event_has_nobody_who_was_erased(
    kept: type[Projection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = f"sqlite:{tmp_path / 'log.db'}", kept.__definition__.name
    monkeypatch.setattr(Letters, "sent", [])
    async with badged(store, kept) as engine:
        for guest, called in (("a", NAME), ("b", OTHER), ("c", NAME)):
            await engine.execute(Register(guest, called))
        assert {each.key for each in await parked(engine, name, 3)} == {NAME, OTHER}
        assert having(tmp_path, NAME)

        await engine.personal.erase("guest:a")

        keys = [each.key for each in await parked(engine, name, 3)]
        assert [key == called for key, called in zip(keys, (NAME, OTHER, NAME), strict=True)] == [
            False,
            True,
            True,
        ]
        await engine.personal.erase("guest:c")
        assert having(tmp_path, NAME) == []
        assert having(tmp_path, OTHER)

        monkeypatch.setattr(Letters, "is_away", False)
        retried = await engine.projections.retry(name)
        assert (retried.released, retried.failed) == (3, ())
    assert kept is Welcome or sorted(Letters.sent) == [1, 2, 3]


async def test_the_file_has_no_key_of_what_was_tried_again_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted then, and SQLite leaves what it deletes in the file."""
    async with badged(f"sqlite:{tmp_path / 'log.db'}", Letters) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
        monkeypatch.setattr(Letters, "is_away", False)
        assert (await engine.projections.retry("letters")).released == 1
        assert having(tmp_path, NAME)

        await engine.personal.erase("guest:a")

        assert having(tmp_path, NAME) == []


async def test_what_comes_later_waits_behind_what_was_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of who was erased have one key from then on, those that are parked too."""
    async with badged(f"sqlite:{tmp_path / 'log.db'}", Letters) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
        await engine.personal.erase("guest:a")
        monkeypatch.setattr(Letters, "is_away", False)
        await engine.execute(Register("b", "(erased)"))

        assert {each.attempts for each in await parked(engine, "letters", 2)} == {1, 0}


async def test_two_slices_never_have_one_key_for_those_who_were_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one slice has tried again would be parked for ever in the memory of the other."""
    monkeypatch.setattr(Letters, "sent", [])
    async with badged(f"sqlite:{tmp_path / 'log.db'}", SlicedLetters) as engine:
        for guest, called in (("a", NAME), ("b", "Cid Fox")):
            await engine.execute(Register(guest, called))
        assert len({slice_of(each.key, 4) for each in await parked(engine, "sliced", 2)}) == 2
        await asyncio.gather(*(engine.personal.erase(f"guest:{guest}") for guest in "ab"))
        assert len({each.key for each in await parked(engine, "sliced", 2)}) == 2
        monkeypatch.setattr(Letters, "is_away", False)

        assert (await engine.projections.retry("sliced")).released == 2

        assert engine.statistics().projectors["sliced"].parked == 0


async def test_what_a_program_does_not_declare_has_parked_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    monkeypatch.setattr(Letters, "sent", [])
    async with badged(store, Letters, Welcome) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
        await parked(engine, "welcome", 1)
    async with badged(store) as engine, asyncio.timeout(30):
        assert (await engine.personal.erase("guest:a", timeout=0)).finished is None
        await until(lambda: "parked events of letters, welcome, which" in caplog.text)
        waiting = await engine.personal.erase("guest:b", timeout=0.1)
        assert (waiting.finished, waiting.waits_for) == (None, ("letters", "welcome"))

    async with badged(store, Letters, Welcome) as engine, asyncio.timeout(30):
        while None in [erasure.finished for erasure in await engine.personal.erasures()]:
            await asyncio.sleep(0.01)
        assert having(tmp_path, NAME) == []
        monkeypatch.setattr(Letters, "is_away", False)
        for name in ("letters", "welcome"):
            assert (await engine.projections.retry(name)).released == 1
    assert Letters.sent == [1]


async def test_what_nobody_declares_any_more_can_be_dropped_with_what_it_has_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reactor then goes on where it stood, if it is declared again."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with badged(store, Letters, Welcome) as engine:
        for guest in "ab":
            await engine.execute(Register(guest, NAME))
        await parked(engine, "letters", 2)
        await parked(engine, "welcome", 2)
    async with badged(store) as engine, asyncio.timeout(30):
        assert (await engine.personal.erase("guest:a", timeout=0)).finished is None
        await until(lambda: "which this program does not declare" in caplog.text)
        for name in ("letters", "welcome"):
            assert await engine.projections.drop(name, reason="it is no more", principal="ann")
        assert (await engine.personal.erase("guest:b", timeout=20)).waits_for == ()
        assert None not in [erasure.finished for erasure in await engine.personal.erasures()]
    assert having(tmp_path, NAME) == []
    assert (
        "reactor welcome, which this program does not declare, is dropped by ann: 2 events that "
        "it has parked are lost" in caplog.text
    )

    monkeypatch.setattr(Letters, "is_away", False)
    async with badged(store, Welcome) as engine, asyncio.timeout(30):
        position = (await engine.execute(Register("c", OTHER))).position
        await until(lambda: engine.statistics().projectors["welcome"].position >= position)
        assert await engine.projections.parked("welcome") == []
        book = await engine.projections.decisions("welcome")
        assert [(d.kind, d.position) for d in book] == [
            ("begin", 0),
            ("begin", 2),
            ("drop", None),
        ]


async def test_what_was_parked_stands_under_no_person_though_the_sequence_was_taken_away(
    tmp_path: Path,
) -> None:
    class Plain(Letters, name="letters", version=1, on_poison="park"):
        pass

    store = f"sqlite:{tmp_path / 'log.db'}"
    async with badged(store, Letters) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
    async with badged(store, Plain) as engine:
        assert (await engine.personal.erase("guest:a", timeout=20)).finished is not None
        assert having(tmp_path, NAME) == []


async def test_views_of_before_an_erasure_that_are_put_back_lose_their_parked_keys(
    tmp_path: Path,
) -> None:
    store, copy = f"sqlite:{tmp_path / 'log.db'}", tmp_path / "copy"
    copy.mkdir()
    async with badged(store, Letters) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
    for file in tmp_path.glob("log.views.db*"):
        shutil.copy(file, copy)
    async with badged(store, Letters) as engine:
        await engine.personal.erase("guest:a")
    for file in tmp_path.glob("log.views.db*"):
        file.unlink()
    for file in copy.iterdir():
        shutil.move(file, tmp_path)
    copy.rmdir()
    assert having(tmp_path, NAME)

    async with badged(store, Letters) as engine, asyncio.timeout(30):
        while NAME in [each.key for each in await engine.projections.parked("letters")]:
            await asyncio.sleep(0.01)
    assert having(tmp_path, NAME) == []


def by_note(event: Noted, meta: Meta) -> str:
    return f"notes of {meta.id}"


class Notes(Sink, name="notes", version=1, on_poison="park", sequence=by_note):
    """Sees nobody; after its first event it delivers until it is let go on."""

    go_on: ClassVar[asyncio.Event]
    is_busy: ClassVar[bool] = False

    async def deliver(self, batch: Sequence[Delivery[Noted]]) -> None:
        if batch[0].position == 1:
            raise ValueError("it cannot be sent")
        Notes.is_busy = True
        await self.go_on.wait()


async def test_what_has_parked_events_and_is_busy_is_named_while_an_erasure_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notes, "go_on", asyncio.Event(), raising=False)
    monkeypatch.setattr(Notes, "is_busy", False)
    async with badged(f"sqlite:{tmp_path / 'log.db'}", Notes) as engine:
        await engine.execute(Note("x", "parked"))
        await parked(engine, "notes", 1)
        await engine.execute(Register("a", NAME))
        await engine.execute(Note("b", "slow"))
        await until(lambda: Notes.is_busy)
        begun = await engine.personal.erase("guest:a", timeout=0.5)
        assert (begun.finished, begun.waits_for) == (None, ("notes",))

        Notes.go_on.set()
        assert (await engine.personal.erase("guest:a", timeout=20)).waits_for == ()


class NotesByStream(Notes, name="by-stream", version=1, on_poison="park"):
    pass


async def test_what_has_parked_events_under_their_streams_alone_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notes, "go_on", asyncio.Event(), raising=False)
    monkeypatch.setattr(Notes, "is_busy", False)
    async with badged(f"sqlite:{tmp_path / 'log.db'}", NotesByStream) as engine:
        await engine.execute(Note("x", "parked"))
        await parked(engine, "by-stream", 1)
        await engine.execute(Register("a", NAME))
        await engine.execute(Note("b", "slow"))
        await until(lambda: Notes.is_busy)
        done = await engine.personal.erase("guest:a", timeout=20)
        Notes.go_on.set()
    assert done.finished is not None


async def test_what_has_parked_an_event_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def unreadable(self: Projector, position: int) -> StoredEvent:
        raise Damaged(position, "it does not match its checksum")

    async with badged(f"sqlite:{tmp_path / 'log.db'}", Letters) as engine:
        await engine.execute(Register("a", NAME))
        await parked(engine, "letters", 1)
        with monkeypatch.context() as patch:
            patch.setattr(Projector, "read", unreadable)
            begun = await engine.personal.erase("guest:a", timeout=0.5)
            assert (begun.finished, begun.waits_for) == (None, ("letters",))
            assert "keys under which letters has parked events" in caplog.text
        assert (await engine.personal.erase("guest:b", timeout=20)).waits_for == ()


class Refusing(Sink, name="refusing", version=1, on_poison="park"):
    async def deliver(self, batch: Sequence[Delivery[Registered]]) -> None:
        raise Rejected("no-address", f"{batch[0].event.name} has no address")


class Stopped(Reactor, name="stopped", begins="start"):
    @reacts
    def registered(self, event: Registered, meta: Meta) -> None:
        raise Rejected("no-address", f"{event.name} has no address")


@pytest.mark.parametrize("kept", [Refusing, Stopped])
async def test_why_an_event_failed_is_kept_without_what_a_rule_has_said(
    kept: type[Projection], tmp_path: Path
) -> None:
    name = kept.__definition__.name
    async with badged(f"sqlite:{tmp_path / 'log.db'}", kept) as engine:
        await engine.execute(Register("a", NAME))
        cause = ""
        async with asyncio.timeout(30):
            while not cause:
                found = await engine.projections.parked(name)
                failure = (await engine.projections.status(name)).failure
                cause = found[0].cause if found else "" if failure is None else failure.cause
                await asyncio.sleep(0.01)
        assert "Rejected: no-address" in cause
        assert having(tmp_path, NAME) == []
