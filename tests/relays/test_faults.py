"""What goes wrong between a relay and its broker: nothing is lost, and errors say what to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Command, Engine, ProjectionLag
from engine.brokers import nats as nats_brokers
from engine.relays import Consumer, Message, rabbitmq, relay
from engine.relays import consumer as consumer_module
from engine.relays.message import Outgoing
from engine.relays.outlet import open_outlet
from tests.relays.relaying import (
    Counter,
    add,
    check_order,
    published,
    relay_to,
    relaying,
    status,
    why_it_tries_again,
)
from tests.support.breaking_lines import line_to
from tests.support.brokers import PASSWORD, USER, Broker
from tests.support.counters import Add
from tests.support.waiting import until


async def test_a_broker_that_is_down_is_waited_for_and_slows_no_writer(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.create(topic)
    broker.kill()
    try:
        async with relaying(relay_to(broker, topic)) as engine:
            position = await add(engine, *["a", "b"] * 10)  # each is answered
            await until(lambda: engine.statistics().projectors["outbound"].retries > 2)
            found = await status(engine)
            assert (found.state, found.position, found.lag_events) == ("retrying", 0, 20)
            assert found.retrying is not None
            assert "cannot be reached" in found.retrying.cause
            broker.start()
            await published(engine, position)
            log_id = engine._store.log_id
            assert check_order(await broker.messages(topic), log_id, 20) == 0
            assert (await status(engine)).state == "live"
    finally:
        if not broker.runs:
            broker.start()
    assert PASSWORD not in caplog.text


async def test_an_engine_stops_while_its_broker_is_down(broker: Broker, topic: str) -> None:
    async with line_to(1) as line:  # nobody listens there
        url = broker.url_of(USER, PASSWORD, port=line.port)
        async with relaying(relay_to(broker, topic, url=url)) as engine:
            await add(engine, "a")
            await until(lambda: engine.statistics().projectors["outbound"].retries > 0)


async def test_wrong_credentials_stop_it_with_a_word_and_without_the_secret(
    broker: Broker, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.create(topic)
    caplog.set_level(logging.DEBUG)
    store = f"sqlite:{tmp_path / 'log.db'}"
    relay = relay_to(broker, topic, url=broker.url_of(USER, "wr0ng-secret"))
    async with relaying(relay, store) as engine:
        position = await add(engine, "a", "b")
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, position)
        found = await status(engine)
        assert found.failure is not None
        assert "BrokerFailed" in found.failure.cause
        assert "refuses the credentials" in found.failure.cause
        assert (found.parked, found.position, found.failure.event) == (0, 0, "")
        shown = f"{found}{caplog.text}{relay!r}{vars(relay)}"
    async with relaying(relay_to(broker, topic), store) as engine:  # as an operator mends it
        await published(engine, position)
        assert check_order(await broker.messages(topic), engine._store.log_id, 2) == 0

    assert "wr0ng-secret" not in shown


async def test_a_missing_topic_stops_it_until_there_is_one(broker: Broker, topic: str) -> None:
    async with relaying(relay_to(broker, topic)) as engine:
        if broker.makes_topics:
            pytest.skip("this broker makes a topic when it is first published to")
        position = await add(engine, "a", "b")
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, position)
        found = await status(engine)
        assert found.failure is not None
        assert f"{broker.named(topic)!r}" in found.failure.cause
        assert found.parked == 0
        await broker.create(topic)
        await engine.projections.resume("outbound")
        await published(engine, position)

        assert check_order(await broker.messages(topic), engine._store.log_id, 2) == 0


async def test_a_broker_that_comes_back_may_not_know_its_topics_yet(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SETTLE_SECONDS", 600.0)  # however slow this machine is
    if broker.makes_topics:
        pytest.skip("this broker makes a topic when it is first published to")
    async with line_to(1) as line:  # nobody listens there
        with broker.reached_by(line.port):
            url = broker.url_of(USER, PASSWORD, port=line.port)
            async with relaying(relay_to(broker, topic, url=url)) as engine:
                position = await add(engine, "a", "b")
                await until(lambda: engine.statistics().projectors["outbound"].retries > 0)
                line.server_port = broker.port
                told = f"{broker.named(topic)!r}"
                while told not in (await why_it_tries_again(engine)):
                    await asyncio.sleep(0)
                await broker.create(topic)
                await published(engine, position)
                assert check_order(await broker.messages(topic), engine._store.log_id, 2) == 0


def adding(message: Message) -> Command:
    return Add("a", 1)


async def test_a_consumer_waits_for_the_topics_of_a_broker_that_comes_back(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "SETTLE_SECONDS", 600.0)  # however slow this machine is
    if broker.makes_topics:
        pytest.skip("this broker makes a topic when it is read")
    async with line_to(1) as line:  # nobody listens there
        with broker.reached_by(line.port):
            consumer = Consumer(
                broker.url_of(USER, PASSWORD, port=line.port),
                topic=broker.named(topic),
                name="adder",
                to_command=adding,
                dead=broker.named(f"{topic}-dead"),
            )
            async with Engine([Counter]) as engine, consumer.running(engine):
                await until(lambda: consumer.statistics().failures > 0)
                line.server_port = broker.port
                await until(lambda: topic in str(consumer.statistics().failure))
                for name in (topic, f"{topic}-dead"):
                    await broker.create(name)
                await broker.put(topic, "m-1", b"1")
                await until(lambda: consumer.statistics().executed == 1)


async def test_an_error_of_the_client_that_nobody_expects_parks_nothing(
    broker: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.create(topic)
    is_broken = True

    class Odd:
        def __init__(self, *given: Any) -> None:
            self.inner = open_outlet(*given)
            self.close = self.inner.close

        async def publish(self, batch: Sequence[Outgoing]) -> None:
            if is_broken:
                raise KeyError("a secret")
            await self.inner.publish(batch)

    monkeypatch.setattr(relay, "open_outlet", Odd)
    async with relaying(relay_to(broker, topic)) as engine:
        position = await add(engine, "a", "b")
        await until(lambda: engine.statistics().projectors["outbound"].retries > 1)
        found = await status(engine)
        assert (found.state, found.parked) == ("retrying", 0)
        assert "KeyError" in await why_it_tries_again(engine)
        assert "a secret" not in str(found)
        is_broken = False
        await published(engine, position)


@pytest.mark.parametrize("bytes_", [400, 20_000, 60_000])
async def test_a_line_that_is_cut_in_the_middle_of_a_batch_loses_nothing(
    broker: Broker, topic: str, tmp_path: Path, bytes_: int
) -> None:
    await broker.create(topic)
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        for counter in "abc":
            await engine.execute(Add(counter, 1, 100))
    async with line_to(broker.port) as line:
        with broker.reached_by(line.port):
            line.left = bytes_
            url = broker.url_of(USER, PASSWORD, port=line.port)
            async with relaying(relay_to(broker, topic, url=url), store) as engine:
                await published(engine, 300)
                log_id = engine._store.log_id
        assert line.cuts == 1

    again = check_order(await broker.messages(topic), log_id, 300)
    assert again == 0 or not broker.drops_repetitions


@pytest.mark.parametrize("name", ["nats", "rabbitmq"])
async def test_a_consumer_that_waits_hears_that_its_line_says_nothing_more(
    name: str, started: Any, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a switch or a firewall that forgets a connection. Each word is wanted more often here."""
    monkeypatch.setattr(nats_brokers, "PING_SECONDS", 0.1)
    monkeypatch.setattr(rabbitmq, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr("aiormq.connection.Connection.HEARTBEAT_GRACE_MULTIPLIER", 1)
    broker: Broker = started(name)
    for each in (topic, f"{topic}-dead"):
        await broker.create(each)

    def to_command(message: Message) -> Command:
        return Add("a", int(message.body))

    async with line_to(broker.port) as line:
        consumer = Consumer(
            broker.url_of(USER, PASSWORD, port=line.port),
            topic=broker.named(topic),
            name=f"of-{topic}",
            dead=broker.named(f"{topic}-dead"),
            to_command=to_command,
        )
        async with Engine([Counter]) as engine, consumer.running(engine):
            await broker.put(topic, "m-1", b"1")
            await until(lambda: consumer.statistics().executed == 1)
            line.silence()
            await until(lambda: consumer.statistics().failures > 0)
            await broker.put(topic, "m-2", b"2")
            # The first one may come again, if the line fell silent before it was acknowledged.
            await until(lambda: engine.statistics().position == 2)


async def test_a_message_that_is_too_large_is_parked_with_its_stream_and_stops_no_other(
    broker: Broker, topic: str
) -> None:
    if not broker.too_large:
        pytest.skip("this broker takes whatever a log has")
    await broker.create(topic)
    large = {"x" * broker.too_large: [1]}
    async with relaying(relay_to(broker, topic)) as engine:
        await add(engine, "a", "b", "c")
        await add(engine, "b", tags=large)
        position = await add(engine, "a", "b", "c")
        await published(engine, position)
        found = await status(engine)
        messages = await broker.messages(topic)

    sequence = dict.fromkeys(m.attributes["sequence"] for m in messages)
    assert list(sequence) == ["1", "2", "3", "5", "7"]
    assert (found.parked, found.state) == (2, "live")


async def test_a_message_that_cannot_be_formed_is_parked(broker: Broker, topic: str) -> None:
    def encode(event: object, meta: object) -> bytes:
        if "b" in str(meta):
            raise ValueError("a payload in its text")
        return b"{}"

    await broker.create(topic)
    async with relaying(relay_to(broker, topic, encode=encode)) as engine:
        await published(engine, await add(engine, "x", "b", "x"))

        assert (await status(engine)).parked == 1
        assert len(await broker.messages(topic)) == 2
