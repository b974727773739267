"""How archived pages are read: once, and where the archive is gone not event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Ports, Retention
from engine.outside.verifying import verify_log
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.log import pages
from engine.stores.sqlite.log.cold import cold_path
from engine.stores.urls import open_backend
from tests.support.postgres import Server
from tests.whole.orders import Close, Closed, Note, Open, Order

RULES = [Retention(Order, [Closed], archive_after=timedelta(0))]
ALL = 1 << 30


class Lane:
    def progress(self, position: int, end: int) -> None: ...

    def rest(self) -> None: ...


async def archived(store: str) -> None:
    """Archive 24 of 26 events: eight orders in a row, and then an open one."""
    async with Engine([Order], store=store) as engine:
        for n in range(8):
            await engine.execute(Open(f"o-{n}", f"s-{n}"))
            await engine.execute(Note(f"o-{n}", f"note {n}"))
            await engine.execute(Close(f"o-{n}"))
        await engine.execute(Open("o-8", "s-8"))
        await engine.execute(Note("o-8", "goes on"))
        await engine.operations.retention(RULES)


async def test_an_archived_page_is_read_once_and_the_log_alone_where_nothing_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "shop.db")
    await archived(f"sqlite:{path}")
    read: list[str] = []
    at_once: Callable[..., Any] = pages._at_once

    def counted(connection: Any, page: Any, *rest: Any) -> Any:
        read.append("log" if page is pages._FEED_PAGE.log else "cold")
        return at_once(connection, page, *rest)

    monkeypatch.setattr(pages, "_at_once", counted)
    monkeypatch.setattr(pages, "_COLD_PAGES", 10)
    with open_backend(f"sqlite:{path}").outside(Ports()).log_reader() as reader:
        after = 0
        while page := reader.read_feed(after, events_max=2, bytes_max=ALL):
            assert [event.position for event in page] == [after + 1, after + 2]
            after = page[-1].position
        assert after == 26

        # The first is read in vain, and so is the one that asks whether it goes on.
        assert read[:12] == ["log", *["cold"] * 11]
        assert Counter(read)["log"] <= 3
        read.clear()
        for _ in range(20):
            reader.read_feed(24, events_max=2, bytes_max=ALL)
        assert read[-10:] == ["log"] * 10


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_where_the_archive_is_gone_its_events_are_not_asked_for_one_by_one(
    kind: str, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, schema = str(tmp_path / "shop.db"), postgres.new_schema()
    store = f"sqlite:{path}" if kind == "sqlite" else postgres.url(schema)
    await archived(store)
    if kind == "sqlite":
        Path(cold_path(path)).unlink()
    else:
        postgres.sql(f"DROP SCHEMA {schema}_archive CASCADE")
    outside, found = open_backend(store).outside(Ports()), list[Finding]()
    source = outside.copy_source()
    asked: list[int] = []
    read_feed = type(source.log).read_feed

    def counted(self: Any, after: int, *, events_max: int, bytes_max: int) -> Any:
        asked.append(after)
        return read_feed(self, after, events_max=events_max, bytes_max=bytes_max)

    monkeypatch.setattr(type(source.log), "read_feed", counted)
    done = verify_log(source, outside.structure(), found.append, Lane())

    assert done.events == 2
    assert [one.position for one in found if one.wrong == "archive" and one.position] == [1]
    assert len([after for after in asked if after < 24]) <= 4, asked
