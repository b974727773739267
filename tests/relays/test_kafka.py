"""What is particular to Kafka: partitions, weak settings, offsets, groups, several servers."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from engine import BrokerFailed, Command, DefinitionError, Engine, ProjectionLag
from engine.brokers.address import read_address
from engine.relays import Consumer, Message, Outgoing
from engine.relays.kafka import KafkaOutlet
from engine.relays.kafka_client import Cluster
from engine.relays.kafka_inlet import KafkaInlet
from tests.relays.relaying import add, check_order, published, relay_to, relaying, status
from tests.support.brokers import PASSWORD, USER
from tests.support.certificates import certify
from tests.support.counters import Add, Counter, Remembering, total
from tests.support.kafka_server import KafkaServer
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def kafka(started: Any) -> KafkaServer:
    server: KafkaServer = started("kafka")
    return server


def to_command(message: Message) -> Command:
    return Add("a", int(message.body))


def consumer_of(kafka: KafkaServer, topic: str, **options: Any) -> Consumer:
    given: dict[str, Any] = {"name": f"of-{topic}", "to_command": to_command}
    return Consumer(kafka.url, topic=topic, dead=f"{topic}-dead", **(given | options))


async def topics(kafka: KafkaServer, topic: str, partitions: int = 1) -> None:
    await kafka.create(topic, partitions=partitions)
    await kafka.create(f"{topic}-dead")


async def executed(consumer: Consumer, count: int) -> None:
    await until(lambda: consumer.statistics().executed >= count)


async def test_an_aggregate_stays_in_one_partition_and_in_order(
    kafka: KafkaServer, topic: str
) -> None:
    await kafka.create(topic, partitions=3)
    async with relaying(relay_to(kafka, topic)) as engine:
        position = await add(engine, *[f"c{n}" for n in range(20)] * 5)
        await published(engine, position)
        log_id = engine._store.log_id

    assert check_order(await kafka.messages(topic), log_id, 100) == 0
    places: dict[bytes, set[int]] = defaultdict(set)
    for record in await kafka.records(topic):
        places[record.key].add(record.partition)
    assert {len(partitions) for partitions in places.values()} == {1}
    assert {number for partitions in places.values() for number in partitions} == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "weakness", "said"),
    [
        ({"unclean.leader.election.enable": "true"}, "unclean", "lacks messages"),
        ({"min.insync.replicas": "1"}, "fsync", "one server has"),
        ({"min.insync.replicas": "2"}, "fsync", "copies: 1"),
    ],
)
async def test_a_setting_that_can_lose_messages_is_refused_unless_allowed(
    kafka: KafkaServer, topic: str, settings: dict[str, str], weakness: str, said: str
) -> None:
    await kafka.create(topic, configs=settings)
    async with relaying(relay_to(kafka, topic)) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, await add(engine, "a"))
        failure = (await status(engine)).failure
        assert failure is not None
        assert said in failure.cause
        assert f'allow=["{weakness}"]' in failure.cause
    async with relaying(relay_to(kafka, topic, allow=[weakness])) as engine:
        await published(engine, await add(engine, "a"))

    assert len(await kafka.messages(topic)) == 1


async def test_a_topic_that_syncs_each_message_may_have_one_copy(
    kafka: KafkaServer, topic: str
) -> None:
    await kafka.create(topic, configs={"min.insync.replicas": "1", "flush.messages": "1"})
    async with relaying(relay_to(kafka, topic)) as engine:
        await published(engine, await add(engine, "a"))

    assert len(await kafka.messages(topic)) == 1


async def test_what_signs_in_is_in_no_log_of_the_client(
    kafka: KafkaServer, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await kafka.create(topic)
    caplog.set_level(logging.DEBUG, logger="aiokafka")
    async with relaying(relay_to(kafka, topic)) as engine:
        await published(engine, await add(engine, "a"))

    assert "Request to 127.0.0.1" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_name_that_no_topic_can_have_parks_the_event(
    kafka: KafkaServer, topic: str
) -> None:
    def of(event: object, meta: Any) -> str:
        return "odd name?" if meta.id == "odd" else topic

    await kafka.create(topic)
    async with relaying(relay_to(kafka, of)) as engine:
        await published(engine, await add(engine, "a", "odd", "a"))
        assert (await status(engine)).parked == 1

    assert len(await kafka.messages(topic)) == 2


async def test_what_the_server_refuses_as_too_large_is_parked(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tansu takes any size, so this refuses batches as a server would."""
    client: Any = importlib.import_module("aiokafka")
    errors: Any = importlib.import_module("aiokafka.errors")
    send = client.AIOKafkaProducer.send_batch

    async def refusing(self: Any, batch: Any, topic: str, *, partition: int) -> Any:
        if batch.size() <= 20_000:
            return await send(self, batch, topic, partition=partition)
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(errors.MessageSizeTooLargeError())
        return refused

    monkeypatch.setattr(client.AIOKafkaProducer, "send_batch", refusing)
    await kafka.create(topic)
    async with relaying(relay_to(kafka, topic)) as engine:
        await add(engine, *["a", "b"] * 3)
        await add(engine, "b", tags={"x" * 30_000: [1]})
        await published(engine, await add(engine, "a", "b"))
        assert (await status(engine)).parked == 2
        messages = await kafka.messages(topic)

    assert {message.attributes["sequence"] for message in messages} == set("1234568")


