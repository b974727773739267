"""A flipped bit in a key lets rows stand out of order: who reads pages of them comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.errors import EngineError, StoreRefused
from engine.runtime.ports import Ports
from engine.stores.sqlite.connection import run
from engine.stores.urls import open_backend
from tests.outside.copied import raw

KEYS = {
    "snapshots": [b"stream:%d\0" % n for n in range(6)],
    "claims": [b"name\xc3\xbc %d" % n for n in range(0, 30, 3)],
    "timers": [b"stream:%dt-%d" % (n, n) for n in range(0, 24, 4)],
}
PAGES_MAX = 200
"""More than rows: a reader that asks for so many pages never ends."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a log with claims, timers and snapshots."""
    path = tmp_path_factory.mktemp("order") / "log.db"
    asyncio.run(raw(f"sqlite:{path}", 40))
    with closing(apsw.Connection(str(path))) as connection:
        for n in range(6):
            row = (f"stream:{n}\0", 1, n + 1, 7, 1, b"{}")
            run(connection, "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?)", row)
    return path


def pages(store: str, table: str) -> Iterator[Sequence[Any]]:
    """Read a table as `verify`, `backup` and `copy` do, two rows a page."""
    with open_backend(store).outside(Ports()).copy_source() as source:
        if table == "snapshots":
            after = ""
            while snapshots := source.snapshots(after, 2):
                yield snapshots
                after = snapshots[-1].stream
        key = ("", "")
        while table == "claims" and (claims := source.log.read_claims(key, claims_max=2)):
            yield claims
            key = (claims[-1].name, claims[-1].value)
        while table == "timers" and (timers := source.log.read_timers(key, timers_max=2)):
            yield timers
            key = timers[-1].key


@pytest.mark.parametrize("table", KEYS)
def test_rows_that_are_out_of_order_are_told_and_not_read_for_ever(
    path: Path, tmp_path: Path, table: str
) -> None:
    sound = path.read_bytes()
    copy = tmp_path / "log.db"
    store = f"sqlite:{copy}"
    told = 0
    for key in KEYS[table]:
        assert key in sound
        place = -1
        while (place := sound.find(key, place + 1)) >= 0:
            for byte, bit in ((b, 1 << n) for b in range(len(key)) for n in range(8)):
                flipped = bytearray(sound)
                flipped[place + byte] ^= bit
                copy.write_bytes(flipped)
                read = count()
                try:
                    with suppress(UnicodeDecodeError):
                        for _ in pages(store, table):
                            assert next(read) < PAGES_MAX, f"{place + byte}, {bit}: for ever"
                except StoreRefused as error:
                    told += "not in order" in str(error)
                except EngineError:
                    pass
    assert told
