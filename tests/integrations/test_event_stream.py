"""Server-sent events: the pieces without a server, then a real one with real clients."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import Closed, Engine, Forbidden, InvalidInput, Receipt
from engine.integrations import event_stream as module
from engine.integrations.event_stream import EventStream, event_stream, last_event
from tests.integrations.serving import Server, server
from tests.support.counters import Add, Counter, Empty
from tests.support.held_store import HeldStore, unknown
from tests.support.tallies import GetTallies, GetTally, Tallies, get_tallies, get_tally
from tests.support.waiting import settle, until


def tallied(**options: Any) -> Engine:
    return Engine([Counter], projections=[Tallies], answers=[get_tally, get_tallies], **options)


def token(position: int) -> str:
    return Receipt("", 0, position).token


class Client:
    """What one client is sent; it leaves, or takes nothing, when told to."""

    def __init__(self, stream: EventStream) -> None:
        self.sent: list[Any] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.leaving = asyncio.Event()
        self.task = asyncio.ensure_future(stream({"type": "http"}, self._receive, self._send))

    async def _receive(self) -> Any:
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        await self.taking.wait()

    @property
    def body(self) -> str:
        return b"".join(m["body"] for m in self.sent[1:]).decode()

    @property
    def is_whole(self) -> bool:
        return not self.sent[-1].get("more_body", False)

    async def is_sent(self, text: str) -> None:
        await until(lambda: text in self.body)

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.task


# -- the pieces ------------------------------------------------------------------------------


async def test_each_answer_is_an_event_whose_id_is_its_position() -> None:
    async with tallied() as engine:
        client = Client(await event_stream(engine.watch(GetTally("a"))))
        await client.is_sent("data: null")
        await engine.execute(Add("a", 3))
        await client.is_sent('"total":3')

        assert client.sent[0]["status"] == 200
        assert (b"content-type", b"text/event-stream") in client.sent[0]["headers"]
        assert client.body == (
            f"id: {token(0)}\ndata: null\n\n"
            f'id: {token(1)}\ndata: {{"counter":"a","total":3,"events":1}}\n\n'
        )
        assert not client.is_whole
    await client.end()
    assert client.is_whole


async def test_a_feed_shows_events_without_what_travelled_with_their_commands() -> None:
    async with tallied() as engine:
        await engine.execute(
            Add("a", 3), key="secret-k", principal="secret-p", correlation="secret-c"
        )
        client = Client(await event_stream(engine.feed(follow=True)))
        await client.is_sent("added")
        assert client.body.startswith(":\n\n")
        data = json.loads(client.body.partition("data: ")[2])

        assert "secret" not in client.body
        assert (data["position"], data["stream"], data["name"]) == (1, "counter:a", "added")
        assert data["event"]["amount"] == 3
        client.leaving.set()
        await client.end()
        assert engine._bus._subscriptions[1:] == []


async def test_the_data_may_be_made_by_the_host_of_several_lines() -> None:
    async with tallied() as engine:
        watched = engine.watch(GetTally("a"))
        client = Client(await event_stream(watched, encode=lambda answer: b"<p>\nnone\r\n</p>"))
        await client.is_sent("data: <p>\ndata: none\ndata: </p>\n\n")


async def test_a_heartbeat_keeps_an_idle_line_open() -> None:
    async with tallied() as engine:
        client = Client(await event_stream(engine.watch(GetTally("a")), heartbeat_seconds=0.01))
        await client.is_sent("\n\n:\n\n:\n\n")
        await engine.execute(Add("b", 1))
        await client.is_sent(f"\n\nid: {token(1)}\n\n:\n\n")
        await engine.execute(Add("a", 1))
        await client.is_sent('"total":1')


async def test_a_heartbeat_moves_a_clients_place_over_what_its_feed_passes_over() -> None:
    async with tallied() as engine:
        feed = engine.feed(names=["emptied"], follow=True)
        client = Client(await event_stream(feed, heartbeat_seconds=0.01))
        for _ in range(3):
            await engine.execute(Add("a", 1))
        await client.is_sent(f"id: {token(3)}\n\n")
        await engine.execute(Empty("a"))
        await client.is_sent('"name":"emptied"')

        assert client.body.count(token(3)) == 1
        assert "added" not in client.body


async def test_what_prevents_a_stream_is_raised_before_it_begins() -> None:
    async with tallied(authorize=lambda who, *_: who != "eve") as engine:
        for source in (
            engine.watch(GetTally("a"), principal="eve"),
            engine.feed(follow=True, principal="eve"),
        ):
            with pytest.raises(Forbidden):
                await event_stream(source)
        with pytest.raises(InvalidInput):
            await event_stream(engine.feed(7))


async def test_a_slow_client_is_sent_the_newest_answer_only() -> None:
    async with tallied() as engine:
        client = Client(await event_stream(engine.watch(GetTally("a"))))
        await client.is_sent("data: null")
        client.taking.clear()
        for amount in range(20):
            receipt = await engine.execute(Add("a", 1))
            await engine.query(GetTallies(), at=receipt)
            if amount == 0:
                await client.is_sent('"total":1')
        client.taking.set()
        await client.is_sent('"total":20')

        assert client.body.count("data: ") == 3


async def test_a_client_that_leaves_is_watched_for_no_more() -> None:
    async with tallied() as engine:
        client = Client(await event_stream(engine.watch(GetTally("a"))))
        await client.is_sent("null")
        client.leaving.set()
        await client.end()

        assert engine.statistics().live.watchers == 0
        # A stream that nobody ever takes leaves nothing behind either.
        await event_stream(engine.watch(GetTally("a")))
        await settle()
        assert engine.statistics().live.watchers == 0


async def test_a_failed_engine_ends_the_stream_and_a_failed_answer_fails_it() -> None:
    store = HeldStore()
    engine = tallied(store=store)
    await engine.__aenter__()
    client = Client(await event_stream(engine.watch(GetTally("a"))))
    await client.is_sent("null")

    def encode(answer: Any) -> bytes:
        return b"none" if answer is None else bytes(answer)

    failing = Client(await event_stream(engine.watch(GetTally("a")), encode=encode))
    await failing.is_sent("none")
    await engine.execute(Add("a", 1))
    with pytest.raises(TypeError):
        await failing.end()
    store.failures.append(unknown())
    with pytest.raises(Exception, match="."):
        await engine.execute(Add("a", 1))
    await client.end()
    assert client.is_whole
    with pytest.raises(Exception, match="."):
        await engine.__aexit__(None, None, None)
    with pytest.raises(Closed):
        engine.watch(GetTally("a"))


@pytest.mark.parametrize("taking", [True, False], ids=["takes", "hangs"])
@pytest.mark.parametrize("what", ["watch", "feed"])
async def test_a_server_that_stops_ends_the_stream(
    what: str, taking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.01)
    stops: list[bool] = []
    async with tallied() as engine:
        source = engine.watch(GetTally("a")) if what == "watch" else engine.feed(follow=True)
        client = Client(await event_stream(source, stopping=lambda: bool(stops)))
        await until(lambda: len(client.sent) == 2)
        if not taking:
            client.taking.clear()
            await engine.execute(Add("a", 1))
            await until(lambda: len(client.sent) == 3)
        stops.append(True)
        await client.end()

        assert client.is_whole is taking
        assert engine.statistics().live.watchers == 0
        assert len(engine._bus._subscriptions) == 1


async def test_a_stream_that_cannot_tell_whether_it_must_end_ends_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    stops: list[bool] = []

    def fails() -> bool:
        raise ZeroDivisionError

    async with tallied() as engine:
        first = Client(await event_stream(engine.watch(GetTally("a")), stopping=fails))
        other = engine.watch(GetTally("a"))
        second = Client(await event_stream(other, stopping=lambda: bool(stops)))
        await first.end()
        assert first.is_whole
        assert not second.task.done()
        stops.append(True)
        await second.end()
        assert second.is_whole


def test_the_last_event_is_where_a_client_was() -> None:
    assert last_event({}) is None
    assert last_event({"last-event-id": ""}, "") is None
    assert last_event({}, token(3)) == Receipt("", 0, 3)
    assert last_event({"last-event-id": token(5)}, token(3)) == Receipt("", 0, 5)
    with pytest.raises(InvalidInput):
        last_event({"last-event-id": "5"})


# -- a real server ---------------------------------------------------------------------------


@asynccontextmanager
async def served(folder: Path, *options: str) -> AsyncGenerator[tuple[Server, httpx.AsyncClient]]:
    async with (
        server("tests.integrations.live_app:app", folder, options=options) as running,
        httpx.AsyncClient(base_url=running.url, timeout=20) as client,
    ):
        yield running, client


async def ended_well(running: Server) -> None:
    """End the server; it drains, and goes by the signal that it was sent."""
    assert await running.end() == -signal.SIGTERM
    assert "Application shutdown complete" in running.log
    assert "Traceback" not in running.log


class Lines:
    """The lines of a stream, as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def until(self, found: Callable[[str], bool]) -> str:
        async with asyncio.timeout(20):
            async for line in self._lines:
                if found(line):
                    return line
        raise AssertionError("the stream ended")

    async def datum(self) -> Any:
        return json.loads((await self.until(lambda line: line.startswith("data:")))[5:])

    async def event(self) -> tuple[str, Any]:
        line = await self.until(lambda line: line.startswith("id:"))
        return line[4:], await self.datum()

    async def rest(self) -> list[str]:
        async with asyncio.timeout(20):
            return [line async for line in self._lines]


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, url: str, **options: Any) -> AsyncGenerator[Lines]:
    async with client.stream("GET", url, **options) as response:
        yield Lines(response)


