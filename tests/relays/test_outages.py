"""A service that handlers call is away: its messages wait, and no others wait for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from engine import Aggregate, BrokerFailed, Command, Engine, Event, Id, applies, handles
from engine.relays import Consumer, Message, kafka_inlet, nats_inlet, redis_inlet
from engine.relays.inlet import Received
from tests.support.aws_server import SqsServer
from tests.support.brokers import Broker
from tests.support.waiting import until


class Fetch(Command):
    place: Id
    number: int


class Fetched(Event, name="fetched"):
    number: int


class Service:
    """Is away for the place `a`, as long as a test says."""

    def __init__(self) -> None:
        self.is_away = True

    async def ask(self, place: str) -> None:
        if self.is_away and place == "a":
            raise ConnectionRefusedError


class Place(Aggregate, kind="place"):
    numbers: list[int] = []

    @handles
    async def fetch(self, command: Fetch, service: Service) -> Fetched:
        await service.ask(command.place)
        return Fetched(command.number)

    @applies
    def fetched(self, event: Fetched) -> None:
        self.numbers.append(event.number)


def to_command(message: Message) -> Command:
    return Fetch(*json.loads(message.body))


def consumer_of(broker: Broker, topic: str, window: int = 4) -> Consumer:
    return Consumer(
        broker.url,
        topic=broker.named(topic),
        name=f"of-{topic}",
        dead=broker.named(f"{topic}-dead"),
        to_command=to_command,
        window=window,
    )


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.relays.consumer.SECONDS", 0.05)
    monkeypatch.setattr("engine.relays.consumer._DOUBLINGS_MAX", 0)
    monkeypatch.setattr(nats_inlet, "ACK_SECONDS", 1)
    monkeypatch.setattr(redis_inlet, "LOOK_SECONDS", 0.05)


async def put_all(broker: Broker, topic: str, places: str) -> None:
    await broker.create(topic)
    await broker.create(f"{topic}-dead")
    for number, place in enumerate(places):
        await broker.put(topic, f"m-{number}", json.dumps([place, number]).encode())


async def test_a_message_that_waits_for_a_service_lets_others_go_on(
    broker: Broker, topic: str
) -> None:
    """Those of its own aggregate are behind it, in their order, and none of them comes twice."""
    if isinstance(broker, SqsServer):
        pytest.skip("all of these messages are in one group, which SQS gives one by one")
    places = "abbbbbbbacccccc"
    await put_all(broker, topic, places)
    consumer, service = consumer_of(broker, topic), Service()
    async with Engine([Place], resources={Service: service}) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().executed == len(places) - 2)
        assert (await engine.state(Place, "b")).numbers == [1, 2, 3, 4, 5, 6, 7]
        await until(lambda: consumer.statistics().retries > 60)
        service.is_away = False
        await until(lambda: consumer.statistics().executed == len(places))
        assert (await engine.state(Place, "a")).numbers == [0, 8]
    done = consumer.statistics()
    assert (done.received, done.buried, done.failures) == (len(places), 0, 0)
    second = consumer_of(broker, topic)
    await broker.put(topic, "m-last", b'["b", 99]')
    async with Engine([Place], resources={Service: service}) as engine, second.running(engine):
        await until(lambda: second.statistics().executed == 1)
    assert second.statistics().received == 1, "all others were acknowledged"


@pytest.mark.slow
async def test_the_offset_of_a_message_that_waits_is_not_left_far_behind(
    started: Callable[[str], Broker], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash all messages behind it come again."""
    kafka = started("kafka")
    monkeypatch.setattr(kafka_inlet, "AHEAD_MAX", 3)
    places = "abbbbbbbb"
    await put_all(kafka, topic, places)
    consumer, service = consumer_of(kafka, topic, window=2), Service()
    async with Engine([Place], resources={Service: service}) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().retries > 60)
        assert consumer.statistics().executed == 2
        service.is_away = False
        await until(lambda: consumer.statistics().executed == len(places))


class Inlet:
    """Stands for a broker that fails now and then."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.left = [
            Received(Message(f"m-{n}", "t", {}, json.dumps([place, n]).encode()), None)
            for n, place in enumerate(messages)
        ]
        self.given: list[Received] = []
        self.buried: list[str] = []
        self.fails = asyncio.Event()

    async def fetch(self, count: int) -> Sequence[Received]:
        if self.fails.is_set():
            self.fails.clear()
            raise BrokerFailed("it was restarted", passes=True)
        await asyncio.sleep(0)
        taken, self.left = self.left[:count], self.left[count:]
        self.given += taken
        return taken

    async def acknowledge(self, received: Sequence[Received]) -> None:
        self.given = [each for each in self.given if each not in received]

    async def bury(self, received: Received, reason: str) -> None:
        self.buried.append(reason)
        await self.acknowledge([received])

    async def close(self) -> None:
        self.left, self.given = self.given + self.left, []


def consumer_with(inlet: Inlet, monkeypatch: pytest.MonkeyPatch, window: int) -> Consumer:
    monkeypatch.setattr("engine.relays.consumer.open_inlet", lambda *_: inlet)
    return Consumer(
        "nats://localhost", topic="t", name="b", dead="d", to_command=to_command, window=window
    )


async def test_no_more_messages_wait_for_a_service_than_the_window_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inlet, service = Inlet("aaaaab"), Service()
    consumer = consumer_with(inlet, monkeypatch, window=3)
    async with Engine([Place], resources={Service: service}) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().retries > 5)
        assert (len(inlet.given), consumer.statistics().received) == (3, 3)
        service.is_away = False
        await until(lambda: consumer.statistics().executed == 6)
        assert (await engine.state(Place, "a")).numbers == [0, 1, 2, 3, 4]


async def test_a_command_does_not_overtake_one_that_waits_for_a_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service is back before the first one is tried again."""
    monkeypatch.setattr("engine.relays.consumer.SECONDS", 1)
    inlet, service = Inlet("aa"), Service()
    inlet.left, later = inlet.left[:1], inlet.left[1:]
    consumer = consumer_with(inlet, monkeypatch, window=3)
    async with Engine([Place], resources={Service: service}) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().retries == 1)
        service.is_away = False
        inlet.left = later
        await until(lambda: consumer.statistics().executed == 2)
        assert (await engine.state(Place, "a")).numbers == [0, 1]


async def test_tries_are_counted_on_when_the_broker_gives_a_message_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ ends a channel after 30 minutes without an acknowledgement: sooner than an hour."""
    monkeypatch.setattr("engine.relays.consumer.AWAY_TRIES", 6)
    inlet, service = Inlet("a"), Service()
    consumer = consumer_with(inlet, monkeypatch, window=3)
    async with Engine([Place], resources={Service: service}) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().retries > 1)
        inlet.fails.set()
        await until(lambda: consumer.statistics().failures == 1)
        await until(lambda: inlet.buried != [])
    assert inlet.buried == ["HandlerFailed"]
    assert consumer.statistics().retries == 5
