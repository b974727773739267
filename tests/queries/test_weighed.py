"""What queries read and what live queries hold is bounded in bytes, beside the counts."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from engine import (
    Engine,
    Limits,
    Meta,
    Onlooker,
    Overloaded,
    Projection,
    Query,
    Row,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from tests.support.counters import Add, Added, Counter

KIB = 1024


class Sheet(Row, key="n", search=["text"]):
    n: int
    text: str


class Scan(Row, key="n"):
    """Not read as JSON, since that has no bytes."""

    n: int
    data: bytes


class Papers(Projection, name="papers", version=1):
    sheets: Table[Sheet]
    scans: Table[Scan]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.sheets.put(Sheet(meta.position, "ü " * (event.amount * KIB // 3)))
        self.scans.put(Scan(meta.position, bytes(event.amount * KIB)))


class Ask(Query[int]):
    how: str
    limit: int = 100


class Watch(Query[str]):
    size: int
    name: str = ""


@answers
async def ask(query: Ask, views: Views) -> int:
    match query.how:
        case "find":
            return len(await views.find(Papers.sheets, limit=query.limit))
        case "blobs":
            return len(await views.find(Papers.scans, limit=query.limit))
        case "search":
            return len(await views.search(Papers.sheets, "u", limit=query.limit))
        case "count":
            return await views.count(Papers.sheets)
    return len(await views.sql(query.how, (query.limit,)))


@answers
async def watch(query: Watch, views: Views) -> str:
    return "x" * query.size * await views.count(Papers.sheets)


WAYS = [
    "find",
    "blobs",
    "search",
    "SELECT text FROM papers_sheets LIMIT ?",
    "SELECT data FROM papers_scans LIMIT ?",
    "SELECT group_concat(text) FROM (SELECT text FROM papers_sheets LIMIT ?)",
]


def papers(store: str, **limits: int) -> Engine:
    return Engine(
        [Counter], projections=[Papers], answers=[ask, watch], store=store, limits=Limits(**limits)
    )


@pytest.fixture(params=["memory", "file"])
def store(request: Any, tmp_path: Any) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/log.db"


async def test_what_is_read_at_once_is_bounded_in_bytes(store: str) -> None:
    async with papers(store, query_bytes=64 * KIB) as engine:
        for _ in range(10):
            receipt = await engine.execute(Add("a", 10))
        assert await engine.query(Ask("count"), at=receipt) == 10
        for way in WAYS:
            few = await engine.query(Ask(way, 5))
            assert few == (1 if "group_concat" in way else 5)
            with pytest.raises(UsageError, match=r"more than 65536 bytes \(Limits\.query_bytes\)"):
                await engine.query(Ask(way, 10))
        # The projection itself reads and writes on, however much it has.
        receipt = await engine.execute(Add("a", 100))
        assert await engine.query(Ask("count"), at=receipt) == 11


async def test_the_bound_is_as_it_is_set(store: str) -> None:
    async with papers(store, query_bytes=KIB * KIB) as engine:
        for _ in range(10):
            receipt = await engine.execute(Add("a", 10))
        await engine.query(Ask("count"), at=receipt)
        for way in WAYS:
            assert await engine.query(Ask(way, 10)) == (1 if "group_concat" in way else 10)


async def test_an_onlooker_reads_no_more_at_once_either(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    onlooker = Onlooker(
        projections=[Papers], answers=[ask], store=store, limits=Limits(query_bytes=64 * KIB)
    )
    async with papers(store) as engine, onlooker:
        for _ in range(10):
            receipt = await engine.execute(Add("a", 10))
        assert await engine.query(Ask("find", 10), at=receipt) == 10
        with pytest.raises(UsageError, match=r"Limits\.query_bytes"):
            await onlooker.query(Ask("find", 10))


async def test_the_answers_that_are_watched_are_weighed() -> None:
    async with papers("memory:", watched_bytes=10 * KIB) as engine:
        receipt = await engine.execute(Add("a", 1))
        await engine.query(Ask("count"), at=receipt)
        first = engine.watch(Watch(6 * KIB))
        assert len(await anext(first)) == 6 * KIB
        with pytest.raises(Overloaded, match=r"10240 bytes \(Limits\.watched_bytes\)"):
            await anext(engine.watch(Watch(5 * KIB)))
        # All who watch one query share its answer, and who leaves makes room.
        async with aclosing(engine.watch(Watch(6 * KIB))) as same:
            assert await anext(same) == "x" * 6 * KIB
        await first.aclose()
        async with aclosing(engine.watch(Watch(5 * KIB))) as second:
            assert len(await anext(second)) == 5 * KIB
            async with aclosing(engine.watch(Watch(4 * KIB, "other"))) as third:
                assert len(await anext(third)) == 4 * KIB
        assert engine._wiring.live._weight == 0


async def test_a_watch_whose_answer_grows_beyond_the_bound_ends() -> None:
    async with papers("memory:", watched_bytes=10 * KIB) as engine:
        receipt = await engine.execute(Add("a", 1))
        await engine.query(Ask("count"), at=receipt)
        watched = engine.watch(Watch(6 * KIB))
        await anext(watched)
        await engine.execute(Add("a", 1))
        with pytest.raises(Overloaded, match="to Watch the answers of 1 watched queries"):
            await anext(watched)
        assert engine._wiring.live._weight == 0
