"""Fingerprints of commands with keys: once a person is erased, no guess is told from the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    ERASED,
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    KeyReused,
    Personal,
    ProcessManager,
    To,
    applies,
    decides,
    handles,
    reacts,
)
from engine.model.fingerprint import fingerprint_of
from engine.model.process import arrival

from .hotel import NAME, Guest, Note, Register, hotel


def texts_of(path: Path) -> list[bytes]:
    """Give what stands beside each event of a log, and its snapshots."""
    connection: Any = apsw.Connection(str(path))
    found = connection.execute("SELECT metadata FROM events ORDER BY position").fetchall()
    snapshots = connection.execute("SELECT state FROM snapshots").fetchall()
    connection.close()
    return [bytes(text) for (text,) in [*found, *snapshots]]


async def test_a_key_is_known_by_a_fingerprint_that_nobody_reads(tmp_path: Path) -> None:
    store, register = f"sqlite:{tmp_path}/hotel.db", Register("g-1", NAME, 1981)
    async with hotel(store) as engine:
        first = await engine.execute(register, key="k")
        assert await engine.execute(register, key="k") == first
        note = await engine.execute(Note("g-1", "a note"), key="n")
    shown = str(fingerprint_of(register)).encode()
    assert not [text for text in texts_of(tmp_path / "hotel.db") if shown in text]
    async with hotel(store) as engine:
        assert await engine.execute(register, key="k") == first
        with pytest.raises(KeyReused):
            await engine.execute(Register("g-1", "Bob", 1981), key="k")
        assert await engine.execute(Note("g-1", "a note"), key="n") == note
        with pytest.raises(KeyReused):
            await engine.execute(Note("g-1", "another"), key="n")


async def test_who_is_erased_cannot_be_guessed_and_the_key_runs_nothing(tmp_path: Path) -> None:
    store, register = f"sqlite:{tmp_path}/hotel.db", Register("g-1", NAME, 1981)
    async with hotel(store) as engine:
        first = await engine.execute(register, key="k")
        await engine.personal.erase("guest:g-1")
        assert await engine.execute(register, key="k") == first
        assert await engine.execute(Register("g-1", "a guess"), key="k") == first
        assert (await engine.state(Guest, "g-1")).version == 1


class Meet(Command):
    one: Id
    other: Id
    words: str


class Count(Command):
    counter: Id
    one: Id
    other: Id
    words: str


class Greet(Command):
    person: Id


class Add(Command):
    counter: Id


class Met(Event, name="met"):
    words: Personal[str]


class Counted(Event, name="met-counted"):
    pass


class Person(Aggregate, kind="person", snapshot_every=1):
    @handles
    def greet(self, command: Greet) -> Met:
        return Met("good day")

    @applies
    def met(self, event: Met) -> None: ...


class Counter(Aggregate, kind="counter", snapshot_every=1):
    total: int = 0

    @handles
    def add(self, command: Add) -> Counted:
        return Counted()

    @applies
    def counted(self, event: Counted) -> None:
        self.total += 1


@decides
def meet(command: Meet, one: Person, other: Person) -> list[To[Met]]:
    return [To(one, Met(command.words)), To(other, Met(command.words))]


@decides
def count(command: Count, counter: Counter, one: Person, other: Person) -> list[To[Met | Counted]]:
    words = command.words
    return [To(counter, Counted()), To(one, Met(words)), To(other, Met(words))]


class Welcomed(Event, name="welcomed"):
    pass


class Welcome(ProcessManager, kind="welcome", begins="start"):
    @reacts(by=lambda event, meta: meta.id)
    def met(self, event: Met) -> Welcomed:
        return Welcomed()

    @applies
    def welcomed(self, event: Welcomed) -> None: ...


def meeting(path: Path) -> Engine:
    kinds: list[type[Aggregate]] = [Person, Counter, Welcome]
    return Engine(kinds, decisions=[meet, count], store=f"sqlite:{path}")


@pytest.mark.parametrize("erased", ["person:a", "person:b"])
async def test_what_is_about_two_people_is_read_by_nobody_without_one(
    tmp_path: Path, erased: str
) -> None:
    path = tmp_path / "log.db"
    sent = {"m": Meet("a", "b", "hello"), "c": Count("n", "a", "b", "hello")}
    async with meeting(path) as engine:
        receipts = {key: await engine.execute(command, key=key) for key, command in sent.items()}
        with pytest.raises(KeyReused):
            await engine.execute(Meet("a", "b", "good bye"), key="m")
        await engine.personal.erase(erased)
    shown = [str(fingerprint_of(command)).encode() for command in sent.values()]
    assert not [text for text in texts_of(path) if any(each in text for each in shown)]
    async with meeting(path) as engine:
        for key, command in sent.items():
            assert await engine.execute(command, key=key) == receipts[key]
        assert await engine.execute(Meet("a", "b", "a guess"), key="m") == receipts["m"]


async def test_a_process_manager_knows_an_event_by_what_is_never_erased(tmp_path: Path) -> None:
    """It is sent the whole event, and what it decides may have no personal field."""
    path = tmp_path / "log.db"
    async with meeting(path) as engine:
        await engine.execute(Greet("a"))
        feed = engine.feed(names=["met", "welcomed"], follow=True)
        met, welcomed = await anext(feed), await anext(feed)
        assert welcomed.meta.key is not None
    sent = arrival(Welcome, Met(ERASED), met.meta)
    assert sent is not None
    found = re.findall(rb'"fingerprint":(\d+)', b" ".join(texts_of(path)))
    assert found == [str(fingerprint_of(sent)).encode()]
