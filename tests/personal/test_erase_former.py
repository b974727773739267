"""A person is in no table that an older handler has filled, and what nobody can ask is named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine import (
    Aggregate,
    Command,
    Delivery,
    Engine,
    Event,
    Id,
    Meta,
    Personal,
    Projection,
    Reactor,
    Row,
    Sink,
    Table,
    applies,
    handles,
    projects,
    reacts,
)
from engine.personal.erasing import Eraser
from engine.stores.sqlite.views.store import SqliteViews
from tests.personal.badges import BadgeRow, Badges, badged, folded, having
from tests.personal.hotel import NAME, Guest, Register
from tests.support.waiting import until


class Opened(Event, name="opened"):
    pass


class Arrived(Event, name="arrived"):
    """What all arrivals have in common: nothing personal."""


class GuestArrived(Arrived, name="guest-arrived"):
    name: Personal[str]


class Arrive(Command):
    stay: Id
    name: str


class Stay(Aggregate, kind="stay"):
    @handles
    def arrive(self, command: Arrive) -> GuestArrived:
        return GuestArrived(command.name)

    @applies
    def arrived(self, event: GuestArrived) -> None: ...

    @applies
    def opened(self, event: Opened) -> None: ...


class Arrivals(Projection, name="arrivals", version=1):
    rows: Table[BadgeRow]

    @projects
    def arrived(self, event: Arrived, meta: Meta) -> None:
        self.rows.put(BadgeRow(meta.id, getattr(event, "name", "")))


class Letters(Sink, name="letters", version=1):
    erased: ClassVar[list[str]] = []

    async def deliver(self, batch: Sequence[Delivery[Arrived]]) -> None: ...

    async def erase(self, subjects: Sequence[str]) -> None:
        self.erased.extend(subjects)


class CountRow(Row, key="guest"):
    guest: str
    opened: int


class Doors(Projection, name="badges", version=2):
    """What `Badges` was in an older release; it sees nobody any more."""

    rows: Table[CountRow]

    @projects
    def opened(self, event: Opened, meta: Meta) -> None:
        self.rows.put(CountRow(meta.id, 1))


class Greeter(Reactor, name="greeter", begins="start"):
    @reacts
    def arrived(self, event: GuestArrived, meta: Meta) -> None: ...


async def test_who_came_by_a_handler_of_a_base_class_is_erased(tmp_path: Path) -> None:
    Letters.erased.clear()
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Stay], projections=[Arrivals, Letters], store=store) as engine:
        await engine.execute(Arrive("s-1", NAME))
        await folded(engine)
        assert having(tmp_path, NAME)
        assert (await engine.personal.erase("stay:s-1")).finished is not None
    assert having(tmp_path, NAME) == []
    assert Letters.erased == ["stay:s-1"]


class Openings(Sink, name="letters", version=2):
    """What `Letters` is in a later release; it sees nobody any more."""

    erased: ClassVar[list[str]] = []

    async def deliver(self, batch: Sequence[Delivery[Opened]]) -> None: ...

    async def erase(self, subjects: Sequence[str]) -> None:
        self.erased.extend(subjects)


async def test_a_sink_that_sees_nobody_any_more_is_asked_for_what_it_was_sent(
    tmp_path: Path,
) -> None:
    Openings.erased.clear()
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Stay], projections=[Letters], store=store) as engine:
        await engine.execute(Arrive("s-1", NAME))
        await until(lambda: engine.statistics().projectors["letters"].position == 1)
    async with Engine([Stay], projections=[Openings], store=store, rebuild="auto") as engine:
        await engine.personal.erase("stay:s-1")
    assert Openings.erased == ["stay:s-1"]


@pytest.mark.parametrize("dropped_before", [False, True])
async def test_former_tables_of_what_sees_nobody_any_more_are_dropped(
    tmp_path: Path, dropped_before: bool
) -> None:
    """Those that somebody has dropped before are in the file of the views until then."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with badged(store, Badges) as engine:
        await engine.execute(Register("a", NAME))
        await folded(engine)
    async with Engine([Guest, Stay], projections=[Doors], store=store, rebuild="auto") as engine:
        await until(lambda: engine.statistics().projectors["badges"].position == 1)
        if dropped_before:
            await engine.projections.drop("badges")
        assert having(tmp_path, NAME)
        await engine.personal.erase("guest:a")
        builds = (await engine.projections.status("badges")).builds
        assert [build.state for build in builds] == ["serving"]
    assert having(tmp_path, NAME) == []


async def test_a_build_that_is_being_swapped_in_is_not_called_paused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, swap = Eraser._rest, SqliteViews.swap  # pyright: ignore[reportPrivateUsage]
    looks = 0

    async def look(eraser: Any, runner: Any) -> None:
        nonlocal looks
        await rest(eraser, runner)
        looks += 1

    async def swap_late(views: Any, *arguments: Any, **options: Any) -> None:
        before = looks
        await until(lambda: looks > before + 1)  # it has looked while the build rests
        await swap(views, *arguments, **options)

    monkeypatch.setattr(Eraser, "_rest", look)
    monkeypatch.setattr(SqliteViews, "swap", swap_late)
    async with badged(f"sqlite:{tmp_path / 'log.db'}", Badges) as engine:
        await engine.execute(Register("a", NAME))
        await folded(engine)
        assert (await engine.personal.erase("guest:a")).finished is not None
    assert looks
    assert "is paused" not in caplog.text


async def test_a_sink_that_is_not_declared_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Stay], projections=[Letters, Greeter], store=store) as engine:
        await engine.execute(Arrive("s-1", NAME))
        await folded(engine)
        assert (await engine.personal.erase("stay:s-2")).not_asked == ()

    with caplog.at_level(logging.WARNING, "foldline"):
        async with Engine([Stay], store=store) as engine:
            erasure = await engine.personal.erase("stay:s-1")
            assert erasure.finished is not None
            assert erasure.not_asked == ("letters",)  # a reactor keeps nothing anywhere
            assert "may be in what was written by letters" in caplog.text
            assert await engine.projections.drop("letters", reason="its system is gone")

            assert (await engine.personal.erase("stay:s-3")).not_asked == ()
