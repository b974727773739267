"""Two releases that declare other projections share a log: each serves what the owner keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Meta,
    Projection,
    ProjectionUnserved,
    Query,
    Row,
    Table,
    Views,
    answers,
    projects,
)
from engine.integrations.problems import problem_of
from engine.members.reading import MemberViews
from engine.members.roster import who_shares
from engine.members.serving import Serving
from engine.members.wire import Welcome
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend
from tests.members.joining import part
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTallies, GetTally, Tallies, Tally, get_tallies, get_tally
from tests.support.waiting import until


class Sum(Row, key="counter"):
    counter: str
    total: int


class SumBefore(Row, key="counter"):
    counter: str
    added: int


class GetSum(Query[int]):
    counter: str


class GetSumBySql(Query[int]):
    counter: str


class GetSumByAnySql(Query[int]):
    counter: str


def folding(row: type[Any], version: int) -> type[Any]:
    """Give a release's projection of sums."""

    class Sums(Projection, name="sums", version=version):
        rows: Table[row]  # type: ignore[valid-type]

        @projects
        def added(self, event: Added, meta: Meta) -> None:
            old: Any = self.rows.get(meta.id)
            before = 0 if old is None else next(iter(fields(old)[1:]))
            self.rows.put(row(meta.id, before + event.amount))

    return Sums


def fields(row: Any) -> list[Any]:
    return [getattr(row, name) for name in row.__struct_fields__]


Newer, Older = folding(Sum, 2), folding(SumBefore, 1)


def asking(sums: type[Any], column: str) -> list[Callable[..., Any]]:
    """Give a release's answers: two that read its sums, and two that do not."""

    @answers
    async def get_sum(query: GetSum, views: Views) -> int:
        row = await views.get(sums.rows, query.counter)
        return 0 if row is None else int(getattr(row, column))

    @answers(projections=[sums])
    async def get_sum_by_sql(query: GetSumBySql, views: Views) -> int:
        found = await views.sql(f"SELECT sum({column}) FROM sums_rows")
        return int(found[0][0] or 0)

    @answers
    async def get_sum_by_any_sql(query: GetSumByAnySql, views: Views) -> int:
        found = await views.sql(f"SELECT sum({column}) FROM sums_rows")
        return int(found[0][0] or 0)

    return [get_sum, get_sum_by_sql, get_sum_by_any_sql, get_tally, get_tallies]


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"sqlite:{tmp_path}/log.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema(), "lease=20")


def newer(store: str, **options: Any) -> Engine:
    projections: list[Any] = [Tallies, Newer]
    return Engine(
        [Counter],
        projections=projections,
        answers=asking(Newer, "total"),
        store=store,
        join=True,
        release="shop 42",
        **options,
    )


def older(store: str, *, with_sums: bool = True) -> Engine:
    projections: list[Any] = [Tallies, Older] if with_sums else [Tallies]
    return Engine(
        [Counter],
        projections=projections,
        answers=asking(Older, "added") if with_sums else [get_tally, get_tallies],
        store=store,
        join=True,
        release="shop 41",
    )


@pytest.mark.parametrize("with_sums", [True, False])
async def test_a_member_with_other_projections_does_what_needs_none_of_them(
    store: str, with_sums: bool
) -> None:
    kept = 1 if with_sums else None
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        owner = await stack.enter_async_context(older(store, with_sums=with_sums))
        member = await stack.enter_async_context(newer(store))
        receipt = await member.execute(Add("c", 5))

        assert await member.query(GetTally("c"), at=receipt) == Tally("c", 5, 1)
        assert await member.query(GetTallies(), at=receipt) == [Tally("c", 5, 1)]
        tallies = await stack.enter_async_context(aclosing(member.watch(GetTally("c"))))
        assert await anext(tallies) == Tally("c", 5, 1)
        for query in (GetSum("c"), GetSumBySql("c")):
            for at in (None, receipt):
                with pytest.raises(ProjectionUnserved) as unserved:
                    await member.query(query, at=at)
                error = unserved.value
                assert (error.projection, error.release, error.kept) == ("sums", "shop 41", kept)
                assert "'sums'" in str(error)
                assert "'shop 41'" in str(error)
                assert problem_of(error).code == "views-of-another-release"
        watch = await stack.enter_async_context(aclosing(member.watch(GetSum("c"))))
        with pytest.raises(ProjectionUnserved, match="'shop 41'"):
            await anext(watch)
        if with_sums:
            assert await owner.query(GetSum("c"), at=receipt) == 5


