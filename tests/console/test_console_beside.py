"""The console beside a log: at rest and in use, without the application's code and with it."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import Archive, Ports
from engine.__main__ import main
from engine.cli.console import add_parser
from engine.integrations.console import Console
from engine.operations.beside import LogOperations
from engine.stores.urls import backend_of_text, store_of_text
from tests.console.consoling import AILING, Note, Notes, Write, asking, caught_up, notes

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _well_again() -> Generator[None]:
    yield
    AILING.clear()


async def filled(folder: Path) -> str:
    """Leave a log with a parked event; give its path."""
    AILING.add("bad")
    async with notes(folder) as engine:
        await engine.execute(Write("n-1", "one", "ann", "Ann Smith"))
        await engine.execute(Write("n-1", "two"))
        await engine.execute(Write("bad", "three"))
        await caught_up(engine)
    return str(folder / "notes.db")


@asynccontextmanager
async def beside(path: str, *, app: bool = False) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of the console of a log, with the application's code or without."""
    backend, ports = backend_of_text(path), Ports()
    if not app:
        async with LogOperations(backend, ports) as operations, asking(Console(operations)) as told:
            yield told
        return
    async with (
        Archive([Note], store=store_of_text(path), projections=[Notes]) as archive,
        LogOperations(backend, ports, archive=archive, aggregates=[Note]) as operations,
        asking(Console(operations)) as told,
    ):
        yield told


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_log_at_rest_is_shown_as_it_was_left(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    async with beside(path) as client:
        overview = await get(client, "overview")
        [projection] = await get(client, "projections")
        [parked] = await get(client, "parked", projection="notes")
        page = await get(client, "log", payloads=True)
        timers = await get(client, "timers")
        claims = await get(client, "claims")
        told = await get(client, "console")
        state = await client.get("/api/v1/state", params={"stream": "note:n-1"})

    assert (overview["state"], overview["position"], overview["parked"]) == ("at rest", 3, 1)
    assert (projection["state"], projection["parked"]) == ("at-rest", 1)
    assert parked["stream"] == "note:bad"
    assert [e["version"] for e in page["events"]] == [1, 2, 1]
    assert "Ann Smith" not in str(page)
    assert len(timers["timers"]) == 2
    assert len(claims["claims"]) == 3
    assert told["has_states"] is False
    assert state.status_code == 409
    assert "--app" in state.json()["detail"]


async def test_with_the_application_states_and_personal_data_are_shown(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    async with beside(path, app=True) as client:
        page = await get(client, "log", stream="note:n-1", payloads=True)
        state = await get(client, "state", stream="note:n-1", version=1)
        changes = await get(client, "difference", stream="note:n-1", before=1, after=2)

    assert page["events"][1]["payload"]["signature"] == "Ann Smith"
    assert (state["version"], state["state"]["text"]) == (1, "one")
    assert {change["path"] for change in changes} == {"text", "signature", "texts.two"}


async def test_what_needs_no_engine_is_done_at_rest_and_the_rest_waits(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    async with beside(path) as client:
        body = {"projection": "notes", "reason": "a new disk"}
        paused = (await client.post("/api/v1/projections/pause", json=body)).json()
        retried = (await client.post("/api/v1/projections/retry", json=body)).json()
        timers = await client.post("/api/v1/timers/retry", json={})
        skipping = {**body, "projection": "nobody", "position": 3}
        refused = await client.post("/api/v1/projections/skip", json=skipping)
        [shown] = await get(client, "projections")
        audit = await get(client, "audit")

    assert paused["state"] == "done"
    assert retried["state"] == "waiting"
    assert timers.status_code == refused.status_code == 409
    assert shown["state"] == "paused"
    assert [request["kind"] for request in shown["requests"]] == ["retry"]
    [entry] = audit["entries"]
    assert (entry["action"], entry["reason"]) == ("pause", "a new disk")
    AILING.clear()
    async with notes(tmp_path) as engine:
        await engine.projections.resume("notes")
        while await engine.projections.parked("notes"):
            await asyncio.sleep(0.02)
        kinds = [each.kind for each in await engine.projections.decisions("notes")]
    assert "retry" in kinds


async def test_a_log_without_views_is_shown_all_the_same(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    for file in tmp_path.glob("*views*"):
        file.unlink()
    async with beside(path) as client:
        assert await get(client, "projections") == []
        assert (await get(client, "audit"))["entries"] == []
        assert len((await get(client, "log"))["events"]) == 3


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
async def test_the_command_answers_whoever_has_its_token_and_nobody_else(
    tmp_path: Path, end: signal.Signals
) -> None:
    path = await filled(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "engine", "console", path, "--read-only"],
        *["--app", "tests.console.beside_app:engine"],
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        found = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\w+)$", line.strip())
        assert found, line
        async with httpx.AsyncClient(base_url=found[1], timeout=30) as client:
            assert (await client.get("/")).status_code == 200
            assert (await client.get("/api/v1/overview")).status_code == 403
            wrong = {"Authorization": "Bearer 7"}
            assert (await client.get("/api/v1/overview", headers=wrong)).status_code == 403
            ours = {"Authorization": f"Bearer {found[2]}"}
            told = (await client.get("/api/v1/overview", headers=ours)).json()
            assert told["position"] == 3
            asked: dict[str, Any] = {"stream": "note:n-1", "version": 1}
            state = await client.get("/api/v1/state", params=asked, headers=ours)
            assert state.json()["state"]["signature"] == "Ann Smith"
            body = {"projection": "notes"}
            pause = "/api/v1/projections/pause"
            assert (await client.post(pause, json=body, headers=ours)).status_code == 403
    finally:
        process.send_signal(end)
        status = await process.wait()
    assert status == 0


async def test_a_port_that_is_in_use_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = await filled(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status = await asyncio.to_thread(main, ["console", path, "--port", str(port)])

    assert status == 1
    assert (
        f"cannot listen to port {port} of this machine: Address already" in capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [["--port", "65536"], ["--port", "x"], []])
def test_wrong_arguments_of_the_command_are_told(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["console", *arguments, *(["x.db"] if arguments else [])])
    assert caught.value.code == 2
