"""An index of tags is verified: what only it says is named, and what only the log says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from engine import Engine
from engine.model.stored import StoredEvent, checksum_of
from engine.outside import tags
from engine.outside.tags import TagCheck, TagSums
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.outside.log import SqliteLogReader
from tests.backups.looked_at import verified
from tests.outside.copied import NewStore
from tests.support.postgres import Server
from tests.write.courses import Course, Enrol, Offer, school


async def enrolled(engine: Engine) -> None:
    """Store three events with five tags."""
    await engine.execute(Offer("c", 9))
    await engine.execute(Enrol("c", "s"))
    await engine.execute(Enrol("c", "t"))


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> Path:
    async with school(store=f"sqlite:{tmp_path}/log.db") as engine:
        await enrolled(engine)
        assert verified(f"sqlite:{tmp_path}/log.db") == (5, []), "at work"
    return tmp_path / "log.db"


def changed(path: Path, statement: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        run(connection, statement)


MISSED = "tag 2: the index of tags does not find the event at position 2 by a tag student"
ODD = "tag 1: the index of tags finds the event at position 1 by a tag student that it has not"
DAMAGE: list[tuple[str, list[str]]] = [
    ("SELECT 1", []),
    ("DELETE FROM tags WHERE tag = 'student:s'", [f"{MISSED} that it has"]),
    ("INSERT INTO tags VALUES ('student:s', 1, 1)", [ODD]),
    ("UPDATE tags SET position = 1 WHERE tag = 'student:s'", [ODD, f"{MISSED} that it has"]),
]


@pytest.mark.parametrize(("statement", "said"), DAMAGE)
async def test_what_only_one_of_them_says_is_named(
    path: Path, statement: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "_BLOCK", 2)
    monkeypatch.setattr(tags, "_PAGE_ROWS", 2)
    changed(path, statement)
    count, found = verified(f"sqlite:{path}")
    assert (count, sorted(found)) == (5, sorted(said))


@pytest.mark.parametrize(
    "payload",
    [b'{"course":"\xff","seats":9}', b'{"course":"c","x":' + b"[" * 100_000],
    ids=["u", "d"],
)
async def test_an_event_that_nobody_can_decode_is_named_and_ends_no_verification(
    path: Path, payload: bytes
) -> None:
    with SqliteLogReader(str(path)) as log:
        first = log.read_feed(0, events_max=1, bytes_max=1 << 20)[0]
    told = first.stream, first.version, first.name, first.event_version
    checksum = checksum_of(*told, first.recorded, first.encoding, payload, first.metadata)
    changed(
        path,
        f"UPDATE events SET payload = x'{payload.hex()}', checksum = {checksum} WHERE position = 1",
    )
    count, found = verified(f"sqlite:{path}")
    assert (count, found) == (4, [ODD.replace("student", "course")])


async def test_a_row_of_another_type_is_named_and_an_index_that_is_emptied_is_made_again(
    path: Path,
) -> None:
    changed(path, "UPDATE tags SET type = 9 WHERE tag = 'course:c' AND position = 1")
    _, found = verified(f"sqlite:{path}")
    assert len(found) == 2

    with closing(apsw.Connection(str(path))) as connection:
        run(connection, "DELETE FROM tag_forms")
    async with school(store=f"sqlite:{path}") as engine:
        assert (await engine.state(Course, "c")).taken == 2
    assert verified(f"sqlite:{path}") == (5, [])


@pytest.mark.parametrize("fields", ["CAST(x'ff' AS TEXT)", "'[['"])
async def test_an_index_whose_forms_are_damaged_is_made_again(path: Path, fields: str) -> None:
    changed(path, f"UPDATE tag_forms SET fields = {fields}")
    changed(path, "DELETE FROM tags")
    async with school(store=f"sqlite:{path}") as engine:
        assert (await engine.state(Course, "c")).taken == 2
    assert verified(f"sqlite:{path}") == (5, [])


async def test_an_index_that_is_made_anew_meanwhile_is_not_compared(path: Path) -> None:
    def pages(after: int, end: int) -> list[list[StoredEvent]]:
        return [list(log.read_feed(after, events_max=end, bytes_max=1 << 20))]

    with SqliteLogReader(str(path)) as log:
        check = TagCheck(log)
        sums = TagSums(check.forms)
        sums.see(log.read_feed(0, events_max=9, bytes_max=1 << 20))
        check.see(sums.sums, sums.rows)
        changed(path, "UPDATE tag_forms SET fixed = '[]', fields = '[]' WHERE name = 'noted'")
        with pytest.raises(Exception, match="made anew meanwhile"):
            list(check.differences(pages, 3, []))


async def test_a_log_in_postgresql_is_compared_too(new: NewStore, postgres: Server) -> None:
    store = new("postgresql")
    async with school(store=store) as engine:
        await enrolled(engine)
    assert verified(store) == (5, [])
    schema = store.partition("schema=")[2].partition("&")[0]
    postgres.sql(f"ALTER TABLE {schema}.tags DISABLE TRIGGER USER")
    postgres.sql(f"DELETE FROM {schema}.tags WHERE tag = 'student:s'")
    postgres.sql(f"ALTER TABLE {schema}.tags ENABLE TRIGGER USER")
    assert verified(store) == (5, [f"{MISSED} that it has"])
