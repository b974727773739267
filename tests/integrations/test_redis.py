"""What is RedisReadModel's own, beside the suite of all read models (`test_read_models`)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Event,
    Meta,
    Projection,
    ProjectionLag,
)
from engine.integrations.redis import POSITION, RedisReadModel, read_row
from tests.integrations.places import Kept, keeping
from tests.support.brokers import PASSWORD, USER, RedisServer
from tests.support.certificates import certify
from tests.support.counters import Add, Added, Emptied, Empty


@pytest.fixture
def server(started: Callable[[str], Any]) -> RedisServer:
    made: RedisServer = started("redis")
    return made


@pytest.fixture
async def client(server: RedisServer) -> Any:
    """Give a client of an empty server."""
    async with server.client() as made:
        await made.flushall()
        yield made


def count(row: Any, event: Any, meta: Meta) -> dict[str, object] | None:
    """Count on, which an event that came twice would do twice; what is emptied is removed."""
    if isinstance(event, Emptied):
        return None
    had = row or {"total": "0"}
    tags = {f"tag {name}": len(values) for name, values in event.tags.items()}
    return {"total": int(had["total"]) + event.amount, "last": event.amount, **tags}


def model(server: RedisServer, version: int = 1, **options: Any) -> type[Projection]:
    events: list[type[Event]] = [Added, Emptied]
    given: dict[str, Any] = {"to": server.url, "events": events, "apply": count, **options}
    return RedisReadModel("totals", version=version, **given)


async def add(engine: Engine, *counters: str, amount: int = 1) -> int:
    position = 0
    for counter in counters:
        position = (await engine.execute(Add(counter, amount))).position
    return position


async def kept(engine: Engine, position: int) -> None:
    await engine.query(Kept(), at=position, timeout=30)


async def totals(client: Any, *counters: str) -> list[str | None]:
    rows = [await read_row(client, "totals", counter) for counter in counters]
    return [None if row is None else row["total"] for row in rows]


async def cause_of(engine: Engine, position: int) -> str:
    with pytest.raises(ProjectionLag, match="stopped"):
        await kept(engine, position)
    failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    return failure.cause


async def test_a_query_waits_for_the_model_and_each_event_counts_once(
    server: RedisServer, client: Any
) -> None:
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, *"aabac"))
        assert await totals(client, *"abcd") == ["3", "1", "1", None]
        assert await read_row(client, "totals", "a") == {"total": "3", "last": "1", POSITION: "4"}


async def test_a_row_loses_the_fields_that_it_has_no_more(server: RedisServer, client: Any) -> None:
    async with keeping(model(server)) as engine:
        await engine.execute(Add("a", 1, tags={"x": [1, 2]}))
        await kept(engine, 1)
        assert (await read_row(client, "totals", "a") or {})["tag x"] == "2"
        await kept(engine, await add(engine, "a"))
        assert "tag x" not in (await read_row(client, "totals", "a") or {})
        assert await client.keys("*:new:*") == []


async def test_a_row_that_is_removed_is_gone_and_may_come_again(
    server: RedisServer, client: Any
) -> None:
    async with keeping(model(server)) as engine:
        await add(engine, "a", "a")
        await kept(engine, (await engine.execute(Empty("a"))).position)
        assert await read_row(client, "totals", "a") is None
        await kept(engine, await add(engine, "a"))
        assert await totals(client, "a") == ["1"]
        assert await client.ttl("totals:1:row:a") == -1  # it stays


async def test_a_write_that_comes_late_changes_nothing(server: RedisServer, client: Any) -> None:
    """As one of a former life of the process, which the network has kept for a while."""
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, "a", "b"))
        removed = (await engine.execute(Empty("b"))).position
        await kept(engine, removed)
        late = [call for call in await _scripts(client) if "HSET" in call]
        for key, position in (("a", "1"), ("b", "2")):
            await client.eval(late[0], 1, f"totals:1:row:{key}", position, "total", "77")
        assert await totals(client, "a", "b") == ["1", None]


async def _scripts(client: Any) -> list[str]:
    from engine.integrations import redis

    return [redis._PUT, redis._REPLACE]


async def test_rows_of_another_log_and_keys_of_others_are_not_touched(
    server: RedisServer, client: Any
) -> None:
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, "a", "a"))
    async with keeping(model(server, 2)) as other:
        assert "rows of another log" in await cause_of(other, await add(other, "a"))
    assert await totals(client, "a") == ["2"]
    await client.flushall()
    await client.set("totals", "of somebody else")
    async with keeping(model(server)) as engine:
        assert "not the model's" in await cause_of(engine, await add(engine, "a"))
    assert await client.get("totals") == "of somebody else"


async def test_keys_of_the_host_that_look_like_a_version_stay(
    server: RedisServer, client: Any
) -> None:
    """The host's `totals:5:state` beside `totals:5:items` is as common a name as any."""
    await client.set("totals:5:state", "open")
    await client.hset("totals:6:state", mapping={"is": "closed"})
    await client.hset("totals:5:items", mapping={"a": 1})
    await client.set("totals:new", "1")
    await client.sadd("totals:old", "totals", "totals:x")
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, "a"))
    for name in ("5:state", "6:state", "5:items", "new"):
        assert await client.exists(f"totals:{name}"), name


