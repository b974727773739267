"""Timers of tenants that are closed: fired if `fire_timers` says so, at little cost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Ports, Tenants
from engine.stores.contract.backend import Backend
from engine.stores.urls import open_backend
from engine.tenants import tenants as tenants_module
from engine.tenants import waking
from engine.tenants.names import FolderStores
from engine.testing.scenario import ManualClock
from tests.support.postgres import Server
from tests.support.waiting import until
from tests.timers.kettles import Kettle, SwitchOn, failing, runs

START = 1_700_000_000_000_000


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    runs.clear()
    failing.clear()
    yield
    failing.clear()


def made(clock: ManualClock, store: str, *, join: bool = False) -> Engine:
    return Engine([Kettle], store=store, ports=Ports(clock=clock, watcher=None), join=join)


def tenants_of(
    folder: Path,
    clock: ManualClock,
    *,
    fire_timers: bool = True,
    open_max: int = 2,
    join: bool = False,
) -> Tenants:
    return Tenants(
        partial(made, clock, join=join),
        folder=folder,
        open_max=open_max,
        idle_seconds=60,
        fire_timers=fire_timers,
        ports=Ports(clock=clock, watcher=None),
    )


async def switched_on(tenants: Tenants, *names: str, minutes: float = 30) -> None:
    for name in names:
        async with tenants.engine(name, create=True) as engine:
            await engine.execute(SwitchOn(name, minutes))


def fired() -> list[str]:
    return sorted(kettle for _, kettle, _ in runs)


async def closed(tenants: Tenants, clock: ManualClock) -> None:
    clock.advance(61)
    tenants.close_idle()
    await until(lambda: tenants.statistics().open + tenants.statistics().closing == 0)


async def test_closed_tenants_are_opened_when_their_timers_are_due(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock) as tenants:
        await switched_on(tenants, "blue", "green", "red")
        await closed(tenants, clock)
        opened = tenants.statistics().opened
        clock.advance(20 * 60)
        assert tenants.statistics().opened == opened
        clock.advance(10 * 60)
        await until(lambda: len(runs) == 3)
        # Nobody else uses them, so they do not stay in the way of others.
        await until(lambda: tenants.statistics().open + tenants.statistics().closing == 0)
        assert (tenants.statistics().woken, tenants.statistics().opened) == (3, opened + 3)
    assert fired() == ["blue", "green", "red"]


async def test_those_that_nobody_has_opened_yet_are_woken_too(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, fire_timers=False) as tenants:
        await switched_on(tenants, "blue", "green")
    (tmp_path / "broken.db").write_bytes(b"nothing of SQLite")
    clock.advance(3_600)
    async with tenants_of(tmp_path, clock) as tenants:
        await until(lambda: len(runs) == 2)
    assert fired() == ["blue", "green"]


async def test_a_file_that_may_not_be_looked_for_keeps_no_other_tenant_asleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a system says to who has no right to a folder; a test that runs as root has each."""
    clock, is_there = ManualClock(START), FolderStores.is_there

    def refused(stores: FolderStores, name: str) -> bool:
        if name == "amber":
            raise PermissionError(13, "Permission denied")
        return is_there(stores, name)

    async with tenants_of(tmp_path, clock, fire_timers=False) as tenants:
        await switched_on(tenants, "amber", "blue")
    clock.advance(3_600)
    monkeypatch.setattr(FolderStores, "is_there", refused)
    async with tenants_of(tmp_path, clock) as tenants:
        await until(lambda: fired() == ["blue"])
    assert "the timers of tenant amber are read later: PermissionError" in caplog.text