async def test_each_release_serves_its_views_where_it_owns_the_log_and_none_that_stand_still(
    store: str,
) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        former = older(store)
        await former.__aenter__()
        await former.execute(Add("c", 5))
        successor = await stack.enter_async_context(newer(store, rebuild="auto"))
        await former.__aexit__(None, None, None)
        await until(lambda: part(successor).role == "owner")
        receipt = await successor.execute(Add("c", 2))
        assert await successor.query(GetTally("c"), at=receipt) == Tally("c", 7, 2)
        assert await swapped(successor) == 7

        # The tables of the former release may still be there, and nobody folds into them.
        member = await stack.enter_async_context(older(store))
        assert await member.query(GetTally("c"), at=receipt) == Tally("c", 7, 2)
        for query in (GetSum("c"), GetSumBySql("c")):
            with pytest.raises(ProjectionUnserved) as unserved:
                await member.query(query)
            assert (unserved.value.release, unserved.value.kept) == ("shop 42", 2)


async def test_tables_that_a_former_owner_has_left_are_not_read(store: str) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        async with older(store) as former:
            receipt = await former.execute(Add("c", 5))
            for query in (GetSum("c"), GetSumBySql("c"), GetSumByAnySql("c")):
                assert await former.query(query, at=receipt) == 5
        await stack.enter_async_context(older(store, with_sums=False))
        member = await stack.enter_async_context(older(store))
        receipt = await member.execute(Add("c", 2))
        assert await member.query(GetTally("c"), at=receipt) == Tally("c", 7, 2)
        for query in (GetSum("c"), GetSumBySql("c"), GetSumByAnySql("c")):
            with pytest.raises(ProjectionUnserved, match="does not keep it"):
                await member.query(query, at=receipt)


async def test_members_are_listed_with_what_they_run(store: str) -> None:
    async with AsyncExitStack() as stack:
        for engine in (older(store), newer(store), unnamed(store), unnamed(store)):
            await stack.enter_async_context(engine)
        found, _ = await who_shares(open_backend(store).outside(Ports()), 30.0)
        releases = [one.release for one in found]
        assert releases[:2] == ["shop 41", "shop 42"]
        assert releases[2] == releases[3]
        assert len(releases[2]) == 8


async def swapped(engine: Engine) -> int:
    """Give what the new tables have, as soon as they serve."""
    while True:
        with suppress(ProjectionUnserved):
            if (found := await engine.query(GetSum("c"))) == 7:
                return found
        await asyncio.sleep(0)


def unnamed(store: str) -> Engine:
    return Engine([Counter], projections=[Tallies], store=store, join=True)


async def test_an_owner_that_says_nothing_of_its_projections_is_taken_to_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    welcome = Serving._welcome
    store = f"sqlite:{tmp_path}/log.db"

    def silent(self: Serving, line: Any, hello: Any) -> None:
        send = line.send

        def without(message: Any) -> None:
            if isinstance(message, Welcome):
                message = Welcome(message.protocol, message.process, message.log_id)
            send(message)

        line.send = without
        welcome(self, line, hello)

    monkeypatch.setattr(Serving, "_welcome", silent)
    async with AsyncExitStack() as stack:
        for engine in (unnamed(store), older(store, with_sums=False)):
            await stack.enter_async_context(engine)
        receipt = await engine.execute(Add("c", 1))
        assert await engine.query(GetTally("c"), at=receipt) == Tally("c", 1, 1)


@pytest.mark.parametrize("release", ["", "a\nb", "x" * 65, 7])
def test_a_name_that_is_none_is_refused(release: Any, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="release="):
        Engine([Counter], store=f"sqlite:{tmp_path}/log.db", join=True, release=release)


def test_a_release_goes_with_join() -> None:
    with pytest.raises(DefinitionError, match="go with join=True"):
        Engine([Counter], release="shop 41")


@pytest.mark.parametrize("row", [SumBefore, Sum])
async def test_sql_reads_no_tables_of_the_former_version_while_the_new_ones_are_built(
    store: str, row: type[Any]
) -> None:
    async with older(store) as engine:
        await engine.query(GetSum("c"), at=await engine.execute(Add("c", 5)))
    changed = folding(row, 2)
    mended: list[Any] = [Tallies, changed]
    asked = asking(changed, row.__struct_fields__[-1])
    views = MemberViews(projections=mended, answers=asked, store=store)
    views.leave_out({}, misfits=True)  # as where the owner is of this release, and builds
    queries = [GetSumBySql("c")] if row is Sum else [GetSumBySql("c"), GetSumByAnySql("c")]
    async with views:
        assert await views.query(GetTally("c")) == Tally("c", 5, 1)
        for query in queries:
            with pytest.raises(ProjectionUnserved, match="'sums' is being built"):
                await views.query(query)
            async with aclosing(views.watch(query)) as watch:
                with pytest.raises(ProjectionUnserved, match="'sums' is being built"):
                    await anext(watch)