async def test_keys_of_the_host_outlive_a_former_version(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'totals.db'}"
    await client.set("totals:1:note", "mine")
    async with keeping(model(server), store=store) as engine:
        await kept(engine, await add(engine, "a"))
    async with keeping(model(server, 2), store=store, rebuild="auto") as engine:
        await kept(engine, await add(engine, "a"))
    assert await client.get("totals:1:note") == "mine"
    assert not await client.exists("totals:1:row:a")


async def test_a_key_of_another_type_is_named_as_the_hosts(
    server: RedisServer, client: Any
) -> None:
    await client.hset("totals:1:state", mapping={"is": "open"})
    async with keeping(model(server)) as engine:
        cause = await cause_of(engine, await add(engine, "a"))
    assert "not the model's" in cause
    assert await client.hgetall("totals:1:state") == {"is": "open"}


async def test_what_apply_raises_or_gives_of_a_wrong_type_stops_it(
    server: RedisServer, client: Any
) -> None:
    for made in ({"total": True}, {"total": [1]}, {POSITION: "5"}):
        await client.flushall()
        wrong = model(server, apply=lambda row, event, meta, made=made: made)
        async with keeping(wrong) as engine:
            assert "UsageError" in await cause_of(engine, await add(engine, "a"))
        assert await read_row(client, "totals", "a") is None


async def test_wrong_credentials_stop_it_without_the_secret(server: RedisServer) -> None:
    wrong = model(server, to=server.url_of(USER, "wr0ng-secret"))
    async with keeping(wrong) as engine:
        cause = await cause_of(engine, await add(engine, "a"))
    assert "refuses the credentials" in cause
    assert "wr0ng" not in f"{cause}{wrong!r}{vars(wrong)}"


async def test_tls_is_checked_and_a_certificate_that_does_not_fit_stops_it(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "redis", "IP:127.0.0.1")
    server = RedisServer(tmp_path / "server", tls=(certificate, tmp_path / "redis.key"))
    server.start()
    try:
        url = server.url_of(USER, PASSWORD, safe=True)
        async with keeping(model(server, to=url)) as engine:  # which the system does not trust
            cause = await cause_of(engine, await add(engine, "a"))
        assert "no encrypted connection" in cause
        assert PASSWORD not in cause
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with keeping(model(server, to=url, tls=trusted)) as engine:
            await kept(engine, await add(engine, "a"))
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "nats://localhost"}, "the URL of Redis"),
        ({"events": []}, "list of classes of events"),
        ({"apply": None}, "is a function"),
        ({"key": "id"}, "is a function"),
        ({"allow": ["anything"]}, "allow= is a list"),
    ],
)
def test_a_model_that_cannot_be_kept_is_refused(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"to": "redis://localhost", "events": [Added], "apply": count}
    with pytest.raises(DefinitionError, match=said):
        RedisReadModel("totals", **(given | options))
