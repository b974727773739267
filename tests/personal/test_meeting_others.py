"""Erasures that meet other things: snapshots, pauses, operators, lost keys, verify and imports."""

from __future__ import annotations

import asyncio
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine import (
    ERASED,
    Event,
    Personal,
    Ports,
    StoreFailed,
    StoreRefused,
    StreamUnreadable,
    SubjectKey,
    upcasts,
)
from engine.exports.lines import Omitted, line_of
from engine.imports.drafts import ExportedDrafts, MappedDrafts
from engine.imports.events import Imported, SourceEvent
from engine.limits import Limits
from engine.model.aggregate import definitions_of
from engine.model.codec import EventRegistry
from engine.model.sameness import first_difference
from engine.model.schema import check_types
from engine.model.upcasting import Upcasting
from engine.outside import verifying_code
from engine.outside.verifying_code import Code, verify_code
from engine.personal.vault import Vault
from engine.stores.contract.keys import Erasure
from engine.stores.sqlite.keys import SqliteKeys
from engine.stores.urls import open_backend

from .hotel import (
    NAME,
    AllGuests,
    Guest,
    Guests,
    Note,
    Register,
    Registered,
    Room,
    hotel,
    two_guests,
)


def state_in_memory(engine: Any, stream: str) -> str:
    actor = engine._wiring.directory._actors.get(stream)
    return "" if actor is None else repr(actor.state)


async def test_a_state_of_before_an_erasure_leaves_no_snapshot(tmp_path: Path) -> None:
    """One that is sealed behind the destruction of the key of snapshots would be believed."""
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        vault = engine._wiring.vault
        assert vault is not None
        erase_states = vault.erase_states

        async def erase_and_be_written_to() -> None:
            await erase_states()
            for number in range(3):
                await engine.execute(Note("g-1", str(number)))

        vault.erase_states = erase_and_be_written_to  # type: ignore[method-assign]
        await engine.personal.erase("guest:g-1")
    async with hotel(store) as engine:
        await engine.execute(Note("g-1", "again"))
        assert ERASED in state_in_memory(engine, "guest:g-1")


async def test_an_erasure_that_is_asked_while_one_is_finished_is_finished_too() -> None:
    async with hotel("memory:") as engine:
        await two_guests(engine)
        vault = engine._wiring.vault
        assert vault is not None
        erase_states = vault.erase_states

        async def erase_and_be_asked_again() -> None:
            vault.erase_states = erase_states  # type: ignore[method-assign]
            await erase_states()
            await engine.personal.erase("guest:g-2", timeout=0)

        vault.erase_states = erase_and_be_asked_again  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            await engine.personal.erase("guest:g-1")
            while any(e.finished is None for e in await engine.personal.erasures()):
                await asyncio.sleep(0.01)
        assert {row.name for row in await engine.query(AllGuests())} == {ERASED}


