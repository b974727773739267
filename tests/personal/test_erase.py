"""A person is erased: nothing of him is in any file, and what remains can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import ERASED, Erasure, Forbidden, InvalidInput, Ports
from engine.stores.sqlite.keys import SqliteKeys
from tests.support.waiting import until

from .hotel import (
    NAME,
    OTHER,
    AllGuests,
    Book,
    Guest,
    Named,
    Note,
    Register,
    Room,
    hotel,
    two_guests,
)


def files_with(folder: Path, text: str) -> list[str]:
    """Give the files in a folder that have a text, in UTF-8 or as JSON has it."""
    return [f.name for f in sorted(folder.iterdir()) if text.encode() in f.read_bytes()]


async def test_the_log_never_has_a_personal_field_in_plain_text(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        assert (await engine.state(Guest, "g-1")).name == NAME
        assert files_with(tmp_path, NAME) != [], "views have it"
        assert not [f for f in files_with(tmp_path, NAME) if "views" not in f]


async def test_after_erasing_no_file_has_a_byte_of_the_person(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        erasure = await engine.personal.erase("guest:g-1", reason="asked by mail", principal="desk")
        assert erasure.keys == 1
        assert erasure.finished is not None
        assert files_with(tmp_path, NAME) == []
        assert files_with(tmp_path, "Canary") == []
    assert files_with(tmp_path, NAME) == []


async def test_what_remains_reads_as_a_mask_and_others_lose_nothing(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1")
        erased, other = await engine.state(Guest, "g-1"), await engine.state(Guest, "g-2")
        assert (erased.name, erased.born) == (ERASED, None)
        assert (other.name, other.born) == (OTHER, 1977)
        assert (await engine.state(Room, "r-1")).wishes == [ERASED, "a quiet room"]
        rows = {row.guest: (row.name, row.wishes) for row in await engine.query(AllGuests())}
        assert rows == {
            "guest:g-1": (ERASED, f" {ERASED}"),
            "guest:g-2": (OTHER, " a quiet room"),
        }
        assert await engine.query(Named("Canary")) == []
        assert [row.name for row in await engine.query(Named("Roy"))] == [OTHER]


async def test_aggregates_in_memory_forget_a_person(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1")
        await engine.execute(Note("g-1", "still here"))
        assert (await engine.state(Guest, "g-1")).notes == 1
        actor = engine._wiring.directory._actors["guest:g-1"]
        assert NAME not in repr(actor.state)


async def test_snapshots_of_before_are_not_read_and_new_ones_are(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await engine.execute(Register("g-1", NAME))
        for number in range(5):
            await engine.execute(Note("g-1", str(number)))
    async with hotel(store) as engine:
        await engine.execute(Note("g-1", "again"))
        assert engine.statistics().aggregates.restored == 1
        await engine.personal.erase("guest:g-1")
        await engine.execute(Note("g-1", "folded"))
        assert engine.statistics().aggregates.restored == 1
        state = await engine.state(Guest, "g-1")
        assert (state.name, state.notes) == (ERASED, 7)
        for number in range(3):
            await engine.execute(Note("g-1", str(number)))
    async with hotel(store) as engine:
        await engine.execute(Note("g-1", "again"))
        assert engine.statistics().aggregates.restored == 1
        assert (await engine.state(Guest, "g-1")).name == ERASED


async def test_a_person_who_comes_back_has_another_key(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1")
        await engine.execute(Register("g-1", "Ann Again"))
    async with hotel(store) as engine:
        page = await engine.history(Guest, "g-1")
        assert [entry.event.name for entry in page.events] == [ERASED, "Ann Again"]  # type: ignore[union-attr]


async def test_who_was_erased_is_kept_with_reason_and_principal(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1", reason="asked", principal="desk")
        await engine.personal.erase("guest:nobody")
    async with hotel(store) as engine:
        first, second = await engine.personal.erasures()
        assert (first.subject, first.reason, first.principal, first.keys) == (
            "guest:g-1",
            "asked",
            "desk",
            1,
        )
        assert (second.subject, second.keys) == ("guest:nobody", 0)
        assert first.finished is not None


async def test_only_whom_authorize_lets_erases(tmp_path: Path) -> None:
    asked: list[object] = []

    def authorize(principal: str | None, action: str, message: object) -> bool:
        if action == "erase":
            asked.append(message)
        return action != "erase" or principal == "officer"

    async with hotel(f"sqlite:{tmp_path}/hotel.db", authorize=authorize) as engine:
        await two_guests(engine)
        with pytest.raises(Forbidden):
            await engine.personal.erase("guest:g-1", principal="desk")
        assert (await engine.state(Guest, "g-1")).name == NAME
        await engine.personal.erase("guest:g-1", principal="officer")
        assert (await engine.state(Guest, "g-1")).name == ERASED
    assert asked == ["guest:g-1", "guest:g-1"]


@pytest.mark.parametrize("subject", ["", "a" * 501, "\0snapshots", 7, None])
async def test_a_subject_that_is_none_is_refused(tmp_path: Path, subject: object) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        with pytest.raises(InvalidInput):
            await engine.personal.erase(subject)  # type: ignore[arg-type]
        assert await engine.personal.erasures() == []


async def test_a_log_in_memory_erases_too() -> None:
    async with hotel("memory:") as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1")
        assert (await engine.state(Guest, "g-1")).name == ERASED
        await engine.execute(Book("r-2", "guest:g-1", "anew"))
        assert (await engine.state(Room, "r-2")).wishes == ["anew"]


def secrets_of(path: Path) -> list[bytes]:
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = [
        bytes(s) for (s,) in connection.execute("SELECT secret FROM keys WHERE secret NOTNULL")
    ]
    connection.close()
    return found


async def test_a_key_that_is_destroyed_is_in_no_file(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        first, second = secrets_of(tmp_path / "hotel.keys.db")
        await engine.personal.erase("guest:g-1")
        whole = [f.read_bytes() for f in tmp_path.iterdir()]
        assert not [text for text in whole if first in text]
        assert [text for text in whole if second in text]


async def test_an_erasure_that_waits_no_longer_goes_on(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        begun = await engine.personal.erase("guest:g-1", timeout=0)
        assert begun.keys == 1
        assert (await engine.state(Guest, "g-1")).name == ERASED, "the key is destroyed at once"
        again = await engine.personal.erase("guest:g-1")
        assert again.finished is not None
        assert [e.finished is not None for e in await engine.personal.erasures()] == [True, True]


class BegunMeanwhile(SqliteKeys):
    """Keys of which somebody is erased just as an engine that has started looks at former ones."""

    has_begun = False

    async def erasures(self, subject: str | None = None) -> Sequence[Erasure]:
        if subject is None and not self.has_begun:
            self.has_begun = True
            await self.erase(Erasure(0, "guest:g-1", Ports().clock.now(), 0))
        return await super().erasures(subject)


async def test_an_erasure_that_is_begun_at_a_start_is_not_taken_for_a_former_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    keys = BegunMeanwhile(str(tmp_path / "hotel.keys.db"))
    async with hotel(store, keys=keys) as engine, asyncio.timeout(30):
        await until(lambda: keys.has_begun)
        while not [each for each in await engine.personal.erasures() if each.finished]:
            await asyncio.sleep(0.01)
        rows = {row.guest: row.name for row in await engine.query(AllGuests())}
    assert rows == {"guest:g-1": ERASED, "guest:g-2": OTHER}
    assert "may be older than an erasure" not in caplog.text


async def test_two_erasures_at_once_are_both_finished(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        one, two = await asyncio.gather(
            engine.personal.erase("guest:g-1"), engine.personal.erase("guest:g-2")
        )
        assert one.finished is not None
        assert two.finished is not None
        assert {row.name for row in await engine.query(AllGuests())} == {ERASED}


async def test_people_are_erased_while_others_write(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)

        async def write() -> None:
            for number in range(200):
                await engine.execute(Note("g-2", str(number)))
                await engine.execute(Register(f"h-{number}", "Dee"))

        await asyncio.gather(write(), engine.personal.erase("guest:g-1"))
        assert (await engine.state(Guest, "g-2")).notes == 200
        assert (await engine.state(Guest, "h-199")).name == "Dee"
        assert files_with(tmp_path, NAME) == []
