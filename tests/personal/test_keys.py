"""Keys of personal data: what is lost, changed, moved, half done or another's is told by name."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine import (
    ERASED,
    Damaged,
    Erasure,
    Ports,
    StoredEvent,
    StoreFailed,
    StoreRefused,
    StreamUnreadable,
    SubjectKey,
    Voided,
)
from engine.personal.vault import Vault
from engine.stores.sqlite.keys import SqliteKeys

from .hotel import NAME, AllGuests, Guest, Note, Register, Registered, hotel, two_guests


def payload(path: Path, position: int) -> bytes:
    connection: Any = apsw.Connection(str(path))
    [(found,)] = connection.execute("SELECT payload FROM events WHERE position=?", (position,))
    connection.close()
    return bytes(found)


async def test_a_key_is_on_the_disk_before_what_it_encrypts(tmp_path: Path) -> None:
    """Otherwise a crash between the two leaves an event that nobody can ever read."""
    keys = tmp_path / "hotel.keys.db"
    seen: list[int] = []

    def look(step: str) -> None:
        if step == "store.began":
            reader: Any = apsw.Connection(str(keys), flags=apsw.SQLITE_OPEN_READONLY)
            seen.extend(n for (n,) in reader.execute("SELECT count(*) FROM keys").fetchall())
            reader.close()

    ports = Ports(failpoint=look)
    async with hotel(f"sqlite:{tmp_path}/hotel.db", ports=ports) as engine:
        await engine.execute(Register("g-1", NAME))
        await engine.execute(Register("g-2", NAME))
    assert seen == [1, 2]


async def test_an_emptied_file_of_keys_keeps_the_write_ahead_log_that_has_them(
    tmp_path: Path,
) -> None:
    """SQLite removes it where a connection is opened to an empty file."""
    store, keys, wal = (
        tmp_path / "hotel.db",
        tmp_path / "hotel.keys.db",
        tmp_path / "hotel.keys.db-wal",
    )
    async with hotel(f"sqlite:{store}") as engine:
        await two_guests(engine)
        kept = keys.read_bytes(), wal.read_bytes()
    keys.write_bytes(b"")
    wal.write_bytes(kept[1])  # as a kill leaves it
    with pytest.raises(StoreRefused, match=r"is empty, and .*-wal has"):
        async with hotel(f"sqlite:{store}"):
            pass
    assert wal.read_bytes() == kept[1]
    keys.write_bytes(kept[0])
    async with hotel(f"sqlite:{store}") as engine:
        assert (await engine.state(Guest, "g-1")).name == NAME


async def test_a_lost_file_of_keys_is_damage_and_not_an_erasure(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    for path in tmp_path.glob("hotel.keys*"):
        path.unlink()
    (tmp_path / "hotel.keys.db").touch()  # by who knows that it is lost
    async with hotel(store) as engine:
        with pytest.raises(StreamUnreadable, match=r"key \d+, which") as failure:
            await engine.execute(Note("g-1", "hello"))
        assert isinstance(failure.value.__cause__, Damaged)


async def test_lost_keys_are_not_made_anew_in_silence(tmp_path: Path) -> None:
    """What is written with new ones would be lost when the right ones are put back."""
    store, keys = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.keys.db"
    async with hotel(store):  # nobody has data yet
        pass
    keys.unlink()
    async with hotel(store) as engine:
        await two_guests(engine)
    keys.rename(tmp_path / "elsewhere.db")
    for join in (False, True):
        with pytest.raises(StoreRefused, match="first of them at position 1: put the log's own"):
            async with hotel(store, join=join):
                pass
        assert not keys.exists()
    (tmp_path / "elsewhere.db").rename(keys)
    async with hotel(store) as engine:
        assert (await engine.state(Guest, "g-1")).name == NAME


async def test_the_keys_of_another_log_are_refused(tmp_path: Path) -> None:
    async with hotel(f"sqlite:{tmp_path}/one.db") as engine:
        await two_guests(engine)
    with pytest.raises(StoreRefused, match="of another log"):
        async with hotel(f"sqlite:{tmp_path}/two.db", keys=f"sqlite:{tmp_path}/one.keys.db"):
            pass


async def test_a_file_that_has_no_keys_is_refused_and_not_touched(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / "mine.db"))
    other.execute("CREATE TABLE mine(x)")
    other.close()
    before = (tmp_path / "mine.db").read_bytes()
    with pytest.raises(StoreRefused, match="no file of keys"):
        async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=f"sqlite:{tmp_path}/mine.db"):
            pass
    assert (tmp_path / "mine.db").read_bytes() == before


def _flip(sealed: bytes) -> bytes:
    middle = sealed.index(b"$personal") + 40
    other = b"A" if sealed[middle : middle + 1] != b"A" else b"B"
    return sealed[:middle] + other + sealed[middle + 1 :]


def _other_number(sealed: bytes) -> bytes:
    head, number, tail = re.split(rb'("\d+)\.', sealed, maxsplit=1)
    return head + b'"%d.' % (int(number[1:]) + 1) + tail


@pytest.mark.parametrize("changed", [_flip, _other_number])
async def test_sealed_bytes_that_were_changed_are_damage(
    tmp_path: Path, changed: Callable[[bytes], bytes]
) -> None:
    store, log = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    form, vault = _form_and_vault(tmp_path)
    await vault.open(Ports(), _log_id(log))
    stored = _stored(log, 1)
    try:
        assert NAME.encode() in form.open(stored, vault)
        with pytest.raises(Damaged, match="do not open|never had"):
            form.open(_with_payload(stored, changed(stored.payload)), vault)
    finally:
        await vault.close()


async def test_sealed_fields_open_at_their_own_place_only(tmp_path: Path) -> None:
    store, log = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    form, vault = _form_and_vault(tmp_path)
    await vault.open(Ports(), _log_id(log))
    try:
        moved = _with_payload(_stored(log, 2), payload(log, 1))
        with pytest.raises(Damaged, match="stood in another place"):
            form.open(moved, vault)
    finally:
        await vault.close()


def _form_and_vault(folder: Path) -> tuple[Any, Vault]:
    registry = hotel("memory:").registry
    form = registry.personal_of(Registered)
    assert form is not None
    return form, Vault(SqliteKeys(str(folder / "hotel.keys.db")))


def _log_id(log: Path) -> str:
    connection = apsw.Connection(str(log))
    [(found,)] = connection.execute("SELECT log_id FROM about").fetchall()
    connection.close()
    return str(found)


def _stored(log: Path, position: int) -> Any:
    connection: Any = apsw.Connection(str(log))
    [(stream, version, body)] = connection.execute(
        "SELECT name, version, payload FROM events JOIN streams ON stream = number "
        "WHERE position = ?",
        (position,),
    ).fetchall()
    connection.close()
    return StoredEvent(
        position=position,
        stream=stream,
        version=version,
        name="registered",
        event_version=1,
        recorded=0,
        payload=bytes(body),
        metadata=b"",
        checksum=0,
        encoding=1,
    )


def _with_payload(stored: Any, body: bytes) -> Any:
    return msgspec.structs.replace(stored, payload=body)


async def test_an_erasure_that_was_begun_is_finished_after_a_restart(tmp_path: Path) -> None:
    """As a crash leaves it: the key is destroyed, and views and snapshots know nothing of it."""
    store, log = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    vault = Vault(SqliteKeys(str(tmp_path / "hotel.keys.db")))
    await vault.open(Ports(), _log_id(log))
    await vault.erase("guest:g-1", "", None)
    await vault.close()
    async with hotel(store) as engine:
        await _until_finished(engine)
        rows = await engine.query(AllGuests())
        assert [row.name for row in rows] == [ERASED, "Bob Roy"]
    assert not [p for p in tmp_path.iterdir() if NAME.encode() in p.read_bytes()]


async def test_an_erasure_by_another_process_is_finished_by_the_engine_that_runs(
    tmp_path: Path,
) -> None:
    store, log = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        vault = Vault(SqliteKeys(str(tmp_path / "hotel.keys.db")))
        await vault.open(Ports(), _log_id(log))
        await vault.erase("guest:g-1", "by the clerk", None)
        await vault.close()
        await _until_finished(engine)
        assert (await engine.state(Guest, "g-1")).name == ERASED
        rows = await engine.query(AllGuests())
        assert [row.name for row in rows] == [ERASED, "Bob Roy"]


async def _until_finished(engine: Any) -> None:
    async with asyncio.timeout(15):
        while True:
            found = await engine.personal.erasures()
            if found and all(e.finished is not None for e in found):
                return
            await asyncio.sleep(0.01)


async def test_a_backup_of_the_log_alone_has_nothing_of_a_person_who_was_erased_later(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    backup = tmp_path / "backup"
    backup.mkdir()
    shutil.copy(tmp_path / "hotel.db", backup / "hotel.db")
    async with hotel(store) as engine:
        await engine.personal.erase("guest:g-1")
    restored = hotel(f"sqlite:{backup}/hotel.db", keys=f"sqlite:{tmp_path}/hotel.keys.db")
    async with restored as engine:
        assert (await engine.state(Guest, "g-1")).name == ERASED
        assert (await engine.state(Guest, "g-2")).name == "Bob Roy"


class FailsOnce(SqliteKeys):
    """Keys whose disk is full for a moment."""

    failed = False

    async def add(self, keys: Sequence[SubjectKey]) -> None:
        if not self.failed:
            self.failed = True
            raise StoreFailed("the disk is full", written=False, passes=True)
        await super().add(keys)


async def test_nothing_is_written_where_a_key_cannot_be_kept(tmp_path: Path) -> None:
    keys = FailsOnce(str(tmp_path / "hotel.keys.db"))
    async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=keys) as engine:
        with pytest.raises(Voided, match="Nothing was written"):
            await engine.execute(Register("g-1", NAME))
        await engine.execute(Register("g-1", "Ann Again"))
        page = await engine.history(Guest, "g-1")
        assert [entry.event.name for entry in page.events] == ["Ann Again"]  # type: ignore[union-attr]
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        assert (await engine.state(Guest, "g-1")).name == "Ann Again"


async def test_a_secret_is_in_no_file_as_soon_as_it_is_destroyed(tmp_path: Path) -> None:
    """Also if nothing else is ever done: the process may be killed the moment after."""
    keys = SqliteKeys(str(tmp_path / "hotel.keys.db"))
    await keys.open(Ports(), "a-log")
    try:
        secret = bytes(range(100, 132))
        await keys.add([SubjectKey(1, "ann", secret), SubjectKey(2, "bob", secret[::-1])])
        await keys.erase(Erasure(0, "ann", 1, 0))
        whole = b"".join(f.read_bytes() for f in tmp_path.iterdir())
        assert secret not in whole
        assert secret[::-1] in whole
    finally:
        await keys.close()


class Leaving(SqliteKeys):
    """Keys that cannot be had for a while, as those of a service."""

    is_away = False

    def current(self, subject: str) -> SubjectKey | None:
        if self.is_away:
            raise StoreFailed("the keys cannot be had", written=False)
        return super().current(subject)


async def test_what_is_durable_is_acknowledged_though_no_snapshot_can_be_sealed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Leaving(f"{tmp_path}/hotel.keys.db")

    def leave(step: str) -> None:
        keys.is_away = step == "journal.durable"

    ports = Ports(failpoint=leave)
    async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=keys, ports=ports) as engine:
        notes = [engine.execute(Note("g-1", str(number))) for number in range(4)]
        receipts = await asyncio.gather(engine.execute(Register("g-1", NAME)), *notes)
        assert [receipt.version for receipt in receipts] == [1, 2, 3, 4, 5]
        assert "no snapshot of guest:g-1 is kept" in caplog.text
        assert engine.statistics().state == "running"


SLIPS = {
    "DELETE FROM keys": "never deleted",
    "UPDATE keys SET secret = zeroblob(32)": "keeps its number",
    "UPDATE keys SET subject = 'guest:g-2'": "keeps its number",
    "DELETE FROM erasures": "may be unfinished",
}


async def test_no_slip_in_a_shell_takes_a_key_away(tmp_path: Path) -> None:
    """Also in a file of keys that an earlier release has made."""
    store, keys = f"sqlite:{tmp_path}/hotel.db", str(tmp_path / "hotel.keys.db")
    async with hotel(store) as engine:
        await two_guests(engine)
    shell: Any = apsw.Connection(keys)
    for (name,) in shell.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        shell.execute(f"DROP TRIGGER {name}")
    shell.close()
    async with hotel(store) as engine:
        await engine.personal.erase("guest:g-2")
    shell = apsw.Connection(keys)
    for slip, told in SLIPS.items():
        with pytest.raises(apsw.ConstraintError, match=told):
            shell.execute(slip)
    shell.close()
    async with hotel(store) as engine:
        assert (await engine.state(Guest, "g-1")).name == NAME


HOSTILE = {
    "swallows new keys": "CREATE TRIGGER q BEFORE INSERT ON keys BEGIN SELECT RAISE(IGNORE); END",
    "keeps what is destroyed": """
        CREATE TRIGGER q BEFORE UPDATE ON keys BEGIN SELECT RAISE(IGNORE); END""",
    "notes secrets": """
        CREATE TRIGGER q AFTER INSERT ON keys
        BEGIN
            INSERT INTO erasures VALUES (NULL, new.subject, 0, 0, hex(new.secret), NULL, 1);
        END""",
}


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE)
async def test_no_trigger_in_a_file_of_keys_fires(tmp_path: Path, statement: str) -> None:
    store, keys = f"sqlite:{tmp_path}/hotel.db", str(tmp_path / "hotel.keys.db")
    async with hotel(store) as engine:
        await two_guests(engine)
    shell: Any = apsw.Connection(keys)
    shell.execute(statement)
    shell.close()
    async with hotel(store) as engine:
        await engine.execute(Register("g-3", NAME))
        erasure = await engine.personal.erase("guest:g-1")
        assert (erasure.keys, erasure.number) == (1, 1)

    shell = apsw.Connection(keys)
    destroyed = "SELECT count(*) FROM keys WHERE subject = 'guest:g-1' AND secret IS NULL"
    assert shell.execute(destroyed).fetchall() == [(1,)]
    shell.close()
    async with hotel(store) as engine:
        assert (await engine.state(Guest, "g-3")).name == NAME


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE keys RENAME TO other; CREATE VIEW keys AS SELECT * FROM other",
        "ALTER TABLE erasures ADD COLUMN more TEXT AS (reason)",
        "CREATE VIEW more AS SELECT secret FROM keys",
        "DROP INDEX keys_by_subject",
    ],
)
async def test_keys_of_another_schema_are_refused(tmp_path: Path, statement: str) -> None:
    """Also by who only reads them."""
    store, log = f"sqlite:{tmp_path}/hotel.db", tmp_path / "hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
    shell: Any = apsw.Connection(str(tmp_path / "hotel.keys.db"))
    shell.execute(statement)
    shell.close()
    with pytest.raises(StoreRefused, match="another schema"):
        async with hotel(store):
            pass
    _, vault = _form_and_vault(tmp_path)
    with pytest.raises(StoreRefused, match="another schema"):
        await vault.open(Ports(), _log_id(log), only_reads=True)
    await vault.close()
