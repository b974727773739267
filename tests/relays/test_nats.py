"""What is particular to NATS JetStream: others that publish, limits of a stream, encryption."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, ProjectionLag
from tests.relays.relaying import (
    Counter,
    add,
    check_order,
    published,
    relay_to,
    relaying,
    status,
)
from tests.support.brokers import PASSWORD, USER, NatsServer
from tests.support.certificates import certify
from tests.support.counters import Add
from tests.support.waiting import until


@pytest.fixture
def nats(started: Any) -> NatsServer:
    server: NatsServer = started("nats")
    return server


async def test_a_stream_that_keeps_messages_in_memory_is_refused_unless_allowed(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(topic, storage="memory")
    async with relaying(relay_to(nats, topic)) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, await add(engine, "a"))
        found = await status(engine)
        assert found.failure is not None
        assert "in memory only" in found.failure.cause
    async with relaying(relay_to(nats, topic, allow=["memory"])) as engine:
        await published(engine, await add(engine, "a"))


async def test_a_stream_that_drops_what_no_consumer_waits_for_is_refused_without_one(
    nats: NatsServer, topic: str
) -> None:
    """It confirms each message, and has none of them."""
    await nats.create(topic, retention="interest")
    client = await nats.client()
    async with relaying(relay_to(nats, topic)) as engine:
        position = await add(engine, "a")
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, position)
        found = await status(engine)
        assert found.failure is not None
        assert "has none, so it would drop what it confirms" in found.failure.cause

        reader = await client.jetstream().pull_subscribe(topic, durable="reader")
        await engine.projections.resume("outbound")
        await published(engine, position)
        assert [message.data for message in await reader.fetch(1)]
    await client.close()


async def test_a_stream_that_lost_its_last_consumer_stops_the_relay(
    nats: NatsServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again after a minute."""
    monkeypatch.setattr("engine.relays.nats.LOOK_SECONDS", 0)
    await nats.create(topic, retention="interest")
    client = await nats.client()
    stream = client.jetstream()
    await stream.pull_subscribe(topic, durable="reader")
    async with relaying(relay_to(nats, topic)) as engine:
        await published(engine, await add(engine, "a"))
        await stream.delete_consumer(await stream.find_stream_name_by_subject(topic), "reader")
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, await add(engine, "a"))
        found = await status(engine)
        assert found.failure is not None
        assert "has none, so it would drop what it confirms" in found.failure.cause
    await client.close()


async def test_others_that_publish_to_the_same_stream_break_no_order(
    nats: NatsServer, topic: str, tmp_path: Path
) -> None:
    await nats.create(topic)
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        for turn in range(50):
            for counter in "abcd":
                await engine.execute(Add(counter, turn, 10))
    client = await nats.client()
    async with relaying(relay_to(nats, topic), store) as engine:
        arrived = asyncio.ensure_future(published(engine, 2_000))
        others = 0
        while not arrived.done():
            await client.publish(topic, b"of somebody else")
            others += 1
            await asyncio.sleep(0)
        await arrived
        log_id = engine._store.log_id
    await client.close()
    found = [message for message in await nats.messages(topic) if message.id]

    assert others > 10
    assert check_order(found, log_id, 2_000) == 0


async def test_a_stream_without_room_is_waited_for_and_nothing_is_parked(
    nats: NatsServer, topic: str
) -> None:
    from nats.js.api import DiscardPolicy

    await nats.create(topic, max_msgs=3, discard=DiscardPolicy.NEW)
    async with relaying(relay_to(nats, topic)) as engine:
        position = await add(engine, "a", "b", "a", "b", "a", "b")
        await until(lambda: engine.statistics().projectors["outbound"].retries > 0)
        found = await status(engine)
        assert found.retrying is not None
        assert "has no room" in found.retrying.cause
        client = await nats.client()
        stream = client.jetstream()
        config = (await stream.stream_info(topic)).config
        config.max_msgs = 10
        await stream.update_stream(config)
        await client.close()
        await published(engine, position)

        assert (await status(engine)).parked == 0
        assert check_order(await nats.messages(topic), engine._store.log_id, 6) == 0


async def test_a_message_in_the_middle_that_is_refused_is_overtaken_by_none_of_its_stream(
    nats: NatsServer, topic: str
) -> None:
    """The stream takes less than it did when the relay asked: only the server can tell."""
    await nats.create(topic)
    async with relaying(relay_to(nats, topic)) as engine:
        await published(engine, await add(engine, "a", "b"))
        await engine.projections.pause("outbound")
        client = await nats.client()
        config = (await client.jetstream().stream_info(topic)).config
        config.max_msg_size = 2_000
        await client.jetstream().update_stream(config)
        await client.close()
        await add(engine, "a", tags={"x" * 3_000: [1]})
        position = await add(engine, "b", "a", "b")
        await engine.projections.resume("outbound")
        await published(engine, position)
        found = [message.attributes["sequence"] for message in await nats.messages(topic)]

        assert found == ["1", "2", "4", "6"]
        assert (await status(engine)).parked == 2


async def test_a_message_that_the_stream_does_not_take_is_known_before_it_is_sent(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(topic, max_msg_size=2_000)
    async with relaying(relay_to(nats, topic)) as engine:
        await add(engine, "a", tags={"x" * 3_000: [1]})
        await published(engine, await add(engine, "b"))

        assert (await status(engine)).parked == 1
        parked = await engine.projections.parked("outbound")
        assert "MessageRefused" in str(parked)
        assert "takes 2000" in str(parked)


async def test_an_encrypted_connection_needs_an_authority_that_is_trusted(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "here", "IP:127.0.0.1")
    server = NatsServer(tmp_path / "nats", tls=(certificate, certificate.with_suffix(".key")))
    server.start()
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))
        server.trusted = trusted
        await server.create("counted")
        url = server.url_of(USER, PASSWORD, safe=True)
        async with relaying(relay_to(server, url=url)) as engine:
            with pytest.raises(ProjectionLag, match="stopped"):
                await published(engine, await add(engine, "a"))
            found = await status(engine)
            assert found.failure is not None
            assert "no encrypted connection" in found.failure.cause
            assert "self-signed certificate" in found.failure.cause
        async with relaying(relay_to(server, url=url, tls=trusted)) as engine:
            await published(engine, await add(engine, "a"))
        assert len(await server.messages("counted")) == 1
    finally:
        server.kill()


async def test_the_password_is_not_sent_to_a_server_that_does_not_encrypt(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(topic)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1000}\r\n')
        while data := await reader.read(1_000):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = nats.url_of(USER, PASSWORD, port=port, safe=True)
        async with relaying(relay_to(nats, topic, url=url)) as engine:
            with pytest.raises(ProjectionLag, match="stopped"):
                await published(engine, await add(engine, "a"))
            found = await status(engine)

    assert found.failure is not None
    assert "no encrypted connection" in found.failure.cause
    assert PASSWORD.encode() not in heard