async def watchers(client: httpx.AsyncClient) -> int:
    return int((await client.get("/numbers")).json()["watchers"])


@pytest.mark.parametrize("url", ["/live/plain", "/fast/plain", "/plain/"])
async def test_any_framework_serves_it(tmp_path: Path, url: str) -> None:
    async with served(tmp_path) as (running, client):
        async with streaming(client, url) as lines:
            assert lines.response.headers["content-type"].startswith("text/event-stream")
            assert await lines.datum() is None
            # Longer than EngineMiddleware gives a body to arrive.
            await asyncio.sleep(0.6)
            receipt = (await client.post("/counters/plain")).text
            seen, tally = await lines.event()
            assert tally == {"counter": "plain", "total": 1, "events": 1}
            assert Receipt.from_token(seen).position == Receipt.from_token(receipt).position
        await ended_well(running)


async def test_a_client_that_comes_back_is_sent_nothing_older(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, client):
        first = (await client.post("/counters/a")).text
        async with streaming(client, "/live/a", params={"at": first}) as lines:
            seen, _ = await lines.event()
        receipt = (await client.post("/counters/a")).text
        # What was seen is the first event: the second is only promised to come.
        async with streaming(client, "/live/a", headers={"Last-Event-ID": seen}) as lines:
            while (await lines.datum())["total"] != 2:
                pass
        for options in (
            {"params": {"at": receipt}},
            {"headers": {"Last-Event-ID": receipt}, "params": {"at": seen}},
        ):
            async with streaming(client, "/live/a", **options) as lines:
                assert (await lines.datum())["total"] == 2
        async with streaming(client, "/feed", headers={"Last-Event-ID": seen}) as lines:
            assert (await lines.datum())["position"] == 2
        for url, status in (
            ("/live/a?at=nonsense", 422),
            ("/live/a?principal=eve", 403),
            ("/feed?principal=eve", 403),
            ("/feed?name=nonsense", 422),
        ):
            assert (await client.get(url)).status_code == status
        await ended_well(running)


