"""What is particular to Redis streams: ids that grow, settings that lose messages, encryption."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Command, DefinitionError, Engine, ProjectionLag
from engine.brokers.address import read_address
from engine.relays import Consumer, Message, redis_inlet
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.relays.relaying import add, check_order, published, relay_to, relaying, status
from tests.support.brokers import PASSWORD, USER, RedisServer
from tests.support.certificates import certify
from tests.support.counters import Add, Counter, total
from tests.support.waiting import until


@pytest.fixture
def redis(started: Any) -> RedisServer:
    server: RedisServer = started("redis")
    return server


@pytest.fixture
def weak(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a server that is not started yet, and takes settings."""
    server = RedisServer(tmp_path / "redis")
    yield server
    if server.runs:
        server.kill()


@pytest.mark.parametrize(
    ("settings", "allow", "said"),
    [
        ({"appendonly": "no"}, "memory", "in memory only"),
        ({"appendfsync": "everysec"}, "fsync", "before the disk has it"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "memory", "removes keys"),
    ],
)
async def test_a_server_that_loses_what_it_confirms_is_refused_unless_allowed(
    weak: RedisServer, settings: dict[str, str], allow: Any, said: str
) -> None:
    weak.settings |= settings
    weak.start()
    async with relaying(relay_to(weak)) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, await add(engine, "a"))
        found = await status(engine)
        assert found.failure is not None
        assert said in found.failure.cause
    async with relaying(relay_to(weak, allow=[allow])) as engine:
        await published(engine, await add(engine, "a"))


async def test_the_id_of_an_entry_is_the_position(redis: RedisServer, topic: str) -> None:
    async with relaying(relay_to(redis, topic)) as engine:
        await published(engine, await add(engine, "a", "b"))
        async with redis.client() as client:
            assert [place for place, _ in await client.xrange(topic)] == ["1-0", "2-0"]


async def test_two_logs_do_not_share_a_stream(redis: RedisServer, topic: str) -> None:
    """The positions of the second would be refused, and taken for repetitions."""
    async with relaying(relay_to(redis, topic)) as engine:
        await published(engine, await add(engine, "a", "b", "c"))
    async with relaying(relay_to(redis, topic)) as other:
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(other, await add(other, "a"))
        found = await status(other)
        assert found.failure is not None
        assert "not of this log" in found.failure.cause


async def test_what_was_parked_is_published_behind_the_others(
    redis: RedisServer, topic: str
) -> None:
    refused = [True]

    def encode(event: object, meta: Any) -> bytes:
        if refused and meta.id == "b":
            raise ValueError("not now")
        return b"{}"

    async with relaying(relay_to(redis, topic, encode=encode)) as engine:
        await published(engine, await add(engine, "a", "b", "b", "a"))
        refused.clear()
        assert (await engine.projections.retry("outbound")).released == 2
        found = await redis.messages(topic)
        assert [m.attributes["sequence"] for m in found] == ["1", "4", "2", "3"]
        position = await add(engine, "b", "a")
        await published(engine, position)
        assert check_order(await redis.messages(topic), engine._store.log_id, position) == 0