async def test_a_build_that_somebody_gives_up_is_begun_again(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        await engine.projections.pause("guests")
        desk = engine._wiring.projecting["guests"].desk
        rebuild = desk.rebuild

        async def rebuild_and_cancel(reason: str = "", principal: str | None = None) -> None:
            desk.rebuild = rebuild  # type: ignore[method-assign]
            await rebuild(reason, principal)
            await engine.projections.cancel("guests")
            await engine.projections.resume("guests")

        desk.rebuild = rebuild_and_cancel  # type: ignore[method-assign]
        await engine.personal.erase("guest:g-1")
        assert NAME not in {row.name for row in await engine.query(AllGuests())}


async def test_a_paused_projection_is_told_and_holds_up_no_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        await engine.projections.pause("guests")
        begun = await engine.personal.erase("guest:g-1", timeout=0)
        assert begun.finished is None
        async with asyncio.timeout(10):
            while "projection guests is paused" not in caplog.text:
                await asyncio.sleep(0.01)
            await engine.personal.erase("guest:g-2", timeout=0)
            while "Bob Roy" in state_in_memory(engine, "guest:g-2"):
                await asyncio.sleep(0.01)
            await engine.projections.resume("guests")
            while any(e.finished is None for e in await engine.personal.erasures()):
                await asyncio.sleep(0.01)
        assert {row.name for row in await engine.query(AllGuests())} == {ERASED}


async def test_keys_that_were_lost_are_no_others_whom_somebody_erases(tmp_path: Path) -> None:
    """Otherwise the first key of a new file would have the number of one that was lost."""
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await engine.execute(Register("g-1", NAME))
    for path in tmp_path.glob("hotel.keys*"):
        path.unlink()
    (tmp_path / "hotel.keys.db").touch()  # by who knows that it is lost
    async with hotel(store) as engine:
        await engine.execute(Register("g-2", "Bob Roy"))
        await engine.personal.erase("guest:g-2", timeout=0)
        with pytest.raises(StreamUnreadable, match="never had"):
            await engine.execute(Note("g-1", "hello"))


async def test_an_append_and_an_erasure_that_meet_keep_each_key_once(tmp_path: Path) -> None:
    vault = Vault(SqliteKeys(str(tmp_path / "hotel.keys.db")))
    await vault.open(Ports(), "log")
    try:
        sealed = vault.seal("guest:g-1", b"{}", b"")
        await asyncio.gather(vault.flush(), vault.erase("guest:g-2", "", None))
        assert vault.unseal(sealed, b"", 1) == b"{}"
    finally:
        await vault.close()


async def test_verify_compares_what_is_encrypted_with_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compared = f"sqlite:{tmp_path}/hotel.db", list[object]()
    async with hotel(store) as engine:
        await two_guests(engine)
        for number in range(5):
            await engine.execute(Note("g-1", str(number)))
    found, unlooked = list[object](), list[str]()
    difference = first_difference

    def noted(one: object, other: object) -> str | None:
        compared.append(one)
        return difference(one, other)

    monkeypatch.setattr(verifying_code, "first_difference", noted)
    application = hotel(store)
    code = Code(definitions_of([Guest, Room]), [Guests], application.registry)
    outside = open_backend(store).outside(Ports())
    await verify_code(outside, code, found.append, unlooked.append, lambda: None)
    assert (found, unlooked, len(compared)) == ([], [], 1)


def test_an_import_writes_no_personal_field_in_plain_text() -> None:
    given = Imported(
        kind="guest", id="g-1", event=Registered(NAME, "no", None), recorded=datetime.now(UTC)
    )
    drafts = MappedDrafts(
        "lines", lambda _: given, hotel("memory:").registry, definitions_of([Guest]), Limits()
    )
    with pytest.raises(StoreRefused, match="no keys to encrypt"):
        list(drafts(SourceEvent(place="line 1")))


async def test_an_import_of_what_was_exported_encrypted_is_refused(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    with open_backend(store).outside(Ports()).log_reader() as reader:
        [stored] = reader.read_feed(0, events_max=1, bytes_max=1)
    drafts = ExportedDrafts("lines", hotel("memory:").registry, definitions_of([Guest]))
    with pytest.raises(StoreRefused, match="encrypted fields"):
        list(drafts(SourceEvent(place="line 1", raw=line_of(stored, Omitted(())))))


class Named(Event, name="named", version=1):
    name: Personal[str]


class Renamed(Event, name="named", version=2):
    initial: str


@upcasts
def shortened(event: Named) -> Renamed:
    return Renamed(event.name[:1])


def test_what_becomes_of_personal_events_is_personal_too() -> None:
    registry = EventRegistry([Renamed], Upcasting([shortened]))
    assert registry.is_personal([Renamed])
    assert not registry.is_personal([Registered])


def made(mark: bool) -> type[Event]:
    """Give an event as one release declares it."""
    text: Any = Personal[str] if mark else str
    return types.new_class(
        "Told",
        (Event,),
        {"name": "told"},
        lambda body: body.update(__annotations__={"text": text}, text="", __module__=__name__),
    )


def test_a_mark_may_come_and_not_go_again() -> None:
    """Without the mark a field with a default would read as it, whatever is encrypted."""
    marked, plain = EventRegistry([made(True)]), EventRegistry([made(False)])
    assert check_types(marked, plain.types) == []
    assert [found.rule for found in check_types(plain, marked.types)] == ["changed"]


async def test_views_of_before_an_erasure_that_are_put_back_are_built_anew(tmp_path: Path) -> None:
    """As after a disaster: an old copy of log and views, and the keys of today."""
    store, names = f"sqlite:{tmp_path}/hotel.db", ("hotel.db", "hotel.views.db")
    async with hotel(store) as engine:
        await two_guests(engine)
    old = {name: (tmp_path / name).read_bytes() for name in names}
    async with hotel(store) as engine:
        await engine.personal.erase("guest:g-1")
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    for name in names:
        for beside in ("-wal", "-shm"):
            (tmp_path / (name + beside)).unlink(missing_ok=True)
    async with hotel(store) as engine, asyncio.timeout(10):
        while [p.name for p in tmp_path.iterdir() if NAME.encode() in p.read_bytes()]:
            await asyncio.sleep(0.02)
        assert NAME not in {row.name for row in await engine.query(AllGuests())}


async def test_keys_that_come_again_after_a_failure_are_kept_once(tmp_path: Path) -> None:
    keys = SqliteKeys(str(tmp_path / "hotel.keys.db"))
    await keys.open(Ports(), "log")
    try:
        one, other = SubjectKey(1, "guest:g-1", b"1" * 32), SubjectKey(2, "guest:g-2", b"2" * 32)
        await keys.add([one])
        await keys.add([one, other])
        assert keys.current("guest:g-2") == other
        await keys.erase(Erasure(0, "guest:g-1", 1, 0))
        await keys.add([one])
        assert keys.current("guest:g-1") is None, "it does not come back"
        with pytest.raises(StoreFailed):
            await keys.add([SubjectKey(2, "guest:g-3", b"3" * 32)])
    finally:
        await keys.close()