async def test_a_client_that_leaves_and_one_that_hangs(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, client):
        async with streaming(client, "/live/a?heartbeat=0.1") as lines:
            await lines.until(lambda line: line == ":")
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
            writer.write(b"GET /large/a HTTP/1.1\r\nHost: here\r\n\r\n")
            await writer.drain()
            for _ in range(100):
                await client.post("/counters/a")
            while (await lines.datum())["total"] != 100:
                pass
            assert await watchers(client) == 2
            # Half a megabyte each: the buffers on the way hold a few of a hundred.
            answers = 0
            async with asyncio.timeout(20):
                while True:
                    piece = await reader.readuntil(b"data: [")
                    answers += 1
                    if (await reader.readuntil(b",")) == b"100,":
                        break
                    await skip(reader)
            assert 2 <= answers < 50, piece
            writer.close()
        while await watchers(client):
            await asyncio.sleep(0.01)
        await ended_well(running)


async def skip(reader: asyncio.StreamReader) -> None:
    """Read to the end of a large answer."""
    left = 500_000
    while left > 0:
        left -= len(await reader.read(min(left, 65_536)))


async def test_a_server_that_is_told_to_stop_does_not_wait_for_its_streams(tmp_path: Path) -> None:
    async with served(tmp_path) as (running, client):
        urls = ["/live/a", "/feed", "/fast/a"]
        async with (
            streaming(client, urls[0]) as first,
            streaming(client, urls[1]) as second,
            streaming(client, urls[2]) as third,
        ):
            await first.datum()
            await third.datum()
            began = time.monotonic()
            await ended_well(running)
            assert time.monotonic() - began < 10
            for lines in (first, second, third):
                await lines.rest()  # whole, as HTTP has it, or httpx would raise


