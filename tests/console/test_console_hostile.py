"""What a console meets that its page never sends: odd queries and mounts, damage, large events."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.integrations.console import Console
from engine.log.browsing import Large, browse
from engine.log.selection import Selection
from engine.model.stored import StoredEvent
from engine.stores.contract.log import Head, StreamPage, StreamRead
from tests.console.consoling import Write, asking, console_of, make_engine, notes
from tests.support.postgres import Server

QUERIES = [b"stream=%ff%fe", b"limit=%ff", b"key=%ed%a0%80"]


async def sent(console: Console, path: str, root: str = "") -> tuple[int, str | None]:
    """Give the status of an answer, and where it leads."""
    answers: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "path": path, "root_path": root, "method": "GET"}
    headers = [(b"host", b"localhost")]
    await console(scope | {"headers": headers, "client": ("127.0.0.1", 1)}, receive, send)
    place = dict(answers[0]["headers"]).get(b"location")
    return answers[0]["status"], None if place is None else place.decode()


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_that_is_no_utf8_is_refused(tmp_path: Path, query: bytes) -> None:
    async with notes(tmp_path) as engine:
        may = Console(engine, authorize=lambda *_: True)
        may_not = Console(engine, authorize=lambda *_: False)
        for console, status in ((may, 422), (may_not, 403)):
            async with asking(console) as client:
                answer = await client.get(f"/api/v1/log?{query.decode()}")
                assert answer.status_code == status


async def test_what_no_text_of_a_server_can_hold_is_refused_and_no_fault_of_its(
    postgres: Server, tmp_path: Path
) -> None:
    keys = f"sqlite:{tmp_path / 'keys.db'}"
    engine = make_engine(postgres.url(postgres.new_schema()), keys=keys)
    fire = {"stream": "note:a\0", "name": "b\0"}
    async with engine, asking(Console(engine, authorize=lambda *_: True)) as client:
        for query in ("timers?after_stream=%00", "claims?after_name=a&after_value=%00"):
            assert (await client.get(f"/api/v1/{query}")).status_code == 422
        answer = await client.post("/api/v1/timers/fire", json=fire)
        assert (answer.status_code, "NUL" in answer.text) == (422, True)


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ("/ops", "./ops/"),
        ("/a/ops", "./ops/"),
        ("/\u043e\u043f\u0441", "./%D0%BE%D0%BF%D1%81/"),
        ("/a\r\nSet-Cookie: b", "./a%0D%0ASet-Cookie%3A%20b/"),
        ("/javascript:alert(1)", "./javascript%3Aalert%281%29/"),
        ("//elsewhere.example", "./elsewhere.example/"),
    ],
)
async def test_a_mount_leads_to_its_page_whatever_its_name(
    tmp_path: Path, root: str, place: str
) -> None:
    console = Console(make_engine(f"sqlite:{tmp_path / 'notes.db'}"))
    assert await sent(console, root, root) == (307, place)
    assert await sent(console, f"{root}/", root) == (200, None)


async def test_a_mount_at_the_root_leads_nowhere_else(tmp_path: Path) -> None:
    console = Console(make_engine(f"sqlite:{tmp_path / 'notes.db'}"))
    assert await sent(console, "/", "/") == (200, None)


async def test_pages_of_sites_that_are_named_may_ask_where_nobody_authorizes(
    tmp_path: Path,
) -> None:
    async with notes(tmp_path) as engine:
        headers = {"Origin": "https://desk.example"}
        async with asking(Console(engine, origins=["https://desk.example"])) as client:
            assert (await client.get("/api/v1/overview", headers=headers)).status_code == 200


def damage_an_event(folder: Path) -> None:
    """Flip a bit of it as a disk would: past the guards of the file."""
    with sqlite3.connect(folder / "notes.db") as log:
        (guard,) = log.execute("SELECT sql FROM sqlite_master WHERE name = 'events_never_change'")
        log.execute("DROP TRIGGER events_never_change")
        log.execute("UPDATE events SET payload = x'7b7e' WHERE position = 2")
        log.execute(guard[0])
    log.close()


async def test_an_overview_is_given_of_a_log_with_damage_near_its_end(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        for n in range(3):
            await engine.execute(Write(f"n-{n}", f"text {n}"))
    damage_an_event(tmp_path)
    async with notes(tmp_path) as engine, console_of(engine) as client:
        told = (await client.get("/api/v1/overview")).json()
        assert (told["position"], told["hot"], told["hot_of"]) == (3, [], 0)
        page = (await client.get("/api/v1/log")).json()
        assert [bool(event["damaged"]) for event in page["events"]] == [False, True, False]


class Heavy:
    """A log of a thousand events of 100 kB, each made as it is read."""

    async def head(self) -> Head:
        return Head(1_000, 0, 0)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        count = max(1, min(events_max, bytes_max // 100_000))
        return [self._event(after + n) for n in range(1, count + 1)]

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        raise NotImplementedError

    def _event(self, position: int) -> StoredEvent:
        data = b"[" + b" " * 100_000 + b"]"
        return StoredEvent(position, f"odd:{position}", 1, "heavy", 1, 0, data, b"", 0, 0)


@pytest.mark.parametrize("selection", [Selection(), Selection(names=("none",))])
async def test_a_page_of_large_events_takes_the_memory_of_one_read(selection: Selection) -> None:
    tracemalloc.start()
    page = await browse(Heavy(), selection, limit=500, payload_max=16_384)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    expected = 0 if selection.names else 500
    assert [type(event) for event in page.events] == [Large] * expected
    assert all(isinstance(e, Large) and e.payload_bytes == 100_002 for e in page.events)


async def test_a_large_payload_is_given_where_its_event_is_asked_for_alone(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        await engine.execute(Write("n-1", "small", "ann", "x" * 20_000))
        for limit, given in ((1, True), (2, False)):
            query = {"limit": limit, "payloads": True}
            (event,) = (await client.get("/api/v1/log", params=query)).json()["events"]
            assert (event["payload"] is not None, event["payload_bytes"] > 20_000) == (given, True)