async def test_a_file_that_hangs_as_it_is_read_keeps_nobody_from_another_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that another process has locked, for some seconds each time."""
    clock, begun, ends = ManualClock(START), threading.Event(), threading.Event()

    def slow(store: str) -> Backend:
        if "amber" in store:
            begun.set()
            ends.wait(60)
        return open_backend(store)

    async with tenants_of(tmp_path, clock, fire_timers=False) as tenants:
        await switched_on(tenants, "amber", "blue")
    monkeypatch.setattr(tenants_module, "open_backend", slow)
    async with tenants_of(tmp_path, clock) as tenants:
        await until(begun.is_set)
        try:
            async with asyncio.timeout(10), tenants.engine("blue") as engine:
                assert await engine.next_timer()
        finally:
            ends.set()


async def test_without_the_option_a_closed_tenant_waits(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, fire_timers=False) as tenants:
        await switched_on(tenants, "blue")
        await closed(tenants, clock)
        clock.advance(3_600)
        assert (tenants.statistics().opened, tenants.statistics().woken) == (1, 0)
        async with tenants.engine("blue") as engine:
            await until(lambda: engine.statistics().timers.fired)


async def test_a_timer_that_fails_is_tried_again_by_a_tenant_that_closed(tmp_path: Path) -> None:
    clock = ManualClock(START)
    failing.add("blue")
    async with tenants_of(tmp_path, clock) as tenants:
        await switched_on(tenants, "blue", minutes=30)
        await closed(tenants, clock)
        clock.advance(30 * 60)
        await until(lambda: len(runs) == 1)
        failing.clear()

        def second_try() -> bool:
            clock.advance(1)
            return len(runs) == 2

        await until(second_try)


async def test_a_tenant_without_room_is_woken_later(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, open_max=1) as tenants:
        await switched_on(tenants, "blue", "green")
        await until(lambda: tenants.statistics().closing == 0)
        async with tenants.engine("green"):
            clock.advance(31 * 60)
            await until(lambda: fired() == ["green"] and tenants.statistics().overloaded)
        clock.advance(11)
        await until(lambda: fired() == ["blue", "green"])


async def test_one_that_is_restored_is_woken_and_one_that_is_removed_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waking, "_NAMES_SECONDS", 0.02)
    clock, folder = ManualClock(START), tmp_path / "data"
    looked: list[str] = []
    look: Any = waking.Waking._look_at

    async def noted(self: waking.Waking, name: str, *more: int | None) -> None:
        await look(self, name, *more)
        looked.append(name)

    monkeypatch.setattr(waking.Waking, "_look_at", noted)
    async with tenants_of(folder, clock) as tenants:
        await switched_on(tenants, "blue", "green")
        await closed(tenants, clock)
        await until(lambda: looked.count("blue") == 2)  # it is not read as it is moved
        folder.joinpath("blue.db").rename(tmp_path / "kept.db")
        clock.advance(3_600)
        await until(lambda: fired() == ["green"])
        await until(lambda: tenants.statistics().open + tenants.statistics().closing == 0)
        assert "blue" not in caplog.text
        (tmp_path / "kept.db").rename(folder / "red.db")
        await until(lambda: fired() == ["blue", "green"])
    assert "blue" not in caplog.text


async def test_what_another_process_has_set_is_fired_though_nobody_opens_the_tenant_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a nightly job does beside the web's process, or a worker that is not started again."""
    monkeypatch.setattr(waking, "_NAMES_SECONDS", 0.02)
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock) as tenants:
        await switched_on(tenants, "blue")
        clock.advance(30 * 60)
        await until(lambda: fired() == ["blue"])
        await closed(tenants, clock)
        async with tenants_of(tmp_path, clock, fire_timers=False) as others:
            await switched_on(others, "blue")

        def fired_again() -> bool:
            clock.advance(61)
            return fired() == ["blue", "blue"]

        await until(fired_again)


async def test_who_joins_a_tenant_at_work_leaves_its_timers_to_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenants_module, "_ELSEWHERE_SECONDS", 0.0)
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, fire_timers=False, join=True) as owners:
        await switched_on(owners, "blue")
        async with owners.engine("blue"), tenants_of(tmp_path, clock, join=True) as tenants:
            waking_up: Any = tenants._waking
            await until(lambda: waking_up._times)  # it has looked before the owner fires
            clock.advance(30 * 60)
            await until(lambda: tenants.statistics().woken == 1)
            await until(lambda: fired() == ["blue"])
            await until(lambda: tenants.statistics().open + tenants.statistics().closing == 0)
    assert "is woken later" not in caplog.text


async def test_those_in_postgresql_are_woken_after_a_start_and_after_others_have_set_them(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "_NAMES_SECONDS", 0.02)
    clock, name = ManualClock(START), postgres.new_schema()
    url = postgres.url().partition("?")[0]

    def tenants_there() -> Tenants:
        ports = Ports(clock=clock, watcher=None)
        make = partial(made, clock)
        return Tenants(make, database=url, idle_seconds=60, fire_timers=True, ports=ports)

    async with tenants_there() as tenants:
        await switched_on(tenants, name)
    clock.advance(3_600)
    async with tenants_there() as tenants:
        await until(lambda: fired() == [name])

        def is_closed() -> bool:
            clock.advance(61)
            tenants.close_idle()
            return tenants.statistics().open + tenants.statistics().closing == 0

        await until(is_closed)
        async with Tenants(partial(made, clock), database=url) as others:
            await switched_on(others, name)
        clock.advance(3_600)
        await until(lambda: fired() == [name, name])
