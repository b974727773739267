"""What is particular to RabbitMQ: queues that lose messages, exchanges, full queues, encryption."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from engine import BrokerFailed, Engine, ProjectionLag
from engine.brokers.address import read_address
from engine.relays import Consumer, Message
from engine.relays import consumer as consumer_module
from engine.relays.inlet import Received
from engine.relays.rabbitmq_inlet import RabbitInlet
from tests.relays.relaying import add, check_order, published, relay_to, relaying, status
from tests.support.brokers import PASSWORD, USER, RabbitServer
from tests.support.certificates import certify
from tests.support.counters import Add, Counter, total
from tests.support.waiting import until


@pytest.fixture
def rabbit(started: Any) -> RabbitServer:
    server: RabbitServer = started("rabbitmq")
    return server


async def stopped(engine: Engine, *counters: str) -> str:
    """Count, wait until the relay has stopped for it, and give why."""
    with pytest.raises(ProjectionLag, match="stopped"):
        await published(engine, await add(engine, *counters))
    failure = (await status(engine)).failure
    assert failure is not None
    return failure.cause


async def test_a_queue_that_is_lost_with_the_server_is_refused_unless_allowed(
    rabbit: RabbitServer, topic: str
) -> None:
    await rabbit.create(topic, durable=False, arguments=None)
    async with relaying(relay_to(rabbit, topic)) as engine:
        assert "is not durable" in await stopped(engine, "a")
    async with relaying(relay_to(rabbit, topic, allow=["memory"])) as engine:
        await published(engine, await add(engine, "a"))

    assert len(await rabbit.messages(topic)) == 1


async def test_an_exchange_that_leads_to_no_queue_is_an_error_and_no_silence(
    rabbit: RabbitServer, topic: str
) -> None:
    await rabbit.create(topic)
    exchange = f"{topic}-exchange"
    async with await rabbit.client() as connection:
        channel = await connection.channel()
        declared = await channel.declare_exchange(exchange, "topic", durable=True)
        async with relaying(relay_to(rabbit, f"exchange:{exchange}/counted.a")) as engine:
            assert "no queue of" in await stopped(engine, "a", "b")
            await (await channel.get_queue(topic)).bind(declared, "counted.*")
            await engine.projections.resume("outbound")
            await published(engine, 2)
            log_id = engine._store.log_id

    assert check_order(await rabbit.messages(topic), log_id, 2) == 0


async def test_a_queue_that_is_full_is_waited_for(rabbit: RabbitServer, topic: str) -> None:
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await rabbit.create(topic, arguments=full)
    async with relaying(relay_to(rabbit, topic)) as engine:
        await published(engine, await add(engine, "a"))
        position = await add(engine, "a")  # one, since two never find room in the same moment
        await until(lambda: engine.statistics().projectors["outbound"].retries > 1)
        found = await status(engine)
        assert (found.state, found.parked) == ("retrying", 0)
        async with await rabbit.client() as connection:
            queue = await (await connection.channel()).get_queue(topic)
            waiting = asyncio.ensure_future(published(engine, position))
            while not waiting.done():
                await queue.purge()
                await asyncio.sleep(0.05)
            await waiting
        assert (await status(engine)).parked == 0


async def test_a_message_without_an_id_is_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inlet:
        """Stands for a queue that another library has written to: this one gives each an id."""

        def __init__(self) -> None:
            self.come = [Received(Message("", "paid", {}, b"1"), None)]
            self.buried: list[str] = []

        async def fetch(self, count: int) -> list[Received]:
            await asyncio.sleep(0)
            come, self.come = self.come, []
            return come

        async def acknowledge(self, received: list[Received]) -> None:
            pass

        async def bury(self, received: Received, reason: str) -> None:
            self.buried.append(reason)

        async def close(self) -> None:
            pass

    inlet = Inlet()
    monkeypatch.setattr("engine.relays.consumer.open_inlet", lambda *_: inlet)
    consumer = Consumer(
        "amqp://localhost", topic="paid", name="of-b", dead="dead", to_command=lambda _: Add("a", 1)
    )
    async with Engine([Counter]) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().buried == 1)
        assert await total(engine, "a") == "0 at 0"

    assert inlet.buried == ["it has no id"]


async def test_dead_that_find_no_room_keep_no_other_message_waiting(
    rabbit: RabbitServer, topic: str
) -> None:
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    dead = f"{topic}-dead"
    await rabbit.create(topic)
    await rabbit.create(dead, arguments=full)
    await rabbit.put(dead, "0", b"it has no room for another")
    for name, body in (("1", b"no number"), ("2", b"5")):
        await rabbit.put(topic, name, body)
    consumer = Consumer(
        rabbit.url,
        topic=topic,
        name="of-f",
        dead=dead,
        to_command=lambda message: Add("a", int(message.body)),
    )
    async with Engine([Counter]) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().executed == 1)
        await until(lambda: dead in (consumer.statistics().failure or ""))
        async with await rabbit.client() as connection:
            queue = await (await connection.channel()).get_queue(dead)
            await queue.purge()
            await until(lambda: consumer.statistics().buried == 1)
    assert [m.body for m in await rabbit.messages(dead)] == [b"no number"]


async def test_a_queue_with_a_single_active_consumer_is_read_by_one_of_two(
    rabbit: RabbitServer, topic: str
) -> None:
    """So the order of an aggregate's messages is kept, whatever processes there are."""
    await rabbit.create(topic, arguments={"x-single-active-consumer": True})
    await rabbit.create(f"{topic}-dead")

    def reads() -> Consumer:
        return Consumer(
            rabbit.url,
            topic=topic,
            name="of-s",
            dead=f"{topic}-dead",
            to_command=lambda message: Add("a", int(message.body)),
        )

    one, other = reads(), reads()
    async with Engine([Counter]) as engine, one.running(engine), other.running(engine):
        for number in range(60):
            await rabbit.put(topic, f"m-{number}", b"%d" % number)
        await until(lambda: one.statistics().executed + other.statistics().executed == 60)
        found: list[Any] = [e.event async for e in engine.history(Counter, "a")]

    assert [event.amount for event in found] == list(range(60))
    assert 0 in (one.statistics().received, other.statistics().received)


