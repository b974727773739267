"""The contract of consumers, for each broker: what messages do, and do once."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from engine import BrokerFailed, Command, Engine, Envelope, Limits
from engine.relays import Consumer, Message
from engine.relays.inlet import Received
from tests.support.brokers import PASSWORD, USER, Broker
from tests.support.counters import Add, Counter, Look, Spoil, total
from tests.support.waiting import until


def to_command(message: Message) -> Command | Envelope | None:
    counter, amount = message.body.decode().split()
    if counter == "nobody":
        return None
    if counter == "spoilt":
        return Spoil(counter, "raise")
    if counter == "looked-at":
        return Look(counter)
    return Add(counter, int(amount))


def consumer_of(broker: Broker, topic: str, **options: Any) -> Consumer:
    given: dict[str, Any] = {"name": f"of-{topic}", "to_command": to_command}
    given |= {"source": broker.url, "dead": broker.named(f"{topic}-dead"), **options}
    return Consumer(topic=broker.named(topic), **given)


async def topics(broker: Broker, topic: str) -> None:
    await broker.create(topic)
    await broker.create(f"{topic}-dead")


async def finished(consumer: Consumer, count: int) -> None:
    def is_done() -> bool:
        now = consumer.statistics()
        return now.executed + now.passed + now.buried >= count

    await until(is_done)


async def test_each_message_becomes_a_command_with_a_key_of_its_own(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b"a 3", correlationid="order 7")
    await broker.put(topic, "m-2", b"a 4")
    await broker.put(topic, "m-3", b"nobody 4")
    consumer = consumer_of(broker, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 3)
        assert await total(engine, "a") == "7 at 2"
        history = [logged.meta async for logged in engine.history(Counter, "a")]

    assert [meta.key for meta in history] == [f"{broker.named(topic)} m-{n}" for n in (1, 2)]
    assert history[0].correlation == "order 7"
    assert consumer.statistics().passed == 1


async def test_messages_that_come_again_change_nothing(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    async with Engine([Counter]) as engine:
        for name in ("first", "second"):  # one that has forgotten what it had read
            if name == "first" or not broker.keeps_what_was_read:
                for number in range(5):
                    await broker.put(topic, f"m-{number}", b"a 1")
            consumer = consumer_of(broker, topic, name=name)
            async with consumer.running(engine):
                await finished(consumer, 5)
        assert await total(engine, "a") == "5 at 5"


async def test_what_was_acknowledged_does_not_come_again(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b"a 1")
    async with Engine([Counter]) as engine:
        for number in (1, 2):
            consumer = consumer_of(broker, topic)
            async with consumer.running(engine):
                await finished(consumer, 1)
            assert consumer.statistics().received == 1
            await broker.put(topic, f"m-{number + 1}", b"a 1")


async def test_a_stop_waits_for_the_acknowledgement_of_what_has_a_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Inlet:
        """Stands for a broker that takes its time: a real one answers when it likes."""

        def __init__(self) -> None:
            self.come = [Received(Message("m-1", "t", {}, b"a 5"), None)]
            self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()
            self.log: list[str] = []

        async def fetch(self, count: int) -> list[Received]:
            await asyncio.sleep(0)
            come, self.come = self.come, []
            return come

        async def acknowledge(self, received: list[Received]) -> None:
            if received:
                self.is_asked.set()
                await self.may_answer.wait()
                self.log.append("acknowledged")

        async def close(self) -> None:
            self.log.append("closed")

    inlet = Inlet()
    monkeypatch.setattr("engine.relays.consumer.open_inlet", lambda *_: inlet)
    consumer = Consumer(
        "nats://localhost", topic="t", name="slow", dead="dead", to_command=to_command
    )
    async with Engine([Counter]) as engine:
        running = asyncio.ensure_future(consumer.run(engine))
        await inlet.is_asked.wait()
        running.cancel()
        await asyncio.sleep(0)
        assert inlet.log == []
        inlet.may_answer.set()
        await asyncio.wait([running])
        assert running.cancelled()

    assert inlet.log == ["acknowledged", "closed"]


async def test_what_can_never_be_run_is_published_to_the_dead_with_its_reason(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await topics(broker, topic)
    for name, body in (
        ("m-1", b"a secretive"),
        ("m-2", b"a -5"),
        ("m-3", b"looked-at 0"),
        ("m-4", b"spoilt 0"),
        ("m-5", b"a 1"),
    ):
        await broker.put(topic, name, body)
    consumer = consumer_of(broker, topic, tries=2)
    async with Engine([Counter], log_messages=False) as engine, consumer.running(engine):
        await finished(consumer, 5)
        assert await total(engine, "a") == "1 at 1"
    dead = {
        message.id.rpartition("/")[2]: message for message in await broker.messages(f"{topic}-dead")
    }

    reasons = {name: message.attributes["foldline-reason"] for name, message in dead.items()}
    assert reasons == {
        "m-1": "to_command raised ValueError",
        "m-2": "Rejected: negative",
        "m-3": "Rejected: looked",
        "m-4": "HandlerFailed",
    }
    assert dead["m-1"].body == b"a secretive"
    assert consumer.statistics().buried == 4
    assert "secretive" not in caplog.text


async def test_no_more_is_taken_than_the_engine_has_room_for(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    for number in range(12):
        await broker.put(topic, f"m-{number}", f"c{number} 1".encode())
    limits = Limits(commands_accepted=2, mailbox_commands=1)
    consumer = consumer_of(broker, topic)
    async with Engine([Counter], limits=limits) as engine, consumer.running(engine):
        await finished(consumer, 12)
        assert [await total(engine, f"c{n}") for n in range(12)] == ["1 at 1"] * 12

    assert consumer.statistics().retries > 0
    assert consumer.statistics().buried == 0


async def test_commands_of_one_aggregate_keep_the_order_of_their_messages(
    broker: Broker, topic: str
) -> None:
    await topics(broker, topic)
    for number in range(60):
        await broker.put(topic, f"m-{number}", f"c{number % 3} {number}".encode())
    limits = Limits(commands_accepted=2, mailbox_commands=1)
    consumer = consumer_of(broker, topic, window=20)
    async with Engine([Counter], limits=limits) as engine, consumer.running(engine):
        await finished(consumer, 60)
        for counter in range(3):
            found: list[Any] = [e.event async for e in engine.history(Counter, f"c{counter}")]
            assert [event.amount for event in found] == list(range(counter, 60, 3))


async def test_a_broker_that_dies_is_waited_for(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    await broker.put(topic, "m-1", b"a 1")
    consumer = consumer_of(broker, topic)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 1)
        broker.kill()
        try:
            await until(lambda: consumer.statistics().failures > 1)
            assert "cannot be reached" in str(consumer.statistics().failure)
        finally:
            broker.start()
        await broker.put(topic, "m-2", b"a 1")
        await until(lambda: engine.statistics().position == 2)
        assert await total(engine, "a") == "2 at 2"


async def test_wrong_credentials_end_it_without_the_secret(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await topics(broker, topic)
    consumer = consumer_of(broker, topic, source=broker.url_of(USER, "wr0ng-secret"))
    with pytest.raises(BrokerFailed, match="refuses the credentials"):
        async with Engine([Counter]) as engine, consumer.running(engine):
            await until(lambda: consumer.statistics().failure is not None)
            await engine.execute(Add("a", 1))  # the host goes on
    assert "wr0ng-secret" not in caplog.text
    assert "has stopped" in caplog.text
    assert PASSWORD not in f"{vars(consumer)}"


async def test_an_engine_that_stops_leaves_the_rest_to_the_next(broker: Broker, topic: str) -> None:
    await topics(broker, topic)
    for number in range(3):
        await broker.put(topic, f"m-{number}", b"a 1")
    consumer = consumer_of(broker, topic)
    async with Engine([Counter]) as stopped:
        pass
    await consumer.run(stopped)  # it comes to its end: no command is taken any more
    assert (consumer.statistics().received, consumer.statistics().executed) == (3, 0)
    async with Engine([Counter]) as engine, consumer.running(engine):
        await finished(consumer, 3)
        assert json.loads((await total(engine, "a")).partition(" ")[0]) == 3
