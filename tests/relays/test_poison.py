"""Messages that nobody can run, and engines that cannot run any: neither ends a consumer."""

from __future__ import annotations

import asyncio
import json
import logging
from email.message import Message as Headers
from gzip import BadGzipFile
from socket import gaierror
from typing import Any
from urllib.error import HTTPError

import pytest

from engine import (
    Aggregate,
    Closed,
    Command,
    DefinitionError,
    Engine,
    Envelope,
    EventUnread,
    Id,
    UsageError,
    Voided,
    handles,
)
from engine.relays import Consumer, Message
from tests.support.brokers import Broker
from tests.support.counters import Add, Counter, total
from tests.support.waiting import until


def to_command(message: Message) -> Command | Envelope:
    """Trust a message, as hosts do."""
    counter, amount, *more = json.loads(message.body)
    command = Add(counter, amount)
    return Envelope(command=command, deadline=more[0]) if more else command


def consumer_of(broker: Broker, topic: str, **options: Any) -> Consumer:
    given: dict[str, Any] = {"name": f"of-{topic}", "to_command": to_command}
    given |= {"topic": broker.named(topic), "dead": broker.named(f"{topic}-dead")}
    return Consumer(broker.url, **(given | options))


async def topics(broker: Broker, topic: str) -> None:
    await broker.create(topic)
    await broker.create(f"{topic}-dead")


async def finished(consumer: Consumer, count: int) -> None:
    def is_done() -> bool:
        now = consumer.statistics()
        return now.executed + now.buried >= count

    await until(is_done)


async def test_messages_of_two_sources_with_one_id_are_two_commands(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    for source in ("till-1", "till-2", "till-1"):
        await broker.put(topic, "7", b'["a", 1]', source=source)
    consumer = consumer_of(broker, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 2)
        assert await total(engine, "a") == "2 at 2"


async def test_both_of_two_messages_with_one_id_are_kept_with_the_dead(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    for source in ("till-1", "till-2"):
        await broker.put(topic, "7", b'["a", -1]', source=source)
    consumer = consumer_of(broker, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 2)
    dead = await broker.messages(f"{topic}-dead")
    assert sorted(message.attributes["source"] for message in dead) == ["till-1", "till-2"]


@pytest.mark.parametrize(
    "body",
    [
        b'[["a"], 1]',
        b'[{"a": 1}, 1]',
        b"[null, 1]",
        b'["", 1]',
        b'["a", {"b": [1]}]',
        b'["a", "1"]',
        b'["a", 1e400]',
        b"[" * 5_000,
    ],
)
async def test_a_message_that_makes_no_command_is_buried_and_ends_nothing(
    broker: Broker, topic: str, body: bytes
) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", body)
    await broker.put(topic, "m-2", b'["a", 1]')
    consumer = consumer_of(broker, topic, tries=1)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 2)
        assert await total(engine, "a") == "1 at 1"
    assert consumer.statistics().buried == 1


async def test_a_command_that_misses_its_deadline_each_time_is_buried(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1, 1e-9]')
    await broker.put(topic, "m-2", b'["b", 1]')
    consumer = consumer_of(broker, topic, tries=2)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 2)
    (dead,) = await broker.messages(f"{topic}-dead")
    assert dead.attributes["foldline-reason"] == "DeadlinePassed"