async def test_a_queue_that_is_not_there_ends_the_consumer(
    rabbit: RabbitServer, topic: str
) -> None:
    await rabbit.create(topic)
    consumer = Consumer(
        rabbit.url, topic=topic, name="of-c", dead="nowhere", to_command=lambda message: None
    )
    async with Engine([Counter]) as engine:
        with pytest.raises(BrokerFailed, match="no queue 'nowhere'"):
            await consumer.run(engine)


async def test_a_queue_that_is_made_anew_under_a_consumer_is_read_again(
    rabbit: RabbitServer, topic: str
) -> None:
    for name in (topic, f"{topic}-dead"):
        await rabbit.create(name)
    consumer = Consumer(
        rabbit.url,
        topic=topic,
        name="of-d",
        dead=f"{topic}-dead",
        to_command=lambda message: Add("a", int(message.body)),
    )
    async with Engine([Counter]) as engine, consumer.running(engine):
        await rabbit.put(topic, "1", b"3")
        await until(lambda: consumer.statistics().executed == 1)
        async with await rabbit.client() as connection:
            channel = await connection.channel()
            await channel.queue_delete(topic)
            await channel.declare_queue(topic, durable=True)
        await rabbit.put(topic, "2", b"4")
        await until(lambda: consumer.statistics().executed == 2)
        assert await total(engine, "a") == "7 at 2"


async def test_a_queue_that_is_deleted_ends_its_consumer_with_a_word(
    rabbit: RabbitServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "SETTLE_SECONDS", 0.0)
    for name in (topic, f"{topic}-dead"):
        await rabbit.create(name)
    consumer = Consumer(
        rabbit.url, topic=topic, name="of-e", dead=f"{topic}-dead", to_command=lambda _: Add("a", 1)
    )
    async with Engine([Counter]) as engine:
        running = asyncio.ensure_future(consumer.run(engine))
        await rabbit.put(topic, "1", b"3")
        await until(lambda: consumer.statistics().executed == 1)
        async with await rabbit.client() as connection:
            await (await connection.channel()).queue_delete(topic)
        with pytest.raises(BrokerFailed, match="has no queue"):
            await running


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_what_is_given_back_comes_again_in_its_order(
    rabbit: RabbitServer, topic: str, kind: str
) -> None:
    for name in (topic, f"{topic}-dead"):
        await rabbit.create(name, arguments={"x-queue-type": kind})
    for number in range(12):
        await rabbit.put(topic, f"m-{number}", b"")
    inlet = RabbitInlet(read_address(rabbit.url, ()), "of-f", topic, f"{topic}-dead", None)
    try:
        taken = await fetched(inlet, 7)
        await inlet.acknowledge([taken[0], taken[3]])
        await inlet.release([each for each in taken[1:] if each is not taken[3]])
        again = await fetched(inlet, 10)
    finally:
        await inlet.close()

    assert [each.message.id for each in again] == [f"m-{n}" for n in range(12) if n not in (0, 3)]


async def fetched(inlet: RabbitInlet, count: int) -> list[Received]:
    """Take so many messages, in however many looks."""
    found: list[Received] = []
    while len(found) < count:
        found += await inlet.fetch(count - len(found))
    return found


@pytest.mark.slow
async def test_an_encrypted_connection_trusts_only_whom_it_is_told_to(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "here", "IP:127.0.0.1")
    server = RabbitServer(tmp_path / "rabbit", tls=(certificate, certificate.with_suffix(".key")))
    server.trusted = trusted = ssl.create_default_context(cafile=str(certificate))
    url = server.url_of(USER, PASSWORD, safe=True)
    server.start()
    try:
        await server.create("counted")
        async with relaying(relay_to(server, url=url, tls=trusted)) as engine:
            await published(engine, await add(engine, "a"))
        async with relaying(relay_to(server, url=url)) as engine:
            assert "no encrypted connection" in await stopped(engine, "a")
        assert len(await server.messages("counted")) == 1
    finally:
        server.close()
