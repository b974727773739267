"""A read model in hashes of Redis: each event counts once, and no reader sees it half made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Event,
    Meta,
    Ports,
    Projection,
    ProjectionLag,
    Query,
    Views,
    answers,
)
from engine.integrations.redis import POSITION, RedisReadModel, read_row
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.support.brokers import PASSWORD, USER, RedisServer, line_to
from tests.support.counters import Add, Added, Counter, Emptied, Empty
from tests.support.shelf import Crash
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.kill()


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


class Kept(Query[None]):
    """Waits for the model."""


def keeping(kept: type[Projection], store: str = "memory:", **options: Any) -> Engine:
    @answers(projections=[kept])
    async def answer(query: Kept, views: Views) -> None:
        return None

    return Engine([Counter], projections=[kept], answers=[answer], store=store, **options)


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


async def test_a_crash_between_the_write_and_the_checkpoint_counts_nothing_twice(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        await add(engine, *"abaab")
        await engine.execute(Empty("b"))
    crashing = keeping(model(server), store, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    assert await totals(client, "a", "b") == ["3", None]
    async with Engine([Counter], store=store) as engine:
        await add(engine, "a")  # so that old events and a new one come in one batch
    async with keeping(model(server), store) as engine:
        await kept(engine, 7)
    assert await totals(client, "a", "b") == ["4", None]


async def test_a_line_that_is_cut_between_rows_and_state_counts_nothing_twice(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        await add(engine, *"abc" * 40)
    async with line_to(server.port) as line:
        for left in (500, 900, 1_300):
            await client.flushall()
            line.left = left
            url = server.url_of(USER, PASSWORD, port=line.port)
            async with keeping(model(server, to=url), store) as engine:
                await engine.projections.reset("totals")
                await kept(engine, 120)
            assert await totals(client, *"abc") == ["40"] * 3
        assert line.cuts == 3


async def test_readers_see_the_old_rows_until_the_new_ones_are_as_far(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with keeping(model(server), store) as engine:
        await kept(engine, await add(engine, *"ab" * 3))
    seen: list[str | None] = []
    shown = [True]

    def doubled(row: Any, event: Any, meta: Meta) -> dict[str, object] | None:
        if meta.position == 5 and shown:
            raise ValueError("not yet")
        return {"total": int((row or {"total": "0"})["total"]) + 2 * event.amount}

    raised = model(server, 2, apply=doubled)
    async with keeping(raised, store, rebuild="auto") as engine:
        await until(lambda: engine.statistics().projectors["totals"].position == 4)
        seen += await totals(client, "a", "b")
        shown.clear()
        await engine.projections.resume("totals")
        await kept(engine, 6)
        seen += await totals(client, "a", "b")
        await kept(engine, await add(engine, "a"))
    assert seen == ["3", "3", "6", "6"]
    assert await client.keys("totals:1:*") == []
    assert await client.smembers("totals:old") == set()


async def test_a_version_that_is_lowered_again_makes_its_rows_anew(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    for version in (1, 2, 1):
        async with keeping(model(server, version), store, rebuild="auto") as engine:
            await kept(engine, await add(engine, *"ab"))
            await kept(engine, engine.statistics().position)
    assert await totals(client, "a", "b") == ["3", "3"]


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


async def test_a_log_that_went_back_is_noticed(
    server: RedisServer, client: Any, tmp_path: Path
) -> None:
    path = tmp_path / "log.db"
    async with keeping(model(server), f"sqlite:{path}") as engine:
        await kept(engine, await add(engine, "a"))
    copy_log(SystemFiles(), str(path), str(tmp_path / "backup.db"))
    async with keeping(model(server), f"sqlite:{path}") as engine:
        await kept(engine, await add(engine, "a"))
    async with keeping(model(server), f"sqlite:{tmp_path / 'backup.db'}") as engine:
        assert "went back" in await cause_of(engine, await add(engine, "b"))


async def test_rows_that_the_server_has_lost_are_noticed(server: RedisServer, client: Any) -> None:
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, "a"))
        await client.flushall()
        server.kill()
        server.start()
        assert "has lost rows" in await cause_of(engine, await add(engine, "a"))


async def test_a_server_that_dies_is_waited_for_and_has_kept_all(
    server: RedisServer, client: Any
) -> None:
    async with keeping(model(server)) as engine:
        await kept(engine, await add(engine, *"ab" * 5))
        server.kill()
        try:
            position = await add(engine, "a")
            await until(lambda: engine.statistics().projectors["totals"].retries > 1)
        finally:
            server.start()
        await kept(engine, position)
    async with server.client() as reader:
        assert await totals(reader, "a", "b") == ["6", "5"]


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "nats://localhost"}, "the URL of Redis"),
        ({"events": []}, "list of classes of events"),
        ({"apply": None}, "are functions"),
        ({"key": "id"}, "are functions"),
        ({"allow": ["anything"]}, "allow= is a list"),
    ],
)
def test_a_model_that_cannot_be_kept_is_refused(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"to": "redis://localhost", "events": [Added], "apply": count}
    with pytest.raises(DefinitionError, match=said):
        RedisReadModel("totals", **(given | options))