class Unsteady(Engine):
    """Refuses its first commands."""

    refusals: list[Exception]

    async def execute(self, *args: Any, **options: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop()
        return await super().execute(*args, **options)


async def test_a_log_that_nobody_owns_for_a_while_ends_no_consumer(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1]')
    consumer = consumer_of(broker, topic)
    engine = Unsteady([Counter])
    engine.refusals = [Closed("no process owns the log at the moment")]
    async with engine, consumer.running(engine):
        await finished(consumer, 1)
        assert await total(engine, "a") == "1 at 1"
    assert consumer.statistics().failures == 1


async def test_a_command_that_waits_for_a_former_release_to_go_is_not_buried(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.relays.consumer.SECONDS", 0.0)
    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1]')
    consumer = consumer_of(broker, topic)
    engine = Unsteady([Counter])
    engine.refusals = [EventUnread("added", 2, ("process 7",))] * 40
    async with engine, consumer.running(engine):
        await finished(consumer, 1)
        assert await total(engine, "a") == "1 at 1"
    assert consumer.statistics().buried == 0


async def test_a_command_that_is_tried_for_long_is_told(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.relays.consumer.SECONDS", 0.0)
    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1]')
    consumer = consumer_of(broker, topic)
    engine = Unsteady([Counter])
    engine.refusals = [Voided("no room")] * 40
    with caplog.at_level(logging.WARNING):
        async with engine, consumer.running(engine):
            await finished(consumer, 1)
    told = [record.getMessage() for record in caplog.records if "is tried on" in record.message]
    assert [text.partition(" after ")[2] for text in told] == [
        "16 tries (Voided); it is tried on",
        "32 tries (Voided); it is tried on",
    ]


async def test_an_engine_that_was_not_started_buries_nothing(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1]')
    consumer = consumer_of(broker, topic)
    with pytest.raises(UsageError, match="not been started"):
        await consumer.run(Engine([Counter]))
    async with Engine([Counter]) as engine:
        with pytest.raises(UsageError, match="loop of its engine"):
            await asyncio.to_thread(asyncio.run, consumer.run(engine))
    assert await broker.messages(f"{topic}-dead") == []


def test_an_async_to_command_is_refused(broker: Broker) -> None:
    async def later(message: Message) -> Command:
        return Add("a", 1)

    with pytest.raises(DefinitionError, match="is async"):
        consumer_of(broker, "t", to_command=later)


class Fetch(Command):
    counter: Id


def to_fetch(message: Message) -> Command:
    return Fetch("a")


_NOT_FOUND = HTTPError("http://service", 404, "not found", Headers(), None)


class Service:
    """Is away for some calls."""

    failures: list[Exception]

    async def ask(self) -> None:
        if self.failures:
            raise self.failures.pop()


class Fetching(Aggregate, kind="fetching"):
    @handles
    async def fetch(self, command: Fetch, service: Service) -> None:
        try:
            await service.ask()
        except gaierror as error:
            raise RuntimeError("no such host") from error


async def test_a_service_that_a_handler_does_not_reach_buries_no_message(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b"{}")
    consumer = consumer_of(broker, topic, tries=1, to_command=to_fetch)
    service = Service()
    service.failures = [ConnectionRefusedError(), TimeoutError(), gaierror()]
    resources: dict[type, object] = {Service: service}
    async with Engine([Fetching], resources=resources) as engine, consumer.running(engine):
        await finished(consumer, 1)
        for number, answer in enumerate((FileNotFoundError(), BadGzipFile(), _NOT_FOUND), 2):
            service.failures = [answer]  # which tells of no outage
            await broker.put(topic, f"m-{number}", b"{}")
            await finished(consumer, number)

    done = consumer.statistics()
    assert (done.executed, done.buried, done.retries) == (1, 3, 3)
    dead = await broker.messages(f"{topic}-dead")
    assert [message.id for message in dead] == ["m-2", "m-3", "m-4"]


async def test_who_may_do_it_is_asked_again_where_nobody_is_reached(
    broker: Broker, topic: str
) -> None:
    failures: list[Exception] = [ConnectionResetError()]

    def authorize(*_: object) -> bool:
        if failures:
            raise failures.pop()
        return True

    await topics(broker, topic)
    await broker.put(topic, "m-1", b'["a", 1]')
    consumer = consumer_of(broker, topic, tries=1)
    async with Engine([Counter], authorize=authorize) as engine, consumer.running(engine):
        await finished(consumer, 1)

    assert consumer.statistics().executed == 1
