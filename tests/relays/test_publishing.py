"""The contract of relays, for each broker: what is published, in which order, and how often."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Event, Meta, Ports
from engine.relays import Outgoing
from engine.relays.relay import PART_BYTES, parts
from tests.relays.relaying import Counter, add, check_order, published, relay_to, relaying
from tests.support.brokers import Broker
from tests.support.counters import Add, Emptied
from tests.support.shelf import Crash
from tests.support.waiting import until


def test_messages_are_on_their_way_in_parts_of_bounded_bytes() -> None:
    """A broker has a time for its answer, and a line may be slow."""
    sizes = [10, PART_BYTES, 400_000, 600_000, 200_000, 3 * PART_BYTES, 1, 1]
    messages = [Outgoing(n, "k", "t", {"id": f"{n}"}, b"x" * size) for n, size in enumerate(sizes)]

    found = [[message.position for message in part] for part in parts(messages)]

    assert found == [[0], [1], [2, 3], [4], [5], [6, 7]]


async def test_an_event_is_a_message_in_the_form_of_cloud_events(
    broker: Broker, topic: str
) -> None:
    await broker.create(topic)
    async with relaying(relay_to(broker, topic)) as engine:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await engine.execute(
            Add("ä b%", 2, tags={"x": [1]}),
            key="a-key",
            correlation="order 7",
            causation="click",
            principal="ann@example.com",
            headers={"traceparent": trace, "other": "stays"},
        )
        await published(engine, 1)
        log_id = engine._store.log_id
        (message,) = await broker.messages(topic)

    found = dict(message.attributes)
    time, identity = found.pop("time"), found["id"]
    assert re.fullmatch(rf"{log_id}-1-[0-9a-f]{{12}}", identity)
    assert {name: found[name] for name in found if name in EXPECTED} == {
        **EXPECTED,
        "id": identity,
        "source": f"urn:foldline:log:{log_id}",
        "traceparent": trace,
    }
    assert time.endswith("Z")
    assert json.loads(message.body) == {"amount": 2, "tags": {"x": [1]}}
    assert message.id == identity
    assert "ann@example.com" not in str(message)
    assert "a-key" not in str(message)
    assert "stays" not in str(message)


EXPECTED = {
    "specversion": "1.0",
    "id": "",
    "source": "",
    "type": "added",
    "subject": "counter:ä b%",
    "datacontenttype": "application/json",
    "dataschema": "urn:foldline:event:added:1",
    "sequence": "1",
    "streamversion": "1",
    "correlationid": "order 7",
    "causationid": "click",
    "traceparent": "",
}


async def test_the_body_is_what_encode_makes_and_nothing_is_published_where_it_gives_none(
    broker: Broker, topic: str
) -> None:
    def encode(event: Event, meta: Meta) -> bytes | None:
        return f"{type(event).__name__} {meta.id}".encode() if meta.id != "b" else None

    await broker.create(topic)
    relay = relay_to(
        broker,
        topic,
        events=[Event],
        encode=encode,
        content_type="text/plain",
        source="/counters",
        dataschema="https://example.com/{name}/{version}",
    )
    async with relaying(relay) as engine:
        await published(engine, await add(engine, "a", "b", "c"))
        found = await broker.messages(topic)

    assert [message.body for message in found] == [b"Added a", b"Added c"]
    attributes = found[0].attributes
    assert attributes["datacontenttype"] == "text/plain"
    assert attributes["source"] == "/counters"
    assert attributes["dataschema"] == "https://example.com/added/1"


async def test_a_function_gives_the_topic_of_each_event(broker: Broker, topic: str) -> None:
    def of(event: Event, meta: Meta) -> str:
        return f"{topic}-{meta.id}"

    for counter in "ab":
        await broker.create(f"{topic}-{counter}")
    async with relaying(relay_to(broker, of)) as engine:
        await published(engine, await add(engine, "a", "b", "a"))
        for counter, positions in (("a", ["1", "3"]), ("b", ["2"])):
            found = await broker.messages(f"{topic}-{counter}")
            assert [message.attributes["sequence"] for message in found] == positions


async def test_events_of_other_classes_are_passed_over(broker: Broker, topic: str) -> None:
    await broker.create(topic)
    async with relaying(relay_to(broker, topic, events=[Emptied])) as engine:
        await published(engine, await add(engine, "a", "b"))

        assert await broker.messages(topic) == []


async def test_all_of_a_long_log_is_published_once_and_in_order(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    await broker.create(topic)
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        for turn in range(30):
            for counter in "abcdefg":
                await engine.execute(Add(counter, turn, 10))
    for _ in range(2):  # the second time nothing is left to publish
        async with relaying(relay_to(broker, topic), store) as engine:
            await published(engine, 2_100)
            log_id = engine._store.log_id

    assert check_order(await broker.messages(topic), log_id, 2_100) == 0


async def test_a_crash_between_confirmation_and_checkpoint_publishes_again_with_the_same_ids(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    await broker.create(topic)
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        await add(engine, "a", "b", "a")
    crashing = relaying(relay_to(broker, topic), store, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    assert len(await broker.messages(topic)) == 3
    async with relaying(relay_to(broker, topic), store) as engine:
        await published(engine, 3)
        found = await broker.messages(topic)
        again = check_order(found, engine._store.log_id, 3)

    assert again == (0 if broker.drops_repetitions else 3)


async def test_a_raised_version_publishes_everything_again(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    topics = {1: topic, 2: f"{topic}-again"}
    store = f"sqlite:{tmp_path / 'log.db'}"
    ids: list[Any] = []
    for version, where in topics.items():
        await broker.create(where)
        relay = relay_to(broker, where, version=version)
        async with relaying(relay, store, rebuild="auto") as engine:
            if version == 1:
                await add(engine, "a", "b")
            await until(lambda: engine.statistics().projectors["outbound"].position == 2)
        ids.append([message.id for message in await broker.messages(where)])

    assert ids[0] == ids[1]
    assert len(ids[0]) == 2