async def test_a_message_without_an_id_is_known_by_its_place_and_time(
    kafka: KafkaServer, topic: str
) -> None:
    await topics(kafka, topic)
    await kafka.put(topic, "", b"1")
    (record,) = await kafka.records(topic)
    consumer = consumer_of(kafka, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await executed(consumer, 1)
        (logged,) = [each async for each in engine.history(Counter, "a")]

    assert logged.meta.key == f"{topic} 0-0-{record.timestamp}"


async def test_two_readers_of_one_name_lose_and_double_nothing(
    kafka: KafkaServer, topic: str
) -> None:
    await topics(kafka, topic, partitions=3)
    first, second, third = (consumer_of(kafka, topic) for _ in range(3))
    # What one reader had begun comes again to the next, behind all that came meanwhile.
    async with Engine([Remembering]) as engine:
        async with first.running(engine), second.running(engine):
            for number in range(20):
                await kafka.put(topic, f"m-{number}", b"1")
            await until(lambda: engine.statistics().position == 20)
            assert await total(engine, "a") == "20 at 20"
        async with third.running(engine):
            await kafka.put(topic, "m-20", b"1")
            await until(lambda: engine.statistics().position == 21)


async def test_partitions_that_are_added_are_read(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tansu adds none to a topic, so one of two is hidden at first."""
    await topics(kafka, topic, partitions=2)
    shown = 1
    partitions = Cluster.partitions

    async def hiding(self: Cluster, name: str) -> Any:
        found, copies = await partitions(self, name)
        return found[:shown], copies

    monkeypatch.setattr(Cluster, "partitions", hiding)
    for number in range(8):
        await kafka.put(topic, f"m-{number}", b"1", partition=str(number % 2))
    consumer = consumer_of(kafka, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await executed(consumer, 4)
        shown = 2
        await executed(consumer, 8)
        assert await total(engine, "a") == "8 at 8"


async def test_messages_that_were_deleted_unread_end_the_consumer(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await topics(kafka, topic)
    await kafka.put(topic, "m-1", b"1")
    async with Engine([Counter]) as engine:
        consumer = consumer_of(kafka, topic)
        async with consumer.running(engine):
            await executed(consumer, 1)
        client: Any = importlib.import_module("aiokafka")

        async def later(self: Any, partitions: Any) -> Any:
            return dict.fromkeys(partitions, 5)

        monkeypatch.setattr(client.AIOKafkaConsumer, "beginning_offsets", later)
        with pytest.raises(BrokerFailed, match="4 messages of partition 0 .* were deleted before"):
            await consumer_of(kafka, topic).run(engine)


async def test_an_offset_stands_before_the_first_message_that_is_not_done_with(
    kafka: KafkaServer, topic: str
) -> None:
    await topics(kafka, topic)
    for number in range(4):
        await kafka.put(topic, f"m-{number}", b"1")
    address = read_address(kafka.url)
    inlet = KafkaInlet(address, "a-name", topic, f"{topic}-dead", None)
    first, *others = [received for _ in range(4) for received in await inlet.fetch(1)]
    await inlet.acknowledge(others)
    await inlet.release([first])
    assert [received.message.id for received in await inlet.fetch(9)] == [
        f"m-{n}" for n in range(4)
    ]
    await inlet.close()
    inlet = KafkaInlet(address, "a-name", topic, f"{topic}-dead", None)
    found = await inlet.fetch(9)
    assert len(found) == 4
    await inlet.acknowledge(found[:2])
    await inlet.close()
    inlet = KafkaInlet(address, "a-name", topic, f"{topic}-dead", None)
    assert [received.message.id for received in await inlet.fetch(9)] == ["m-2", "m-3"]
    await inlet.close()


async def test_offsets_at_rest_are_committed_at_each_start_and_each_hour(
    kafka: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka forgets an offset that nobody has committed for a week, and the topic came again."""
    await topics(kafka, topic)
    await kafka.put(topic, "m-1", b"1")
    committed: list[list[int]] = []
    commit = KafkaInlet._commit

    async def seen(self: KafkaInlet, offsets: Any) -> None:
        committed.append(sorted(offsets.values()))
        await commit(self, offsets)

    monkeypatch.setattr(KafkaInlet, "_commit", seen)
    for _ in "ab":
        inlet = KafkaInlet(read_address(kafka.url), "a-name", topic, f"{topic}-dead", None)
        await inlet.acknowledge(await inlet.fetch(9))
        assert committed.pop() == [1]
        await inlet.acknowledge(await inlet.fetch(9))
        assert committed == []
        with monkeypatch.context() as hour:
            hour.setattr("engine.relays.kafka_inlet.RENEW_SECONDS", 0)
            await inlet.acknowledge(await inlet.fetch(9))
        assert committed.pop() == [1]
        await inlet.close()


async def test_several_servers_and_an_idempotent_producer() -> None:
    """Tansu is one server, and gives aiokafka no producer id: librdkafka's stand-in does both."""
    client: Any = importlib.import_module("confluent_kafka")
    cluster = client.Producer(
        {"bootstrap.servers": "none", "test.mock.num.brokers": 3, "log_level": 0}
    )
    for name in ("counted", "dead"):
        cluster.produce(name, b"the first makes the topic")
    assert cluster.flush(20) == 0
    servers = cluster.list_topics(timeout=20).brokers.values()
    address = read_address("kafka://" + ",".join(f"{each.host}:{each.port}" for each in servers))
    outlet = KafkaOutlet(address, "a-name", None)
    for turn in range(2):
        batch = [
            Outgoing(n, f"k{n % 9}", "counted", {"id": f"{turn}-{n}", "datacontenttype": ""}, b"1")
            for n in range(500)
        ]
        await outlet.publish(batch)
    assert outlet._producer._txn_manager.has_pid()
    await outlet.close()
    inlet = KafkaInlet(address, "a-name", "counted", "dead", None)
    found = 0
    while found < 1_001:
        received = await inlet.fetch(500)
        found += len(received)
        await inlet.acknowledge(received)
    await inlet.close()
    inlet = KafkaInlet(address, "a-name", "counted", "dead", None)
    assert await inlet.fetch(500) == []
    await inlet.close()


@pytest.mark.parametrize("url", ["kafka://ann@localhost", "kafka://word-only@localhost:9092"])
def test_a_user_without_a_password_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError, match="a user and a password"):
        read_address(url)


async def test_an_encrypted_connection_trusts_only_whom_it_is_told_to(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "here", "IP:127.0.0.1")
    server = KafkaServer(tmp_path / "kafka", tls=(certificate, certificate.with_suffix(".key")))
    server.trusted = trusted = ssl.create_default_context(cafile=str(certificate))
    url = server.url_of(USER, PASSWORD, safe=True)
    server.start()
    try:
        await server.create("counted")
        async with relaying(relay_to(server, url=url, tls=trusted)) as engine:
            await published(engine, await add(engine, "a"))
        async with relaying(relay_to(server, url=url)) as engine:
            with pytest.raises(ProjectionLag, match="stopped"):
                await published(engine, await add(engine, "a"))
            failure = (await status(engine)).failure
            assert failure is not None
            assert "no encrypted connection" in failure.cause
        assert len(await server.messages("counted")) == 1
    finally:
        server.close()
