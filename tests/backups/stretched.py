"""A log of three streams in turn, and how it is damaged so that each event is sound by itself."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine.model.codec import Metadata, encode_metadata
from engine.model.stored import checksum_of
from engine.stores.sqlite.connection import run
from tests.backups.made import append

__all__ = ["EVENTS", "STREAMS", "changed", "made", "metadata_at", "path"]

STREAMS = ("a:1", "a:2", "b:1")
EVENTS = 30
SELECTED = (
    "SELECT s.name, e.version, t.name, t.version, e.recorded, e.encoding, e.payload, e.metadata "
    "FROM events e JOIN streams s ON s.number = e.stream JOIN event_types t ON t.number = e.type "
    "WHERE e.position = ?"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a log of three streams in turn, each event with a key of its own."""
    path = tmp_path_factory.mktemp("made") / "log.db"

    async def make() -> None:
        for n in range(EVENTS):
            metadata = encode_metadata(Metadata(key=f"k-{n}", fingerprint=n))
            stream = STREAMS[n % len(STREAMS)]
            await append(f"sqlite:{path}", 1, stream=stream, after=n // 3, metadata=metadata)

    asyncio.run(make())
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "log.db"))


def changed(path: Path, statement: str, *positions: int) -> None:
    """Change a log, and let the events at these positions have the checksum of what they are."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        run(connection, statement)
        for position in positions:
            [row] = run(connection, SELECTED, (position,))
            renewed = "UPDATE events SET checksum = ? WHERE position = ?"
            run(connection, renewed, (checksum_of(*row), position))


def metadata_at(position: int, metadata: str) -> str:
    return f"UPDATE events SET metadata = CAST('{metadata}' AS BLOB) WHERE position = {position}"
