"""Process managers in the operations API: what each did last, and what it waits for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from engine import Aggregate, Archive, Engine, Forbidden, Limits, Ports
from engine.operations.answers import Sagas
from engine.operations.beside import LogOperations
from engine.stores.urls import backend_of_text
from tests.console.consoling import console_of, notes
from tests.kit.simulated_orders import Card, Order, Paying, Place


@asynccontextmanager
async def orders(folder: Path) -> AsyncGenerator[Engine]:
    """Give an engine with two orders that wait for a bank, and one that is paid."""
    limits = Limits(idle_seconds=3_600)
    store = f"sqlite:{folder / 'orders.db'}"
    async with Engine([Order, Card, Paying], store=store, limits=limits) as engine:
        for number in (5, 10, 7):
            await engine.execute(Place(f"o-{number}", number))
            wanted = "finished" if number % 5 else "begun"
            async for logged in engine.feed(names=[wanted], follow=True):
                if logged.meta.id == f"o-{number}":
                    break
        yield engine


async def test_an_instance_is_shown_with_what_it_waits_for(tmp_path: Path) -> None:
    async with orders(tmp_path) as engine:
        found = await engine.operations.sagas()

    assert [saga.stream for saga in found.sagas] == ["paying:o-7", "paying:o-10", "paying:o-5"]
    assert found.older is None
    paid, waits, _ = found.sagas
    assert (paid.event, paid.version, paid.timers, paid.state) == ("ended", 2, [], None)
    assert (waits.event, waits.version) == ("begun", 1)
    assert [(timer.name, timer.command) for timer in waits.timers] == [("patience", "give-up")]
    assert waits.timers[0].payload is None


async def test_only_those_that_wait_and_a_page_at_a_time(tmp_path: Path) -> None:
    async with orders(tmp_path) as engine:
        first = await engine.operations.sagas(waiting=True, limit=1)
        second = await engine.operations.sagas(waiting=True, limit=1, before=first.older)

    assert [saga.stream for saga in (*first.sagas, *second.sagas)] == ["paying:o-10", "paying:o-5"]


async def test_states_and_commands_take_the_right_to_payloads(tmp_path: Path) -> None:
    def authorize(principal: str | None, action: str, target: str) -> bool:
        return action == "look"

    async with orders(tmp_path) as engine:
        shown = await engine.operations.sagas(payloads=True)
        async with console_of(engine, authorize=authorize) as client:
            plain = await client.get("/api/v1/sagas")
            denied = await client.get("/api/v1/sagas", params={"payloads": "true"})

    states = [msgspec.json.decode(saga.state or b"null")["over"] for saga in shown.sagas]
    assert states == [True, False, False]
    assert shown.sagas[1].timers[0].payload is not None
    assert [saga.state for saga in msgspec.json.decode(plain.content, type=Sagas).sagas] == [
        None,
        None,
        None,
    ]
    assert denied.status_code == 403


async def test_the_engine_that_authorizes_is_asked(tmp_path: Path) -> None:
    def authorize(principal: str | None, action: str, asked: object) -> bool:
        return action != "feed"

    store = f"sqlite:{tmp_path / 'orders.db'}"
    async with Engine([Order, Card, Paying], store=store, authorize=authorize) as engine:
        with pytest.raises(Forbidden):
            await engine.operations.sagas()


async def test_beside_a_log_it_takes_the_code(tmp_path: Path) -> None:
    async with orders(tmp_path):
        pass
    url = f"sqlite:{tmp_path / 'orders.db'}"
    aggregates: list[type[Aggregate]] = [Order, Card, Paying]
    async with LogOperations(backend_of_text(url), Ports()) as beside:
        without = await beside.sagas()
    async with (
        Archive(aggregates, store=url) as archive,
        LogOperations(
            backend_of_text(url), Ports(), archive=archive, aggregates=aggregates
        ) as beside,
    ):
        found = await beside.sagas(payloads=True)

    assert (list(without.sagas), "--app" in without.note) == ([], True)
    assert [saga.stream for saga in found.sagas] == ["paying:o-7", "paying:o-10", "paying:o-5"]
    assert found.sagas[0].state is not None


async def test_a_program_without_process_managers_says_so(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        assert (await engine.operations.sagas()).note == "this program has no process managers"