async def test_a_client_that_hangs_does_not_keep_a_server_from_draining(tmp_path: Path) -> None:
    """Its connection is the server's to close, which takes as long as the server was told."""
    async with served(tmp_path, "--timeout-graceful-shutdown", "2") as (running, client):
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        writer.write(b"GET /large/a HTTP/1.1\r\nHost: here\r\n\r\n")
        for _ in range(60):
            await client.post("/counters/a")
        assert await watchers(client) == 1
        await ended_well(running)
        writer.close()


async def test_an_engine_that_stops_ends_the_streams(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client), streaming(client, "/live/a") as lines:
        await lines.datum()
        await client.post("/stop")
        await lines.rest()
        assert (await client.get("/live/a")).status_code == 503


async def raw(running: Server, request: bytes, until: bytes) -> bytes:
    """Send bytes as they are; give what comes back, up to these."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.readuntil(until)
    writer.close()
    return answer


@pytest.mark.parametrize("url", ["/live/a", "/fast/a", "/plain/"])
async def test_a_body_that_breaks_the_rules_ends_a_stream_whole(tmp_path: Path, url: str) -> None:
    """It is too late for a status: what is left to say is the end."""
    begin = f"GET {url} HTTP/1.1\r\nHost: here\r\n".encode()
    late = b"Content-Length: 9\r\n\r\nfive."
    large = b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n\r\n"
    async with served(tmp_path) as (running, client):
        # FastAPI waits for what has arrived of a body, and can still refuse the one.
        for body in [late] if url == "/fast/a" else [late, large]:
            answer = await raw(running, begin + body, b"\r\n0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"data: null" in answer
        while await watchers(client):
            await asyncio.sleep(0.01)
        await ended_well(running)


@pytest.mark.parametrize("url", ["/live/a", "/large/a", "/feed", "/plain/"])
async def test_a_head_of_a_stream_ends_and_leaves_nobody_watching(tmp_path: Path, url: str) -> None:
    head = f"HEAD {url} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
    async with served(tmp_path) as (running, client):
        answer = await raw(running, head + b"GET /numbers HTTP/1.1\r\nHost: here\r\n\r\n", b"}")
        first, second = answer.split(b"\r\n\r\n")[:2]
        assert b"text/event-stream" in first
        assert second.startswith(b"HTTP/1.1 200 OK")
        while await watchers(client):
            await asyncio.sleep(0.01)
        await ended_well(running)