@pytest.mark.parametrize("removed", [2, 4])
async def test_what_readers_have_removed_may_be_published_again(
    redis: RedisServer, topic: str, tmp_path: Path, removed: int
) -> None:
    """As after a crash before the checkpoint moved, or after a reset."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with relaying(relay_to(redis, topic), store) as engine:
        await published(engine, await add(engine, "a", "b", "a", "b"))
        log_id = engine._store.log_id
    async with redis.client() as client:
        entries = await client.xrange(topic)
        await client.xdel(topic, *(place for place, _ in entries[-removed:]))
    async with relaying(relay_to(redis, topic, version=2), store, rebuild="auto") as engine:
        await published(engine, await add(engine, "a"))
    found = await redis.messages(topic)
    assert check_order(found, log_id, 5) == 0
    assert found[-1].attributes["sequence"] == "5", "none comes behind a later one"


async def test_what_went_to_another_stream_before_is_in_order_where_it_goes_now(
    redis: RedisServer, topic: str, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"

    def by_counter(event: object, meta: Any) -> str:
        return topic if meta.id == "c" else f"{topic}-others"

    async with relaying(relay_to(redis, by_counter), store) as engine:
        await published(engine, await add(engine, "a", "b", "a", "b", "c", "a", "b", "a", "b"))
        log_id = engine._store.log_id
    async with relaying(relay_to(redis, topic, version=2), store, rebuild="auto") as engine:
        await published(engine, 9)
    assert check_order(await redis.messages(topic), log_id, 9) == 0


async def test_events_of_a_log_that_was_restored_are_not_taken_for_those_that_it_lost(
    redis: RedisServer, topic: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.db"
    async with relaying(relay_to(redis, topic), f"sqlite:{path}") as engine:
        await published(engine, await add(engine, "a"))
    copy_log(SystemFiles(), str(path), str(tmp_path / "backup.db"))
    async with relaying(relay_to(redis, topic), f"sqlite:{path}") as engine:
        await published(engine, await add(engine, "a", "a"))
    async with relaying(relay_to(redis, topic), f"sqlite:{tmp_path / 'backup.db'}") as engine:
        position = await add(engine, "b")
        with pytest.raises(ProjectionLag, match="stopped"):
            await published(engine, position)
        found = await status(engine)
    assert found.failure is not None
    assert "restored from a backup" in found.failure.cause


async def test_a_stream_that_is_deleted_is_read_again_when_it_is_there(
    redis: RedisServer, topic: str
) -> None:
    def to_command(message: Message) -> Command:
        return Add("a", int(message.body))

    await redis.put(topic, "m-1", b"1")
    consumer = Consumer(
        redis.url, topic=topic, name="adder", dead=f"{topic}-dead", to_command=to_command
    )
    async with Engine([Counter]) as engine, consumer.running(engine):
        await until(lambda: consumer.statistics().executed == 1)
        async with redis.client() as client:
            await client.delete(topic)
        await until(lambda: consumer.statistics().failures > 0)
        await redis.put(topic, "m-2", b"2")
        await until(lambda: consumer.statistics().executed == 2)
        assert await total(engine, "a") == "3 at 2"


async def test_what_a_former_process_took_and_left_is_read_by_the_next_one(
    redis: RedisServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They overlap for a moment in a release."""
    monkeypatch.setattr(redis_inlet, "LOOK_SECONDS", 0.05)
    consumer = Consumer(
        redis.url,
        topic=topic,
        name="adder",
        dead=f"{topic}-dead",
        to_command=lambda message: Add("a", int(message.body)),
    )
    async with Engine([Counter]) as engine, redis.client() as former:
        await former.xgroup_create(topic, "adder", id="0", mkstream=True)
        async with consumer.running(engine):
            await redis.put(topic, "m-1", b"1")
            await until(lambda: consumer.statistics().executed == 1)
            async with former.pipeline(transaction=True) as both:  # nobody else can take it
                both.xadd(topic, {"ce_id": "m-2", "data": "2"})
                both.xreadgroup("adder", "adder", {topic: ">"})
                await both.execute()
            await until(lambda: consumer.statistics().executed == 2)


@pytest.mark.parametrize("url", ["redis://localhost/orders", "redis://localhost/1/2", "nats://h/1"])
def test_a_url_that_says_more_than_is_read_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError, match="number of a database"):
        read_address(url, ["plaintext"])


async def test_a_server_without_room_is_waited_for(weak: RedisServer) -> None:
    weak.settings |= {"maxmemory": "1", "maxmemory-policy": "noeviction"}
    weak.start()
    async with weak.client() as client, relaying(relay_to(weak)) as engine:
        position = await add(engine, *["a", "b"] * 5)
        await until(lambda: engine.statistics().projectors["outbound"].retries > 1)
        found = await status(engine)
        assert found.retrying is not None
        assert "has no room" in found.retrying.cause
        await client.config_set("maxmemory", "100mb")
        await published(engine, position)

        assert (await status(engine)).parked == 0
        assert check_order(await weak.messages("counted"), engine._store.log_id, 10) == 0


async def test_an_encrypted_connection_needs_an_authority_that_is_trusted(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "here", "IP:127.0.0.1")
    server = RedisServer(tmp_path / "redis", tls=(certificate, certificate.with_suffix(".key")))
    server.start()
    try:
        url = server.url_of(USER, PASSWORD, safe=True)
        async with relaying(relay_to(server, url=url)) as engine:
            with pytest.raises(ProjectionLag, match="stopped"):
                await published(engine, await add(engine, "a"))
            found = await status(engine)
            assert found.failure is not None
            assert "self-signed certificate" in found.failure.cause
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with relaying(relay_to(server, url=url, tls=trusted)) as engine:
            await published(engine, await add(engine, "a"))
    finally:
        server.kill()


def test_several_slices_are_refused(redis: RedisServer) -> None:
    with pytest.raises(DefinitionError, match="slices=1"):
        relay_to(redis, slices=2)
