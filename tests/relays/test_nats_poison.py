"""What is particular to NATS: subjects that are none, sizes, consumers and streams made anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import BrokerFailed, Command, DefinitionError, Engine
from engine.relays import Consumer, Message
from tests.relays.relaying import add, published, relay_to, relaying, status
from tests.support.brokers import PASSWORD, USER, NatsServer
from tests.support.counters import Add, Counter, total
from tests.support.waiting import until


@pytest.fixture
def nats(started: Any) -> NatsServer:
    server: NatsServer = started("nats")
    return server


def to_command(message: Message) -> Command:
    return Add("a", int(message.body))


def consumer_of(nats: NatsServer, topic: str, **options: Any) -> Consumer:
    given: dict[str, Any] = {"name": "adder", "to_command": to_command, "dead": f"{topic}-dead"}
    return Consumer(nats.url, topic=topic, **(given | options))


async def handled(consumer: Consumer, count: int) -> None:
    await until(lambda: consumer.statistics().executed + consumer.statistics().buried >= count)


@pytest.mark.parametrize(
    "subject",
    ["a b", "a\r\nPUB b 1\r\nx", ".a", "*", ">", "\x7f", "\ud83d", "y" * 5_000],
)
async def test_an_event_with_an_odd_subject_is_parked_and_holds_up_no_other(
    nats: NatsServer, topic: str, subject: str
) -> None:
    await nats.create(f"{topic}.>", name=topic)

    def chosen(event: object, meta: Any) -> str:
        return f"{topic}.{subject}" if meta.id == "odd" else f"{topic}.plain"

    async with relaying(relay_to(nats, chosen)) as engine:
        await published(engine, await add(engine, "odd", "a", "odd", "b"))
        assert (await status(engine)).parked == 2
    assert {message.topic for message in await nats.messages(f"{topic}.>")} == {f"{topic}.plain"}


async def test_messages_as_large_as_the_server_takes_are_published_or_parked(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(topic)
    sizes = {f"c{n}": nats.too_large - 700 + 10 * n for n in range(40)}

    def encode(event: object, meta: Any) -> bytes:
        return b"x" * sizes.get(meta.id, 1)

    async with relaying(relay_to(nats, topic, encode=encode)) as engine:
        position = 0
        for counter in sizes:  # each behind a small one, so that it names the one before it
            position = await add(engine, "small", counter)
        await published(engine, position)
        parked = (await status(engine)).parked
    assert 10 < parked < 30
    assert len(await nats.messages(topic)) == 80 - parked


async def test_what_is_too_large_to_be_buried_stays_and_holds_up_no_other(
    nats: NatsServer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await nats.create(topic)
    await nats.create(f"{topic}-dead")
    await nats.put(topic, "", b"x" * (nats.too_large - 1))
    await nats.put(topic, "m-1", b"1")
    consumer = consumer_of(nats, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await handled(consumer, 1)
        await nats.put(topic, "m-2", b"2")
        await handled(consumer, 2)
        assert await total(engine, "a") == "3 at 2"
    assert "stays where it is, and comes again" in caplog.text
    assert (consumer.statistics().buried, consumer.statistics().failures) == (0, 0)


async def test_a_message_with_headers_that_no_client_would_send_is_buried(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(topic)
    await nats.create(f"{topic}-dead")
    reader, writer = await asyncio.open_connection("127.0.0.1", nats.port)
    await reader.readline()
    head = b"NATS/1.0\r\nodd{name}: 1\r\nplain: 2\r\n\r\n"
    writer.write(
        b'CONNECT {"user":"%s","pass":"%s","headers":true,"verbose":false}\r\n'
        b"HPUB %s %d %d\r\n%s?\r\nPING\r\n"
        % (USER.encode(), PASSWORD.encode(), topic.encode(), len(head), len(head) + 1, head)
    )
    assert await reader.readline() == b"PONG\r\n"
    writer.close()
    consumer = consumer_of(nats, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await handled(consumer, 1)
    (dead,) = await nats.messages(f"{topic}-dead")
    assert dead.attributes["plain"] == "2"
    assert dead.attributes["odd%7Bname%7D"] == "1"


async def test_messages_of_a_stream_that_was_made_anew_are_new(
    nats: NatsServer, topic: str
) -> None:
    await nats.create(f"{topic}-dead")
    async with Engine([Counter]) as engine:
        for _ in range(2):
            await nats.create(topic)
            client = await nats.client()
            await client.jetstream().publish(topic, b"1")
            consumer = consumer_of(nats, topic)
            async with consumer.running(engine):
                await handled(consumer, 1)
            await client.jetstream().delete_stream(topic)
            await client.close()
        assert await total(engine, "a") == "2 at 2"


async def test_a_name_that_reads_another_subject_is_refused(nats: NatsServer, topic: str) -> None:
    await nats.create(f"{topic}.*", name=topic)
    await nats.create(f"{topic}-dead")
    await nats.put(f"{topic}.a", "m-1", b"1")
    async with Engine([Counter]) as engine:
        first = consumer_of(nats, f"{topic}.a", dead=f"{topic}-dead")
        async with first.running(engine):
            await handled(first, 1)
        with pytest.raises(BrokerFailed, match="another name="):
            await consumer_of(nats, f"{topic}.b", dead=f"{topic}-dead").run(engine)


def test_a_consumer_does_not_read_what_it_has_buried(nats: NatsServer) -> None:
    with pytest.raises(DefinitionError, match="would come again"):
        consumer_of(nats, "payments.>", dead="payments.dead")
